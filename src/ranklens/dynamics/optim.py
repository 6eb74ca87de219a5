"""GroupRMSprop, whose trajectories are those of gradient flow, and optimizers to compare it with."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.measures import rank_cutoff

__all__ = ["GroupRMSprop", "SharedAdam", "SignDescent", "Spectral"]


def __dir__() -> list[str]:
    return __all__


class GroupRMSprop(torch.optim.Optimizer):
    r"""Take gradient descent steps, divided by a running norm of the gradient of all parameters together.

        v <- beta v + (1 - beta) sum_p |g_p|^2,   theta <- theta - lr g / (sqrt(v / (1 - beta^t)) + eps).

    Here g_p is the gradient of parameter p, and t counts steps. The scalar v is shared by all parameters of all groups,
    so a step has the direction of minus the gradient. The parameters follow the trajectory of gradient flow, in steps
    of time `effective_lr`, which adapt. They move by a distance of about lr per step, so the loss cannot settle below a
    floor of order lr^2.

    Args:
        params: parameters or parameter groups; groups may differ in lr only.
        lr: learning rate; about the distance that the parameters move per step.
        beta: decay rate of the running mean of squared norms, from 0 to below 1.
        eps: number added to the running norm, so that the step stays finite where the gradient vanishes.
        members: number of networks in an `rl.stack`, whose parameters are then the only ones. Each member has a norm v
            of its own, so that members do not influence each other. None for parameters that belong together.

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

    @checked
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        *,
        beta: float = 0.99,
        eps: float = 1e-6,
        members: int | None = None,
    ) -> None:
        _check_lr(lr)
        if members is not None:
            members = arguments.count("members", members)
        self.members = members
        if arguments.number("beta", beta) < 0 or beta >= 1:
            raise ValueError(f"beta is {beta}; it must be at least 0 and below 1")
        eps = arguments.number("eps", eps, least=0)
        with arguments.reading("params"):
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
        """Return the factor by which the last step multiplied minus the gradient of the first parameter group.

        This factor is the time by which the step advances along gradient flow. It is 0 before the first step. For an
        ensemble it is the largest of the members.
        """
        state = self.state[self._first]
        group = self.param_groups[0]
        return 0.0 if not state else float((group["lr"] / _scale(state, group["beta"], group["eps"])).max())

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: function that recomputes the gradients and returns the loss, or None.

        Returns:
            The loss of the closure, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        used = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        gradients = [p.grad for group in used for p in group]
        if not gradients:
            return loss
        lead = self.param_groups[0]
        # torch saves state per parameter, so the shared state belongs to the first parameter
        state = self.state[self._first]
        norm = _running_norm(state, self._squared_norms(gradients), lead["beta"], lead["eps"])
        for group, params in zip(self.param_groups, used, strict=True):
            scale = (group["lr"] / norm).to(params[0])
            if self.members is None:
                torch._foreach_sub_(params, torch._foreach_mul([p.grad for p in params], scale))
            else:
                for p in params:
                    p.addcmul_(p.grad, scale.view(-1, *[1] * (p.ndim - 1)), value=-1)
        return loss

    def _squared_norms(self, gradients: list[Tensor]) -> Tensor:
        """Return the squared norm of all gradients together, or one per member."""
        device = gradients[0].device
        if self.members is None:
            return torch.stack([norm.to(device) for norm in torch._foreach_norm(gradients)]).square().sum()
        return torch.stack([g.flatten(1).norm(dim=1).to(device) for g in gradients]).square().sum(dim=0)


def _running_norm(state: dict[str, Tensor], squared: Tensor, beta: float, eps: float) -> Tensor:
    r"""Return the number sqrt(v / (1 - beta^t)) + eps by which `GroupRMSprop` divides a gradient, one per member.

    Args:
        state: the running mean v as "square", and the number t of steps as "step". Both are advanced by one step in
            place; an empty state begins with v = 0 and t = 0.
        squared: squared norm of the gradient of all parameters, or of those of every member.
        beta: decay rate of the running mean.
        eps: number added to the root.
    """
    if not state:
        state["step"], state["square"] = torch.zeros((), dtype=torch.float64), torch.zeros_like(squared)
    state["step"] += 1
    state["square"].mul_(beta).add_(squared.to(state["square"].device), alpha=1 - beta)
    return _scale(state, beta, eps)


def _scale(state: dict[str, Tensor], beta: float, eps: float) -> Tensor:
    return (state["square"] / (1 - beta ** float(state["step"]))).sqrt() + eps


class SharedAdam(torch.optim.Optimizer):
    r"""Take steps of Adam with one second moment shared by all parameters.

        m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) sum_p |g_p|^2,
        theta <- theta - lr m^ / (sqrt(v^) + eps)

    Here m^ and v^ are the moments m and v, corrected for their initial value zero, and g_p is the gradient of parameter
    p. Adam has one second moment per entry, which turns the step away from the gradient. With a shared one, steps
    differ from those of gradient descent only by momentum and by their length.

    Args:
        params: parameters, or parameter groups.
        lr: learning rate; about the distance that the parameters move per step.
        betas: decay rates of the running means of the gradient and of its squared norm.
        eps: number added to the square root, so that the step stays finite where the gradient vanishes.

    Raises:
        ValueError: for numbers out of range.

    Source: Kingma and Ba (ICLR 2015), with a shared second moment.

    >>> import torch, ranklens as rl
    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = rl.optim.SharedAdam([x], lr=0.5)
    >>> (x.square().sum() / 2).backward(); optimizer.step()
    >>> [round(v, 3) for v in x.tolist()]  # towards zero; Adam would subtract 0.5 from both entries
    [2.7, 3.6]
    """

    @checked
    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        _check_lr(lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; both must be at least 0 and below 1")
        with arguments.reading("params"):
            super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients in `p.grad`; parameters whose gradient is None do not move.

        Args:
            closure: never called. Compute the gradients before the step, and leave out this argument.
        """
        moved = [(p, p.grad, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moved:
            return
        squared = torch.stack([gradient.norm() for _, gradient, _ in moved]).square().sum()
        for p, gradient, group in moved:
            state, (first, second) = self.state[p], group["betas"]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float64)
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(squared)
            state["step"] += 1
            t = float(state["step"])
            state["mean"].lerp_(gradient, 1 - first)
            state["square"].lerp_(squared, 1 - second)
            size = (state["square"] / (1 - second**t)).sqrt() + group["eps"]
            p.sub_(group["lr"] / (1 - first**t) * state["mean"] / size)


class SignDescent(torch.optim.Optimizer):
    """Take steps theta <- theta - lr sign(g): every entry moves by lr, whatever the size of its gradient.

    This is steepest descent in the maximum norm, so it does not follow the trajectory of gradient flow, at any speed.

    Args:
        params: parameters, or parameter groups.
        lr: distance that every entry moves per step.

    Raises:
        ValueError: for an lr that is not positive.

    >>> import torch, ranklens as rl
    >>> x = torch.tensor([3.0, -0.1], requires_grad=True)
    >>> optimizer = rl.optim.SignDescent([x], lr=0.5)
    >>> x.square().sum().backward(); optimizer.step()
    >>> [round(v, 3) for v in x.tolist()]
    [2.5, 0.4]
    """

    @checked
    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        _check_lr(lr)
        with arguments.reading("params"):
            super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients in `p.grad`; parameters whose gradient is None do not move.

        Args:
            closure: never called. Compute the gradients before the step, and leave out this argument.
        """
        _step_along(self, torch.sign)


class Spectral(torch.optim.Optimizer):
    r"""Take steps theta <- theta - lr U V^T, where G = U S V^T is the gradient of a matrix parameter theta.

    This is steepest descent in the spectral norm; Muon approximates it by an iteration. All singular values of the
    gradient count alike, so the singular values of the factors of a deep matrix all grow at the rate lr, and the small
    ones reach their final values before the large ones.

    Args:
        params: matrices, or batches of matrices (*, rows, columns).
        lr: learning rate; the spectral norm of a step.

    Raises:
        ValueError: for an lr that is not positive, or a parameter of fewer than two dimensions.

    Source: Carlson, Cevher, Carin (AISTATS 2015); Jordan et al. (Muon, 2024).

    >>> import torch, ranklens as rl
    >>> W = torch.diag(torch.tensor([3.0, 0.2])).requires_grad_()
    >>> optimizer = rl.optim.Spectral([W], lr=0.1)
    >>> W.square().sum().backward(); optimizer.step()
    >>> [round(v, 3) for v in W.diagonal().tolist()]  # both singular values fall by 0.1
    [2.9, 0.1]
    """

    @checked
    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        _check_lr(lr)
        with arguments.reading("params"):
            super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"a parameter has shape {tuple(p.shape)}; spectral steps are those of matrices")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients in `p.grad`; parameters whose gradient is None do not move.

        Args:
            closure: never called. Compute the gradients before the step, and leave out this argument.
        """
        _step_along(self, _orthogonalized)


def _step_along(optimizer: torch.optim.Optimizer, direction: Callable[[Tensor], Tensor]) -> None:
    """Subtract lr times the direction of the gradient from every parameter that has a gradient."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.sub_(group["lr"] * direction(p.grad))


def _orthogonalized(G: Tensor) -> Tensor:
    """Return U V^T for G = U S V^T, without the singular vectors of singular values that count as zero."""
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    counts = s > rank_cutoff(s.dtype, G.shape) * s[..., :1]
    return (U * counts[..., None, :]) @ Vh


def _check_lr(lr: float) -> None:
    arguments.number("lr", lr, above=0)
