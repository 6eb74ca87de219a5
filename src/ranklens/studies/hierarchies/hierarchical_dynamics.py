"""Local components of a hierarchical tensor factorization under gradient flow: they are learned one at a time."""

from dataclasses import dataclass

import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, problems
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding
from ranklens.tensors import families, measures, trees

TITLE = "Hierarchical tensor factorization learns local components one at a time"
EXPLANATION = (
    "A tensor of low hierarchical rank is fitted from half of its entries by a factorization along a binary tree of "
    "its modes, which is a deep convolutional circuit. From a small initialization, gradient flow raises one local "
    "component after the other at the nodes of the tree and leaves the rest near zero, so that the matricizations of "
    "the end tensor along the tree have low rank."
)
SOURCE = "Razin, Maman, Cohen (ICML 2022), Theorem 3 and figure of dynamics, right"


@dataclass(frozen=True)
class Settings:
    """A tensor of four modes and low hierarchical rank, fitted from some of its entries by gradient flow.

    To escape from zero takes a time that grows as the norm of a node, which is about std * width, to the power -5. A
    smaller preset should therefore keep std * width, rather than std.

    Attributes:
        size: size of every mode.
        rank: hierarchical rank of the target.
        width: number of components of every bond.
        observed: number of observed entries.
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
    norm: float = 64.0
    std: float = 0.04
    until_loss: float = 5e-5
    until_evaluations: int = 40_000
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(rank=5, width=512, std=1e-2, rtol=1e-4, seeds=(0,)),
    "small": Settings(size=5, rank=2, width=50, observed=312, norm=25.0, std=0.03),
    "tiny": Settings(size=4, rank=2, width=12, observed=200, norm=16.0, std=0.15, until_loss=1e-3, seeds=(0,)),
}
MINUTES = {"laptop": 0.55, "paper": 5.0, "small": 0.1, "tiny": 0.05}
# Number of the largest component norms and singular values that are recorded.
SHOWN = 12
TREE = trees.ModeTree.adjacent(4, 2)


def run(settings: Settings) -> xr.Dataset:
    """Return the flows of all seeds, with component norms and singular values at the root, errors, and law checks."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
    """Return the record of one seed's flow."""
    shape = (settings.size,) * TREE.order
    target = targets.hierarchical(shape, settings.rank, norm=settings.norm, tree=TREE, seed=seed)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = families.hierarchical(shape, settings.width, TREE, std=settings.std, seed=seed)
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
        track={
            "component": lambda net: net.component_norms(TREE.root).sort(descending=True).values[:SHOWN],
            "spectrum": lambda net: measures.singular_values(measures.matricize(net.tensor(), (0, 1)))[:SHOWN],
            "error": task.error,
            "law_error": laws.component_law(task, TREE.root),
            "drift": laws.drift(net),
        },
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the law, the conserved quantities, the rank at the root, learning in turn, the recovery."""
    settings = records.settings_of(record, Settings)
    rank, seeds = settings.rank, reduce.count(record.seed)
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
            f"{rank}, largest of {seeds}",
            reduce.largest(gaps),
            at_most=1e-3,
            source=sources.HIERARCHICAL_DYNAMICS,
        ),
        finding(
            "The singular values of the end tensor's matricization at the root of the mode tree (modes 1 and 2 as "
            f"rows, 3 and 4 as columns) are learned one at a time: share of {seeds} in which each of the singular "
            f"values 2 to {rank} passes 10% of its final size only after the one before has passed 90% of its own",
            reduce.share(waits, lambda w: w == rank - 1),
            at_least=0.5,
            source=sources.HIERARCHICAL_DYNAMICS,
        ),
        laws.recovery_claim(record, "median", source=sources.HIERARCHICAL_DYNAMICS),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of component norms and singular values at the root, and of the error of every seed."""
    settings = records.settings_of(record, Settings)
    made, (components, spectrum, errors) = drawing.figure(3)
    first = records.runs(record)[0]
    names = [f"{k + 1}" for k in range(settings.rank)]
    for axes, values, title, what in [
        (components, first.component, "Local components at the root", "local component norm"),
        (spectrum, first.spectrum, "Matricization at the root", "singular value"),
    ]:
        drawing.lines(axes, onsets.distance(first), values.values, [f"{what} {k}" for k in names], rest="all others")
        drawing.label(axes, f"{title} (seed {int(first.seed)})", "arc length of the parameters' trajectory", what)
    onsets.draw_errors(errors, record, settings.observed / settings.size**TREE.order, along=onsets.distance)
    return made


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    settings = records.settings_of(record, Settings)
    first = records.runs(record)[0]
    final = records.last(record, "spectrum")[0]
    values = ", ".join(f"{x:.3g}" for x in final[: settings.rank])
    errors = ", ".join(f"{x:.3f}" for x in records.last(record, "error"))
    return (
        f"Left: local component norms at the root of the tree rise one after the other, until time "
        f"{float(first.time[-1]):.2g}, nearly all of which is spent near zero. Middle: {settings.rank} singular values "
        f"of the matricization at the root rise one after the other to {values}; all others stay near zero. Right: the "
        f"relative error over all entries falls in as many steps; at the end it is {errors} for the seeds."
    )
