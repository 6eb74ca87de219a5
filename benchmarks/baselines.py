"""Baselines in plain PyTorch and SciPy, without ranklens: what an expert writes, and the papers' own formulation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Baseline:
    """A loss in plain PyTorch.

    Attributes:
        loss: computes the loss, differentiably.
        parameters: the leaf tensors that it depends on.
        code: what it computes, as code.
    """

    loss: Loss
    parameters: list[Tensor]
    code: str

    def descend(self, steps: int, lr: float = 1e-6) -> None:
        """Take steps of SGD in a plain loop."""
        optimizer = torch.optim.SGD(self.parameters, lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()


def _free(nodes: Sequence[Tensor]) -> list[Tensor]:
    return [node.detach().clone().requires_grad_() for node in nodes]


def matrix(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> list[Baseline]:
    """Return the loss of a product of three matrices, read off the product: the plain loop of an expert."""
    flat = indices[:, 0] * nodes[-1].shape[1] + indices[:, 1]
    W = _free(nodes)
    return [
        Baseline(
            lambda: ((W[0] @ W[1] @ W[2]).view(-1)[flat] - values).square().mean(), W, "(A @ B @ C).view(-1)[flat]"
        )
    ]


def matrix_masks(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> Baseline:
    """Return the loss of matrix completion as matrix sensing: inner products with dense 0/1 matrices."""
    W = _free(nodes)
    masks = torch.zeros(len(indices), W[0].shape[0], W[-1].shape[1], dtype=values.dtype)
    masks[(torch.arange(len(indices)), *indices.T)] = 1

    def loss() -> Tensor:
        return ((masks * (W[0] @ W[1] @ W[2])).sum(dim=(1, 2)) - values).square().mean()

    return Baseline(loss, W, "(masks * (A @ B @ C)).sum((1, 2))")


def cp(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> list[Baseline]:
    """Return two plain losses of a CP factorization of order 3: of the whole tensor, and of the observed entries."""
    A, B, C = whole = _free(nodes)
    flat = (indices[:, 0] * len(B) + indices[:, 1]) * len(C) + indices[:, 2]
    i, j, k = indices.T

    def of_tensor() -> Tensor:
        tensor = (A[:, None] * B).flatten(0, 1) @ C.T
        return (tensor.view(-1)[flat] - values).square().mean()

    parts = D, E, F = _free(nodes)

    def of_entries() -> Tensor:
        return ((D[i] * E[j] * F[k]).sum(dim=1) - values).square().mean()

    return [
        Baseline(of_tensor, list(whole), "((A[:, None] * B).flatten(0, 1) @ C.T).view(-1)[flat]"),
        Baseline(of_entries, list(parts), "(A[i] * B[j] * C[k]).sum(1)"),
    ]


def one_hot(indices: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return one-hot vectors (batch, modes, d), which is the input of a circuit in the papers' formulation."""
    return torch.stack([torch.nn.functional.one_hot(indices[:, n], d).to(dtype) for n, d in enumerate(shape)], dim=1)


def cp_circuit(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> Baseline:
    """Return the loss of the shallow circuit of a CP factorization on one-hot inputs."""
    parts, x = _free(nodes), one_hot(indices, [len(node) for node in nodes], values.dtype)

    def loss() -> Tensor:
        hidden = torch.einsum("bnd,ndr->bnr", x, torch.stack(parts))
        return (hidden.prod(dim=1).sum(dim=1) - values).square().mean()

    return Baseline(loss, parts, "einsum('bnd,ndr->bnr', one_hot, factors).prod(1).sum(1)")


def tree(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> list[Baseline]:
    """Return the plain loss of a hierarchical factorization of four modes, read off the whole tensor."""
    a, b, c, d, P, Q, root = parts = _free(nodes)
    sizes = [len(node) for node in nodes[:4]]
    flat = indices[:, 0]
    for n in (1, 2, 3):
        flat = flat * sizes[n] + indices[:, n]

    def loss() -> Tensor:
        left = (a[:, None] * b).flatten(0, 1) @ P
        right = (c[:, None] * d).flatten(0, 1) @ Q
        return (((left * root) @ right.T).view(-1)[flat] - values).square().mean()

    return [Baseline(loss, list(parts), "(((A * B) @ P * root) @ ((C * D) @ Q).T).view(-1)[flat]")]


def tree_circuit(nodes: Sequence[Tensor], indices: Tensor, values: Tensor) -> Baseline:
    """Return the loss of the deep circuit of a hierarchical factorization of four modes on one-hot inputs."""
    leaves, inner = (torch.stack([n.detach() for n in part]).requires_grad_() for part in (nodes[:4], nodes[4:6]))
    root = nodes[6].detach().clone().requires_grad_()
    x = one_hot(indices, [len(node) for node in nodes[:4]], values.dtype)

    def loss() -> Tensor:
        hidden = torch.einsum("bnd,ndr->bnr", x, leaves).unflatten(1, (2, 2)).prod(dim=2)
        hidden = torch.einsum("bnd,ndr->bnr", hidden, inner)
        return (hidden.prod(dim=1) @ root - values).square().mean()

    return Baseline(loss, [leaves, inner, root], "the circuit's layers on one-hot inputs of every observation")


def direct_product(table: Tensor, indices: Tensor) -> Tensor:
    """Return entries of a CP factorization of high order as products of gathered (batch, order, R) values."""
    return table[torch.arange(table.shape[0]), indices].prod(dim=1).sum(dim=1)


def counterexample_by_lsoda(depth: int, start: float, until_loss: float) -> float:
    """Return the seconds that LSODA takes for the flow of the 2 x 2 counterexample, its gradient written in numpy."""

    def gradient(_: float, y: np.ndarray) -> np.ndarray:
        factors = y.reshape(depth, 2, 2)
        before = [np.eye(2)]
        for factor in factors:
            before.append(before[-1] @ factor)
        difference = before[-1] - np.array([[0.0, 1.0], [1.0, 0.0]])
        difference[0, 0] = 0.0
        found, after = np.empty_like(factors), np.eye(2)
        for k in reversed(range(depth)):
            found[k] = -before[k].T @ difference @ after.T
            after = factors[k] @ after
        return found.ravel()

    def reached(_: float, y: np.ndarray) -> float:
        W = np.linalg.multi_dot(y.reshape(depth, 2, 2))
        return ((W[0, 1] - 1) ** 2 + (W[1, 0] - 1) ** 2 + W[1, 1] ** 2) / 2 - until_loss

    reached.terminal = True  # type: ignore[attr-defined]
    begun = time.perf_counter()
    y0 = np.tile(start * np.eye(2), (depth, 1, 1)).ravel()
    found = solve_ivp(gradient, (0, 1e12), y0, method="LSODA", rtol=5e-7, atol=5e-8 * start, events=reached)
    assert found.t_events[0].size == 1, "LSODA did not reach the loss"
    return time.perf_counter() - begun


def gemm_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Return the rate of a square matrix product, in floating-point operations per second."""
    A, B, C = (torch.randn(size, size).to(dtype) for _ in range(3))
    return 2 * size**3 / best(lambda: torch.mm(A, B, out=C), least=0.5)


def copy_rate(megabytes: int = 256) -> float:
    """Return the rate of a copy in memory, in bytes read and written per second."""
    source = torch.zeros(megabytes * 2**17, dtype=torch.float64)
    target = torch.empty_like(source)
    return 2 * source.numel() * 8 / best(lambda: target.copy_(source), least=0.5)


def best(call: Callable[[], object], least: float) -> float:
    """Return the least seconds of a call, over as many as fit into `least` seconds."""
    found, begun = [], time.perf_counter()
    while time.perf_counter() - begun < least or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)
