"""The effect of single layers on the output of a model."""

import pytest
import torch
from layer_cases import batch
from torch import nn

import ranklens as rl
from ranklens.nn.calibration import Runs, evaluating
from ranklens.nn.decomposition import by_weight, sites
from ranklens.nn.importance import PROBE, importances

pytestmark = pytest.mark.usefixtures("initial_values")
X = batch(60, 12)


class Loud(nn.Module):
    """Two layers beside each other, of which one counts a hundred times as much."""

    def __init__(self, returned=lambda y: y):
        super().__init__()
        self.loud, self.quiet, self.returned = nn.Linear(12, 12).double(), nn.Linear(12, 12).double(), returned

    def forward(self, x):
        return self.returned(100 * self.loud(x) + self.quiet(x))


def found_on(model, data):
    with evaluating(model):
        return importances(model, [by_weight(site) for site in sites(model)[0]], Runs(data))


def test_weights_are_ratios_of_errors():
    model = Loud()
    loud, quiet = found_on(model, [X[:20], X[20:]])
    assert loud > 50 * quiet
    layer = by_weight(sites(model)[0][0])
    rank = next(r for r in range(1, 13) if layer.errors()[r] <= PROBE)
    expected = model(X)
    weight, (first, last, _) = model.loud, layer.cut.factors(rank)
    changed = expected + 100 * X @ (last[0] @ first[0] - weight.weight).T
    ratio = (changed - expected).norm() / expected.norm() / layer.errors()[rank] ** 0.5
    assert loud == pytest.approx(float(ratio.detach()))
    assert type(model.loud) is nn.Linear  # put back


def test_a_budget_spares_the_layers_that_matter():
    model = Loud()
    equal = rl.nn.compress(model, budget=0.6, data=X, importance="equal").table
    assert abs(equal.rank_kept.values[0] - equal.rank_kept.values[1]) <= 1
    measured = rl.nn.compress(model, budget=0.6, data=X).table
    assert measured.rank_kept.values[0] > measured.rank_kept.values[1]
    assert measured.attrs["output_error"] < equal.attrs["output_error"]


def test_outputs_that_cannot_be_compared_weigh_all_layers_alike():
    model = Loud(returned=lambda y: (y,))
    found = rl.nn.compress(model, budget=0.6, data=X).table
    assert found.rank_kept.equals(rl.nn.compress(Loud(), budget=0.6, data=X, importance="equal").table.rank_kept)
    with pytest.raises(TypeError, match="gives a tuple"):
        rl.nn.compress(model, budget=0.6, data=X, importance="measured")


def test_a_single_layer_and_outputs_of_zero():
    assert found_on(nn.Linear(12, 12).double(), X)[0] > 0
    silent = nn.Sequential(nn.Linear(12, 12), nn.ReLU()).double()
    with torch.no_grad():
        silent[0].bias.fill_(-100)
    assert found_on(silent, X) == [1.0]
