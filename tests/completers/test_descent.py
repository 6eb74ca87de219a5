import itertools

import pytest
import torch
from completion_cases import everything, observed, planted, relative_error

import ranklens as rl
from ranklens.completers.descent import EPS, EVERY, MEMORY, _batches, _Trained, descend
from ranklens.completers.gradient import squared_error
from ranklens.completers.start import aligned_
from ranklens.completers.stopping import ESCAPED, WAIT


def test_a_descent_whose_held_out_error_only_grows_goes_on_until_after_its_plateau():
    """Held-out values of the opposite sign: the best step is 0, and the descent ends as soon as the rule allows."""
    X, _ = planted((30, 30), 1, 0.6)
    train, held_out = observed(X).split(0.1, 0)
    net = rl.init.scaled_(rl.deep_matrix((30, 30), 3, 4), 1e-9)
    found = descend(net, train, held_out.times(-1.0), lr=2e-3, steps=8000, patience=2.0)
    loss, step = found.profile.train_loss.values, found.profile.step.values
    escape = int(step[(loss < ESCAPED * loss[0]).argmax()])
    assert found.step < escape
    assert found.stopped == "worse"
    assert escape > 2 * WAIT
    assert step[-1] == escape + WAIT + EVERY


def test_steps_are_those_of_the_optimizer(tolerance):
    X, _ = planted((12, 9), 2, 0.6)
    train = observed(X)
    one, other = rl.deep_matrix((12, 9), 3, 4, std=0.3), rl.deep_matrix((12, 9), 3, 4, std=0.3)
    optimizer = rl.optim.GroupRMSprop(other.parameters(), lr=0.05, beta=MEMORY, eps=EPS)
    trained, wanted = _Trained(one, squared_error(one, train)), squared_error(other, train)
    for _ in range(5):
        trained.gradient()
        trained.step(0.05)
        wanted()
        for stack, part in zip(other.stacks, wanted.parts, strict=True):
            stack.grad = part.clone()
        optimizer.step()
    assert all(torch.allclose(a, b, rtol=tolerance["rounding"]) for a, b in zip(one.nodes, other.nodes, strict=True))


def test_the_plateau_of_a_tiny_initialization_does_not_end_the_descent():
    """The loss rests for longer than any patience in steps, and the held-out error is best at step 0 all that time."""
    X, target = planted((40, 40), 1, 0.5)
    train, held_out = observed(X).split(0.1, 0)
    net = rl.init.scaled_(rl.deep_matrix((40, 40), 3, 4), 1e-12)
    found = descend(net, train, held_out, lr=2e-3, steps=8000, patience=2.0)
    loss = found.profile.train_loss.values
    resting = int((loss > 0.99 * loss[0]).sum()) * EVERY
    assert resting > 4 * WAIT
    assert found.stopped in ("held-out", "fitted", "settled", "worse")
    assert found.held_out < 1e-2 * held_out.mean_square()
    assert relative_error(found.best.tensor().detach(), target) < 0.1


def test_the_best_network_is_that_of_the_least_held_out_error(tolerance):
    X, _ = planted((20, 20), 2, 0.6, noise=1.0)
    train, held_out = observed(X).split(0.2, 0)
    net = rl.init.scaled_(rl.deep_matrix((20, 20), 2), 1e-3)
    found = descend(net, train, held_out, lr=5e-2, steps=500, patience=50.0)
    losses = found.profile.held_out_loss.values
    assert found.held_out == losses.min()
    assert found.step == int(found.profile.step[losses.argmin()]) < int(found.profile.step[-1])
    off = float((found.best.entries(held_out.indices) - held_out.values).detach().square().mean())
    assert off == pytest.approx(found.held_out, rel=tolerance["rounding"])
    off = float((found.last.entries(held_out.indices) - held_out.values).detach().square().mean())
    assert off == pytest.approx(float(found.profile.held_out_loss[-1]), rel=tolerance["rounding"])


def test_a_loss_that_is_not_finite_stops_the_descent():
    """Steps of length 1e200 make the parameters overflow; the result is the network before them."""
    net = rl.cp((3, 3), 2, std=1.0)
    whole = everything(net.tensor() + 1.0)
    found = descend(net, whole, whole, lr=1e200, steps=100, patience=2.0)
    assert found.stopped == "nan"
    assert torch.equal(found.best.tensor(), net.tensor())


def test_a_deep_matrix_is_widened_when_half_of_its_components_have_grown(tolerance):
    """A target of rank 6 needs more than the 2 components of the beginning; without `widest` it gets no more."""
    X, target = planted((40, 40), 6, 0.9)
    train, held_out = observed(X).split(0.1, 0)
    for widest, width in ((0, 2), (11, 11)):
        net = aligned_(rl.deep_matrix((40, 40), 3, 2, std=0.0), train, 1e-4)
        before = [node.detach().clone() for node in net.nodes]
        found = descend(net, train, held_out, lr=2e-2, steps=2000, patience=3.0, widest=widest)
        assert found.best.nodes[0].shape == (40, width)
        error = relative_error(found.best.tensor().detach(), target)
        assert error < 0.05 if width > 2 else error > 0.5
        assert all(torch.equal(node, old) for node, old in zip(net.nodes, before, strict=True))


def test_mini_batches_take_every_entry_once_per_pass():
    batches = _batches(32, 5, 0)  # seven batches of four or five
    passes = [[list(range(32))[next(batches)] for _ in range(7)] for _ in range(2)]
    assert all(sorted(itertools.chain(*batches)) == list(range(32)) for batches in passes)
    assert {len(batch) for batch in passes[0]} == {4, 5}
    assert passes[0] != passes[1]
    assert next(_batches(30, 30, 0)) is None
