"""Dependence between modes that are far apart in the tree: slow to learn, and badly; with the right tree it is easy."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing, problems
from ranklens.dynamics import descent, optim
from ranklens.problems import targets
from ranklens.studies.kit import onsets, records
from ranklens.studies.kit.agreement import agreement
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures, trees, truncation
from ranklens.tensors.network import TensorNetwork
from ranklens.theory import rank_bounds

TITLE = "Low hierarchical rank is locality: far dependence is learnt late and badly"
EXPLANATION = (
    "A tensor that says whether two of its modes agree has rank one across the root of the tree if they are siblings, "
    "and high rank if they are not, so a hierarchical factorization that lowers rank takes many more iterations over "
    "the far pair and errs more on unseen entries. Nothing is wrong with the far pair itself: with a tree that makes "
    "it siblings it is as easy as the near one."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2022), sections on locality and long-range dependence; the experiment is a small one "
    "of our own"
)


@dataclass(frozen=True)
class Settings:
    """Whether two of four modes agree, centred, from `observed` entries; `kept` components stay in the cut check.

    The papers' experiments on range are about images; the preset "paper" is only a larger one.
    """

    size: int = 5
    width: int = 25
    observed: int = 300
    std: float = 0.05
    lr: float = 1e-2
    until_loss: float = 1e-3
    steps: int = 8000
    rank: int = 2
    kept: int = 4
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(size=8, width=64, observed=2000, steps=20_000),
    "tiny": Settings(size=4, width=8, observed=150, until_loss=1e-2, steps=200, kept=3, seeds=(0,)),
}
MINUTES = {"laptop": 0.7, "paper": 1.1, "tiny": 0.05}
EVERY = 20  # steps from one row of the record to the next
ADJACENT, DISTANT = trees.ModeTree.adjacent(4), trees.ModeTree.distant(4)
AGREE = {  # case -> the modes that agree, and the tree
    "near": ((0, 1), ADJACENT),
    "far": ((0, 2), ADJACENT),
    "far, its own tree": ((0, 2), DISTANT),
}
CONTROL = "far, its own tree"
DRAWN = "of low rank"  # a random target, whose root components outlast its singular values
CUTS = ((0,), (0, 1), (0, 2))  # partitions at which a truncated network is held to its smallest cut
ROUNDING = 1e-10  # singular values that must vanish, over the largest: rounding leaves 1e-14


def run(settings: Settings) -> xr.Dataset:
    """One descent per case and seed, with the errors on unseen entries, and what truncation does at the end."""
    parts = []
    for case in (*AGREE, DRAWN):
        runs = [_one(settings, case, seed) for seed in settings.seeds]
        part = records.gather([along for along, _ in runs], settings.seeds)
        ends = xr.concat([end for _, end in runs], dim="seed").assign_coords(seed=list(settings.seeds))
        parts.append(part.assign(ends.data_vars).assign_coords(ends.coords))
    attrs = parts[0].attrs
    record = xr.concat(parts, dim="case", join="outer").assign_coords(case=[*AGREE, DRAWN])
    record.attrs = attrs
    return record


def _one(settings: Settings, case: str, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    shape, pairs = (settings.size,) * 4, agreement(settings.size, (0, 1))
    if case == DRAWN:
        target, tree = targets.hierarchical(shape, settings.rank, norm=float(pairs.norm()), seed=seed), ADJACENT
    else:
        modes, tree = AGREE[case]
        target = agreement(settings.size, modes)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = families.hierarchical(shape, settings.width, tree, std=settings.std, seed=seed)
    unseen = torch.ones(target.numel(), dtype=torch.bool)
    unseen[task.flat] = False
    child = tree.children(tree.root)[0]
    along = descent.gradient_descent(
        net,
        task,
        optim.GroupRMSprop(net.parameters(), lr=settings.lr),
        steps=settings.steps,
        until_loss=settings.until_loss,
        every=EVERY,
        track={
            "test": lambda net: (net.tensor() - target).reshape(-1)[unseen].square().mean(),
            "effective_rank": lambda net: measures.effective_rank(measures.matricize(net.tensor(), child)),
        },
    )
    return along, _end(net, tree, settings.kept)


@torch.no_grad()
def _end(net: TensorNetwork, tree: trees.ModeTree, kept: int) -> xr.Dataset:
    """Root components and singular values; how far truncation moves the end tensor; what is left beyond a cut."""
    whole, widths = net.tensor(), range(1, net.layout.sizes[tree.root])
    child = tree.children(tree.root)[0]
    moved, ratio = [], []
    for width in widths:
        plan = dict.fromkeys(net.bonds, width)
        moved.append(float((whole - truncation.truncate(net, plan).tensor()).norm() / whole.norm()))
        ratio.append(moved[-1] * float(whole.norm() / rank_bounds.pruning_bound(net, plan)))
    small = truncation.truncate(net, dict.fromkeys(net.bonds, kept))
    return xr.Dataset(
        {
            "component": ("r", net.component_norms(tree.root).sort(descending=True).values.numpy()),
            "root_singular": ("s", measures.singular_values(measures.matricize(whole, child)).numpy()),
            "moved": ("width", np.array(moved)),
            "moved_over_bound": ("width", np.array(ratio)),
            "beyond_cut": ("cut", np.array([_beyond(small, modes) for modes in CUTS])),
        },
        coords={"width": list(widths), "cut": ["".join(map(str, modes)) for modes in CUTS]},
    )


def _beyond(net: TensorNetwork, modes: tuple[int, ...]) -> float:
    """The first singular value that the smallest cut forbids, over the largest."""
    s = measures.singular_values(measures.matricize(net.tensor(), modes))
    bound = rank_bounds.min_cut_bound(net, modes)
    return float(s[bound] / s[0]) if bound < len(s) else 0.0


def claims(record: xr.Dataset) -> list[Claim]:
    """Both bounds at the end of every run; iterations, errors and ranks of near and far; which number shows rank."""
    settings = records.settings_of(record, Settings)
    steps, tests, ranks = (_median(record, name) for name in ("step", "test", "effective_rank"))
    gaps = {name: _gap(record, name, settings.rank) for name in ("component", "root_singular")}
    singular = float(np.median(gaps["root_singular"]))
    return [
        Claim(
            "theorem",
            f"how far truncation moves the end tensor, over the bound from the dropped norms (largest of "
            f"{record.moved_over_bound.size} truncations)",
            float(record.moved_over_bound.max(skipna=False)),
            "<=",
            1.0,
        ),
        Claim(
            "theorem",
            f"with {settings.kept} components per bond, the first singular value beyond the smallest cut over the "
            f"largest (worst of {record.beyond_cut.size} matricizations)",
            float(record.beyond_cut.max(skipna=False)),
            "<=",
            ROUNDING,
        ),
        Claim("finding", "iterations, far over near (medians of the seeds)", steps["far"] / steps["near"], ">=", 4.0),
        Claim(
            "finding",
            "error on unseen entries, far over near (medians of the seeds)",
            tests["far"] / tests["near"],
            ">=",
            4.0,
        ),
        Claim(
            "finding",
            "iterations, far with a tree that joins the pair over near (medians of the seeds)",
            steps[CONTROL] / steps["near"],
            "<=",
            2.0,
        ),
        Claim(
            "finding",
            "error on unseen entries, far with a tree that joins the pair over near (medians of the seeds)",
            tests[CONTROL] / tests["near"],
            "<=",
            2.0,
        ),
        Claim("finding", "effective rank across the root, near (median of the seeds)", ranks["near"], "<=", 1.05),
        Claim(
            "finding",
            f"effective rank across the root, far (median of the seeds), of {settings.size - 1} in the target",
            ranks["far"],
            ">=",
            0.75 * (settings.size - 1),
        ),
        Claim(
            "finding",
            f"small components are not necessary: root component {settings.rank + 1} over {settings.rank}, relative "
            f"to the same ratio of singular values, {singular:.0e} in the median (least of the seeds)",
            float((gaps["component"] / gaps["root_singular"]).min()),
            ">=",
            10.0,
        ),
    ]


def _median(record: xr.Dataset, name: str) -> dict[str, float]:
    """The median over the seeds of a variable's last value, for every case."""
    return {case: float(np.median(records.last(record.sel(case=case), name))) for case in record.case.values}


def _gap(record: xr.Dataset, name: str, rank: int) -> NDArray[np.float64]:
    """The first value beyond the target's rank over the last within, for the random target of every seed."""
    return np.asarray(onsets.gap(record[name].sel(case=DRAWN).values, rank), dtype=np.float64)


def draw(record: xr.Dataset) -> Figure:
    """Errors on unseen entries against iterations; components and singular values; truncation and its bound."""
    settings = records.settings_of(record, Settings)
    made, (errors, sizes, pruning) = drawing.figure(3)
    for k, case in enumerate(AGREE):
        for j, r in enumerate(records.runs(record.sel(case=case))):
            name = case if j == 0 else None
            errors.loglog(r.step[1:], r.test[1:], label=name, linewidth=1.2, **drawing.style(k))
            errors.plot(r.step[-1:], r.test[-1:], "o", markersize=4, color=drawing.COLOURS[k])
    errors.legend(fontsize=8)
    drawing.label(errors, "Far is late and bad, save with its own tree", "iterations", "mean square on unseen entries")
    _draw_sizes(sizes, record, settings.rank)
    _draw_pruning(pruning, record)
    return made


def _draw_sizes(axes: Axes, record: xr.Dataset, rank: int) -> None:
    """Root components and singular values of the random target, every one over the last within the rank."""
    at = record.sel(case=DRAWN)
    names = {"component": "root components", "root_singular": "singular values across the root"}
    for k, (name, legend) in enumerate(names.items()):
        values = -np.sort(-at[name].values, axis=-1)
        values = (values / values[:, rank - 1 : rank])[:, : 3 * rank + 2]
        for j, row in enumerate(values):
            positions = np.arange(1, len(row) + 1)
            label = legend if j == 0 else None
            axes.semilogy(positions, row, marker=".", linewidth=1.2, label=label, **drawing.style(k))
    axes.axvline(rank + 0.5, color="#999999", linewidth=1.0)
    axes.annotate(f"rank of the target: {rank}", (rank + 0.6, 0.97), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set_ylim(1e-3 * float(values.min()), 1e3)  # room for the legend and the target's rank
    axes.legend(fontsize=8, loc="lower left")
    drawing.label(axes, "Low rank, yet components remain", "largest first", f"size, over number {rank}")


def _draw_pruning(axes: Axes, record: xr.Dataset) -> None:
    """What truncation of every bond does to the end tensor, and what it may do."""
    at = record.isel(seed=0)
    for k, case in enumerate(("near", "far")):
        moved = at.moved.sel(case=case)
        axes.semilogy(record.width, moved, label=f"{case}: moved", color=drawing.COLOURS[k], marker=".")
        style = {**drawing.THEORY, "color": drawing.COLOURS[k]}
        axes.semilogy(record.width, moved / at.moved_over_bound.sel(case=case), label=f"{case}: at most", **style)
    axes.legend(fontsize=8)
    drawing.label(axes, "Truncation stays below its bound", "components kept per bond", "|W - truncated W| / |W|")


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    settings = records.settings_of(record, Settings)
    steps, tests = _median(record, "step"), _median(record, "test")
    ends = "; ".join(f"{case}: {steps[case]:.0f} iterations, {tests[case]:.2g}" for case in AGREE)
    component, singular = (
        float(np.median(_gap(record, name, settings.rank))) for name in ("component", "root_singular")
    )
    return (
        f"Left: the error on unseen entries against iterations (medians at the end: {ends}). Middle: for a target of "
        f"rank {settings.rank}, singular value {settings.rank + 1} falls to {singular:.0e} of the one before, and root "
        f"component {settings.rank + 1} only to {component:.2g}. Right: truncation moves the end tensor by at most "
        f"{float(record.moved_over_bound.max()):.2g} of what its bound allows."
    )
