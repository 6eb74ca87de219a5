"""The law of a bond along a flow, the error that compares rates, and quantities that are evaluated now and then."""

import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.kit import laws, records

TARGET = rl.targets.cp((3, 3, 3), 1, seed=0)
TASK = rl.Completion.sample(TARGET, observed=27)


def test_rates_are_compared_relative_to_their_size_and_nan_stays():
    measured = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    assert float(laws.law_error(measured, measured)) == 0.0
    assert float(laws.law_error(torch.zeros(2), torch.zeros(2))) == 0.0
    off = torch.tensor([2.2, 0.0, -1.0], dtype=torch.float64)
    assert float(laws.law_error(off, measured)) == pytest.approx(0.2 / 2.002)
    assert math.isnan(float(laws.law_error(torch.tensor([math.nan, 0.0, -1.0]), measured)))


def test_a_quantity_is_evaluated_in_every_third_row():
    calls = []
    tracked = laws.Sometimes(3, lambda net: calls.append(net) or torch.tensor([1.0, 2.0]))
    net = rl.cp((2, 2, 2), 1)
    found = [tracked(net) for _ in range(7)]
    assert len(calls) == 3
    assert [bool(torch.isnan(x).all()) for x in found] == [False, True, True, False, True, True, False]
    assert all(x.shape == (2,) for x in found)


def test_the_law_of_components_is_that_of_the_flow(tolerance):
    """The law is exact from any start, balanced or not; a law of another bond order would be far off."""
    net = rl.cp((3, 3, 3), 2, std=0.5, seed=1)
    assert float(laws.component_law(TASK, "r")(net).detach()) < tolerance["difference"]


def test_drift_is_the_change_since_the_first_call(tolerance):
    """Scaling one node by c changes its squared slice norms, and so the differences between nodes."""
    net = rl.cp((3, 3, 3), 2, std=0.5, seed=1)
    tracked = laws.drift(net)
    assert float(tracked(net).detach()) == 0.0
    before = net.slice_norms("r").detach().clone()
    with torch.no_grad():
        net.nodes[0].mul_(1.5)
    tracked.calls = 0
    after = net.slice_norms("r").detach()
    expected = (1.5**2 - 1) * float(before[0].max()) ** 2 / float(after.max()) ** 2
    assert float(tracked(net).detach()) == pytest.approx(expected, rel=tolerance["difference"])


def flown(poisoned=None):
    """A gathered record of two seeds; one evaluated value of the variable `poisoned` is NaN."""
    runs = []
    for seed in (0, 1):
        net = rl.cp((3, 3, 3), 2, std=0.3, seed=seed)
        track = {"error": TASK.error, "law_error": laws.component_law(TASK, "r"), "drift": laws.drift(net)}
        runs.append(rl.gradient_flow(net, TASK, until_time=1.0, track=track))
    record = records.gather(runs, [0, 1])
    if poisoned == "error":
        last = records.rows(record, 1).sizes["row"] - 1
        record["error"][1, last] = np.nan
    elif poisoned is not None:
        record[poisoned][1, 0] = np.nan
    return record


def test_claims_of_a_flow_hold_and_fail_with_one_nan():
    clean = flown()
    assert laws.law_claim(clean, "component norms", "own").holds
    assert laws.drift_claim(clean, 1e-6, "Differences", "own").holds
    assert not laws.law_claim(flown("law_error"), "component norms", "own").holds
    assert not laws.drift_claim(flown("drift"), 1e-6, "Differences", "own").holds
    for of in ("largest", "median"):
        assert math.isfinite(laws.recovery_claim(clean, of, "own").measured)
        assert math.isnan(laws.recovery_claim(flown("error"), of, "own").measured)
