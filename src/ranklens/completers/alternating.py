"""Ridge least squares for one node of a network at a time: entries are linear in each node, for it is used once."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ranklens.completers.seen import Seen
from ranklens.tensors import contract
from ranklens.tensors.environment import environment
from ranklens.tensors.network import TensorNetwork

GRAMS = 2**22  # numbers in what is worked on at a time
JITTER = 1e-10  # of the mean diagonal of a Gram matrix: what too few entries see is left small, not infinite


class AlternatingLeastSquares:
    r"""Minimise  sum of squared residuals / 2 + ridge / 2 sum of squared nodes,  exactly in each node in turn.

    An entry is linear in every node: W_i = <environment_i, slice of the node at i's modes>, the environment being
    the product of all other nodes. A node with modes falls into one small system per value of its modes, so a sweep
    costs the entries times the squared bond sizes, and rows that nothing is seen of become zero.

    >>> import torch, ranklens as rl
    >>> net, target = rl.cp((4, 5, 6), rank=2, std=1.0), rl.targets.cp((4, 5, 6), rank=2).reshape(-1)
    >>> indices = torch.cartesian_prod(*map(torch.arange, (4, 5, 6)))
    >>> solver = AlternatingLeastSquares(net, Seen(indices, target, net.shape), ridge=0.0)
    >>> losses = [solver.sweep() for _ in range(10)]
    >>> losses == sorted(losses, reverse=True), losses[-1] < 1e-3 * losses[0]
    (True, True)
    """

    def __init__(self, net: TensorNetwork, seen: Seen, *, ridge: float) -> None:
        self.net, self.seen, self.ridge = net, seen, ridge
        self.orders: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.tables: tuple[Any, ...] = (None, None, None, None, None)

    @torch.no_grad()
    def sweep(self, nodes: Sequence[int] | None = None) -> float:
        """Solve for every node once (or for those named); returns the mean squared residual of the last solve."""
        squared = 0.0
        solve = self._solve_pair if _is_pair(self.net) and self.seen.values.device.type == "cpu" else self._solve
        for k in range(len(self.net.nodes)) if nodes is None else nodes:
            squared = solve(k)
        return squared / len(self.seen)

    def _solve_pair(self, k: int) -> float:
        """A matrix as two factors: Gram matrices are a sparse product with the outer products of the other's rows."""
        nodes = [
            node.detach().movedim(self.net.layout.nodes[n].index(self.net.layout.out[n]), 0)
            for n, node in enumerate(self.net.nodes)
        ]
        own, other = nodes[k], nodes[1 - k]
        rows, size = own.shape
        counts, values = self._sparse(k)
        squared = float(self.seen.values.square().sum())
        outer = (other[:, :, None] * other[:, None, :]).reshape(len(other), -1).numpy()
        step = max(4 * GRAMS // (size * size), 1)
        for low in range(0, rows, step):
            high = min(low + step, rows)
            gram = torch.from_numpy(counts[low:high] @ outer).view(-1, size, size)
            moment = torch.from_numpy(values[low:high] @ other.numpy())
            own[low:high] = x = ridge_solve(gram, moment, self.ridge)
            squared += float((x[:, None, :] @ gram @ x[:, :, None]).sum() - 2 * (x * moment).sum())
        return max(squared, 0.0)

    def _sparse(self, k: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """How often, and with what total, every entry is seen; the rows are those of factor k."""
        if self.tables[0] is not self.seen.values:
            i, j = self.seen.indices.numpy().T
            ones = self.tables[1]
            if ones is None:
                ones = sp.csr_matrix((np.ones(len(i)), (i, j)), shape=self.seen.shape)
            total = sp.csr_matrix((self.seen.values.numpy(), (i, j)), shape=self.seen.shape)
            turned = self.tables[3] if self.tables[1] is not None else ones.T.tocsr()
            self.tables = (self.seen.values, ones, total, turned, total.T.tocsr())
        return (self.tables[1], self.tables[2]) if k == 0 else (self.tables[3], self.tables[4])

    def _solve(self, k: int) -> float:
        layout, node = self.net.layout, self.net.nodes[k]
        modes = layout.modes[k]
        axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in set(layout.out)]
        moved = node.movedim(axes, tuple(range(len(axes))))
        rows, size = (
            math.prod(node.shape[a] for a in axes),
            math.prod(node.shape) // math.prod(node.shape[a] for a in axes),
        )
        order, starts = self._order(modes)
        solved = torch.zeros(rows, size, dtype=node.dtype, device=node.device)
        squared = 0.0
        for low, high in _blocks(starts, size):
            first, last = int(starts[low]), int(starts[high])
            gram = torch.zeros(high - low, size * size, dtype=node.dtype, device=node.device)
            moment = torch.zeros(high - low, size, dtype=node.dtype, device=node.device)
            step = max(GRAMS // (size * size), 1)
            energy = 0.0
            for begin in range(first, last, step):
                part = order[begin : min(begin + step, last)]
                indices, values = self.seen.indices[part], self.seen.values[part]
                around = environment(self.net, k, indices).reshape(len(part), size)
                own = (
                    contract.flatten(indices[:, list(modes)], [layout.shape[n] for n in modes]) - low if modes else None
                )
                energy += float(values.square().sum())
                if own is None:
                    gram += (around.T @ around).reshape(1, -1)
                    moment += (around.T @ values)[None]
                else:
                    outer = (around[:, :, None] * around[:, None, :]).reshape(len(part), -1)
                    gram.index_add_(0, own, outer)
                    moment.index_add_(0, own, around * values[:, None])
            gram = gram.view(-1, size, size)
            x = ridge_solve(gram, moment, self.ridge)
            solved[low:high] = x
            fit = torch.einsum("ri,rij,rj->", x, gram, x) - 2 * (x * moment).sum()
            squared += max(energy + float(fit), 0.0)
        moved.copy_(solved.reshape(moved.shape))
        return squared

    def _order(self, modes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Entries sorted by what a node's modes say, and where each value begins."""
        if modes not in self.orders:
            device = self.seen.values.device
            if modes:
                shape = [self.net.shape[n] for n in modes]
                own = contract.flatten(self.seen.indices[:, list(modes)], shape)
                order = own.argsort(stable=True)
                ends = torch.bincount(own, minlength=math.prod(shape)).cumsum(0)
            else:
                order = torch.arange(len(self.seen), device=device)
                ends = torch.tensor([len(self.seen)], device=device)
            self.orders[modes] = (order, torch.cat([ends.new_zeros(1), ends]).cpu())
        return self.orders[modes]


def _is_pair(net: TensorNetwork) -> bool:
    """Whether the network is a product of two matrices."""
    return len(net.nodes) == 2 and net.layout.modes == ((0,), (1,)) and [len(x) for x in net.layout.nodes] == [2, 2]


def ridge_solve(gram: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """(G + ridge) x = b for a batch; where G is nothing, or b, x is zero."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = diagonal.mean(dim=-1)[..., None, None]  # each its own: what one sees is no matter of another's units
    lift = ridge + JITTER * scale.where(scale > 0, 1.0)
    lifted = gram + lift * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(lifted, moment.unsqueeze(-1)).squeeze(-1)


def _blocks(starts: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """Runs of rows whose Gram matrices, and whose entries' outer products, are at most so many numbers."""
    rows, most = len(starts) - 1, max(GRAMS // (size * size), 1)
    low = 0
    while low < rows:
        high = int(torch.searchsorted(starts, starts[low] + most, right=True)) - 1
        high = min(max(high, low + 1), low + most, rows)
        yield low, high
        low = high
