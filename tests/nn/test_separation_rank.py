"""On circuits the rank of the table is the rank of the matricization; sums couple nothing."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ranklens as rl
from ranklens import seeds

pytestmark = pytest.mark.usefixtures("initial_values")
# Singular values of small float64 tensors below this share of the largest are rounding.
CUT_OFF = 1e-12
# Singular values that are zero differ from zero by rounding of numbers near one.
ZERO = 1e-14
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
    assert int(found.rank) == int(rl.numerical_rank(rl.matricize(T, modes), rtol=CUT_OFF))
    assert int(found.rank) <= rl.theory.min_cut_bound(net, modes)


@settings(max_examples=10)
@given(st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_random_circuits_too(width, modes, seed):
    net = rl.hierarchical((2,) * 6, width=width, std=1.0, seed=seed)
    found = rl.nn.separation_rank(
        rl.nn.circuit(net), inputs(40, 6, 2, seed=seed), positions(modes, 6), templates=40, centre=False
    )
    assert int(found.rank) == int(rl.numerical_rank(rl.matricize(net.tensor().detach(), modes), rtol=CUT_OFF))


def test_effective_rank_and_entanglement_are_those_of_the_table(tolerance):
    """One-hot templates make the table the matricization itself."""
    net = rl.hierarchical((4, 4), width=3, std=1.0)
    x = torch.eye(4, dtype=torch.float64)[:, None].expand(4, 2, 4)
    found = rl.nn.separation_rank(rl.nn.circuit(net), x, positions([0], 2), centre=False)
    T = net.tensor().detach()
    assert torch.allclose(found.spectrum, rl.singular_values(T), rtol=tolerance["rounding"], atol=ZERO)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_and_its_rounding_is_no_rank(dtype):
    x = inputs(20, 6).to(dtype)
    found = rl.nn.separation_rank(lambda x: x[:, 0] * x[:, 3], x, torch.arange(6) < 2)
    assert int(found.rank) == 1
    assert float(found.share) > 0
