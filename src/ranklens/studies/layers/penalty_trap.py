"""The locality penalty keeps a tensor factorization near its initialization."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import nn

from ranklens import drawing, problems, seeds
from ranklens import nn as layers
from ranklens.dynamics import optim
from ranklens.studies.kit import records, sources
from ranklens.studies.kit.agreement import agreement
from ranklens.studies.kit.claim import Claim, finding
from ranklens.studies.kit.reduce import median
from ranklens.tensors import families, measures, trees

TITLE = "The penalty that counters locality traps tensor factorizations"
EXPLANATION = (
    "A hierarchical factorization is fitted to a tensor from some of its entries, with and without the penalty on "
    "dependence between the two halves of its modes. The penalty depends on the direction of input gradients alone, so "
    "its own gradient is large where the factorization is small, and outweighs the training loss near a small "
    "initialization. The penalty is meant for networks at their usual initialization."
)
SOURCE = "a small experiment of our own; the penalty is the one of Razin, Maman, Cohen (ICML 2022), section 5"

# Standard deviation of every weight of the factorization, by name of the initialization. At 0.05 the initial tensor
# is negligible beside the target, at 0.3 it is of the target's order.
INITIAL = {"small": 0.05, "order one": 0.3}
HALF = (0, 1)  # modes on one side of the penalty; the other two are on the other side


@dataclass(frozen=True)
class Settings:
    """A tensor of four modes that says whether its first two indices are equal, fitted by gradient descent.

    The papers have no such experiment; the preset "paper" is a longer one with more seeds.

    Attributes:
        size: size of every mode.
        width: number of components of every bond.
        observed: number of observed entries.
        batch_size: number of observed entries on which the penalty is evaluated, drawn anew at every step.
        lr: learning rate of GroupRMSprop.
        weights: weights of the penalty; the first must be 0.
        steps: number of steps from the first recorded training loss to the last.
        seeds: seeds of the observed entries, initial weights and batches.
    """

    size: int = 5
    width: int = 25
    observed: int = 300
    batch_size: int = 64
    lr: float = 1e-2
    weights: tuple[float, ...] = (0.0, 0.03, 1.0)
    steps: int = 600
    seeds: tuple[int, ...] = (0,)


PRESETS = {
    "laptop": Settings(steps=450),
    "paper": Settings(seeds=(0, 1, 2, 3, 4)),
    "tiny": Settings(weights=(0.0, 1.0), steps=3),
}
MINUTES = {"laptop": 0.15, "paper": 0.7, "tiny": 0.05}


def run(settings: Settings) -> xr.Dataset:
    """Return the training loss along descent, and the effective rank between both halves of the modes after it.

    Raises:
        ValueError: unless the first weight is 0 and another one follows.
    """
    if len(settings.weights) < 2 or settings.weights[0] != 0:
        raise ValueError(f"weights is {settings.weights}; the first must be 0, and at least one must follow")
    dims = ("initial", "weight", "seed")
    shape = (len(INITIAL), len(settings.weights), len(settings.seeds))
    losses, ranks = np.zeros((*shape, settings.steps + 1)), np.zeros(shape)
    points = itertools.product(INITIAL.values(), settings.weights, settings.seeds)
    for place, (std, weight, seed) in zip(np.ndindex(shape), points, strict=True):
        losses[place], ranks[place] = _fitted(settings, std, weight, seed)
    return xr.Dataset(
        {"loss": ((*dims, "step"), losses), "effective_rank": (dims, ranks)},
        coords={
            "initial": list(INITIAL),
            "weight": list(settings.weights),
            "seed": list(settings.seeds),
            "step": np.arange(settings.steps + 1),
        },
    )


def _fitted(settings: Settings, std: float, weight: float, seed: int) -> tuple[list[float], float]:
    """Return the training loss before each of `steps` + 1 steps, and the effective rank after the last of them."""
    task = problems.Completion.sample(agreement(settings.size, HALF), settings.observed, seed=seed)
    inputs = nn.functional.one_hot(task.indices, settings.size).double()
    half = torch.zeros(4, settings.size, dtype=torch.bool)
    half[list(HALF)] = True
    tree = trees.ModeTree.adjacent(4)
    net = families.hierarchical((settings.size,) * 4, settings.width, tree, std=std, seed=seed)
    optimizer = optim.GroupRMSprop(net.parameters(), lr=settings.lr)
    drawn = seeds.stream(seed, "rows of the penalty")
    losses = []
    for _ in range(settings.steps + 1):
        loss = task.loss(net)
        losses.append(float(loss.detach()))
        rows = torch.randperm(len(inputs), generator=drawn)[: settings.batch_size]
        if weight:
            loss = loss + weight * layers.locality_penalty(net.evaluate, inputs[rows], patches=(half, ~half))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, float(measures.effective_rank(measures.matricize(net.tensor().detach(), HALF)))


def remaining(record: xr.Dataset) -> xr.DataArray:
    """Return the training loss at the last step divided by the loss at the first, for every run."""
    return record.loss.isel(step=-1) / record.loss.isel(step=0)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return findings on the training loss that remains with the penalty, for both initializations."""
    settings = records.settings_of(record, Settings)
    left = remaining(record)
    found = []
    for initial, weight in (("small", settings.weights[1]), ("order one", settings.weights[-1])):
        ratio = left.sel(initial=initial, weight=weight) / left.sel(initial=initial, weight=0)
        statement = (
            f"Hierarchical factorization with initial weights of standard deviation {INITIAL[initial]:g} ({initial}): "
            "training loss, without the penalty term, at the last step divided by the loss at the first; this ratio of "
            f"a training with the locality penalty of weight {weight:g}, divided by the ratio of a training without "
            "(median of the seeds)"
        )
        found.append(finding(statement, median(ratio), at_least=10.0, source=sources.OWN_EXPERIMENT))
    return found


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of the first seed's training loss along descent, with a panel per initialization."""
    made, panels = drawing.figure(len(INITIAL), width=4.4)
    for axes, (initial, std) in zip(panels, INITIAL.items(), strict=True):
        for k, weight in enumerate(record.weight.values):
            loss = record.loss.isel(seed=0).sel(initial=initial, weight=weight)
            name = "no penalty" if weight == 0 else f"penalty of weight {weight:g}"
            axes.semilogy(loss.step, loss / loss.isel(step=0), label=name, **drawing.style(k))
        axes.set_ylim(top=3.0)  # space for the note
        drawing.note(axes, "strong penalty: never learns", 0.03, str(axes.lines[-1].get_label()))
        drawing.note(axes, "no penalty: learns", 0.03, 0.4)
        axes.legend(fontsize=8, loc="lower left")
        title = f"Initial weights: {initial}, std {std:g}"
        drawing.label(axes, title, "steps of descent", "training loss / at the start (log scale)")
    return made


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words: which part of the training loss remains, by weight of the penalty."""
    left = remaining(record)
    parts = []
    for initial in INITIAL:
        ends = ", ".join(
            f"{float(left.isel(seed=0).sel(initial=initial, weight=weight)):.2g} with weight {weight:g}"
            for weight in record.weight.values
        )
        parts.append(f"initialization {initial}: {ends}")
    return f"Training loss at the last step over the loss at the first, by weight of the penalty. {'; '.join(parts)}."
