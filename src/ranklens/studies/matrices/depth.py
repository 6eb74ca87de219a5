"""Recovery of a matrix by depth: from few entries deep factorizations find it, the least nuclear norm does not."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import end_matrix, flow
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems import targets
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.tensors import families, init, measures
from ranklens.theory import convex

TITLE = "Depth helps: from few entries only deeper factorizations find the matrix"
EXPLANATION = (
    "A matrix of rank five is fitted from a fifth and from half of its entries by flows that differ in nothing but "
    "their depth, which may be any real number. At depth 1 unobserved entries keep their initial values near zero. "
    "From few entries the matrix of least nuclear norm is wrong, depth 2 is better, and from depth 2.5 on the flow "
    "recovers the matrix, at a nuclear norm above the least."
)
SOURCE = "Arora, Cohen, Hu, Luo (NeurIPS 2019), figures on depth and on the nuclear norm"


@dataclass(frozen=True)
class Settings:
    """Completion of a matrix of low rank at several depths, all from one initial product.

    Attributes:
        size: number of rows and of columns, and Frobenius norm of the target.
        rank: rank of the target.
        observed: numbers of observed entries.
        depths: whole depths; the factors are followed. They are run for all numbers of observed entries and all seeds.
        between: other depths; the end matrix is followed. They are run for the fewest observed entries only.
        between_seeds: number of the first seeds for which the depths `between` are run.
        scale: sqrt(`size`) times the standard deviation of the entries of the initial product.
        until_loss: training loss at which the flows end.
        gap: relative gap at which the least nuclear norm counts as certified.
        rtol: relative tolerance of the solver.
        seeds: seeds of target, observed entries and initial product.
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
# Name of the matrix of least nuclear norm among all that fit, in claims and figures.
NUCLEAR = "least nuclear norm"

# Value of `stopped` for combinations of depth, entries and seed that are not run.
NOT_RUN = "not run"


def run(settings: Settings) -> xr.Dataset:
    """Return the ends of the flows of all depths, and the fitting matrices of least nuclear norm."""
    depths = sorted({*map(float, settings.depths), *settings.between})
    dims, coords = ("observed", "depth", "seed"), {"observed": list(settings.observed), "depth": depths}
    shape = (len(settings.observed), len(depths), len(settings.seeds))
    found = {name: np.full(shape, np.nan) for name in ("error", "nuclear_norm", "effective_rank", "loss", "missing")}
    stopped = np.full(shape, NOT_RUN, dtype="<U12")
    least = {name: np.zeros((shape[0], shape[2])) for name in ("error", "nuclear_norm", "lower_bound")}
    for i, j in np.ndindex(shape[0], shape[2]):
        task = problem(settings, settings.observed[i], settings.seeds[j])
        exact = convex.nuclear_norm_completion(task, tolerance=settings.gap)
        least["error"][i, j] = float(task.error(exact.matrix))
        least["nuclear_norm"][i, j], least["lower_bound"][i, j] = exact.nuclear_norm, exact.lower_bound
        for k, depth in enumerate(depths):
            if depth in settings.depths or (i == 0 and j < settings.between_seeds):
                end = _end(settings, task, depth, settings.seeds[j])
                stopped[i, k, j] = end.stopped
                for name, values in found.items():
                    values[i, k, j] = getattr(end, name)
    return xr.Dataset(
        {
            **{name: (dims, values) for name, values in found.items()},
            "stopped": (dims, stopped),
            **{f"least_{name}": (("observed", "seed"), values) for name, values in least.items()},
        },
        coords={**coords, "seed": list(settings.seeds)},
    )


def problem(settings: Settings, observed: int, seed: int) -> problems.Completion:
    """Return the completion of a random matrix of low rank.

    Args:
        settings: size and rank of the matrix.
        observed: number of observed entries.
        seed: seed of the matrix and of the observed entries.
    """
    shape = (settings.size, settings.size)
    target = targets.low_rank_matrix(shape, settings.rank, norm=float(settings.size), seed=seed)
    return problems.Completion.sample(target, observed, seed=seed)


def start(settings: Settings, seed: int) -> Tensor:
    """Return the initial product of all depths: a Gaussian matrix of the scale that the settings say."""
    [W] = seeds.normals([(settings.size, settings.size)], seed, "start of all depths")
    return settings.scale / settings.size**0.5 * W


@dataclass(frozen=True)
class _End:
    """The end of one flow.

    Attributes:
        error: relative error over all entries.
        nuclear_norm: nuclear norm of the end matrix.
        effective_rank: effective rank of the end matrix.
        loss: training loss.
        missing: norm of the change of the unobserved entries since the start, over the norm of the end matrix.
        stopped: why the flow ended.
    """

    error: float
    nuclear_norm: float
    effective_rank: float
    loss: float
    missing: float
    stopped: str


@ignoring_early_stops()
def _end(settings: Settings, task: problems.Completion, depth: float, seed: int) -> _End:
    """Return the end of a flow: of the factors at a depth in `settings.depths`, of the end matrix at others."""
    initial = start(settings, seed)
    until, rtol = settings.until_loss, settings.rtol
    if depth in settings.depths:
        net = init.product_(families.deep_matrix((settings.size, settings.size), int(depth)), initial)
        record = flow.gradient_flow(net, task, until_loss=until, rtol=rtol)
        W = net.tensor().detach()
    else:
        record = end_matrix.end_matrix_flow(initial, task, depth=depth, until_loss=until, rtol=rtol)
        W = torch.from_numpy(record["matrix"].values)
    unobserved = torch.ones(W.numel(), dtype=torch.bool)
    unobserved[task.flat] = False
    return _End(
        error=float(task.error(W)),
        nuclear_norm=float(measures.nuclear_norm(W)),
        effective_rank=float(measures.effective_rank(W)),
        loss=float(record.loss[-1]),
        missing=float((W - initial).reshape(-1)[unobserved].norm() / W.norm()),
        stopped=record.attrs["stopped"],
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: what depth 1 leaves, the least nuclear norm, and errors from few and from many entries."""
    settings = records.settings_of(record, Settings)
    over = _over_least(record, settings)
    found = [
        theorem(
            "At depth 1 unobserved entries of the end matrix keep their initial values: Euclidean norm of their "
            "change divided by the Frobenius norm of the final end matrix, largest of "
            f"{reduce.count(record.missing.sel(depth=1.0).size, 'run')}. It is 0 up to rounding",
            reduce.largest(record.missing.sel(depth=1.0)),
            at_most=1e-10,
            source=sources.LEAST_SQUARES,
        ),
        exactness(
            "No flow ends below the least nuclear norm of all matrices with its observed entries: final nuclear norm "
            f"divided by a certified lower bound on the least one, least of {reduce.count(over, 'run')}. The lower "
            "bound is reduced by what the remaining training loss allows",
            reduce.least(over),
            at_least=1.0,
            source=sources.DUALITY,
        ),
    ]
    if set(settings.depths) >= {2, 3}:
        found += _few(record.isel(observed=0), settings)
    if len(settings.observed) > 1:
        found += _many(record.isel(observed=-1), settings)
    return found


def _few(few: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the claims on errors from the fewest entries."""
    error = {depth: reduce.median(few.error.sel(depth=float(depth))) for depth in settings.depths}
    deep = reduce.largest([error[depth] for depth in settings.depths if depth >= 3])
    of, medians = f"From {int(few.observed)} entries", f"medians of {reduce.count(few.seed)}"
    return [
        finding(
            f"{of}, depth 3 and more beat depth 2: relative error over all entries, observed and unobserved, the "
            f"largest of depths 3 and more divided by that of depth 2, {medians}",
            deep / error[2],
            at_most=0.5,
            source=sources.DEPTH,
        ),
        finding(
            f"{of}, depth 2 beats the fitting matrix of {NUCLEAR}: relative error over all entries, observed and "
            f"unobserved, of depth 2 divided by that of this matrix, {medians}",
            error[2] / reduce.median(few.least_error),
            at_most=1.0,
            source=sources.DEPTH,
        ),
        finding(
            f"{of}, depth 3 and more recover the target: relative error over all entries, observed and unobserved, "
            f"{medians}, largest of these over the depths 3 and more",
            deep,
            at_most=0.03,
            source=sources.DEPTH,
        ),
    ]


def _many(many: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the claims on errors from the most entries."""
    errors = [reduce.median(many.error.sel(depth=float(depth))) for depth in settings.depths if depth > 1]
    of, medians = f"From {int(many.observed)} entries", f"median of {reduce.count(many.seed)}"
    return [
        finding(
            f"{of}, depth 2 and more recover the target: relative error over all entries, observed and unobserved, "
            f"largest over depths of its {medians}",
            reduce.largest(errors),
            at_most=0.03,
            source=sources.DEPTH,
        ),
        finding(
            f"{of}, the fitting matrix of {NUCLEAR} recovers the target: relative error over all entries, observed "
            f"and unobserved, {medians}",
            reduce.median(many.least_error),
            at_most=0.03,
            source=sources.DEPTH,
        ),
    ]


def _over_least(record: xr.Dataset, settings: Settings) -> NDArray[np.float64]:
    """Return nuclear norms of end matrices over a lower bound of the least norm with the same observed entries.

    An end matrix W fits only up to a residual r, so its nuclear norm is compared with the least one of all matrices
    that have exactly its entries at the observed places. The dual certificate Y of the problem has spectral norm 1 and
    is zero elsewhere, so |W|_* >= <Y, W> >= <Y, target> - |Y| |r|, with |Y| <= sqrt(size) and
    |r| = sqrt(loss * observed).

    Returns:
        One ratio per flow that was run.
    """
    slack = settings.size**0.5 * np.sqrt(record.loss * record.observed)
    ratio = (record.nuclear_norm / (record.least_lower_bound - slack)).transpose(*record.stopped.dims)
    return np.asarray(ratio.values[record.stopped.values != NOT_RUN])


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: error, rank and nuclear norm against depth, with one line per number of entries."""
    settings = records.settings_of(record, Settings)
    made, (errors, ranks, norms) = drawing.figure(3)
    _lines(errors, record, "error", least="least_error")
    deep = record.sel(depth=record.depth >= 2)
    _lines(norms, deep.assign(excess=100 * (deep.nuclear_norm / deep.least_nuclear_norm - 1)), "excess")
    norms.axhline(0.0, **drawing.THEORY, label=f"certified least; flows fit to {settings.until_loss:g}")
    _lines(ranks, record, "effective_rank")
    errors.set_yscale("log")
    for k, observed in enumerate(settings.observed):
        unobserved = (1 - observed / settings.size**2) ** 0.5
        errors.plot([1.0], [unobserved], "x", color="#000000", label="zeros in unobserved places" if k == 0 else None)
    ranks.axhline(settings.rank, **drawing.THEORY, label=f"rank of the matrix: {settings.rank}")
    layers = "depth: number of factors"
    drawing.label(errors, "From few entries, depth decides", layers, "relative error over all entries")
    drawing.label(ranks, "Depth lowers the rank", layers, "effective rank of the result")
    drawing.label(norms, "From few entries, above the least norm", layers, "nuclear norm above the least, %")
    errors.legend(fontsize=7, loc=(0.45, 0.15))
    ranks.legend(fontsize=7, loc="upper right")
    norms.legend(fontsize=7, loc="center right")
    few, many = (f"{observed} entries" for observed in (settings.observed[0], settings.observed[-1]))
    drawing.note(errors, "few entries:\ndeep is best", 0.95, few)
    drawing.note(errors, "many: least norm is best", 0.95, f"{settings.observed[-1]}: {NUCLEAR}")
    drawing.note(ranks, "2 or more factors: the right rank", 0.95, few)
    drawing.note(norms, "few entries: above the least", 0.95, 0.6)
    drawing.note(norms, "many: at the least", 0.95, many)
    return made


def _lines(axes: Axes, record: xr.Dataset, name: str, *, least: str | None = None) -> None:
    """Draw medians against depth with the range of the seeds; `least` names the variable of the least nuclear norm."""
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
    """Return a description of the figure in words."""
    parts = []
    for observed in record.observed.values:
        at = record.sel(observed=observed)
        shown = at.depth.values[at.error.notnull().any(dim="seed").values]
        ends = ", ".join(f"{float(d):g}: {float(at.error.sel(depth=d).median()):.3f}" for d in shown)
        parts.append(f"{observed} entries, {ends}; {NUCLEAR} {float(at.least_error.median()):.3f}")
    early = int((record.stopped == "singular").sum())
    also = f" {early} flows of a depth below 2 ended where a singular value reached zero." if early else ""
    return (
        f"Relative error over all entries by depth, medians of the seeds: {'. '.join(parts)}. The effective rank falls "
        f"with depth to the rank of the matrix.{also}"
    )
