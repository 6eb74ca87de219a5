"""Losses of a prediction against observed values: data, so that a new one is a line."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Loss", "half_sse", "huber", "l1", "mse"]


def __dir__() -> list[str]:
    return __all__


Elementwise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """An elementwise loss and how it is reduced.

    Attributes:
        name: what records call it.
        elementwise: (prediction, value) -> one number each.
        reduction: "mean" or "sum" over observations.
        smooth: whether its gradient is continuous, which a gradient flow needs.
        derivative: (prediction, value) -> the derivative of `elementwise` in the prediction, one number each. Without
            it, autograd finds the derivative.
    """

    name: str
    elementwise: Elementwise
    reduction: Literal["mean", "sum"] = "mean"
    smooth: bool = True
    derivative: Elementwise | None = None

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """The reduced loss, a differentiable scalar."""
        each = self.elementwise(prediction, value)
        return each.mean() if self.reduction == "mean" else each.sum()

    def with_derivative(self, prediction: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reduced loss and its derivative in every prediction.

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
    """The mean of e^2 / 2 where |e| <= delta, delta (|e| - delta / 2) beyond: constant gradient far from a fit.

    Raises:
        ValueError: for a delta that is not positive and finite.

    >>> import torch, ranklens as rl
    >>> loss = rl.losses.huber(0.5)
    >>> far = torch.tensor([3.0, 7.0], requires_grad=True)
    >>> loss(far, torch.zeros(2)).backward(); far.grad.tolist()
    [0.25, 0.25]
    """
    if not (math.isfinite(delta) and delta > 0):
        raise ValueError(f"delta is {delta}; the threshold of a Huber loss is positive and finite")
    elementwise = _Huber(delta)
    return Loss(f"huber({delta:g})", elementwise, derivative=elementwise.derivative)


mse = Loss("mse", _square, derivative=_twice_difference)
half_sse = Loss("half_sse", _half_square, reduction="sum", derivative=torch.sub)
l1 = Loss("l1", _absolute, smooth=False, derivative=_sign)

PRESETS = {"mse": mse, "half_sse": half_sse, "huber": huber(), "l1": l1}


def resolve(loss: AnyLoss) -> Loss:
    """A Loss from its name, from itself, or from a callable (prediction, value) -> elementwise (taken as smooth).

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
        return Loss(getattr(loss, "__name__", "custom"), loss)
    raise TypeError(f"loss is a {type(loss).__name__}; pass a name, a ranklens Loss or a callable")
