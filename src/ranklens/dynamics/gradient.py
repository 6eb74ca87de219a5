"""The loss of a problem and its gradient in a network's parameters, without autograd wherever that is possible."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ranklens.problems.problem import BatchedProblem, Observations, Problem
from ranklens.problems.readout import Readout, readout, reads_end_tensor
from ranklens.tensors import contract
from ranklens.tensors.layout import Layout
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.planned import Operand, Planned


class LossGradient:
    """The loss of a network and its gradient, evaluated again and again while the parameters are written in place.

    For the library's own problems the end tensor and its reverse sweep are planned matrix products over memory that is
    allocated once (`Planned`); for any other problem, and where a few entries of a large tensor are cheaper than the
    tensor, autograd differentiates `task.loss(net)`. Both give the same numbers up to rounding.

    `gradient()` returns the loss, a scalar without a graph, and writes the gradient to the tensors `gradient.parts`.
    `gradient(rows)` does so for the mini-batch of the observations at these positions.

    Args:
        net: the network. Its trained parameters may be written in place; `is_current` tells whether they have been
            replaced since.
        task: the problem.
        parts: one tensor per trained stack of `net`, of its shape, where gradients are written; None allocates them.
        sign: 1; or -1, for which minus the gradient is written.

    Raises:
        ValueError: if the network's shape is not the shape of the tensors that the problem observes.

    >>> import torch, ranklens as rl
    >>> net = rl.deep_matrix((4, 4), depth=3, std=0.5)
    >>> task = rl.Completion.sample(torch.ones(4, 4, dtype=torch.float64), observed=9)
    >>> gradient = LossGradient(net, task)
    >>> loss = gradient()
    >>> wanted = torch.autograd.grad(task.loss(net), net.stacks)
    >>> all(torch.allclose(part, other) for part, other in zip(gradient.parts, wanted))
    True
    """

    def __init__(self, net: TensorNetwork, task: Problem, parts: Sequence[Tensor] | None = None, sign: int = 1) -> None:
        if isinstance(task, Observations):
            task.check_shape(net)
        self.net, self.task, self.sign = net, task, sign
        self.trained = [stack for stack in net.stacks if stack.requires_grad]
        self.parts = [torch.empty_like(stack.detach()) for stack in self.trained] if parts is None else list(parts)
        self._places = [stack.data_ptr() for stack in net.stacks]
        self.planned = self._plan() if reads_end_tensor(task, net.layout) else None
        self._readout: Readout | None = None if self.planned is None else readout(task, self.planned, sign)

    def _plan(self) -> Planned:
        """Plan the end tensor over the present storage of the parameters, with gradients written to `parts`."""
        parts, layout = iter(self.parts), self.net.layout
        stored = [stack.detach() for stack in self.net.stacks]
        places = [next(parts) if stack.requires_grad else stack.detach() for stack in self.net.stacks]
        return planned_end_tensor(layout, contract.unstack(layout, stored), contract.unstack(layout, places))

    @property
    def is_current(self) -> bool:
        """Return whether the parameters are still stored where they were when the gradient was planned.

        Always True for a gradient that is not planned. If False, make a new `LossGradient`.
        """
        return self.planned is None or self._places == [stack.data_ptr() for stack in self.net.stacks]

    def is_planned(self, rows: Tensor | None = None) -> bool:
        """Return whether the gradient is computed without autograd.

        Args:
            rows: positions of the observations of a mini-batch; None stands for all observations.
        """
        return self._readout is not None and (rows is None or reads_end_tensor(self.task, self.net.layout, len(rows)))

    def problem(self, rows: Tensor | None = None) -> Problem:
        """Return the problem, or the part of it that is a mini-batch.

        Args:
            rows: positions of the observations of the mini-batch; None stands for the whole problem.

        Raises:
            TypeError: for a mini-batch of a problem that has no method `subset`.
        """
        if rows is None:
            return self.task
        if not isinstance(self.task, BatchedProblem):
            raise TypeError(f"a {type(self.task).__name__} has no subset(rows), which a mini-batch needs")
        return self.task.subset(rows)

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar without a graph, and write the gradient to `parts`.

        Args:
            rows: positions of the observations of a mini-batch; None takes all observations.
        """
        if self.planned is None or self._readout is None or not self.is_planned(rows):
            with torch.enable_grad():
                loss = self.loss_with_graph(rows)
                found = torch.autograd.grad(loss, self.trained, allow_unused=True, materialize_grads=True)
            for part, gradient in zip(self.parts, found, strict=True):
                torch.mul(gradient, self.sign, out=part)
            return loss.detach()
        self.planned.forward()
        loss = (self._readout if rows is None else self._readout.of(rows)).loss_and_upstream()
        self.planned.backward()
        return loss

    def write(self) -> None:
        """Write the gradient over all observations to `parts`, without the loss where that is faster."""
        if self.planned is None or self._readout is None:
            self()
            return
        self.planned.forward()
        self._readout.write_upstream()
        self.planned.backward()

    def loss_with_graph(self, rows: Tensor | None = None) -> Tensor:
        """Return the loss as the problem computes it, a scalar that autograd can differentiate.

        Args:
            rows: positions of the observations that count, for a mini-batch; None takes all.

        Raises:
            TypeError: if the loss of the problem has no gradient.
        """
        loss = _checked(self.problem(rows).loss(self.net), self.task)
        if not loss.requires_grad:
            raise TypeError(
                f"the loss of a {type(self.task).__name__} has no gradient; compute it from net.tensor() by operations "
                f"of PyTorch, without detach(), item() or torch.no_grad()"
            )
        return loss

    def loss(self) -> Tensor:
        """Return the loss over all observations, a scalar without a graph; no gradient is computed."""
        if self.planned is None or self._readout is None:
            with torch.no_grad():
                return _checked(self.task.loss(self.net), self.task)
        self.planned.forward()
        return self._readout.loss()


def _checked(loss: object, task: Problem) -> Tensor:
    """Return the loss of a problem, which may be of the user's own class, if it is a tensor with a single number.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it holds more than one number.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"the loss of a {type(task).__name__} is a {type(loss).__name__}; return a torch tensor with a single "
            f"number, computed from net.tensor() without float() or item()"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"the loss of a {type(task).__name__} has shape {tuple(loss.shape)}; return a single number, such as the "
            f"mean() of it"
        )
    return loss


def planned_end_tensor(
    layout: Layout, nodes: Sequence[Tensor], gradients: Sequence[Tensor], batch: tuple[Hashable, ...] = ()
) -> Planned:
    """Return the plan of the end tensor of a network, or of several networks of one layout, over the memory of nodes.

    Args:
        layout: the labels of the nodes, of which frozen ones get no gradient.
        nodes: the nodes.
        gradients: one tensor per node, of its shape, where its gradient is written. Those of frozen nodes are not used.
        batch: labels of leading axes that all nodes and the end tensor have, such as one over networks.
    """
    operands = [
        Operand((*batch, *labels), node, None if k in layout.frozen else gradient)
        for k, (labels, node, gradient) in enumerate(zip(layout.nodes, nodes, gradients, strict=True))
    ]
    return Planned(operands, (*batch, *layout.out), contract.path_of_end_tensor(layout))
