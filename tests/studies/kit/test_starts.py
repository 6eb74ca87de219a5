"""The initial factors of the 2 x 2 example are balanced and on the side of a positive determinant."""

import pytest
import torch

from ranklens.studies.kit import starts


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_the_product_has_a_positive_determinant_and_its_factors_are_balanced(depth, seed, tolerance):
    net = starts.positive_determinant(depth, 1e-3, seed)
    product = net.tensor().detach()
    assert float(torch.linalg.det(product)) > 0
    assert len(net.nodes) == depth
    assert depth == 1 or float(net.imbalance()) < tolerance["balance"] * float(product.norm()) ** (2 / depth)


def test_the_standard_deviation_is_that_of_the_product():
    """Over 200 seeds of 4 entries each, the root mean square of 800 Gaussian entries is within 10% of std."""
    entries = torch.stack([starts.positive_determinant(2, 0.5, seed).tensor().detach() for seed in range(200)])
    assert float(entries.square().mean().sqrt()) == pytest.approx(0.5, rel=0.1)
