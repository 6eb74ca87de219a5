"""Entanglement of natural images: low in the natural order of their pixels, and low again after rearrangement."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import data, drawing, seeds
from ranklens.data import pixels
from ranklens.studies.kit import predictors, records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.tensors import measures
from ranklens.tensors.trees import ModeTree
from ranklens.training import networks

TITLE = "Natural images suit a hierarchy because their pixels are hardly entangled"
EXPLANATION = (
    "A hierarchical factorization can fit data only if the patches that the tree is built of are hardly entangled with "
    "the other pixels. That is so for images as they are, less so after a permutation of their pixels, and again after "
    "the permuted pixels are rearranged by their correlations, without knowledge of their places. A convolutional "
    "network classifies permuted images worse, and rearranged ones better again if they have many pixels, while "
    "labels of one class against all others need so little of the data that a narrow factorization fits any order."
)
SOURCE = "Alexander, De La Vega, Razin, Cohen (NeurIPS 2023): data entanglement, and feature arrangement by min-cuts"

# Orders of the pixels: as in the images, permuted at random, and permuted pixels rearranged by their correlations.
ORDERS = ("natural", "permuted", "rearranged")
# Ratios of entropies with their bounds, and why. Without training, seeds 100 to 109 of the preset `laptop` have the
# ratios 0.887 to 0.916, 0.803 to 0.881 and 0.905 to 0.974.
HALF = "The bound is half the mean gain in seeds 100 to 109"
ENTROPIES = (
    ("natural", "permuted", 0.95, HALF),
    ("rearranged", "permuted", 0.92, HALF),
    ("rearranged", "natural", 1.0, "The bound is natural order itself"),
)
# Side of the images, in pixels, from which rearranged pixels should be classified better than permuted ones.
LARGE = 16
# Images per step and learning rate of the convolutional network.
CNN_BATCH, CNN_LR = 64, 0.05
# Bounds on the training error of a factorization in one order of the pixels over the error in permuted order.
FIT = (0.7, 1.3)
# Number of pixels of the small data tensor that is formed explicitly: 2^8 entries.
ORACLE = 8


@dataclass(frozen=True)
class Settings:
    """Images with their pixels in three orders: their entanglement, and how well a narrow factorization fits them.

    Entanglement is measured of gray values x, from 0 to 1, as vectors (cos, sin) of pi x / 2. For black and white
    pixels these are the unit vectors of the two levels that the factorization is trained on.

    Attributes:
        images: "digits", "mnist" or "fashion-mnist", padded to a power of two.
        train: number of training images, whose correlations also rearrange the pixels; 0 takes all.
        rows: number of images whose entanglement is measured.
        widths: widths of factorizations whose error is bounded from below.
        width: width of the factorization that is trained.
        cnn_train: number of training images of the convolutional network.
        cnn_steps: number of steps of SGD with momentum of the convolutional network.
        classes: classes, each of which is predicted against all others.
        steps: number of steps of Adam.
        batch_size: number of images per step; 0 takes all.
        lr: learning rate of Adam.
        std: standard deviation of the initial factors around their means.
        seeds: seeds of the permutation, the measured images, the training images, initial factors and batches.
    """

    images: str = "digits"
    train: int = 1200
    rows: int = 300
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    width: int = 2
    cnn_train: int = 200
    cnn_steps: int = 150
    classes: tuple[int, ...] = (8, 9)
    steps: int = 500
    batch_size: int = 0
    lr: float = 3e-3
    std: float = 1e-3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse images that do not exist."""
        predictors.check_images(self.images, self.train)

    @property
    def recipe(self) -> predictors.Recipe:
        """How the hierarchical factorization is built and trained."""
        return predictors.Recipe(
            family=predictors.HIERARCHICAL,
            side=predictors.power_of_two(predictors.SIDES[self.images]),
            levels=2,
            steps=self.steps,
            lr=self.lr,
            std=self.std,
            batch_size=self.batch_size,
            decay=self.batch_size > 0,
            every=self.steps,
            precision="float32" if self.batch_size else "float64",
        )


PRESETS = {
    "laptop": Settings(seeds=(0, 1)),
    "paper": Settings(seeds=(0, 1, 2), classes=tuple(range(10)), steps=600),
    "mnist": Settings(
        images="mnist",
        train=0,
        rows=500,
        cnn_train=500,
        cnn_steps=200,
        classes=(6, 8),
        steps=1200,
        batch_size=500,
        lr=2e-4,
        std=0.03,
    ),
    "tiny": Settings(rows=60, widths=(1, 8), cnn_train=20, cnn_steps=3, classes=(8,), steps=40),
}
MINUTES = {"laptop": 0.4, "paper": 8.0, "mnist": 12.0, "tiny": 0.1}


@dataclass(frozen=True)
class Entanglement:
    """Measurements of the images of one seed, without training, with their pixels in one order.

    Attributes:
        entropy: entanglement entropy of patches with all other pixels in nats, mean over the patches of each size.
        beyond: for every width, a lower bound on the squared error of a factorization, over the squared norm of the
            data.
        excess: largest difference between the entropy of a patch and the logarithm of the rank it can have.
        oracle: distance between the entropy of half of `ORACLE` pixels and the entropy of the explicit data tensor.
    """

    entropy: list[float]
    beyond: list[float]
    excess: float
    oracle: float


def run(settings: Settings) -> xr.Dataset:
    """Return entropies, lower bounds on errors, errors after training, and checks, for every order and seed."""
    tree = ModeTree.square(settings.recipe.side, 2)
    patches = sorted({len(node) for node in tree.nodes if 1 < len(node) < tree.order})
    shape, classes = (len(ORDERS), len(settings.seeds)), len(settings.classes)
    entropy, beyond = np.zeros((*shape, len(patches))), np.zeros((*shape, len(settings.widths)))
    train, test, variance = np.zeros((*shape, classes)), np.zeros((*shape, classes)), np.zeros((shape[1], classes))
    excess, oracle, accuracy = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for n, seed in enumerate(settings.seeds):
        gray = _gray(settings, seed)
        measured = gray[torch.randperm(len(gray), generator=seeds.stream(seed, "rows"))[: settings.rows]]
        for i, order in enumerate(_orders(gray, tree, seed)):
            found = entanglement(measured[:, order], tree, patches, settings.widths)
            entropy[i, n], beyond[i, n] = found.entropy, found.beyond
            excess[i, n], oracle[i, n] = found.excess, found.oracle
            train[i, n], test[i, n], variance[n] = _errors(settings, order, seed)
            accuracy[i, n] = _accuracy(settings, order, seed)
    dims = ("order", "seed")
    return xr.Dataset(
        {
            "entropy": ((*dims, "patch"), entropy),
            "beyond": ((*dims, "width"), beyond),
            "train": ((*dims, "label"), train),
            "test": ((*dims, "label"), test),
            "variance": (("seed", "label"), variance),
            "excess": (dims, excess),
            "oracle": (dims, oracle),
            "accuracy": (dims, accuracy),
        },
        coords={
            "order": list(ORDERS),
            "seed": list(settings.seeds),
            "patch": patches,
            "width": list(settings.widths),
            "label": list(settings.classes),
        },
    )


def entanglement(gray: Tensor, tree: ModeTree, patches: list[int], widths: tuple[int, ...]) -> Entanglement:
    """Return the entanglement of images along a tree.

    Args:
        gray: (images, pixels) gray values from 0 to 1, float64.
        tree: the tree, with a mode per pixel.
        patches: numbers of pixels of the patches whose entropies are averaged.
        widths: widths of factorizations along the tree.
    """
    angles = math.pi / 2 * gray
    features = torch.stack([angles.cos(), angles.sin()], dim=2)
    found = {node: float(entropy) for node, entropy in data.canonical_entanglement(features, tree).items()}
    most = {node: math.log(min(len(gray), 2 ** min(len(node), 60))) for node in found}
    every = features.shape[1] // ORACLE
    return Entanglement(
        entropy=[float(np.mean([s for node, s in found.items() if len(node) == size])) for size in patches],
        beyond=[float(data.unreachable(features, tree, width)) for width in widths],
        excess=max(found[node] - most[node] for node in found),
        oracle=_distance_to_oracle(features[:, ::every][:, :ORACLE]),
    )


def _gray(settings: Settings, seed: int) -> Tensor:
    """Return the padded training images as (images, pixels) gray values from 0 to 1."""
    drawn = pixels.draw(pixels.Selection(settings.images, 256, 0, settings.train), "true", seed)
    return pixels.pad(pixels.against(drawn, 0, 1.0, torch.float64), settings.recipe.side).train.images.double() / 255


def _orders(images: Tensor, tree: ModeTree, seed: int) -> list[Tensor]:
    """Return for each of `ORDERS` the number of the pixel at every mode of the tree."""
    natural = torch.arange(images.shape[1])
    permuted = torch.randperm(len(natural), generator=seeds.stream(seed, "order of the pixels"))
    rearranged = permuted[data.arrange(data.correlations(images[:, permuted]), tree)]
    return [natural, permuted, rearranged]


def _distance_to_oracle(features: Tensor) -> float:
    """Return the distance between the entropy from Gram matrices and the entropy of the explicit data tensor."""
    half = range(features.shape[1] // 2)
    expected = measures.entanglement_entropy(data.data_tensor(features), tuple(half))
    return abs(float(data.entanglement(features, half)) - float(expected))


def _errors(settings: Settings, order: Tensor, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Return the training error, the test error, and the variance of the training labels, of every class."""
    recipe = settings.recipe
    drawn = pixels.draw(pixels.Selection(settings.images, recipe.levels, 0, settings.train), "true", seed)
    train, test, variance = [], [], []
    for label in settings.classes:
        whole = pixels.pad(pixels.against(drawn, label, 1.0, recipe.dtype), recipe.side)
        parts = [pixels.PixelCompletion(part.images[:, order], part.labels) for part in (whole.train, whole.test)]
        found = predictors.fit(recipe, settings.width, pixels.PixelData(*parts), seed)
        train.append(float(found.train[-1]))
        test.append(found.test)
        variance.append(float(whole.train.labels.double().var(correction=0)))
    return train, test, variance


def _accuracy(settings: Settings, order: Tensor, seed: int) -> float:
    """Return the test accuracy of a convolutional network that is trained on images with their pixels in an order."""
    drawn, side = networks.split(settings.images, settings.cnn_train, 0, seed), settings.recipe.side

    def part(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        border = (side - images.shape[-1]) // 2
        whole = nn.functional.pad(images, (border,) * 4, value=float(drawn.train[0].min()))
        return whole.flatten(1)[:, order].reshape(-1, 1, side, side), labels

    parts = networks.ImageSplit(part(*drawn.train), part(*drawn.validation), part(*drawn.test))
    model = networks.cnn(side, 1, seed)
    networks.fit(model, parts, networks.Schedule(settings.cnn_steps, CNN_BATCH, CNN_LR, settings.cnn_steps), seed)
    return networks.accuracy(model, parts.test)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return theorems on entropies, and findings that compare the three orders of the pixels.

    The function is long because it is one flat list of claims.
    """
    settings = records.settings_of(record, Settings)
    many = reduce.count(record.seed)
    beyond = record.beyond.isel(width=record.sizes["width"] // 2)
    train = record.train.mean("label", skipna=False)
    entropy = (
        f"Entanglement entropy of the data tensor between a patch of {int(record.patch[-1])} pixels and all other "
        "pixels, mean over the patches"
    )
    error = (
        f"Mean squared error over the training images of a hierarchical factorization of width {settings.width} after "
        f"{settings.steps} steps, mean over the classes"
    )
    bound = (
        "Lower bound on the squared Frobenius error of every hierarchical factorization of width "
        f"{int(beyond.width)} that fits the data tensor, relative to the squared norm of the data tensor"
    )
    return [
        exactness(
            "The entanglement entropy of a patch of pixels with all other pixels is at most the logarithm of the "
            "largest rank that this matricization of the data tensor can have: entropy minus this bound, in nats, "
            f"largest over all patches, orders of the pixels and {many}",
            reduce.largest(record.excess),
            at_most=1e-9,
            source=sources.ENTROPY,
        ),
        exactness(
            "The entanglement entropy computed from Gram matrices of images is the entropy of the data tensor "
            f"itself, which is formed for {ORACLE} pixels: absolute difference in nats, largest over all orders of "
            f"the pixels and {many}",
            reduce.largest(record.oracle),
            at_most=1e-7,
            source=sources.OWN_DERIVATION,
        ),
        *(
            finding(
                f"{entropy}, with the pixels in {over} order divided by {under} order (largest of {many}). {why}",
                reduce.largest(_ratio(record.entropy.isel(patch=-1), over, under)),
                at_most=most,
                source=sources.ENTANGLEMENT,
            )
            for over, under, most, why in ENTROPIES
        ),
        finding(
            f"{bound}, with the pixels in natural order divided by permuted order (largest of {many}). The bound is "
            "half the mean gain in seeds 100 to 109. Rearranging does not lower this number: rearranged divided by "
            f"permuted order gives {reduce.largest(_ratio(beyond, 'rearranged', 'permuted')):.2f}, and 0.92 to 1.26 in "
            "those seeds",
            reduce.largest(_ratio(beyond, "natural", "permuted")),
            at_most=0.84,
            source=sources.OWN_EXPERIMENT,
        ),
        *_accuracies(record, settings),
        *(
            finding(
                f"{error}, with the pixels in {order} order divided by permuted order (median of {many}): labels "
                "of one class are fitted about equally well in any order. Other seeds and classes have 0.75 to 1.14; "
                "over all ten classes of seed 0 the median is 1.00 in natural and 0.98 in rearranged order",
                reduce.median(_ratio(train, order, "permuted")),
                within=FIT,
                source=sources.OWN_EXPERIMENT,
            )
            for order in ("natural", "rearranged")
        ),
    ]


def _accuracies(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the findings on the convolutional network in the three orders of the pixels."""
    side, many = settings.recipe.side, reduce.count(record.seed)
    at = {order: record.accuracy.sel(order=order) for order in ORDERS}
    accuracy = (
        f"Test accuracy of a convolutional network after {settings.cnn_steps} steps on {settings.cnn_train} images of "
        f"{side} x {side} pixels, with the pixels in"
    )
    natural = finding(
        f"{accuracy} natural order minus permuted order (median of {many}). In other seeds it is 0.00 to 0.04 with "
        "digits (five seeds), and 0.17 to 0.20 with MNIST (two)",
        reduce.median(at["natural"] - at["permuted"]),
        at_least=0.0 if side < LARGE else 0.08,
        source=sources.ENTANGLEMENT,
    )
    gain = f"{accuracy} rearranged order minus permuted order (median of {many})"
    gained = reduce.median(at["rearranged"] - at["permuted"])
    if side < LARGE:
        small = (
            f"{gain}. So few pixels are not worth rearranging: with MNIST (preset mnist) it is 0.04 to 0.08. The bound "
            "is twice the largest of five other seeds"
        )
        return [natural, finding(small, gained, within=(-0.035, 0.035), source=sources.OWN_EXPERIMENT)]
    large = f"{gain}. The bound is half of the smaller of two other seeds"
    return [natural, finding(large, gained, at_least=0.02, source=sources.ENTANGLEMENT)]


def _ratio(values: xr.DataArray, over: str, under: str) -> xr.DataArray:
    """Return the values in one order of the pixels divided by the values in another."""
    return values.sel(order=over) / values.sel(order=under)


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of entropies by size of the patch, lower bounds on errors, accuracies and training errors."""
    settings = records.settings_of(record, Settings)
    made, (entropies, tails, accuracies, errors) = drawing.figure(2, 2)
    _bars(entropies, record.entropy, "patch")
    for k, size in enumerate(record.patch.values):
        most = math.log(min(settings.rows, 2.0 ** min(size, 60)))
        entropies.plot([k - 0.42, k + 0.42], [most] * 2, label="upper bound" if k == 0 else None, **drawing.THEORY)
    entropies.set_ylim(0, 1.5 * math.log(settings.rows))  # space for the legend
    drawing.label(entropies, "Entanglement with other pixels", "pixels of a patch", "entropy (nats)")
    for k, order in enumerate(ORDERS):
        values = 100 * record.beyond.sel(order=order)
        tails.plot(record.width, values.mean("seed"), marker="o", markersize=4, label=order, **drawing.style(k))
    tails.set_xscale("log", base=2)
    tails.set_xticks(record.width.values, [str(width) for width in record.width.values])
    drawing.label(tails, "No fit can do better", "width, doubled at every tick", "least error of any fit, %")
    _bars(accuracies, 100 * record.accuracy.expand_dims(network=[f"{settings.cnn_train} images"]), "network")
    accuracies.set_ylim(0, 140)
    drawing.label(accuracies, "Accuracy of a convolutional network", "training set", "test accuracy (%)")
    _bars(errors, record.train / record.variance, "label")
    errors.axhline(1.0, label="variance of labels", **drawing.THEORY)
    errors.set_ylim(0, 1.6)
    title = f"Fit by width {settings.width}: order hardly matters"
    drawing.label(errors, title, f"class of the {settings.images}", "training error / variance of labels")
    drawing.note(entropies, "permuted pixels:\nmost entangled", 0.03, 0.5)
    drawing.note(tails, "natural order: least error", 0.97, 0.6)
    means = 100 * record.accuracy.mean("seed")
    drawing.note(accuracies, f"order changes little: {float(means.min()):.0f} to {float(means.max()):.0f}%", 0.5, 0.62)
    drawing.note(errors, "order changes little", 0.97, 0.3)
    for axes in made.axes:
        axes.legend(fontsize=8, loc="upper right", ncols=1 if axes is tails else 2)
    return made


def _bars(axes: Axes, values: xr.DataArray, dim: str) -> None:
    """Draw groups with one bar per order, mean over the seeds, with error bars from the smallest to the largest."""
    places = np.arange(values.sizes[dim])
    for k, order in enumerate(ORDERS):
        at = values.sel(order=order)
        middle = at.mean("seed")
        spread: Any = [middle - at.min("seed"), at.max("seed") - middle]
        hatch = ("", "///", "...")[k]
        axes.bar(
            places + 0.27 * (k - 1),
            middle,
            0.25,
            yerr=spread if at.sizes["seed"] > 1 else None,
            color=drawing.COLOURS[k],
            hatch=hatch,
            edgecolor="white",
            label=order,
        )
    axes.set_xticks(places, [str(x) for x in values[dim].values])


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    parts = []
    for order in ORDERS:
        at = record.sel(order=order)
        entropy, error = float(at.entropy.isel(patch=-1).mean()), float((at.train / record.variance).mean())
        parts.append(f"{order} {entropy:.2f} nats, {float(at.accuracy.mean()):.2f}, {error:.2f}")
    return (
        f"Entropy of patches of {int(record.patch[-1])} pixels with all others, test accuracy of a convolutional "
        f"network, and training error of a narrow factorization over the variance of the labels, means over the seeds, "
        f"by order of the pixels: {'; '.join(parts)}."
    )
