"""Truncated models: ranks, sizes and errors against literal counts."""

import pytest
import torch
from compression_cases import Encoder
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


LAYERS = {
    "linear": (lambda: nn.Linear(9, 16), (40, 9)),
    "without bias": (lambda: nn.Linear(24, 16, bias=False), (40, 24)),
    "padded": (lambda: nn.Conv2d(6, 16, 3, padding=1), (4, 6, 9, 8)),
    "strided": (lambda: nn.Conv2d(6, 16, 3, stride=2, dilation=2, padding=2), (4, 6, 12, 13)),
    "grouped": (lambda: nn.Conv1d(8, 24, 5, groups=2, padding="same", padding_mode="circular"), (4, 8, 11)),
    "multiplied": (lambda: nn.Conv2d(4, 32, 3, groups=4), (4, 4, 7, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 12, 3, stride=2, output_padding=1, groups=2), (3, 8, 6, 7)),
    "volume": (lambda: nn.Conv3d(4, 16, (1, 3, 2)), (2, 4, 3, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("directions", [None, 1])
def test_the_error_of_outputs_is_the_tail_of_their_spectrum(kind, directions):
    """Also for inputs that are multiples of one, whose covariance is singular."""
    make, shape = LAYERS[kind]
    layer, x = make().double(), batch(*shape) + 3
    if directions is not None:
        x = batch(shape[0], *(1 for _ in shape[1:]), seed=5) * batch(1, *shape[1:], seed=6) + 3
    y = layer(x).detach()
    groups = getattr(layer, "groups", 1)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    rows = y.movedim(axis, 0).reshape(groups, -1, y.numel() // y.shape[axis])
    spectrum = torch.linalg.svdvals(rows - rows.mean(-1, keepdim=True)).square()
    for rank in (1, 2):
        small = rl.nn.compress(layer, rank=rank, data=x)
        assert small.table.rank_kept.values.tolist() == [rank]
        error = float((small.model(x) - y).square().sum().detach())
        assert abs(error - float(spectrum[:, rank:].sum())) <= OPTIMAL * float(spectrum.sum())
        assert small.table.attrs["output_error"] == pytest.approx((error / float(y.square().sum())) ** 0.5, abs=SAME)
        by_weight = rl.nn.compress(layer, rank=rank, batch=x)
        assert by_weight.table.attrs["output_error"] >= small.table.attrs["output_error"] * (1 - SAME)


# Error of the best cut beyond the tail of the spectrum, as a share of the variance.
OPTIMAL = 1e-11


def test_data_change_nothing_in_the_model_that_is_given():
    model = Encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = rl.nn.compress(model, budget=0.7, data=torch.arange(24).reshape(4, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in small.model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    kept = sum(p.numel() for p in small.model.parameters())
    assert kept <= 0.7 * sum(p.numel() for p in model.parameters())
    assert str(small.table.sel(layer="head").reason.item()) == "it shares its weight with 'words'"


def test_layers_that_do_not_run_are_kept():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(20, 20), nn.Linear(20, 20)

        def forward(self, x):
            return self.used(x)

    small = rl.nn.compress(Half().double(), rank=2, data=batch(30, 20))
    assert str(small.table.sel(layer="unused").reason.item()) == "it did not run on the data"
    assert isinstance(small.model.unused, nn.Linear)
    assert int(small.table.sel(layer="unused").multiply_adds) == 0


def test_running_statistics_are_those_of_the_smaller_model():
    net = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20)).double().eval()
    x = batch(50, 20) + 2
    small = rl.nn.compress(net, rank=3, data=x, recalibrate=True).model
    hidden = small[0](x)
    assert off(small[1].running_mean, hidden.mean(0)) <= SAME
    assert off(small[1].running_var, hidden.var(0)) <= SAME
    assert torch.equal(net[1].running_mean, torch.zeros(20, dtype=torch.float64))


def test_wrappers_are_left_off():
    net = nn.Sequential(nn.Linear(20, 20)).double()
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net)):
        assert list(rl.nn.compress(wrapped, rank=2).table.layer.values) == ["0"]


def test_graphs_that_modules_keep_are_left_out_of_the_copy():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, x):
            self.last = self.layer(x)
            return self.last

    model = Remembering()
    model(torch.ones(2, 20))
    assert not rl.nn.compress(model, rank=2).model.last.requires_grad
    assert model.last.requires_grad
    model.lock = (k for k in range(3))
    with pytest.raises(ValueError, match="attribute 'lock' of module '' \\(Remembering\\) holds a generator"):
        rl.nn.compress(model, rank=2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"order": "sequential"}, "order needs data"),
        ({"per": "multiply_adds"}, "per needs data"),
        ({"importance": "equal"}, "importance needs data"),
        ({"recalibrate": True}, "recalibrate needs data"),
        ({"order": "random"}, "order is 'random'; choose one of sequential, outputs"),
        ({"per": "seconds"}, "per is 'seconds'"),
        ({"importance": "none"}, "importance is 'none'"),
    ],
)
def test_options_that_need_data_or_do_not_exist(settings, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.compress(nn.Linear(8, 8), budget=0.5, **settings)
