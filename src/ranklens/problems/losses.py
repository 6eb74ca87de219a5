"""Losses of predictions against observed values, each of them one line of data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

__all__ = ["Loss", "half_sse", "huber", "l1", "mse"]


def __dir__() -> list[str]:
    return __all__


Elementwise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """An elementwise loss together with its reduction over observations.

    A loss is called with two tensors of shape (m,), predictions and values, and returns a differentiable scalar.

    Attributes:
        name: name of the loss in records.
        elementwise: function (predictions, values) -> one number per observation.
        reduction: "mean" or "sum" over observations.
        smooth: whether the gradient is continuous, which a gradient flow needs.
        derivative: function (predictions, values) -> the derivatives of `elementwise` in the predictions, one number
            per observation. Without it, autograd finds the derivatives.
    """

    name: str
    elementwise: Elementwise
    reduction: Literal["mean", "sum"] = "mean"
    smooth: bool = True
    derivative: Elementwise | None = None

    @checked
    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Return the reduced loss, a differentiable scalar.

        Args:
            prediction: (m,) predictions.
            value: (m,) observed values.

        Raises:
            ValueError: if the loss cannot be computed of these, as for shapes that do not fit together.
        """
        try:
            each = self.elementwise(prediction, value)
        except RuntimeError as error:
            raise ValueError(
                f"prediction has shape {tuple(prediction.shape)} and value {tuple(value.shape)}, of which the loss "
                f"cannot be computed: {error}"
            ) from error
        return each.mean() if self.reduction == "mean" else each.sum()

    def with_derivative(self, prediction: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, reduced as `reduction` says, and its derivative with respect to every prediction.

        Args:
            prediction: (m,) predictions.
            value: (m,) observed values.

        Returns:
            The loss, a scalar, and its derivatives, of shape (m,).

        >>> import torch, ranklens as rl
        >>> loss, derivative = rl.losses.mse.with_derivative(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        >>> float(loss), derivative.tolist()
        (2.0, [2.0, 0.0])
        """
        if self.derivative is None:
            with torch.enable_grad():
                free = prediction.detach().requires_grad_()
                loss = self(free, value)
                (derivative,) = torch.autograd.grad(loss, free)
            return loss.detach(), derivative
        derivative = self.derivative(prediction, value)
        return self(prediction, value), derivative / len(prediction) if self.reduction == "mean" else derivative


AnyLoss = str | Loss | Elementwise


def _square(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).square()


def _half_square(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).square() / 2


def _twice_difference(prediction: Tensor, value: Tensor) -> Tensor:
    return 2 * (prediction - value)


def _absolute(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).abs()


def _sign(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).sign()


@dataclass(frozen=True)
class _Huber:
    delta: float

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(prediction, value, reduction="none", delta=self.delta)

    def derivative(self, prediction: Tensor, value: Tensor) -> Tensor:
        return (prediction - value).clamp(-self.delta, self.delta)


def huber(delta: float = 1.0) -> Loss:
    """Return the Huber loss: the mean over observations of e^2 / 2 if |e| <= delta, else of delta (|e| - delta / 2).

    Here e is the prediction minus the value of one observation. Beyond delta the size of the gradient does not depend
    on e.

    Args:
        delta: the size of e at which the loss turns from quadratic to linear.

    Raises:
        ValueError: for a delta that is not positive and finite.

    >>> import torch, ranklens as rl
    >>> loss = rl.losses.huber(0.5)
    >>> far = torch.tensor([3.0, 7.0], requires_grad=True)
    >>> loss(far, torch.zeros(2)).backward(); far.grad.tolist()
    [0.25, 0.25]
    """
    if arguments.number("delta", delta) <= 0:
        raise ValueError(f"delta is {delta}; the threshold of a Huber loss is positive and finite")
    elementwise = _Huber(delta)
    return Loss(f"huber({delta:g})", elementwise, derivative=elementwise.derivative)


mse = Loss("mse", _square, derivative=_twice_difference)
half_sse = Loss("half_sse", _half_square, reduction="sum", derivative=torch.sub)
l1 = Loss("l1", _absolute, smooth=False, derivative=_sign)

PRESETS = {"mse": mse, "half_sse": half_sse, "huber": huber(), "l1": l1}


# Distances from equality, relative to 1 + |value|, at which one-sided derivatives of an own loss are compared.
NEAR, NEARER = 1e-4, 1e-7
# Smallest jump of a derivative, relative to its size, that is told from rounding errors.
LEAST_JUMP = 1e-6


def resolve(loss: AnyLoss, values: Tensor) -> Loss:
    """Return a loss given by its name, as a Loss, or as a callable (predictions, values) -> one number per observation.

    The mean of a callable is taken. It counts as smooth unless its derivative jumps where a prediction equals a value,
    as that of |prediction - value| does. This is tested numerically at the given values; for a loss that jumps
    elsewhere, pass a `Loss` with smooth=False.

    Args:
        loss: name, Loss or callable.
        values: (m,) observed values.

    Raises:
        ValueError: for a name that is no preset.
        TypeError: for anything else.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in PRESETS:
            raise ValueError(f"loss is {loss!r}; choose one of {sorted(PRESETS)}, rl.losses.huber(delta) or a callable")
        return PRESETS[loss]
    if callable(loss):
        return Loss(getattr(loss, "__name__", "custom"), loss, smooth=not _jumps(loss, values))
    raise TypeError(f"loss is a {type(loss).__name__}; pass a name, a ranklens Loss or a callable")


def _jumps(elementwise: Elementwise, values: Tensor) -> bool:
    """Return whether the derivative of a loss jumps where the prediction equals the value, for any of the values.

    The difference of the two one-sided derivatives is computed at two distances. At the smaller distance, a thousandth
    of the larger, the difference of a continuous derivative is much smaller, and that of a jump nearly as large.
    """

    def derivative(distance: float) -> Tensor:
        prediction = (fixed + distance * (1 + fixed.abs())).requires_grad_()
        total = elementwise(prediction, fixed).sum()
        if not total.requires_grad:
            return torch.zeros_like(fixed)
        return torch.autograd.grad(total, prediction, allow_unused=True, materialize_grads=True)[0]

    with torch.inference_mode(False), torch.enable_grad():
        fixed = values.detach().clone()
        near = (derivative(NEAR) - derivative(-NEAR)).abs()
        above, below = derivative(NEARER), derivative(-NEARER)
        nearer, size = (above - below).abs(), above.abs() + below.abs()
        return bool((torch.isfinite(nearer) & (nearer > near / 2) & (nearer > LEAST_JUMP * size)).any())
