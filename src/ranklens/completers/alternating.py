"""Alternating least squares: ridge regression for one node of a network at a time, which has a closed solution."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.completers.equations import MatrixEntries, TensorEntries, entries_of, ridge_solve
from ranklens.completers.factors import has_one_node_per_mode
from ranklens.completers.observed import Observed
from ranklens.completers.pattern import stable_order
from ranklens.tensors import contract
from ranklens.tensors.environment import environment
from ranklens.tensors.network import TensorNetwork

# Numbers in the Gram matrices, or in the outer products of environments, that are held at a time: 32 MiB in float64.
BLOCK = 2**22


@dataclass(frozen=True)
class NormalEquations:
    """A batch of least squares problems: minimize sum over observations of (<features, x> - value)^2 for every row.

    A row is one problem, with a vector x of its own and with observations of its own. The features of an observation
    are the vector whose inner product with x is the prediction.

    Attributes:
        gram: sum of the outer products of the features, for every row, of shape (rows, size, size).
        moment: sum of the features times the values, for every row, of shape (rows, size).
    """

    gram: Float[Tensor, "rows size size"]
    moment: Float[Tensor, "rows size"]

    def solve(self, ridge: float) -> Float[Tensor, "rows size"]:
        """Return for every row the x that minimizes its sum of squared residuals plus ridge |x|^2.

        Args:
            ridge: added to the diagonal of every Gram matrix, besides the tiny ridge that `ridge_solve` always adds.

        Returns:
            The minimizers, of shape (rows, size).
        """
        return ridge_solve(self.gram, self.moment, ridge)

    def change(self, x: Float[Tensor, "rows size"]) -> float:
        """Return by how much the sum of squared residuals, added over all rows, is larger at x than at zero.

        At a minimizer the result is negative or zero.

        Args:
            x: one vector per row, of shape (rows, size).
        """
        return float((x[:, None, :] @ self.gram @ x[:, :, None]).sum() - 2 * (x * self.moment).sum())


@dataclass(frozen=True)
class Order:
    """The observations sorted by the row of a node that they belong to.

    A row of a node is a combination of values of its modes. A node without modes has one row, to which all observations
    belong.

    Attributes:
        positions: (m,) positions of the m observations in the list of observations, sorted by row.
        starts: (rows + 1,) where in `positions` each row begins; the last number is where the last row ends.
    """

    positions: Int[Tensor, " m"]
    starts: Int[Tensor, " rows_and_one"]


class AlternatingLeastSquares:
    r"""Minimize  sum of squared residuals / 2 + ridge / 2 * sum of squared node entries  over one node at a time.

    An entry is linear in every node: W_i = <environment_i, slice of the node at i's modes>, where the environment is
    the contraction of all other nodes. A node with modes therefore falls into one small linear system per row (value
    of its modes). Rows without observations become zero.

    Args:
        net: the network; its nodes are overwritten.
        observed: the entries to fit.
        ridge: weight of the sum of squared node entries.

    >>> import torch, ranklens as rl
    >>> net, target = rl.cp((4, 5, 6), rank=2, std=1.0), rl.targets.cp((4, 5, 6), rank=2).reshape(-1)
    >>> indices = torch.cartesian_prod(*map(torch.arange, (4, 5, 6)))
    >>> solver = AlternatingLeastSquares(net, Observed(indices, target, net.shape), ridge=0.0)
    >>> losses = [solver.sweep() for _ in range(10)]
    >>> losses == sorted(losses, reverse=True), losses[-1] < 1e-3 * losses[0]
    (True, True)
    """

    def __init__(self, net: TensorNetwork, observed: Observed, *, ridge: float) -> None:
        self.net, self.observed, self.ridge = net, observed, ridge
        self._orders: dict[tuple[int, ...], Order] = {}
        self._entries: MatrixEntries | TensorEntries | None = None

    def replace_values(self, observed: Observed) -> None:
        """Replace the values to fit.

        Args:
            observed: observations at the same positions, in the same order.
        """
        self.observed, self._entries = observed, None

    @torch.no_grad()
    def sweep(self, nodes: Sequence[int] | None = None) -> float:
        """Replace nodes in turn, each by the minimizer of the objective with all other nodes fixed.

        Args:
            nodes: positions of the nodes in `net.nodes`, in the order of the replacements; None takes every node once.

        Returns:
            The mean, over the observed entries, of the squared residual after the last node, without the ridge.
        """
        squared = 0.0
        on_cpu = self.observed.values.device.type == "cpu"
        solve = self._solve_factor if has_one_node_per_mode(self.net) and on_cpu else self._solve_node
        for k in range(len(self.net.nodes)) if nodes is None else nodes:
            squared = solve(k)
        return squared / float(self.observed.counts().sum())

    def _solve_factor(self, k: int) -> float:
        """Return the sum of squared residuals after solving for a factor of a matrix or of a CP tensor."""
        layout = self.net.layout
        factors: list[Tensor] = [torch.empty(0)] * len(layout.modes)
        for node, modes, labels in zip(self.net.nodes, layout.modes, layout.nodes, strict=True):
            factors[modes[0]] = node.detach().movedim(labels.index(layout.out[modes[0]]), 0)
        if self._entries is None:
            self._entries = entries_of(self.observed, biases=False)
        (n,) = layout.modes[k]
        doubles = [factor.double() for factor in factors]
        squared = self._entries.energy(n, doubles)
        for made in self._entries.equations(n, doubles):
            x = made.solve(torch.full((doubles[n].shape[1],), self.ridge, dtype=torch.float64))
            factors[n][made.low : made.high] = x
            squared += made.change(x)
        return max(squared, 0.0)

    def _solve_node(self, k: int) -> float:
        """Return the sum of squared residuals after solving for a node of any network."""
        layout, node = self.net.layout, self.net.nodes[k]
        axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in layout.mode_labels]
        by_row = node.movedim(axes, tuple(range(len(axes))))
        rows = math.prod(node.shape[axis] for axis in axes)
        size = node.numel() // rows
        order = self._order(layout.modes[k])
        solved = torch.zeros(rows, size, dtype=node.dtype, device=node.device)
        squared = 0.0
        for low, high in _blocks(order.starts, size):
            positions = order.positions[int(order.starts[low]) : int(order.starts[high])]
            equations = self._normal_equations(k, positions, low, high)
            solved[low:high] = x = equations.solve(self.ridge)
            some = self.observed.take(positions)
            squared += max(float(some.counts() @ some.values.square()) + equations.change(x), 0.0)
        by_row.copy_(solved.reshape(by_row.shape))
        return squared

    def _normal_equations(self, k: int, positions: Tensor, low: int, high: int) -> NormalEquations:
        """Return the normal equations of the rows from `low` to before `high` of node k.

        Args:
            k: position of the node.
            positions: positions of all observations of these rows.
            low: the first row.
            high: the row after the last.
        """
        layout, node = self.net.layout, self.net.nodes[k]
        modes = list(layout.modes[k])
        size = node.numel() // math.prod(self.net.shape[n] for n in modes)
        gram = torch.zeros(high - low, size * size, dtype=node.dtype, device=node.device)
        moment = torch.zeros(high - low, size, dtype=node.dtype, device=node.device)
        for part in positions.split(max(BLOCK // (size * size), 1)):
            some = self.observed.take(part)
            indices, root = some.indices, some.counts().sqrt()
            features = environment(self.net, k, indices).reshape(len(part), size) * root[:, None]
            values = some.values * root
            if modes:
                row = contract.flatten(indices[:, modes], [self.net.shape[n] for n in modes]) - low
                outer = (features[:, :, None] * features[:, None, :]).reshape(len(part), -1)
                gram.index_add_(0, row, outer)
                moment.index_add_(0, row, features * values[:, None])
            else:
                gram += (features.T @ features).reshape(1, -1)
                moment += (features.T @ values)[None]
        return NormalEquations(gram.view(-1, size, size), moment)

    def _order(self, modes: tuple[int, ...]) -> Order:
        """Return the observations sorted by the rows of a node that has these modes."""
        if modes not in self._orders:
            self._orders[modes] = _sort(self.observed, modes)
        return self._orders[modes]


def _sort(observed: Observed, modes: Sequence[int]) -> Order:
    """Return the observations sorted by their indices in some modes."""
    if modes:
        sizes = [observed.shape[n] for n in modes]
        row = contract.flatten(observed.indices[:, list(modes)], sizes)
        positions = stable_order(row, math.prod(sizes))
        ends = torch.bincount(row, minlength=math.prod(sizes)).cumsum(0)
    else:
        positions = torch.arange(len(observed), device=observed.values.device)
        ends = torch.tensor([len(observed)], device=observed.values.device)
    return Order(positions, torch.cat([ends.new_zeros(1), ends]).cpu())


def _blocks(starts: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """Cut the rows of a node into blocks whose Gram matrices, and outer products of features, fit into `BLOCK` numbers.

    A row with more observations than that is a block of its own.

    Args:
        starts: where the observations of each row begin, as in `Order`.
        size: number of unknowns per row.

    Yields:
        The first row of a block, and the row after its last.
    """
    rows, most = len(starts) - 1, max(BLOCK // (size * size), 1)
    low = 0
    while low < rows:
        high = int(torch.searchsorted(starts, starts[low] + most, right=True)) - 1
        high = min(max(high, low + 1), low + most, rows)
        yield low, high
        low = high
