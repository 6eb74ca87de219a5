"""GroupRMSprop, the optimizer of the talk's experiments: gradient flow with a time that adapts to the gradient."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class GroupRMSprop(torch.optim.Optimizer):
    r"""Gradient descent whose one step size is divided by a running norm of the whole gradient.

        v <- beta v + (1 - beta) sum_p |g_p|^2,   theta <- theta - lr g / (sqrt(v / (1 - beta^t)) + eps).

    The scalar v is shared by all parameters of all groups, so that the direction is the gradient's: a trajectory is
    gradient flow's, run through with a time that adapts (`effective_lr` per step). Parameters move by about lr a
    step, so the loss cannot settle below a floor of order lr^2.

    Args:
        params: parameters or parameter groups; groups may differ in lr only.
        lr: about the distance moved per step.
        beta: memory of the running squared norm.
        eps: keeps the step finite where the gradient vanishes.

    Raises:
        ValueError: for numbers out of range.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019), appendix on experiments.

    >>> import torch, ranklens as rl
    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = rl.optim.GroupRMSprop([x], lr=0.5)
    >>> (x.square().sum() / 2).backward(); optimizer.step()
    >>> [round(v, 3) for v in x.tolist()]  # moved by 0.5 towards zero
    [2.7, 3.6]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        *,
        beta: float = 0.99,
        eps: float = 1e-6,
    ) -> None:
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr is {lr}; it must be positive and finite")
        if not 0 <= beta < 1:
            raise ValueError(f"beta is {beta}; it must be at least 0 and below 1")
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps is {eps}; it must be zero or more, and finite")
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})
        for name, value in {"beta": beta, "eps": eps}.items():
            for group in self.param_groups:
                if group[name] != value:
                    raise ValueError(
                        f"a group has {name} {group[name]}, the others {value}; groups may differ in lr only"
                    )

    @property
    def _first(self) -> Tensor:
        return self.param_groups[0]["params"][0]

    @property
    def effective_lr(self) -> float:
        """Step over gradient in the first group at the last step: how much gradient-flow time that step took."""
        state = self.state[self._first]
        group = self.param_groups[0]
        return 0.0 if not state else float(group["lr"] / _scale(state, group["beta"], group["eps"]))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        used = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        gradients = [p.grad for group in used for p in group]
        if not gradients:
            return loss
        lead = self.param_groups[0]
        # the state hangs on the first parameter only, because torch saves state per parameter
        state = self.state[self._first]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["square"] = torch.zeros((), dtype=gradients[0].dtype, device=gradients[0].device)
        state["step"] += 1
        squared = torch.stack([g.to(state["square"].device) for g in torch._foreach_norm(gradients)]).square().sum()
        state["square"].mul_(lead["beta"]).add_(squared, alpha=1 - lead["beta"])
        for group, params in zip(self.param_groups, used, strict=True):
            scale = group["lr"] / _scale(state, lead["beta"], lead["eps"])
            torch._foreach_sub_(params, torch._foreach_mul([p.grad for p in params], scale.to(params[0])))
        return loss


def _scale(state: dict[str, Tensor], beta: float, eps: float) -> Tensor:
    return (state["square"] / (1 - beta ** float(state["step"]))).sqrt() + eps
