"""Arrangements are permutations with small cuts, correlations those of numpy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

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


def digits():
    """Correlations of the digits' 64 pixels, three of which are constant and correlate with no other."""
    return rl.data.correlations(torch.from_numpy(load_digits().data))


def noisy(weights, seed):
    """Symmetric weights with other rounding errors, as another number of threads makes them."""
    noise = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weights * (1 + 4 * torch.finfo(torch.float64).eps * (noise + noise.T - 1))


def ring(size):
    """Weights of a ring, whose Laplacian has second eigenvalues in pairs."""
    weights = torch.zeros(size, size, dtype=torch.float64)
    places = torch.arange(size)
    weights[places, (places + 1) % size] = weights[(places + 1) % size, places] = 1.0
    return weights


@pytest.mark.parametrize(
    ("weights", "tree"),
    [
        (digits(), rl.ModeTree.square(8, 2)),
        (ring(16), rl.ModeTree.adjacent(16)),
        (torch.block_diag(ring(5), ring(5), ring(6)), rl.ModeTree.adjacent(16)),
        (torch.zeros(8, 8), rl.ModeTree.adjacent(8)),
    ],
    ids=["digits", "ring", "three rings", "no weights"],
)
def test_rounding_errors_do_not_change_an_arrangement(weights, tree):
    order = rl.data.arrange(weights, tree)
    assert sorted(order.tolist()) == list(range(tree.order))
    for seed in range(8):
        assert torch.equal(rl.data.arrange(noisy(weights.double(), seed), tree), order)


def test_groups_without_weights_between_them_stay_whole():
    """Groups of 4, 2 and 2 features, in any order of the features, are cut nowhere by a tree of two halves."""
    groups = torch.block_diag(*[torch.ones(size, size, dtype=torch.float64) for size in (2, 4, 2)]).fill_diagonal_(0)
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    weights = groups[shuffled][:, shuffled]
    assert cut(weights, rl.data.arrange(weights, rl.ModeTree.adjacent(8)).tolist()) == 0
