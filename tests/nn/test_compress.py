"""Truncated layers against the truncated weights, and their numbers against literal counts."""

import pytest
import torch
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


def batch(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def truncated(weight, rank):
    """The nearest weight of a rank."""
    U, s, Vh = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ Vh[:rank]).reshape(weight.shape)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(20, 16), (3, 20)),
        (lambda: nn.Linear(20, 16, bias=False), (3, 20)),
        (lambda: nn.Conv1d(6, 16, 3, stride=2, padding=1), (2, 6, 9)),
        (lambda: nn.Conv2d(6, 16, 3, dilation=2, padding="same", padding_mode="circular"), (2, 6, 7, 8)),
        (lambda: nn.Conv3d(4, 16, (1, 3, 2), padding=(0, 1, 1)), (1, 4, 3, 4, 5)),
    ],
)
def test_two_layers_are_the_truncated_one(make, shape):
    layer, x = make().double(), batch(*shape)
    small = rl.nn.compress(layer, rank=3).model
    assert isinstance(small, nn.Sequential)
    with torch.no_grad():
        layer.weight.copy_(truncated(layer.weight, 3))
    assert torch.allclose(small(x), layer(x), atol=1e-12)


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
    off = truncated(weight, 4) - weight
    assert float(found.table.error[0]) == pytest.approx(float(off.norm() / weight.norm()), rel=1e-9)
    assert float(found.table.error[1]) == 0


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 0.7])
def test_a_tolerance_is_kept(tolerance):
    net = nn.Linear(40, 40).double()
    found = rl.nn.compress(net, tolerance=tolerance)
    assert float(found.table.error.max()) <= tolerance + 1e-9
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


def test_what_is_left_alone():
    """Groups, weights that are shared, attention, and layers that would not get smaller."""
    tied = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Linear(20, 20)})
    tied["b"].weight = tied["a"].weight
    net = nn.ModuleDict(
        {
            "tied": tied,
            "groups": nn.Conv2d(8, 8, 3, groups=2),
            "attention": nn.MultiheadAttention(16, 2),
            "linear": nn.Linear(20, 20),
        }
    )
    found = rl.nn.compress(net, rank=1)
    assert list(found.table.layer.values) == ["linear"]
    assert found.model["tied"]["a"].weight is found.model["tied"]["b"].weight
    assert isinstance(net["linear"], nn.Linear)  # the argument is not changed


def test_composed_layers_are_cut():
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(20, 20)).double().eval(), init=0.1)
    found = rl.nn.compress(deep, energy=0.5)
    weight = truncated(deep[0].weight, int(found.table.rank_kept[0]))
    x = batch(2, 20)
    assert torch.allclose(found.model(x), nn.functional.linear(x, weight, deep[0].bias), atol=1e-12)
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
    assert whole.table.attrs["output_error"] <= 1e-12
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


@pytest.mark.parametrize("kind", ["cp", "hierarchical"])
def test_pruning_keeps_its_bound_and_what_is_zero_goes(kind):
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 2)).double()
    deep = rl.nn.overparameterize(net, kind=kind)
    with torch.no_grad():
        network = deep[0].composition.network
        rl.init.normal_(network, 0.5, seed=0)
        for k, axis in network.layout.meets(network.bonds[0]):
            network.nodes[k].movedim(axis, 0)[1:] *= 0.05 if kind == "cp" else 1e-4
    found = rl.nn.prune(deep, 0.01)
    table = found.table.sel(layer="0")
    assert 0 <= float(table.error) <= float(table.bound) <= 0.01
    assert int(table.components_kept) < int(table.components)
    x = torch.ones(1, 4, 5, 5, dtype=torch.float64)
    assert torch.allclose(found.model[0](x), deep[0](x), rtol=0.05, atol=0.02 * float(deep[0](x).detach().abs().max()))
    assert not torch.equal(found.model[0].weight, deep[0].weight)
    assert rl.nn.collapse(found.model)(x).shape == (1, 3, 2, 2)
    again = rl.nn.prune(deep, 0.0).table
    assert float(again.error.max()) <= 1e-12
    with pytest.raises(ValueError, match="tolerance is 2"):
        rl.nn.prune(deep, 2)
    with pytest.raises(ValueError, match="no layer is a tensor factorization"):
        rl.nn.prune(rl.nn.overparameterize(net), 0.1)


def test_cut_layers_answer_for_the_ones_that_they_replace(tolerance):
    """As torch's transformer layers ask them, in training and out of it."""
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).double().eval()
    x = torch.linspace(-1, 1, 96, dtype=torch.float64).sin().reshape(2, 3, 16)
    whole = rl.nn.compress(layer, rank=12, batch=x)
    small = whole.model
    assert isinstance(small.linear1, nn.Sequential)
    assert (small.linear1.in_features, small.linear1.out_features) == (16, 64)
    assert torch.allclose(small.linear1.weight @ x[0].T, small.linear1[1].weight @ small.linear1[0](x[0]).T)
    with torch.no_grad():
        fast = small(x)
    assert torch.allclose(fast, small(x), atol=1e-10)
    conv = rl.nn.compress(nn.Conv2d(8, 8, 3, padding=1).double(), rank=2).model
    image = torch.ones(1, 8, 5, 5, dtype=torch.float64)
    again = nn.functional.conv2d(image, conv.weight, conv.bias, padding=1)
    assert torch.allclose(again, conv(image), rtol=tolerance["rounding"])


def test_shared_layers_are_cut_wherever_they_stand():
    layer = nn.Linear(20, 20)
    small = rl.nn.compress(nn.Sequential(layer, nn.ReLU(), layer), rank=2)
    assert small.model[0] is small.model[2]
    assert small.table.attrs["model_parameters_kept"] == sum(p.numel() for p in small.model.parameters()) == 100


def test_tolerances_are_kept_to_the_last_digit():
    layer = nn.Linear(8, 8, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0] + [1e-7] * 7)))
    for tolerance in (1e-8, 1e-7, 2.7e-7):
        table = rl.nn.compress(layer, tolerance=tolerance).table
        assert float(table.error[0]) <= tolerance


def test_frozen_biases_stay_frozen_and_named_arguments_are_passed():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(20, 20)
            self.f.bias.requires_grad_(False)

        def forward(self, x):
            return self.f(input=x)

    small = rl.nn.compress(Named(), rank=2, batch=torch.ones(2, 20))
    assert not small.model.f.bias.requires_grad
    assert small.model.f[1].weight.requires_grad
