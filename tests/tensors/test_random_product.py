"""The distribution of products of Gaussian matrices, against products that are drawn factor by factor."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

import ranklens as rl
from ranklens.tensors.random_product import RandomProduct, random_product

DRAWS = 4000
# Smallest accepted p-value of a Kolmogorov-Smirnov test; 12 tests with fixed seeds.
UNLIKELY = 1e-3
# Largest error of interpolated quantiles of a chi distribution.
INTERPOLATION = 1e-7


def normals(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factor_by_factor(prior, seed=1):
    """The definition: all factors at full width, multiplied from the right."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [prior.columns, *prior.widths, prior.rows]
    W = torch.eye(prior.columns, dtype=torch.float64).expand(DRAWS, -1, -1)
    for inner, outer in pairwise(sizes):
        factor = torch.randn(DRAWS, outer, inner, generator=generator, dtype=torch.float64)
        W = torch.bmm(factor, W) / inner**0.5
    return W / W.flatten(1).norm(dim=1)[:, None, None] if prior.normalized else W


@pytest.mark.parametrize(
    "prior",
    [
        RandomProduct(5, 5, (20,)),
        RandomProduct(3, 4, (2, 6)),
        RandomProduct(4, 3, (3, 2, 5)),
        RandomProduct(2, 3, (9,), normalized=True),
    ],
    ids=str,
)
def test_products_have_the_distribution_of_products_of_their_factors(prior):
    """An entry, the Frobenius norm and the effective rank: the last two do not change if W is rotated."""
    quick, slow = prior.matrices(normals(DRAWS, prior.size)), factor_by_factor(prior)
    assert quick.shape == slow.shape == (DRAWS, prior.rows, prior.columns)
    for measure in (lambda W: W[:, -1, 0], lambda W: W.abs().amax((1, 2)), rl.effective_rank):
        assert stats.ks_2samp(measure(quick).numpy(), measure(slow).numpy()).pvalue > UNLIKELY


def test_a_single_factor_is_its_normal_numbers(tolerance):
    z = normals(3, 6)
    assert torch.allclose(RandomProduct(2, 3).matrices(z), z.reshape(3, 2, 3) / 3**0.5, rtol=tolerance["rounding"])


def test_two_factors_by_hand():
    """2 x 2, width 4: W = G R with chi variables of 4 and 3 degrees on the diagonal of R."""
    prior = RandomProduct(2, 2, (4,))
    z = torch.zeros(1, prior.size, dtype=torch.float64)
    z[0, 2], z[0, 3:] = 0.7, torch.tensor([1.0, 2.0, 3.0, 4.0])
    R = np.array([[stats.chi(4).median(), 0.7], [0, stats.chi(3).median()]])
    wanted = np.array([[1.0, 2.0], [3.0, 4.0]]) @ R / 8**0.5
    np.testing.assert_allclose(prior.matrices(z)[0].numpy(), wanted, rtol=INTERPOLATION)


@pytest.mark.parametrize("degrees", [1, 2, 5, 160])
def test_chi_variables_are_quantiles(degrees):
    prior = RandomProduct(1, 1, (degrees,))
    z = torch.linspace(-6, 6, 101, dtype=torch.float64)
    found = prior.matrices(torch.stack([z, torch.ones_like(z)], dim=1)).flatten() * degrees**0.5
    lower, upper = stats.chi(degrees).ppf(stats.norm.cdf(z)), stats.chi(degrees).isf(stats.norm.sf(z))
    np.testing.assert_allclose(found, np.where(z < 0, lower, upper), atol=INTERPOLATION)


def test_widths_beyond_the_columns_cost_nothing():
    sizes = {random_product((5, 4), depth=3, width=width).size for width in (4, 5, 1000)}
    assert sizes == {2 * 10 + 20}
    assert random_product((5, 4), depth=3).widths == (4, 4)
    assert random_product((5, 4), depth=1).size == 20


def test_normalized_products_have_norm_one(tolerance):
    prior = random_product((3, 3), 4, 7, normalized=True)
    norms = prior.matrices(normals(50, prior.size)).flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(50, dtype=torch.float64), rtol=tolerance["rounding"])


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"widths\[1\] is 0; it must be at least 1"):
        RandomProduct(2, 2, (3, 0))
    with pytest.raises(ValueError, match="depth is 0"):
        random_product((2, 2), 0)
    with pytest.raises(ValueError, match=r"shape is \(2, 2, 2\); a matrix has two sizes"):
        random_product((2, 2, 2), 2)
    with pytest.raises(ValueError, match="z has 3 numbers per draw; this product takes 4"):
        RandomProduct(2, 2).matrices(normals(1, 3))
