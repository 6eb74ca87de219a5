"""Networks that are trained with products as layers keep their accuracy with fewer parameters after compression."""

import copy
import functools
import math
from collections.abc import Callable
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
from ranklens.nn.compressibility import compressibility
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.nn.prune import prune
from ranklens.nn.rank_profile import rank_profile
from ranklens.progress import reporter
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.training import networks, text

TITLE = "Layers that are products compress further"
EXPLANATION = (
    "A network is trained with plain layers, and with layers that are products of matrices, sums of outer products or "
    "hierarchical factorizations. Each is collapsed to plain layers and cut to lower rank by one rule. Products leave "
    "small singular values behind, so that fewer parameters keep the accuracy."
)
SOURCE = (
    "after Arora, Cohen, Hu, Luo (NeurIPS 2019); the compression measure and layer-wise compressibility after Li, Sun, "
    "Su, Suzuki, Huang (AISTATS 2020); the pruning bound after Razin, Maman, Cohen (ICML 2022)"
)

# Shares of the squared norm of every weight that compression keeps.
ENERGIES = (1.0, 0.9999, 0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5)
# Test accuracy that compression may lose.
LOST = 0.01
# Number of test samples on which collapsed outputs are compared, and the compressibility of layers is measured.
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
    "CP, small start": {"kind": "cp", "init": 0.5},
    "hierarchical": {"kind": "hierarchical"},
    "hierarchical, small start": {"kind": "hierarchical", "init": 0.7},
}
# Kinds that are also pruned by the bound on components.
TENSORS = ("CP", "CP, small start", "hierarchical", "hierarchical, small start")
# Relative change of a layer's output that leaving out its smallest components may cause, by the bound.
MOVED = 0.5
# Factors of the learning rate by data and kind, without which 1,500 steps do not suffice for text. They, and `init`,
# suit seed 10. On Fashion-MNIST CP layers have the factor 1, because with 4 they learn nothing.
FASTER = {
    ("digits", "CP, small start"): 4.0,
    ("digits", "hierarchical, small start"): 2.0,
    ("text", "CP, small start"): 4.0,
    ("text", "hierarchical, small start"): 2.0,
    ("fashion-mnist", "hierarchical, small start"): 2.0,
}


@dataclass(frozen=True)
class Settings:
    """A small convolutional network that classifies images or predicts the next character, trained with SGD.

    Attributes:
        data: "digits", "mnist", "fashion-mnist", "cifar10", or "text": the manual of Python.
        train: number of training samples.
        validation: number of samples that are set aside from the training samples, and not used.
        kinds: kinds of layers, names in `KINDS`; the others are compared with the first.
        steps: number of steps.
        batch_size: number of samples per step.
        lr: initial learning rate.
        seeds: seeds of the samples, initial weights and batches.
    """

    data: str = "digits"
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
        data="fashion-mnist",
        train=10_000,
        validation=2000,
        kinds=("plain", "depth 2", "depth 3", "depth 4", "CP, small start", "hierarchical, small start"),
        steps=3000,
    ),
    "text": Settings(
        data="text", train=8000, kinds=("plain", "depth 3", "CP, small start", "hierarchical, small start"), steps=1500
    ),
    "tiny": Settings(train=100, validation=50, steps=20, seeds=(0,)),
}
MINUTES = {"laptop": 0.4, "digits": 6.0, "paper": 30.0, "text": 3.0, "tiny": 0.1}


# Terms of the bound on a layer's outputs, from the table of `compressibility`, and `share` and `bound_used`.
TERMS = ("share", "tensorization_factor", "norm", "cushion", "bound_used")


def run(settings: Settings) -> xr.Dataset:
    """Return accuracies, effective ranks, numbers of parameters and terms of bounds for every kind and seed."""
    found, size = [], 0
    with reporter(None) as report:
        for seed in settings.seeds:
            samples, plain = _task(settings, seed)
            size = sum(p.numel() for p in plain.parameters())
            row = []
            for kind in settings.kinds:
                report(f"{kind}, seed {seed}")
                row.append(_trained(settings, plain, kind, samples, seed))
            found.append(xr.concat(row, xr.Variable("kind", list(settings.kinds)), join="outer"))
    record = xr.concat(found, xr.Variable("seed", list(settings.seeds))).transpose("kind", "seed", ...)
    return record.assign_attrs(size=size)


def _task(settings: Settings, seed: int) -> tuple[networks.ImageSplit, nn.Sequential]:
    """Return the samples and the untrained plain network."""
    if settings.data == "text":
        return text.split(settings.train, settings.validation, seed), text.text_cnn(seed)
    images = networks.split(settings.data, settings.train, settings.validation, seed)
    colours, side = images.train[0].shape[1:3]
    return images, networks.cnn(side, colours, seed)


def _trained(settings: Settings, plain: nn.Module, kind: str, samples: networks.ImageSplit, seed: int) -> xr.Dataset:
    """Return the numbers of the network trained with one kind of layers, then collapsed and compressed.

    They are train and test (accuracies), collapsed (largest change of an output by collapsing, over the largest
    output), effective_rank (mean of the collapsed weights), accuracy and parameters after cuts at every energy,
    pruned_accuracy and pruned_parameters after pruning by the bound, and TERMS for every layer. Kinds that are not
    pruned have the accuracy and number of parameters of the cuts there.
    """
    options = KINDS[kind]
    model = copy.deepcopy(plain if options is None else overparameterize(plain, seed=seed, **options))
    lr = settings.lr * FASTER.get((settings.data, kind), 1.0)
    networks.fit(model, samples, networks.Schedule(settings.steps, settings.batch_size, lr, settings.steps), seed)
    small, score = collapse(model), functools.partial(networks.accuracy, part=samples.test)
    x = samples.test[0][:COMPARED]
    with torch.no_grad():
        before, after = model(x), small(x)
    compressed = pareto(small, score, energies=ENERGIES)
    cuts = compressed.score.values, compressed.parameters.values
    pruned = _pruned(model, small, score) if kind in TENSORS else cuts
    layers = compressibility(model, x, error=MOVED)
    layers["share"] = layers.components_kept / layers.components
    layers["bound_used"] = layers.change / layers.bound.where(layers.bound > 0, math.inf)
    alone = {
        "train": networks.accuracy(small, samples.train),
        "test": score(small),
        "collapsed": float((after - before).abs().max() / before.abs().max()),
        "effective_rank": float(rank_profile(small).effective_rank.mean()),
    }
    curves = {
        "accuracy": cuts[0],
        "parameters": cuts[1],
        "pruned_accuracy": pruned[0],
        "pruned_parameters": pruned[1],
    }
    return xr.Dataset(
        {**alone, **{name: ("energy", np.asarray(values, dtype=np.float64)) for name, values in curves.items()}},
        coords={"energy": list(ENERGIES)},
    ).merge(layers[list(TERMS)])


def _pruned(
    model: nn.Module, plain: nn.Module, score: Callable[[nn.Module], float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracies and numbers of parameters after pruning by the bound, for every energy.

    The tolerance of the pruning is sqrt(1 - e), the relative error of a weight that a cut to energy e allows. A layer
    whose factors have more entries than its weight counts with those of its weight.
    """
    accuracies, sizes = [], []
    whole = sum(p.numel() for p in plain.parameters())
    for energy in ENERGIES:
        found = prune(model, math.sqrt(1 - energy))
        dense = [plain.get_submodule(str(name)).get_parameter("weight").numel() for name in found.table.layer.values]
        accuracies.append(score(found.model))
        sizes.append(whole - int(np.clip(np.array(dense) - found.table.parameters_kept.values, 0, None).sum()))
    return np.array(accuracies), np.array(sizes, dtype=np.float64)


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
    """Return what must hold of collapsing and of layers, and findings on parameters, accuracy and compressibility.

    No source gives a number of times by which products compress further than plain layers, so that the bound on the
    ratio of parameters says only that they do not compress less.
    """
    settings = records.settings_of(record, Settings)
    first, others = settings.kinds[0], settings.kinds[1:]
    deepest = "depth 3" if "depth 3" in others else others[-1]
    many = reduce.count(record.seed)
    measures = {kind: reduce.median(measure(record, kind, settings.train)) for kind in (first, deepest)}
    return [
        exactness(
            "Collapsing the factored layers to plain ones changes no output of the trained network: absolute change "
            f"of a logit divided by the largest absolute logit, largest over {COMPARED} test samples, kinds of layers "
            f"and {many}",
            reduce.largest(record.collapsed),
            at_most=1e-5,
            source=sources.OWN_DERIVATION,
        ),
        exactness(
            "Leaving out the smallest components of a layer moves no output of the layer by more than noise bound / "
            "(layer cushion x norm of the weight): relative change divided by this bound, largest over "
            f"{COMPARED} test samples, layers, kinds of layers and {many}",
            reduce.largest(record.bound_used),
            at_most=1 + 1e-5,
            source=sources.COMPRESSION,
        ),
        *(_fewer_parameters(record, first, kind, many) for kind in others),
        *(_fewer_components(record, first, kind, many) for kind in others if kind in TENSORS),
        finding(
            f"Test accuracy before compression, {deepest} minus {first} layers (median of {many}). The bound is the "
            "accuracy that compression may lose",
            reduce.median(record.test.sel(kind=deepest) - record.test.sel(kind=first)),
            at_least=-LOST,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "Compression measure sqrt(q / n), where n is the number of training samples and q the fewest parameters "
            f"after compression that lose at most {LOST:.0%} of the network's own test accuracy: {deepest} divided by "
            f"{first} layers (medians of {many})",
            measures[deepest] / measures[first],
            at_most=1.0,
            source=sources.COMPRESSION,
        ),
    ]


def _fewer_parameters(record: xr.Dataset, first: str, kind: str, many: str) -> Claim:
    """Return the finding that a kind of layers needs no more parameters than the first kind."""
    return finding(
        f"Fewest parameters after compression that lose at most {LOST:.0%} of test accuracy, relative to {first} "
        f"layers before compression: number for {first} layers divided by number for {kind} (median of {many})",
        reduce.median(_ratio(least(record, first), least(record, kind))),
        at_least=1.0,
        source=sources.OWN_EXPERIMENT,
    )


def _fewer_components(record: xr.Dataset, first: str, kind: str, many: str) -> Claim:
    """Return the finding that the layers of a tensor kind need no larger share of their components than plain ones."""
    return finding(
        f"Share of its components that a layer needs for a bound of at most {MOVED:.0%} on its outputs, mean over all "
        f"layers: {kind} divided by {first} (median of {many})",
        reduce.median(record.share.sel(kind=kind).mean("layer") / record.share.sel(kind=first).mean("layer")),
        at_most=1.0,
        source=sources.COMPRESSION,
    )


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratios of numbers of parameters; NaN where both are infinite."""
    with np.errstate(invalid="ignore"):
        return over / under


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of accuracy against parameters, and of the accuracy gap against the compression measure."""
    settings = records.settings_of(record, Settings)
    made, (curve, gap) = drawing.figure(2, width=4.4)
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
    curve.set_ylim(max(line - 25, 0), min(line + 20, 100))  # no higher than the best network needs
    drawing.label(curve, "Compressed networks", "share of the plain network's parameters", "test accuracy (%)")
    for k, kind in enumerate(settings.kinds):
        x = measure(record, kind, settings.train)
        y = 100 * (record.train - record.test).sel(kind=kind)
        gap.plot(x, y, linestyle="", marker="osv^D<>"[k % 7], color=drawing.COLOURS[k % 7], label=kind)
    gap.set_xlim(0, 1.1 * gap.get_xlim()[1])
    drawing.label(gap, "Compression and generalization", "sqrt(parameters / images)", "training minus test accuracy, %")
    drawing.note(curve, "products: equal accuracy\nwith fewer parameters", 0.02, 0.78)
    drawing.note(gap, "left: compresses better\nlow: generalizes better", 0.03, 0.05)
    for axes in (curve, gap):
        axes.legend(fontsize=8, loc="lower right" if axes is curve else "best")
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
