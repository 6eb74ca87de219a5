"""Rank measures of weights against the measures of their matrices."""

import numpy as np
import pytest
import torch
from layer_cases import SAME
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


def test_measures_are_those_of_the_matrices(tolerance):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(20, 6)).double()
    found = rl.nn.rank_profile(net)
    assert list(found.weight.values) == ["0.weight", "2.weight"]
    for name, weight in (("0.weight", net[0].weight.flatten(1)), ("2.weight", net[2].weight)):
        row, W = found.sel(weight=name), weight.detach()
        assert float(row.effective_rank) == pytest.approx(float(rl.effective_rank(W)), rel=tolerance["rounding"])
        assert float(row.stable_rank) == pytest.approx(float(rl.stable_rank(W)), rel=tolerance["rounding"])
        assert int(row.numerical_rank) == int(rl.numerical_rank(W))
        s = torch.linalg.svdvals(W).numpy()
        np.testing.assert_allclose(row.spectrum.values[: len(s)], s, rtol=tolerance["rounding"])
        literal = next(k for k in range(1, len(s) + 1) if (s[:k] ** 2).sum() >= 0.99 * (s**2).sum())
        assert int(row.rank_kept) == literal
        assert int(row.parameters_kept) == min(W.numel(), literal * sum(W.shape))


def test_low_rank_is_below_the_control():
    low = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 30)
    found = rl.nn.rank_profile({"low": low, "zero": torch.zeros(4, 3), "count": torch.tensor([[1, 2]])})
    assert list(found.weight.values) == ["low", "zero"]
    assert found.rank_kept.values.tolist() == [2, 0]
    assert float(found.effective_rank[0]) < 2.01
    assert float(found.random_effective_rank[0]) > 15
    assert float(found.effective_rank[1]) == float(found.stable_rank[1]) == 0


def test_a_composed_weight_counts_as_one():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    deep = rl.nn.overparameterize(net, where=["0"])
    found, plain = rl.nn.rank_profile(deep), rl.nn.rank_profile(net)
    assert set(found.weight.values) == {"0.weight", "1.weight"}
    for name in plain.weight.values:
        assert float(found.effective_rank.sel(weight=name)) == pytest.approx(
            float(plain.effective_rank.sel(weight=name)), rel=SAME
        )
    attention = rl.nn.overparameterize(nn.MultiheadAttention(8, 2))
    assert set(rl.nn.rank_profile(attention).weight.values) == {"in_proj_weight", "out_proj.weight"}


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ({}, {}, "no weight with two axes"),
        ({"b": torch.ones(3)}, {}, "no weight with two axes"),
        ({"w": torch.full((2, 2), torch.nan)}, {}, "'w' has entries that are not finite"),
        ({"w": torch.ones(2, 2)}, {"energy": 0.0}, "energy is 0.0"),
    ],
)
def test_what_has_no_profile(weights, options, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.rank_profile(weights, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_rank_goes_by_the_precision_of_the_weight(dtype):
    made = torch.Generator().manual_seed(0)
    low = torch.randn(64, 3, generator=made, dtype=dtype) @ torch.randn(3, 64, generator=made, dtype=dtype)
    assert int(rl.nn.rank_profile({"low": low}).numerical_rank[0]) == 3
