"""With a penalty against locality, convolutional networks learn dependence between distant parts of an image."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from joblib.externals import loky
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from ranklens import drawing, seeds
from ranklens import nn as layers
from ranklens.nn.regions import EitherOrder, Pair, Sampler
from ranklens.progress import reporter
from ranklens.studies.kit import coupling, known_penalties, records, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.studies.kit.reduce import largest, median
from ranklens.training import long_range, networks, resumable
from ranklens.training.resumable import Curves, Examples, Plan

TITLE = "Locality is a bias that a penalty counters"
EXPLANATION = (
    "Whether two images show the same class is easy for a convolutional network while they are side by side, and hard "
    "when they are far apart, although the training images are fitted as well. A penalty on input gradients that do "
    "not change when the other image is exchanged asks for dependence between the two images, which is high "
    "hierarchical rank, and restores a part of the accuracy that distance costs."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2022), section 5 and figures 4 and 5 at other sizes, with published numbers in the docs"
)

# Ranks of the bilinear forms whose penalty is compared with its exact mean.
FORMS = (1, 2, 4, 8)
# Fall of the accuracy of networks without the penalty, from the first of `ranges` to the last one, that the claims
# expect: the published fall is 0.108. With few training pairs such networks fall to chance (pilot seeds 10 to 12: by
# 0.37 to 0.41).
FALL, FEW, FALL_OF_FEW = 0.1, 500, 0.3
# Accuracy by which the penalty is expected to gain more than weight decay or dropout: the gain that the penalty itself
# is expected to have, so that a control that gains nothing passes.
MARGIN = 0.08
# Lower and upper end of all axes of accuracies, in per cent: from below chance, 50, to all images.
ACCURACIES = (40.0, 102.0)
# Settings of the controls, which take the place of the penalty, and the settings that list their values.
CONTROLS = {"decay": "decays", "dropout": "dropouts"}
# Names of the numbers that every training run contributes to the record.
NUMBERS = ("test", "train", "epochs", "share", "random_share", "interaction", "effective_rank")


@dataclass(frozen=True)
class Settings:
    """Same-class pairs at several distances, or Pathfinder with several path lengths, with and without the penalty.

    Attributes:
        task: "same_class" or "pathfinder".
        images: data set of which pairs are made, as in `rl.data.images`.
        tile: side in pixels to which its images are averaged; 0 leaves them as they are.
        classes: classes of its images that are used; none stands for all.
        canvas: height and width of a training image in pixels; Pathfinder takes the height for both.
        ranges: distances between the two images in columns, or path lengths in dashes, in increasing order.
        weights: weights of the penalty; the first must be 0, and the claims compare it with the last.
        train: number of training images.
        test: number of test images.
        network: "columns" for convolutions along the columns, "cnn" for convolutions in both directions, "resnet18" or
            "resnet34".
        epochs: largest number of training epochs.
        stop: number of epochs for which training continues once all training images are classified correctly; 0 for
            all epochs.
        batch_size: number of images per step.
        lr: learning rate of SGD with momentum 0.9, at the beginning.
        cosine: whether the learning rate falls to zero along a cosine.
        hold: share of the epochs before the fall begins.
        penalized: share of the epochs, from the first one on, in which the penalty is added to the loss.
        every: number of steps from one evaluation of the penalty to the next.
        decay: weight decay of every training run.
        dropout: share of the inputs of the last layer that are set to zero in every training run; not for the ResNets.
        decays: values of `decay` of further runs without the penalty, at the last of `ranges`.
        dropouts: values of `dropout` of further runs without the penalty, at the last of `ranges`.
        patch: side in pixels of the patches that are drawn for Pathfinder; for pairs the patches are the two images.
        watch: number of epochs from one evaluation on the test images to the next.
        samples: number of samples on which the penalty of bilinear forms is evaluated.
        checkpoints: folder of checkpoints, from which interrupted training continues; "" keeps none.
        accelerator: as in `ranklens.training.resumable.Plan`.
        devices: as in `ranklens.training.resumable.Plan`.
        precision: as in `ranklens.training.resumable.Plan`.
        jobs: number of training runs at a time, each on one thread.
        seeds: seeds of the images, initial weights, batches and patches.
    """

    task: str = "same_class"
    images: str = "digits"
    tile: int = 0
    classes: tuple[int, ...] = ()
    canvas: tuple[int, int] = (8, 64)
    ranges: tuple[int, ...] = (0, 48)
    weights: tuple[float, ...] = (0.0, 1.0)
    train: int = 2000
    test: int = 10_000
    network: str = "cnn"
    epochs: int = 120
    stop: int = 0
    batch_size: int = 64
    lr: float = 0.01
    cosine: bool = False
    hold: float = 0.0
    penalized: float = 1.0
    every: int = 1
    decay: float = 0.0
    dropout: float = 0.0
    decays: tuple[float, ...] = ()
    dropouts: tuple[float, ...] = ()
    patch: int = 2
    watch: int = 5
    samples: int = 2000
    checkpoints: str = ""
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    jobs: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)


PAPER = Settings(
    images="cifar10",
    canvas=(224, 224),
    ranges=(0, 40, 80, 120, 160),
    weights=(0.0, 0.1, 1.0),
    train=5000,
    network="resnet18",
    epochs=150,
    stop=20,
    checkpoints="checkpoints",
    accelerator="cuda",
    seeds=(0,),
)
PRESETS = {
    "laptop": Settings(
        classes=(0, 1, 2),
        ranges=(0, 16, 32, 48),
        train=300,
        test=8000,
        network="columns",
        epochs=96,
        lr=0.05,
        cosine=True,
        hold=0.667,
        penalized=0.667,
        decays=(0.01,),
        dropouts=(0.5,),
        watch=16,
        jobs=2,
    ),
    "digits": Settings(jobs=2),
    "pairs": Settings(classes=(0, 1, 2), ranges=(0, 16, 32, 48), train=300, test=2000, lr=0.05, cosine=True, watch=10),
    "distances": Settings(ranges=(0, 16, 32, 40, 48), weights=(0.0, 0.1, 1.0), jobs=2, seeds=(0,)),
    "medium": Settings(
        task="pathfinder",
        canvas=(64, 64),
        ranges=(3, 5, 7, 9),
        train=10_000,
        epochs=20,
        every=2,
        patch=4,
        seeds=(0,),
    ),
    "paper": PAPER,
    "pathfinder": dataclasses.replace(
        PAPER,
        task="pathfinder",
        canvas=(150, 150),
        ranges=(3, 5, 7, 9),
        weights=(0.0, 3.0, 9.0),
        train=10_000,
    ),
    "tiny": Settings(canvas=(8, 32), ranges=(0, 16), train=64, test=50, epochs=2, seeds=(0,)),
}
MINUTES = {
    "laptop": 4.2,
    "digits": 28.0,
    "pairs": 10.0,
    "distances": 36.0,
    "medium": 90.0,
    "paper": 900.0,
    "pathfinder": 900.0,
    "tiny": 0.1,
}


@dataclass(frozen=True)
class Trained:
    """Results of one training run.

    Attributes:
        curves: accuracies and losses by epoch.
        numbers: one number for each of `NUMBERS`.
        profile: share of the logit's variance that two patches carry jointly, by their distance and by network; None
            for a range that is not the last one.
    """

    curves: Curves
    numbers: dict[str, float]
    profile: xr.DataArray | None


def run(settings: Settings) -> xr.Dataset:
    """Return accuracies and dependence between patches of one training run per range, weight and seed.

    The record also holds the accuracies of the controls, if there are any, and the penalty of functions whose penalty
    is known exactly.

    Raises:
        ValueError: unless the first weight is 0 and another one follows; and for an unknown task or network.
    """
    if len(settings.weights) < 2 or settings.weights[0] != 0:
        raise ValueError(f"weights is {settings.weights}; the first must be 0, and at least one must follow")
    grid = [(settings, *point) for point in itertools.product(settings.ranges, settings.weights, settings.seeds)]
    others = [
        (dataclasses.replace(settings, **{name: value}), settings.ranges[-1], 0.0, seed)
        for name, plural in CONTROLS.items()
        for value in getattr(settings, plural)
        for seed in settings.seeds
    ]
    found: list[Trained] = []
    with reporter(None) as report:
        for made in _trained([*grid, *others], settings.jobs):
            found.append(made)
            report(f"trained {len(found)} of {len(grid) + len(others)}")
    record = _gathered(settings, found[: len(grid)]).merge(_controls(settings, found[len(grid) :]))
    record["bilinear"] = ("form", [known_penalties.bilinear_penalty(rank, settings.samples) for rank in FORMS])
    record["exact"] = ("function", [known_penalties.penalty_of_product(), known_penalties.penalty_of_sum()])
    return record.assign_coords(form=list(FORMS), function=["product", "sum"])


def _trained(points: Sequence[tuple[Settings, int, float, int]], jobs: int) -> Iterator[Trained]:
    """Return what training runs give, in their order, made in several processes with one thread each.

    A report runs this study in a process of its own, where threads would share the global random generator that
    initial values come from. What the processes share is given back at the end, also where a run has failed.

    Yields:
        The result of one run after the other.
    """
    if jobs == 1:
        yield from itertools.starmap(train_one, points)
        return
    pool = loky.ProcessPoolExecutor(jobs, env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    try:
        yield from pool.map(train_one, *zip(*points, strict=True))
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _gathered(settings: Settings, found: Sequence[Trained]) -> xr.Dataset:
    """Return the record of the runs over ranges, weights and seeds, in the order of these."""
    dims = {"range": settings.ranges, "weight": settings.weights, "seed": settings.seeds}
    shape = tuple(map(len, dims.values()))
    measured = {name: np.full(shape, np.nan) for name in NUMBERS}
    along = {f"{name}_curve": np.full((*shape, settings.epochs), np.nan) for name in ("test", "train", "loss")}
    for place, made in zip(np.ndindex(shape), found, strict=True):
        for name, number in made.numbers.items():
            measured[name][place] = number
        along["test_curve"][place][np.array(made.curves.epochs) - 1] = made.curves.test
        along["train_curve"][place][: len(made.curves.train)] = made.curves.train
        along["loss_curve"][place][: len(made.curves.loss)] = made.curves.loss
    profiles = [made.profile for made in found if made.profile is not None]
    profile = xr.concat(profiles, dim="run").transpose("run", "network", "distance")
    values = profile.values.reshape(*shape[1:], 2, -1)
    return xr.Dataset(
        {
            **{name: (tuple(dims), numbers) for name, numbers in measured.items()},
            **{name: ((*dims, "epoch"), numbers) for name, numbers in along.items()},
            "profile": (("weight", "seed", "distance"), values[:, :, 0]),
            "random_profile": (("seed", "distance"), values[0, :, 1]),
        },
        coords={
            **{name: list(numbers) for name, numbers in dims.items()},
            "epoch": np.arange(1, settings.epochs + 1),
            "distance": profile.distance.values,
        },
    )


def _controls(settings: Settings, found: Sequence[Trained]) -> xr.Dataset:
    """Return the test and training accuracies of the controls, by value and seed; without controls, an empty record."""
    record, left = xr.Dataset(), list(found)
    for name, plural in CONTROLS.items():
        values = getattr(settings, plural)
        if values:
            record = record.assign_coords({name: list(values)})
            shape = (len(values), len(settings.seeds))
            of, left = left[: math.prod(shape)], left[math.prod(shape) :]
            for number in ("test", "train"):
                record[f"{name}_{number}"] = ((name, "seed"), np.reshape([m.numbers[number] for m in of], shape))
    return record


def train_one(settings: Settings, reach: int, weight: float, seed: int) -> Trained:
    """Return the results of one training run."""
    made = task(settings, reach, seed)
    about = f"{settings.task}, range {reach}, weight {weight:g}, seed {seed}"
    with reporter(None) as report:

        def say(line: str) -> None:
            report(f"{about}: {line}")

        model, curves = resumable.train(
            network(settings, made.train, seed),
            (made.train, made.test),
            made.patches if callable(made.patches) else EitherOrder(*made.patches),
            plan(settings, weight, seed),
            checkpoint=checkpoint(settings, reach, weight, seed),
            report=say,
        )
    both = coupling.Networks(model, network(settings, made.test, seed))
    numbers = {"test": curves.test[-1], "train": curves.train[-1], "epochs": float(len(curves.loss))}
    if callable(made.patches):
        numbers |= coupling.of_patches(both, made.test, seed)
        images, size = made.test.pictures(torch.arange(min(coupling.IMAGES, len(made.test)))), settings.canvas[0] // 8
        sides = (size, size)
    else:
        numbers |= coupling.of_images(both, made.test, made.patches)
        images, sides = coupling.filled(made.test, made.patches[0]), made.patches[0][2:]
    far = reach == settings.ranges[-1]
    return Trained(curves, numbers, coupling.profile(both, images, sides, seed) if far else None)


def task(settings: Settings, reach: int, seed: int) -> long_range.Task:
    """Return the examples and patches for one distance or path length `reach`.

    Raises:
        ValueError: for an unknown task.
    """
    sizes = {"train": settings.train, "test": settings.test}
    if settings.task == "pathfinder":
        return long_range.pathfinder(reach, **sizes, side=settings.canvas[0], patch=settings.patch, seed=seed)
    if settings.task != "same_class":
        raise ValueError(f"there is no task {settings.task!r}; choose same_class or pathfinder")
    return long_range.same_class(
        settings.images,
        reach,
        **sizes,
        canvas=settings.canvas,
        tile=settings.tile,
        classes=settings.classes,
        seed=seed,
    )


def network(settings: Settings, examples: Examples, seed: int) -> nn.Module:
    """Return an untrained network with one logit, for images with the number of channels that the examples have.

    Raises:
        ValueError: for an unknown network.
    """
    channels = examples.pictures(torch.arange(1)).shape[1]
    if settings.network.startswith("resnet"):
        return layers.resnet(int(settings.network.removeprefix("resnet")), channels=channels, seed=seed)
    if settings.network == "columns":
        made = networks.column_cnn(channels, settings.canvas[0], seed)
    elif settings.network == "cnn":
        made = networks.strided_cnn(channels, seed)
    else:
        raise ValueError(f"there is no network {settings.network!r}; choose columns, cnn, resnet18 or resnet34")
    return networks.with_dropout(made, settings.dropout)


def plan(settings: Settings, weight: float, seed: int) -> Plan:
    """Return the plan of one training run, which evaluates the penalty on whole batches."""
    names = {field.name for field in dataclasses.fields(Plan)} - {"weight", "seed", "fraction"}
    return Plan(**{name: getattr(settings, name) for name in names}, weight=weight, seed=seed, fraction=1.0)


def checkpoint(settings: Settings, reach: int, weight: float, seed: int) -> Path | None:
    """Return the checkpoint file of one training run, or None without a folder of checkpoints.

    The name of the file depends on every setting that the training run depends on.
    """
    if not settings.checkpoints:
        return None
    others = ("ranges", "weights", "seeds", "checkpoints", "jobs", "samples")
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in others}
    return Path(settings.checkpoints) / resumable.checkpoint_name(kept, reach, weight, seed)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return theorems on the penalty of known functions, and findings on accuracy and dependence with the penalty.

    The function is long because it is one flat list of claims.
    """
    settings = records.settings_of(record, Settings)
    plain, most = settings.weights[0], settings.weights[-1]
    near, far = (_place(settings, settings.ranges[k]) for k in (0, -1))
    at_near, at_far = (record.sel(range=settings.ranges[k]) for k in (0, -1))
    found = [
        exactness(
            "The locality penalty (mean absolute cosine between gradients in x at two values of y) of bilinear forms "
            "x^T A y of rank r is Gamma(r / 2) / (sqrt(pi) Gamma((r + 1) / 2)) in the mean over Gaussian inputs: "
            f"absolute difference between it and the penalty on a sample of {settings.samples} inputs, largest over r "
            "= 1, 2, 4, 8",
            largest(np.abs(record.bilinear - [known_penalties.expected_penalty(int(rank)) for rank in record.form])),
            at_most=0.02,
            source=sources.OWN_DERIVATION,
        ),
        exactness(
            "The locality penalty (mean absolute cosine between gradients in x at two values of y) of a product g(x) "
            "h(y) and that of a sum g(x) + h(y) are 1, because the direction of their gradient in x changes with y "
            "at most in sign: absolute difference from 1, larger of the two",
            largest(np.abs(record.exact - 1)),
            at_most=1e-10,
            source=sources.OWN_DERIVATION,
        ),
        finding(
            f"{far}: test accuracy at the last epoch, of the network trained with the locality penalty of weight "
            f"{most:g} minus the network trained without (median of the seeds)",
            median(at_far.test.sel(weight=most) - at_far.test.sel(weight=plain)),
            at_least=0.08,
            source=sources.COUNTERING_LOCALITY,
        ),
    ]
    if far != near:
        found += [
            finding(
                f"{near}: test accuracy at the last epoch, of the network trained without the locality penalty minus "
                f"the network trained with weight {most:g} (median of the seeds)",
                median(at_near.test.sel(weight=plain) - at_near.test.sel(weight=most)),
                at_most=0.03,
                source=sources.COUNTERING_LOCALITY,
            ),
            finding(
                f"Test accuracy at the last epoch of networks trained without the locality penalty, {near} minus "
                f"{far} (median of the seeds)",
                median(at_near.test.sel(weight=plain) - at_far.test.sel(weight=plain)),
                at_least=FALL_OF_FEW if settings.train <= FEW else FALL,
                source=sources.COUNTERING_LOCALITY,
            ),
        ]
    gain = median(at_far.test.sel(weight=most)) - median(at_far.test.sel(weight=plain))
    return [
        *found,
        *_of_controls(record, settings, gain),
        finding(
            f"{far}: share of the variance of the trained network's logit over test images that depends on both "
            "patches jointly, and is not a sum of functions of one patch, with the locality penalty of weight "
            f"{most:g} divided by without (medians of the seeds)",
            median(at_far.share.sel(weight=most)) / median(at_far.share.sel(weight=plain)),
            at_least=1.2,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _of_controls(record: xr.Dataset, settings: Settings, gain: float) -> list[Claim]:
    """Return the claims on the controls: weight decay and dropout gain less than the penalty, by a margin.

    Args:
        record: a record of this study.
        settings: the settings of the record.
        gain: test accuracy with the penalty minus without, at the last range, medians of the seeds.
    """
    far = record.sel(range=settings.ranges[-1], weight=settings.weights[0])
    found = []
    for name, words in (("decay", "weight decay"), ("dropout", "dropout")):
        if name not in record.coords:
            continue
        best = largest([median(at) - median(far.test) for at in record[f"{name}_test"]])
        values = ", ".join(f"{value:g}" for value in record[name].values)
        found.append(
            finding(
                f"{_place(settings, settings.ranges[-1])}: test accuracy at the last epoch gained by the locality "
                f"penalty of weight {settings.weights[-1]:g}, minus that gained by {words} ({values}; the best of "
                "them) in its place, each a difference of medians of the seeds",
                gain - best,
                at_least=MARGIN,
                source=sources.OWN_EXPERIMENT,
            )
        )
    return found


def _place(settings: Settings, reach: int) -> str:
    """Return a distance or path length in words."""
    return f"{reach} columns apart" if settings.task == "same_class" else f"paths of {reach} dashes"


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of accuracies by range and by epoch, an image, dependence on patches, and the exact check."""
    settings = records.settings_of(record, Settings)
    made, (by_range, dependence, test, train, profile, image, check, controls) = drawing.figure(2, 4)
    _draw_by_range(by_range, dependence, record, settings)
    far = _place(settings, settings.ranges[-1])
    for axes, name in ((test, "test"), (train, "training")):
        _draw_curves(axes, record, settings, {"test": "test_curve", "training": "train_curve"}[name])
        drawing.label(axes, f"{name.capitalize()} accuracy, {far}", "epoch", f"{name} accuracy, %")
    _draw_profile(profile, record, settings)
    _draw_image(image, settings)
    _draw_check(check, record)
    for axes, words, x, y in (
        (by_range, "far apart: the penalty\nkeeps more of the accuracy", 0.03, 0.63),
        (dependence, "far apart: both count\nonly with the penalty", 0.03, 0.4),
        (test, "with the penalty: higher", 0.03, 0.6),
        (train, "without the penalty:\nfits sooner", 0.97, 0.56),
        (profile, "with the penalty:\ndistant patches are coupled", 0.97, 0.54),
        (check, "higher rank, lower penalty", 0.97, 0.6),
    ):
        drawing.note(axes, words, x, y)
    if settings.decays or settings.dropouts:
        _draw_controls(controls, record, settings)
    else:
        controls.remove()
    return made


def _draw_by_range(accuracy: Axes, dependence: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw medians of the seeds against the range, a line per weight; for the accuracy also a dot per seed."""
    for k, weight in enumerate(settings.weights):
        at = record.sel(weight=weight)
        for axes, values in ((accuracy, at.test), (dependence, at.share)):
            line = 100 * values.median("seed")
            axes.plot(record.range, line, marker="os^"[k % 3], label=_named(weight), **drawing.style(k))
        for seed in record.seed:
            accuracy.plot(record.range, 100 * at.test.sel(seed=seed), ".", color=drawing.COLOURS[k], alpha=0.5)
    random = 100 * record.random_share.isel(weight=0).median("seed")
    dependence.plot(record.range, random, marker="x", label="before training", color="#777777")
    accuracy.axhline(50, label="chance", **drawing.THEORY)
    dependence.set_ylim(0)
    accuracy.set_ylim(*ACCURACIES)
    for axes in (accuracy, dependence):
        axes.set_xticks(list(settings.ranges))
    accuracy.legend(fontsize=8, loc="center left")
    dependence.legend(fontsize=8)
    reach = "columns between the two images" if settings.task == "same_class" else "dashes of a path"
    drawing.label(accuracy, "Accuracy with and without penalty", reach, "test accuracy at the last epoch, %")
    drawing.label(dependence, "Joint dependence on both patches", reach, "output that depends on both, %")


def _named(weight: float) -> str:
    return "no penalty" if weight == 0 else f"penalty, weight {weight:g}"


def _draw_curves(axes: Axes, record: xr.Dataset, settings: Settings, name: str) -> None:
    """Draw an accuracy at the last range against the epoch, a line per weight and seed."""
    for k, weight in enumerate(settings.weights):
        for j, seed in enumerate(record.seed):
            curve = record[name].sel(range=settings.ranges[-1], weight=weight, seed=seed).dropna("epoch")
            label = _named(weight) if j == 0 else None
            axes.plot(curve.epoch, 100 * curve, label=label, linewidth=1.3, **drawing.style(k))
    axes.axhline(50, label="chance", **drawing.THEORY)
    axes.set_ylim(*ACCURACIES)
    axes.legend(fontsize=8)


def _draw_profile(axes: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw the joint dependence on two patches by their distance, for the networks trained at the last range."""
    for k, weight in enumerate(settings.weights):
        line = 100 * record.profile.sel(weight=weight).median("seed")
        axes.plot(record.distance, line, marker="os^"[k % 3], label=_named(weight), **drawing.style(k))
    random = 100 * record.random_profile.median("seed")
    axes.plot(record.distance, random, marker="x", label="before training", color="#777777")
    axes.set_ylim(0)
    axes.legend(fontsize=8)
    drawing.label(
        axes,
        f"Coupling by distance, {_place(settings, settings.ranges[-1])}",
        "distance of two patches, pixels",
        "output that depends on both, %",
    )


def _draw_controls(axes: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw the test accuracy at the last range with each control, beside that without and with the penalty."""
    at = record.test.sel(range=settings.ranges[-1])
    rows = [(_named(weight), at.sel(weight=weight)) for weight in settings.weights]
    for name, words in (("decay", "weight decay"), ("dropout", "dropout")):
        if name in record.coords:
            rows += [(f"{words} {value:g}", record[f"{name}_test"].sel({name: value})) for value in record[name].values]
    for k, (_, values) in enumerate(rows):
        colour = drawing.COLOURS[k] if k < len(settings.weights) else "#777777"
        axes.plot(np.full(values.size, k), 100 * values, ".", color=colour, alpha=0.5)
        axes.plot([k - 0.3, k + 0.3], [100 * float(values.median())] * 2, color=colour)
    axes.axhline(50, **drawing.THEORY)
    axes.set_ylim(*ACCURACIES)
    axes.set_xticks(range(len(rows)), [words.replace(", ", ",\n") for words, _ in rows], fontsize=8, rotation=30)
    far = _place(settings, settings.ranges[-1])
    drawing.label(axes, f"Penalty and controls, {far}", "bar: median of the seeds", "test accuracy, %")
    drawing.note(axes, "the penalty helps,\nother means do not", 0.97, 0.6)


def _draw_image(axes: Axes, settings: Settings) -> None:
    """Draw one training image of the last range, with two patches of the penalty outlined.

    Without the data set, which may be on the machine where the record was made only, the image is left empty.
    """
    one = dataclasses.replace(settings, train=2, test=2)
    patches: Pair | Sampler
    try:
        made = task(one, settings.ranges[-1], settings.seeds[0])
    except FileNotFoundError:
        shown, answer, patches = torch.zeros(settings.canvas), "no image here", layers.PatchPairs(settings.patch)
    else:
        shown, patches = made.train.pictures(torch.arange(1))[0].mean(dim=0), made.patches
        answer = "yes" if int(made.train.labels[0]) else "no"
    pair = patches(shown.shape, seeds.stream(0, "picture")) if callable(patches) else patches
    axes.imshow(shown.numpy(), cmap="gray", interpolation="nearest", aspect="equal")
    for k, box in enumerate(pair):
        top, left, height, width = (int(edge) for edge in box)
        rows, columns = np.array([0, 0, 1, 1, 0]) * height + top, np.array([0, 1, 1, 0, 0]) * width + left
        axes.plot(columns - 0.5, rows - 0.5, linewidth=2, color=drawing.COLOURS[(4, 5)[k]])
    axes.grid(False)
    question = "Same class?" if settings.task == "same_class" else "One path?"
    drawing.label(
        axes, f"{question} {answer.capitalize()}", f"pixels; both outlined: {question.lower()} {answer}", "row"
    )


def _draw_check(axes: Axes, record: xr.Dataset) -> None:
    """Draw the measured penalty of bilinear forms and its mean by the formula, against the rank."""
    ranks = np.linspace(1, max(FORMS), 100)
    axes.plot(
        ranks, [known_penalties.expected_penalty(r) for r in ranks], label="mean, by the formula", **drawing.THEORY
    )
    axes.plot(record.form, record.bilinear, "o", color=drawing.COLOURS[0], label="measured")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8)
    drawing.label(axes, "High rank has a low penalty", "rank of a bilinear form", "penalty")


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words: the test accuracy of every weight at every range."""
    settings = records.settings_of(record, Settings)
    parts = []
    for weight in settings.weights:
        at = record.test.sel(weight=weight).median("seed")
        parts.append(f"{_named(weight)} {', '.join(f'{100 * float(value):.1f}%' for value in at)}")
    where = ", ".join(map(str, settings.ranges))
    unit = "columns between the two images" if settings.task == "same_class" else "dashes of a path"
    return f"Test accuracy at the last epoch, median of the seeds, for {where} {unit}: {'; '.join(parts)}."
