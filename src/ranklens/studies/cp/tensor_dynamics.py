"""Component norms of a CP tensor factorization under gradient flow: they are learned one at a time."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import descent, flow, optim
from ranklens.dynamics.record import Track
from ranklens.problems import losses, targets
from ranklens.studies.kit import laws, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork

TITLE = "Tensor factorization learns components one at a time"
EXPLANATION = (
    "A tensor of low rank is fitted from half of its entries by a sum of outer products (components), more than any "
    "tensor of its size needs. From a small initialization, gradient flow raises one component after the other and "
    "leaves the rest near zero, because the norm of each grows at a rate proportional to its power 2 - 2/order. The "
    "components that are not learned grow by a bounded factor only, whatever the initial scale, so that their final "
    "norms fall like their initial norms, which are products of one vector norm per mode: like the scale to the power "
    "of the order."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2021), theorem on the evolution of component norms; (ICML 2022), figure of dynamics, "
    "middle"
)


@dataclass(frozen=True)
class Settings:
    """Completion or sensing of a tensor of low rank by a CP factorization, and a smaller one from several scales.

    Attributes:
        size: size of every mode.
        order: number of modes.
        rank: rank of the target.
        components: number of components of the factorization.
        observed: number of observed entries, or of observed inner products.
        sensing: whether inner products with random tensors are observed, instead of entries.
        loss: "mse", "l1" or "huber".
        threshold: threshold of the Huber loss.
        norm: Frobenius norm of the target.
        std: standard deviation of the initial entries of every factor.
        until_loss: training loss at which a run ends.
        until_evaluations: number of gradient evaluations at which a run ends at the latest.
        rtol: relative tolerance of the solver.
        lr: learning rate of descents by GroupRMSprop, which take the place of the flows; 0 stands for flows.
        stds: standard deviations of the initial entries for the smaller tensor; none leaves it out.
        small_size: size of every mode of the smaller tensor.
        small_rank: rank of the smaller tensor.
        small_components: number of components of the factorization of the smaller tensor.
        small_observed: number of observed entries of the smaller tensor.
        seeds: seeds of target, observed entries and initialization; one run per seed.
    """

    size: int = 16
    order: int = 3
    rank: int = 5
    components: int = 256
    observed: int = 2048
    sensing: bool = False
    loss: str = "mse"
    threshold: float = 0.1
    norm: float = 64.0
    std: float = 1e-4
    until_loss: float = 5e-5
    until_evaluations: int = 20_000
    rtol: float = 1e-6
    lr: float = 0.0
    stds: tuple[float, ...] = ()
    small_size: int = 8
    small_rank: int = 3
    small_components: int = 64
    small_observed: int = 256
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


ORDER_4 = Settings(size=10, order=4, components=1000, observed=2000, norm=1.0, std=5e-3, until_loss=1e-8)
PRESETS = {
    "laptop": Settings(stds=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4), seeds=(0, 1, 2, 3, 4, 5, 6, 7)),
    "paper": Settings(std=1e-3),
    "order 4": ORDER_4,
    "order 4, std 0.01": dataclasses.replace(ORDER_4, std=1e-2),
    "order 4, std 0.05": dataclasses.replace(ORDER_4, std=5e-2),
    "order 4, rank 3": dataclasses.replace(ORDER_4, rank=3),
    "sensing": Settings(sensing=True, std=1e-3),
    "huber": Settings(loss="huber", std=1e-3, until_loss=2.5e-5),
    "l1": Settings(loss="l1", std=1e-3, until_loss=5e-3, lr=1e-2),
    "small": Settings(size=8, rank=3, components=64, observed=256, norm=22.6, std=1e-3),
    "tiny": Settings(
        size=5,
        rank=2,
        components=10,
        observed=90,
        norm=11.0,
        std=1e-2,
        until_loss=1e-3,
        stds=(1e-2, 1e-3, 1e-4),
        small_size=4,
        small_rank=1,
        small_components=6,
        small_observed=48,
        seeds=(0,),
    ),
}
MINUTES = {
    "laptop": 1.15,
    "paper": 0.6,
    "order 4": 10.0,
    "order 4, std 0.01": 10.0,
    "order 4, std 0.05": 10.0,
    "order 4, rank 3": 10.0,
    "sensing": 5.0,
    "huber": 1.0,
    "l1": 1.5,
    "small": 0.1,
    "tiny": 0.05,
}
# Number of largest component norms in the record.
SHOWN = 12
# Share of the later components that must wait for the one before: more do than do not. Components whose final norms are
# nearly equal are learned together, so that not all can wait; pilot seed 10: 4 of 4.
MOST = 0.5
# Standard deviation up to which the claims are about the worst seed; from larger ones a seed in eight can fit the
# observed entries with a component too many.
SMALL = 1e-4
# Largest standard deviation to which the power law of the gap, which holds in the limit of small ones, is fitted: from
# larger ones a component too many ends at the size of the last one that the target has.
LIMIT = 1e-3
# Distance of the fitted exponent of the gap from the order of the tensor.
EXPONENT = 0.3


def run(settings: Settings) -> xr.Dataset:
    """Return component norms, error of the law, and change of the conserved quantities along one run per seed.

    The record also holds the gap at the end of flows for the smaller tensor, by initial scale and seed.
    """
    record = records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)
    if settings.stds:
        gaps = np.array([[_gap(settings, std, seed) for seed in settings.seeds] for std in settings.stds])
        record = record.assign_coords(start=list(settings.stds))
        record["small_gap"] = (("start", "seed"), gaps)
    return record


def problem(settings: Settings, seed: int) -> problems.Completion | problems.DenseSensing:
    """Return the problem of one seed: entries of a random tensor, or inner products with random tensors.

    The random tensors have normal entries whose variance is the inverse of the number of entries, so that the mean
    squared inner product is the mean squared entry of the target.

    Args:
        settings: the target, the kind of observations and their number, and the loss.
        seed: seed of the target and of the observations.

    Raises:
        ValueError: for a loss that is unknown.
    """
    kinds = {"mse": losses.mse, "l1": losses.l1, "huber": losses.huber(settings.threshold)}
    if settings.loss not in kinds:
        raise ValueError(f"loss is {settings.loss!r}; choose one of {', '.join(kinds)}")
    target = targets.cp((settings.size,) * settings.order, settings.rank, norm=settings.norm, seed=seed)
    if not settings.sensing:
        return problems.Completion.sample(target, settings.observed, seed=seed, loss=kinds[settings.loss])
    [operators] = seeds.normals([(settings.observed, target.numel())], seed, "sensing tensors")
    operators /= target.numel() ** 0.5
    values = operators @ target.reshape(-1)
    shaped = operators.reshape(settings.observed, *target.shape)
    return problems.DenseSensing(shaped, values, target=target, loss=kinds[settings.loss])


def _one(settings: Settings, seed: int) -> xr.Dataset:
    """Return the record of one seed's flow, or of its descent."""
    task = problem(settings, seed)
    net = families.cp((settings.size,) * settings.order, settings.components, std=settings.std, seed=seed)
    track: Track = {"component": _largest, "error": task.error, "law_error": laws.component_law(task, "r")}
    if settings.lr:
        optimizer = optim.GroupRMSprop(net.parameters(), lr=settings.lr)
        return descent.gradient_descent(
            net, task, optimizer, steps=settings.until_evaluations, until_loss=settings.until_loss, track=track
        )
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
        track={**track, "drift": laws.drift(net)},
    )


def _largest(net: TensorNetwork) -> Tensor:
    """Return the largest component norms, in descending order."""
    return net.component_norms("r").sort(descending=True).values[:SHOWN]


def _gap(settings: Settings, std: float, seed: int) -> float:
    """Return the gap at the end of a flow for the smaller tensor, from one initial scale.

    The gap is the norm of the first component more than the target has, over the norm of the one before.
    """
    small = dataclasses.replace(
        settings,
        size=settings.small_size,
        rank=settings.small_rank,
        components=settings.small_components,
        observed=settings.small_observed,
        norm=settings.small_size ** (settings.order / 2),
        sensing=False,
        loss="mse",
    )
    task = problem(small, seed)
    net = families.cp((small.size,) * small.order, small.components, std=std, seed=seed)
    flow.gradient_flow(
        net, task, until_loss=small.until_loss, until_evaluations=small.until_evaluations, rtol=small.rtol
    )
    norms = net.component_norms("r").detach().numpy()
    return float(onsets.gap(norms, small.rank))


def exponent(record: xr.Dataset) -> float:
    """Return the slope of ln(gap) against ln(initial scale) for the smaller tensor, for scales up to `LIMIT`.

    A line is fitted to the medians of the seeds by least squares. NaN if a gap is NaN or zero.

    Args:
        record: a record of this study with several initial scales.
    """
    medians = np.array([reduce.median(row) for row in record.small_gap.values])
    if not (medians > 0).all():
        return float("nan")
    small = record.start.values <= LIMIT
    return float(np.polyfit(np.log(record.start.values[small]), np.log(medians[small]), 1)[0])


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the law, the conserved quantities, learning one at a time, the rank, and the recovery."""
    settings = records.settings_of(record, Settings)
    rank, runs = settings.rank, reduce.count(record.seed)
    waits = [onsets.increments(records.times(r), r.component.values, rank) for r in records.runs(record)]
    gaps = onsets.gap(records.last(record, "component"), rank)
    found = [laws.law_claim(record, f"component norms sigma, {laws.COMPONENT_LAW},", source=sources.COMPONENT_LAW)]
    if "drift" in record:
        quantities = "Differences between squared norms of the vectors of a component"
        found.append(laws.drift_claim(record, settings.rtol, quantities, source=sources.TENSOR_CONSERVATION))
    found += [
        finding(
            f"Components are learned one at a time, in descending order of their norms: share of the components 2 to "
            f"{rank}, over {runs}, that pass 10% of their final norm only after the component before has passed 90% of "
            "its own",
            reduce.mean(waits) / max(rank - 1, 1),
            at_least=MOST,
            source=sources.TENSOR_DYNAMICS,
        ),
        finding(
            f"The final end tensor has rank {rank}, up to a remainder: norm of component {rank + 1} divided by the "
            f"norm of component {rank}, in descending order of the final norms, median of {runs}",
            reduce.median(gaps),
            at_most=1e-3,
            source=sources.TENSOR_DYNAMICS,
        ),
        laws.recovery_claim(record, "largest" if settings.std <= SMALL else "median", source=sources.TENSOR_DYNAMICS),
    ]
    return [*found, *_of_starts(record, settings)] if settings.stds else found


def _of_starts(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the claim on the gap of the smaller tensor, which falls with the initial scale like a power of it."""
    of = f"{settings.small_size}^{settings.order}, rank {settings.small_rank}"
    stds = ", ".join(f"{std:g}" for std in settings.stds if std <= LIMIT)
    return [
        finding(
            f"Tensor of size {of}: the norm of component {settings.small_rank + 1} divided by the norm of component "
            f"{settings.small_rank} at the end is proportional to the power {settings.order}, the order of the tensor, "
            f"of the standard deviation of the initial entries: exponent fitted to the medians over "
            f"{reduce.count(record.seed)} at {stds}",
            exponent(record),
            within=(settings.order - EXPONENT, settings.order + EXPONENT),
            source=sources.OWN_DERIVATION,
        )
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: component norms of the first seed and errors of all; gaps and errors by initial scale."""
    settings = records.settings_of(record, Settings)
    share = settings.observed / settings.size**settings.order
    if not settings.stds:
        return onsets.draw_learning(record, "component", "component norm", settings.rank, share)
    made, (sizes, errors, ends, gaps) = drawing.figure(2, 2)
    onsets.draw_sizes(sizes, record, "component", "component norm", settings.rank)
    onsets.draw_errors(errors, record, share)
    final = -np.sort(-records.last(record, "component"))
    drawing.lines(ends, np.arange(1, final.shape[1] + 1), final.T, [f"seed {seed}" for seed in settings.seeds])
    ends.set_yscale("log")
    drawing.label(ends, f"{settings.rank} components remain", "component, from large to small", "norm at the end")
    drawing.note(ends, f"{settings.rank} components are large,\nall others nearly zero", 0.97, 0.85)
    _draw_gaps(gaps, record, settings)
    return made


def _draw_gaps(axes: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw the gap of the smaller tensor against the initial scale: a dot per seed, the medians, and the power law."""
    starts, gaps = record.start.values, record.small_gap.values
    for k in range(gaps.shape[1]):
        axes.loglog(starts, gaps[:, k], "o", markersize=3, color="#999999", label="a seed" if k == 0 else None)
    medians = np.median(gaps, axis=1)
    axes.loglog(starts, medians, marker="s", label="median of the seeds", **drawing.style(0))
    least = starts.argmin()
    law = medians[least] * (starts / starts[least]) ** settings.order
    axes.loglog(starts, law, label=f"slope {settings.order}, the order", **drawing.THEORY)
    axes.legend(fontsize=8)
    rest, later = f"The rest falls like std^{settings.order}", settings.small_rank + 1
    drawing.label(axes, rest, "standard deviation of initial entries", f"norm {later} over norm {later - 1} at the end")
    drawing.note(axes, "smaller start (left):\nsuperfluous ones vanish", 0.97, 0.02)


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    settings = records.settings_of(record, Settings)
    final = -np.sort(-records.last(record, "component")[0])
    values = ", ".join(f"{x:.2g}" for x in final[: settings.rank])
    errors = ", ".join(f"{x:.3f}" for x in records.last(record, "error"))
    text = (
        f"First: the norms of {settings.rank} components rise one after the other in steps to {values}, all others "
        f"stay near zero. Second: the error over all entries falls in as many steps; it ends at {errors} for the seeds."
    )
    if not settings.stds:
        return text
    gaps = ", ".join(
        f"{np.median(x):.0e} at {std:g}" for x, std in zip(record.small_gap.values, settings.stds, strict=True)
    )
    return (
        f"{text} Third: the largest norms at the end of every seed. Fourth: by the standard deviation of the initial "
        f"entries, the norm of component {settings.small_rank + 1} over that of component {settings.small_rank} of a "
        f"smaller tensor, medians of the seeds {gaps}, with a slope of {exponent(record):.2f} up to {LIMIT:g}."
    )
