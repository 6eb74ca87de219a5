"""Dependence between modes that are far apart in the mode tree, which is learned late and with large errors.

A pair of modes is near if both are children of one node of the tree, and far if only the root joins them.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ranklens import drawing, problems
from ranklens.dynamics import descent, optim
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.nn.circuits import circuit
from ranklens.nn.separation_rank import separation_rank
from ranklens.problems import targets
from ranklens.studies.kit import onsets, records, reduce, sources
from ranklens.studies.kit.agreement import agreement
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.tensors import families, measures, trees, truncation
from ranklens.tensors.network import TensorNetwork
from ranklens.theory import rank_bounds

TITLE = "Low hierarchical rank is locality: dependence between distant modes is learned late and badly"
EXPLANATION = (
    "A tensor that says whether two of its indices are equal has rank one across the root of the tree if their modes "
    "are siblings, and high rank if they are not. A hierarchical factorization that lowers rank therefore takes many "
    "more iterations for a far pair, and has larger errors on unobserved entries. Nothing else is difficult about the "
    "far pair: in a tree that makes its modes siblings, it is learned as easily as the near one."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2022), sections on locality and long-range dependence; the experiment is a small one "
    "of our own"
)


@dataclass(frozen=True)
class Settings:
    """Tensors of four modes that say whether two indices are equal, minus their mean, and a random one of low rank.

    The experiments of the paper on long range are about images. The preset "paper" is a larger one of ours.

    Attributes:
        size: size of every mode.
        width: number of components of every bond.
        observed: number of observed entries.
        std: standard deviation of the initial weights.
        lr: learning rate of GroupRMSprop.
        until_loss: training loss at which descent ends.
        steps: largest number of steps.
        rank: hierarchical rank of the random target of low rank.
        kept: number of components of every bond that remain for the check of the smallest cut.
        seeds: seeds of the observed entries, the initial weights and the random targets.
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
# Steps from one row of the record to the next.
EVERY = 20
ADJACENT, DISTANT = trees.ModeTree.adjacent(4), trees.ModeTree.distant(4)
# The near pair, the far pair, and the far pair in a tree that makes its modes siblings: the two modes whose indices
# are compared, and the tree.
AGREE = {
    "near": ((0, 1), ADJACENT),
    "far": ((0, 2), ADJACENT),
    "far, its own tree": ((0, 2), DISTANT),
}
CONTROL = "far, its own tree"
# The case of a random target of low rank, where components at the root remain while singular values vanish.
DRAWN = "of low rank"
# Modes on one side of the matricizations whose rank a truncated network bounds by its smallest cut.
CUTS = ((0,), (0, 1), (0, 2))
# Bound on singular values that must vanish, over the largest singular value; rounding leaves about 1e-14.
ROUNDING = 1e-10


def run(settings: Settings) -> xr.Dataset:
    """Return the descent of every case and seed, with errors on unobserved entries, and truncation at the end."""
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


@ignoring_early_stops()
def _one(settings: Settings, case: str, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the record of one descent, and the measurements at its end."""
    shape, pairs = (settings.size,) * 4, agreement(settings.size, (0, 1))
    if case == DRAWN:
        target, tree = targets.hierarchical(shape, settings.rank, norm=float(pairs.norm()), seed=seed), ADJACENT
    else:
        modes, tree = AGREE[case]
        target = agreement(settings.size, modes)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = families.hierarchical(shape, settings.width, tree, std=settings.std, seed=seed)
    unobserved = torch.ones(target.numel(), dtype=torch.bool)
    unobserved[task.flat] = False
    child = tree.children(tree.root)[0]
    along = descent.gradient_descent(
        net,
        task,
        optim.GroupRMSprop(net.parameters(), lr=settings.lr),
        steps=settings.steps,
        until_loss=settings.until_loss,
        every=EVERY,
        track={
            "test": lambda net: (net.tensor() - target).reshape(-1)[unobserved].square().mean(),
            "effective_rank": lambda net: measures.effective_rank(measures.matricize(net.tensor(), child)),
        },
    )
    return along, _end(net, tree, settings.kept)


@torch.no_grad()
def _end(net: TensorNetwork, tree: trees.ModeTree, kept: int) -> xr.Dataset:
    """Return measurements of a trained network.

    Args:
        net: a hierarchical factorization.
        tree: its mode tree.
        kept: number of components of every bond that remain for `beyond_cut`.

    Returns:
        `component` and `root_singular`: component norms and singular values at the root, in descending order. `moved`:
        by which part of its norm the end tensor changes if `width` components of every bond remain, and
        `moved_over_bound`: the ratio of this change to the bound from the dropped component norms. `beyond_cut`: as
        `_beyond` returns, for every matricization in `CUTS`. `separation`: as `_separation_error` returns.
    """
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
            "separation": ((), _separation_error(net)),
        },
        coords={"width": list(widths), "cut": ["".join(map(str, modes)) for modes in CUTS]},
    )


def _beyond(net: TensorNetwork, modes: tuple[int, ...]) -> float:
    """Return the first singular value of a matricization that the smallest cut bounds to zero, over the largest.

    Args:
        net: a tensor network.
        modes: modes on one side of the matricization.

    Returns:
        The ratio, which is 0 up to rounding; 0 if the smallest cut allows full rank.
    """
    s = measures.singular_values(measures.matricize(net.tensor(), modes))
    bound = rank_bounds.min_cut_bound(net, modes)
    return float(s[bound] / s[0]) if bound < len(s) else 0.0


def _separation_error(net: TensorNetwork) -> float:
    """Return how far the coupling of two halves of the input of the circuit is from that of the matricization.

    Inputs are the unit vectors of all pairs of indices, which span the inputs of a half, so that the table of the
    circuit's values is the matricization. The return value is the largest absolute difference between a singular value
    of the table and one of the matricization of the first two modes, divided by the largest.
    """
    size = net.shape[0]
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    units = nn.functional.one_hot(torch.cat([pairs, pairs], dim=1), size).double()
    half = torch.tensor([[True], [True], [False], [False]]).expand(4, size)
    measured = separation_rank(circuit(net), units, half, templates=len(units), centre=False)
    s = measures.singular_values(measures.matricize(net.tensor(), (0, 1)))
    return float((measured.spectrum - s).abs().max() / s[0])


def claims(record: xr.Dataset) -> list[Claim]:
    """Return theorems on truncation, and findings on the far pair relative to the near one and on components."""
    settings = records.settings_of(record, Settings)
    measured = exactness(
        "The rank that couples modes 1 and 2 to modes 3 and 4 measures how two halves of the input of the deep "
        "convolutional circuit depend on each other: absolute difference between a singular value of the table of the "
        "circuit's outputs for all inputs of either half and one of the matricization, divided by the largest, largest "
        "of "
        f"{reduce.count(record.separation.size, 'trained network')}",
        reduce.largest(record.separation),
        at_most=ROUNDING,
        source=sources.SEPARATION,
    )
    return [*_theorems(record, settings), *_far_over_near(record), *_ranks(record, settings), measured]


def _theorems(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the two bounds on truncated networks."""
    return [
        exactness(
            "Keeping the largest components of every bond changes the end tensor by at most a bound computed from "
            "the norms of the dropped components and of the nodes: Frobenius norm of the change divided by this "
            f"bound, largest of {record.moved_over_bound.size} truncations of trained networks",
            reduce.largest(record.moved_over_bound),
            at_most=1.0,
            source=sources.PRUNING,
        ),
        exactness(
            f"If {settings.kept} components remain at every bond, the rank of a matricization of the end tensor is at "
            "most the minimal cut, the smallest product of bond sizes that separates its rows from its columns: "
            "first singular value beyond this bound divided by the largest singular value, largest of "
            f"{record.beyond_cut.size} matricizations of trained networks. It is 0 up to rounding",
            reduce.largest(record.beyond_cut),
            at_most=ROUNDING,
            source=sources.MINIMAL_CUT,
        ),
    ]


def _far_over_near(record: xr.Dataset) -> list[Claim]:
    """Return findings on iterations and errors of the far pair, in both trees, relative to the near pair."""
    steps, tests = (_median(record, name) for name in ("step", "test"))
    iterations = "Number of steps until the training loss reaches its stopping value or the steps run out"
    errors = "Mean squared error over unobserved entries at the end"
    far = (
        "ratio of the target that compares two modes far apart in the mode tree to the target that compares two "
        "siblings"
    )
    both = f"(medians of {reduce.count(record.seed)})"
    own = (
        "ratio of the target that compares the far modes, fitted along another tree in which they are siblings, to the "
        "target that compares two siblings in the first tree"
    )
    return [
        finding(f"{iterations}, {far} {both}", steps["far"] / steps["near"], at_least=4.0, source=sources.LOCALITY),
        finding(f"{errors}, {far} {both}", tests["far"] / tests["near"], at_least=4.0, source=sources.LOCALITY),
        finding(f"{iterations}, {own} {both}", steps[CONTROL] / steps["near"], at_most=2.0, source=sources.LOCALITY),
        finding(f"{errors}, {own} {both}", tests[CONTROL] / tests["near"], at_most=2.0, source=sources.LOCALITY),
    ]


def _ranks(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on the rank across the root, and on components of a random target of low rank."""
    seeds, ranks = reduce.count(record.seed), _median(record, "effective_rank")
    component, singular = (_gap(record, name, settings.rank) for name in ("component", "root_singular"))
    beyond, within = settings.rank + 1, settings.rank
    return [
        finding(
            "Effective rank of the final end tensor's matricization at the root (modes 1 and 2 as rows), for the "
            f"near target, which compares the indices of modes 1 and 2 and has rank 1 there (median of {seeds})",
            ranks["near"],
            at_most=1.05,
            source=sources.LOCALITY,
        ),
        finding(
            "Effective rank of the final end tensor's matricization at the root (modes 1 and 2 as rows), for the far "
            f"target, which compares the indices of modes 1 and 3 and has rank {settings.size - 1} there (median of "
            f"{seeds}). The bound is three quarters of this rank",
            ranks["far"],
            at_least=0.75 * (settings.size - 1),
            source=sources.LOCALITY,
        ),
        finding(
            f"Low rank does not need small components: for a random target of hierarchical rank {within}, the ratio "
            f"of component norms {beyond} and {within} at the root of the trained network, divided by the ratio of "
            f"singular values {beyond} and {within} of the matricization there, least of {seeds} (the ratio of "
            f"singular values has the median {reduce.median(singular):.0e})",
            reduce.least(component / singular),
            at_least=10.0,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _median(record: xr.Dataset, name: str) -> dict[str, float]:
    """Return the median over the seeds of the last value of a variable, for every case."""
    return {case: reduce.median(records.last(record.sel(case=case), name)) for case in record.case.values}


def _gap(record: xr.Dataset, name: str, rank: int) -> NDArray[np.float64]:
    """Return value `rank` + 1 over value `rank`, in descending order, for every seed's random target."""
    return np.asarray(onsets.gap(record[name].sel(case=DRAWN).values, rank), dtype=np.float64)


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of errors on unobserved entries, of components and singular values, and of truncation."""
    settings = records.settings_of(record, Settings)
    made, (errors, sizes, pruning) = drawing.figure(3)
    for k, case in enumerate(AGREE):
        for j, r in enumerate(records.runs(record.sel(case=case))):
            name = case if j == 0 else None
            errors.loglog(r.step[1:], r.test[1:], label=name, linewidth=1.2, **drawing.style(k))
            errors.plot(r.step[-1:], r.test[-1:], "o", markersize=4, color=drawing.COLOURS[k])
    errors.legend(fontsize=8)
    drawing.label(
        errors,
        "The far pair is learned late and badly",
        "iterations (log scale)",
        "error, unobserved entries (log scale)",
    )
    drawing.note(errors, "near pair, and far\nin its own tree:\nlearned early", 0.02, 0.1)
    drawing.note(errors, "far pair: late and badly", 0.5, 0.75)
    _draw_sizes(sizes, record, settings.rank)
    _draw_pruning(pruning, record)
    return made


def _draw_sizes(axes: Axes, record: xr.Dataset, rank: int) -> None:
    """Draw components and singular values at the root for the random target, over the last within its rank."""
    at = record.sel(case=DRAWN)
    names = {"component": "component norms", "root_singular": "singular values"}
    for k, (name, legend) in enumerate(names.items()):
        values = -np.sort(-at[name].values, axis=-1)
        values = (values / values[:, rank - 1 : rank])[:, : 3 * rank + 2]
        for j, row in enumerate(values):
            positions = np.arange(1, len(row) + 1)
            label = legend if j == 0 else None
            axes.semilogy(positions, row, marker=".", linewidth=1.2, label=label, **drawing.style(k))
    axes.axvline(rank + 0.5, color="#999999", linewidth=1.0)
    axes.annotate(f"rank of the target: {rank}", (rank + 0.6, 0.97), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set_ylim(1e-3 * float(values.min()), 1e3)  # space for the legend and the annotation
    drawing.note(axes, "component norms stay large", 0.97, 0.78)
    drawing.note(axes, f"singular values: rank {rank}", 0.97, 0.03)
    axes.legend(fontsize=8, loc="lower left")
    drawing.label(
        axes,
        "At the root: low rank, large components",
        "index, in descending order",
        f"value / value {rank} (log scale)",
    )


def _draw_pruning(axes: Axes, record: xr.Dataset) -> None:
    """Draw the change of the end tensor by truncation of every bond, and its bound, for the first seed."""
    at = record.isel(seed=0)
    for k, case in enumerate(("near", "far")):
        moved = at.moved.sel(case=case)
        axes.semilogy(record.width, moved, label=f"{case} pair: change", color=drawing.COLOURS[k], marker=".")
        style = {**drawing.THEORY, "color": drawing.COLOURS[k]}
        axes.semilogy(record.width, moved / at.moved_over_bound.sel(case=case), label=f"{case} pair: bound", **style)
    axes.legend(fontsize=8)
    drawing.label(axes, "Truncation stays below its bound", "components kept per bond", "relative change of the tensor")
    drawing.note(axes, "change: below its bound", 0.03, 0.02)


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    settings = records.settings_of(record, Settings)
    steps, tests = _median(record, "step"), _median(record, "test")
    ends = "; ".join(f"{case}: {steps[case]:.0f} iterations, {tests[case]:.2g}" for case in AGREE)
    component, singular = (
        float(np.median(_gap(record, name, settings.rank))) for name in ("component", "root_singular")
    )
    return (
        f"Left: mean squared error over unobserved entries against iterations; medians of the seeds at the end: "
        f"{ends}. Middle: for a target of rank {settings.rank}, singular value {settings.rank + 1} at the root falls "
        f"to {singular:.0e} of the one before, and component norm {settings.rank + 1} to {component:.2g}. Right: "
        f"truncation moves the end tensor by at most {float(record.moved_over_bound.max()):.2g} of its bound."
    )
