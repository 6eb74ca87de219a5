"""Optimizers compared with gradient flow: which of them lower the rank, and in which order they learn."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import nn

from ranklens import drawing, problems, theory
from ranklens.dynamics import descent, optim
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems import targets
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Not every optimizer lowers the rank: a spectral one learns small singular values first"
EXPLANATION = (
    "Methods that go along the gradient, at whatever speed, conserve what gradient flow conserves as their steps "
    "shrink, and learn large singular values first; Adam, RMSprop and sign descent conserve nothing, though here they "
    "still find the low rank. A spectral method reverses the order: it learns small singular values before large ones, "
    "and fits the observed entries at full rank."
)
SOURCE = "Arora, Cohen, Hu, Luo (NeurIPS 2019) for the flow; Jordan et al. (Muon, 2024) for spectral steps"

Make = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
# Optimizers by name, as functions of the parameters and the learning rate.
OPTIMIZERS: dict[str, Make] = {
    "descent": lambda params, lr: torch.optim.SGD(params, lr=lr),
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "Nesterov": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True),
    "GroupRMSprop": optim.GroupRMSprop,
    "shared Adam": optim.SharedAdam,
    "Adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
    "RMSprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "sign": optim.SignDescent,
    "spectral": optim.Spectral,
}
# Optimizers whose limit of small steps is the gradient flow, in a time of their own.
FOLLOW = ("descent", "momentum", "Nesterov", "GroupRMSprop", "shared Adam")


@dataclass(frozen=True)
class Settings:
    """Two experiments: a fully observed matrix of given singular values, and completion of a matrix of low rank.

    Learning rates are in the order of `OPTIMIZERS`.

    Attributes:
        size: number of rows and of columns of both matrices.
        values: singular values of the fully observed matrix.
        std: standard deviation of the initial entries of the factors for the fully observed matrix.
        seen_lr: learning rates for the fully observed matrix.
        seen_steps: number of steps for the fully observed matrix, at most.
        rank: rank of the matrix to complete.
        depth: number of factors for completion; the fully observed matrix is fitted by two.
        observed: number of observed entries in completion.
        completion_std: standard deviation of the initial entries of the factors in completion.
        completion_lr: learning rates in completion.
        until_loss: training loss at which completion ends.
        steps: number of steps of completion, at most.
        every: number of steps between two checks of the training loss in completion.
        seeds: seeds of matrices, observed entries and initializations.
    """

    size: int = 20
    values: tuple[float, ...] = (10.0, 5.0, 2.0)
    std: float = 1e-3
    seen_lr: tuple[float, ...] = (0.01, 0.001, 0.001, 0.01, 0.01, 0.002, 0.002, 0.002, 0.002)
    seen_steps: int = 1700
    rank: int = 2
    depth: int = 3
    observed: int = 240
    completion_std: float = 1e-2
    completion_lr: tuple[float, ...] = (0.4, 0.04, 0.04, 0.01, 0.01, 0.001, 0.001, 0.0005, 0.001)
    until_loss: float = 1e-3
    steps: int = 12_000
    every: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(size=40, observed=900, seeds=(0, 1, 2, 3, 4)),
    "tiny": Settings(size=8, observed=50, seen_steps=1500, steps=600, seeds=(0,)),
}
MINUTES = {"laptop": 0.25, "paper": 3.0, "tiny": 0.1}
# Standard deviation of the initial entries where drift is measured: large enough for an imbalance that can drift.
UNBALANCED = 0.1
# Training loss until which drift is measured, so that different learning rates are compared at equal progress.
EQUAL_LOSS = 1.0
# Share of its final value from which on a singular value counts as learned.
LEAST = 0.9
# Training loss at which the fully observed fit ends: below it all singular values have been learned, since one that
# misses a tenth of the smallest value costs that much.
ALL_LEARNED = 2e-2
# Number of steps between two rows of the record for the fully observed matrix.
EVERY = 10


def run(settings: Settings) -> xr.Dataset:
    """Return both experiments for every optimizer and seed, and how the drift depends on the learning rate."""
    parts = [xr.concat([_one(settings, name, seed) for seed in settings.seeds], dim="seed") for name in OPTIMIZERS]
    record = xr.concat(parts, dim="optimizer").assign_coords(optimizer=list(OPTIMIZERS), seed=list(settings.seeds))
    record["shrink"] = ("optimizer", [_shrink(settings, name) for name in OPTIMIZERS])
    record["halving"] = ("seed", [_halving(settings, seed) for seed in settings.seeds])
    return record


def seen(settings: Settings, seed: int) -> problems.Completion:
    """Return the completion of a random matrix with the singular values of the settings, all of it observed."""
    shape = (settings.size, settings.size)
    random = targets.low_rank_matrix(shape, len(settings.values), seed=seed)
    U, _, Vh = torch.linalg.svd(random, full_matrices=False)
    k = len(settings.values)
    target = (U[:, :k] * torch.tensor(settings.values, dtype=torch.float64)) @ Vh[:k]
    return problems.Completion.sample(target, target.numel(), seed=seed, loss="half_sse")


def _one(settings: Settings, name: str, seed: int) -> xr.Dataset:
    """Return the record of one optimizer and seed in both experiments."""
    return xr.merge([_observed(settings, name, seed), _completed(settings, name, seed)])


@ignoring_early_stops()
def _observed(settings: Settings, name: str, seed: int) -> xr.Dataset:
    """Return the singular values while the fully observed matrix is fitted, and the step at which each is learned."""
    count = len(settings.values)
    task, net = seen(settings, seed), _net(settings, 2, settings.std, seed)
    run = descent.gradient_descent(
        net,
        task,
        OPTIMIZERS[name](net.parameters(), settings.seen_lr[list(OPTIMIZERS).index(name)]),
        steps=settings.seen_steps,
        until_loss=ALL_LEARNED,
        every=EVERY,
        track={"singular": lambda net: measures.singular_values(net.tensor())[:count]},
    )
    learned = run.singular.values >= LEAST * np.array(settings.values)
    step = np.where(learned.any(axis=0), float(EVERY) * learned.argmax(axis=0), np.nan)
    singular = np.full((settings.seen_steps // EVERY + 1, count), np.nan)
    singular[: run.sizes["step"]] = run.singular.values
    return xr.Dataset({"learnt": ("value", step), "singular": (("row", "value"), singular)})


@ignoring_early_stops()
def _completed(settings: Settings, name: str, seed: int) -> xr.Dataset:
    """Return error, singular values, and change of what flow conserves, after the matrix of low rank is completed."""
    target = targets.low_rank_matrix((settings.size,) * 2, settings.rank, norm=float(settings.size), seed=seed)
    task = problems.Completion.sample(target, settings.observed, seed=seed)
    net = _net(settings, settings.depth, settings.completion_std, seed)
    before, start = [theory.conserved(net, bond) for bond in net.bonds], net.imbalance()
    run = descent.gradient_descent(
        net,
        task,
        OPTIMIZERS[name](net.parameters(), settings.completion_lr[list(OPTIMIZERS).index(name)]),
        steps=settings.steps,
        until_loss=settings.until_loss,
        every=settings.every,
    )
    with torch.no_grad():
        s = measures.singular_values(net.tensor())
        scale = max(float(node.square().sum()) for node in net.nodes)
        moved = max(float((theory.conserved(net, b) - c).norm()) for b, c in zip(net.bonds, before, strict=True))
    return xr.Dataset(
        {
            "loss": float(run.loss[-1]),
            "steps": float(run.step[-1]),
            "error": float(task.error(net)),
            "beyond": float(s[settings.rank] / s[settings.rank - 1]),
            "moved": moved / scale,
            "imbalance_at_start": float(start) / scale,
        }
    )


def _net(settings: Settings, depth: int, std: float, seed: int) -> TensorNetwork:
    """Return a deep matrix factorization with Gaussian entries of all factors."""
    return families.deep_matrix((settings.size, settings.size), depth, std=std, seed=seed)


def _shrink(settings: Settings, name: str) -> float:
    """Return the drift with the optimizer's learning rate over the drift with four times that rate.

    Drift is the change of what the gradient flow conserves until the training loss is `EQUAL_LOSS`. An optimizer that
    goes along gradients has the flow as its limit of small steps, so its drift vanishes with them: the ratio is about
    1/4 where the drift is proportional to the rate. Otherwise the ratio is about 1.
    """
    drifts = []
    for part in (4.0, 1.0):
        task, net = seen(settings, 0), _net(settings, 2, UNBALANCED, 0)
        before = theory.conserved(net, net.bonds[0])
        optimizer = OPTIMIZERS[name](net.parameters(), part * settings.seen_lr[list(OPTIMIZERS).index(name)])
        steps = round(settings.seen_steps / part)
        descent.gradient_descent(net, task, optimizer, steps=steps, until_loss=EQUAL_LOSS, every=round(8 / part))
        drifts.append(float((theory.conserved(net, net.bonds[0]) - before).norm()))
    return drifts[1] / drifts[0]


def _halving(settings: Settings, seed: int) -> float:
    """Return the drift of plain descent over its drift with half the learning rate, after equal times.

    The ratio is 2 if the drift is proportional to the learning rate.
    """
    drifts = []
    for halves in (1, 2):
        task, net = seen(settings, seed), _net(settings, 2, UNBALANCED, seed)
        before = theory.conserved(net, net.bonds[0])
        lr = 0.002 / halves
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        descent.gradient_descent(net, task, optimizer, steps=round(0.6 / lr), until_loss=0.0, every=1000)
        drifts.append(float((theory.conserved(net, net.bonds[0]) - before).norm()))
    return drifts[0] / drifts[1]


def order(record: xr.Dataset) -> xr.DataArray:
    """Return the step at which the smallest singular value is learned over the step at which the largest is.

    Above 1 the largest singular value is learned first. NaN says that one of the two was not learned.

    Args:
        record: a record of this study.

    Returns:
        An array over optimizers and seeds.
    """
    return record.learnt[..., -1] / record.learnt[..., 0]


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: what is conserved, the order of learning, and the rank of the completed matrix."""
    return [*_drifts(record), *_orders(record), *_completions(record)]


def _drifts(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the drift of what gradient flow conserves."""
    follow, others = (part.shrink for part in _parts(record))
    return [
        theorem(
            "Plain descent: the change of W2^T W2 - W1 W1^T, which gradient flow of a product W2 W1 conserves, is "
            "proportional to the learning rate: Frobenius norm of the change, divided by that with half the learning "
            f"rate and twice as many steps, farthest from 2 of {reduce.count(record.seed)}",
            reduce.farthest(record.halving, 2),
            within=(1.9, 2.1),
            source=sources.OWN_DERIVATION,
        ),
        finding(
            f"{', '.join(FOLLOW)}: the change of W2^T W2 - W1 W1^T, which gradient flow of a product W2 W1 conserves, "
            f"falls with the learning rate: Frobenius norm of the change until the training loss is {EQUAL_LOSS:g}, "
            "divided by that with four times the learning rate, largest of the optimizers (one seed). It is 1/4 if "
            "the change is proportional to the learning rate, and 1 if it does not fall",
            reduce.largest(follow),
            at_most=0.5,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"{', '.join(str(name) for name in others.optimizer.values)}: the change of W2^T W2 - W1 W1^T, which "
            "gradient flow of a product W2 W1 conserves, falls much less than the learning rate: Frobenius norm of the "
            f"change until the training loss is {EQUAL_LOSS:g}, divided by that with four times the learning rate, "
            "least of the optimizers (one seed). It is 1/4 if the change is proportional to the learning rate, and 1 "
            "if it does not fall",
            reduce.least(others),
            at_least=0.5,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _orders(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the order in which singular values are learned."""
    first, seeds = order(record), reduce.count(record.seed)
    return [
        finding(
            f"{', '.join(FOLLOW)}: large singular values of a fully observed matrix are learned first: number of "
            f"steps until the smallest nonzero singular value of the target is reached up to {LEAST:.0%}, divided by "
            f"this number for the largest, least of the optimizers and {seeds}",
            reduce.least(first.sel(optimizer=list(FOLLOW))),
            at_least=1.2,
            source=sources.ONE_AT_A_TIME,
        ),
        finding(
            "The spectral optimizer learns small singular values of a fully observed matrix first: number of steps "
            f"until the smallest nonzero singular value of the target is reached up to {LEAST:.0%}, divided by this "
            f"number for the largest, largest of {seeds}",
            reduce.largest(first.sel(optimizer="spectral")),
            at_most=0.8,
            source=sources.SPECTRAL,
        ),
    ]


def _completions(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the completed matrices."""
    follow, seeds = _parts(record)[0], reduce.count(record.seed)
    spectral, plain = record.sel(optimizer="spectral"), record.sel(optimizer="descent")
    until = records.settings_of(record, Settings).until_loss
    return [
        finding(
            f"Completion of a matrix of rank r with {', '.join(FOLLOW)} ends at rank r, up to a remainder: singular "
            "value r + 1 of the final end matrix divided by singular value r, median over all these optimizers and "
            f"{seeds}",
            reduce.median(follow.beyond),
            at_most=1e-2,
            source=sources.ONE_AT_A_TIME,
        ),
        finding(
            "Completion of a matrix of rank r with the spectral optimizer does not end at rank r: singular value r + "
            f"1 of the final end matrix divided by singular value r, median of {seeds}",
            reduce.median(spectral.beyond),
            at_least=0.1,
            source=sources.SPECTRAL,
        ),
        finding(
            "Completion with the spectral optimizer is worse than with plain descent: relative error over all "
            f"entries, observed and unobserved, at the end, divided by that with plain descent (medians of {seeds})",
            reduce.median(spectral.error) / reduce.median(plain.error),
            at_least=3.0,
            source=sources.SPECTRAL,
        ),
        finding(
            f"All completions fit their observed entries: share of {reduce.count(record.loss.size, 'run')}, one for "
            f"each optimizer and seed, whose training loss at the end is at most {until:g}, the value at which "
            "training stops",
            reduce.share(record.loss, lambda loss: loss <= until),
            at_least=1.0,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _parts(record: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the record of the optimizers whose limit is the flow, and that of the others."""
    return record.sel(optimizer=list(FOLLOW)), record.drop_sel(optimizer=list(FOLLOW))


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: singular values with descent and the spectral optimizer, and all completions."""
    settings = records.settings_of(record, Settings)
    made, (plain, spectral, audit) = drawing.figure(3)
    for axes, name in ((plain, "descent"), (spectral, "spectral")):
        values = record.singular.sel(optimizer=name).values[0]
        steps = EVERY * np.arange(len(values))
        names = [f"target {x:g}" for x in settings.values]
        drawing.lines(axes, steps, values, names)
        for value in settings.values:
            axes.axhline(value, **drawing.THEORY)
        drawing.label(axes, f"{name.capitalize()}", "step", "singular value")
        last = float(np.nanmax(record.learnt.sel(optimizer=name).values))
        axes.set_xlim(0, 1.1 * last)
        axes.set_ylim(0, 1.5 * max(settings.values))  # room for the legend
        axes.legend(fontsize=8, loc="upper right", ncols=len(names))
    plain.set_title("Descent: large singular values first", loc="left", fontsize=11, fontweight="bold")
    spectral.set_title("Spectral: small ones first", loc="left", fontsize=11, fontweight="bold")
    at = np.arange(len(OPTIMIZERS))
    shown = [("error", "error"), ("beyond", "singular value beyond the rank"), ("moved", "drift of the balance")]
    for k, (name, label) in enumerate(shown):
        values = record[name].median(dim="seed").values
        audit.semilogy(at, values, marker="os^"[k], label=label, color=drawing.COLOURS[k], linestyle="none")
    audit.set_xticks(at, list(OPTIMIZERS), rotation=60, ha="right", fontsize=8)
    audit.set_ylim(top=1e6)  # space for the legend
    audit.legend(fontsize=8, loc="upper left")
    drawing.label(audit, "Completion: lower is better", "optimizer", "relative size: lower is better")
    drawing.note(plain, "largest first", 0.15, 0.675)
    drawing.note(spectral, "all equally fast: smallest done first", 0.03, 0.675)
    drawing.note(audit, "spectral: no recovery", 0.99, 0.47)
    return made


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    first = order(record).median(dim="seed")
    times = ", ".join(f"{name} {float(first.sel(optimizer=name)):.2f}" for name in OPTIMIZERS)
    errors = ", ".join(f"{name} {float(record.error.sel(optimizer=name).median()):.3f}" for name in OPTIMIZERS)
    return (
        f"Steps until the smallest singular value is learned over steps until the largest is, medians of the seeds: "
        f"{times}. Relative error of completion at equal training loss, medians of the seeds: {errors}."
    )
