"""The losses of the members of an ensemble and their gradients, computed for groups of members at a time."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ranklens.dynamics.gradient import LossGradient, planned_end_tensor
from ranklens.problems.completion import Completion
from ranklens.problems.losses import half_sse, mse
from ranklens.problems.problem import Problem
from ranklens.problems.readout import reads_end_tensor
from ranklens.tensors import contract
from ranklens.tensors.ensemble import MEMBER, Ensemble

# Bytes that the members of a group take together, so that they stay in the second-level cache of a core.
CACHE = 3 * 2**19


class EnsembleGradient:
    """The losses of all members of an ensemble, and their gradients.

    Completions that read the whole end tensor are computed by batched matrix products, for groups of members that fit
    into a core's cache. For other problems every member is a group by itself.

    Args:
        ensemble: the networks. The gradients are written to the `grad` of its trained Parameters.
        tasks: one problem per member.

    Attributes:
        groups: the groups of members.
    """

    def __init__(self, ensemble: Ensemble, tasks: Sequence[Problem]) -> None:
        self.groups: list[Batch | Single] = []
        if not _are_alike(ensemble, tasks):
            self.groups.extend(Single(ensemble, task, k) for k, task in enumerate(tasks))
            return
        completions = [task for task in tasks if isinstance(task, Completion)]
        size = _group_size(ensemble)
        for k in range(0, len(tasks), size):
            self.groups.append(Batch(ensemble, completions[k : k + size], slice(k, k + size)))

    def evaluate(self) -> None:
        """Write the gradients of all members."""
        for group in self.groups:
            group.evaluate()

    def losses(self) -> Tensor:
        """Write the gradients of all members, and return the losses, of shape (members,)."""
        return torch.cat([group.losses() for group in self.groups])


class Single:
    """The loss of one member and its gradient, for any problem.

    Args:
        ensemble: the networks.
        task: the problem of the member.
        member: position of the member.

    Attributes:
        pairs: the trained parameters of the member, each with the memory of its gradient.
        members: the position of the member, as a slice.
    """

    def __init__(self, ensemble: Ensemble, task: Problem, member: int) -> None:
        self.pairs = _pairs(ensemble, slice(member, member + 1))
        self.members = slice(member, member + 1)
        self.gradient = LossGradient(ensemble.members[member], task, [gradient[0] for _, gradient in self.pairs])

    def evaluate(self) -> None:
        """Write the gradient."""
        self.gradient()

    def losses(self) -> Tensor:
        """Write the gradient, and return the loss, of shape (1,)."""
        return self.gradient().view(1)


class Batch:
    """The losses of some members and their gradients, by batched matrix products.

    Observed entries are told from others by a 0/1 mask over the end tensor, one row per member.

    Args:
        ensemble: the networks.
        tasks: a completion for every one of the members, with one loss function and no entry observed twice.
        members: the positions of the members.

    Attributes:
        pairs: the trained parameters of the members, each with the memory of its gradient.
        members: the positions of the members.
    """

    def __init__(self, ensemble: Ensemble, tasks: Sequence[Completion], members: slice) -> None:
        self.pairs, self.members = _pairs(ensemble, members), members
        nodes, places = ([x[members] for x in parts] for parts in (ensemble.nodes(), ensemble.split(_places(ensemble))))
        self.planned = planned_end_tensor(ensemble.layout, nodes, places, (MEMBER,))
        size = self.planned.memory.numel() // len(tasks)
        self.memory, self.upstream = (x.view(-1, size) for x in (self.planned.memory, self.planned.upstream))
        rows = tasks[:1] if all(task is tasks[0] for task in tasks) else tasks
        self.objective = tasks[0].objective
        self.mask, self.target = (torch.zeros(len(rows), size).to(self.memory) for _ in range(2))
        strides = torch.tensor(self.planned.value.stride()[1:])
        for k, task in enumerate(rows):
            positions = (task.indices.cpu() * strides).sum(dim=1).to(self.memory.device)
            weight = 1 / len(task) if self.objective.reduction == "mean" else 1.0
            self.mask[k, positions] = weight
            self.target[k, positions] = task.values.to(self.memory)
        self.squares = self.objective in (mse, half_sse)
        if self.squares:
            self.mask *= 2.0 if self.objective == mse else 1.0
            self.shift = -self.mask * self.target  # the derivative is mask * value + shift
            self.to_loss = 0.5 / self.mask.amax(dim=1)
        self._alone = _nodes_alone(ensemble)
        self._descent: tuple[list[float], list[Callable[[], object]], list[int]] | None = None

    def evaluate(self) -> None:
        """Write the gradients of the members."""
        self._write_upstream()
        self.planned.backward()

    def descend(self, rates: Sequence[float]) -> None:
        """Take a step of gradient descent on all members, whose gradients are not all written.

        Args:
            rates: one learning rate per pair.
        """
        if self._descent is None or self._descent[0] != rates:
            by_node = {node: rates[k] for k, node in enumerate(self._alone) if node is not None}
            operations, changed = self.planned.descent(by_node)
            self._descent = list(rates), operations, [k for k, node in enumerate(self._alone) if node not in changed]
        _, operations, left = self._descent
        self._write_upstream()
        for operation in operations:
            operation()
        descend_([self.pairs[k] for k in left], [rates[k] for k in left], None)

    def _write_upstream(self) -> None:
        """Compute the end tensors, and write the derivatives of the losses in them."""
        self.planned.forward()
        if self.squares:
            torch.addcmul(self.shift, self.memory, self.mask, out=self.upstream)
            return
        assert self.objective.derivative is not None
        each = self.objective.derivative(self.memory, self.target) * self.mask
        self.upstream.copy_(each.where(self.mask > 0, 0.0))

    def losses(self) -> Tensor:
        """Write the gradients of the members, and return their losses, one number per member."""
        self.evaluate()
        if self.squares:
            return self.upstream.square().sum(dim=1) * self.to_loss
        values = self.objective.elementwise(self.memory, self.target) * self.mask
        return values.where(self.mask > 0, 0.0).sum(dim=1)


def descend_(pairs: Sequence[tuple[Tensor, Tensor]], rates: Sequence[float], factors: Tensor | None) -> None:
    """Take a step of gradient descent in place.

    Args:
        pairs: parameters and gradients of some members, stacked along the first axis.
        rates: one learning rate per pair.
        factors: one factor per member, by which its step is multiplied. Members with factor 0 stay as they are, even if
            their gradient is not finite. None stands for ones.
    """
    for (value, gradient), rate in zip(pairs, rates, strict=True):
        if factors is None:
            value.add_(gradient, alpha=-rate)
        else:
            factor = factors.view(-1, *[1] * (value.ndim - 1))
            value.copy_(torch.where(factor > 0, value - rate * factor * gradient, value))


def _pairs(ensemble: Ensemble, members: slice) -> list[tuple[Tensor, Tensor]]:
    """Return the trained parameters of some members, each with the memory of its gradient."""
    trained = [stack for stack in ensemble.stacks if stack.requires_grad]
    for stack in trained:
        if stack.grad is None:
            stack.grad = torch.zeros_like(stack)
    return [(stack.detach()[members], stack.grad[members]) for stack in trained if stack.grad is not None]


def _nodes_alone(ensemble: Ensemble) -> list[int | None]:
    """Return for every trained stack the position of its node, or None for a stack of several nodes."""
    positions = zip(ensemble.stacks, contract.stacks_of(ensemble.layout), strict=True)
    return [nodes[0] if len(nodes) == 1 else None for stack, nodes in positions if stack.requires_grad]


def _are_alike(ensemble: Ensemble, tasks: Sequence[Problem]) -> bool:
    """Return whether all problems are completions that one `Batch` can compute."""
    completions = [task for task in tasks if type(task) is Completion and reads_end_tensor(task, ensemble.layout)]
    if len(completions) < len(tasks) or completions[0].objective.derivative is None:
        return False
    distinct = {id(task): task for task in completions}.values()
    return all(task.objective == completions[0].objective and len(task.flat.unique()) == len(task) for task in distinct)


def _group_size(ensemble: Ensemble) -> int:
    """Return how many members make a group: as many as fit into the cache on a CPU, and all on another device."""
    if ensemble.stacks[0].device.type != "cpu":
        return len(ensemble)
    parameters = sum(stack.numel() for stack in ensemble.stacks) // len(ensemble)
    numbers = 2 * parameters + 6 * math.prod(ensemble.layout.shape)
    return max(CACHE // (numbers * ensemble.stacks[0].element_size()), 1)


def _places(ensemble: Ensemble) -> list[Tensor]:
    """Return where the gradients of the Parameters are written: their `grad`. Those of frozen nodes have none."""
    return [stack.detach() if stack.grad is None else stack.grad for stack in ensemble.stacks]
