"""Which optimizers lower the rank as gradient flow does, and which do not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, problems, theory
from ranklens.dynamics import descent, optim
from ranklens.problems import targets
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Not every optimizer lowers the rank: a spectral one learns the small first"
EXPLANATION = (
    "Methods that go along the gradient, however fast, conserve what gradient flow conserves as their steps shrink, "
    "and learn large singular values first; Adam, RMSprop and sign steps conserve nothing, though here they still "
    "find the low rank. A spectral method reverses the order, learning small singular values before large ones, and "
    "fits what it sees at full rank."
)
SOURCE = "Arora, Cohen, Hu, Luo (NeurIPS 2019) for the flow; Jordan et al. (Muon, 2024) for spectral steps"

Make = Callable[[Any, float], torch.optim.Optimizer]
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
FOLLOW = ("descent", "momentum", "Nesterov", "GroupRMSprop", "shared Adam")  # go along gradients, in their own time


@dataclass(frozen=True)
class Settings:
    """Step sizes are in the order of the optimizers: for the matrix that is wholly seen, and for completion."""

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
MINUTES = {"laptop": 0.6, "paper": 3.0, "tiny": 0.1}
UNBALANCED, EQUAL_LOSS = 0.1, 1.0  # the start from which drift is measured, and the loss until which
LEAST = 0.9  # of its final value: a singular value has been learnt
ALL_LEARNT = 2e-2  # loss below which all singular values have been: a missing tenth of the smallest costs that


def run(settings: Settings) -> xr.Dataset:
    """For every optimizer and seed: when singular values are learnt, what is recovered, and what is conserved."""
    parts = [xr.concat([_one(settings, name, seed) for seed in settings.seeds], dim="seed") for name in OPTIMIZERS]
    record = xr.concat(parts, dim="optimizer").assign_coords(optimizer=list(OPTIMIZERS), seed=list(settings.seeds))
    record["shrink"] = ("optimizer", [_shrink(settings, name) for name in OPTIMIZERS])
    record["halving"] = ("seed", [_halving(settings, seed) for seed in settings.seeds])
    return record


def seen(settings: Settings, seed: int) -> problems.Completion:
    """A matrix of given singular values, all of it observed."""
    shape = (settings.size, settings.size)
    random = targets.low_rank_matrix(shape, len(settings.values), seed=seed)
    U, _, Vh = torch.linalg.svd(random, full_matrices=False)
    k = len(settings.values)
    target = (U[:, :k] * torch.tensor(settings.values, dtype=torch.float64)) @ Vh[:k]
    return problems.Completion.sample(target, target.numel(), seed=seed, loss="half_sse")


def _one(settings: Settings, name: str, seed: int) -> xr.Dataset:
    position = list(OPTIMIZERS).index(name)
    count = len(settings.values)
    task, net = seen(settings, seed), _net(settings, 2, settings.std, seed)
    whole = descent.gradient_descent(
        net,
        task,
        OPTIMIZERS[name](net.parameters(), settings.seen_lr[position]),
        steps=settings.seen_steps,
        until_loss=ALL_LEARNT,
        every=10,
        track={"singular": lambda net: measures.singular_values(net.tensor())[:count]},
    )
    learnt = whole.singular.values >= LEAST * np.array(settings.values)
    target = targets.low_rank_matrix((settings.size,) * 2, settings.rank, norm=float(settings.size), seed=seed)
    part = problems.Completion.sample(target, settings.observed, seed=seed)
    net = _net(settings, settings.depth, settings.completion_std, seed)
    before, start = [theory.conserved(net, bond) for bond in net.bonds], net.imbalance()
    found = descent.gradient_descent(
        net,
        part,
        OPTIMIZERS[name](net.parameters(), settings.completion_lr[position]),
        steps=settings.steps,
        until_loss=settings.until_loss,
        every=settings.every,
    )
    with torch.no_grad():
        s = measures.singular_values(net.tensor())
        scale = max(float(node.square().sum()) for node in net.nodes)
        moved = max(float((theory.conserved(net, b) - c).norm()) for b, c in zip(net.bonds, before, strict=True))
    shown = np.full((settings.seen_steps // 10 + 1, count), np.nan)
    shown[: whole.sizes["step"]] = whole.singular.values
    return xr.Dataset(
        {
            "learnt": ("value", np.where(learnt.any(axis=0), 10.0 * learnt.argmax(axis=0), np.nan)),
            "singular": (("row", "value"), shown),
            "loss": float(found.loss[-1]),
            "steps": float(found.step[-1]),
            "error": float(part.error(net)),
            "beyond": float(s[settings.rank] / s[settings.rank - 1]),
            "moved": moved / scale,
            "imbalance_at_start": float(start) / scale,
        }
    )


def _net(settings: Settings, depth: int, std: float, seed: int) -> TensorNetwork:
    return families.deep_matrix((settings.size, settings.size), depth, std=std, seed=seed)


def _shrink(settings: Settings, name: str) -> float:
    """Drift of what flow conserves with one step size over that with four times as much, to equal loss: 0 in the limit.

    A method that goes along gradients has the flow as its limit of small steps, so its drift vanishes with them.
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
    """By which factor the drift of plain descent falls when its step is halved, at equal times: 2 for O(step)."""
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
    """When the smallest singular value is learnt over when the largest is: above 1 the large one waits for nobody."""
    return record.learnt[..., -1] / record.learnt[..., 0]


def claims(record: xr.Dataset) -> list[Claim]:
    """What is conserved, the order of learning, and the rank of what is recovered."""
    follow, others = record.sel(optimizer=list(FOLLOW)), record.drop_sel(optimizer=list(FOLLOW))
    first = order(record)
    return [
        Claim(
            "theorem",
            "plain descent: conserved quantities drift like the step; half of it, drift over drift (farthest from 2)",
            max((float(x) for x in record.halving.values), key=lambda x: abs(x - 2)),
            "within",
            (1.9, 2.1),
        ),
        Claim(
            "finding",
            f"{', '.join(FOLLOW)}: drift of what flow conserves over that at four times the step (largest)",
            float(follow.shrink.max()),
            "<=",
            0.5,
        ),
        Claim(
            "finding",
            "the others, which do not follow the flow: the same (least)",
            float(others.shrink.min()),
            ">=",
            0.5,
        ),
        Claim(
            "finding",
            "those that follow: time of the smallest singular value over that of the largest (least)",
            float(first.sel(optimizer=list(FOLLOW)).min()),
            ">=",
            1.2,
        ),
        Claim(
            "finding",
            "spectral: the same; below 1 the order is reversed (largest)",
            float(first.sel(optimizer="spectral").max()),
            "<=",
            0.8,
        ),
        Claim(
            "finding",
            "completion, those that follow: next singular value over the last of the target's (median of all)",
            float(follow.beyond.median()),
            "<=",
            1e-2,
        ),
        Claim(
            "finding",
            "completion, spectral: the same (median of the seeds)",
            float(record.beyond.sel(optimizer="spectral").median()),
            ">=",
            0.1,
        ),
        Claim(
            "finding",
            "completion: error of the spectral optimizer over that of plain descent (medians)",
            float(record.error.sel(optimizer="spectral").median() / record.error.sel(optimizer="descent").median()),
            ">=",
            3.0,
        ),
        Claim(
            "finding",
            "share of completions that reached the training loss",
            float((record.loss <= records.settings_of(record, Settings).until_loss).mean()),
            ">=",
            1.0,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Singular values under descent and under spectral steps; recovery, tail and drift of all."""
    settings = records.settings_of(record, Settings)
    made, (plain, spectral, audit) = drawing.figure(3)
    for axes, name in ((plain, "descent"), (spectral, "spectral")):
        values = record.singular.sel(optimizer=name).values[0]
        steps = 10 * np.arange(len(values))
        names = [f"target {x:g}" for x in settings.values]
        drawing.lines(axes, steps, values, names)
        for value in settings.values:
            axes.axhline(value, **drawing.THEORY)
        drawing.label(axes, f"{name.capitalize()}", "step", "singular value")
        last = float(np.nanmax(record.learnt.sel(optimizer=name).values))
        axes.set_xlim(0, 1.1 * last)
        axes.set_ylim(0, 1.45 * max(settings.values))  # room for the legend
    plain.set_title("Descent: the large first", loc="left", fontsize=11, fontweight="bold")
    spectral.set_title("Spectral: the small first", loc="left", fontsize=11, fontweight="bold")
    at = np.arange(len(OPTIMIZERS))
    shown = [("error", "error of completion"), ("beyond", "next singular value"), ("moved", "change of the conserved")]
    for k, (name, label) in enumerate(shown):
        values = record[name].median(dim="seed").values
        audit.semilogy(at, values, marker="os^"[k], label=label, color=drawing.COLOURS[k], linestyle="none")
    audit.set_xticks(at, list(OPTIMIZERS), rotation=60, ha="right", fontsize=8)
    audit.legend(fontsize=7)
    drawing.label(audit, "Completion: who lowers the rank", "optimizer", "relative size (medians)")
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    first = order(record).median(dim="seed")
    times = ", ".join(f"{name} {float(first.sel(optimizer=name)):.2f}" for name in OPTIMIZERS)
    errors = ", ".join(f"{name} {float(record.error.sel(optimizer=name).median()):.3f}" for name in OPTIMIZERS)
    return (
        f"Time to learn the smallest singular value over that of the largest: {times}. Error of completion at equal "
        f"training loss: {errors}."
    )
