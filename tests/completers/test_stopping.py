import pytest
import torch

from ranklens.completers.stopping import GROWS, OVERFITTED, WAIT, Evaluation, StoppingRule

EVERY = 25


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
