"""Networks whose layers are products compress further than plain ones at equal accuracy."""

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import nn

from ranklens import drawing
from ranklens.nn.compress import pareto
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.nn.rank_profile import rank_profile
from ranklens.progress import reporter
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.training import networks

TITLE = "Layers that are products compress further"
EXPLANATION = (
    "The same network is trained plainly and with layers that are products of matrices or sums of outer products, each "
    "collapsed afterwards to the plain form and cut to lower rank by the same rule. Products leave their small "
    "singular values behind, so that fewer parameters keep the accuracy."
)
SOURCE = "after Arora, Cohen, Hu, Luo (NeurIPS 2019); the measure after Li, Sun, Su, Suzuki, Huang (AISTATS 2020)"

ENERGIES = (1.0, 0.9999, 0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5)
LOST = 0.01  # of accuracy, which a compression may cost
KINDS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "depth 2": {"depth": 2},
    "depth 3": {"depth": 3},
    "depth 4": {"depth": 4},
    "depth 3, small start": {"depth": 3, "init": 0.5},
    "depth 3, smaller start": {"depth": 3, "init": 0.3},
    "depth 4, small start": {"depth": 4, "init": 0.5},
    "CP": {"kind": "cp"},
    "hierarchical": {"kind": "hierarchical"},
}


@dataclass(frozen=True)
class Settings:
    """A small convolutional network, trained with SGD and momentum.

    Attributes:
        images: "digits", "mnist", "fashion-mnist" or "cifar10".
        train: images learnt from.
        validation: images that are watched.
        kinds: of `KINDS`; the first is what the others are held against.
        steps: of the optimizer.
        batch_size: images per step.
        lr: at the start.
        seeds: of images, start and batches.
    """

    images: str = "digits"
    train: int = 1000
    validation: int = 200
    kinds: tuple[str, ...] = ("plain", "depth 3")
    steps: int = 1000
    batch_size: int = 64
    lr: float = 0.05
    seeds: tuple[int, ...] = (0, 1)


PRESETS = {
    "laptop": Settings(),
    "digits": Settings(kinds=tuple(KINDS), seeds=(0, 1, 2)),
    "paper": Settings(
        images="fashion-mnist",
        train=10_000,
        validation=2000,
        kinds=("plain", "depth 2", "depth 3", "depth 4"),
        steps=3000,
    ),
    "tiny": Settings(train=100, validation=50, steps=20, seeds=(0,)),
}
MINUTES = {"laptop": 0.6, "digits": 5.0, "paper": 18.0, "tiny": 0.1}


def run(settings: Settings) -> xr.Dataset:
    """Accuracy against parameters kept, for every kind of layer and seed."""
    shape = (len(settings.kinds), len(settings.seeds))
    accuracy, parameters = np.zeros((*shape, len(ENERGIES))), np.zeros((*shape, len(ENERGIES)))
    train, test, collapsed, rank = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    size = 0
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            images = networks.split(settings.images, settings.train, settings.validation, seed)
            colours, side = images.train[0].shape[1:3]
            plain = networks.cnn(side, colours, seed)
            size = sum(p.numel() for p in plain.parameters())
            for k, kind in enumerate(settings.kinds):
                report(f"{kind}, seed {seed}")
                options = KINDS[kind]
                model: nn.Module = plain if options is None else overparameterize(plain, seed=seed, **options)
                model = copy.deepcopy(model)
                schedule = networks.Schedule(settings.steps, settings.batch_size, settings.lr, settings.steps)
                networks.fit(model, images, schedule, seed)
                small = collapse(model)
                with torch.no_grad():
                    x = images.test[0][:100]
                    collapsed[k, n] = float((small(x) - model(x)).abs().max() / model(x).abs().max())
                train[k, n] = networks.accuracy(small, images.train)
                test[k, n] = networks.accuracy(small, images.test)
                rank[k, n] = float(rank_profile(small).effective_rank.mean())
                found = pareto(small, functools.partial(networks.accuracy, part=images.test), energies=ENERGIES)
                accuracy[k, n], parameters[k, n] = found.score, found.parameters
    dims = ("kind", "seed")
    return xr.Dataset(
        {
            "accuracy": ((*dims, "energy"), accuracy),
            "parameters": ((*dims, "energy"), parameters),
            "train": (dims, train),
            "test": (dims, test),
            "collapsed": (dims, collapsed),
            "effective_rank": (dims, rank),
        },
        coords={"kind": list(settings.kinds), "seed": list(settings.seeds), "energy": list(ENERGIES)},
        attrs={"size": size},
    )


def least(record: xr.Dataset, kind: str) -> Any:
    """For every seed the fewest parameters that lose at most `LOST` of the plain network's accuracy."""
    return _fewest(record, kind, record.test.sel(kind=record.kind.values[0]))


def measure(record: xr.Dataset, kind: str, examples: int) -> Any:
    """sqrt(q / n), with q the fewest parameters that lose at most `LOST` of the network's own accuracy.

    A network that so few numbers describe errs on other images by no more than on those that it was fitted to, up to a
    multiple of this: the form of bounds by compression, without their constants.
    """
    return np.sqrt(_fewest(record, kind, record.test.sel(kind=kind)) / examples)


def _fewest(record: xr.Dataset, kind: str, accuracy: xr.DataArray) -> Any:
    good = record.accuracy.sel(kind=kind) >= accuracy - LOST
    return record.parameters.sel(kind=kind).where(good, math.inf).min("energy").values


def claims(record: xr.Dataset) -> list[Claim]:
    """Collapsing changes nothing; products need fewer parameters, and generalize no worse."""
    settings = records.settings_of(record, Settings)
    first, others = settings.kinds[0], settings.kinds[1:]
    found = [
        Claim(
            "theorem",
            "collapsing changes an output by (largest, relative)",
            float(record.collapsed.max(skipna=False)),
            "<=",
            1e-5,
        )
    ]
    for kind in others:
        ratio = float(np.median(least(record, first) / least(record, kind)))
        statement = f"{kind}: how many times fewer parameters at the accuracy of {first} less {LOST:.0%} (median)"
        found.append(Claim("finding", statement, ratio, ">=", 3.0))
    deepest = others[-1] if "depth 3" not in others else "depth 3"
    found.append(
        Claim(
            "finding",
            f"{deepest}: test accuracy above that of {first} (median)",
            float((record.test.sel(kind=deepest) - record.test.sel(kind=first)).median()),
            ">=",
            -LOST,
        )
    )
    measures = {kind: np.median(measure(record, kind, settings.train)) for kind in settings.kinds}
    found.append(
        Claim(
            "finding",
            f"{deepest}: compression measure sqrt(parameters / examples) over that of {first}",
            float(measures[deepest] / measures[first]),
            "<=",
            1.0,
        )
    )
    return found


def draw(record: xr.Dataset) -> Figure:
    """Accuracy against parameters, and the measure against the gap in accuracy."""
    settings = records.settings_of(record, Settings)
    made, (curve, gap) = drawing.figure(2, width=5.2)
    for k, kind in enumerate(settings.kinds):
        at = record.sel(kind=kind)
        for seed in record.seed.values:
            curve.plot(
                at.parameters.sel(seed=seed) / record.size,
                100 * at.accuracy.sel(seed=seed),
                marker="osv^D<>"[k % 7],
                markersize=4,
                label=kind if seed == record.seed.values[0] else None,
                **drawing.style(k),
            )
    line = 100 * (float(record.test.sel(kind=settings.kinds[0]).median()) - LOST)
    curve.axhline(line, label=f"{settings.kinds[0]}, less {LOST:.0%}", **drawing.THEORY)
    curve.set_xscale("log")
    curve.set_ylim(max(line - 25, 0), 100)
    drawing.label(curve, "Cut to lower rank", "parameters kept / plain network's", "test accuracy (%)")
    for k, kind in enumerate(settings.kinds):
        x = measure(record, kind, settings.train)
        y = 100 * (record.train - record.test).sel(kind=kind)
        gap.plot(x, y, linestyle="", marker="osv^D<>"[k % 7], color=drawing.COLOURS[k % 7], label=kind)
    gap.set_xlim(0)
    drawing.label(gap, "Compression and generalization", "sqrt(parameters / examples)", "train less test accuracy (%)")
    for axes in (curve, gap):
        axes.legend(fontsize=8)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    parts = []
    for kind in record.kind.values:
        share = float(np.median(least(record, str(kind))) / record.size)
        kept = f"{share:.0%} of the parameters" if np.isfinite(share) else "no number of parameters"
        parts.append(f"{kind} {100 * float(record.test.sel(kind=kind).median()):.1f}% and {kept}")
    return f"Test accuracy, and parameters that keep the plain network's less {LOST:.0%}: {'; '.join(parts)}."
