"""Linear layers between encoder and decoder make the codes of an autoencoder vary in few directions."""

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ranklens import data, drawing, seeds
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.progress import reporter
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.training import loop

TITLE = "Linear layers make an autoencoder find how many numbers describe an image"
EXPLANATION = (
    "A few square linear layers between encoder and decoder do not change which functions the network can express, and "
    "can be multiplied into the encoder after training. Training with them leaves fewer directions in which codes "
    "vary: the more layers, the closer to the number of degrees of freedom of the images, at the price of a larger "
    "error of reconstruction. Most of this is in the initial values of the layers: layers that are not trained leave "
    "nearly as few directions."
)
SOURCE = "Jing, Zbontar, LeCun (NeurIPS 2020): implicit rank-minimizing autoencoder"

# Number of degrees of freedom of a generated shape.
DEGREES = 7
# A direction of the codes counts if its variance is above this share of the largest variance of a direction.
COUNTED = 0.01
# PyTorch draws the entries of a linear layer of width n with standard deviation GAIN / sqrt(n).
GAIN = 1 / math.sqrt(3)
# Pairs of test images whose codes are averaged, and training images among which the nearest one is looked for.
PAIRS, AMONG = 300, 5000
# Classes of the generated shapes: the quadrant of the image in which the centre lies.
QUADRANTS = 4
# Claims are about at most this many linear layers; more layers train too slowly for the presets.
DEEPEST = 4


@dataclass(frozen=True)
class Settings:
    """An autoencoder of dense layers, with a product of square matrices between encoder and decoder.

    Attributes:
        images: "shapes", which are generated in colour, "digits", "mnist" or "fashion-mnist".
        side: side of the shapes in pixels.
        train: number of training images.
        test: number of test images.
        code: dimension of the codes.
        hidden: width of the two hidden layers of the encoder and of the decoder.
        layers: numbers of square matrices; 0 is the plain autoencoder, and must come first.
        steps: number of steps of Adam. In the second half the learning rate falls to zero.
        batch_size: number of images per step.
        lr: initial learning rate of Adam.
        labels: numbers of training images whose labels a classifier of codes is given.
        seeds: seeds of the images, initial weights, batches, pairs of images and labelled images.
    """

    images: str = "shapes"
    side: int = 16
    train: int = 10_000
    test: int = 2000
    code: int = 64
    hidden: int = 64
    layers: tuple[int, ...] = (0, 2, 4, 8)
    steps: int = 8000
    batch_size: int = 32
    lr: float = 1e-3
    labels: tuple[int, ...] = (20, 100, 1000)
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(layers=(0, 4), steps=2500, seeds=(0,)),
    "shapes": Settings(),
    "mnist": Settings(images="mnist", train=60_000, test=10_000, hidden=512, code=128, steps=20_000),
    "paper": Settings(
        images="mnist",
        train=60_000,
        test=10_000,
        hidden=512,
        code=128,
        layers=(0, 8),
        steps=187_500,
        lr=1e-4,
        seeds=(0,),
    ),
    "tiny": Settings(
        side=8, train=200, test=100, code=8, hidden=16, layers=(0, 2), steps=100, labels=(20,), seeds=(0,)
    ),
}
MINUTES = {"laptop": 0.4, "shapes": 7.0, "mnist": 160.0, "paper": 80.0, "tiny": 0.05}


@dataclass(frozen=True)
class Pictures:
    """Images as rows of numbers from 0 to 1, and their classes.

    Attributes:
        train: (count, values) training images.
        test: (count, values) test images.
        train_labels: (count,) classes of the training images.
        test_labels: (count,) classes of the test images.
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor


def run(settings: Settings) -> xr.Dataset:
    """Return spectra of codes before and after training, errors of reconstruction, and what the codes are good for.

    The record has the eigenvalues of the covariance of test codes and how many of them count, the mean squared error
    over the test images, its value for the mean training image (`variance`), and the largest change of an output by
    folding. With a frozen product, the square matrices keep their initial values. `midway` and `accuracy` are as
    `halfway` and `classified` return.
    """
    shape = (len(settings.layers), len(settings.seeds))
    spectra = {name: np.zeros((*shape, settings.code)) for name in ("trained", "untrained", "frozen")}
    numbers = {name: np.zeros(shape) for name in ("error", "frozen_error", "folded", "midway")}
    accuracy, variance = np.zeros((*shape, len(settings.labels))), np.zeros(len(settings.seeds))
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            found = images(settings, seed)
            variance[n] = float((found.test - found.train.mean(dim=0)).square().mean())
            for k, layers in enumerate(settings.layers):
                report(f"{layers} linear layers, seed {seed}")
                model = autoencoder(settings, layers, found.train.shape[1], seed)
                spectra["untrained"][k, n] = spectrum(model, found.test)
                frozen = copy.deepcopy(model)
                fit(model, found.train, settings, seed)
                if layers:
                    frozen[1].requires_grad_(False)
                    fit(frozen, found.train, settings, seed)
                else:
                    frozen = model
                spectra["trained"][k, n] = spectrum(model, found.test)
                spectra["frozen"][k, n] = spectrum(frozen, found.test)
                numbers["error"][k, n] = error(model, found.test)
                numbers["frozen_error"][k, n] = error(frozen, found.test)
                numbers["folded"][k, n] = _difference(fold(model), model, found.test)
                numbers["midway"][k, n] = halfway(model, found, seed)
                accuracy[k, n] = classified(model, found, settings.labels, seed)
    dims = ("layers", "seed")
    record = xr.Dataset(
        {name: ((*dims, "direction"), values) for name, values in spectra.items()}
        | {name: (dims, values) for name, values in numbers.items()}
        | {"accuracy": ((*dims, "labels"), accuracy), "variance": ("seed", variance)},
        coords={"layers": list(settings.layers), "seed": list(settings.seeds), "labels": list(settings.labels)},
    )
    return record.assign({f"{name}_count": directions(record[name]) for name in spectra})


@torch.no_grad()
def error(model: nn.Module, images: Tensor) -> float:
    """Return the mean squared error of the reconstruction of images, per value."""
    return float((model(images) - images).square().mean())


@torch.no_grad()
def _difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of an output of two networks."""
    return float((one(images) - other(images)).abs().max())


@torch.no_grad()
def codes(model: nn.Sequential, images: Tensor) -> Tensor:
    """Return the codes of images: the inputs of the decoder."""
    codes: Tensor = model[1](model[0](images))
    return codes


@torch.no_grad()
def halfway(model: nn.Sequential, found: Pictures, seed: int) -> float:
    """Return how far the decoded mean of the codes of two test images is from the nearest training image.

    The squared distance is divided by that of the mean of both images, which shows both of them, to its own nearest
    training image. The ratio is below 1 if the decoder makes of the mean code an image that is more like the training
    images than two images on top of each other are. The return value is the median over `PAIRS` pairs.

    Args:
        model: a trained autoencoder.
        found: training and test images.
        seed: seed of the pairs.
    """
    rows = torch.randperm(len(found.test), generator=seeds.stream(seed, "pairs of pictures"))
    pairs = min(PAIRS, len(rows) // 2)
    first, second = found.test[rows[:pairs]], found.test[rows[pairs : 2 * pairs]]
    decoded = model[2]((codes(model, first) + codes(model, second)) / 2)
    among = found.train[:AMONG]
    distances = [torch.cdist(x, among).min(dim=1).values.square() for x in (decoded, (first + second) / 2)]
    return float((distances[0] / distances[1]).median())


def classified(model: nn.Sequential, found: Pictures, labels: tuple[int, ...], seed: int) -> list[float]:
    """Return the test accuracies of logistic regressions on codes, each trained on a number of labelled images.

    The codes are divided by the root mean square of their entries, so that directions of small variance stay small.

    Args:
        model: a trained autoencoder.
        found: images and classes.
        labels: numbers of labelled images.
        seed: seed of their choice.
    """
    train, test = codes(model, found.train), codes(model, found.test)
    mean, size = train.mean(dim=0), train.var(dim=0).mean().sqrt()
    train, test = ((x - mean) / size for x in (train, test))
    order = torch.randperm(len(train), generator=seeds.stream(seed, "labelled pictures"))
    accuracies = []
    for count in labels:
        rows = order[:count]
        classifier = LogisticRegression(max_iter=1000).fit(train[rows].numpy(), found.train_labels[rows].numpy())
        accuracies.append(float(classifier.score(test.numpy(), found.test_labels.numpy())))
    return accuracies


def directions(spectra: xr.DataArray) -> xr.DataArray:
    """Return how many eigenvalues exceed `COUNTED` times the largest, along "direction"; NaN if one is NaN."""
    largest = spectra.max("direction", skipna=False)
    return (spectra > COUNTED * largest).sum("direction").where(largest.notnull())


def images(settings: Settings, seed: int) -> Pictures:
    """Return training and test images; the classes of shapes are the quadrants in which their centres lie."""
    if settings.images == "shapes":
        made = data.shapes(settings.train + settings.test, settings.side, seed=seed)
        row, column = made.factors[:, 4] > 0.5, made.factors[:, 5] > 0.5
        x, labels = made.images.flatten(1), 2 * row.long() + column.long()
        cut = settings.train
        return Pictures(x[:cut], x[cut:], labels[:cut], labels[cut:])
    loaded = data.images(settings.images)
    parts, classes = [], []
    for part, count in ((loaded.train, settings.train), (loaded.test, settings.test)):
        rows = torch.randperm(len(part.labels), generator=seeds.stream(seed, "pictures"))[:count]
        parts.append(part.images[rows].flatten(1).float() / loaded.largest)
        classes.append(part.labels[rows].long())
    return Pictures(*parts, *classes)


def autoencoder(settings: Settings, layers: int, values: int, seed: int) -> nn.Sequential:
    """Return an untrained network of three parts: encoder, product of square matrices, decoder.

    Args:
        settings: widths of the layers.
        layers: number of square matrices, each initialized as PyTorch initializes a linear layer; 0 for none.
        values: number of values of an image.
        seed: seed of the initial weights.
    """
    code, hidden = settings.code, settings.hidden
    with seeds.initial_values(seed, "autoencoder"):
        sizes = (values, hidden, hidden, code)
        encoder, decoder = _dense(sizes), _dense(sizes[::-1])
        square = nn.Linear(code, code, bias=False)
    middle: nn.Module = nn.Identity()
    if layers:
        middle = overparameterize(square, layers, init=GAIN ** (layers - 1), seed=seed)
    return nn.Sequential(encoder, middle, decoder)


def _dense(sizes: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these sizes with ReLU in between."""
    layers = [part for into, out in itertools.pairwise(sizes) for part in (nn.Linear(into, out), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def fit(model: nn.Module, images: Tensor, settings: Settings, seed: int) -> None:
    """Train an autoencoder in place, except its frozen parameters, with Adam on the mean squared error.

    Args:
        model: the autoencoder.
        images: (count, values) training images.
        settings: how to train.
        seed: seed of the batches.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.lr, fused=True)
    batches = loop.random_rows(len(images), settings.batch_size, seeds.stream(seed, "batches of pictures"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / settings.steps)))

    def loss(rows: loop.Rows) -> Tensor:
        batch = images[rows]
        return (model(batch) - batch).square().mean()

    loop.train(loss, optimizer, steps=settings.steps, batches=batches, schedule=schedule)


@torch.no_grad()
def spectrum(model: nn.Sequential, images: Tensor) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance of the codes of some images, in descending order."""
    covariance = torch.cov(codes(model, images).double().T)
    return np.asarray(torch.linalg.eigvalsh(covariance).clamp_min(0).flip(0), dtype=np.float64)


def fold(model: nn.Sequential) -> nn.Sequential:
    """Return encoder and decoder with equal outputs: the square matrices are multiplied into the encoder."""
    encoder, middle, decoder = collapse(model).children()
    if isinstance(middle, nn.Linear):
        last = list(encoder.children())[-1]
        weight, bias = last.get_parameter("weight"), last.get_parameter("bias")
        with torch.no_grad():
            weight.copy_(middle.weight @ weight)
            bias.copy_(middle.weight @ bias)
    return nn.Sequential(encoder, decoder)


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims on folding, on numbers of directions, on what they cost, and on what the codes are good for."""
    settings = records.settings_of(record, Settings)
    layers = [n for n in settings.layers if n <= DEEPEST]
    folding = exactness(
        "Multiplying the square matrices into the last layer of the encoder changes no output: absolute change of a "
        "pixel of the reconstruction, where pixels are from 0 to 1, largest over all test images, numbers of layers "
        f"and {reduce.count(record.seed)}",
        reduce.largest(record.folded),
        at_most=1e-4,
        source=sources.AUTOENCODER,
    )
    return [folding, *_directions(record, settings, layers), *_costs(record, layers), *_uses(record, max(layers))]


def _directions(record: xr.Dataset, settings: Settings, layers: list[int]) -> list[Claim]:
    """Return the findings on the numbers of directions in which codes vary."""
    plain, deepest = layers[0], max(layers)
    trained, untrained, frozen = (_counts(record, name, layers) for name in ("trained", "untrained", "frozen"))
    number = (
        "Number of principal directions of the codes of test images (inputs of the decoder) whose variance exceeds "
        f"{COUNTED:.0%} of the largest (medians of {reduce.count(record.seed)})"
    )
    of_deepest = f"{number}: with {deepest} linear layers"
    found = [
        finding(
            f"{number}: difference between one number of linear layers in the middle and the next larger one, up to "
            f"{DEEPEST} layers, the largest (negative if the number of directions falls every time)",
            reduce.largest([trained[b] - trained[a] for a, b in itertools.pairwise(layers)]),
            at_most=-1.0,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{of_deepest} in the middle divided by with {plain}",
            trained[deepest] / trained[plain],
            at_most=0.5,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{of_deepest} in the middle, after training divided by before training",
            trained[deepest] / untrained[deepest],
            at_most=0.6,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{of_deepest} that keep their initial values divided by with {deepest} that are trained. A product of "
            "random matrices is nearly of low rank, which does most of the work in the preset laptop: 1.0 to 1.4 in "
            "three other seeds",
            frozen[deepest] / trained[deepest],
            within=(0.5, 2.0),
            source=sources.OWN_EXPERIMENT,
        ),
    ]
    if settings.images == "shapes":
        statement = f"{of_deepest}, where {DEGREES} numbers describe an image"
        found.append(finding(statement, trained[deepest], within=(4.0, 10.0), source=sources.AUTOENCODER))
    return found


def _counts(record: xr.Dataset, name: str, layers: list[int]) -> dict[int, float]:
    """Return the median number of directions over the seeds, by the number of linear layers."""
    return {n: reduce.median(record[f"{name}_count"].sel(layers=n)) for n in layers}


def _costs(record: xr.Dataset, layers: list[int]) -> list[Claim]:
    """Return the findings on the error of reconstruction, which fewer directions make larger."""
    errors = {n: reduce.median(record.error.sel(layers=n)) for n in layers}
    return [
        finding(
            "Mean squared error of the reconstruction of test images (medians of "
            f"{reduce.count(record.seed)}): with {n} linear layers in the middle divided by with {layers[0]}. Fewer "
            "directions cost accuracy: in three other seeds it is 1.4 to 2.1 with 4 layers",
            errors[n] / errors[layers[0]],
            within=(1.0, 3.0),
            source=sources.OWN_EXPERIMENT,
        )
        for n in layers
        if n > 0
    ]


def _uses(record: xr.Dataset, deepest: int) -> list[Claim]:
    """Return the findings on means of two codes, and on classifiers of codes with few labels."""
    plain, few = int(record.layers[0]), int(record.labels[0])
    midway = {n: reduce.median(record.midway.sel(layers=n)) for n in (plain, deepest)}
    accuracy = record.accuracy.sel(labels=few)
    many = reduce.count(record.seed)
    return [
        finding(
            "Squared distance between the decoded mean of two codes and the nearest training image, divided by this "
            f"distance of the mean of the two images, median of {PAIRS} pairs of test images (medians of {many}): with "
            f"{deepest} linear layers in the middle divided by with {plain}. The bound is half of the least gain of "
            "three other seeds",
            midway[deepest] / midway[plain],
            at_most=0.84,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"Test accuracy of a logistic regression on the codes of {few} labelled images (median of {many}): with "
            f"{deepest} linear layers in the middle minus with {plain}. In three other seeds it is 0.02 to 0.04",
            reduce.median(accuracy.sel(layers=deepest) - accuracy.sel(layers=plain)),
            at_least=0.0,
            source=sources.AUTOENCODER,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of spectra of codes, of numbers of directions, of errors, of mean codes, and of accuracies."""
    settings = records.settings_of(record, Settings)
    made, (spectra, counts, errors, midway) = drawing.figure(2, 2)
    for k, layers in enumerate(settings.layers):
        values = (record.trained / record.trained.max("direction")).sel(layers=layers).median("seed")
        name = "no linear layer" if layers == 0 else f"{layers} linear layers"
        spectra.plot(np.arange(1, len(values) + 1), values, label=name, **drawing.style(k))
    spectra.axhline(COUNTED, label="counted if above", **drawing.THEORY)
    spectra.set_yscale("log")
    spectra.set_ylim(1e-7, 1e3)  # space for the legend
    drawing.label(
        spectra,
        "Codes vary in fewer directions",
        "direction of the codes, by variance",
        "variance / largest (log scale)",
    )
    for k, (name, label) in enumerate(
        (("trained_count", "trained"), ("frozen_count", "linear layers frozen"), ("untrained_count", "before training"))
    ):
        _draw_by_layers(counts, record[name], k, label)
    if settings.images == "shapes":
        counts.axhline(DEGREES, label="values that describe an image", **drawing.THEORY)
    drawing.label(counts, f"Directions above {COUNTED:.0%}", "linear layers in the middle", "number of directions")
    _draw_by_layers(errors, 100 * record.error / record.variance, 0, "trained")
    _draw_by_layers(errors, 100 * record.frozen_error / record.variance, 1, "linear layers frozen")
    drawing.label(errors, "The price: reconstruction", "linear layers in the middle", "test error, % of variance")
    _draw_by_layers(midway, record.midway, 0, "distance of mean codes to images")
    for k, few in enumerate(settings.labels):
        _draw_by_layers(midway, record.accuracy.sel(labels=few), k + 1, f"accuracy, {few} labels")
    drawing.label(midway, "What the codes are good for", "linear layers in the middle", "distance, or accuracy")
    for axes in (counts, errors, midway):
        axes.set_ylim(0, (2.0 if axes is midway else 1.6) * axes.get_ylim()[1])  # space for the legend
    drawing.note(spectra, "linear layers: few directions", 0.97, "counted if above")
    drawing.note(counts, "linear layers: near the true number", 0.97, -0.02)
    drawing.note(errors, "the price: a larger error", 0.97, 0.3)
    drawing.note(midway, "means of codes: better images", 0.97, "distance of mean codes to images", side="below")
    drawing.note(midway, "accuracy: unchanged", 0.5, 0.49)
    for axes in made.axes:
        axes.legend(fontsize=8, loc="upper right")
    return made


def _draw_by_layers(axes: Axes, values: xr.DataArray, k: int, label: str) -> None:
    """Draw the median of the seeds as a line and every seed as a dot, against the number of linear layers."""
    places = np.arange(values.sizes["layers"])
    axes.plot(places, values.median("seed"), marker="os^v"[k % 4], label=label, **drawing.style(k))
    for seed in values.seed:
        axes.plot(places, values.sel(seed=seed), ".", color=drawing.COLOURS[k], alpha=0.5)
    axes.set_xticks(places, [str(n) for n in values.layers.values])


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    parts = [
        f"{int(n)} layers {float(record.trained_count.sel(layers=n).median()):.0f} directions "
        f"({float(record.untrained_count.sel(layers=n).median()):.0f} before training)"
        for n in record.layers
    ]
    return (
        f"Number of directions of the codes above {COUNTED:.0%} of the largest variance, medians of the seeds, by the "
        f"number of linear layers between encoder and decoder: {'; '.join(parts)}."
    )
