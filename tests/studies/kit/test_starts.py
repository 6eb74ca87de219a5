"""The initial factors of the 2 x 2 example are on the side of a positive determinant, balanced or independent."""

import pytest
import torch

from ranklens.studies.kit import starts

# Relative error of the standard deviation of 1,600 drawn entries.
DRAWN = 0.15


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_the_product_has_a_positive_determinant_and_its_factors_are_balanced(depth, seed, tolerance):
    net = starts.positive_determinant(depth, 1e-3, seed)
    product = net.tensor().detach()
    assert float(torch.linalg.det(product)) > 0
    assert len(net.nodes) == depth
    assert depth == 1 or float(net.imbalance()) < tolerance["balance"] * float(product.norm()) ** (2 / depth)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_independent_factors_have_a_positive_determinant_and_are_not_balanced(depth, seed):
    net = starts.independent(depth, 1e-3, seed)
    assert float(torch.linalg.det(net.tensor().detach())) > 0
    assert len(net.nodes) == depth
    assert depth == 1 or float(net.imbalance()) > 0.1 * 1e-3 ** (2 / depth)


@pytest.mark.parametrize("draw", [starts.positive_determinant, starts.independent])
def test_the_standard_deviation_is_that_of_the_product(draw):
    """Over 400 seeds of 4 entries each, the root mean square of the entries is within 15% of std."""
    entries = torch.stack([draw(2, 0.5, seed).tensor().detach() for seed in range(400)])
    assert float(entries.square().mean().sqrt()) == pytest.approx(0.5, rel=DRAWN)
