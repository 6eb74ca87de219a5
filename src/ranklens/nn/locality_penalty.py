"""The input-gradient-change penalty: it counters locality by asking that two patches of an input interact."""

from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from torch.compiler import set_stance
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranklens import seeds
from ranklens.nn.logits import logits
from ranklens.nn.model_state import Model, active_dropout, state_kept, without_wrapper
from ranklens.nn.regions import Pair, Sampler, masks
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# Norm of an input gradient within a patch, below which it is divided by this number instead of by its norm. It is far
# below the gradients of a network at a usual initialization, and keeps derivatives of the penalty below its inverse.
EPS = 1e-8
# Beginnings of the names of steps in the graph of a tensor whose derivative torch cannot differentiate: attention in
# one kernel, by its kinds, and compiled functions.
ONCE = (
    "ScaledDotProductFlash",
    "ScaledDotProductEfficient",
    "ScaledDotProductCudnn",
    "ScaledDotProductFused",
    "CompiledFunction",
)


@checked
def locality_penalty(
    model: Model,
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
    r"""Compute how little the gradient of a logit in one patch changes when another patch is exchanged.

    For two disjoint patches I and J of the inputs x^1, ..., x^B, the penalty is

        R = mean_b |cos( grad_I f(x_I^b, x_J^b), grad_I f(x_I^b, x_J^(b+1)) )|,

    where f is the model's logit (the logit of the true class, if there are several), grad_I is its gradient with
    respect to the pixels in I, and cos is the cosine of the angle between two gradients. In the second gradient the
    patch J is taken from the next sample of the batch; the first sample follows the last. R is 1 if the direction of
    the gradient never depends on J, and 0 if the two gradients are always orthogonal. R is 1 for g(x_I) h(x_J), which
    has separation rank 1, and for g(x_I) + h(x_J). Adding R to a training loss therefore rewards an interaction between
    the patches, which networks with a bias to locality learn poorly.

    R does not change when f is multiplied by a constant, so its derivative with respect to the parameters grows as the
    gradients of f shrink. Networks whose gradients are near zero at initialization, such as factorizations initialized
    at a small scale, stay there if the penalty is added. Use it with usual initializations.

    Both forward passes leave the state of the model as it was. Batch-norm in training mode normalizes each of the two
    passes by its own batch, exchanged patches included, and running statistics are not updated. `torch.nn.Dropout` is
    switched off, because two random masks would change the gradient by chance; if the model has active dropout, then
    `output` is ignored and both passes are computed. Fused attention and compiled models have no second derivative, so
    both passes compute attention by the plain kernel and without compilation; an `output` that was computed otherwise
    is ignored, and costs a second forward pass. To save it, compute `output` within
    `torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`.

    Args:
        model: returns one logit per sample, of shape (batch,) or (batch, 1), or several, of shape (batch, classes), or
            an object whose attribute `logits` is such a tensor. The gradients of a DistributedDataParallel model are
            averaged over processes if the loss's own forward pass went through that model.
        x: a batch of at least two inputs, of any floating-point dtype.
        y: (batch,) integer classes; needed only if there are several logits.
        patches: two disjoint regions, each a box (top, left, height, width) in the last two axes, in pixels, or a
            boolean mask over one input. Or a sampler, such as `PatchPairs`, that draws two boxes.
        output: the model's output on x, where x requires a gradient. It saves one of the two forward passes.
        generator: the random stream from which a sampler draws.
        eps: positive number; a gradient whose norm is smaller is divided by `eps` instead of its norm. A gradient of
            zero then contributes 0 to R, and no derivative of R in a gradient exceeds 1 / eps.
        fraction: share of the batch to use, above 0 and at most 1. The first round(fraction * batch) samples are used,
            and at least two. If this is less than the batch, `output` is ignored.
        concatenated: whether to compute both forward passes as one of twice the batch. Then `output` is ignored, and
            batch-norm normalizes by the joint batch.

    Returns:
        R, a scalar between 0 and 1, in float64 for float64 inputs and in float32 for all others. It is differentiable
        in the parameters, except under `torch.no_grad`.

    Raises:
        TypeError: for inputs that are not floating-point numbers.
        ValueError: for fewer than two samples; for `fraction` or `eps` out of range; for regions that overlap or do not
            fit; for several logits without classes; for a sampler without a generator; or for an `output` that was not
            computed from x.

    Source: Razin, Maman, Cohen (ICML 2022), section 5, where there is no eps.

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
    _check_fraction(fraction)
    if not x.is_floating_point():
        raise TypeError(f"x is a tensor of {x.dtype}; the penalty is a derivative in x, so give floating-point numbers")
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} samples; patches are exchanged between samples, so give two at least")
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it is a norm above 0, below which a gradient counts as none")
    eps = float(eps)
    if y is not None and y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; give one class for each of the {len(x)} samples")
    if output is not None and not x.requires_grad:
        raise ValueError("output is given but x does not require a gradient; call x.requires_grad_() before the model")
    inside, exchanged = (m.to(x.device) for m in masks(_drawn(patches, x.shape[1:], generator), x.shape[1:]))
    differentiable = torch.is_grad_enabled()
    samples = max(round(fraction * len(x)), 2)
    unusable = output is not None and _is_differentiable_once(logits(output, len(x)))
    if unusable or samples < len(x) or concatenated or not differentiable or any(active_dropout(model)):
        output, x, y = None, x[:samples], None if y is None else y[:samples]
    plain = without_wrapper(model)
    with torch.enable_grad(), state_kept(plain), sdpa_kernel(SDPBackend.MATH), set_stance("force_eager"):
        there = torch.where(exchanged, x.detach().roll(-1, dims=0), x.detach()).requires_grad_()
        gradients: tuple[Tensor, ...]
        if concatenated:
            gradients = _joint_gradients(plain, x.detach().requires_grad_(), there, y, differentiable)
        elif output is None:
            here = x.detach().requires_grad_()
            gradients = tuple(_gradient(_summed(plain(at), y, samples), at, differentiable) for at in (here, there))
        else:
            first = _gradient_of_shared(_summed(output, y, samples), x)
            gradients = first, _gradient(_summed(plain(there), y, samples), there, differentiable)
        first, second = (_direction(gradient * inside, eps) for gradient in gradients)
        penalty = (first * second).sum(dim=1).abs().mean()
    return penalty if differentiable else penalty.detach()


def _gradient(logit: Tensor, at: Tensor, differentiable: bool) -> Tensor:
    """Return the gradient of a scalar in the inputs; zero where it does not depend on them, as in a dead network."""
    (found,) = torch.autograd.grad(
        logit, at, create_graph=differentiable, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def _is_differentiable_once(output: Tensor) -> bool:
    """Return whether the graph of an output has a step whose derivative torch cannot differentiate."""
    seen: set[object] = set()
    waiting = [output.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step.name().startswith(ONCE):
            return True
        waiting += [before for before, _ in step.next_functions]
    return False


def _gradient_of_shared(logit: Tensor, x: Tensor) -> Tensor:
    """Return the gradient in x of a scalar from the caller's own forward pass.

    Raises:
        ValueError: if the scalar was not computed from x.
    """
    (found,) = torch.autograd.grad(logit, x, create_graph=True, allow_unused=True)
    if found is None:
        raise ValueError("output does not come from x; call x.requires_grad_(), then the model on that very tensor")
    return found


def _joint_gradients(
    model: Model, here: Tensor, there: Tensor, y: Tensor | None, differentiable: bool
) -> tuple[Tensor, ...]:
    """Return the gradients at both inputs, from one forward pass over the two batches together."""
    classes = None if y is None else torch.cat([y, y])
    logit = _summed(model(torch.cat([here, there])), classes, 2 * len(here))
    return torch.autograd.grad(logit, (here, there), create_graph=differentiable, materialize_grads=True)


class PenaltyState(TypedDict):
    """State of a `LocalityPenalty`: the number of steps so far, and the state of its random stream."""

    steps: int
    generator: Tensor


class LocalityPenalty:
    """A `locality_penalty` for training loops: weighted, computed on every k-th step, with its own random stream.

    Let R be the `locality_penalty` of a batch, and k = `every`. The term to add to the training loss is `weight` * k *
    R on every k-th step, starting with the first, and 0 on the other steps. The mean over steps is the mean of `weight`
    * R, at a k-th of the cost. Networks then learn somewhat later than with the penalty on each step. The property
    `due` tells whether the coming step computes the penalty: only then must x require a gradient. Under
    `torch.no_grad`, for instance in validation, the term is 0 and no step is counted.

    Args:
        patches: two disjoint regions, each a box (top, left, height, width) in the last two axes, in pixels, or a
            boolean mask over one input. Or a sampler, such as `PatchPairs`, that draws two boxes for each evaluation.
        weight: number that multiplies the penalty, at least 0.
        every: number of steps from one evaluation of the penalty to the next, at least 1.
        fraction: share of each batch that is used, above 0 and at most 1: its first round(fraction * batch) samples,
            and at least two.
        seed: seed of the stream from which a sampler draws.
        eps: smallest norm by which a gradient is divided; a gradient with a smaller norm is divided by `eps`.

    Attributes:
        steps: number of calls so far, without those under `torch.no_grad`.

    Raises:
        ValueError: for `every` below 1, a negative weight, or a fraction that is not above 0 and at most 1.

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

    @checked
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
        arguments.count("every", every)
        weight = arguments.number("weight", weight, least=0)
        _check_fraction(fraction)
        self.patches, self.weight, self.every, self.fraction, self.eps = patches, weight, every, fraction, eps
        self.steps = 0
        self.generator = seeds.stream(seed, "patches")

    @property
    def due(self) -> bool:
        """Return whether a call at this moment would compute the penalty; otherwise it would return 0.

        This is so if `steps` is a multiple of `every`, `weight` is positive, and gradients are enabled.
        """
        return self.weight > 0 and self.steps % self.every == 0 and torch.is_grad_enabled()

    def __call__(
        self, model: Model, x: Tensor, y: Tensor | None = None, *, output: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return the term to add to the training loss of this step, and count the step.

        Args:
            model: the model, as in `locality_penalty`.
            x: a batch of at least two inputs.
            y: (batch,) integer classes; needed only if there are several logits.
            output: the model's output on x, where x requires a gradient; it saves one forward pass.

        Returns:
            A scalar: `weight` times `every` times the penalty if `due`, else 0.
        """
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

    def state_dict(self) -> PenaltyState:
        """Return the number of steps and the state of the random stream, to be saved in a checkpoint."""
        return {"steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state: PenaltyState) -> None:
        """Restore the number of steps and the random stream, so that training continues as if not interrupted.

        Args:
            state: what `state_dict` returned.
        """
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"].cpu())


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it is a share of the batch, above 0 and at most 1")


def _drawn(patches: Pair | Sampler, shape: torch.Size, generator: torch.Generator | None) -> Pair:
    """Return the two regions, drawn by the sampler if `patches` is one.

    Raises:
        ValueError: for a sampler without a generator.
    """
    if not callable(patches):
        return patches
    if generator is None:
        raise ValueError("patches are drawn, but there is no generator; pass generator=torch.Generator()")
    return patches(shape, generator)


def _summed(output: object, y: Tensor | None, count: int) -> Tensor:
    """Return the sum over samples of the only logit, or of the logit of the true class.

    Raises:
        ValueError: for several logits without classes, or for numbers that are no classes.
    """
    found = logits(output, count)
    classes = found.shape[1]
    if classes == 1:
        return found.sum()
    if y is None:
        raise ValueError(f"the model gives {classes} logits; pass the true classes as y")
    if y.is_floating_point() or bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(f"y is {y.dtype} from {y.min()} to {y.max()}; classes are integers from 0 to {classes - 1}")
    return found.gather(1, y.long()[:, None]).sum()


def _direction(gradients: Tensor, eps: float) -> Tensor:
    """Return one row per sample, its gradient divided by its norm, in float32 at least.

    In half precision squares of gradients would underflow, and `eps` would be rounded to zero.
    """
    rows = gradients.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(eps)
