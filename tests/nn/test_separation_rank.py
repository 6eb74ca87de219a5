"""On circuits the table's rank is that of the matricization; sums couple nothing; profiles end where kernels do."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ranklens as rl
from ranklens import seeds

pytestmark = pytest.mark.usefixtures("initial_values")
PARTITIONS = [list(s) for n in range(1, 4) for s in itertools.combinations(range(4), n)]


def inputs(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=seeds.stream(seed, "inputs of a test"), dtype=torch.float64)


def positions(modes, count):
    return torch.isin(torch.arange(count), torch.tensor(modes))[:, None]


@pytest.mark.parametrize("modes", PARTITIONS, ids=str)
@pytest.mark.parametrize("family", ["cp", "adjacent", "distant"])
def test_circuits_have_the_rank_of_their_matricization(family, modes):
    """Every partition of four modes of three values; 30 random templates span what three modes can hold, 27."""
    if family == "cp":
        net = rl.cp((3, 3, 3, 3), rank=2, std=1.0)
    else:
        net = rl.hierarchical((3, 3, 3, 3), width=2, tree=getattr(rl.ModeTree, family)(4), std=1.0)
    found = rl.nn.separation_rank(rl.nn.circuit(net), inputs(30, 4, 3), positions(modes, 4), templates=30, centre=False)
    T = net.tensor().detach()
    assert int(found.rank) == int(rl.numerical_rank(rl.matricize(T, modes), rtol=1e-12))
    assert int(found.rank) <= rl.theory.min_cut_bound(net, modes)


@settings(max_examples=10)
@given(st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_random_circuits_too(width, modes, seed):
    net = rl.hierarchical((2,) * 6, width=width, std=1.0, seed=seed)
    found = rl.nn.separation_rank(
        rl.nn.circuit(net), inputs(40, 6, 2, seed=seed), positions(modes, 6), templates=40, centre=False
    )
    assert int(found.rank) == int(rl.numerical_rank(rl.matricize(net.tensor().detach(), modes), rtol=1e-12))


def test_effective_rank_and_entanglement_are_those_of_the_table(tolerance):
    """One-hot templates make the table the matricization itself."""
    net = rl.hierarchical((4, 4), width=3, std=1.0)
    x = torch.eye(4, dtype=torch.float64)[:, None].expand(4, 2, 4)
    found = rl.nn.separation_rank(rl.nn.circuit(net), x, positions([0], 2), centre=False)
    T = net.tensor().detach()
    assert torch.allclose(found.spectrum, rl.singular_values(T), rtol=tolerance["rounding"], atol=1e-14)
    assert float(found.effective_rank) == pytest.approx(float(rl.effective_rank(T)), rel=tolerance["rounding"])
    assert float(found.entanglement) == pytest.approx(float(rl.entanglement_entropy(T, [0])), rel=tolerance["rounding"])


def test_sums_couple_nothing_and_products_are_centred():
    x, left = inputs(20, 6), torch.arange(6) < 2

    def apart(x):
        return x[:, :2].exp().sum(dim=1) + x[:, 2:].cos().sum(dim=1)

    def product(x):
        return x[:, 0] * x[:, 3]

    found = rl.nn.separation_rank(apart, x, left)
    assert [float(v) for v in (found.rank, found.effective_rank, found.interaction, found.share)] == [0, 0, 0, 0]
    assert int(rl.nn.separation_rank(apart, x, left, centre=False).rank) == 2
    found = rl.nn.separation_rank(product, x, left)
    assert int(found.rank) == 1
    expected = x[:, 0].std(correction=0) * x[:, 3].std(correction=0)
    assert float(found.interaction) == pytest.approx(float(expected))
    assert 0 < float(found.share) <= 1
    constant = rl.nn.separation_rank(lambda x: torch.ones(len(x)), x, left)
    assert float(constant.share) == float(constant.interaction) == 0


def test_the_rest_is_as_in_the_first_input():
    x = inputs(5, 6)
    x[:, 5] = torch.arange(5.0)
    here, there = torch.arange(6) == 0, torch.arange(6) == 1
    found = rl.nn.separation_rank(lambda x: x[:, 0] * x[:, 1] * x[:, 5], x, here, against=there)
    assert float(found.interaction) == 0
    x[0, 5] = 2.0
    assert float(rl.nn.separation_rank(lambda x: x[:, 0] * x[:, 1] * x[:, 5], x, here, against=there).interaction) > 0


def test_one_number_per_output_and_modes_are_put_back():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = rl.nn.separation_rank(model, inputs(9, 1, 6, 6), (0, 0, 3, 3), against=(3, 3, 3, 3), templates=8)
    assert found.rank.shape == found.share.shape == (3,)
    assert found.spectrum.shape == (3, 8)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input_is_named():
    x, model = inputs(6, 1, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    whole, part = (0, 0, 4, 4), (0, 0, 2, 2)
    for args, change, message in (
        ((x[:1], part), {}, "a table has two of each at least"),
        ((x, part), {"templates": 1}, "a table has two"),
        ((x, whole), {}, "is the whole input"),
        ((x, part), {"against": (1, 1, 2, 2)}, "overlap"),
        ((x, (3, 3, 2, 2)), {}, r"region is the box \(3, 3, 2, 2\)"),
        ((x, (0, 0, 2)), {}, "give a box"),
        ((x * float("nan"), part), {}, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nn.separation_rank(model, *args, **change)


def test_profiles_end_where_kernels_do():
    """Two layers of 3 x 3 before a mean couple what a 5 x 5 window covers: pixels with at most three between."""
    local = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh()]
    model = nn.Sequential(*local, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    found = rl.nn.locality_profile(model, inputs(30, 1, 12, 12), size=1, pairs=12)
    assert found.distance.values.tolist() == list(range(11))
    for network in ("trained", "random"):
        values = found.interaction.sel(network=network).values
        assert (values[:4] > 0).all()
        assert (values[4:] == 0).all()
    assert (found.share >= 0).all()
    assert (found.share <= 1).all()
    assert (found.effective_rank.sel(distance=slice(4, None)) == 0).all()


def test_profiles_repeat_and_show_training():
    x = inputs(40, 1, 8, 8).float()
    product = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))
    before = {name: value.clone() for name, value in product.state_dict().items()}
    first, again = (rl.nn.locality_profile(product, x, size=2, distances=[0, 4], pairs=3) for _ in range(2))
    assert first.identical(again)
    assert all(torch.equal(value, before[name]) for name, value in product.state_dict().items())
    for parameter in product.parameters():
        parameter.data *= 5
    trained = rl.nn.locality_profile(product, x, size=2, distances=[0, 4], pairs=3)
    assert trained.interaction.sel(network="random").equals(first.interaction.sel(network="random"))
    assert (trained.interaction.sel(network="trained") > first.interaction.sel(network="trained")).all()
    assert rl.nn.locality_profile(product, x, control=False, pairs=1).network.values.tolist() == ["trained"]


def test_the_control_may_be_ones_own_and_batches_change_nothing():
    model, own = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(2))
    x = inputs(20, 1, 8, 8).float()
    found = rl.nn.locality_profile(model, x, pairs=2, control=own)
    swapped = rl.nn.locality_profile(own, x, pairs=2, control=model, batch_size=3)
    for name in ("interaction", "share", "effective_rank"):
        one, other = found[name].sel(network="trained"), swapped[name].sel(network="random")
        assert np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_and_its_rounding_is_no_rank(dtype):
    x = inputs(20, 6).to(dtype)
    found = rl.nn.separation_rank(lambda x: x[:, 0] * x[:, 3], x, torch.arange(6) < 2)
    assert int(found.rank) == 1
    assert float(found.share) > 0


def test_parameters_without_a_module_that_resets_them_are_drawn_anew():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((64,), 3.0))

        def forward(self, x):
            return (x.flatten(1) * self.weight).sum(dim=1).square()

    found = rl.nn.locality_profile(Own(), inputs(10, 1, 8, 8).float(), pairs=2)
    assert (found.interaction > 0).all()


def test_profiles_are_drawn_and_refuse_what_has_no_room():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), inputs(10, 1, 8, 8).float()
    made = rl.plot(rl.nn.locality_profile(model, x, pairs=1))
    assert made.axes[0].get_title(loc="left") == "interaction"
    assert {line.get_label() for line in made.axes[0].lines} == {"trained", "random"}
    for change, message in (
        ({"data": x[:1]}, "give two images"),
        ({"pairs": 0}, "0 pairs"),
        ({"size": 7}, "there is no distance at which two patches of 7 x 7 fit 8 x 8"),
        ({"distances": [9]}, "has no room"),
        ({"distances": []}, "there is no distance"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nn.locality_profile(model, **{"data": x, **change})
