import numpy as np
import oracles
import pytest
import torch

from ranklens.tensors.log_product import log_product


@pytest.mark.parametrize("kind", ["init", "trained", "negative", "zeros", "one zero"])
def test_log_product_forward_and_gradient(kind, tolerance):
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
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    (slope,) = torch.autograd.grad(found.sum(), table)
    np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-10 * np.abs(gradient).max())


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
def test_the_log_domain_in_blocks_for_any_number_of_levels(levels, monkeypatch, tolerance):
    monkeypatch.setattr("ranklens.tensors.log_product.BLOCK", 3)
    made = torch.Generator().manual_seed(levels)
    table = torch.randn(35, levels, 2, generator=made, dtype=torch.float64).requires_grad_()
    rows = torch.randint(levels, (8, 35), generator=made)
    rows[:, 0] = 0  # whose other levels are never read
    found = log_product(table, rows)
    expected, gradient = oracles.product(table.detach().numpy(), rows.numpy())
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    (slope,) = torch.autograd.grad(found.sum(), table)
    np.testing.assert_allclose(slope, gradient, rtol=1e-9, atol=1e-12 * np.abs(gradient).max())
    assert bool((slope[0, 1:] == 0).all())
