"""Singular values drawn without the matrix, against those of matrices that were drawn."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from ranklens.nn.random_control import random_product_singular_values, random_singular_values
from ranklens.tensors import measures

# Draws of either kind, and the probability below which the two distributions count as different.
DRAWS, UNLIKELY = 300, 1e-3
# Largest relative difference of the effective rank of a large random matrix from that of another draw.
CONCENTRATED = 0.002


def gaussian(rows, columns, seed):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 5), (9, 4), (4, 9)])
def test_every_singular_value_has_the_distribution_of_gaussian_matrices(shape):
    made = np.stack([random_singular_values(*shape, seed=k) for k in range(DRAWS)])
    drawn = np.stack([torch.linalg.svdvals(gaussian(*shape, k)) for k in range(DRAWS)])
    assert made.shape == drawn.shape
    for k in range(made.shape[1]):
        assert ks_2samp(made[:, k], drawn[:, k]).pvalue > UNLIKELY


@pytest.mark.parametrize(("left", "right", "inner"), [(7, 5, 3), (3, 8, 5), (2, 2, 2)])
def test_products_have_the_distribution_of_products(left, right, inner):
    made = np.stack([random_product_singular_values(left, right, inner, seed=k) for k in range(DRAWS)])
    drawn = np.stack(
        [torch.linalg.svdvals(gaussian(left, inner, k) @ gaussian(inner, right, k + DRAWS)) for k in range(DRAWS)]
    )
    for k in range(min(left, right, inner)):
        assert ks_2samp(made[:, k], drawn[:, k]).pvalue > UNLIKELY


def test_large_matrices_have_the_known_effective_rank():
    drawn = measures.effective_rank(gaussian(600, 200, 0))
    assert float(measures.effective_rank_of(random_singular_values(600, 200))) == pytest.approx(
        float(drawn), rel=CONCENTRATED
    )


def test_values_are_sorted_and_depend_on_seed_and_shape_alone():
    first = random_singular_values(20, 12, seed=3)
    assert bool((first.diff() <= 0).all())
    assert torch.equal(first, random_singular_values(12, 20, seed=3))
    assert not torch.equal(first, random_singular_values(20, 12, seed=4))


def test_matrices_without_entries_are_refused():
    with pytest.raises(ValueError, match="the shape is 0 x 3"):
        random_singular_values(0, 3)
