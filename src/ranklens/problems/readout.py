"""The loss of a problem, and its derivative in the end tensor, computed in the memory of a planned contraction."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ranklens.problems.completion import Completion
from ranklens.problems.losses import Loss, half_sse, mse
from ranklens.problems.problem import Observations, Problem
from ranklens.problems.sensing import DenseSensing, Sensing
from ranklens.problems.sequences import Sequences
from ranklens.tensors import contract
from ranklens.tensors.layout import Layout
from ranklens.tensors.planned import Planned

# Reading one entry by its position takes as long as this many entries of a pass over the whole tensor (measured).
GATHER = 8


@runtime_checkable
class Readout(Protocol):
    """The loss of a problem as a function of the end tensor that a planned contraction has computed in its memory."""

    def loss(self) -> Tensor:
        """Return the loss at the end tensor that the contraction computed last: a scalar without an autograd graph."""

    def loss_and_upstream(self) -> Tensor:
        """Return the loss at the end tensor that the contraction computed last, a scalar without a graph for autograd.

        The derivative of the loss in every entry of the end tensor, times the sign of the readout, is written to the
        contraction's `upstream`.
        """

    def write_upstream(self) -> None:
        """Write the derivative like `loss_and_upstream`, but do not compute the loss where that would take longer."""

    def of(self, rows: Tensor) -> "Readout":
        """Return the readout whose loss runs over a mini-batch of the observations, on the same planned contraction.

        Args:
            rows: integer positions of the observations; one may come twice.
        """


def reads_end_tensor(task: Problem, layout: Layout, observations: int | None = None) -> bool:
    """Return whether the loss of a problem is computed from the whole end tensor, by `readout`.

    True for a completion if the whole end tensor takes no more operations than the observed entries one by one. True
    for sensing of both kinds and for sequences if the end tensor has at most 2^26 entries. False for any other problem,
    and for a subclass of these, whose loss may be another.

    Args:
        task: the problem.
        layout: labels and sizes of the network.
        observations: how many of the problem's observations are evaluated; None stands for all.
    """
    if type(task) is Completion:
        return contract.reads_whole(layout, len(task) if observations is None else observations)
    if type(task) in (Sensing, DenseSensing, Sequences):
        return math.prod(layout.shape) <= contract.WHOLE
    return False


def readout(task: Problem, planned: Planned, sign: int = 1) -> Readout:
    """Return an object that computes a problem's loss, and its derivative, from the result of a planned contraction.

    Args:
        task: a problem for which `reads_end_tensor` is true.
        planned: the contraction of the network's end tensor.
        sign: 1; or -1, for which minus the derivative is written.

    Raises:
        TypeError: for a problem of another class.
    """
    if not isinstance(task, Observations):
        raise TypeError(f"a {type(task).__name__} has a loss of its own; take its gradient by autograd")
    if isinstance(task, Sequences) and not task.everything:
        return _Transition(task, planned, sign)
    if not isinstance(task, Completion):
        return _WholeTensor(task, planned, sign)
    strides = torch.tensor(planned.value.stride(), device=task.indices.device)
    positions = (task.indices * strides).sum(dim=1).to(planned.memory.device)
    values = task.values.to(planned.memory)
    alone = len(positions.unique()) == len(positions)
    if alone and task.objective in (mse, half_sse) and len(planned.memory) <= GATHER * len(positions):
        return _MaskedSquares(task.objective, positions, values, planned, sign)
    planned.upstream.zero_()  # entries that are not observed stay zero
    return _Entries(task.objective, positions, values, planned, sign, alone)


class _Entries:
    """Any loss of entries that are looked up by their position in memory."""

    def __init__(
        self, objective: Loss, positions: Tensor, values: Tensor, planned: Planned, sign: int, alone: bool
    ) -> None:
        self.objective, self.positions, self.values, self.planned = objective, positions, values, planned
        self.sign, self.alone = sign, alone

    def of(self, rows: Tensor) -> "_Entries":
        rows = rows.to(self.positions.device)  # a row may come twice, so its entry does not stand alone
        return _Entries(self.objective, self.positions[rows], self.values[rows], self.planned, self.sign, alone=False)

    def loss(self) -> Tensor:
        return self.objective(self.planned.memory[self.positions], self.values).detach()

    def loss_and_upstream(self) -> Tensor:
        prediction = self.planned.memory.index_select(0, self.positions)
        loss, derivative = self.objective.with_derivative(prediction, self.values)
        if self.sign < 0:
            derivative = derivative.neg()
        if self.alone:
            self.planned.upstream.index_copy_(0, self.positions, derivative)
        else:
            self.planned.upstream.zero_().index_add_(0, self.positions, derivative)
        return loss

    def write_upstream(self) -> None:
        self.loss_and_upstream()


class _MaskedSquares:
    """Squared errors of entries, each observed once, by passes over the whole tensor instead of look-ups.

    With M the 0/1 mask of observed entries, T their values and c the factor of the derivative, the derivative is
    D = c (W M - T), and the loss is |D|^2 / (c^2 * its own factor).
    """

    def __init__(self, objective: Loss, positions: Tensor, values: Tensor, planned: Planned, sign: int) -> None:
        factor = 2.0 / len(values) if objective.reduction == "mean" else 1.0
        self.planned, self.to_loss = planned, 1 / (2 * factor)
        self.entries = _Entries(objective, positions, values, planned, sign, alone=True)
        self.mask, self.minus_target = torch.zeros_like(planned.memory), torch.zeros_like(planned.memory)
        self.mask[positions] = sign * factor
        self.minus_target[positions] = values * (-sign * factor)

    def of(self, rows: Tensor) -> _Entries:
        return self.entries.of(rows)

    def loss(self) -> Tensor:
        difference = torch.addcmul(self.minus_target, self.planned.memory, self.mask)
        return torch.dot(difference, difference) * self.to_loss

    def loss_and_upstream(self) -> Tensor:
        self.write_upstream()
        return torch.dot(self.planned.upstream, self.planned.upstream) * self.to_loss

    def write_upstream(self) -> None:
        torch.addcmul(self.minus_target, self.planned.memory, self.mask, out=self.planned.upstream)


class _WholeTensor:
    """Any loss of the end tensor, whose derivative in the tensor is taken by autograd."""

    def __init__(self, task: Observations, planned: Planned, sign: int) -> None:
        self.task, self.planned, self.sign = task, planned, sign

    def of(self, rows: Tensor) -> "_WholeTensor":
        return _WholeTensor(self.task.subset(rows), self.planned, self.sign)

    def loss(self) -> Tensor:
        with torch.no_grad():
            return self.task.loss(self.planned.value)

    def loss_and_upstream(self) -> Tensor:
        with torch.enable_grad():
            free = self.planned.value.detach().clone().requires_grad_()
            loss = self.task.loss(free)
            (derivative,) = torch.autograd.grad(loss, free)
        torch.mul(self.planned.in_memory_order(derivative), self.sign, out=self.planned.upstream)
        return loss.detach()

    def write_upstream(self) -> None:
        self.loss_and_upstream()


class _Transition:
    """Any loss of last outputs of a state space model, whose end tensor is its diagonal A.

    The response is h_l = sum_r w_r A_r^l, so a loss with derivatives g_l in the response has the derivative
    w_r sum_l l g_l A_r^(l-1) in A_r.
    """

    def __init__(self, task: Sequences, planned: Planned, sign: int) -> None:
        like = planned.memory
        self.task, self.planned, self.sign = task, planned, sign
        self.inputs, self.values, self.weights = (x.to(like) for x in (task.reversed, task.values, task.weights))
        self.delays = torch.arange(self.inputs.shape[1], dtype=like.dtype, device=like.device)
        self.exponents = self.delays.unsqueeze(1)

    def of(self, rows: Tensor) -> "_Transition":
        return _Transition(self.task.subset(rows), self.planned, self.sign)

    def _powers_and_prediction(self) -> tuple[Tensor, Tensor]:
        """Return the powers of A, (time, states), and the outputs that they give."""
        P = self.planned.memory.pow(self.exponents)
        return P, self.inputs @ (P @ self.weights)

    def loss(self) -> Tensor:
        return self.task.objective(self._powers_and_prediction()[1], self.values).detach()

    def loss_and_upstream(self) -> Tensor:
        P, prediction = self._powers_and_prediction()
        loss, derivative = self.task.objective.with_derivative(prediction, self.values)
        slopes = (derivative @ self.inputs) * self.delays * self.sign
        torch.mul(slopes[1:] @ P[:-1], self.weights, out=self.planned.upstream)
        return loss.detach()

    def write_upstream(self) -> None:
        self.loss_and_upstream()
