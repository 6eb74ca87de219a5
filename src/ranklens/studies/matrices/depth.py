"""Depth against recovery: from few entries deeper factorizations find the matrix; the least nuclear norm does not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import end_matrix, flow
from ranklens.problems import targets
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, init, measures
from ranklens.theory import convex

TITLE = "Depth helps: from few entries only deeper factorizations find the matrix"
EXPLANATION = (
    "A matrix of rank five is fitted from a fifth and from half of its entries by flows that differ in nothing but "
    "their depth, which may be any real number. At depth 1 what is not seen stays zero; from few entries the matrix of "
    "least nuclear norm is wrong, depth 2 is better, and from depth 2.5 on the matrix is recovered, at a nuclear norm "
    "that is not the least."
)
SOURCE = "Arora, Cohen, Hu, Luo (NeurIPS 2019), figures on depth and on the nuclear norm"


@dataclass(frozen=True)
class Settings:
    """A size x size matrix; all depths start from one random product of `scale` / sqrt(size) per entry, balanced.

    Depths `between` whole ones are run from the fewest entries, for the first seeds.
    """

    size: int = 100
    rank: int = 5
    observed: tuple[int, ...] = (2000, 5000)
    depths: tuple[int, ...] = (1, 2, 3, 4)
    between: tuple[float, ...] = (2.5,)
    between_seeds: int = 1
    scale: float = 1e-5
    until_loss: float = 1e-5
    gap: float = 1e-4
    rtol: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        observed=(1500, 2000, 3000, 5000),
        between=(1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.5),
        between_seeds=5,
        rtol=1e-6,
        seeds=(0, 1, 2, 3, 4),
    ),
    "tiny": Settings(size=12, rank=1, observed=(60,), depths=(1, 2, 3), between=(2.5,), until_loss=1e-4, seeds=(0,)),
}
MINUTES = {"laptop": 1.1, "paper": 20.0, "tiny": 0.05}
NUCLEAR = "least nuclear norm"


def run(settings: Settings) -> xr.Dataset:
    """Error, nuclear norm and effective rank where every depth ends, and those of the least nuclear norm."""
    depths = sorted({*map(float, settings.depths), *settings.between})
    dims, coords = ("observed", "depth", "seed"), {"observed": list(settings.observed), "depth": depths}
    shape = (len(settings.observed), len(depths), len(settings.seeds))
    found = {name: np.full(shape, np.nan) for name in ("error", "nuclear_norm", "effective_rank", "loss", "missing")}
    stopped = np.full(shape, "not run", dtype="<U12")
    least = {name: np.zeros((shape[0], shape[2])) for name in ("error", "nuclear_norm", "lower_bound")}
    for i, j in np.ndindex(shape[0], shape[2]):
        task = problem(settings, settings.observed[i], settings.seeds[j])
        exact = convex.nuclear_norm_completion(task, tolerance=settings.gap)
        least["error"][i, j] = float(task.error(exact.matrix))
        least["nuclear_norm"][i, j], least["lower_bound"][i, j] = exact.nuclear_norm, exact.lower_bound
        for k, depth in enumerate(depths):
            if depth in settings.depths or (i == 0 and j < settings.between_seeds):
                end = _end(settings, task, depth, settings.seeds[j])
                stopped[i, k, j] = end["stopped"]
                for name, values in found.items():
                    values[i, k, j] = end[name]
    return xr.Dataset(
        {
            **{name: (dims, values) for name, values in found.items()},
            "stopped": (dims, stopped),
            **{f"least_{name}": (("observed", "seed"), values) for name, values in least.items()},
        },
        coords={**coords, "seed": list(settings.seeds)},
    )


def problem(settings: Settings, observed: int, seed: int) -> problems.Completion:
    """Some entries of a random matrix of low rank."""
    shape = (settings.size, settings.size)
    target = targets.low_rank_matrix(shape, settings.rank, norm=float(settings.size), seed=seed)
    return problems.Completion.sample(target, observed, seed=seed)


def start(settings: Settings, seed: int) -> Tensor:
    """The product that all depths start from."""
    [W] = seeds.normals([(settings.size, settings.size)], seed, "start of all depths")
    return settings.scale / settings.size**0.5 * W


def _end(settings: Settings, task: problems.Completion, depth: float, seed: int) -> dict[str, Any]:
    """Follow the factors of a whole depth, or the end matrix of any other, to the loss."""
    bounds: dict[str, Any] = {"until_loss": settings.until_loss, "rtol": settings.rtol}
    if depth in settings.depths:
        net = families.deep_matrix((settings.size, settings.size), int(depth))
        record = flow.gradient_flow(init.product_(net, start(settings, seed)), task, **bounds)
        W = net.tensor().detach()
    else:
        record = end_matrix.end_matrix_flow(start(settings, seed), task, depth=depth, **bounds)
        W = torch.from_numpy(record["matrix"].values)
    unseen = torch.ones(W.numel(), dtype=torch.bool)
    unseen[task.flat] = False
    return {
        "error": float(task.error(W)),
        "nuclear_norm": float(measures.nuclear_norm(W)),
        "effective_rank": float(measures.effective_rank(W)),
        "loss": float(record.loss[-1]),
        "missing": float((W - start(settings, seed)).reshape(-1)[unseen].norm() / W.norm()),
        "stopped": record.attrs["stopped"],
    }


def claims(record: xr.Dataset) -> list[Claim]:
    """Depth 1 fills in nothing; no flow undercuts the least nuclear norm; errors by depth from few and many entries."""
    settings = records.settings_of(record, Settings)
    few, many = record.isel(observed=0), record.isel(observed=-1)
    error, least = few.error.median(dim="seed"), float(few.least_error.median())
    found = [
        Claim(
            "theorem",
            "depth 1: what it changes of unseen entries, over its norm (largest)",
            float(record.missing.sel(depth=1.0).max(skipna=False)),
            "<=",
            1e-10,
        ),
        Claim(
            "theorem",
            "nuclear norm over the certified least, for what fits to relative residual e at most 1 - e below (least)",
            float(_over_least(record, settings).min()),
            ">=",
            1.0,
        ),
    ]
    if set(settings.depths) >= {2, 3}:
        deep = max(float(error.sel(depth=float(d))) for d in settings.depths if d >= 3)
        two = float(error.sel(depth=2.0))
        of = f"{int(few.observed)} entries:"
        found += [
            Claim("finding", f"{of} error at depth 3 and more over that at depth 2 (medians)", deep / two, "<=", 0.5),
            Claim("finding", f"{of} error at depth 2 over that of the {NUCLEAR} (medians)", two / least, "<=", 1.0),
            Claim("finding", f"{of} error at depth 3 and more (largest median)", deep, "<=", 0.03),
        ]
    if len(settings.observed) > 1:
        worst = float(many.error.sel(depth=[float(d) for d in settings.depths if d > 1]).median(dim="seed").max())
        found += [
            Claim("finding", f"{int(many.observed)} entries: error at depth 2 and more", worst, "<=", 0.03),
            Claim(
                "finding",
                f"{int(many.observed)} entries: error of the {NUCLEAR}",
                float(many.least_error.median()),
                "<=",
                0.03,
            ),
        ]
    return found


def _over_least(record: xr.Dataset, settings: Settings) -> xr.DataArray:
    """Nuclear norm of an end over the least of what has its very entries at the observed places, by a lower bound.

    The dual certificate Y of the problem has spectral norm 1, so |W|_* >= <Y, W> >= <Y, target> - |Y| |residual|, and
    on the observed places |Y| <= sqrt(size), |residual| = sqrt(loss x observed).
    """
    slack = settings.size**0.5 * np.sqrt(record.loss * record.observed)
    return record.nuclear_norm / (record.least_lower_bound - slack)


def draw(record: xr.Dataset) -> Figure:
    """Error, nuclear norm and effective rank against depth, one line per number of observed entries."""
    settings = records.settings_of(record, Settings)
    made, (errors, ranks, norms) = drawing.figure(3)
    _lines(errors, record, "error", least="least_error")
    deep = record.sel(depth=record.depth >= 2)
    _lines(norms, deep.assign(excess=100 * (deep.nuclear_norm / deep.least_nuclear_norm - 1)), "excess")
    norms.axhline(0.0, **drawing.THEORY, label=f"certified least; flows fit to {settings.until_loss:g}")
    _lines(ranks, record, "effective_rank")
    errors.set_yscale("log")
    for k, observed in enumerate(settings.observed):
        unseen = (1 - observed / settings.size**2) ** 0.5
        errors.plot([1.0], [unseen], "x", color="#000000", label="zeros filled in" if k == 0 else None)
    ranks.axhline(settings.rank, **drawing.THEORY, label=f"rank of the matrix: {settings.rank}")
    drawing.label(errors, "From few entries, depth decides", "depth L", "|W - target| / |target|")
    drawing.label(ranks, "Depth lowers the rank", "depth L", "effective rank")
    drawing.label(norms, "The nuclear norm is not the least", "depth L", "nuclear norm above the least, %")
    errors.legend(fontsize=7, loc=(0.45, 0.08))
    ranks.legend(fontsize=7, loc="upper right")
    norms.legend(fontsize=7, loc="center right")
    return made


def _lines(axes: Axes, record: xr.Dataset, name: str, *, least: str | None = None) -> None:
    """Medians against depth with the range of the seeds, and what the least nuclear norm has."""
    for k, observed in enumerate(record.observed.values):
        at, style = record.sel(observed=observed), drawing.style(k)
        at = at.sel(depth=at[name].notnull().any(dim="seed"))
        middle = at[name].median(dim="seed")
        axes.plot(at.depth, middle, marker="o", markersize=4, label=f"{observed} entries", **style)
        axes.fill_between(
            at.depth, at[name].min(dim="seed"), at[name].max(dim="seed"), color=style["color"], alpha=0.15
        )
        if least is not None:
            axes.axhline(float(at[least].median()), color=style["color"], linestyle=":", label=f"{observed}: {NUCLEAR}")


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    parts = []
    for observed in record.observed.values:
        at = record.sel(observed=observed)
        shown = at.depth.values[at.error.notnull().any(dim="seed").values]
        ends = ", ".join(f"{float(d):g}: {float(at.error.sel(depth=d).median()):.3f}" for d in shown)
        parts.append(f"{observed} entries, {ends}; {NUCLEAR} {float(at.least_error.median()):.3f}")
    early = int((record.stopped == "singular").sum())
    also = f" {early} flows of a depth below 2 ended where a singular value reached zero." if early else ""
    return f"Error by depth: {'. '.join(parts)}. Effective rank falls with depth to that of the matrix.{also}"
