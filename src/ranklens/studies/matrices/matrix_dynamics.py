"""Singular values of a deep matrix factorization under gradient flow: they are learnt one at a time."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Matrix factorization learns singular values one at a time"
EXPLANATION = (
    "A matrix of low rank is fitted from half of its entries by a product of matrices that could represent any rank. "
    "Gradient flow from a small start raises one singular value after the other and leaves the rest at zero, because "
    "the rate of each is proportional to its own size to the power 2 - 2/depth."
)
SOURCE = "Razin, Maman, Cohen (ICML 2022), figure of dynamics, left; law: Arora, Cohen, Hu, Luo (NeurIPS 2019)"


@dataclass(frozen=True)
class Settings:
    """A size x size matrix of some rank and Frobenius norm `size`, fitted by `depth` factors."""

    size: int = 64
    rank: int = 5
    depth: int = 3
    observed: int = 2048
    std: float = 1e-3
    until_loss: float = 5e-5
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(),
    "small": Settings(size=32, rank=3, observed=512, until_loss=1e-5),
    "tiny": Settings(size=12, rank=2, observed=100, std=1e-2, until_loss=1e-3, seeds=(0,)),
}
MINUTES = {"laptop": 0.35, "paper": 0.5, "small": 0.1, "tiny": 0.05}
SHOWN = 10  # singular values in the record


def run(settings: Settings) -> xr.Dataset:
    """One flow per seed, with the singular values, the law's error now and then, and the drift of what is conserved."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
    shape = (settings.size, settings.size)
    target = targets.low_rank_matrix(shape, settings.rank, norm=settings.size, seed=seed)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = families.deep_matrix(shape, settings.depth, std=settings.std, seed=seed)

    def law(net: TensorNetwork) -> torch.Tensor:
        measured = theory.measured_rate(net, task, lambda net: measures.singular_values(net.tensor())[: settings.rank])
        return laws.law_error(theory.singular_value_rate(net, task)[: settings.rank], measured)

    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss,
        rtol=settings.rtol,
        track={
            "singular": lambda net: measures.singular_values(net.tensor())[:SHOWN],
            "error": task.error,
            "law_error": laws.Sometimes(laws.LAW_PERIOD, law),
            "drift": laws.drift(net),
        },
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """The law and the conserved quantities along the flow; learning one at a time; the rank; the recovery."""
    settings = records.settings_of(record, Settings)
    runs = records.runs(record)
    waits = [onsets.increments(r.time.values, r.singular.values, settings.rank) for r in runs]
    final = records.last(record, "singular")
    rank = settings.rank
    return [
        laws.law_claim(record, "singular values, exact from any start,"),
        laws.drift_claim(record, settings.rtol, "differences of Gram matrices of neighbouring factors"),
        Claim(
            "finding",
            f"share of seeds where all {rank} singular values wait for the one before (take-off after its 90%)",
            float(np.mean([w == rank - 1 for w in waits])),
            ">=",
            0.8,
        ),
        Claim(
            "finding",
            f"singular value {rank + 1} over {rank} at the end (largest of the seeds): the rank is {rank}",
            float(onsets.gap(final, rank).max()),
            "<=",
            1e-3,
        ),
        laws.recovery_claim(record, "largest"),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Singular values against time, and every seed's onsets."""
    settings = records.settings_of(record, Settings)
    made, (values, errors) = drawing.figure(2)
    first = records.runs(record)[0]
    names = [f"singular value {k + 1}" for k in range(settings.rank)]
    drawing.lines(values, first.time.values, first.singular.values, names, rest="all others: not learnt")
    drawing.label(values, f"One at a time (seed {int(first.seed)})", "time of the gradient flow", "singular value")
    onsets.draw_errors(errors, record, settings.observed / settings.size**2)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    settings = records.settings_of(record, Settings)
    final = -np.sort(-records.last(record, "singular")[0])
    values = ", ".join(f"{x:.1f}" for x in final[: settings.rank])
    return (
        f"Left: {settings.rank} singular values of the product rise one after the other in steps to {values}, all "
        f"others stay at zero. Right: the error over all entries falls from 1 in as many steps, to "
        f"{records.last(record, 'error').max():.3f} or less for every seed."
    )
