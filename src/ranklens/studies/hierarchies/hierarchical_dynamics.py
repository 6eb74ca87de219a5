"""Local components of a hierarchical tensor factorization under gradient flow: they are learned one at a time."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding
from ranklens.tensors import families, measures, trees
from ranklens.tensors.network import TensorNetwork

TITLE = "Hierarchical tensor factorization learns local components one at a time"
EXPLANATION = (
    "A tensor of low hierarchical rank is fitted from half of its entries by a factorization along a binary tree of "
    "its modes, which is a deep convolutional circuit. From a small initialization, gradient flow raises one local "
    "component after the other at the nodes of the tree and leaves the rest near zero, so that the matricizations of "
    "the end tensor along the tree have low rank. This happens at the root and at the inner nodes, from observed "
    "entries and from inner products with random tensors of rank one."
)
SOURCE = "Razin, Maman, Cohen (ICML 2022), Theorem 3 and figure of dynamics, right"


# Kinds of measurements of the target.
MEASUREMENTS = ("entries", "rank one")


@dataclass(frozen=True)
class Settings:
    """A tensor of four modes and low hierarchical rank, fitted from some measurements by gradient flow.

    To escape from zero takes a time that grows as the norm of a node, which is about std * width, to the power -5. A
    smaller preset should therefore keep std * width, rather than std.

    Attributes:
        size: size of every mode.
        rank: hierarchical rank of the target.
        width: number of components of every bond.
        observed: number of observed entries, or of measurements.
        measurements: "entries", which are drawn at random, or "rank one": inner products with outer products of
            Gaussian vectors, scaled so that an entry of the outer product has the variance 1 / (number of entries).
        norm: Frobenius norm of the target.
        std: standard deviation of the initial weights.
        until_loss: training loss at which the flow ends.
        until_evaluations: number of evaluations of the gradient after which the flow ends in any case.
        rtol: relative tolerance of the solver.
        seeds: seeds of the target, the observed entries and the initial weights.
    """

    size: int = 8
    rank: int = 3
    width: int = 128
    observed: int = 2048
    measurements: str = "entries"
    norm: float = 64.0
    std: float = 0.04
    until_loss: float = 5e-5
    until_evaluations: int = 40_000
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        """Refuse unknown measurements."""
        if self.measurements not in MEASUREMENTS:
            raise ValueError(f"measurements is {self.measurements!r}; choose one of {', '.join(MEASUREMENTS)}")


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(rank=5, width=512, std=1e-2, rtol=1e-4, seeds=(0,)),
    "sensing": Settings(measurements="rank one"),
    "paper-sensing": Settings(rank=5, width=512, std=1e-2, rtol=1e-4, measurements="rank one", seeds=(0,)),
    "small": Settings(size=5, rank=2, width=50, observed=312, norm=25.0, std=0.03),
    "tiny": Settings(size=4, rank=2, width=12, observed=200, norm=16.0, std=0.15, until_loss=1e-3, seeds=(0,)),
}
MINUTES = {"laptop": 0.25, "paper": 5.0, "sensing": 1.0, "paper-sensing": 6.0, "small": 0.1, "tiny": 0.05}
# Number of the largest component norms and singular values that are recorded.
SHOWN = 12
TREE = trees.ModeTree.adjacent(4, 2)
# The two nodes between the root and the leaves, and the leaves, which are the modes.
INNER = TREE.children(TREE.root)
LEAVES = tuple((mode,) for mode in range(TREE.order))
# The five largest local component norms at the root at the end of training, as they are read from the figure of Razin,
# Maman, Cohen (ICML 2022) for rank 5, width 512 and standard deviation 0.01: another random target, and descent.
PUBLISHED = (9.5, 4.8, 2.5, 1.5, 0.8)


def run(settings: Settings) -> xr.Dataset:
    """Return the flows of all seeds, with component norms and singular values at all nodes, errors, and law checks."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
    """Return the record of one seed's flow."""
    shape = (settings.size,) * TREE.order
    target = targets.hierarchical(shape, settings.rank, norm=settings.norm, tree=TREE, seed=seed)
    task = _measured(target, settings, seed)
    net = families.hierarchical(shape, settings.width, TREE, std=settings.std, seed=seed)
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
        track={
            "component": lambda net: _components(net, TREE.root),
            "spectrum": lambda net: _spectrum(net, INNER[0]),
            "inner_component": lambda net: torch.stack([_components(net, node) for node in INNER]),
            "inner_spectrum": lambda net: torch.stack([_spectrum(net, node) for node in LEAVES]),
            "error": task.error,
            "law_error": laws.component_law(task, TREE.root),
            "drift": laws.drift(net),
        },
    )


def _measured(target: Tensor, settings: Settings, seed: int) -> problems.Completion | problems.Sensing:
    """Return the problem of fitting some entries of the target, or its inner products with tensors of rank one."""
    if settings.measurements == "entries":
        return problems.Completion.sample(target, settings.observed, seed=seed)
    scale = target.numel() ** (-1 / (2 * target.ndim))
    vectors = seeds.normals([(settings.observed, size) for size in target.shape], seed, "measurements of rank one")
    vectors = [scale * x for x in vectors]
    values = torch.einsum("abcd,za,zb,zc,zd->z", target, *vectors)
    return problems.Sensing(vectors, values, target=target)


def _components(net: TensorNetwork, node: Hashable) -> Tensor:
    """Return the largest local component norms at a node of the tree, in descending order."""
    return net.component_norms(node).sort(descending=True).values[:SHOWN]


def _spectrum(net: TensorNetwork, modes: tuple[int, ...]) -> Tensor:
    """Return the largest singular values of the matricization of the end tensor with these modes as rows."""
    return measures.singular_values(measures.matricize(net.tensor(), modes))[:SHOWN]


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the law, the conserved quantities, the rank at the root, learning in turn, the recovery."""
    settings = records.settings_of(record, Settings)
    rank, many = settings.rank, reduce.count(record.seed)
    waits = [onsets.increments(r.time.values, r.spectrum.values, rank) for r in records.runs(record)]
    gaps = onsets.gap(records.last(record, "spectrum"), rank)
    return [
        laws.law_claim(
            record,
            f"local component norms sigma at the root, {laws.COMPONENT_LAW},",
            source=sources.LOCAL_COMPONENT_LAW,
        ),
        laws.drift_claim(
            record,
            settings.rtol,
            "Differences between squared slice norms of local components",
            source=sources.LOCAL_CONSERVATION,
        ),
        finding(
            "The matricization of the final end tensor at the root of the mode tree (modes 1 and 2 as rows, 3 and 4 "
            f"as columns) has rank {rank}, up to a remainder: singular value {rank + 1} divided by singular value "
            f"{rank}, largest of {many}",
            reduce.largest(gaps),
            at_most=1e-3,
            source=sources.HIERARCHICAL_DYNAMICS,
        ),
        finding(
            "The singular values of the end tensor's matricization at the root of the mode tree (modes 1 and 2 as "
            f"rows, 3 and 4 as columns) are learned one at a time: share of {many} in which each of the singular "
            f"values 2 to {rank} passes 10% of its final size only after the one before has passed 90% of its own",
            reduce.share(waits, lambda w: w == rank - 1),
            at_least=0.5,
            source=sources.HIERARCHICAL_DYNAMICS,
        ),
        _inner_rank(record, rank, many),
        laws.recovery_claim(record, "median", source=sources.HIERARCHICAL_DYNAMICS),
    ]


def _inner_rank(record: xr.Dataset, rank: int, many: str) -> Claim:
    """Return the finding on the ranks below the inner nodes."""
    return finding(
        "The matricizations of the final end tensor below the inner nodes of the mode tree (one mode as rows, all "
        f"others as columns) have rank {rank}, up to a remainder: singular value {rank + 1} divided by singular "
        f"value {rank}, largest of {len(LEAVES)} modes and {many}. The bound is twice the largest of seven runs "
        "with other seeds and smaller widths, which leave more of the initialization",
        reduce.largest(onsets.gap(records.last(record, "inner_spectrum"), rank)),
        at_most=0.11,
        source=sources.HIERARCHICAL_DYNAMICS,
    )


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of components and singular values at the root and at inner nodes, and of all errors."""
    settings = records.settings_of(record, Settings)
    made, panels = drawing.figure(2, 3)
    first = records.runs(record)[0]
    for axes, values, title, what in [
        (panels[0], first.component, "Root: local components", "local component norm"),
        (panels[1], first.spectrum, "Root: singular values", "singular value"),
        (panels[2], first.inner_component[:, 0], "Inner node: local components", "local component norm"),
        (panels[3], first.inner_spectrum[:, 0], "Mode 1: singular values", "singular value"),
    ]:
        names = [f"{what.split()[-1]} {k + 1}" for k in range(settings.rank)]
        drawing.lines(axes, onsets.distance(first), values.values, names, rest="all others")
        axes.set_ylim(top=1.6 * float(values.max()))  # space for the legend
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], fontsize=8, loc="upper left", ncols=2)
        drawing.label(axes, title, "distance travelled in training", what)
        drawing.note(axes, "one after another", 0.03, 0.6)
    _draw_ends(panels[4], first, settings.rank)
    share = settings.observed / settings.size**TREE.order
    onsets.draw_errors(panels[5], record, share, along=onsets.distance)
    if settings.measurements != "entries":
        panels[5].set_title(f"Recovery from {settings.observed} measurements", loc="left", fontweight="bold")
    return made


def _draw_ends(axes: Axes, run: xr.Dataset, rank: int) -> None:
    """Draw the local component norms of every node at the end of a run, in descending order."""
    ends = {"root": run.component[-1], "inner node 1": run.inner_component[-1, 0]}
    ends["inner node 2"] = run.inner_component[-1, 1]
    for k, (name, values) in enumerate(ends.items()):
        axes.semilogy(np.arange(1, len(values) + 1), values, marker=".", label=name, **drawing.style(k))
    if rank == len(PUBLISHED):
        axes.plot(np.arange(1, rank + 1), PUBLISHED, "*", color="#000000", label="root, published")
    axes.axvline(rank + 0.5, label=f"rank of the target: {rank}", **drawing.THEORY)
    axes.legend(fontsize=7)
    drawing.label(axes, "At the end: few local components", "component, from large to small", "norm at the end")
    drawing.note(axes, f"{rank} components are large,\nall others small", 0.97, 0.8)


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    settings = records.settings_of(record, Settings)
    first = records.runs(record)[0]
    components, values, modes = (
        ", ".join(f"{x:.3g}" for x in found[: settings.rank])
        for found in (first.component.values[-1], first.spectrum.values[-1], first.inner_spectrum.values[-1, 0])
    )
    errors = ", ".join(f"{x:.3f}" for x in records.last(record, "error"))
    return (
        f"Local component norms at the root of the tree rise one after the other to {components}, until time "
        f"{float(first.time[-1]):.2g}, nearly all of which is spent near zero. {settings.rank} singular values of the "
        f"matricization at the root rise one after the other to {values}, and below an inner node to {modes}; all "
        f"others stay near zero. The relative error over all entries falls in as many steps; at the end it is {errors} "
        f"for the seeds."
    )
