"""Linear layers between encoder and decoder make the codes of an autoencoder vary in few directions."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
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
    "vary: the more layers, the closer to the number of degrees of freedom of the images, at a similar error."
)
SOURCE = "Jing, Zbontar, LeCun (NeurIPS 2020): implicit rank-minimizing autoencoder"

# Number of degrees of freedom of a generated shape.
DEGREES = 7
# A direction of the codes counts if its variance is above this share of the largest variance of a direction.
COUNTED = 0.01
# PyTorch draws the entries of a linear layer of width n with standard deviation GAIN / sqrt(n).
GAIN = 1 / math.sqrt(3)
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
        seeds: seeds of the images, initial weights and batches.
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
    "tiny": Settings(side=8, train=200, test=100, code=8, hidden=16, layers=(0, 2), steps=100, seeds=(0,)),
}
MINUTES = {"laptop": 0.15, "shapes": 4.0, "mnist": 90.0, "paper": 90.0, "tiny": 0.05}


def run(settings: Settings) -> xr.Dataset:
    """Return spectra of codes before and after training, errors of reconstruction, and a check of the folded network.

    The record has the eigenvalues of the covariance of test codes and how many of them count, the mean squared error
    over the test images, its value for the mean training image (`variance`), and the largest change of an output by
    folding.
    """
    shape = (len(settings.layers), len(settings.seeds))
    trained, untrained = np.zeros((*shape, settings.code)), np.zeros((*shape, settings.code))
    error, folded = np.zeros(shape), np.zeros(shape)
    variance = np.zeros(len(settings.seeds))
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            train, test = images(settings, seed)
            variance[n] = float((test - train.mean(dim=0)).square().mean())
            for k, layers in enumerate(settings.layers):
                report(f"{layers} linear layers, seed {seed}")
                model = autoencoder(settings, layers, train.shape[1], seed)
                untrained[k, n] = spectrum(model, test)
                fit(model, train, settings, seed)
                trained[k, n] = spectrum(model, test)
                with torch.no_grad():
                    output = model(test)
                    error[k, n] = float((output - test).square().mean())
                    folded[k, n] = float((fold(model)(test) - output).abs().max())
    dims = ("layers", "seed")
    record = xr.Dataset(
        {
            "trained": ((*dims, "direction"), trained),
            "untrained": ((*dims, "direction"), untrained),
            "error": (dims, error),
            "folded": (dims, folded),
            "variance": ("seed", variance),
        },
        coords={"layers": list(settings.layers), "seed": list(settings.seeds)},
    )
    return record.assign({f"{name}_count": directions(record[name]) for name in ("trained", "untrained")})


def directions(spectra: xr.DataArray) -> xr.DataArray:
    """Return how many eigenvalues exceed `COUNTED` times the largest, along "direction"; NaN if one is NaN."""
    largest = spectra.max("direction", skipna=False)
    return (spectra > COUNTED * largest).sum("direction").where(largest.notnull())


def images(settings: Settings, seed: int) -> tuple[Tensor, Tensor]:
    """Return training and test images as (count, values) rows of numbers from 0 to 1."""
    if settings.images == "shapes":
        made = data.shapes(settings.train + settings.test, settings.side, seed=seed).images.flatten(1)
        return made[: settings.train], made[settings.train :]
    loaded = data.images(settings.images)
    parts = []
    for part, count in ((loaded.train, settings.train), (loaded.test, settings.test)):
        rows = torch.randperm(len(part.labels), generator=seeds.stream(seed, "pictures"))[:count]
        parts.append(part.images[rows].flatten(1).float() / loaded.largest)
    return parts[0], parts[1]


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
    """Train an autoencoder in place with Adam on the mean squared error of reconstruction.

    Args:
        model: the autoencoder.
        images: (count, values) training images.
        settings: how to train.
        seed: seed of the batches.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    batches = loop.random_rows(len(images), settings.batch_size, seeds.stream(seed, "batches of pictures"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / settings.steps)))

    def loss(rows: loop.Rows) -> Tensor:
        batch = images[rows]
        return (model(batch) - batch).square().mean()

    loop.train(loss, optimizer, steps=settings.steps, batches=batches, schedule=schedule)


@torch.no_grad()
def spectrum(model: nn.Sequential, images: Tensor) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance of the codes of some images, in descending order."""
    codes = model[1](model[0](images)).double()
    return np.asarray(torch.linalg.eigvalsh(torch.cov(codes.T)).clamp_min(0).flip(0), dtype=np.float64)


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
    """Return a theorem on folding, and findings on numbers of directions and errors of reconstruction.

    The function is long because it is one flat list of claims.
    """
    settings = records.settings_of(record, Settings)
    layers = [n for n in settings.layers if n <= DEEPEST]
    plain, deepest = settings.layers[0], max(layers)
    trained, untrained, error = (
        {n: reduce.median(record[name].sel(layers=n)) for n in layers}
        for name in ("trained_count", "untrained_count", "error")
    )
    falls = [trained[b] - trained[a] for a, b in itertools.pairwise(layers)]
    many = reduce.count(record.seed)
    number = (
        "Number of principal directions of the codes of test images (inputs of the decoder) whose variance exceeds "
        f"{COUNTED:.0%} of the largest (medians of {many})"
    )
    found = [
        exactness(
            "Multiplying the square matrices into the last layer of the encoder changes no output: absolute change "
            "of a pixel of the reconstruction, where pixels are from 0 to 1, largest over all test images, numbers "
            f"of layers and {many}",
            reduce.largest(record.folded),
            at_most=1e-4,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{number}: difference between one number of linear layers in the middle and the next larger one, up to "
            f"{DEEPEST} layers, the largest (negative if the number of directions falls every time)",
            reduce.largest(falls),
            at_most=-1.0,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{number}: with {deepest} linear layers in the middle divided by with {plain}",
            trained[deepest] / trained[plain],
            at_most=0.5,
            source=sources.AUTOENCODER,
        ),
        finding(
            f"{number}: with {deepest} linear layers in the middle, after training divided by before training",
            trained[deepest] / untrained[deepest],
            at_most=0.6,
            source=sources.AUTOENCODER,
        ),
    ]
    if settings.images == "shapes":
        statement = f"{number}: with {deepest} linear layers, where {DEGREES} numbers describe an image"
        found.append(finding(statement, trained[deepest], within=(4.0, 10.0), source=sources.AUTOENCODER))
    found += [
        finding(
            f"Mean squared error of the reconstruction of test images (medians of {many}): with {n} linear layers in "
            f"the middle divided by with {plain}",
            error[n] / error[plain],
            at_most=1.2,
            source=sources.AUTOENCODER,
        )
        for n in layers
        if n > 0
    ]
    return found


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of spectra of the codes, of numbers of directions that count, and of errors."""
    settings = records.settings_of(record, Settings)
    made, (spectra, counts, errors) = drawing.figure(3)
    for k, layers in enumerate(settings.layers):
        values = (record.trained / record.trained.max("direction")).sel(layers=layers).median("seed")
        name = "no linear layer" if layers == 0 else f"{layers} linear layers"
        spectra.plot(np.arange(1, len(values) + 1), values, label=name, **drawing.style(k))
    spectra.axhline(COUNTED, label="threshold", **drawing.THEORY)
    spectra.set_yscale("log")
    spectra.set_ylim(1e-7, 2)
    drawing.label(spectra, "Codes vary in fewer directions", "direction", "variance / largest variance")
    for k, (name, label) in enumerate((("trained_count", "after training"), ("untrained_count", "before training"))):
        _draw_by_layers(counts, record[name], k, label)
    if settings.images == "shapes":
        counts.axhline(DEGREES, label="degrees of freedom", **drawing.THEORY)
    title = f"Directions above {COUNTED:.0%} of the largest variance"
    drawing.label(counts, title, "linear layers in the middle", "number of directions")
    _draw_by_layers(errors, 100 * record.error / record.variance, 0, "test images")
    drawing.label(errors, "Reconstruction", "linear layers in the middle", "mean squared error, % of variance")
    for axes in (counts, errors):
        axes.set_ylim(0)
    for axes in (spectra, counts, errors):
        axes.legend(fontsize=8)
    return made


def _draw_by_layers(axes: Axes, values: xr.DataArray, k: int, label: str) -> None:
    """Draw the median of the seeds as a line and every seed as a dot, against the number of linear layers."""
    places = np.arange(values.sizes["layers"])
    axes.plot(places, values.median("seed"), marker="os"[k], label=label, **drawing.style(k))
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
