"""The input-gradient-change penalty, which counters locality: what one patch wants should depend on another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranklens import seeds
from ranklens.nn.regions import Pair, Sampler, masks

EPS = 1e-8  # input gradients of a patch below this norm count as none


def locality_penalty(
    model: Callable[[Tensor], Any],
    x: Float[Tensor, "batch ..."],
    y: Tensor | None = None,
    *,
    patches: Pair | Sampler,
    output: Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: float = EPS,
    fraction: float = 1.0,
    concatenated: bool = False,
) -> Float[Tensor, ""]:
    r"""How little the gradient in one patch changes when another patch is exchanged: 1 if never, 0 if altogether.

    For disjoint patches I, J and samples b,

        R = mean_b |cos( grad_I f(x_I^b, x_J^b), grad_I f(x_I^b, x_J^(b+1)) )|,

    where the patch J of the next sample replaces that of this one, and f is the logit, of several the one of the true
    class. A function g(x_I) h(x_J), which has separation rank 1, has R = 1; so have sums g(x_I) + h(x_J). Adding R to
    a loss asks for dependence between patches, which is what a network biased to locality lacks. R does not change when
    f is scaled: its derivative grows as f's gradient shrinks, so that it traps what starts near zero, like
    factorizations at a small scale; it is meant for networks at the usual ones.

    Batch-norm in training mode normalises either forward by its own batch, exchanged patches and all, and running
    statistics are those of the loss's forwards alone. Fused attention has no second derivative, so that attention is
    computed plainly in here; do the same for an `output` that is passed.

    Args:
        model: gives one logit, (batch,) or (batch, 1), or several, (batch, classes), or an object whose `logits` they
            are, as models of Hugging Face do. A DistributedDataParallel model
            shares gradients if the loss's own forward went through it. A compiled model, which torch cannot
            differentiate twice, is run uncompiled; its `output` cannot be passed.
        x: inputs, two at least.
        y: (batch,) true classes; not needed for one logit.
        patches: two regions, each a box (top, left, height, width) of the last two axes or a boolean mask over one
            input; or what draws such a pair, like `PatchPairs`.
        output: the model's output on x, x requiring a gradient, so that a loss's forward is used once more.
        generator: from which pairs are drawn.
        eps: gradients with a smaller norm are divided by this instead of their norm, so that zero has penalty and
            derivative zero and no derivative is above 1 / eps.
        fraction: of the batch, its first samples; then `output` is not used.
        concatenated: do both forwards as one of twice the batch; then `output` is not used, and batch-norm sees both.

    Returns:
        A scalar, differentiable in the parameters; under `no_grad` the number alone.

    Raises:
        ValueError: for fewer than two samples, a fraction or an eps out of range, regions as in `PatchPairs`, several
            logits without classes, a sampler without a generator, or an `output` that does not come from x.

    Source: Razin, Maman, Cohen (ICML 2022), section 5, there without an eps.

    >>> import torch, ranklens as rl
    >>> x = torch.linspace(0.1, 1, 48).reshape(6, 1, 2, 4)
    >>> left, right = (0, 0, 2, 2), (0, 2, 2, 2)
    >>> product = lambda x: x[..., :2].square().sum((1, 2, 3)) * x[..., 2:].sum((1, 2, 3))
    >>> round(float(rl.nn.locality_penalty(product, x, patches=(left, right))), 4)
    1.0
    >>> distance = lambda x: (x[..., :2] - x[..., 2:].flip(0) * 2).square().sum((1, 2, 3))
    >>> float(rl.nn.locality_penalty(distance, x, patches=(left, right))) < 1
    True
    """
    samples = _samples(x, fraction)
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it is a norm above 0, below which a gradient counts as none")
    if y is not None and y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; give one class for each of the {len(x)} samples")
    inside, exchanged = (m.to(x.device) for m in masks(_drawn(patches, x.shape[1:], generator), x.shape[1:]))
    if samples < len(x) or concatenated:
        output, x, y = None, x[:samples], None if y is None else y[:samples]
    if output is not None and not x.requires_grad:
        raise ValueError("output is given but x does not require a gradient; call x.requires_grad_() before the model")
    keep = torch.is_grad_enabled()
    plain = _unwrapped(model)
    with torch.enable_grad(), _running_statistics_kept(plain), sdpa_kernel(SDPBackend.MATH):
        here = x if output is not None else x.detach().requires_grad_()
        there = torch.where(exchanged, x.detach().roll(-1, dims=0), x.detach()).requires_grad_()
        if concatenated:
            both = torch.cat([here, there])
            score = _scores(plain(both), None if y is None else torch.cat([y, y])).sum()
            changes = torch.autograd.grad(score, (here, there), create_graph=keep, materialize_grads=True)
        else:
            outputs = (output if output is not None else plain(here), plain(there))
            changes = tuple(
                torch.autograd.grad(
                    _scores(o, y).sum(), at, create_graph=keep, retain_graph=True, materialize_grads=True
                )[0]
                for o, at in zip(outputs, (here, there), strict=True)
            )
        first, second = (_direction(g * inside, eps) for g in changes)
        penalty = (first * second).sum(dim=1).abs().mean()
    return penalty if keep else penalty.detach()


class LocalityPenalty:
    """`locality_penalty` in a training loop: weighted, on every k-th step only, with a stream of pairs of its own.

    On the other steps it is zero, and on its own `every` times as large, so that its mean over steps is that of the
    penalty on each. `due` says whether the coming step is one: only then does x have to require a gradient.

    Args:
        patches: as in `locality_penalty`.
        weight: what the penalty is multiplied by.
        every: steps from one evaluation to the next.
        fraction: of each batch that is looked at.
        seed: of the pairs that a sampler draws.
        eps: as in `locality_penalty`.

    Raises:
        ValueError: for an `every` below one, a negative weight, or a fraction outside (0, 1].

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     hidden, last = torch.nn.Linear(128, 9), torch.nn.Linear(9, 1)
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.Tanh(), last)
    >>> x, y = torch.linspace(-1, 1, 512).reshape(4, 2, 8, 8), torch.tensor([0.0, 1, 0, 1])
    >>> penalty = rl.nn.LocalityPenalty(rl.nn.PatchPairs(2), weight=3.0, every=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    >>> for _ in range(8):
    ...     output = model(x.requires_grad_(penalty.due))
    ...     loss = torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], y)
    ...     loss = loss + penalty(model, x, output=output)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> penalty.steps
    8
    """

    def __init__(
        self,
        patches: Pair | Sampler,
        *,
        weight: float = 1.0,
        every: int = 8,
        fraction: float = 1.0,
        seed: int = 0,
        eps: float = EPS,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; it is a number of steps, at least 1")
        if not weight >= 0:
            raise ValueError(f"weight is {weight}; it multiplies a penalty, so it is at least 0")
        _check_fraction(fraction)
        self.patches, self.weight, self.every, self.fraction, self.eps = patches, weight, every, fraction, eps
        self.steps = 0
        self.generator = seeds.stream(seed, "patches")

    @property
    def due(self) -> bool:
        """Whether the next call evaluates the penalty."""
        return self.weight > 0 and self.steps % self.every == 0

    def __call__(
        self, model: Callable[[Tensor], Any], x: Tensor, y: Tensor | None = None, *, output: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """The term to add to the loss of this step."""
        due = self.due
        self.steps += 1
        if not due:
            return x.new_zeros(())
        found = locality_penalty(
            model,
            x,
            y,
            patches=self.patches,
            output=output,
            generator=self.generator,
            eps=self.eps,
            fraction=self.fraction,
        )
        return self.weight * self.every * found

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for a training run that goes on later."""
        return {"steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"])


def _samples(x: Tensor, fraction: float) -> int:
    _check_fraction(fraction)
    if not x.is_floating_point():
        raise TypeError(f"x is a tensor of {x.dtype}; the penalty is a derivative in x, so give floating-point numbers")
    samples = max(round(fraction * len(x)), 2)
    if len(x) < 2:
        raise ValueError(f"the batch has {len(x)} samples; patches are exchanged between samples, so give two at least")
    return samples


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it is a share of the batch, above 0 and at most 1")


def _drawn(patches: Pair | Sampler, shape: torch.Size, generator: torch.Generator | None) -> Pair:
    if not callable(patches):
        return patches
    if generator is None:
        raise ValueError("patches are drawn, but there is no generator; pass generator=torch.Generator()")
    return patches(shape, generator)


def _scores(output: Any, y: Tensor | None) -> Tensor:
    """The logit of every sample, or that of its class."""
    output = getattr(output, "logits", output)
    scores = output.flatten(1) if output.ndim > 1 else output[:, None]
    if scores.shape[1] > 1:
        if y is None:
            raise ValueError(f"the model gives {scores.shape[1]} logits; pass the true classes as y")
        scores = scores.gather(1, y.long()[:, None])
    return scores


def _direction(gradients: Tensor, eps: float) -> Tensor:
    rows = gradients.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(eps)


def _unwrapped(model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """What is inside a compiled or distributed model; the hooks that share gradients sit on the parameters."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return _unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)  # of a compiled one
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


@contextmanager
def _running_statistics_kept(model: Any) -> Iterator[None]:
    """Batch-norm normalises as its mode says, and forgets what it saw."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    tracked = [m.track_running_stats for m in norms]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module, track in zip(norms, tracked, strict=True):
            module.track_running_stats = track
