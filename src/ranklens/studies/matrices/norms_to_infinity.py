"""A 2 x 2 completion in which fitting drives every norm to infinity and the effective rank to its infimum."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.studies.kit import records, reduce, sources, starts
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.tensors import measures

TITLE = "Rank, not norms: all norms grow to infinity while the rank is minimized"
EXPLANATION = (
    "Three entries of a 2 x 2 matrix are observed, and every matrix that fits them has determinant -w12 w21 = -1; "
    "gradient flow of a deep factorization cannot change the sign of its determinant, so from a positive one it can "
    "fit only by sending the unobserved entry w11, and with it every norm and quasi-norm, to infinity. Meanwhile the "
    "effective rank falls to its infimum 1, and the distance to the matrices of rank one falls to 0. If the factors "
    "are drawn independently, they are not balanced, the determinant can change its sign, and |w11| stops: early at "
    "depth 2, late or not at all at greater depths."
)
SOURCE = "Razin and Cohen (NeurIPS 2020), Theorem 1 and figure 1, with sharper bounds and the exact growth"


@dataclass(frozen=True)
class Settings:
    """Deep factorizations of 2 x 2 matrices whose initial product has a positive determinant, balanced or not.

    The product of the balanced factors is Gaussian; the factors that are not balanced are Gaussian themselves.

    At depth 2 the smaller singular value falls like exp(-w11^2 / 2) and soon is smaller than any numerical error. From
    then on rounding decides the sign of the determinant, so the flow of depth 2 is computed more exactly and ends
    earlier.

    Attributes:
        depths: numbers of factors.
        std: standard deviation of the entries of the initial product of balanced factors.
        unbalanced_std: standard deviation of the entries of the initial product of independent factors, for every
            depth in `depths`.
        until_loss: training loss at which the flows of depth 3 and more, and all flows of independent factors, end.
        until_loss_depth_2: training loss at which the flow of depth 2 from balanced factors ends.
        rtol_depth_2: relative tolerance of the solver at depth 2.
        rtol: relative tolerance of the solver at depth 3 and more.
        seeds: seeds of the initial factors; one run per depth, seed and kind of initial factors.
    """

    depths: tuple[int, ...] = (2, 3, 4)
    std: float = 1e-3
    unbalanced_std: tuple[float, ...] = (1e-5, 1e-5, 1e-3)
    until_loss: float = 1e-4
    until_loss_depth_2: float = 2e-2
    rtol_depth_2: float = 1e-10
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(std=1e-6, unbalanced_std=(1e-6, 1e-6, 1e-4)),
    "tiny": Settings(depths=(3,), unbalanced_std=(1e-5,), seeds=(0,)),
}
MINUTES = {"laptop": 0.2, "paper": 0.2, "tiny": 0.05}
# Kinds of initial factors.
STARTS = ("balanced", "unbalanced")
# |w11| at loss 1e-4 that is read from figure 1 of Razin and Cohen (NeurIPS 2020), by depth and standard deviation of
# the initial product, for factors that are not balanced. Balanced factors end at 7.0 and 7.2 at depth 2, where float32
# loses the sign of the determinant, and at about 70 at depths 3 and 4.
PUBLISHED = {(2, 1e-5): 0.7, (2, 1e-6): 1.2, (3, 1e-5): 43.0, (3, 1e-6): 70.0, (4, 1e-3): 58.0, (4, 1e-4): 70.0}
# Exponents p of the Schatten norms and quasi-norms in the figure, with their names.
NORMS = {0.25: "p = 1/4", 0.5: "p = 1/2", 1.0: "nuclear", 2.0: "Frobenius", math.inf: "spectral"}
# Least nuclear norm of a fitting matrix: that of the fitting matrix with w11 = 0.
LEAST_NUCLEAR = 2.0
# Smallest bound that a measured value is divided by: at losses above 1/2 the bound is zero.
TINY = 1e-300
# Loss below which the growth of w11 in time is compared with its law, which is asymptotic.
LATE = 1e-2


def run(settings: Settings) -> xr.Dataset:
    """Return |w11|, singular values, effective rank and sign of the determinant along all flows.

    There is one flow per kind of initial factors, depth and seed.
    """
    kinds = []
    for start in STARTS:
        parts = [
            records.gather([_one(settings, depth, seed, start) for seed in settings.seeds], settings.seeds)
            for depth in settings.depths
        ]
        kinds.append(xr.concat(parts, dim="depth", join="outer"))
    record = xr.concat(kinds, dim="start", join="outer")
    record = record.assign_coords(start=list(STARTS), depth=list(settings.depths))
    record.attrs = parts[0].attrs
    return record


def _one(settings: Settings, depth: int, seed: int, start: str) -> xr.Dataset:
    """Return the record of the flow of one kind of initial factors, depth and seed."""
    exact = depth == 2 and start == "balanced"
    if start == "balanced":
        net = starts.positive_determinant(depth, settings.std, seed)
    else:
        net = starts.independent(depth, settings.unbalanced_std[settings.depths.index(depth)], seed)
    return flow.gradient_flow(
        net,
        problems.Completion.counterexample(),
        until_loss=settings.until_loss_depth_2 if exact else settings.until_loss,
        rtol=settings.rtol_depth_2 if exact else settings.rtol,
        track={
            "hole": lambda net: net.tensor()[0, 0].abs(),
            "singular": lambda net: measures.singular_values(net.tensor()),
            "effective_rank": lambda net: measures.effective_rank(net.tensor()),
            # factor by factor: the determinant of the product would be lost in rounding
            "sign": lambda net: torch.stack([torch.linalg.slogdet(node).sign for node in net.nodes]).prod(),
        },
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the proved bounds, the growth that follows from them, and factors that are not balanced."""
    runs = _runs(record)
    growths = _growths([(depth, r) for depth, r in runs if depth > 2], record)
    return [*_bounds(runs), *growths, *_unbalanced(_runs(record, "unbalanced"))]


def _bounds(runs: list[tuple[int, xr.Dataset]]) -> list[Claim]:
    """Return the claims that hold at every time of every run."""
    proved = [(r, _proved(r)) for _, r in runs]
    everywhere = f"at all times of all {reduce.count(runs, 'run')}"
    return [
        theorem(
            f"The determinant of the 2 x 2 end matrix stays positive: its sign, least {everywhere}",
            reduce.least([reduce.least(r.sign) for _, r in runs]),
            at_least=1,
            source=sources.NORMS,
        ),
        theorem(
            "The 2 x 2 end matrix, whose observed values are w12 = w21 = 1 and w22 = 0, has an unobserved entry "
            "|w11| of at least (1 - e)^2 / e, where e = sqrt(2 loss) < 1 and loss is the training loss: |w11| "
            f"divided by this bound, least {everywhere}",
            reduce.least([reduce.least(r.hole.values / b.w11.clamp_min(TINY).numpy()) for r, b in proved]),
            at_least=1.0,
            source=sources.NORMS,
        ),
        theorem(
            "Every Schatten norm or quasi-norm, p from 1/4 to infinity, of the 2 x 2 end matrix is at least (1 - "
            "e)^2 / e, where e = sqrt(2 loss) < 1 and loss is the training loss: norm divided by this bound, least "
            f"of all p, {everywhere}",
            reduce.least(
                [reduce.least(schatten(r, p) / b.w11.clamp_min(TINY).numpy()) for r, b in proved for p in NORMS]
            ),
            at_least=1.0,
            source=sources.NORMS,
        ),
        theorem(
            "The smaller singular value sigma_2 of the 2 x 2 end matrix, which is its Frobenius distance to the "
            "nearest matrix of rank one, is at most sqrt(2 loss), where loss is the training loss: sigma_2 divided "
            f"by this bound, largest {everywhere}",
            reduce.largest([reduce.largest(r.singular.values[:, 1] / b.sigma2.numpy()) for r, b in proved]),
            at_most=1.0,
            source=sources.NORMS,
        ),
        theorem(
            "The effective rank of the 2 x 2 end matrix is at most exp of the entropy of (p, 1 - p), where p = e^2 / "
            "(1 - e)^2 but at most 1/2, e = sqrt(2 loss), and loss is the training loss: effective rank divided by "
            f"this bound, largest {everywhere}",
            reduce.largest([reduce.largest(r.effective_rank.values / b.effective_rank.numpy()) for r, b in proved]),
            at_most=1.0,
            source=sources.NORMS,
        ),
    ]


def _proved(run: xr.Dataset) -> theory.Bounds2x2:
    """Return the proved bounds in every row of a run; NaN in all rows if a loss is NaN."""
    loss = torch.from_numpy(run.loss.values)
    if not bool(loss.isnan().any()):
        return theory.bounds_2x2(loss)
    return theory.Bounds2x2(*[torch.full_like(loss, math.nan) for _ in dataclasses.fields(theory.Bounds2x2)])


def _growths(deep: list[tuple[int, xr.Dataset]], record: xr.Dataset) -> list[Claim]:
    """Return the claims on how |w11| and the nuclear norm grow at depth 3 and more; none without such depths."""
    if not deep:
        return []
    until = records.settings_of(record, Settings).until_loss
    runs = reduce.count(deep, "run")
    return [
        finding(
            "Depth 3 and more: |w11| of the 2 x 2 end matrix follows 1 / sqrt(2 loss), where w11 is the unobserved "
            f"entry and loss the training loss: 2 loss w11^2 at the end, farthest from 1 of {runs}",
            reduce.farthest([float(2 * r.loss[-1] * r.hole[-1] ** 2) for _, r in deep], 1),
            within=(0.99, 1.01),
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "Depth L of 3 and more: |w11|^(2 + 2/L), where w11 is the unobserved entry of the 2 x 2 end matrix, "
            f"grows in time at the rate 2 L + 2: its mean rate from the time when the training loss is {LATE:g} to "
            f"the end, divided by 2 L + 2, farthest from 1 of {runs}",
            reduce.farthest([_growth(depth, r) for depth, r in deep], 1),
            within=(0.98, 1.02),
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "Depth 3 and more: the nuclear norm of the end matrix is far from the least: its value at the end, where "
            f"the training loss is {until:g}, divided by {LEAST_NUCLEAR:g}, the least nuclear norm of all fitting "
            f"matrices, least of {runs}. The bound is 99% of 1 / sqrt(2 loss), divided by {LEAST_NUCLEAR:g}",
            reduce.least([float(r.singular[-1].sum(skipna=False)) / LEAST_NUCLEAR for _, r in deep]),
            at_least=0.99 / (2 * until) ** 0.5 / LEAST_NUCLEAR,
            source=sources.NORMS,
        ),
    ]


def _unbalanced(runs: list[tuple[int, xr.Dataset]]) -> list[Claim]:
    """Return the claims on independent initial factors: the bound while the sign lasts, and where |w11| stops."""
    ends = {deep: [float(r.hole[-1]) for depth, r in runs if (depth > 2) == deep] for deep in (False, True)}
    start = (
        "from independent Gaussian factors, which are not balanced: |w11| at the end, where the training loss is 1e-4"
    )
    bound = exactness(
        "The 2 x 2 end matrix of independent Gaussian factors, which are not balanced, has an unobserved entry |w11| "
        "of at least (1 - e)^2 / e, where e = sqrt(2 loss) < 1, as long as its determinant is positive: |w11| divided "
        f"by this bound, least at all times with a positive determinant of {reduce.count(runs, 'run')}",
        reduce.least([_over_bound(r) for _, r in runs]),
        at_least=1.0,
        source=sources.OWN_DERIVATION,
    )
    small = finding(
        f"Depth 2 {start}, largest of {reduce.count(ends[False])}. The determinant changes its sign, and |w11| stops "
        f"at a small value (published: {PUBLISHED[2, 1e-5]} and {PUBLISHED[2, 1e-6]}). The bound is twice the largest "
        "of 12 other seeds",
        reduce.largest(ends[False]),
        at_most=3.2,
        source=sources.NORMS,
    )
    large = finding(
        f"Depth 3 and more {start}, least of {reduce.count(ends[True], 'run')}. |w11| is far larger than at depth 2 "
        f"(published: {PUBLISHED[3, 1e-5]:g} to 70). The bound is half of the least of 24 runs with other seeds",
        reduce.least(ends[True]),
        at_least=5.75,
        source=sources.NORMS,
    )
    return [bound, *([small] if ends[False] else []), *([large] if ends[True] else [])]


def _over_bound(run: xr.Dataset) -> float:
    """Return the least of |w11| over its lower bound, at the times when the determinant is positive.

    NaN if there is no such time, or if a loss or a determinant is NaN.
    """
    if np.isnan(run.loss.values).any() or np.isnan(run.sign.values).any():
        return math.nan
    inside = run.sign.values > 0
    return reduce.least(run.hole.values[inside] / _proved(run).w11.clamp_min(TINY).numpy()[inside])


def schatten(run: xr.Dataset, p: float) -> NDArray[np.float64]:
    """Return the Schatten-p norm of the end matrix in every row of a run; for p < 1 it is a quasi-norm.

    A singular value that is NaN makes all rows NaN.
    """
    if np.isnan(run.singular.values).any():
        return np.full(run.sizes["row"], np.nan)
    return measures.schatten_norm(torch.diag_embed(torch.from_numpy(run.singular.values)), p).numpy()


def _runs(record: xr.Dataset, start: str = "balanced") -> list[tuple[int, xr.Dataset]]:
    """Return depth and run for every depth and seed, from one kind of initial factors."""
    return [
        (int(depth), records.rows(record.sel(start=start, depth=depth), int(seed)))
        for depth in record.depth.values
        for seed in record.seed.values
    ]


def _growth(depth: int, run: xr.Dataset) -> float:
    """Return the mean rate of |w11|^(2 + 2/depth) at losses below `LATE`, divided by the law's 2 depth + 2.

    NaN if a loss is NaN, or if none is that small.
    """
    if np.isnan(run.loss.values).any() or not (run.loss.values <= LATE).any():
        return math.nan
    late = run.isel(row=run.loss.values <= LATE)
    power = late.hole.values ** (2 + 2 / depth)
    return float((power[-1] - power[0]) / (late.time.values[-1] - late.time.values[0]) / (2 * depth + 2))


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: |w11| from both kinds of factors, norms and ranks against the loss, and |w11| in time."""
    settings = records.settings_of(record, Settings)
    made, (hole, stopped, norms, rank, distance, law) = drawing.figure(2, 3)
    seed = int(record.seed.values[0])
    runs = [(depth, r) for depth, r in _runs(record) if int(r.seed) == seed]
    depth, deepest = runs[-1]
    loss = np.geomspace(0.45, min(float(r.loss.min()) for _, r in runs), 200)
    proved = theory.bounds_2x2(torch.from_numpy(loss))
    for axes, each in ((hole, runs), (stopped, _runs(record, "unbalanced"))):
        _draw_hole(axes, each)
    for axes in (hole, stopped, norms):
        name = "proved: at least" if axes is not stopped else "proved for balanced"
        axes.loglog(loss, proved.w11, **drawing.THEORY, label=name)
    for k, (p, name) in enumerate(NORMS.items()):
        norms.loglog(deepest.loss, schatten(deepest, p), label=name, **drawing.style(k))
    rank.loglog(deepest.loss, deepest.effective_rank - 1, color=drawing.COLOURS[0], label="measured")
    rank.loglog(loss, proved.effective_rank - 1, **drawing.THEORY, label="proved: at most")
    distance.loglog(deepest.loss, deepest.singular.values[:, 1], color=drawing.COLOURS[0], label="measured")
    distance.loglog(loss, proved.sigma2, **drawing.THEORY, label="proved: at most")
    _draw_law(law, runs)
    _draw_published(stopped, settings)
    falls, size = "training loss: each tick is 10 times less", "size of the unobserved entry"
    drawing.label(hole, "Balanced: |w11| grows without end", falls, size)
    drawing.label(stopped, "Not balanced: depth 2 stops early", falls, size)
    drawing.label(norms, f"Every norm grows (depth {depth})", falls, "norm of the matrix")
    drawing.label(rank, f"The effective rank falls to 1 (depth {depth})", falls, "effective rank, minus 1")
    drawing.label(distance, f"Distance to rank one (depth {depth})", falls, "smaller singular value (rank one: 0)")
    drawing.label(law, "Growth in time, and its law", "time: each tick is 10 times more", size)
    for axes in (hole, stopped, norms, rank, distance):
        axes.set_xlim(1.0, float(loss.min()))
    for axes in (hole, stopped, norms, law):
        axes.set_ylim(0.05, 2e3)
    drawing.note(hole, "grows without bound", 0.95, f"depth {depth}")
    drawing.note(norms, "every norm grows", 0.95, "p = 1/4")
    drawing.note(rank, "falls to rank one", 0.3, "measured", side="below")
    drawing.note(distance, "comes close to rank one", 0.5, "measured", side="below")
    drawing.note(law, "every depth follows its law", 0.95, f"depth {depth}")
    for axes in made.axes:
        axes.legend(fontsize=7)
    return made


def _draw_published(axes: Axes, settings: Settings) -> None:
    """Draw where |w11| ends in the published figure, for every depth with the same initialization, and what to see."""
    drawing.note(axes, f"depth {settings.depths[0]} stops growing", 0.97, 0.0)
    drawing.note(axes, "deeper: grows on for longer", 0.97, 0.75)
    for k, (depth, std) in enumerate(zip(settings.depths, settings.unbalanced_std, strict=True)):
        if published := PUBLISHED.get((depth, std)):
            axes.plot(settings.until_loss, published, "*", color=drawing.COLOURS[k], markersize=9, clip_on=False)
            axes.lines[-1].set_label("published end" if k == 0 else None)


def _draw_hole(axes: Axes, runs: list[tuple[int, xr.Dataset]]) -> None:
    """Draw |w11| against the loss, with one colour per depth; later seeds are thin lines."""
    depths = sorted({depth for depth, _ in runs})
    first = int(runs[0][1].seed)
    for depth, r in runs:
        one = int(r.seed) == first
        label = f"depth {depth}" if one else None
        axes.loglog(r.loss, r.hole, label=label, linewidth=2.0 if one else 0.6, **drawing.style(depths.index(depth)))


def _draw_law(axes: Axes, runs: list[tuple[int, xr.Dataset]]) -> None:
    """Draw |w11| against time for every depth L, and from loss 0.1 on its law ((2L + 2) t)^(L / (2L + 2))."""
    for k, (depth, r) in enumerate(runs):
        axes.loglog(r.time, r.hole, label=f"depth {depth}", **drawing.style(k))
        late = r.isel(row=r.loss.values <= 1e-1)
        w0, t = float(late.hole[0]), late.time.values
        power = w0 ** (2 + 2 / depth) + (2 * depth + 2) * (t - t[0])
        name = "law: ((2L + 2) t)^(L / (2L + 2))" if k == 0 else None
        axes.loglog(t, power ** (depth / (2 * depth + 2)), **drawing.THEORY, label=name)
    axes.set_xlim(left=1.0)


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    runs = [(depth, r) for depth, r in _runs(record) if int(r.seed) == int(record.seed.values[0])]
    _, last = runs[-1]
    free = _runs(record, "unbalanced")
    stops = "; ".join(
        f"depth {d}: {min(found):.2g} to {max(found):.2g}"
        for d in record.depth.values
        for found in [[float(r.hole[-1]) for depth, r in free if depth == d]]
    )
    ends = "; ".join(f"depth {d}: {float(r.hole[-1]):.1f} at loss {float(r.loss[-1]):.0e}" for d, r in runs)
    return (
        f"As the loss falls, the unobserved entry w11 grows along its proved lower bound, which has no limit ({ends}); "
        f"all Schatten norms and quasi-norms grow with it. The effective rank falls to "
        f"{float(last.effective_rank[-1]):.4f} and the distance to rank one to {float(last.singular[-1, 1]):.1e}, both "
        f"below their proved upper bounds. In time w11 follows its power law. From independent factors, which are not "
        f"balanced, |w11| stops ({stops})."
    )
