"""Baselines in plain PyTorch, as a user would write them: dense one-hot inputs and autograd, without ranklens."""

import torch
from torch import Tensor


def one_hot(indices: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return one (batch, d) one-hot matrix per mode, which is the input of a circuit in the papers' formulation."""
    return [torch.nn.functional.one_hot(indices[:, n], d).to(dtype) for n, d in enumerate(shape)]


def dense_masks(indices: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a (batch, *shape) tensor with a single one per observation: matrix completion as matrix sensing."""
    masks = torch.zeros(len(indices), *shape, dtype=dtype)
    masks[(torch.arange(len(indices)), *indices.T)] = 1
    return masks


def matrix_loss(factors: list[Tensor], masks: Tensor, values: Tensor) -> Tensor:
    """Return the mean squared error of the inner products of all masks with the product of the factors."""
    W = factors[0]
    for factor in factors[1:]:
        W = W @ factor
    return ((masks * W).sum(dim=(1, 2)) - values).square().mean()


def cp_loss(factors: list[Tensor], inputs: list[Tensor], values: Tensor) -> Tensor:
    """Return the mean squared error of the shallow circuit: 'bnd,ndr->bnr', product over n, sum over r."""
    x = torch.stack(inputs, dim=1)
    weights = torch.stack(factors)
    return (torch.einsum("bnd,ndr->bnr", x, weights).prod(dim=1).sum(dim=1) - values).square().mean()


def tree_loss(weights: list[Tensor], inputs: list[Tensor], values: Tensor) -> Tensor:
    """Return the mean squared error of the deep circuit on a binary tree of four modes."""
    leaves, interior, root = weights
    hidden = torch.einsum("bnd,ndr->bnr", torch.stack(inputs, dim=1), leaves)
    hidden = hidden.unflatten(1, (2, 2)).prod(dim=2)
    hidden = torch.einsum("bnd,ndr->bnr", hidden, interior)
    return (hidden.prod(dim=1) @ root - values).square().mean()


def direct_product(table: Tensor, indices: Tensor) -> Tensor:
    """Return entries of a CP factorization of high order as products of gathered (batch, order, R) values."""
    picked = table[torch.arange(table.shape[0]), indices]
    return picked.prod(dim=1).sum(dim=1)


def counterexample_descent(depth: int, start: float, lr: float, steps: int) -> float:
    """Return the loss of the 2 x 2 counterexample before the last of `steps` steps of a plain autograd loop."""
    factors = [(start * torch.eye(2, dtype=torch.float64)).requires_grad_() for _ in range(depth)]
    loss = torch.zeros(())
    for _ in range(steps):
        W = factors[0]
        for factor in factors[1:]:
            W = W @ factor
        loss = ((W[0, 1] - 1) ** 2 + (W[1, 0] - 1) ** 2 + W[1, 1] ** 2) / 2
        gradients = torch.autograd.grad(loss, factors)
        with torch.no_grad():
            for factor, gradient in zip(factors, gradients, strict=True):
                factor.sub_(lr * gradient)
    return float(loss.detach())
