"""What every problem about a tensor is, and what those with observed values share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ranklens.problems import losses
from ranklens.problems.losses import AnyLoss, Loss
from ranklens.seeds import stream
from ranklens.tensors.network import TensorNetwork


@runtime_checkable
class Problem(Protocol):
    """Anything with a loss of a network: the least that flow, descent and the theory need.

    A class of your own is a problem when it has this one method; it need not inherit from anything.

    >>> import torch, ranklens as rl
    >>> class Trace:
    ...     def loss(self, net):
    ...         return (net.tensor().trace() - 1.0) ** 2
    >>> isinstance(Trace(), rl.problems.Problem)
    True
    """

    def loss(self, tensor: TensorNetwork, /) -> Tensor:
        """Return the loss of a network: a scalar, differentiable in the network's nodes."""


@runtime_checkable
class TensorProblem(Protocol):
    """A problem whose loss also takes the end tensor itself, which laws of the end tensor and its flow need."""

    def loss(self, tensor: TensorNetwork | Tensor, /) -> Tensor:
        """Return the loss of a network or of a tensor of its shape: a scalar, differentiable in either."""


@runtime_checkable
class BatchedProblem(Protocol):
    """A problem made of observations, which descent can take in mini-batches."""

    def loss(self, tensor: TensorNetwork, /) -> Tensor:
        """Return the loss over all observations of this problem."""

    def __len__(self) -> int:
        """Return the number of observations."""

    def subset(self, rows: Tensor, /) -> "BatchedProblem":
        """Return the problem made of some of the observations, by row."""


def loss_name(task: Problem) -> str:
    """Return the name of a problem's loss, or the name of the problem's class if it has no `objective`."""
    objective = getattr(task, "objective", None)
    return objective.name if isinstance(objective, Loss) else type(task).__name__


def check_problem(task: Problem) -> None:
    """Refuse an argument `task` that is no problem.

    Raises:
        TypeError: if it has no method `loss`.
    """
    if not isinstance(task, Problem) or isinstance(task, type):
        raise TypeError(
            f"task is {task!r}; pass a problem: an object with a method loss(net) that returns a differentiable "
            f"scalar, such as rl.Completion(indices, values, shape)"
        )


def check_smooth(task: Problem) -> None:
    """Refuse a task that is no problem, or whose loss has a discontinuous gradient and so no gradient flow.

    Raises:
        TypeError: if it is no problem.
        ValueError: if the gradient of its loss is discontinuous.
    """
    check_problem(task)
    objective = getattr(task, "objective", None)
    if isinstance(objective, Loss) and not objective.smooth:
        raise ValueError(
            f"the loss {objective.name!r} has a discontinuous gradient, so it has no gradient flow; use "
            f"loss=rl.losses.huber(delta) with a small delta, or rl.gradient_descent"
        )


@dataclass(frozen=True)
class Split:
    """Two problems made of one.

    Attributes:
        train: the observations to fit.
        held_out: the observations to test on.
    """

    train: "Observations"
    held_out: "Observations"


class Observations:
    """What completion and both kinds of sensing share: values, a loss, an optional target."""

    values: Tensor
    target: Tensor | None
    objective: Loss
    shape: tuple[int, ...]

    def __init__(self, values: Tensor, shape: Sequence[int], target: Tensor | None, loss: AnyLoss) -> None:
        self.values = check_values(values)
        self.shape = tuple(shape)
        self.objective = losses.resolve(loss)
        self.target = None if target is None else check_target(target, self.shape)
        self._moved: dict[Any, Any] = {}

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.values)

    def predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """What a network or a tensor gives at the observations."""
        self._check_shape(tensor)
        return self._predict(tensor)

    def _check_shape(self, tensor: TensorNetwork | Tensor) -> None:
        shape = tuple(tensor.shape)
        if shape != self.shape:
            raise ValueError(f"the problem is about tensors of shape {self.shape}, not {shape}")

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        raise AssertionError("every problem says how it observes")

    def loss(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """The loss of a network or of a tensor: a differentiable scalar."""
        prediction = self.predict(tensor)
        return self.objective(prediction, self._like("values", prediction))

    def error(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Recovery error |tensor - target| / |target| over all entries, seen and unseen.

        Raises:
            ValueError: when the problem does not know its target.
        """
        if self.target is None:
            raise ValueError("the recovery error needs the ground truth; pass target= when making the problem")
        self._check_shape(tensor)
        found = (tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor).detach()
        target = self._like("target", found)
        scale = target.abs().max()  # squares of what is divided by it neither under- nor overflow
        return ((found - target) / scale).norm() / (target / scale).norm()

    def _like(self, name: str, other: Tensor) -> Tensor:
        """An own tensor with the dtype (unless integer) and device of another, converted once."""
        own: Tensor = getattr(self, name)
        dtype = other.dtype if own.dtype.is_floating_point else own.dtype
        key = (name, dtype, other.device)
        if key not in self._moved:
            with torch.inference_mode(False):  # it is kept, also for what is trained afterwards
                self._moved[key] = own.to(dtype=dtype, device=other.device)
        return self._moved[key]

    def subset(self, rows: Tensor) -> "Observations":
        """Return the problem made of some of the observations, by row."""
        raise AssertionError("every problem says what a part of it is")

    def split(self, fraction: float = 0.1, *, seed: int = 0) -> Split:
        """Hold out a random fraction of the observations: `.train` and `.held_out`.

        Raises:
            ValueError: if one of the two would be empty.
        """
        held = round(fraction * len(self))
        if not 0 < held < len(self):
            raise ValueError(f"a fraction of {fraction} of {len(self)} observations leaves one part empty")
        order = torch.randperm(len(self), generator=stream(seed, "split"))
        return Split(self.subset(order[held:].sort().values), self.subset(order[:held].sort().values))


def check_values(values: Tensor) -> Tensor:
    """Return observed values as float64, or say why they cannot be observations."""
    if not isinstance(values, Tensor) or values.dtype.is_complex or values.dtype == torch.bool:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values are {kind}; pass a tensor of real numbers")
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {tuple(values.shape)}; pass (m,) of at least one observation")
    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"value {float(values[row])} in row {row} is not finite; leave that observation out")
    return values.detach().double()


def check_target(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a target as float64, or say why it cannot be one."""
    if tuple(target.shape) != shape or not bool(torch.isfinite(target).all()):
        raise ValueError(f"target has shape {tuple(target.shape)}, or entries that are not finite; expected {shape}")
    return target.detach().double()
