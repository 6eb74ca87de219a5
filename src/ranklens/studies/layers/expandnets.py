"""Kernels expanded to chains train a small network to more, at the cost of a plain one if they are composed."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing
from ranklens.nn.overparameterize import overparameterize
from ranklens.progress import reporter
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.training import networks
from ranklens.training.layer_by_layer import LayerByLayer, kernels, layer_by_layer

TITLE = "Expanded kernels, composed before they are applied, cost a fraction of what their layers do"
EXPLANATION = (
    "Every kernel of a small network is expanded to a chain of three with four times the channels, which together can "
    "express no more. Composed to one kernel before it is applied, the chain gives the same outputs and gradients as "
    "layer by layer, in a fraction of the time."
)
SOURCE = "Guo, Alvarez, Salzmann (NeurIPS 2020): ExpandNets"

WAYS = ("plain", "expanded")
ROUNDS = 5  # of timing, by turns; the median counts


@dataclass(frozen=True)
class Settings:
    """A small convolutional network, plain and expanded.

    Attributes:
        images: "digits", "mnist", "fashion-mnist" or "cifar10".
        train: images learnt from.
        validation: images by which the best moment is chosen.
        rate: by which channels are expanded.
        steps: of SGD with momentum.
        every: steps between looks at the validation images.
        batch_size: images per step.
        lr: at the start.
        seeds: of images, start and batches.
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
MINUTES = {"laptop": 0.4, "paper": 600.0, "fashion-mnist": 25.0, "tiny": 0.1}


def run(settings: Settings) -> xr.Dataset:
    """Accuracies along training and at its end, what collapsing and composing change, and seconds per step."""
    looks = [*range(0, settings.steps, settings.every), settings.steps]
    shape = (len(WAYS), len(settings.seeds))
    validation, test = np.zeros((*shape, len(looks))), np.zeros((*shape, len(looks)))
    same, gradient = np.zeros(len(settings.seeds)), np.zeros(len(settings.seeds))
    seconds = np.zeros((3, len(settings.seeds)))
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            images = networks.split(settings.images, settings.train, settings.validation, seed)
            colours, side = images.train[0].shape[1:3]
            plain = networks.cnn(side, colours, seed)
            deep = overparameterize(plain, kind="expanded", width=settings.rate, where=_kernels, seed=seed)
            same[n], gradient[n] = _differences(deep, images.train[0][:8])
            rows = slice(settings.batch_size)
            seconds[:, n] = _seconds([plain, deep, layer_by_layer(deep)], images.train[0][rows], images.train[1][rows])
            for k, model in enumerate((plain, deep)):
                report(f"{WAYS[k]}, seed {seed}")

                def watch(step: int, k: int = k, n: int = n, model: nn.Module = model) -> None:
                    at = looks.index(step)
                    validation[k, n, at] = networks.accuracy(model, images.validation)  # noqa: B023
                    test[k, n, at] = networks.accuracy(model, images.test)  # noqa: B023

                schedule = networks.Schedule(settings.steps, settings.batch_size, settings.lr, settings.every)
                networks.fit(model, images, schedule, seed, watch)
    dims = ("way", "seed", "step")
    return xr.Dataset(
        {
            "validation": (dims, validation),
            "test": (dims, test),
            "difference": ("seed", same),
            "gradient": ("seed", gradient),
            "duration": (("timed", "seed"), seconds),
        },
        coords={
            "way": list(WAYS),
            "seed": list(settings.seeds),
            "step": looks,
            "timed": ["plain", "composed", "layer by layer"],
        },
    )


def _kernels(_: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d)


def _differences(deep: nn.Sequential, x: Tensor) -> tuple[float, float]:
    """How far outputs and gradients of the kernels are from those layer by layer, relative to the largest."""
    other = layer_by_layer(deep)
    found, expected = deep(x), other(x)
    difference = float(((found - expected).abs().max() / expected.abs().max()).detach())
    found.square().sum().backward()
    expected.square().sum().backward()
    pairs = [
        (kernel.grad, literal.grad)
        for layer, chain in zip(deep.children(), other.children(), strict=True)
        if isinstance(chain, LayerByLayer)
        for kernel, literal in zip(kernels(layer), chain.kernels, strict=True)
    ]
    deep.zero_grad()
    return difference, max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _seconds(models: list[nn.Module], x: Tensor, y: Tensor) -> Any:
    """Median time of forward and backward, by turns."""
    found: list[list[float]] = [[] for _ in models]
    for turn in range(ROUNDS + 1):
        for k, model in enumerate(models):
            begun = time.perf_counter()
            nn.functional.cross_entropy(model(x), y).backward()
            model.zero_grad()
            if turn:
                found[k].append(time.perf_counter() - begun)
    return np.median(found, axis=1)


def best(record: xr.Dataset) -> xr.DataArray:
    """Test accuracy at the step with the best validation accuracy."""
    return record.test.isel(step=record.validation.argmax("step"))


def claims(record: xr.Dataset) -> list[Claim]:
    """Composing changes nothing but the time; what expansion does for accuracy."""
    last = record.test.isel(step=-1)
    chosen = best(record)
    duration = record.duration.median("seed")
    return [
        Claim(
            "theorem",
            "composed against layer by layer: outputs (largest difference, relative)",
            float(record.difference.max(skipna=False)),
            "<=",
            1e-5,
        ),
        Claim(
            "theorem",
            "composed against layer by layer: gradients of all kernels (largest difference, relative)",
            float(record.gradient.max(skipna=False)),
            "<=",
            1e-4,
        ),
        Claim(
            "finding",
            "accuracy at the last step, expanded less plain (median)",
            float((last.sel(way="expanded") - last.sel(way="plain")).median()),
            ">=",
            0.0,
        ),
        Claim(
            "finding",
            "accuracy at the best step by validation, expanded less plain (median)",
            float((chosen.sel(way="expanded") - chosen.sel(way="plain")).median()),
            ">=",
            0.0,
        ),
        Claim(
            "finding",
            "seconds of a step layer by layer over composed",
            float(duration.sel(timed="layer by layer") / duration.sel(timed="composed")),
            ">=",
            2.0,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Accuracy along training, and seconds per step."""
    settings = records.settings_of(record, Settings)
    made, (curve, bars) = drawing.figure(2, width=5.0)
    for k, way in enumerate(WAYS):
        for seed in record.seed.values:
            at = record.test.sel(way=way, seed=seed)
            label = way if seed == record.seed.values[0] else None
            curve.plot(record.step, 100 * at, label=label, **drawing.style(k))
            chosen = int(record.validation.sel(way=way, seed=seed).argmax("step"))
            curve.plot(record.step[chosen], 100 * at[chosen], marker="o", color=drawing.COLOURS[k])
    curve.set_ylim(max(0.0, 100 * float(record.test.isel(step=-1).min()) - 20), 100)
    title = f"Accuracy on the {settings.images}; dots: best by validation"
    drawing.label(curve, title, "steps of SGD", "test accuracy (%)")
    curve.legend(fontsize=8)
    duration = 1e3 * record.duration.median("seed")
    places = np.arange(record.sizes["timed"])
    bars.bar(places, duration, 0.6, color=[drawing.COLOURS[k] for k in (0, 1, 2)])
    bars.set_xticks(places, list(record.timed.values))
    bars.axhline(float(duration[0]), label="plain", **drawing.THEORY)
    bars.legend(fontsize=8, loc="upper left")
    drawing.label(bars, "Forward and backward", "expanded kernels", f"milliseconds, batch of {settings.batch_size}")
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    last, duration = record.test.isel(step=-1).median("seed"), 1e3 * record.duration.median("seed")
    return (
        f"Test accuracy at the last step: plain {100 * float(last[0]):.1f}%, expanded {100 * float(last[1]):.1f}%; a "
        f"step takes {float(duration[0]):.1f} ms plain, {float(duration[1]):.1f} composed, {float(duration[2]):.1f} "
        "layer by layer."
    )
