"""Ranks by energy, tolerance and budget, against literal searches."""

import itertools

import numpy as np
import pytest
import torch
from layer_cases import batch
from torch import nn

import ranklens as rl
from ranklens.nn.decomposition import by_weight, sites
from ranklens.nn.rank_choice import Criterion, budgeted_ranks, criterion, layer_ranks

pytestmark = pytest.mark.usefixtures("initial_values")


def net():
    return nn.Sequential(nn.Linear(8, 8), nn.Conv1d(4, 8, 2), nn.Linear(6, 8)).double()


def layers_of(model):
    return [by_weight(site) for site in sites(model)[0]]


@pytest.mark.parametrize("value", [0.3, 0.9, 1.0])
def test_the_least_rank_that_keeps_an_energy(value):
    layers = layers_of(net())
    for layer in layers:
        s = torch.linalg.svdvals(layer.cut.weight)[0].square()
        kept = next(r for r in range(1, len(s) + 1) if s[:r].sum() >= (value - 1e-12) * s.sum())
        assert layer_ranks([layer], Criterion("energy", value)) == {layer.site.name: kept}
        lost = next(r for r in range(1, len(s) + 1) if s[r:].sum() <= value**2 * s.sum())
        assert layer_ranks([layer], Criterion("tolerance", value)) == {layer.site.name: lost}
    assert layer_ranks(layers, Criterion("rank", 7)) == {"0": 7, "1": 7, "2": 6}


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [10.0, 1.0, 0.1]])
def test_a_budget_is_met_and_no_ranks_that_cost_no_more_are_better(share, weights):
    model = net()
    layers = layers_of(model)
    total = sum(p.numel() for p in model.parameters())
    fixed = total - sum(layer.site.dense for layer in layers)

    def cost(ranks):
        return fixed + sum(min(x.cost(r), x.site.dense) for x, r in zip(layers, ranks, strict=True))

    def error(ranks):
        kept = (w * x.errors()[r] * x.saves(r) for w, x, r in zip(weights, layers, ranks, strict=True))
        return sum(kept)

    found = list(budgeted_ranks(model, layers, share, weights, None).values())
    assert cost(found) <= share * total
    every = list(itertools.product(*(range(1, layer.site.largest + 1) for layer in layers)))
    within = [ranks for ranks in every if cost(ranks) <= cost(found)]
    gap = max(w * float(-np.diff(x.errors()).min()) for w, x in zip(weights, layers, strict=True))
    assert error(found) <= min(map(error, within)) + gap


def test_a_budget_in_multiply_adds_counts_places():
    """A convolution that runs at many places is cut instead of a larger layer that runs once."""
    layers = [nn.Conv1d(8, 16, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 200)]
    model, x = nn.Sequential(*layers).double(), batch(20, 8, 64)
    found = {per: rl.nn.compress(model, budget=0.6, per=per, data=x).table for per in ("parameters", "multiply_adds")}
    for per, table in found.items():
        kept = table.parameters_kept if per == "parameters" else table.multiply_adds_kept
        dense = table.parameters if per == "parameters" else table.multiply_adds
        assert float(kept.sum() / dense.sum()) <= 0.6 if per == "multiply_adds" else True
    assert found["multiply_adds"].reason.values[0] == ""
    assert found["multiply_adds"].rank_kept.values[0] < found["parameters"].rank_kept.values[0]


def test_exactly_one_criterion():
    given = {"energy": None, "rank": 3, "tolerance": None}
    assert criterion(given) == Criterion("rank", 3.0)
    with pytest.raises(ValueError, match="given are none"):
        criterion({"energy": None})
    with pytest.raises(ValueError, match="given are energy, rank"):
        criterion({"energy": 0.5, "rank": 3})
