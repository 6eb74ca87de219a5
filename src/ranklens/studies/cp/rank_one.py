"""A tensor factorization with a small initialization follows a trajectory of rank one."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, seeds, theory
from ranklens.dynamics import flow
from ranklens.problems import losses
from ranklens.studies.kit import laws, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork

TITLE = "From a small initialization a tensor factorization follows a trajectory of rank one"
EXPLANATION = (
    "If one component leads, being longer than the others by the factor of the theorem, it escapes from zero alone. "
    "The smaller the scale alpha of the initialization, the less the others have grown by then: their share of the "
    "solution falls like alpha^N, where N is the order, and the whole tensor stays near the flow of a single component "
    "all the way to the target."
)
SOURCE = "Razin, Maman, Cohen (ICML 2021), the theorem on balanced rank-one trajectories"


@dataclass(frozen=True)
class Settings:
    """Completion of tensors of rank one with a Huber loss, from balanced components alpha * a.

    Attributes:
        size: size of every mode.
        order: number of modes.
        components: number of components of the factorization.
        observed: number of observed entries.
        threshold: threshold of the Huber loss; below all observed absolute values.
        lead: norm of the vectors of the leading component, over what the theorem requires.
        alphas: scales of the initialization, from large to small.
        until_loss: training loss at which the flows end.
        compared: number of the first seeds for which the flow of the leading component alone is run as well.
        rtol: relative tolerance of the solver.
        seeds: seeds of targets, observed entries and initial components.
    """

    size: int = 4
    order: int = 3
    components: int = 4
    observed: int = 40
    threshold: float = 0.1
    lead: float = 1.05
    alphas: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003)
    until_loss: float = 1e-8
    compared: int = 2
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(alphas=(0.1, 0.03, 0.01, 0.003, 0.001), seeds=tuple(range(10))),
    "tiny": Settings(alphas=(0.03, 0.01), seeds=(0,)),
}
MINUTES = {"laptop": 0.2, "paper": 1.5, "tiny": 0.05}
# Rows of a record from one comparison with the flow of the leading component alone to the next.
EVERY = 5
# Largest scale alpha to which the power law, which holds in the limit of small alpha, is fitted.
SMALL = 0.03


def run(settings: Settings) -> xr.Dataset:
    """Return final components, error, and distance to the flow of the leading component alone, by alpha and seed."""
    parts = [xr.concat([_one(settings, a, s) for s in settings.seeds], dim="seed") for a in settings.alphas]
    record = xr.concat(parts, dim="alpha")
    return record.assign_coords(alpha=list(settings.alphas), seed=list(settings.seeds))


def target(settings: Settings, seed: int) -> Tensor:
    """Return a random tensor of rank one, the outer product of vectors whose entries have absolute values above 1/2."""
    shapes = [(settings.size,)] * settings.order
    vectors = [x.sign() * (0.5 + x.abs()) for x in seeds.normals(shapes, seed, "rank-one target")]
    found = vectors[0]
    for vector in vectors[1:]:
        found = found[..., None] * vector
    return found


def start(settings: Settings, task: problems.Completion, seed: int) -> TensorNetwork:
    """Return a CP factorization with components of unit vectors, except for the leading one, which is longer.

    The leading component is the one for which the theorem requires the least factor. Its vectors get the norm
    `settings.lead` times this factor.

    Args:
        settings: sizes of the factorization.
        task: the problem, whose gradient at zero decides the factor.
        seed: seed of the directions.
    """
    net = families.cp((settings.size,) * settings.order, settings.components, std=1.0, seed=seed)
    with torch.no_grad():
        for node in net.nodes:
            node.div_(node.norm(dim=0))
        leader = _leader(net, task)
        factor = theory.leading_factor(net, task)[leader]
        for node in net.nodes:
            node[:, leader] *= settings.lead * factor
    return net


def _leader(net: TensorNetwork, task: problems.Completion) -> int:
    """Return the component for which the theorem requires the least factor."""
    return int(theory.leading_factor(net, task).argmin())


def _one(settings: Settings, alpha: float, seed: int) -> xr.Dataset:
    """Return the record of one alpha and seed."""
    value, huber = target(settings, seed), losses.huber(settings.threshold)
    task = problems.Completion.sample(value, settings.observed, seed=seed, loss=huber)
    net = start(settings, task, seed)
    leader = _leader(net, task)
    with torch.no_grad():
        for node in net.nodes:
            node.mul_(alpha)
        alone = net.with_nodes([node[:, [leader]].clone() for node in net.nodes])
    whole = _flow(net, task, settings, None)
    apart = np.nan
    if seed in settings.seeds[: settings.compared]:
        apart = _apart(whole, alone, task, settings) / float(value.norm())
    norms = whole.component.values[-1]
    return xr.Dataset(
        {
            "component": ("value", -np.sort(-norms)),
            "leads": float(norms.argmax() == leader),
            "error": float(task.error(net)),
            "apart": apart,
            "drift": reduce.largest(whole.imbalance[::EVERY]) / float(norms.max()) ** (2 / settings.order),
            "least_value": float(task.values.abs().min()),
        }
    )


def _apart(whole: xr.Dataset, alone: TensorNetwork, task: problems.Completion, settings: Settings) -> float:
    """Return the largest distance between the end tensors of a flow and of the flow of its leading component alone.

    Both are compared at every `EVERY`-th time of the whole flow, as far as both go.
    """
    rows = [0, *range(1, whole.sizes["time"], EVERY)]
    one = _flow(alone, task, settings, whole.time.values[rows[1:]])
    both = min(len(rows), one.sizes["time"])
    away = whole.end.values[rows[:both]] - one.end.values[:both]
    return reduce.largest(np.sqrt((away**2).reshape(both, -1).sum(axis=1)))


def _flow(
    net: TensorNetwork, task: problems.Completion, settings: Settings, times: NDArray[np.float64] | None
) -> xr.Dataset:
    """Return the record of a flow to the training loss of the settings, or to the last of the given times."""
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss if times is None else 0.0,
        times=times,
        rtol=settings.rtol,
        track={
            "component": lambda net: net.component_norms("r"),
            "end": lambda net: net.tensor(),
            "imbalance": laws.Sometimes(EVERY, lambda net: net.imbalance()),
        },
    )


def ratios(record: xr.Dataset) -> NDArray[np.float64]:
    """Return the norm of the second largest final component over the norm of the largest one: (alpha, seed)."""
    return np.asarray(record.component.values[..., 1] / record.component.values[..., 0])


def slope(record: xr.Dataset) -> float:
    """Return the slope of ln(second / first component) against ln alpha for alpha up to `SMALL`.

    A line is fitted to the medians over the seeds by least squares. NaN if a component norm is NaN.

    Args:
        record: a record of this study.
    """
    small = record.alpha.values <= SMALL
    if np.isnan(record.component.values).any():
        return float("nan")
    medians = np.median(ratios(record), axis=1)[small]
    return float(np.polyfit(np.log(record.alpha.values[small]), np.log(medians), 1)[0])


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: balance is kept, other components vanish like alpha^N, and the trajectory has rank one."""
    settings = records.settings_of(record, Settings)
    small = record.leads.sel(alpha=record.alpha[record.alpha <= SMALL])
    smallest = record.sel(alpha=min(settings.alphas))
    compared = smallest.apart.isel(seed=slice(settings.compared))
    of = f"alpha = {min(settings.alphas):g}"
    return [
        theorem(
            "Components stay balanced: largest difference between the squared norms of two vectors of one component, "
            "divided by the largest final squared norm of a component's vector, largest along "
            f"{reduce.count(record.drift.size, 'flow')}. The exact flow keeps the difference at 0; the bound is 1000 "
            "times the relative tolerance of the solver",
            reduce.largest(record.drift),
            at_most=1000 * settings.rtol,
            source=sources.TENSOR_CONSERVATION,
        ),
        finding(
            "The norm of the second largest component of the final factorization divided by the norm of the largest "
            f"is proportional to alpha^{settings.order}, where alpha is the factor that scales the initial vectors of "
            f"all components: exponent fitted to the medians over {reduce.count(record.seed)} for alpha up to "
            f"{SMALL:g}",
            slope(record),
            within=(settings.order - 0.3, settings.order + 0.3),
            source=sources.RANK_ONE,
        ),
        finding(
            "The leading component, whose initial vectors are lengthened as the theorem requires, has the largest "
            f"norm at the end: share of {reduce.count(small.size, 'run')} with initial scale alpha up to {SMALL:g}",
            reduce.mean(small),
            at_least=1.0,
            source=sources.RANK_ONE,
        ),
        finding(
            "The end tensor of the factorization stays close to that of the flow of its leading component alone: "
            "Frobenius distance between both at equal times, divided by the norm of the target, from the initial "
            f"scale {of}, largest over the recorded times of {reduce.count(compared)}",
            reduce.largest(compared),
            at_most=1e-2,
            source=sources.RANK_ONE,
        ),
        finding(
            "The target is recovered: relative error over all entries, observed and unobserved, at the end, from the "
            f"initial scale {of}, median of {reduce.count(smallest.seed)}",
            reduce.median(smallest.error),
            at_most=1e-3,
            source=sources.RANK_ONE,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: ratio of components with its power law, and distance to the leader's flow, against alpha."""
    settings = records.settings_of(record, Settings)
    made, (share, apart) = drawing.figure(2)
    alpha = record.alpha.values
    for axes, values in ((share, ratios(record)), (apart, record.apart.values)):
        for k in np.flatnonzero(np.isfinite(values[-1])).tolist():
            axes.loglog(
                alpha, values[:, k], marker="o", markersize=4, label=f"seed {settings.seeds[k]}", **drawing.style(k)
            )
    law = np.median(ratios(record)[-1]) * (alpha / alpha[-1]) ** settings.order
    share.loglog(alpha, law, **drawing.THEORY, label=f"slope {settings.order}, the order")
    apart.axhline(1000 * settings.rtol, **drawing.THEORY, label="1000 solver tolerances")
    for axes in (share, apart):
        axes.legend(fontsize=8)
    drawing.label(share, "Others vanish like alpha^N", "initial scale", "second over first component norm")
    drawing.label(apart, "Distance to the leader's flow", "initial scale", "distance to a flow of rank one")
    drawing.note(share, "smaller start (left):\nall others vanish", 0.97, 0.02)
    largest, smallest = (x[np.isfinite(x)] for x in (record.apart.values[0], record.apart.values[-1]))
    drawing.note(apart, f"small start: all\nwithin {smallest.max():.1g}", 0.03, 0.42)
    drawing.note(apart, f"large start:\n{(largest > smallest.max()).sum()} of {len(largest)} part", 0.98, 0.38)
    return made


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    middle = ", ".join(
        f"{x:.0e} at {a:g}" for x, a in zip(np.median(ratios(record), axis=1), record.alpha.values, strict=True)
    )
    away = ", ".join(f"{x:.0e}" for x in record.apart.median(dim="seed").values)
    return (
        f"Left: the norm of the second component over the first falls with the initial scale alpha, medians of the "
        f"seeds {middle}, with a slope of {slope(record):.2f} for small alpha. Right: largest distance to the flow of "
        f"the leading component alone, over the norm of the target, medians of the compared seeds: {away}."
    )
