"""Convolutions expanded to chains of kernels: composed before use, they cost little more than plain ones."""

import math
import time
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ranklens import drawing
from ranklens.nn.composed import ComposedConv2d
from ranklens.nn.overparameterize import overparameterize
from ranklens.progress import reporter
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.training import networks
from ranklens.training.layer_by_layer import LayerByLayer, kernels, layer_by_layer

TITLE = "Expanded kernels, composed before use, cost a fraction of their layers one by one"
EXPLANATION = (
    "Every kernel of a small network is expanded to a chain of three kernels with four times the channels in between, "
    "which does not change what the network can express. If the chain is composed to one kernel before the "
    "convolution, outputs and gradients are as with one convolution for each kernel of the chain, in a fraction of the "
    "time."
)
SOURCE = "Guo, Alvarez, Salzmann (NeurIPS 2020): ExpandNets"

# The compared networks.
WAYS = ("plain", "expanded")
# Number of timings of a step, of which the median counts; the networks are timed in turn.
ROUNDS = 5
# Number of training images on which outputs and gradients are compared.
COMPARED = 8


@dataclass(frozen=True)
class Settings:
    """A small convolutional network on images, plain and with expanded kernels.

    Attributes:
        images: "digits", "mnist", "fashion-mnist" or "cifar10".
        train: number of training images.
        validation: number of validation images, which choose the best step.
        rate: number of channels within a chain, over the channels at its ends.
        steps: number of steps of SGD with momentum.
        every: number of steps from one measurement of accuracies to the next.
        batch_size: number of images per step.
        lr: initial learning rate.
        seeds: seeds of the images, initial weights and batches.
    """

    images: str = "digits"
    train: int = 1000
    validation: int = 200
    rate: int = 4
    steps: int = 600
    every: int = 50
    batch_size: int = 64
    lr: float = 0.05
    seeds: tuple[int, ...] = (0, 1)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        images="cifar10", train=45_000, validation=5000, steps=50_000, every=1000, batch_size=128, seeds=(0, 1, 2, 3, 4)
    ),
    "fashion-mnist": Settings(images="fashion-mnist", train=10_000, validation=2000, steps=3000, every=200),
    "tiny": Settings(train=100, validation=50, steps=10, every=5, batch_size=8, seeds=(0,)),
}
MINUTES = {"laptop": 0.4, "paper": 630.0, "fashion-mnist": 25.0, "tiny": 0.1}


def run(settings: Settings) -> xr.Dataset:
    """Return accuracies along training, and differences and durations of the ways to compute an expanded network.

    Accuracies after an early stop of training are NaN.
    """
    looks = _looks(settings.steps, settings.every)
    shape = (len(WAYS), len(settings.seeds), len(looks))
    validation, test = np.full(shape, np.nan), np.full(shape, np.nan)
    outputs, gradients = np.zeros(len(settings.seeds)), np.zeros(len(settings.seeds))
    seconds = np.zeros((3, len(settings.seeds)))
    schedule = networks.Schedule(settings.steps, settings.batch_size, settings.lr, settings.every)
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            images = networks.split(settings.images, settings.train, settings.validation, seed)
            colours, side = images.train[0].shape[1:3]
            plain = networks.cnn(side, colours, seed)
            deep = overparameterize(plain, kind="expanded", width=settings.rate, where=_is_convolution, seed=seed)
            outputs[n], gradients[n] = differences(deep, images.train[0][:COMPARED])
            x, y = (part[: settings.batch_size] for part in images.train)
            seconds[:, n] = _seconds([plain, deep, layer_by_layer(deep)], x, y)
            for k, model in enumerate((plain, deep)):
                report(f"{WAYS[k]}, seed {seed}")
                validation[k, n], test[k, n] = _accuracies(model, images, schedule, seed)
    dims = ("way", "seed", "step")
    return xr.Dataset(
        {
            "validation": (dims, validation),
            "test": (dims, test),
            "difference": ("seed", outputs),
            "gradient": ("seed", gradients),
            "duration": (("timed", "seed"), seconds),
        },
        coords={
            "way": list(WAYS),
            "seed": list(settings.seeds),
            "step": looks,
            "timed": ["plain", "composed", "layer by layer"],
        },
    )


def _accuracies(
    model: nn.Module, images: networks.ImageSplit, schedule: networks.Schedule, seed: int
) -> tuple[list[float], list[float]]:
    """Return validation and test accuracies during training in place, at every look; NaN after an early stop."""
    looks = _looks(schedule.steps, schedule.every)
    validation, test = [math.nan] * len(looks), [math.nan] * len(looks)

    def watch(step: int) -> None:
        validation[looks.index(step)] = networks.accuracy(model, images.validation)
        test[looks.index(step)] = networks.accuracy(model, images.test)

    networks.fit(model, images, schedule, seed, watch)
    return validation, test


def _looks(steps: int, every: int) -> list[int]:
    """Return the steps at which accuracies are measured: every `every`-th, and the last."""
    return [*range(0, steps, every), steps]


def _is_convolution(_: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d)


def differences(expanded: nn.Sequential, x: Tensor) -> tuple[float, float]:
    """Return how far outputs and gradients with composed kernels are from those with one convolution per kernel.

    Args:
        expanded: a network with expanded convolutions.
        x: images.

    Returns:
        The largest absolute difference of an output over the largest output; and the largest absolute difference of a
        kernel's gradient over its largest entry, the largest of all kernels. The gradients are of the sum of the
        squared outputs.
    """
    slow = layer_by_layer(expanded)
    found, expected = expanded(x), slow(x)
    difference = float(((found - expected).abs().max() / expected.abs().max()).detach())
    found.square().sum().backward()
    expected.square().sum().backward()
    pairs = [
        (kernel.grad, other.grad)
        for layer, chain in zip(expanded.children(), slow.children(), strict=True)
        if isinstance(layer, ComposedConv2d) and isinstance(chain, LayerByLayer)
        for kernel, other in zip(kernels(layer), chain.kernels, strict=True)
    ]
    expanded.zero_grad()
    return difference, reduce.largest([float((a - b).abs().max() / b.abs().max()) for a, b in pairs])


def _seconds(models: list[nn.Module], x: Tensor, y: Tensor) -> NDArray[np.float64]:
    """Return the median duration in seconds of a forward and a backward pass of every model."""
    found: list[list[float]] = [[] for _ in models]
    for turn in range(ROUNDS + 1):
        for k, model in enumerate(models):
            begun = time.perf_counter()
            nn.functional.cross_entropy(model(x), y).backward()
            model.zero_grad()
            if turn > 0:  # the first turn warms up
                found[k].append(time.perf_counter() - begun)
    return np.median(found, axis=1)


def best(record: xr.Dataset) -> xr.DataArray:
    """Return the test accuracy at the step with the best validation accuracy, for every way and seed; NaN for NaN."""
    known = record.validation.notnull().all("step")
    chosen = record.test.isel(step=record.validation.fillna(-1.0).argmax("step"))
    return chosen.where(known)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return theorems on equal outputs and gradients, and findings on accuracies and durations."""
    many = reduce.count(record.seed)
    last, chosen = record.test.isel(step=-1), best(record)
    duration = {way: reduce.median(record.duration.sel(timed=way)) for way in ("layer by layer", "composed")}
    return [
        exactness(
            "Composing each chain of kernels to one kernel does not change the outputs of the network: largest "
            "absolute difference from the outputs with one convolution for each kernel of a chain, divided by the "
            f"largest absolute output, on {COMPARED} images before training, largest of {many}",
            reduce.largest(record.difference),
            at_most=1e-5,
            source=sources.EXPANSION,
        ),
        exactness(
            "Composing each chain of kernels to one kernel does not change the gradients of the kernels in the sum "
            "of the squared outputs: largest absolute difference from the gradients with one convolution for each "
            f"kernel of a chain, divided by the largest absolute entry of the kernel's gradient, on {COMPARED} images "
            f"before training, largest of all kernels and {many}",
            reduce.largest(record.gradient),
            at_most=1e-4,
            source=sources.EXPANSION,
        ),
        finding(
            "Test accuracy after the last step of training, network with kernels expanded to chains minus plain "
            f"network (median of {many})",
            reduce.median(last.sel(way="expanded") - last.sel(way="plain")),
            at_least=0.0,
            source=sources.EXPANSION,
        ),
        finding(
            "Test accuracy at the recorded step with the best validation accuracy, network with kernels expanded to "
            f"chains minus plain network (median of {many})",
            reduce.median(chosen.sel(way="expanded") - chosen.sel(way="plain")),
            at_least=0.0,
            source=sources.EXPANSION,
        ),
        finding(
            "Duration of a forward and a backward pass of the expanded network on one batch, with one convolution "
            f"for each kernel of a chain divided by with each chain composed to one kernel (medians of {many})",
            duration["layer by layer"] / duration["composed"],
            at_least=2.0,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of test accuracy along training, and of the duration of a step."""
    settings = records.settings_of(record, Settings)
    made, (curve, bars) = drawing.figure(2, width=4.4)
    for k, way in enumerate(WAYS):
        for seed in record.seed.values:
            at = record.test.sel(way=way, seed=seed)
            label = way if seed == record.seed.values[0] else None
            curve.plot(record.step, 100 * at, label=label, **drawing.style(k))
            chosen = int(record.validation.sel(way=way, seed=seed).argmax("step"))
            curve.plot(record.step[chosen], 100 * at[chosen], marker="o", color=drawing.COLOURS[k])
    curve.set_ylim(max(0.0, 100 * float(record.test.isel(step=-1).min()) - 20), 100)
    title = f"Accuracy on {settings.images}; dots: best validation"
    drawing.label(curve, title, "steps of SGD", "test accuracy (%)")
    drawing.note(curve, "expanded: at least as good", 0.97, 0.3)
    curve.legend(fontsize=8, loc="lower right")
    duration = 1e3 * record.duration.median("seed")
    places = np.arange(record.sizes["timed"])
    drawn = bars.bar(places, duration, 0.6, color=[drawing.COLOURS[k] for k in (0, 1, 2)])
    bars.bar_label(drawn, [f"{ratio:.1f} times" for ratio in (duration / duration[0]).values])
    names = {"composed": "expanded, kernels\ncomposed first", "layer by layer": "expanded,\nlayer by layer"}
    bars.set_xticks(places, [names.get(str(name), str(name)) for name in record.timed.values])
    bars.axhline(float(duration[0]), label="plain", **drawing.THEORY)
    bars.legend(fontsize=8, loc="upper left")
    drawing.label(bars, "Forward and backward pass", "network", f"milliseconds, batch of {settings.batch_size}")
    drawing.note(bars, "composed first:\nfar cheaper", 0.4, 0.5)
    return made


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    last, duration = record.test.isel(step=-1).median("seed"), 1e3 * record.duration.median("seed")
    return (
        f"Test accuracy at the last step, medians of the seeds: plain network {100 * float(last[0]):.1f}%, expanded "
        f"network {100 * float(last[1]):.1f}%. A forward and a backward pass take {float(duration[0]):.1f} ms in the "
        f"plain network, {float(duration[1]):.1f} ms with composed kernels and {float(duration[2]):.1f} ms with one "
        "convolution per kernel."
    )
