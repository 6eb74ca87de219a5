"""Local components of a hierarchical tensor factorization under gradient flow, at the root of its mode tree."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, problems
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures, trees

TITLE = "Hierarchical tensor factorization learns local components one at a time"
EXPLANATION = (
    "A tensor of low hierarchical rank is fitted from half of its entries by a deep factorization along a binary tree "
    "of its modes, a deep convolutional circuit. Gradient flow idles near zero, then raises one local component after "
    "the other at every node of the tree, so that the matricizations of the end tensor along the tree get low rank."
)
SOURCE = "Razin, Maman, Cohen (ICML 2022), Theorem 3 and figure of dynamics, right"


@dataclass(frozen=True)
class Settings:
    """A tensor of 4 modes of size `size` and hierarchical rank `rank`, fitted with `width` components per tree node.

    What must be kept when shrinking is the norm of a node, std * width, not std: escape from zero takes a time that
    grows as its inverse to the power 5.
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
SHOWN = 12  # largest component norms in the record
TREE = trees.ModeTree.adjacent(4, 2)


def run(settings: Settings) -> xr.Dataset:
    """One flow per seed, with the largest local components of the root and the spectra of the tree's matricizations."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
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
    """The law and the conserved quantities along the flow; the hierarchical rank; the recovery."""
    settings = records.settings_of(record, Settings)
    rank = settings.rank
    runs = records.runs(record)
    waits = [onsets.increments(r.time.values, r.spectrum.values, rank) for r in runs]
    gaps = onsets.gap(records.last(record, "spectrum"), rank)
    return [
        laws.law_claim(record, "local component norms at the root"),
        laws.drift_claim(record, settings.rtol, "Differences between squared norms within local components"),
        Claim(
            "finding",
            f"singular value {rank + 1} over {rank} of the root's matricization (largest of the seeds): "
            f"the hierarchical rank is {rank}",
            float(gaps.max()),
            "<=",
            1e-3,
        ),
        Claim(
            "finding",
            f"share of seeds where all {rank} singular values of that matricization wait for the one before",
            float(np.mean([w == rank - 1 for w in waits])),
            ">=",
            0.5,
        ),
        laws.recovery_claim(record, "median"),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Local components at the root, the spectrum of the matricization there, and the error of every seed."""
    settings = records.settings_of(record, Settings)
    made, (components, spectrum, errors) = drawing.figure(3)
    first = records.runs(record)[0]
    names = [f"{k + 1}" for k in range(settings.rank)]
    for axes, values, title, what in [
        (components, first.component, "Local components at the root", "local component norm"),
        (spectrum, first.spectrum, "Matricization at the root", "singular value"),
    ]:
        drawing.lines(axes, onsets.distance(first), values.values, [f"{what} {k}" for k in names], rest="all others")
        drawing.label(axes, f"{title} (seed {int(first.seed)})", "distance travelled by the parameters", what)
    onsets.draw_errors(errors, record, settings.observed / settings.size**TREE.order, along=onsets.distance)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    settings = records.settings_of(record, Settings)
    first = records.runs(record)[0]
    final = records.last(record, "spectrum")[0]
    values = ", ".join(f"{x:.3g}" for x in final[: settings.rank])
    errors = ", ".join(f"{x:.3f}" for x in records.last(record, "error"))
    return (
        f"Left: local component norms at the root of the tree rise one after the other, after a time of "
        f"{float(first.time[-1]):.2g} that is nearly all spent next to zero. "
        f"Middle: so do {settings.rank} singular values of the matricization there, to {values}; all others stay at "
        f"zero. Right: the error over all entries falls in as many steps; it ends at {errors} for the seeds."
    )
