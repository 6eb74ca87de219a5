"""The squared error of a network at observed entries and its gradient, by whichever route takes fewer operations."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ranklens.completers.factor_gradient import FactorGradient
from ranklens.completers.factors import has_one_node_per_mode
from ranklens.completers.observed import Observed
from ranklens.completers.pattern import Pattern
from ranklens.dynamics.gradient import LossGradient
from ranklens.problems.completion import Completion
from ranklens.problems.losses import Loss
from ranklens.tensors import contract
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork

# A deep matrix is multiplied out if its product has at most this many entries per observed one (measured).
PER_ENTRY = 8


@runtime_checkable
class Gradient(Protocol):
    """A mean squared error whose gradient is written to `parts`, one tensor per parameter of the network."""

    parts: list[Tensor]

    def __call__(self, rows: slice | None = None, /) -> Tensor:
        """Return the mean squared error, and write its gradient to `parts`.

        Args:
            rows: the observations of a mini-batch; None takes all.
        """


def squared_error(net: TensorNetwork, observed: Observed) -> Gradient:
    """Return the mean squared error of a network at observed entries, as an object that evaluates its gradient.

    Args:
        net: the network, none of whose nodes is frozen. The parameters are read at every call.
        observed: the entries to fit. With weights, the mean is weighted.
    """
    if is_chain(net) and net.shape[0] * net.shape[1] > PER_ENTRY * len(observed):
        return SparseGradient(net, observed)
    few = not contract.reads_whole(net.layout, len(observed))
    if few and has_one_node_per_mode(net) and net.device.type == "cpu":
        return FactorGradient(net, observed)
    return PlannedGradient(net, observed)


class PlannedGradient:
    """The mean squared error of any network at observed entries, and its gradient, by `LossGradient`.

    With weights, the mean is weighted. Weights of a mini-batch are in units of their mean over all observations, and
    the mini-batch is planned anew at every call, because its weights are its own.

    Args:
        net: the network.
        observed: the entries to fit.

    >>> import torch, ranklens as rl
    >>> net, places = rl.deep_matrix((3, 4), depth=3, std=0.5), torch.tensor([[0, 1], [2, 2]])
    >>> entries = Observed(places, torch.ones(2).double(), (3, 4))
    >>> repeated = entries.take(torch.tensor([0, 0, 1]))  # a weight of 2 is two observations
    >>> weighted = entries.weighted(torch.tensor([2.0, 1.0]).double())
    >>> bool(torch.isclose(PlannedGradient(net, weighted)(), PlannedGradient(net, repeated)()))
    True
    """

    def __init__(self, net: TensorNetwork, observed: Observed) -> None:
        self.net, self.observed = net, observed
        if observed.weights is not None:
            self.observed = observed.weighted(observed.weights * (len(observed) / observed.count))
        self._whole = LossGradient(net, _task(self.observed, net.dtype))
        self.parts = self._whole.parts

    def __call__(self, rows: slice | None = None) -> Tensor:
        """Return the mean squared error, a scalar without a graph, and write its gradient to `parts`.

        Args:
            rows: the observations of a mini-batch; None takes all.
        """
        if rows is None:
            return self._whole()
        chosen = torch.arange(*rows.indices(len(self.observed)), device=self.observed.values.device)
        if self.observed.weights is None:
            return self._whole(chosen)
        return LossGradient(self.net, _task(self.observed.take(chosen), self.net.dtype), self.parts)()


def _task(observed: Observed, dtype: torch.dtype) -> Completion:
    """Return the problem of fitting observed entries, each squared error multiplied by its weight."""
    loss: str | Loss = "mse"
    if observed.weights is not None:
        weights = observed.weights.to(dtype)
        loss = Loss(
            "weighted squared error",
            lambda prediction, value: weights * (prediction - value).square(),
            derivative=lambda prediction, value: 2 * weights * (prediction - value),
        )
    return Completion(observed.indices, observed.values.to(dtype), observed.shape, loss=loss, duplicates="keep")


class SparseGradient:
    """The mean squared error of a deep matrix at few of its entries, and its gradient.

    Let P C be the end matrix, where P is the product of all factors but the last, and let G hold the derivatives of the
    loss by the observed entries and zeros elsewhere. Then the gradients are G C^T by P and P^T G by C, two sparse
    products, and the chain rule through P takes only small dense ones. With m entries and width R, a call takes about
    3 m R multiply-adds. The positions of every mini-batch are sorted once.

    Args:
        net: the deep matrix.
        observed: the entries to fit.

    >>> import torch, ranklens as rl
    >>> net = rl.deep_matrix((3, 4), depth=3, std=0.5)
    >>> gradient = SparseGradient(net, Observed(torch.tensor([[0, 1], [2, 2]]), torch.ones(2).double(), (3, 4)))
    >>> loss = gradient()
    >>> wanted = net.gradients((net.tensor()[[0, 2], [1, 2]] - 1).square().mean())
    >>> places = contract.unstack(net.layout, gradient.parts)
    >>> all(torch.allclose(place, other) for place, other in zip(places, wanted))
    True
    """

    def __init__(self, net: TensorNetwork, observed: Observed) -> None:
        self.net, self.indices, self.values = net, observed.indices, observed.values.to(net.dtype)
        self.weights: Tensor | None = None  # in units of their mean
        if observed.weights is not None:
            self.weights = (observed.weights * (len(observed) / observed.count)).to(net.dtype)
        self.parts = [torch.empty_like(stack.detach()) for stack in net.stacks]
        self._patterns: dict[tuple[int, int], Pattern] = {}

    def __call__(self, rows: slice | None = None) -> Tensor:
        """Return the mean squared error, a scalar without a graph, and write its gradient to `parts`.

        Args:
            rows: the observations of a mini-batch; None takes all.
        """
        rows = slice(None) if rows is None else rows
        pattern, values = self._pattern(rows), self.values[rows]
        nodes = [node.detach() for node in self.net.nodes]
        places = contract.unstack(self.net.layout, self.parts)
        products = _products(nodes[:-1])
        right = nodes[-1].T.contiguous()
        errors = pattern.entries(products[-1], right) - values
        weighted = errors if self.weights is None else errors * self.weights[rows]
        loss = torch.dot(weighted, errors) / len(errors)
        by_product, by_last = pattern.products(weighted * (2 / len(errors)), products[-1], right)
        places[-1].copy_(by_last.T)
        for k in range(len(products) - 1, 0, -1):
            torch.mm(products[k - 1].T, by_product, out=places[k])
            by_product = by_product @ nodes[k].T
        places[0].copy_(by_product)
        return loss

    def _pattern(self, rows: slice) -> Pattern:
        """Return the pattern of the positions of a mini-batch, which is made once."""
        low, high, _ = rows.indices(len(self.values))
        if (low, high) not in self._patterns:
            shape = (self.net.shape[0], self.net.shape[1])
            self._patterns[low, high] = Pattern(self.indices[low:high], shape, self.net.dtype)
        return self._patterns[low, high]


def _products(factors: Sequence[Tensor]) -> list[Tensor]:
    """Return the first factor, the product of the first two, and so on."""
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] @ factor)
    return products
