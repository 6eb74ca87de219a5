"""Ranks that share a budget, against all combinations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranklens.nn.budget import Choices, choices, shared_ranks


def spectra(seed, layers=3, ranks=4):
    made = np.random.default_rng(seed)
    errors = np.sort(made.random((layers, ranks)))[:, ::-1]
    return [choices(row.tolist(), [(k + 1) * int(made.integers(5, 9)) for k in range(ranks)], 40) for row in errors]


def totals(layers, taken):
    return sum(x.errors[k] for x, k in zip(layers, taken, strict=True)), sum(
        x.costs[k] for x, k in zip(layers, taken, strict=True)
    )


@given(st.integers(0, 999), st.integers(24, 130))
def test_no_other_ranks_of_the_same_cost_have_a_smaller_error(seed, budget):
    """Everett's theorem holds for the part of the budget that one price spends; the rest may only help."""
    layers = [convex(x) for x in spectra(seed)]
    taken = shared_ranks(layers, budget)
    error, cost = totals(layers, taken)
    assert cost <= budget
    every = [totals(layers, other) for other in itertools.product(*(range(len(x.costs)) for x in layers))]
    best = min(e for e, c in every if c <= budget)
    gap = max(a - b for x in layers for a, b in itertools.pairwise(x.errors))
    assert error <= best + gap  # one step of one layer is all that an integer problem can cost
    assert not [e for e, c in every if c <= budget - max(max(np.diff(x.costs)) for x in layers) and e < error - 1e-12]


def convex(layer):
    """The same costs, with errors that fall ever more slowly."""
    errors = [1 / (1 + k) + 0.01 * layer.errors[k] / (1 + k) for k in range(len(layer.errors))]
    steps = np.sort(-np.diff([*errors, 0.0]))[::-1]
    return Choices(layer.ranks, np.cumsum(steps[::-1])[::-1].tolist(), [8 * (k + 1) for k in range(len(layer.costs))])


def test_the_whole_budget_needs_no_cut_and_none_is_refused():
    layers = spectra(0)
    assert [x.costs[k] for x, k in zip(layers, shared_ranks(layers, 10**6), strict=True)] == [40, 40, 40]
    with pytest.raises(ValueError, match="the cheapest choices cost"):
        shared_ranks(layers, 3)


def test_a_layer_as_it_is_comes_last_and_has_no_error():
    found = choices([0.5, 0.2, 0.1], [10, 20, 30], 25)
    assert (list(found.ranks), list(found.errors), list(found.costs)) == ([1, 2, 3], [0.5, 0.2, 0.0], [10, 20, 25])
