"""The input-gradient-change penalty, which counters locality: what one patch wants should depend on another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import set_stance
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranklens import seeds
from ranklens.nn.logits import scores
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
    statistics are those of the loss's forwards alone. `torch.nn.Dropout` drops nothing in here, since two draws would
    differ by chance, and an `output` that it was part of is not used. Fused attention has no second derivative, so
    that attention is computed plainly; do the same for an `output` that is passed.

    Args:
        model: gives one logit, (batch,) or (batch, 1), or several, (batch, classes), or an object whose `logits` they
            are, as models of Hugging Face do. A DistributedDataParallel model shares gradients if the loss's own
            forward went through it. What is compiled, which torch cannot differentiate twice, is run uncompiled; its
            `output` cannot be passed.
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
    >>> round(float(rl.nn.locality_penalty(product, x, patches=(left, right)).detach()), 4)
    1.0
    >>> distance = lambda x: (x[..., :2] - x[..., 2:].flip(0) * 2).square().sum((1, 2, 3))
    >>> float(rl.nn.locality_penalty(distance, x, patches=(left, right)).detach()) < 1
    True
    """
    samples = _samples(x, fraction)
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it is a norm above 0, below which a gradient counts as none")
    if y is not None and y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; give one class for each of the {len(x)} samples")
    if output is not None and not x.requires_grad:
        raise ValueError("output is given but x does not require a gradient; call x.requires_grad_() before the model")
    inside, exchanged = (m.to(x.device) for m in masks(_drawn(patches, x.shape[1:], generator), x.shape[1:]))
    keep = torch.is_grad_enabled()
    if samples < len(x) or concatenated or not keep or any(_dropping(model)):
        output, x, y = None, x[:samples], None if y is None else y[:samples]
    plain = _unwrapped(model)
    with torch.enable_grad(), _as_if_not_run(plain), sdpa_kernel(SDPBackend.MATH), set_stance("force_eager"):
        here = x if output is not None else x.detach().requires_grad_()
        there = torch.where(exchanged, x.detach().roll(-1, dims=0), x.detach()).requires_grad_()
        if concatenated:
            score = _scores(plain(torch.cat([here, there])), None if y is None else torch.cat([y, y]), 2 * samples)
            changes = torch.autograd.grad(score, (here, there), create_graph=keep, materialize_grads=True)
        else:
            changes = (
                _change(_scores(plain(here) if output is None else output, y, samples), here, keep, output is not None),
                _change(_scores(plain(there), y, samples), there, keep),
            )
        first, second = (_direction(g * inside, eps) for g in changes)
        penalty = (first * second).sum(dim=1).abs().mean()
    return penalty if keep else penalty.detach()


def _change(score: Tensor, at: Tensor, keep: bool, shared: bool = False) -> Tensor:
    """The gradient in the input; zero where the network is dead, which a shared output must not seem to be."""
    (found,) = torch.autograd.grad(score, at, create_graph=keep, retain_graph=True, allow_unused=True)
    if found is None and shared:
        raise ValueError("output does not come from x; call x.requires_grad_(), then the model on that very tensor")
    return torch.zeros_like(at) if found is None else found


class LocalityPenalty:
    """`locality_penalty` in a training loop: weighted, on every k-th step only, with a stream of pairs of its own.

    On the other steps it is zero, and on its own `every` times as large, so that its mean over steps is that of the
    penalty on each; it is cheaper, and learns later, than on each. `due` says whether the coming step is one: only then
    does x have to require a gradient. Under `no_grad`, as when a trainer evaluates its loss, it is zero and no step is
    counted.

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
        return self.weight > 0 and self.steps % self.every == 0 and torch.is_grad_enabled()

    def __call__(
        self, model: Callable[[Tensor], Any], x: Tensor, y: Tensor | None = None, *, output: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """The term to add to the loss of this step."""
        due = self.due
        self.steps += torch.is_grad_enabled()
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
        self.generator.set_state(state["generator"].cpu())


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


def _scores(output: Any, y: Tensor | None, count: int) -> Tensor:
    """The sum of the logits, or of those of the true classes."""
    found = scores(output, count)
    classes = found.shape[1]
    if classes == 1:
        return found.sum()
    if y is None:
        raise ValueError(f"the model gives {classes} logits; pass the true classes as y")
    if y.is_floating_point() or bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(f"y is {y.dtype} from {y.min()} to {y.max()}; classes are integers from 0 to {classes - 1}")
    return found.gather(1, y.long()[:, None]).sum()


def _direction(gradients: Tensor, eps: float) -> Tensor:
    rows = gradients.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(eps)


def _unwrapped(model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """What is inside a distributed model; the hooks that share gradients sit on the parameters."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) else model


def _dropping(model: Any) -> Iterator[nn.Module]:
    """What makes forwards differ by chance."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return (m for m in modules if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0)


@contextmanager
def _as_if_not_run(model: Any) -> Iterator[None]:
    """Norms with running statistics normalise as their mode says and forget what they saw; dropout drops nothing."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    instance = nn.modules.instancenorm._InstanceNorm  # which heeds its momentum and not the flag
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    before = [(m, m.track_running_stats, m.momentum) for m in norms]
    dropping = list(_dropping(model))
    for norm in norms:
        if isinstance(norm, instance):
            norm.momentum = 0.0
        else:
            norm.track_running_stats = False
    for module in dropping:
        module.training = False
    try:
        yield
    finally:
        for norm, track, momentum in before:
            norm.track_running_stats, norm.momentum = track, momentum
        for module in dropping:
            module.training = True
