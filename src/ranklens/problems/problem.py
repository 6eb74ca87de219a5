"""The protocols of a problem about a tensor, and the base class of problems with observed values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ranklens.problems import losses
from ranklens.problems.losses import AnyLoss, Loss
from ranklens.seeds import stream
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.convert import TensorLike, as_tensor
from ranklens.tensors.network import TensorNetwork


@runtime_checkable
class Problem(Protocol):
    """An object with a method `loss(net)` that returns a scalar. Gradient flow, descent and the theory need no more.

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
    """A problem whose method `loss` takes a network or, in its place, a plain tensor of the network's shape.

    Flows of the end tensor, and laws that contain the gradient of the loss in the end tensor, need this.
    """

    def loss(self, tensor: TensorNetwork | Tensor, /) -> Tensor:
        """Return the loss of a network or of a tensor of its shape: a scalar, differentiable in either."""


@runtime_checkable
class BatchedProblem(Protocol):
    """A problem made of observations, of which descent can use mini-batches."""

    def loss(self, tensor: TensorNetwork, /) -> Tensor:
        """Return the loss of a network over all observations of this problem: a differentiable scalar."""

    def __len__(self) -> int:
        """Return the number of observations."""

    def subset(self, rows: Tensor, /) -> "BatchedProblem":
        """Return the problem made of some of the observations; `rows` holds their positions, integers below len."""


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
    """The two problems that `Observations.split` makes of one.

    Attributes:
        train: the problem of the observations to fit.
        held_out: the problem of the observations to test on.
    """

    train: "Observations"
    held_out: "Observations"


class Observations:
    """The base class of completion and both kinds of sensing: observed values, a loss, and an optional target.

    Attributes:
        values: (m,) observed values, in float64.
        target: the whole tensor in float64, or None if it is not known.
        objective: the loss, as a `Loss` that compares (m,) predictions with `values`.
        shape: sizes of the modes of the tensor that is observed.
    """

    values: Tensor
    target: Tensor | None
    objective: Loss
    shape: tuple[int, ...]

    def __init__(self, values: TensorLike, shape: Sequence[int], target: TensorLike | None, loss: AnyLoss) -> None:
        self.values = check_values(values)
        self.shape = tuple(
            arguments.count(f"shape[{n}]", size) for n, size in enumerate(arguments.sequence("shape", shape))
        )
        self.objective = losses.resolve(loss, self.values)
        self.target = None if target is None else check_target(target, self.shape)
        self._moved: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        """Return the number of observations."""
        return len(self.values)

    def predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Return the (m,) values that a network or a tensor would be observed to have.

        Args:
            tensor: a network or a tensor, of the problem's shape.
        """
        self.check_shape(tensor)
        return self._predict(tensor)

    @checked
    def check_shape(self, tensor: TensorNetwork | Tensor) -> None:
        """Refuse a network or a tensor of another shape than the problem's.

        Args:
            tensor: a network or a tensor.

        Raises:
            ValueError: if its shape is another.
        """
        shape = tuple(tensor.shape)
        if shape != self.shape:
            raise ValueError(
                f"the problem is about tensors of shape {self.shape}, not {shape}; pass a network or a tensor of the "
                f"problem's shape"
            )

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Return the predictions for a network or tensor whose shape has been checked.

        Raises:
            AssertionError: in this base class.
        """
        raise AssertionError("every subclass predicts")

    def loss(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Return the loss of a network or of a tensor over all observations, a differentiable scalar.

        Args:
            tensor: a network or a tensor, of the problem's shape.
        """
        prediction = self.predict(tensor)
        return self.objective(prediction, self._like("values", prediction))

    def error(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Return the recovery error |tensor - target| / |target|, in Frobenius norms over all entries.

        The result is a scalar without an autograd graph. It is NaN for a target of zeros.

        Args:
            tensor: a network or a tensor, of the problem's shape.

        Raises:
            ValueError: if the problem was made without a target.
        """
        if self.target is None:
            raise ValueError("the recovery error needs the ground truth; pass target= when making the problem")
        self.check_shape(tensor)
        found = (tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor).detach()
        target = self._like("target", found)
        scale = target.abs().max()  # after division by it, squares neither underflow nor overflow
        return ((found - target) / scale).norm() / (target / scale).norm()

    def _like(self, name: str, other: Tensor) -> Tensor:
        """Return an attribute with the dtype (unless it is integer) and device of another tensor, converted once."""
        own: Tensor = getattr(self, name)
        dtype = other.dtype if own.dtype.is_floating_point else own.dtype
        key = (name, dtype, other.device)
        if key not in self._moved:
            with torch.inference_mode(False):  # kept for later calls, which may need gradients
                self._moved[key] = own.to(dtype=dtype, device=other.device)
        return self._moved[key]

    def subset(self, rows: Tensor) -> "Observations":
        """Return the problem made of some of the observations, with their target and loss unchanged.

        Args:
            rows: integer positions of the observations to keep, in the order wanted.

        Raises:
            AssertionError: in this base class.
        """
        raise AssertionError("every subclass makes its own subsets")

    @checked
    def split(self, fraction: float = 0.1, *, seed: int = 0) -> Split:
        """Return two problems: one of a random part of the observations, and one of the others.

        Args:
            fraction: share of the observations to hold out; their number is rounded to the nearest integer.
            seed: seed of the random choice.

        Returns:
            A `Split` with the problem `train` of the observations to fit, and the problem `held_out` of the others.

        Raises:
            ValueError: if one of the two would be empty.
        """
        held = round(arguments.number("fraction", fraction) * len(self))
        if not 0 < held < len(self):
            raise ValueError(f"a fraction of {fraction} of {len(self)} observations leaves one part empty")
        order = torch.randperm(len(self), generator=stream(seed, "split"))
        return Split(self.subset(order[held:].sort().values), self.subset(order[:held].sort().values))


def check_values(values: TensorLike) -> Tensor:
    """Return observed values as a float64 tensor.

    Args:
        values: (m,) finite real numbers, at least one.

    Raises:
        TypeError: if the values are not real numbers.
        ValueError: if they are not a vector, or one of them is not finite.
    """
    found = as_tensor("values", values)
    if found.dtype == torch.bool:
        raise TypeError(f"values are {found.dtype}; pass real numbers")
    if found.ndim != 1 or len(found) == 0:
        raise ValueError(f"values have shape {tuple(found.shape)}; pass (m,) of at least one observation")
    wrong = ~torch.isfinite(found)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"value {float(found[row])} in row {row} is not finite; leave that observation out")
    return found.detach().to(torch.float64, copy=True)


def check_target(target: TensorLike, shape: tuple[int, ...]) -> Tensor:
    """Return a target as a float64 tensor.

    Args:
        target: finite real numbers.
        shape: the shape that the target must have.

    Raises:
        ValueError: if the shape is another, or an entry is not finite.
    """
    found = as_tensor("target", target)
    if tuple(found.shape) != shape or not bool(torch.isfinite(found).all()):
        raise ValueError(f"target has shape {tuple(found.shape)}, or entries that are not finite; expected {shape}")
    return found.detach().to(torch.float64, copy=True)
