import numpy as np
import oracles
import pytest
import torch

import ranklens as rl
from ranklens.tensors import contract
from ranklens.tensors.log_product import log_product

# Relative. A product of 40 factors is the exponential of a sum of 40 logarithms, each of size up to 4, so rounding
# costs some 160 times 1e-16 in the product, and more in a gradient where products nearly cancel.
THROUGH_LOGARITHMS = 1e-10
CANCELLED = 1e-10  # of the largest gradient; below it a gradient is a sum of products that cancel
HALF = 2**-7  # relative: the rounding error of one bfloat16 number


@pytest.mark.parametrize("kind", ["init", "trained", "negative", "zeros", "one zero"])
def test_log_product_forward_and_gradient(kind):
    made = torch.Generator().manual_seed(0)
    table = 1 + 0.1 * torch.randn(40, 2, 3, generator=made, dtype=torch.float64)
    rows = torch.randint(2, (16, 40), generator=made)
    if kind == "trained":
        table = table.abs() ** 3
    if kind == "negative":
        table = torch.randn(40, 2, 3, generator=made, dtype=torch.float64)
    if kind == "zeros":
        table = table * (torch.rand(table.shape, generator=made) > 0.1)
    if kind == "one zero":
        table[7, 1, 2] = 0.0
    table.requires_grad_()
    found = log_product(table, rows)
    expected, gradient = oracles.product(table.detach().numpy(), rows.numpy())
    np.testing.assert_allclose(found.detach(), expected, rtol=THROUGH_LOGARITHMS)
    (slope,) = torch.autograd.grad(found.sum(), table)
    np.testing.assert_allclose(slope, gradient, rtol=THROUGH_LOGARITHMS, atol=CANCELLED * np.abs(gradient).max())


def test_second_derivatives_are_right_or_refused():
    made = torch.Generator().manual_seed(0)
    table = torch.randn(4, 3, 2, generator=made, dtype=torch.float64).requires_grad_()
    rows = torch.randint(3, (5, 4), generator=made)
    with torch.random.fork_rng():
        assert torch.autograd.gradgradcheck(lambda t: log_product(t, rows), (table,))
    zero = table.detach().clone()
    zero[0, 0, 0] = 0.0
    zero.requires_grad_()
    with pytest.raises(RuntimeError, match="where a factor is zero"):
        torch.autograd.grad(log_product(zero, rows).sum(), zero, create_graph=True)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_log_domain_in_blocks_for_any_number_of_levels(levels, monkeypatch):
    monkeypatch.setattr("ranklens.tensors.log_product.BLOCK", 3)
    made = torch.Generator().manual_seed(levels)
    table = torch.randn(35, levels, 2, generator=made, dtype=torch.float64).requires_grad_()
    rows = torch.randint(levels, (8, 35), generator=made)
    rows[:, 0] = 0  # whose other levels are never read
    found = log_product(table, rows)
    expected, gradient = oracles.product(table.detach().numpy(), rows.numpy())
    np.testing.assert_allclose(found.detach(), expected, rtol=THROUGH_LOGARITHMS)
    (slope,) = torch.autograd.grad(found.sum(), table)
    np.testing.assert_allclose(slope, gradient, rtol=THROUGH_LOGARITHMS, atol=CANCELLED * np.abs(gradient).max())
    assert bool((slope[0, 1:] == 0).all())


@pytest.mark.parametrize("levels", [2, 3])
def test_a_level_that_is_never_read_has_a_gradient_of_exactly_zero(levels):
    made = torch.Generator().manual_seed(0)
    table = torch.randn(40, levels, 2, generator=made, dtype=torch.float64).requires_grad_()
    rows = torch.randint(levels, (200, 40), generator=made)
    for level in range(levels):
        rows[:, level] = (level + torch.randint(1, levels, (200,), generator=made)) % levels  # anything but `level`
    (slope,) = torch.autograd.grad(log_product(table, rows).sum(), table)
    for level in range(levels):
        assert bool((slope[level, level] == 0).all())
        assert bool((slope[level].abs().sum(dim=0) > 0).all())


def test_half_precision_rounds_the_product_once_and_not_every_factor():
    made = torch.Generator().manual_seed(0)
    table = (1 + 0.1 * torch.randn(784, 2, 3, generator=made)).bfloat16()
    table[::2] = -table[::2]
    rows = torch.randint(2, (16, 784), generator=made)
    expected, gradient = oracles.product(table.double().numpy(), rows.numpy())
    table.requires_grad_()
    found = log_product(table, rows)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.detach().double(), expected, rtol=HALF)
    (slope,) = torch.autograd.grad(found.sum(), table)
    np.testing.assert_allclose(slope.double(), gradient, rtol=HALF, atol=HALF * np.abs(gradient).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_and_ones_of_the_dtype_are_the_integers(dtype):
    """Of a network of very high order, in values and in gradients, bit by bit."""
    net = rl.init.normal_(rl.cp((2,) * 64, 3, dtype=dtype), 0.1, mean=1.0)
    rows = torch.randint(2, (50, 64), generator=torch.Generator().manual_seed(0))
    assert contract.reads_indicators(net.layout)
    whole, kept = net.entries(rows), net.entries(rows.to(dtype), check=False)
    assert torch.equal(whole, kept)
    found = [torch.autograd.grad(value.square().sum(), net.stacks)[0] for value in (whole, kept)]
    assert torch.equal(*found)


def test_networks_that_read_no_indicators():
    assert not contract.reads_indicators(rl.cp((3,) * 64, 3).layout)
    assert not contract.reads_indicators(rl.cp((2,) * 8, 3).layout)
    assert not contract.reads_indicators(rl.hierarchical((2,) * 64, 3).layout)
    assert not contract.reads_indicators(rl.tensor_ring((2, 2, 2), 2).layout)
