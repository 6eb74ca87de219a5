"""The squared error of a network at observed entries and its gradient, by whichever route takes fewer operations."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

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

    def __call__(self, rows: Tensor | None = None, /) -> Tensor:
        """Return the mean squared error, and write its gradient to `parts`.

        Args:
            rows: positions of the observations of a mini-batch; None takes all.
        """


def squared_error(net: TensorNetwork, observed: Observed) -> Gradient:
    """Return the mean squared error of a network at observed entries, as an object that evaluates its gradient.

    Args:
        net: the network, none of whose nodes is frozen. The parameters are read at every call.
        observed: the entries to fit. With weights, the mean is weighted.
    """
    if is_chain(net) and net.shape[0] * net.shape[1] > PER_ENTRY * len(observed):
        return SparseGradient(net, observed)
    if observed.weights is not None:
        return WeightedGradient(net, observed)
    return LossGradient(net, _task(observed, net.dtype, "mse"))


def _task(observed: Observed, dtype: torch.dtype, loss: str | Loss) -> Completion:
    """Return the problem of fitting observed entries."""
    values = observed.values.to(dtype)
    return Completion(observed.indices, values, observed.shape, loss=loss, duplicates="keep")


class WeightedGradient:
    """The weighted mean of the squared errors of a network at observed entries, and its gradient.

    A mini-batch is planned anew at every call, because every batch has weights of its own. The mean of a mini-batch is
    over its observations, and weights are in units of their mean over all observations.

    Args:
        net: the network.
        observed: the entries to fit, with weights.

    >>> import torch, ranklens as rl
    >>> net, places = rl.deep_matrix((3, 4), depth=3, std=0.5), torch.tensor([[0, 1], [2, 2]])
    >>> entries = Observed(places, torch.ones(2).double(), (3, 4), torch.tensor([2.0, 1.0]).double())
    >>> repeated = entries.weighted(None).take(torch.tensor([0, 0, 1]))  # a weight of 2 is two observations
    >>> bool(torch.isclose(WeightedGradient(net, entries)(), LossGradient(net, _task(repeated, net.dtype, "mse"))()))
    True
    """

    def __init__(self, net: TensorNetwork, observed: Observed) -> None:
        self.net = net
        self.observed = observed.weighted(observed.counts() * (len(observed) / observed.count))
        self._whole = LossGradient(net, self._problem(self.observed))
        self.parts = self._whole.parts

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        """Return the weighted mean squared error, a scalar without a graph, and write its gradient to `parts`.

        Args:
            rows: positions of the observations of a mini-batch; None takes all.
        """
        if rows is None:
            return self._whole()
        return LossGradient(self.net, self._problem(self.observed.take(rows)), self.parts)()

    def _problem(self, observed: Observed) -> Completion:
        """Return the problem of fitting observed entries, each squared error multiplied by its weight."""
        weights = observed.counts().to(self.net.dtype)
        loss = Loss(
            "weighted squared error",
            lambda prediction, value: weights * (prediction - value).square(),
            derivative=lambda prediction, value: 2 * weights * (prediction - value),
        )
        return _task(observed, self.net.dtype, loss)


class SparseGradient:
    """The mean squared error of a deep matrix at few of its entries, and its gradient.

    Let P C be the end matrix, where P is the product of all factors but the last, and let G hold the derivatives of the
    loss by the observed entries and zeros elsewhere. Then the gradients are G C^T by P and P^T G by C, two sparse
    products, and the chain rule through P takes only small dense ones. With m entries and width R, a call takes about
    3 m R multiply-adds.

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
        self._whole: Pattern | None = None

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        """Return the mean squared error, a scalar without a graph, and write its gradient to `parts`.

        Args:
            rows: positions of the observations of a mini-batch; None takes all.
        """
        pattern, values = self._pattern(rows), self.values if rows is None else self.values[rows]
        nodes = [node.detach() for node in self.net.nodes]
        places = contract.unstack(self.net.layout, self.parts)
        products = _products(nodes[:-1])
        right = nodes[-1].T.contiguous()
        errors = pattern.entries(products[-1], right) - values
        weighted = errors if self.weights is None else errors * (self.weights if rows is None else self.weights[rows])
        loss = torch.dot(weighted, errors) / len(errors)
        by_product, by_last = pattern.products(weighted * (2 / len(errors)), products[-1], right)
        places[-1].copy_(by_last.T)
        for k in range(len(products) - 1, 0, -1):
            torch.mm(products[k - 1].T, by_product, out=places[k])
            by_product = by_product @ nodes[k].T
        places[0].copy_(by_product)
        return loss

    def _pattern(self, rows: Tensor | None) -> Pattern:
        """Return the pattern of the positions of a mini-batch, or of all observations, which is made once."""
        shape = (self.net.shape[0], self.net.shape[1])
        if rows is not None:
            return Pattern(self.indices[rows], shape, self.net.dtype)
        if self._whole is None:
            self._whole = Pattern(self.indices, shape, self.net.dtype)
        return self._whole


def _products(factors: Sequence[Tensor]) -> list[Tensor]:
    """Return the first factor, the product of the first two, and so on."""
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] @ factor)
    return products
