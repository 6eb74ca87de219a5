"""Truncated models: ranks, sizes and errors against literal counts."""

import pytest
import torch
from layer_cases import SAME, batch, off, truncated
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


def test_the_table_counts():
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4)).double()
    found = rl.nn.compress(net, rank=4)
    assert list(found.table.layer.values) == ["0", "2"]
    assert found.table.rank_kept.values.tolist() == [4, 4]  # the second would cost 4 (20 + 4) > 80, and stays
    assert found.table.parameters_kept.values.tolist() == [4 * 50, 80]
    assert isinstance(found.model[2], nn.Linear)
    assert torch.equal(found.model[2].weight, net[2].weight)
    assert sum(p.numel() for p in found.model.parameters()) == found.table.model_parameters_kept
    assert sum(p.numel() for p in net.parameters()) == found.table.model_parameters
    weight = net[0].weight.detach()
    removed = truncated(weight, 4) - weight
    assert float(found.table.error[0]) == pytest.approx(float(removed.norm() / weight.norm()), rel=SAME)
    assert float(found.table.error[1]) == 0


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 0.7])
def test_a_tolerance_is_kept(tolerance):
    net = nn.Linear(40, 40).double()
    found = rl.nn.compress(net, tolerance=tolerance)
    assert float(found.table.error.max()) <= tolerance + SAME
    with torch.no_grad():
        net.weight.copy_(truncated(net.weight, 5))
    assert int(rl.nn.compress(net, tolerance=1e-6).table.rank_kept[0]) == 5


def test_a_budget_is_met_and_used():
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)).double()
    sizes = {}
    for budget in (0.2, 0.5, 0.9):
        found = rl.nn.compress(net, budget=budget)
        sizes[budget] = sum(p.numel() for p in found.model.parameters()) / found.table.model_parameters
        assert budget - 0.06 < sizes[budget] <= budget  # a component of both layers is 5%
    with pytest.raises(ValueError, match="even rank 1 everywhere"):
        rl.nn.compress(net, budget=0.01)


def test_composed_layers_are_cut():
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(20, 20)).double().eval(), init=0.1)
    found = rl.nn.compress(deep, energy=0.5)
    weight = truncated(deep[0].weight, int(found.table.rank_kept[0]))
    x = batch(2, 20)
    assert off(found.model(x), nn.functional.linear(x, weight, deep[0].bias)) <= SAME
    assert not found.model[0].training


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one of"),
        ({"rank": 2, "energy": 0.5}, "exactly one of"),
        ({"rank": 0}, "rank is 0"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"budget": float("nan")}, "budget is nan"),
    ],
)
def test_what_makes_no_sense(settings, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.compress(nn.Linear(3, 3), **settings)


def test_what_a_batch_says():
    net = nn.Sequential(nn.Conv2d(2, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 32), nn.Dropout())
    net = net.double().requires_grad_(False)
    x = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rl.nn.compress(net, rank=2, batch=x)
    assert found.table.multiply_adds.values.tolist() == [3 * 4 * 16 * 18, 3 * 64 * 32]
    assert found.table.multiply_adds_kept.values.tolist() == [3 * 4 * 2 * 34, 3 * 2 * 96]
    assert list(found.table["shape"].values) == ["16 x 2 x 3 x 3", "32 x 64"]
    expected, small = net.eval()(x), found.model.eval()(x)
    assert found.table.attrs["output_error"] == pytest.approx(float((small - expected).norm() / expected.norm()))
    first = (found.model[0](x) - net[0](x)).norm() / net[0](x).norm()
    assert float(found.table.output_error[0]) == pytest.approx(float(first.detach()))
    whole = rl.nn.compress(net, energy=1.0, batch=(x,))
    assert whole.table.attrs["output_error"] <= SAME
    with pytest.raises(TypeError, match="gives a tuple"):
        rl.nn.compress(Pair(), rank=1, batch=x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5).double()

    def forward(self, x):
        return self.layer(x), x


def test_pareto_scores_what_it_makes():
    net = nn.Linear(20, 20).double()
    found = rl.nn.pareto(net, lambda model: sum(p.numel() for p in model.parameters()), energies=(1.0, 0.3))
    assert found.score.values.tolist() == found.parameters.values.tolist()
    assert found.attrs == {"parameters": 420, "score_plain": 420.0}
    assert float(found.parameters[1]) < 420


def test_tolerances_are_kept_to_the_last_digit():
    layer = nn.Linear(8, 8, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0] + [1e-7] * 7)))
    for tolerance in (1e-8, 1e-7, 2.7e-7):
        table = rl.nn.compress(layer, tolerance=tolerance).table
        assert float(table.error[0]) <= tolerance
