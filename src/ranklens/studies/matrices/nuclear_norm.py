"""Is the nuclear norm what gradient flow minimizes? Against the exact least one, where it is, and where it is not."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranklens import drawing, problems, seeds, theory
from ranklens.dynamics import end_matrix, flow
from ranklens.problems import targets
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, init, measures
from ranklens.theory import convex

TITLE = "Gradient flow does not minimize the nuclear norm, save in special cases"
EXPLANATION = (
    "From few entries deeper factorizations find the matrix at a nuclear norm above the certified least, which is that "
    "of a wrong matrix. Depth 2 from a vanishing start does reach the least among positive matrices if the operators "
    "commute, and if the observations fall into parts that nothing joins; where they hang together it lowers the rank."
)
SOURCE = (
    "Gunasekar et al. (NeurIPS 2017), the conjecture; Arora, Cohen, Hu, Luo (NeurIPS 2019); Bai, Zhao, Zhang (NeurIPS "
    "2024) on connectivity"
)


@dataclass(frozen=True)
class Settings:
    """A size x size matrix of some rank; positive matrices of another size; and matrices of rank one in two parts."""

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
    alphas: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
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
COMMUTE = ("commuting", "general")
GRAPHS = ("two parts", "connected")


def run(settings: Settings) -> xr.Dataset:
    """The three experiments in one record, each with the exact least nuclear norm beside it."""
    return xr.merge([_completion(settings), _positive(settings), _connectivity(settings)])


def _completion(settings: Settings) -> xr.Dataset:
    """Flows of several depths from few and many entries of a random matrix of low rank."""
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
    """Inner products of a positive matrix of low rank with symmetric operators, of one eigenbasis or of their own."""
    d, m = settings.psd_size, settings.operators
    Q, A, x = seeds.normals([(d, d), (m, d, d), (d, settings.psd_rank)], seed, "positive sensing")
    if commuting:
        Q = torch.linalg.qr(Q).Q
        A = (Q * A.diagonal(dim1=1, dim2=2)[:, None, :]) @ Q.T
        weights = torch.zeros(d, dtype=torch.float64)
        weights[: settings.psd_rank] = x[0].abs() + 0.5
        X = (Q * weights) @ Q.T
    else:
        A, X = (A + A.mT) / 2, x @ x.T
    return problems.DenseSensing(A, (A * X).sum(dim=(1, 2)), target=X)


def _positive(settings: Settings) -> xr.Dataset:
    """Ends of the flow from alpha I: the end matrix stays symmetric, and at depth 2 follows X' = -(X G + G X)."""
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
    """Half of the entries of a matrix of rank one: two blocks that nothing joins, or as many that hang together."""
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
    """Depth 2 from ever smaller starts: the second singular value over the first, and the nuclear norm."""
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
    """Certificates bound every flow; who is right from few entries; the special cases, and the smallest starts."""
    few, many = record.isel(observed=0), record.isel(observed=-1)
    deep = few.error.sel(depth=[d for d in few.depth.values if d >= 3]).median(dim="seed")
    norms = few.norm / few.least_norm
    positive = record.isel(alpha=-1)
    small, large = record.isel(scale=-1), record.isel(scale=0)
    found = [
        Claim(
            "theorem",
            "nuclear norm of every flow over the certified bound for what it fits (least)",
            float((record.norm / (record.least_bound + record.slack)).min()),
            ">=",
            1.0,
        ),
        Claim(
            "theorem",
            "certified relative gap of the least nuclear norms (largest)",
            float(record.least_gap.max()),
            "<=",
            1e-6,
        ),
        _ratio("error at depth 3 and more over that of the least nuclear norm", few, deep.max(), 0.5),
        Claim(
            "finding",
            f"{int(few.observed)} entries: share of seeds whose norm at depth 3 is above the least by 1% or more",
            float((norms.sel(depth=3) >= 1.01).mean()),
            ">=",
            0.8,
        ),
        Claim(
            "finding",
            f"{int(many.observed)} entries: error at any depth, and of the least nuclear norm (largest median)",
            float(max(many.error.median(dim="seed").max(), many.least_error.median())),
            "<=",
            0.02,
        ),
        Claim(
            "finding",
            "commuting operators, smallest start: trace over the least, minus one (largest)",
            float(positive.psd_excess.sel(operator="commuting").max()),
            "<=",
            0.05,
        ),
        Claim(
            "finding",
            "and that at the largest start over that at the smallest (least)",
            float((record.psd_excess.isel(alpha=0) / positive.psd_excess).sel(operator="commuting").min()),
            ">=",
            3.0,
        ),
        Claim(
            "finding",
            "two parts, smallest start: nuclear norm over the least, minus one (largest)",
            float(small.parts_excess.sel(graph="two parts").max()),
            "<=",
            1e-3,
        ),
        Claim(
            "finding",
            "two parts: second singular value over the first, although rank one fits (least of all starts)",
            float(record.second.sel(graph="two parts").min()),
            ">=",
            0.1,
        ),
        Claim(
            "finding",
            "connected: that ratio at the smallest start over that at the largest (median of the seeds)",
            float((small.second / large.second).sel(graph="connected").median()),
            "<=",
            0.1,
        ),
    ]
    return found


def _ratio(statement: str, few: xr.Dataset, error: xr.DataArray, bound: float) -> Claim:
    value = float(error / few.least_error.median())
    return Claim("finding", f"{int(few.observed)} entries: {statement} (medians)", value, "<=", bound)


def draw(record: xr.Dataset) -> Figure:
    """Errors and norms from few entries; positive matrices; parts and what hangs together."""
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
            parts.loglog(record.scale, second, label=graph if j == 0 else None, **drawing.style(k))
    drawing.label(positive, "Positive matrices: least if they commute", "start alpha I", "trace / least - 1")
    drawing.label(parts, "What hangs together gets rank one", "scale of the start", "second / first singular value")
    for axes in (errors, norms, positive, parts):
        axes.legend(fontsize=7)
    return made


def _draw_completion(errors: Axes, norms: Axes, record: xr.Dataset) -> None:
    """Every seed's error and excess of the nuclear norm by depth, beside the least."""
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
    drawing.label(errors, "The least nuclear norm is not the matrix", "", "|W - target| / |target|")
    drawing.label(norms, "and depth goes above it", "", "nuclear norm above the least, %")
    for axes in (errors, norms):
        axes.set_xlabel("how it was completed")


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    few = record.isel(observed=0)
    errors = ", ".join(f"depth {d} {float(few.error.sel(depth=d).median()):.3f}" for d in record.depth.values)
    ends = record.isel(alpha=-1).psd_excess.median(dim=("psd_seed", "psd_depth"))
    second = record.isel(scale=-1).second.median(dim="parts_seed")
    trace = {name: float(ends.sel(operator=name)) for name in COMMUTE}
    ratio = {name: float(second.sel(graph=name)) for name in GRAPHS}
    return (
        f"From {int(few.observed)} entries the least nuclear norm errs by {float(few.least_error.median()):.3f}, "
        f"{errors} (medians). Trace above the least at the smallest start: commuting operators "
        f"{trace['commuting']:.1e}, general {trace['general']:.1e}. Second singular value over the first: two parts "
        f"{ratio['two parts']:.2f}, connected {ratio['connected']:.0e}."
    )
