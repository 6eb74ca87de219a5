"""Gradient flow compared with the least nuclear norm: where it reaches the least, and where it does not."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranklens import drawing, problems, seeds, theory
from ranklens.dynamics import end_matrix, flow
from ranklens.problems import targets
from ranklens.studies.kit import reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.tensors import families, init, measures
from ranklens.theory import convex

TITLE = "Gradient flow does not minimize the nuclear norm, except in special cases"
EXPLANATION = (
    "From few entries, deep factorizations find the matrix at a nuclear norm above the certified least one, which "
    "belongs to a wrong matrix. Depth 2 with a vanishing initialization does reach the least nuclear norm among "
    "positive semidefinite matrices if the measurement operators commute, and if the observed entries split into two "
    "blocks without a common row or column; if they are connected, it lowers the rank instead."
)
SOURCE = (
    "Gunasekar et al. (NeurIPS 2017), the conjecture; Arora, Cohen, Hu, Luo (NeurIPS 2019); Bai, Zhao, Zhang (NeurIPS "
    "2024) on connectivity"
)


@dataclass(frozen=True)
class Settings:
    """Three experiments: completion, sensing of positive semidefinite matrices, and connected or separate blocks.

    Attributes:
        size: number of rows and of columns in the completion experiment.
        rank: rank of the target in the completion experiment.
        observed: numbers of observed entries in the completion experiment.
        depths: depths in the completion experiment.
        scale: sqrt(`size`) times the standard deviation of the entries of the initial product.
        until_loss: training loss at which the flows of the completion experiment end.
        psd_size: number of rows and of columns of the positive semidefinite matrices.
        psd_rank: rank of the positive semidefinite matrices.
        operators: number of measurement operators.
        psd_depths: depths of the flows with commuting operators; the first one also with general operators.
        alphas: scales of the initial matrices alpha * I, from large to small.
        parts_size: number of rows and of columns of the matrices with two blocks, or with connected entries.
        scales: standard deviations of the initial product in the experiment with blocks, from large to small.
        tight_loss: training loss at which the flows of the last two experiments end.
        rtol: relative tolerance of the solver.
        compared: number of seeds in the experiment with positive semidefinite matrices.
        parts: number of seeds in the experiment with blocks.
        seeds: seeds of targets, observed entries, operators and initializations.
    """

    size: int = 20
    rank: int = 2
    observed: tuple[int, ...] = (140, 280)
    depths: tuple[int, ...] = (2, 3, 4)
    scale: float = 1e-5
    until_loss: float = 1e-7
    psd_size: int = 10
    psd_rank: int = 2
    operators: int = 4
    psd_depths: tuple[int, ...] = (2, 3)
    alphas: tuple[float, ...] = (1e-1, 1e-2, 1e-4)
    parts_size: int = 8
    scales: tuple[float, ...] = (1e-2, 1e-4, 1e-6)
    tight_loss: float = 1e-10
    rtol: float = 1e-5
    compared: int = 2
    parts: int = 3
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(alphas=(1e-1, 1e-2, 1e-3, 1e-4), compared=5, parts=10, seeds=tuple(range(20))),
    "tiny": Settings(
        size=8,
        rank=1,
        observed=(30, 50),
        depths=(3,),
        scale=1e-2,
        until_loss=1e-5,
        psd_size=5,
        operators=2,
        psd_depths=(2,),
        alphas=(1e-1, 1e-2),
        parts_size=4,
        scales=(1e-2, 1e-3),
        tight_loss=1e-6,
        compared=1,
        parts=1,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 0.65, "paper": 10.0, "tiny": 0.05}
# Kinds of measurement operators.
COMMUTE = ("commuting", "general")
# Kinds of patterns of observed entries: two blocks without a common row or column, or one connected pattern.
GRAPHS = ("two parts", "connected")


def run(settings: Settings) -> xr.Dataset:
    """Return one record of the three experiments, each with the certified least nuclear norm."""
    return xr.merge([_completion(settings), _positive(settings), _connectivity(settings)])


def _completion(settings: Settings) -> xr.Dataset:
    """Return the ends of flows of several depths, for few and for many observed entries of a matrix of low rank.

    The variable `slack` is <Y, W - target> on the observed places, Y the dual certificate: how much the residual of an
    end matrix W may change the certified lower bound.
    """
    dims = ("observed", "depth", "seed")
    sizes = (len(settings.observed), len(settings.depths), len(settings.seeds))
    found = {name: np.zeros(sizes) for name in ("error", "norm", "slack")}
    least = {name: np.zeros((sizes[0], sizes[2])) for name in ("error", "norm", "bound", "gap")}
    for i, k in np.ndindex(sizes[0], sizes[2]):
        seed = settings.seeds[k]
        target = targets.low_rank_matrix((settings.size,) * 2, settings.rank, seed=seed)
        task = problems.Completion.sample(target, settings.observed[i], seed=seed)
        exact = convex.nuclear_norm_completion(task)
        least["error"][i, k] = float(task.error(exact.matrix))
        least["norm"][i, k], least["bound"][i, k] = exact.nuclear_norm, exact.lower_bound
        least["gap"][i, k] = exact.gap
        for j, depth in enumerate(settings.depths):
            [start] = seeds.normals([(settings.size, settings.size)], seed, "start of all depths")
            net = init.product_(
                families.deep_matrix((settings.size,) * 2, depth), settings.scale / settings.size**0.5 * start
            )
            flow.gradient_flow(net, task, until_loss=settings.until_loss, rtol=settings.rtol)
            W = net.tensor().detach()
            found["error"][i, j, k] = float(task.error(W))
            found["norm"][i, j, k] = float(measures.nuclear_norm(W))
            residual = W[tuple(task.indices.T)] - task.values
            found["slack"][i, j, k] = float((exact.dual[tuple(task.indices.T)] * residual).sum())
    return xr.Dataset(
        {name: (dims, values) for name, values in found.items()}
        | {f"least_{name}": (("observed", "seed"), values) for name, values in least.items()},
        coords={"observed": list(settings.observed), "depth": list(settings.depths), "seed": list(settings.seeds)},
    )


def positive_problem(settings: Settings, commuting: bool, seed: int) -> problems.DenseSensing:
    """Return the sensing of a positive semidefinite matrix of low rank by symmetric operators.

    Args:
        settings: sizes, rank and number of operators.
        commuting: whether the operators and the matrix share the standard basis as eigenbasis and commute.
        seed: seed of the operators and of the matrix.
    """
    d, m = settings.psd_size, settings.operators
    _, A, x = seeds.normals([(d, d), (m, d, d), (d, settings.psd_rank)], seed, "positive sensing")
    if commuting:
        # The flow turns with the basis. In the standard one X stays diagonal and so symmetric to the last digit, while
        # in others rounding errors grow to another solution from alpha of 3e-4 and less at depth 3.
        A = torch.diag_embed(A.diagonal(dim1=1, dim2=2))
        weights = torch.zeros(d, dtype=torch.float64)
        weights[: settings.psd_rank] = x[0].abs() + 0.5
        X = torch.diag(weights)
    else:
        A, X = (A + A.mT) / 2, x @ x.T
    return problems.DenseSensing(A, (A * X).sum(dim=(1, 2)), target=X)


def _positive(settings: Settings) -> xr.Dataset:
    """Return the ends of flows of the end matrix X from alpha I, compared with the least trace.

    X stays symmetric, and at depth 2 it follows dX/dt = -(X G + G X), where G is the gradient of the loss in X.
    """
    compared = settings.seeds[: settings.compared]
    dims = ("operator", "psd_depth", "alpha", "psd_seed")
    excess = np.full((2, len(settings.psd_depths), len(settings.alphas), len(compared)), np.nan)
    apart = np.full_like(excess, np.nan)
    for i, k in np.ndindex(2, len(compared)):
        task = positive_problem(settings, COMMUTE[i] == "commuting", compared[k])
        least = convex.nuclear_norm_psd(task)
        depths = settings.psd_depths if COMMUTE[i] == "commuting" else settings.psd_depths[:1]
        for j, depth in enumerate(depths):
            for a, alpha in enumerate(settings.alphas):
                start = alpha * torch.eye(settings.psd_size, dtype=torch.float64)
                end = end_matrix.end_matrix_flow(
                    start, task, depth=depth, until_loss=settings.tight_loss, rtol=settings.rtol
                )
                X = torch.from_numpy(end["matrix"].values)
                excess[i, j, a, k] = float(measures.nuclear_norm(X)) / least.lower_bound - 1
                apart[i, j, a, k] = float((X - least.matrix).norm() / least.matrix.norm())
    return xr.Dataset(
        {"psd_excess": (dims, excess), "psd_apart": (dims, apart)},
        coords={
            "operator": list(COMMUTE),
            "psd_depth": list(settings.psd_depths),
            "alpha": list(settings.alphas),
            "psd_seed": list(compared),
        },
    )


def parts_problem(settings: Settings, graph: str, seed: int) -> problems.Completion:
    """Return the completion of a matrix of rank one from half of its entries.

    Args:
        settings: size of the matrix.
        graph: "two parts" for the entries of two diagonal blocks, which have no common row or column, or "connected"
            for random entries whose rows and columns form one connected graph.
        seed: seed of the matrix and of the random entries.
    """
    n = settings.parts_size
    u, v = (x.sign() * (0.5 + x.abs()) for x in seeds.normals([(n,), (n,)], seed, "rank one in parts"))
    places = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    if graph == "two parts":
        found = places[(places[:, 0] < n // 2) == (places[:, 1] < n // 2)]
        return problems.Completion(found, (u[:, None] * v)[tuple(found.T)], (n, n), target=u[:, None] * v)
    draw = seeds.stream(seed, "connected pattern")
    while True:
        found = places[torch.randperm(n * n, generator=draw)[: n * n // 2]]
        task = problems.Completion(found, (u[:, None] * v)[tuple(found.T)], (n, n), target=u[:, None] * v)
        if int(theory.observation_components(task).max()) == 0:
            return task


def _connectivity(settings: Settings) -> xr.Dataset:
    """Return ratios of singular values and nuclear norms at depth 2, for smaller and smaller initializations."""
    compared = settings.seeds[: settings.parts]
    dims = ("graph", "scale", "parts_seed")
    second = np.zeros((len(GRAPHS), len(settings.scales), len(compared)))
    excess = np.zeros_like(second)
    for i, k in np.ndindex(len(GRAPHS), len(compared)):
        task = parts_problem(settings, GRAPHS[i], compared[k])
        least = convex.nuclear_norm_completion(task)
        for j, scale in enumerate(settings.scales):
            net = init.scaled_(families.deep_matrix(task.shape, 2), scale, seed=compared[k])
            flow.gradient_flow(net, task, until_loss=settings.tight_loss, rtol=settings.rtol)
            s = measures.singular_values(net.tensor().detach())
            second[i, j, k], excess[i, j, k] = float(s[1] / s[0]), float(s.sum()) / least.lower_bound - 1
    return xr.Dataset(
        {"second": (dims, second), "parts_excess": (dims, excess)},
        coords={"graph": list(GRAPHS), "scale": list(settings.scales), "parts_seed": list(compared)},
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the certified bounds, completion from few entries, and the two special cases."""
    return [*_certificates(record), *_completion_claims(record), *_positive_claims(record), *_parts_claims(record)]


def _certificates(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the certified least nuclear norms."""
    return [
        exactness(
            "No flow ends below the least nuclear norm of all matrices with its observed entries: final nuclear norm "
            f"divided by a certified lower bound on the least one, least of {reduce.count(record.norm.size, 'run')}. "
            "The lower bound is corrected for the remaining training loss",
            reduce.least(record.norm / (record.least_bound + record.slack)),
            at_least=1.0,
            source=sources.DUALITY,
        ),
        exactness(
            "The least nuclear norms of all matrices with the observed entries are certified: norm found minus its "
            "lower bound from a dual solution, relative to the norm, largest of "
            f"{reduce.count(record.least_gap.size, 'problem')}",
            reduce.largest(record.least_gap),
            at_most=1e-6,
            source=sources.DUALITY,
        ),
    ]


def _completion_claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims on completion from few and from many entries."""
    few, many = record.isel(observed=0), record.isel(observed=-1)
    seeds = reduce.count(record.seed)
    deep = reduce.largest([reduce.median(few.error.sel(depth=d)) for d in few.depth.values if d >= 3])
    above = (few.norm / few.least_norm).sel(depth=3)
    every = [reduce.median(many.error.sel(depth=d)) for d in many.depth.values]
    return [
        finding(
            f"From {int(few.observed)} entries, depth 3 and more beat the fitting matrix of least nuclear norm: "
            "relative error over all entries, observed and unobserved, of the depth with the largest error divided "
            f"by that of this matrix, medians of {seeds}",
            deep / reduce.median(few.least_error),
            at_most=0.5,
            source=sources.DEPTH,
        ),
        finding(
            f"From {int(few.observed)} entries, depth 3 ends above the least nuclear norm of all fitting matrices: "
            f"share of {seeds} in which the final nuclear norm exceeds the least by 1% or more",
            reduce.share(above, lambda ratio: ratio >= 1.01),
            at_least=0.8,
            source=sources.DEPTH,
        ),
        finding(
            f"From {int(many.observed)} entries, flows of every depth and the fitting matrix of least nuclear norm "
            f"recover the target: relative error over all entries, observed and unobserved, median of {seeds} for "
            "each depth and for this matrix, largest of these medians",
            reduce.largest([*every, reduce.median(many.least_error)]),
            at_most=0.02,
            source=sources.DEPTH,
        ),
    ]


def _positive_claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims on positive semidefinite matrices and commuting operators."""
    excess = record.psd_excess.sel(operator="commuting")
    of = reduce.count(excess.isel(alpha=0).size, "run")
    return [
        finding(
            "Sensing a positive semidefinite matrix with commuting operators: the flow from alpha I at the smallest "
            "alpha ends near the least trace of all positive semidefinite matrices that fit: trace of the final end "
            f"matrix divided by the least trace, minus 1, largest of {of}, one for each depth and seed. The bound is "
            "more than twice the largest excess of seeds 100, 101, 106, 107 at alpha = 1e-4, which is 0.022",
            reduce.largest(excess.isel(alpha=-1)),
            at_most=0.05,
            source=sources.CONJECTURE,
        ),
        finding(
            "Sensing a positive semidefinite matrix with commuting operators: the flow from alpha I ends nearer to "
            "the least trace if alpha is smaller: excess (trace of the final end matrix divided by the least trace, "
            f"minus 1) at the largest alpha, divided by the excess at the smallest alpha, least of {of}, one for each "
            "depth and seed",
            reduce.least(excess.isel(alpha=0) / excess.isel(alpha=-1)),
            at_least=3.0,
            source=sources.CONJECTURE,
        ),
    ]


def _parts_claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims on two separate blocks and on connected entries."""
    blocks, connected = record.second.sel(graph="two parts"), record.second.sel(graph="connected")
    excess = record.parts_excess.sel(graph="two parts").isel(scale=-1)
    seeds = reduce.count(record.parts_seed)
    return [
        finding(
            "Observed entries in two blocks without a common row or column, depth 2: the flow from the smallest "
            "initialization ends near the least nuclear norm of all fitting matrices: final nuclear norm divided by "
            f"the least one, minus 1, largest of {seeds}",
            reduce.largest(excess),
            at_most=1e-3,
            source=sources.CONNECTIVITY,
        ),
        finding(
            "Observed entries in two blocks without a common row or column, depth 2: the flow ends at rank two "
            "although a matrix of rank one fits: second singular value of the final end matrix divided by the first, "
            f"least of {blocks.size} flows, one for each seed and initialization",
            reduce.least(blocks),
            at_least=0.1,
            source=sources.CONNECTIVITY,
        ),
        finding(
            "Observed entries that do not split into blocks, depth 2: the flow from a smaller initialization ends "
            "nearer to rank one: second singular value of the final end matrix divided by the first; this ratio from "
            f"the smallest initialization, divided by the ratio from the largest one, median of {seeds}",
            reduce.median(connected.isel(scale=-1) / connected.isel(scale=0)),
            at_most=0.1,
            source=sources.CONNECTIVITY,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: errors and norms of completion, traces of positive matrices, ranks by connectivity."""
    made, (errors, norms, positive, parts) = drawing.figure(2, 2)
    _draw_completion(errors, norms, record)
    shown = [(o, d) for o in COMMUTE for d in record.psd_depth.values]
    for k, (operator, depth) in enumerate(shown):
        excess = record.psd_excess.sel(operator=operator, psd_depth=depth)
        if bool(excess.isnull().all()):
            continue
        for j, seed in enumerate(excess.psd_seed.values):
            label = f"{operator} operators, depth {depth}" if j == 0 else None
            positive.loglog(record.alpha, excess.sel(psd_seed=seed), label=label, **drawing.style(k))
    for k, graph in enumerate(GRAPHS):
        for j, seed in enumerate(record.parts_seed.values):
            second = record.second.sel(graph=graph, parts_seed=seed)
            parts.loglog(
                record.scale, second, label=f"observed entries: {graph}" if j == 0 else None, **drawing.style(k)
            )
    scale, above = "initial scale of the weights", "trace above the least trace, relative"
    drawing.label(positive, "Positive matrices: operators that commute", scale, above)
    drawing.label(parts, "Connected entries give rank one", scale, "second over first singular value")
    drawing.note(positive, "smaller start (left):\ncloser to the least trace", 0.98, 0.02)
    drawing.note(parts, "rank 2 at every scale", 0.03, f"observed entries: {GRAPHS[0]}", side="below")
    drawing.note(parts, "smaller start: rank 1", 0.97, 0.15)
    for axes in (errors, norms, positive, parts):
        axes.legend(fontsize=7)
    return made


def _draw_completion(errors: Axes, norms: Axes, record: xr.Dataset) -> None:
    """Draw every seed's error, and the median nuclear norm above the least, by depth and for the least itself."""
    for k, observed in enumerate(record.observed.values):
        at = record.sel(observed=observed)
        each = np.concatenate([at.least_error.values[None], at.error.values])
        places = np.arange(1 + record.sizes["depth"])
        errors.plot(
            places, np.median(each, axis=1), marker="o", label=f"{observed} entries: median", **drawing.style(k)
        )
        errors.plot(np.repeat(places, each.shape[1]), each.reshape(-1), "x", markersize=4, color=drawing.COLOURS[k])
        excess = 100 * (at.norm / at.least_norm - 1)
        norms.plot(places[1:], excess.median(dim="seed"), marker="o", label=f"{observed} entries", **drawing.style(k))
    names = ["least\nnuclear norm", *[f"depth {d}" for d in record.depth.values]]
    errors.set_xticks(places, names, fontsize=8)
    norms.set_xticks(places, names, fontsize=8)
    norms.axhline(0.0, **drawing.THEORY, label="certified least")
    errors.set_yscale("log")
    drawing.label(errors, "The least nuclear norm misses the matrix", "", "relative error over all entries")
    drawing.label(norms, "Depth ends above the least nuclear norm", "", "nuclear norm above the least, %")
    few, many = (f"{observed} entries" for observed in record.observed.values[[0, -1]])
    drawing.note(errors, "few entries: the least norm\nmisses, depth recovers", 0.95, 0.87)
    drawing.note(errors, "many entries: both recover", 0.95, f"{many}: median", side="below")
    drawing.note(norms, "few entries: above the least norm", 0.95, few, side="below")
    drawing.note(norms, "many entries: the least norm", 0.95, many)
    for axes in (errors, norms):
        axes.set_xlabel("method of completion")


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    few = record.isel(observed=0)
    errors = ", ".join(f"depth {d} {float(few.error.sel(depth=d).median()):.3f}" for d in record.depth.values)
    ends = record.isel(alpha=-1).psd_excess.median(dim=("psd_seed", "psd_depth"))
    second = record.isel(scale=-1).second.median(dim="parts_seed")
    trace = {name: float(ends.sel(operator=name)) for name in COMMUTE}
    ratio = {name: float(second.sel(graph=name)) for name in GRAPHS}
    return (
        f"Relative error from {int(few.observed)} entries, medians of the seeds: least nuclear norm "
        f"{float(few.least_error.median()):.3f}, {errors}. Trace over the least, minus 1, from the smallest "
        f"initialization: commuting operators {trace['commuting']:.1e}, general operators {trace['general']:.1e}. "
        f"Second singular value over the first: two blocks {ratio['two parts']:.2f}, connected entries "
        f"{ratio['connected']:.0e}."
    )
