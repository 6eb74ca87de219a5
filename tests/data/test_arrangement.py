"""Arrangements are permutations with small cuts, correlations those of numpy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ranklens as rl

# A swap that lowers the cut by less than rounding of a sum of weights is none.
ROUNDING = 1e-9


def test_correlations_are_those_of_numpy(tolerance):
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 2] = 3 - 2 * values[:, 0]
    values[:, 4] = 1.5
    found = rl.data.correlations(values)
    expected = np.abs(np.corrcoef(np.delete(values.numpy(), 4, axis=1).T))
    np.fill_diagonal(expected, 0)
    others = [0, 1, 2, 3, 5]
    assert np.allclose(found[others][:, others], expected, rtol=0, atol=tolerance["rounding"])
    assert float(found[4].abs().max()) == float(found[:, 4].abs().max()) == 0
    assert float(found[0, 2]) == pytest.approx(1, rel=tolerance["rounding"])


def cut(weights, order):
    """Weight between the halves of an order."""
    half = len(order) // 2
    return float(weights[order[:half]][:, order[half:]].sum())


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_no_swap_lowers_the_first_cut(seed):
    made = torch.Generator().manual_seed(seed)
    weights = torch.rand(8, 8, generator=made, dtype=torch.float64)
    weights = (weights + weights.T).fill_diagonal_(0)
    order = rl.data.arrange(weights, rl.ModeTree.adjacent(8)).tolist()
    assert sorted(order) == list(range(8))
    for i, j in itertools.product(range(4), range(4, 8)):
        swapped = list(order)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        assert cut(weights, swapped) >= cut(weights, order) - ROUNDING


def test_blocks_are_found():
    """Features in blocks that correlate are put back together, whatever their order, on a tree of four children."""
    made = torch.Generator().manual_seed(0)
    common = torch.randn(200, 4, generator=made, dtype=torch.float64).repeat_interleave(4, dim=1)
    values = common + 0.3 * torch.randn(200, 16, generator=made, dtype=torch.float64)
    shuffled = torch.randperm(16, generator=made)
    tree = rl.ModeTree.square(4, 2)
    order = shuffled[rl.data.arrange(rl.data.correlations(values[:, shuffled]), tree)]
    for node in tree.children(tree.root):
        assert len({int(order[n]) // 4 for n in node}) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: rl.data.correlations(x[:1, :, 0]), "at least two rows"),
        (lambda x: rl.data.correlations(x[..., 0] / 0), "finite numbers"),
        (lambda x: rl.data.arrange(torch.ones(3, 3), rl.ModeTree.adjacent(4)), "one per pair"),
        (lambda x: rl.data.arrange(-torch.ones(4, 4), rl.ModeTree.adjacent(4)), "not negative"),
        (lambda x: rl.data.arrange(torch.arange(16.0).reshape(4, 4), rl.ModeTree.adjacent(4)), "must be symmetric"),
    ],
)
def test_input_that_cannot_be_arranged_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call(torch.ones(3, 4, 2))
