import pytest
import torch
from completion_cases import everything, observed, planted, relative_error

import ranklens as rl
from ranklens.completers.descent import (
    ESCAPED,
    EVERY,
    GROWS,
    OVERFITTED,
    WAIT,
    Evaluation,
    StoppingRule,
    _batches,
    descend,
)
from ranklens.completers.start import aligned_


def follow(rule, losses, growth=GROWS):
    """Give a rule the (train, held-out) losses of successive evaluations; return the step and reason of its stop.

    The only component grows by the factor `growth` from one evaluation to the next.
    """
    for k, (train, held_out) in enumerate(losses):
        component = torch.tensor([1e-4 * min(growth**k, 1e200)], dtype=torch.float64)
        reason = rule.reason(Evaluation(k * EVERY, train, held_out, [component]))
        if reason is not None:
            return k * EVERY, reason
    return None


@pytest.mark.parametrize("escape", [10, 100])
def test_patience_is_counted_from_where_the_plateau_was_left(escape):
    """The held-out loss never improves; the run still goes on for `patience` times the length of the plateau."""
    losses = [(1.0, 1.0)] * escape + [(0.5, 1.0)] * 1000
    stop, reason = follow(StoppingRule(patience=3.0), losses)
    assert reason == "held-out"
    assert stop == 3 * escape * EVERY + WAIT + EVERY


def test_a_plateau_is_waited_out_however_long_it_is():
    assert follow(StoppingRule(patience=1.0, overfitted=1.1), [(1.0, 1.0 + k) for k in range(1000)], 1.0) is None


def test_improvements_reset_patience_if_they_are_large_enough():
    """Halving the held-out loss resets patience; gains below a percent, or below a thousandth of the first, do not."""
    for k, later in ((5, 0.496), (5, 0.5)):
        losses = [(1.0, 1.0)] + [(0.5, 1.0)] * (k - 1) + [(0.5, 0.5)] + [(0.5, later)] * 1000
        assert follow(StoppingRule(patience=2.0), losses) == ((2 * k + 1) * EVERY + WAIT, "held-out")
    small = [(0.5, 1e-4 * 0.5**k) for k in range(1000)]
    assert follow(StoppingRule(patience=2.0), [(1.0, 1.0), *small]) == (3 * EVERY + WAIT, "held-out")


def test_fitted_data_end_the_descent():
    assert follow(StoppingRule(patience=100.0), [(1.0, 1.0), (1e-7, 1.0)]) == (EVERY, "fitted")


@pytest.mark.parametrize("worse", [OVERFITTED - 0.001, OVERFITTED + 0.001])
def test_overfitting_ends_the_descent_of_a_matrix(worse):
    """The held-out loss is least at the second evaluation and stays above it by a factor just below, or above, 1.02."""
    losses = [(1.0, 1.0), (0.5, 0.5)] + [(0.5, 0.5 * worse)] * 1000
    patient = (100 * EVERY + WAIT + EVERY, "held-out")
    assert follow(StoppingRule(100.0), losses) == patient
    found = follow(StoppingRule(100.0, OVERFITTED), losses)
    assert found == ((2 * EVERY + WAIT, "worse") if worse > OVERFITTED else patient)


@pytest.mark.parametrize("growth", [0.99, 1.02, 1.03])
def test_a_descent_whose_components_rest_has_settled(growth):
    """Growth by 2% per evaluation is 8.2% in 100 steps; growth by 3% is 12.6%, so that component is on its way."""
    losses = [(1.0, 1.0)] + [(0.5, 0.5)] * 1000
    found = follow(StoppingRule(100.0), losses, growth)
    assert found == ((2 * EVERY + WAIT, "settled") if growth < 1.025 else (101 * EVERY + WAIT, "held-out"))


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
    for widest, width in ((0, 2), (2, 2), (16, 16), (11, 11)):
        net = aligned_(rl.deep_matrix((40, 40), 3, 2, std=0.0), train, 1e-4)
        before = [node.detach().clone() for node in net.nodes]
        found = descend(net, train, held_out, lr=2e-2, steps=2000, patience=3.0, widest=widest)
        assert found.best.nodes[0].shape == (40, width)
        error = relative_error(found.best.tensor().detach(), target)
        assert error < 0.05 if width > 2 else error > 0.5
        assert all(torch.equal(node, old) for node, old in zip(net.nodes, before, strict=True))


def test_mini_batches_take_every_entry_once_per_pass():
    batches = _batches(30, 10, 0, torch.device("cpu"))
    passes = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(30))
    assert passes[0] != passes[1]
    assert next(_batches(30, 30, 0, torch.device("cpu"))) is None
