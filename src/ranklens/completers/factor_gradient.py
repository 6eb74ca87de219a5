"""The squared error of a CP factorization at few entries of a large tensor, and its gradient, by sparse products."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.completers.observed import Observed
from ranklens.completers.pattern import stable_order
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork

# Numbers in a table with one row per entry, at most: 16 MiB in float32. A block has at least as many entries as the
# largest mode has indices, because the sparse matrix of a block has a pointer for each of them.
NUMBERS = 2**22


@dataclass(frozen=True)
class _Block:
    """Observed entries, with what is needed to add up rows of tables over the entries of every index.

    Attributes:
        indices: for every mode the indices of the entries.
        by_index: for every mode the sparse 0/1 matrix, (indices, entries), that says which entry has which index.
        values: the values of the entries.
        weights: their weights in units of the mean of all, or None if all are 1.
    """

    indices: tuple[Int[Tensor, " m"], ...]
    by_index: tuple[Tensor, ...]
    values: Float[Tensor, " m"]
    weights: Float[Tensor, " m"] | None


class FactorGradient:
    r"""The mean squared error of a CP factorization at observed entries, and its gradient.

    With the factors A_n, the derivative by the row i of A_n is the sum, over the entries with this index, of

        2 (prediction - value) / m  times  the product of the other factors' rows.

    The sum is a product with a sparse matrix. These matrices depend on the positions only, and are made once for every
    mini-batch.

    Args:
        net: a CP factorization with one node per mode, on a CPU.
        observed: the entries to fit. With weights, the mean is weighted.

    >>> import torch, ranklens as rl
    >>> net, places = rl.cp((3, 4, 5), 2, std=0.5), torch.tensor([[0, 1, 4], [2, 2, 0]])
    >>> gradient = FactorGradient(net, Observed(places, torch.ones(2).double(), (3, 4, 5)))
    >>> loss = gradient()
    >>> wanted = net.gradients((net.entries(places) - 1).square().mean())
    >>> found = contract.unstack(net.layout, gradient.parts)
    >>> all(torch.allclose(place, other) for place, other in zip(found, wanted))
    True
    """

    def __init__(self, net: TensorNetwork, observed: Observed) -> None:
        self.net = net
        unit = len(observed) / observed.count
        self.observed = observed if observed.weights is None else observed.weighted(observed.weights * unit)
        self.parts = [torch.empty_like(stack.detach()) for stack in net.stacks]
        self._blocks: dict[tuple[int, int], list[_Block]] = {}

    def __call__(self, rows: slice | None = None) -> Tensor:
        """Return the mean squared error, a scalar without a graph, and write its gradient to `parts`.

        Args:
            rows: the observations of a mini-batch; None takes all.
        """
        low, high, _ = (slice(None) if rows is None else rows).indices(len(self.observed))
        if (low, high) not in self._blocks:
            self._blocks[low, high] = self._made(low, high)
        factors = _by_mode(self.net, [node.detach() for node in self.net.nodes])
        gradients = [torch.zeros_like(factor, memory_format=torch.contiguous_format) for factor in factors]
        loss = factors[0].new_zeros(())
        for block in self._blocks[low, high]:
            loss += _add(block, factors, gradients, high - low)
        places = _by_mode(self.net, contract.unstack(self.net.layout, self.parts))
        for place, gradient in zip(places, gradients, strict=True):
            place.copy_(gradient)
        return loss

    def _made(self, low: int, high: int) -> list[_Block]:
        """Return the observations from `low` to before `high` in blocks, each sorted by the first index."""
        width = self.net.layout.sizes[self.net.bonds[0]]
        step = max(NUMBERS // width, *self.net.shape)
        return [self._block(slice(begin, min(begin + step, high))) for begin in range(low, high, step)]

    def _block(self, rows: slice) -> _Block:
        """Return some of the observations as a block."""
        order = stable_order(self.observed.indices[rows, 0], self.net.shape[0])
        indices = self.observed.indices[rows][order].T.contiguous()
        values, weights = self.observed.values[rows][order].to(self.net.dtype), self.observed.weights
        ones = torch.ones_like(values)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
            by_index = tuple(_by_index(own, d, ones) for own, d in zip(indices, self.net.shape, strict=True))
        chosen = None if weights is None else weights[rows][order].to(self.net.dtype)
        return _Block(tuple(indices.int()), by_index, values, chosen)


def _by_index(own: Tensor, d: int, ones: Tensor) -> Tensor:
    """Return the sparse 0/1 matrix that says which entry has which index of a mode."""
    ends = torch.bincount(own, minlength=d).cumsum(0)
    pointers = torch.cat([ends.new_zeros(1), ends]).int()
    size = (d, len(own))
    return torch.sparse_csr_tensor(pointers, stable_order(own, d).int(), ones, size=size, check_invariants=False)


def _by_mode(net: TensorNetwork, nodes: Sequence[Tensor]) -> list[Tensor]:
    """Return nodes in the order of their modes, each with its mode first: (d_n, R)."""
    layout, found = net.layout, list(nodes)
    for node, modes, labels in zip(nodes, layout.modes, layout.nodes, strict=True):
        found[modes[0]] = node.movedim(labels.index(layout.out[modes[0]]), 0)
    return found


def _add(block: _Block, factors: list[Tensor], gradients: list[Tensor], count: int) -> Tensor:
    """Add the gradient of a block's share of the mean over `count` observations, and return the share."""
    picked = [torch.index_select(factor, 0, own) for factor, own in zip(factors, block.indices, strict=True)]
    before = [picked[0]]  # products of the factors up to each mode
    for part in picked[1:-1]:
        before.append(before[-1] * part)
    errors = torch.einsum("mr,mr->m", before[-1], picked[-1]) - block.values
    weighted = errors if block.weights is None else errors * block.weights
    after = (weighted * (2 / count))[:, None]  # the derivatives, times the factors after each mode
    for n in range(len(picked) - 1, 0, -1):
        gradients[n].addmm_(block.by_index[n], before[n - 1] * after)
        after = after * picked[n]
    gradients[0].addmm_(block.by_index[0], after)
    return torch.dot(weighted, errors) / count
