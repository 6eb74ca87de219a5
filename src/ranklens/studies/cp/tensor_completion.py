"""Tensor completion: error and CP rank by the number of observed entries, with and without a factorization."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranklens import drawing, problems
from ranklens.dynamics import flow
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems import targets
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Tensors of rank one are recovered from few entries without a bound on the rank"
EXPLANATION = (
    "A tensor of rank one is fitted from some of its entries by factorizations with as many components as any tensor "
    "needs. Fitting the entries of a tensor directly leaves the unobserved entries at zero and the rank high, while "
    "the flow of the factorization ends at rank one and recovers the unobserved entries once enough are observed; a "
    "smaller initialization helps."
)
SOURCE = "Razin and Cohen (NeurIPS 2020), experiments with tensor factorization"


@dataclass(frozen=True)
class Settings:
    """Completion of tensors of low rank and norm one, of order 3 and of order 4.

    Attributes:
        size: size of every mode.
        target_rank: CP rank of the targets.
        observed3: numbers of observed entries at order 3.
        observed4: numbers of observed entries at order 4.
        stds: standard deviations of the initial entries of the factors.
        until_share: training loss at which the flows end, over the mean squared entry of the target. At order 3 the
            training loss is then about the published 1e-6.
        until_evaluations: number of gradient evaluations at which the flows end at the latest.
        rtol: relative tolerance of the solver.
        rank_rtol: relative error within which the CP rank is estimated.
        largest_rank: largest CP rank that is tried.
        seeds: seeds of targets, observed entries and initializations.
    """

    size: int = 8
    target_rank: int = 1
    observed3: tuple[int, ...] = (50, 100, 200, 300, 511)
    observed4: tuple[int, ...] = (1000, 2000)
    stds: tuple[float, ...] = (1e-2, 1e-3)
    until_share: float = 5e-4
    until_evaluations: int = 1500
    rtol: float = 1e-4
    rank_rtol: float = 5e-2
    largest_rank: int = 6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        observed3=(50, 100, 150, 200, 250, 300, 350, 400, 450, 511),
        observed4=(100, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4095),
        until_evaluations=20_000,
        largest_rank=20,
    ),
    "rank 3": Settings(target_rank=3, observed3=(100, 200, 300, 400, 511), seeds=(0, 1, 2)),
    "tiny": Settings(size=4, observed3=(40, 60), observed4=(150,), stds=(1e-2,), largest_rank=3, seeds=(0,)),
}
MINUTES = {"laptop": 0.4, "paper": 20.0, "rank 3": 1.0, "tiny": 0.05}
# Orders of the tensors.
ORDERS = (3, 4)
# Norm of a component, over the norm of the largest one, above which it counts as present.
COUNTS = 0.01
# Share of observed entries from which on a tensor of rank one is expected to be recovered.
ENOUGH = 0.35
# Share of observed entries up to which claims are made: above, zeros in the few unobserved places are nearly right.
NEARLY_ALL = 0.9


def run(settings: Settings) -> xr.Dataset:
    """Return errors, ranks and numbers of components of tensors fitted by factorizations, and directly."""
    parts = [_order(settings, order, counts) for order, counts in _grids(settings)]
    return xr.merge(parts, join="outer", compat="no_conflicts")


def _grids(settings: Settings) -> list[tuple[int, tuple[int, ...]]]:
    """Return each order with its numbers of observed entries."""
    return list(zip(ORDERS, (settings.observed3, settings.observed4), strict=True))


def _order(settings: Settings, order: int, counts: tuple[int, ...]) -> xr.Dataset:
    """Return the record of one order; its variables and the dimension of observed entries end in the order."""
    dims = ("start", f"observed_{order}", "seed")
    sizes = (len(settings.stds), len(counts), len(settings.seeds))
    fitted = {name: np.zeros(sizes) for name in ("error", "rank", "components", "loss")}
    linear = {name: np.zeros(sizes[1:]) for name in ("error", "rank", "off")}
    for j, k in np.ndindex(*sizes[1:]):
        task = problem(settings, order, counts[j], settings.seeds[k])
        for name, value in _direct(settings, task).items():
            linear[name][j, k] = value
        for i, std in enumerate(settings.stds):
            for name, value in _factorized(settings, task, std, settings.seeds[k]).items():
                fitted[name][i, j, k] = value
    return xr.Dataset(
        {f"{name}_{order}": (dims, values) for name, values in fitted.items()}
        | {f"linear_{name}_{order}": (dims[1:], values) for name, values in linear.items()},
        coords={"start": list(settings.stds), dims[1]: list(counts), "seed": list(settings.seeds)},
    )


def problem(settings: Settings, order: int, observed: int, seed: int) -> problems.Completion:
    """Return the completion of a random tensor of low rank and norm one.

    Args:
        settings: size of the modes, and rank of the tensor.
        order: number of modes.
        observed: number of observed entries.
        seed: seed of the tensor and of the observed entries.
    """
    target = targets.cp((settings.size,) * order, rank=settings.target_rank, norm=1.0, seed=seed)
    return problems.Completion.sample(target, observed, seed=seed)


def filled_with_zeros(task: problems.Completion) -> torch.Tensor:
    """Return the tensor with the observed values at the observed entries and zeros elsewhere."""
    found = torch.zeros(task.shape, dtype=torch.float64)
    found[tuple(task.indices.T)] = task.values
    return found


def _direct(settings: Settings, task: problems.Completion) -> dict[str, float]:
    """Return the end of the flow of the entries themselves from zero.

    The entries are its error, a lower bound of its CP rank, and its distance from zeros in unobserved places.
    """
    modes = tuple(range(len(task.shape)))
    net = TensorNetwork(([modes], modes), [torch.zeros(task.shape, dtype=torch.float64)])
    flow.gradient_flow(net, task, until_loss=1e-12, rtol=1e-6, atol=1e-9)
    T = net.tensor().detach()
    return {
        "error": float(task.error(T)),
        "rank": float(rank_at_least(T, settings.rank_rtol)),
        "off": float((T - filled_with_zeros(task)).norm()),
    }


def rank_at_least(T: torch.Tensor, rtol: float) -> int:
    """Return a lower bound of the CP rank of all tensors within a relative distance of a tensor.

    The rank of a matricization is at most the CP rank. The bound is the largest number of singular values, over all
    matricizations, that cannot be left out within the distance.

    Args:
        T: the tensor.
        rtol: the distance, relative to the norm of the tensor.
    """
    subsets = [modes for size in range(1, T.ndim // 2 + 1) for modes in combinations(range(T.ndim), size)]
    found = 0
    for modes in subsets:
        s = measures.singular_values(measures.matricize(T, modes)).flip(0)
        beyond = s.square().cumsum(0).sqrt()  # norm of the smallest 1, 2, ... singular values
        found = max(found, int((beyond > rtol * T.norm()).sum()))
    return found


@ignoring_early_stops()
def _factorized(settings: Settings, task: problems.Completion, std: float, seed: int) -> dict[str, float]:
    """Return error, CP rank, number of components and training loss at the end of the flow of a factorization."""
    net = families.cp(task.shape, std=std, seed=seed)
    record = flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_share / math.prod(task.shape),
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
    )
    with torch.no_grad():
        T, norms = net.tensor(), net.component_norms("r")
    return {
        "error": float(task.error(T)),
        "rank": _rank(settings, T),
        "components": float((norms > COUNTS * norms.max()).sum()),
        "loss": float(record.loss[-1]),
    }


def _rank(settings: Settings, T: torch.Tensor) -> float:
    """Return the CP rank within a relative error; the largest rank that is tried plus 1 if no rank fits."""
    found = measures.cp_rank_estimate(T, settings.rank_rtol, largest=settings.largest_rank, starts=2, sweeps=50)
    return float(settings.largest_rank + 1 if found.rank is None else found.rank)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: where entries that are fitted directly end, and recovery from enough observed entries."""
    settings = records.settings_of(record, Settings)
    off = [record[f"linear_off_{order}"].values for order in ORDERS]
    found = [
        theorem(
            "Fitting the entries directly from zeros, without a factorization, ends at the observed values and zeros "
            "elsewhere: "
            "Frobenius distance of the final tensor from that tensor, where the target has norm 1, largest of "
            f"{reduce.count(sum(x.size for x in off), 'run')}",
            reduce.largest([reduce.largest(x) for x in off]),
            at_most=1e-4,
            source=sources.LEAST_SQUARES,
        ),
    ]
    for order, counts in _grids(settings):
        total = settings.size**order
        enough = [m for m in counts if ENOUGH * total <= m < NEARLY_ALL * total]
        if enough:
            found += _recovery(record.sel({f"observed_{order}": enough}), settings, order)
    return found


def _recovery(at: xr.Dataset, settings: Settings, order: int) -> list[Claim]:
    """Return the claims on one order, over all numbers of observed entries in a record.

    The function is one list of six claims about five variables.
    """
    names = ("error", "rank", "components", "linear_error", "linear_rank")
    error, rank, components, direct, direct_rank = (at[f"{name}_{order}"] for name in names)
    observed = at[f"observed_{order}"]
    unobserved = 1 - observed / settings.size**order
    medians = error.reduce(np.median, dim="seed") / direct.reduce(np.median, dim="seed")
    smallest = components.sel(start=float(at.start.min()))
    counts = ", ".join(str(m) for m in observed.values)
    of = f"Order {order}, {counts} observed entries"
    return [
        finding(
            f"{of}: the factorization beats fitting the entries directly: relative error over all entries, observed "
            "and unobserved, of the factorization divided by that of fitting the entries directly, each a median of "
            f"{reduce.count(at.seed)}, largest ratio over all initializations and numbers of observed entries",
            reduce.largest(medians),
            at_most=0.1,
            source=sources.TENSOR_COMPLETION,
        ),
        finding(
            f"{of}: fitting the entries directly misses the unobserved ones: squared relative error over all entries "
            f"divided by the share of unobserved entries, mean of {reduce.count(direct.size, 'run')}. The ratio is "
            "about 1 if unobserved entries are predicted as 0",
            reduce.mean(direct**2 / unobserved),
            within=(0.7, 1.3),
            source=sources.TENSOR_COMPLETION,
        ),
        finding(
            f"{of}: the factorization ends at the rank of the target: share of {reduce.count(rank.size, 'run')} (all "
            "initializations, numbers of observed entries and seeds) whose final tensor is within a relative "
            f"Frobenius distance of {settings.rank_rtol:.0%} of a tensor of CP rank {settings.target_rank}, and of "
            "none of a lower rank",
            reduce.share(rank, lambda found: found == settings.target_rank),
            at_least=0.9,
            source=sources.TENSOR_COMPLETION,
        ),
        finding(
            f"{of}: fitting the entries directly ends at a high rank: lower bound on the CP rank of every tensor "
            f"within a relative Frobenius distance of {settings.rank_rtol:.0%} of the final tensor, least of "
            f"{reduce.count(direct_rank.size, 'run')}. The target has rank {settings.target_rank}",
            reduce.least(direct_rank),
            at_least=5,
            source=sources.TENSOR_COMPLETION,
        ),
        finding(
            f"{of}: from the smallest initialization the factorization uses as few components as the target: number of "
            f"components whose final norm is above {COUNTS:.0%} of the largest, median of "
            f"{reduce.count(smallest.size, 'run')}",
            reduce.median(smallest),
            at_most=settings.target_rank,
            source=sources.TENSOR_COMPLETION,
        ),
        finding(
            f"{of}: from every initialization the factorization uses few of its components: number of components "
            f"whose final norm is above {COUNTS:.0%} of the largest, largest of {reduce.count(components.size, 'run')}",
            reduce.largest(components),
            at_most=6,
            source=sources.TENSOR_COMPLETION,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: errors against observed entries, with the formula for zeros, and ranks."""
    settings = records.settings_of(record, Settings)
    made, panels = drawing.figure(2, 2)
    errors, ranks = panels[:2], panels[2:]
    for axes, (order, counts) in zip(errors, _grids(settings), strict=True):
        _draw(axes, record, f"error_{order}", f"linear_error_{order}", counts)
        m = np.linspace(counts[0], counts[-1], 200)
        axes.plot(m, np.sqrt(1 - m / settings.size**order), **drawing.THEORY, label="zeros in unobserved places")
        axes.set_yscale("log")
        drawing.label(
            axes,
            f"Order {order}: {settings.size}^{order} entries",
            "observed entries",
            "relative error over all entries",
        )
    for axes, (order, counts) in zip(ranks, _grids(settings), strict=True):
        _draw(axes, record, f"rank_{order}", f"linear_rank_{order}", counts, "entries directly: at least")
        axes.set_ylim(0)
        drawing.label(axes, f"Order {order}: CP rank", "observed entries", f"CP rank within {settings.rank_rtol:.0%}")
    factorized = f"factorized, std {record.start.values[0]:g}"
    for axes in panels:
        if axes in errors:
            drawing.note(axes, "factorized: recovers", 0.97, -0.02)
            drawing.note(axes, "directly: not learned", 0.03, "entries directly")
        else:
            drawing.note(axes, "factorized: rank 1", 0.6, factorized)
            drawing.note(axes, "directly: high rank", 0.97, 0.85)
        axes.legend(fontsize=7)
    return made


def _draw(axes: Axes, record: xr.Dataset, name: str, linear: str, counts: tuple[int, ...], bound: str = "") -> None:
    """Draw medians with the range of the seeds, for every initialization and for entries that are fitted directly."""
    shown = [(record[name].sel(start=std), f"factorized, std {std:g}") for std in record.start.values]
    for k, (values, label) in enumerate([*shown, (record[linear], bound or "entries directly")]):
        style = drawing.style(k)
        axes.plot(counts, values.median(dim="seed"), marker="o", markersize=3, label=label, **style)
        axes.fill_between(counts, values.min(dim="seed"), values.max(dim="seed"), color=style["color"], alpha=0.15)


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    settings = records.settings_of(record, Settings)
    parts = []
    for order, counts in _grids(settings):
        at = record.sel(start=min(settings.stds))
        ends = ", ".join(
            f"{m}: {float(at[f'error_{order}'].sel({f'observed_{order}': m}).median()):.3f} ("
            f"{float(at[f'linear_error_{order}'].sel({f'observed_{order}': m}).median()):.2f})"
            for m in counts
        )
        parts.append(f"order {order}: {ends}")
    return (
        "Relative error over all entries by the number of observed entries, smallest initialization, medians of the "
        f"seeds, in brackets those of zeros in unobserved places: {'; '.join(parts)}. Below: CP ranks."
    )
