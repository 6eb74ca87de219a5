"""Singular values of a deep matrix factorization under gradient flow: they are learned one at a time."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from ranklens import problems, theory
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit import laws, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Matrix factorization learns singular values one at a time"
EXPLANATION = (
    "A matrix of low rank is fitted from half of its entries by a product of matrices that could represent any rank. "
    "From a small initialization, gradient flow raises one singular value after the other and leaves the rest near "
    "zero, because the rate of each singular value is proportional to its size to the power 2 - 2/depth."
)
SOURCE = "Razin, Maman, Cohen (ICML 2022), figure of dynamics, left; the law: Arora, Cohen, Hu, Luo (NeurIPS 2019)"


@dataclass(frozen=True)
class Settings:
    """Completion of a square matrix of low rank by a product of square matrices.

    Attributes:
        size: number of rows and of columns, and Frobenius norm of the target.
        rank: rank of the target.
        depth: number of factors of the product.
        observed: number of observed entries.
        std: standard deviation of the initial entries of every factor.
        until_loss: training loss at which the flow ends.
        rtol: relative tolerance of the solver.
        seeds: seeds of target, observed entries and initialization; one run per seed.
    """

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
MINUTES = {"laptop": 0.2, "paper": 0.2, "small": 0.1, "tiny": 0.05}
# Number of largest singular values in the record.
SHOWN = 10
# The singular values at the end of training, as they are read from the figure of Razin, Maman, Cohen (ICML 2022) for a
# matrix of this size and rank: another random target, and descent.
PUBLISHED = (36.5, 32.0, 28.0, 23.0, 20.0)


def run(settings: Settings) -> xr.Dataset:
    """Return singular values, error of the law, and change of the conserved quantities along one flow per seed."""
    return records.gather([_one(settings, seed) for seed in settings.seeds], settings.seeds)


def _one(settings: Settings, seed: int) -> xr.Dataset:
    """Return the record of one seed's flow."""
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
    """Return the claims: the law, the conserved quantities, learning one at a time, the rank, and the recovery."""
    settings = records.settings_of(record, Settings)
    rank, seeds = settings.rank, reduce.count(record.seed)
    waits = [onsets.increments(r.time.values, r.singular.values, rank) for r in records.runs(record)]
    gaps = onsets.gap(records.last(record, "singular"), rank)
    return [
        laws.law_claim(
            record,
            f"the {rank} largest singular values sigma_r of the end matrix W, d sigma_r / dt = u_r^T (dW / dt) v_r "
            "with singular vectors u_r, v_r,",
            source=sources.SINGULAR_VALUE_CHANGE,
        ),
        laws.drift_claim(
            record,
            settings.rtol,
            "Differences between Gram matrices of neighbouring factors",
            source=sources.MATRIX_CONSERVATION,
        ),
        finding(
            f"The singular values of the end matrix are learned one at a time, in descending order: share of {seeds} "
            f"in which each of the singular values 2 to {rank} passes 10% of its final size only after the one before "
            "has passed 90% of its own",
            reduce.share(waits, lambda w: w == rank - 1),
            at_least=0.8,
            source=sources.ONE_AT_A_TIME,
        ),
        finding(
            f"The final end matrix has rank {rank}, up to a remainder: singular value {rank + 1} divided by singular "
            f"value {rank}, largest of {seeds}",
            reduce.largest(gaps),
            at_most=1e-3,
            source=sources.ONE_AT_A_TIME,
        ),
        laws.recovery_claim(record, "largest", source=sources.ONE_AT_A_TIME),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: the singular values of the first seed against time, and the error of every seed."""
    settings = records.settings_of(record, Settings)
    share = settings.observed / settings.size**2
    made = onsets.draw_learning(record, "singular", "singular value", settings.rank, share)
    if (settings.size, settings.rank) == (64, len(PUBLISHED)):
        values, end = made.axes[0], float(records.runs(record)[0].time[-1])
        values.plot([end] * len(PUBLISHED), PUBLISHED, "*", color="#000000", label="published ends")
        values.legend(fontsize=7, loc="upper left")  # before the first value rises, half of the time passes
    return made


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    settings = records.settings_of(record, Settings)
    final = -np.sort(-records.last(record, "singular")[0])
    values = ", ".join(f"{x:.1f}" for x in final[: settings.rank])
    return (
        f"Left: {settings.rank} singular values of the product rise one after the other in steps to {values}, all "
        f"others stay near zero. Right: the error over all entries falls from 1 in as many steps, to "
        f"{records.last(record, 'error').max():.3f} or less for every seed."
    )
