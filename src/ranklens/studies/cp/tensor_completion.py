"""Tensor completion: error and CP rank against the number of observations, with and without a factorization."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing, problems
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Tensors of rank one are found from few entries, with no rank asked for"
EXPLANATION = (
    "A tensor of rank one is fitted from some of its entries by factorizations of as many components as any tensor "
    "needs. Fitting the entries of a tensor directly leaves the unseen ones at zero and the rank high, while the flow "
    "of the factorization ends at rank one and recovers the rest once there are enough entries; a smaller start helps."
)
SOURCE = "Razin and Cohen (NeurIPS 2020), experiments with tensor factorization"


@dataclass(frozen=True)
class Settings:
    """Tensors of norm 1; `stds` of the vectors' entries at the start; fitted to a share of the mean square entry.

    For order 3 that share is the published loss of 1e-6.
    """

    size: int = 8
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
    "tiny": Settings(size=4, observed3=(40, 60), observed4=(150,), stds=(1e-2,), largest_rank=3, seeds=(0,)),
}
MINUTES = {"laptop": 0.55, "paper": 20.0, "tiny": 0.05}
ORDERS = (3, 4)
COUNTS = 0.01  # of the largest component: what is larger counts
ENOUGH = 0.35  # share of the entries from which on a tensor of rank one is to be found


def run(settings: Settings) -> xr.Dataset:
    """For both orders: errors, ranks and components of the factorization, and of the tensor's own entries."""
    parts = [_order(settings, order, counts) for order, counts in _grids(settings)]
    return xr.merge(parts, join="outer", compat="no_conflicts")


def _grids(settings: Settings) -> list[tuple[int, tuple[int, ...]]]:
    return list(zip(ORDERS, (settings.observed3, settings.observed4), strict=True))


def _order(settings: Settings, order: int, counts: tuple[int, ...]) -> xr.Dataset:
    dims = ("start", f"observed_{order}", "seed")
    sizes = (len(settings.stds), len(counts), len(settings.seeds))
    fitted: dict[str, NDArray[Any]] = {name: np.zeros(sizes) for name in ("error", "rank", "components", "loss")}
    linear: dict[str, NDArray[Any]] = {name: np.zeros(sizes[1:]) for name in ("error", "rank", "off")}
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
    """Some entries of a random tensor of rank one and norm one."""
    target = targets.cp((settings.size,) * order, rank=1, norm=1.0, seed=seed)
    return problems.Completion.sample(target, observed, seed=seed)


def filled_with_zeros(task: problems.Completion) -> torch.Tensor:
    """The observed entries, and zeros."""
    found = torch.zeros(task.shape, dtype=torch.float64)
    found[tuple(task.indices.T)] = task.values
    return found


def _direct(settings: Settings, task: problems.Completion) -> dict[str, float]:
    """The flow of the tensor's own entries from zero: where it ends, and how far from the zeros filled in that is."""
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
    """No tensor of lower CP rank is within rtol |T|: none has a matricization of higher rank than its own."""
    subsets = [modes for size in range(1, T.ndim // 2 + 1) for modes in combinations(range(T.ndim), size)]
    found = 0
    for modes in subsets:
        s = measures.singular_values(measures.matricize(T, modes)).flip(0)
        beyond = s.square().cumsum(0).sqrt()  # what leaving out the smallest 1, 2, ... costs
        found = max(found, int((beyond > rtol * T.norm()).sum()))
    return found


def _factorized(settings: Settings, task: problems.Completion, std: float, seed: int) -> dict[str, float]:
    net = families.cp(task.shape, std=std, seed=seed)
    record = flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_share / task.target.numel(),  # type: ignore[union-attr]
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
    """The rank within a relative error; one more than the largest that was tried if none fits."""
    found = measures.cp_rank_estimate(T, settings.rank_rtol, largest=settings.largest_rank, starts=2, sweeps=50)
    return float(settings.largest_rank + 1 if found.rank is None else found.rank)


def claims(record: xr.Dataset) -> list[Claim]:
    """Where entries are fitted directly; errors and ranks of the factorization from enough of them."""
    settings = records.settings_of(record, Settings)
    found = [
        Claim(
            "theorem",
            "the flow of the entries themselves ends at what is observed and zeros (largest distance over |target|)",
            max(float(record[f"linear_off_{order}"].max()) for order in ORDERS),
            "<=",
            1e-4,
        ),
    ]
    for order, counts in _grids(settings):
        enough = [m for m in counts if ENOUGH * settings.size**order <= m < 0.9 * settings.size**order]
        if enough:
            found += _recovery(record.sel({f"observed_{order}": enough}), settings, order, min(enough))
    return found


def _recovery(at: xr.Dataset, settings: Settings, order: int, least: int) -> list[Claim]:
    error, linear = at[f"error_{order}"].median(dim="seed"), at[f"linear_error_{order}"].median(dim="seed")
    unseen = 1 - at[f"observed_{order}"] / settings.size**order
    share = float((at[f"linear_error_{order}"] ** 2 / unseen).mean())
    small = at.sel(start=float(at.start.min()))
    of = f"order {order}, {least} entries and more:"
    return [
        Claim("finding", f"{of} median error over that of zeros (largest)", float((error / linear).max()), "<=", 0.1),
        Claim("finding", f"{of} mean square error of zeros over the share not seen", share, "within", (0.7, 1.3)),
        Claim("finding", f"{of} share of ends of rank one", float((at[f"rank_{order}"] == 1).mean()), ">=", 0.9),
        Claim(
            "finding",
            f"{of} rank of what is seen and zeros, at least",
            float(at[f"linear_rank_{order}"].min()),
            ">=",
            5,
        ),
        Claim(
            "finding",
            f"{of} components above {COUNTS:.0%} of the largest, smallest start (median)",
            float(small[f"components_{order}"].median()),
            "<=",
            1,
        ),
        Claim("finding", f"{of} the same, any start (largest)", float(at[f"components_{order}"].max()), "<=", 6),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Errors against observations at both orders, beside the formula for zeros; and ranks."""
    settings = records.settings_of(record, Settings)
    made, (*errors, ranks) = drawing.figure(3)
    for axes, (order, counts) in zip(errors, _grids(settings), strict=True):
        _draw(axes, record, f"error_{order}", f"linear_error_{order}", counts)
        m = np.linspace(counts[0], counts[-1], 200)
        axes.plot(m, np.sqrt(1 - m / settings.size**order), **drawing.THEORY, label="sqrt(share unseen)")
        axes.set_yscale("log")
        drawing.label(
            axes, f"Order {order}: {settings.size}^{order} entries", "entries observed", "|T - target| / |target|"
        )
    _draw(ranks, record, "rank_3", "linear_rank_3", settings.observed3, "entries themselves: at least")
    ranks.set_ylim(0, 2 * settings.size)
    drawing.label(ranks, "Order 3: the rank stays one", "entries observed", f"CP rank within {settings.rank_rtol:.0%}")
    for axes in (*errors, ranks):
        axes.legend(fontsize=7)
    return made


def _draw(axes: Axes, record: xr.Dataset, name: str, linear: str, counts: tuple[int, ...], bound: str = "") -> None:
    """Medians with the range of the seeds, for every start and for the entries themselves."""
    shown = [(record[name].sel(start=std), f"factorized, start {std:g}") for std in record.start.values]
    for k, (values, label) in enumerate([*shown, (record[linear], bound or "entries themselves")]):
        style = drawing.style(k)
        axes.plot(counts, values.median(dim="seed"), marker="o", markersize=3, label=label, **style)
        axes.fill_between(counts, values.min(dim="seed"), values.max(dim="seed"), color=style["color"], alpha=0.15)


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    settings = records.settings_of(record, Settings)
    parts = []
    for order, counts in _grids(settings):
        at = record.sel(start=min(settings.stds))
        ends = ", ".join(
            f"{m}: {float(at[f'error_{order}'].sel({f'observed_{order}': m}).median()):.3f} (zeros "
            f"{float(at[f'linear_error_{order}'].sel({f'observed_{order}': m}).median()):.2f})"
            for m in counts
        )
        parts.append(f"order {order}: {ends}")
    return f"Median error by the number of observed entries, smallest start, {'; '.join(parts)}. Right: CP ranks."
