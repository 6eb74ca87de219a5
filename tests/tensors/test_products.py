"""The decomposition of a product against that of the matrix, and what balanced factors promise."""

import itertools

import pytest
import torch

from ranklens.tensors.products import nuclear_gap, product_svd, set_balanced_


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(6, 2, 5), (2, 6, 5), (5, 6, 2), (3, 3, 3)])
def test_product_svd_decomposes_the_product(rows, inner, columns, tolerance):
    close = {"rtol": tolerance["rounding"], "atol": tolerance["rounding"]}
    left, right = drawn(rows, inner), drawn(columns, inner, seed=1)
    U, s, V = product_svd(left, right)
    size = min(rows, inner, columns)
    assert (U.shape, s.shape, V.shape) == ((rows, size), (size,), (columns, size))
    torch.testing.assert_close((U * s) @ V.T, left @ right.T, **close)
    torch.testing.assert_close(s, torch.linalg.svdvals(left @ right.T)[:size], **close)
    for basis in (U, V):
        torch.testing.assert_close(basis.T @ basis, torch.eye(size, dtype=torch.float64), **close)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_balanced_factors_have_the_product_and_equal_gram_matrices(depth, tolerance):
    close = {"rtol": tolerance["rounding"], "atol": tolerance["rounding"]}
    W = drawn(4, 3)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    sizes = [4, *[6] * (depth - 1), 3]
    factors = [torch.full((sizes[k], sizes[k + 1]), 9.0, dtype=torch.float64) for k in range(depth)]
    set_balanced_(factors, U, s, Vh.T)
    product = torch.eye(4, dtype=torch.float64)
    for factor in factors:
        product = product @ factor
    torch.testing.assert_close(product, W, **close)
    for above, below in itertools.pairwise(factors):
        torch.testing.assert_close(above.T @ above, below @ below.T, **close)


def test_the_nuclear_gap_is_zero_for_balanced_factors_and_positive_for_others(tolerance):
    W = drawn(5, 4)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    left, right = U * s.sqrt(), Vh.mT * s.sqrt()
    scale = float(s.sum())
    assert abs(float(nuclear_gap(left, right))) < tolerance["rounding"] * scale
    mixed = torch.linalg.qr(drawn(4, 4, seed=2)).Q
    assert abs(float(nuclear_gap(left @ mixed, right @ mixed))) < tolerance["rounding"] * scale
    stretched = torch.diag(torch.tensor([2.0, 1.0, 0.5, 3.0], dtype=torch.float64))
    gap = float(nuclear_gap(left @ stretched, right @ torch.linalg.inv(stretched)))
    t = stretched.diagonal().square()
    assert gap == pytest.approx(float((s * (t + 1 / t)).sum() / 2 - s.sum()))


def test_the_nuclear_gap_of_a_batch_is_that_of_each_product(tolerance):
    left, right = drawn(3, 2, 5, 4), drawn(3, 2, 6, 4, seed=1)
    gaps = nuclear_gap(left, right)
    assert gaps.shape == (3, 2)
    assert float(gaps[2, 1]) == pytest.approx(float(nuclear_gap(left[2, 1], right[2, 1])), rel=tolerance["rounding"])
    assert bool((gaps > 0).all())
