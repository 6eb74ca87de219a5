"""The line under the pictures: how many components have been learned, and when the next one leaves."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.lab.experiment import Experiment, unfolded
from ranklens.tensors import measures

WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CUT = ("steps", "evaluations")  # ends of runs that would have gone on
FOLLOW = ("flow", "descent")  # optimizers that follow the law
SEEN = 0.1  # a component below this share of its goal is hardly above zero in the figure
SWEEPS = 30  # of the search for the best rank-one direction of a tensor


@dataclass(frozen=True)
class Escape:
    """The predicted escape of the next component.

    Attributes:
        size: its present size.
        alignment: the alignment with which it grows.
        wait: how long it takes from now until the component counts as learned.
    """

    size: float
    alignment: float
    wait: float


def learned(experiment: Experiment) -> int:
    """Return the number of components that have reached a quarter of the size that they have in the target.

    Components of CP are counted by their norms. In every other tensor they are counted by the singular values of the
    tensor as a matrix whose rows are the first half of the modes, because several components make up one of these.
    """
    if experiment.knobs.family == "cp" and not experiment.is_matrix:
        found = experiment.sizes().sort(descending=True).values.tolist()
    else:
        found = measures.singular_values(unfolded(experiment.end)).tolist()
    return sum(size >= goal for size, goal in zip(found, experiment.goals, strict=False))


def waiting_time(size: float, goal: float, alignment: float, order: float) -> float:
    r"""Return the time in which sigma' = K sigma^(2 - 2/K) gamma takes sigma from one size to another.

    With p = 2 - 2/K the solution is t = (sigma_0^(1-p) - sigma_1^(1-p)) / (K gamma (p - 1)). For K = 2, where p = 1, it
    is t = ln(sigma_1 / sigma_0) / (2 gamma).

    Args:
        size: sigma_0, positive.
        goal: sigma_1.
        alignment: gamma; if it is not positive the time is infinite.
        order: K, at least 1.

    >>> round(waiting_time(0.1, 1.0, 1.0, 2), 4)  # ln(10) / 2
    1.1513
    """
    if size >= goal:
        return 0.0
    if alignment <= 0 or size <= 0:
        return math.inf
    p = 2 - 2 / order
    if abs(p - 1) < 1e-9:
        return math.log(goal / size) / (order * alignment)
    return (size ** (1 - p) - goal ** (1 - p)) / (order * alignment * (p - 1))


def next_escape(experiment: Experiment) -> Escape | None:
    """Return the prediction for the largest component that is not learned yet, or None if all are.

    It assumes a balanced component that keeps the alignment which the best rank-one direction of minus the gradient
    has now: it is exact on a plateau once the component has turned into that direction, and early before.
    """
    count, goals = learned(experiment), experiment.goals
    if count >= len(goals):
        return None
    sizes = experiment.sizes().sort(descending=True).values
    if count >= len(sizes):
        return None
    with torch.enable_grad():  # a run evaluates what it tracks without gradients
        end = experiment.end.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(experiment.task.loss(end), end)
    alignment = _largest_inner_product(-gradient)
    size = float(sizes[count])
    return Escape(size, alignment, waiting_time(size, goals[count], alignment, float(experiment.order)))


def _largest_inner_product(direction: Tensor) -> float:
    """Return the largest inner product of a tensor with an outer product of unit vectors, or nearly so for tensors."""
    if direction.ndim == 2:
        return float(measures.singular_values(direction)[0])
    # Each vector in turn is set to the contraction with the others, which never lowers the inner product.
    unfoldings = [direction.movedim(n, 0).flatten(1) for n in range(direction.ndim)]
    vectors = [torch.linalg.svd(matrix, full_matrices=False)[0][:, 0] for matrix in unfoldings]
    value = 0.0
    for _ in range(SWEEPS):
        for n in range(direction.ndim):
            found = direction.movedim(n, -1)
            for k in range(direction.ndim):
                if k != n:
                    found = torch.tensordot(vectors[k], found, dims=([0], [0]))
            value = float(found.norm())
            if value == 0:
                return 0.0
            vectors[n] = found / value
    return value


def reading(experiment: Experiment, at: float, escape: Escape | None, stopped: str = "") -> str:
    """Return one line that says where a run stands.

    Args:
        experiment: the run, at its present state.
        at: the present time, or number of steps.
        escape: what `next_escape` returns for the run; None for a run that has reached its end.
        stopped: why the run has ended; empty while it runs.
    """
    count, whole = learned(experiment), len(experiment.goals)
    what = "singular value" if experiment.is_matrix else "component"
    verb = f"{what}{'' if whole == 1 else 's'} {'has' if count == 1 else 'have'}"
    text = f"{_word(count).capitalize()} of {_word(whole)} {verb} been learned"
    if stopped:
        rank = float(measures.effective_rank(unfolded(experiment.end)))
        ends = {
            "loss": "The loss has reached its goal",
            "evaluations": "The run was cut at its largest number of gradients",
            "steps": "All steps are done",
            "stationary": "Nothing moves any more",
            "nan": "The run diverged: take a smaller learning rate",
        }
        ended = f"{text}. {ends.get(stopped, f'Stopped by {stopped}')}; the effective rank is {rank:.2f}."
        due = None if escape is None or stopped not in CUT else due_at(experiment, escape, at)
        return ended if due is None else f"{ended} The next one would leave at about {_place(experiment, due)}."
    if escape is None:
        return f"{text}; what is left of the loss is noise and fine detail."
    due = due_at(experiment, escape, at)
    if due is None:
        known = experiment.knobs.optimizer in FOLLOW
        return f"{text}." if known else f"{text}. The theory predicts no time for this optimizer."
    why = "; until then it is too small to be seen" if escape.size < SEEN * experiment.goals[count] else ""
    return f"{text}; the next one leaves at about {_place(experiment, due)}. Now {_place(experiment, at)}{why}."


def due_at(experiment: Experiment, escape: Escape, at: float) -> float | None:
    """Return the time or step at which the next component counts as learned, or None if no prediction is possible.

    A step of gradient descent advances the time of the flow by the learning rate.

    Args:
        experiment: the run.
        escape: what `next_escape` returns for it.
        at: the present time or step.
    """
    knobs = experiment.knobs
    if knobs.optimizer not in FOLLOW or math.isinf(escape.wait):
        return None
    return at + escape.wait / (1.0 if knobs.optimizer == "flow" else knobs.rate)


def _place(experiment: Experiment, at: float) -> str:
    """Return a time or a step in words, with three significant digits and without an exponent below a million."""
    sign = "t =" if experiment.knobs.optimizer == "flow" else "step"
    return f"{sign} {float(f'{at:.3g}'):g}"


def _word(count: int) -> str:
    return WORDS[count] if count < len(WORDS) else str(count)
