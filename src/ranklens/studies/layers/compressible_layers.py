"""Networks that are trained with products as layers keep their accuracy with fewer parameters after compression."""

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ranklens import drawing
from ranklens.nn.compress import pareto
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.nn.rank_profile import rank_profile
from ranklens.progress import reporter
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.training import networks

TITLE = "Layers that are products compress further"
EXPLANATION = (
    "A network is trained with plain layers, and with layers that are products of matrices or sums of outer products. "
    "Each is collapsed to plain layers afterwards and cut to lower rank by one rule. Products leave small singular "
    "values behind, so that fewer parameters keep the accuracy."
)
SOURCE = (
    "after Arora, Cohen, Hu, Luo (NeurIPS 2019); the compression measure after Li, Sun, Su, Suzuki, Huang "
    "(AISTATS 2020)"
)

# Shares of the squared norm of every weight that compression keeps.
ENERGIES = (1.0, 0.9999, 0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5)
# Test accuracy that compression may lose.
LOST = 0.01
# Number of test images whose outputs are compared before and after collapsing.
COMPARED = 100
# Kinds of layers: arguments of `overparameterize`, or None for plain layers.
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
        train: number of training images.
        validation: number of images that are set aside from the training images, and not used.
        kinds: kinds of layers, names in `KINDS`; the others are compared with the first.
        steps: number of steps.
        batch_size: number of images per step.
        lr: initial learning rate.
        seeds: seeds of the images, initial weights and batches.
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


@dataclass(frozen=True)
class Trained:
    """Numbers of one network after training.

    Attributes:
        train: training accuracy.
        test: test accuracy.
        collapsed: largest change of an output by collapsing, over the largest output.
        effective_rank: mean effective rank of the weights after collapsing.
        accuracy: (energies,) test accuracy after compression.
        parameters: (energies,) number of parameters after compression.
    """

    train: float
    test: float
    collapsed: float
    effective_rank: float
    accuracy: NDArray[np.float64]
    parameters: NDArray[np.int64]


def run(settings: Settings) -> xr.Dataset:
    """Return accuracies, effective ranks and numbers of parameters for every kind of layers and seed."""
    found, size = [], 0
    with reporter(None) as report:
        for seed in settings.seeds:
            images = networks.split(settings.images, settings.train, settings.validation, seed)
            colours, side = images.train[0].shape[1:3]
            plain = networks.cnn(side, colours, seed)
            size = sum(p.numel() for p in plain.parameters())
            row = []
            for kind in settings.kinds:
                report(f"{kind}, seed {seed}")
                row.append(_trained(settings, plain, kind, images, seed))
            found.append(row)

    def table(name: str) -> NDArray[np.float64]:
        return np.array([[getattr(one, name) for one in row] for row in found], dtype=np.float64).swapaxes(0, 1)

    dims = ("kind", "seed")
    return xr.Dataset(
        {
            **{name: ((*dims, "energy"), table(name)) for name in ("accuracy", "parameters")},
            **{name: (dims, table(name)) for name in ("train", "test", "collapsed", "effective_rank")},
        },
        coords={"kind": list(settings.kinds), "seed": list(settings.seeds), "energy": list(ENERGIES)},
        attrs={"size": size},
    )


def _trained(settings: Settings, plain: nn.Module, kind: str, images: networks.ImageSplit, seed: int) -> Trained:
    """Return the numbers of the network trained with one kind of layers, then collapsed and compressed."""
    options = KINDS[kind]
    model = copy.deepcopy(plain if options is None else overparameterize(plain, seed=seed, **options))
    schedule = networks.Schedule(settings.steps, settings.batch_size, settings.lr, settings.steps)
    networks.fit(model, images, schedule, seed)
    small = collapse(model)
    with torch.no_grad():
        x = images.test[0][:COMPARED]
        before, after = model(x), small(x)
    compressed = pareto(small, functools.partial(networks.accuracy, part=images.test), energies=ENERGIES)
    return Trained(
        train=networks.accuracy(small, images.train),
        test=networks.accuracy(small, images.test),
        collapsed=float((after - before).abs().max() / before.abs().max()),
        effective_rank=float(rank_profile(small).effective_rank.mean()),
        accuracy=compressed.score.values,
        parameters=compressed.parameters.values,
    )


def least(record: xr.Dataset, kind: str) -> NDArray[np.float64]:
    """Return for every seed the fewest parameters that lose at most `LOST` of the test accuracy of the first kind.

    Args:
        record: the record of the study.
        kind: the kind of layers whose parameters are counted; infinite where no compression keeps the accuracy.
    """
    return _fewest(record, kind, record.test.sel(kind=record.kind.values[0]))


def measure(record: xr.Dataset, kind: str, examples: int) -> NDArray[np.float64]:
    """Return for every seed the compression measure sqrt(q / n) of a kind of layers.

    Here n is the number of training images, and q is the fewest parameters that lose at most `LOST` of the network's
    own test accuracy. A network that q numbers describe has training and test errors that differ by at most a multiple
    of this measure, up to logarithms: it is the form of generalization bounds by compression, without their constants.

    Args:
        record: the record of the study.
        kind: the kind of layers.
        examples: n.
    """
    return np.sqrt(_fewest(record, kind, record.test.sel(kind=kind)) / examples)


def _fewest(record: xr.Dataset, kind: str, accuracy: xr.DataArray) -> NDArray[np.float64]:
    """Return for every seed the fewest parameters with at least this test accuracy minus `LOST`; NaN for NaN."""
    kept = record.accuracy.sel(kind=kind)
    parameters = record.parameters.sel(kind=kind).where(kept >= accuracy - LOST, math.inf).min("energy")
    known = accuracy.notnull() & kept.notnull().all("energy")
    return np.asarray(parameters.where(known).values, dtype=np.float64)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return a theorem on collapsing, and findings on parameters, accuracy and the compression measure."""
    settings = records.settings_of(record, Settings)
    first, others = settings.kinds[0], settings.kinds[1:]
    deepest = "depth 3" if "depth 3" in others else others[-1]
    many = reduce.count(record.seed)
    measures = {kind: reduce.median(measure(record, kind, settings.train)) for kind in (first, deepest)}
    return [
        exactness(
            "Collapsing the factored layers to plain ones changes no output of the trained network: absolute change "
            f"of a logit divided by the largest absolute logit, largest over {COMPARED} test images, kinds of layers "
            f"and {many}",
            reduce.largest(record.collapsed),
            at_most=1e-5,
            source=sources.OWN_DERIVATION,
        ),
        *(
            finding(
                f"Fewest parameters after compression that lose at most {LOST:.0%} of test accuracy, relative to "
                f"{first} layers before compression: number for {first} layers divided by number for {kind} (median "
                f"of {many})",
                reduce.median(_ratio(least(record, first), least(record, kind))),
                at_least=3.0,
                source=sources.OWN_EXPERIMENT,
            )
            for kind in others
        ),
        finding(
            f"Test accuracy before compression, {deepest} minus {first} layers (median of {many}). The bound is the "
            "accuracy that compression may lose",
            reduce.median(record.test.sel(kind=deepest) - record.test.sel(kind=first)),
            at_least=-LOST,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "Compression measure sqrt(q / n), where n is the number of training images and q the fewest parameters "
            f"after compression that lose at most {LOST:.0%} of the network's own test accuracy: {deepest} divided by "
            f"{first} layers (medians of {many})",
            measures[deepest] / measures[first],
            at_most=1.0,
            source=sources.COMPRESSION,
        ),
    ]


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratios of numbers of parameters; NaN where both are infinite."""
    with np.errstate(invalid="ignore"):
        return over / under


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of accuracy against parameters, and of the accuracy gap against the compression measure."""
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
    curve.axhline(line, label=f"{settings.kinds[0]}, minus {LOST:.0%}", **drawing.THEORY)
    curve.set_xscale("log")
    curve.set_ylim(max(line - 25, 0), 100)
    drawing.label(curve, "Compressed networks", "parameters / parameters of the plain network", "test accuracy (%)")
    for k, kind in enumerate(settings.kinds):
        x = measure(record, kind, settings.train)
        y = 100 * (record.train - record.test).sel(kind=kind)
        gap.plot(x, y, linestyle="", marker="osv^D<>"[k % 7], color=drawing.COLOURS[k % 7], label=kind)
    gap.set_xlim(0)
    drawing.label(
        gap, "Compression and generalization", "sqrt(parameters / images)", "training minus test accuracy (%)"
    )
    for axes in (curve, gap):
        axes.legend(fontsize=8)
    return made


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    parts = []
    for kind in record.kind.values:
        share = float(np.median(least(record, str(kind))) / record.size)
        kept = f"{share:.0%} of the parameters" if np.isfinite(share) else "no number of parameters"
        parts.append(f"{kind} {100 * float(record.test.sel(kind=kind).median()):.1f}% and {kept}")
    return (
        f"Test accuracy before compression, and share of the parameters that keep the accuracy of "
        f"{record.kind.values[0]} layers minus {LOST:.0%}, medians of the seeds: {'; '.join(parts)}."
    )
