"""Component norms of a CP tensor factorization under gradient flow: they are learned one at a time."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ranklens import problems
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding
from ranklens.tensors import families

TITLE = "Tensor factorization learns components one at a time"
EXPLANATION = (
    "A tensor of low rank is fitted from half of its entries by a sum of outer products (components), more than any "
    "tensor of its size needs. From a small initialization, gradient flow raises one component after the other and "
    "leaves the rest near zero, because the norm of each grows at a rate proportional to its power 2 - 2/order."
)
SOURCE = "Razin, Maman, Cohen (ICML 2021), Theorem 1; (ICML 2022), figure of dynamics, middle"


@dataclass(frozen=True)
class Settings:
    """Completion of a tensor of low rank by a CP factorization.

    Attributes:
        size: size of every mode.
        order: number of modes.
        rank: rank of the target.
        components: number of components of the factorization.
        observed: number of observed entries.
        norm: Frobenius norm of the target.
        std: standard deviation of the initial entries of every factor.
        until_loss: training loss at which the flow ends.
        until_evaluations: number of gradient evaluations at which the flow ends at the latest.
        rtol: relative tolerance of the solver.
        seeds: seeds of target, observed entries and initialization; one run per seed.
    """

    size: int = 16
    order: int = 3
    rank: int = 5
    components: int = 256
    observed: int = 2048
    norm: float = 64.0
    std: float = 1e-3
    until_loss: float = 5e-5
    until_evaluations: int = 20_000
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(),
    "order 4": Settings(size=10, order=4, components=1000, observed=2000, norm=1.0, std=5e-3, until_loss=1e-8),
    "small": Settings(size=8, rank=3, components=64, observed=256, norm=22.6),
    "tiny": Settings(size=5, rank=2, components=10, observed=90, norm=11.0, std=1e-2, until_loss=1e-3, seeds=(0,)),
}
MINUTES = {"laptop": 1.1, "paper": 0.6, "order 4": 10.0, "small": 0.1, "tiny": 0.05}
# Number of largest component norms in the record.
SHOWN = 12
# Number of components that need not wait for the one before; the published figure shows one such pair.
EXCEPTIONS = 1


def run(settings: Settings) -> xr.Dataset:
    """Return component norms, error of the law, and change of the conserved quantities along one flow per seed."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
    """Return the record of one seed's flow."""
    shape = (settings.size,) * settings.order
    target = targets.cp(shape, settings.rank, norm=settings.norm, seed=seed)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = families.cp(shape, settings.components, std=settings.std, seed=seed)
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
        track={
            "component": lambda net: net.component_norms("r").sort(descending=True).values[:SHOWN],
            "error": task.error,
            "law_error": laws.component_law(task, "r"),
            "drift": laws.drift(net),
        },
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the law, the conserved quantities, learning one at a time, the rank, and the recovery."""
    settings = records.settings_of(record, Settings)
    rank, seeds = settings.rank, reduce.count(record.seed)
    waits = [onsets.increments(r.time.values, r.component.values, rank) for r in records.runs(record)]
    needed = max(rank - 1 - EXCEPTIONS, 1)
    gaps = onsets.gap(records.last(record, "component"), rank)
    return [
        laws.law_claim(record, f"component norms sigma, {laws.COMPONENT_LAW},", source=sources.COMPONENT_LAW),
        laws.drift_claim(
            record,
            settings.rtol,
            "Differences between squared norms of the vectors of a component",
            source=sources.TENSOR_CONSERVATION,
        ),
        finding(
            f"Components are learned one at a time, in descending order of their norms: share of {seeds} in which at "
            f"least {needed} of the components 2 to {rank} pass 10% of their final norm only after the component "
            "before has passed 90% of its own",
            reduce.share(waits, lambda w: w >= needed),
            at_least=0.6,
            source=sources.TENSOR_DYNAMICS,
        ),
        finding(
            f"The final end tensor has rank {rank}, up to a remainder: norm of component {rank + 1} divided by the "
            f"norm of component {rank}, in descending order of the final norms, median of {seeds}",
            reduce.median(gaps),
            at_most=1e-3,
            source=sources.TENSOR_DYNAMICS,
        ),
        laws.recovery_claim(record, "median", source=sources.TENSOR_DYNAMICS),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: the component norms of the first seed against time, and the error of every seed."""
    settings = records.settings_of(record, Settings)
    share = settings.observed / settings.size**settings.order
    return onsets.draw_learning(record, "component", "component norm", settings.rank, share)


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    settings = records.settings_of(record, Settings)
    final = -np.sort(-records.last(record, "component")[0])
    values = ", ".join(f"{x:.1f}" for x in final[: settings.rank])
    errors = ", ".join(f"{x:.3f}" for x in records.last(record, "error"))
    return (
        f"Left: the norms of {settings.rank} components rise one after the other in steps to {values}, all others stay "
        f"near zero. Right: the error over all entries falls in as many steps; it ends at {errors} for the seeds."
    )
