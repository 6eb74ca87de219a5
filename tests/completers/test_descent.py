import math

import numpy as np
import pytest
import torch
from completion_cases import everything, observed, planted, relative_error

import ranklens as rl
from ranklens.completers.descent import ESCAPED, EVERY, LEAST_WAIT, Evaluation, StoppingRule, _batches, descend


def follow(rule, losses):
    """Give a rule the (train, held-out) losses of successive evaluations; return the step and reason of its stop."""
    for k, (train, held_out) in enumerate(losses):
        reason = rule.reason(Evaluation(k * EVERY, train, held_out))
        if reason is not None:
            return k * EVERY, reason
    return None


@pytest.mark.parametrize("escape", [10, 100])
def test_patience_is_counted_from_where_the_plateau_was_left(escape):
    """The held-out loss never improves; the run still goes on for `patience` times the length of the plateau."""
    losses = [(1.0, 1.0)] * escape + [(0.5, 1.0)] * 1000
    stop, reason = follow(StoppingRule(patience=3.0), losses)
    assert reason == "held-out"
    assert stop == 3 * escape * EVERY + (LEAST_WAIT + 1) * EVERY


def test_a_plateau_is_waited_out_however_long_it_is():
    assert follow(StoppingRule(patience=1.0), [(1.0, 1.0 + k) for k in range(1000)]) is None


def test_improvements_reset_patience_if_they_are_large_enough():
    """Halving the held-out loss resets patience; gains below a percent, or below a thousandth of the first, do not."""
    for k, later in ((5, 0.496), (5, 0.5)):
        losses = [(1.0, 1.0)] + [(0.5, 1.0)] * (k - 1) + [(0.5, 0.5)] + [(0.5, later)] * 1000
        assert follow(StoppingRule(patience=2.0), losses) == ((2 * k + LEAST_WAIT + 1) * EVERY, "held-out")
    small = [(0.5, 1e-4 * 0.5**k) for k in range(1000)]
    assert follow(StoppingRule(patience=2.0), [(1.0, 1.0), *small]) == ((2 + LEAST_WAIT + 1) * EVERY, "held-out")


def test_fitted_data_end_the_descent():
    assert follow(StoppingRule(patience=100.0), [(1.0, 1.0), (1e-7, 1.0)]) == (EVERY, "fitted")


def test_a_descent_whose_held_out_error_only_grows_goes_on_after_a_late_escape():
    """Held-out values of the opposite sign: the best step is 0, and all patience comes from the plateau."""
    X, _ = planted((30, 30), 1, 0.6)
    train, held_out = observed(X).split(0.1, 0)
    net = rl.init.scaled_(rl.deep_matrix((30, 30), 3, 4), 1e-9)
    found = descend(net, train, held_out.times(-1.0), lr=2e-3, steps=8000, patience=2.0)
    loss, step = found.profile.train_loss.values, found.profile.step.values
    escape = int(step[(loss < ESCAPED * loss[0]).argmax()])
    assert found.step < escape
    assert found.stopped == "held-out"
    assert escape > 2 * LEAST_WAIT * EVERY
    assert step[-1] == 2 * escape + (LEAST_WAIT + 1) * EVERY


def test_the_plateau_of_a_tiny_initialization_does_not_end_the_descent():
    """The loss rests for longer than any patience in steps, and the held-out error is best at step 0 all that time."""
    X, target = planted((40, 40), 1, 0.5)
    train, held_out = observed(X).split(0.1, 0)
    net = rl.init.scaled_(rl.deep_matrix((40, 40), 3, 4), 1e-12)
    found = descend(net, train, held_out, lr=2e-3, steps=8000, patience=2.0)
    loss = found.profile.train_loss.values
    resting = int((loss > 0.99 * loss[0]).sum()) * EVERY
    assert resting > 4 * LEAST_WAIT * EVERY
    assert found.stopped in ("held-out", "fitted")
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
    for kept in (found.best, net):
        off = float((kept.entries(held_out.indices) - held_out.values).detach().square().mean())
        assert off == pytest.approx(found.held_out, rel=tolerance["rounding"])
    off = float((found.last.entries(held_out.indices) - held_out.values).detach().square().mean())
    assert off == pytest.approx(float(found.profile.held_out_loss[-1]), rel=tolerance["rounding"])


def test_a_loss_that_is_not_finite_stops_the_descent():
    net = rl.cp((3, 3), 2, std=1.0)
    whole = everything(net.tensor())
    train = whole.times(math.inf)
    assert descend(net, whole, whole, lr=1e-2, steps=100, patience=2.0).stopped in ("fitted", "held-out", "steps")
    assert descend(net, train, whole, lr=1e-2, steps=100, patience=2.0).stopped == "nan"


def test_mini_batches_take_every_entry_once_per_pass():
    X, _ = planted((6, 5), 1, 1.0)
    batches = _batches(observed(X), 10, 0)
    passes = [torch.cat([next(batches).indices for _ in range(3)]).tolist() for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == np.argwhere(np.ones((6, 5))).tolist()
    assert passes[0] != passes[1]
