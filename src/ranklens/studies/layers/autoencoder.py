"""Linear layers between encoder and decoder make an autoencoder's codes low dimensional."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import data, drawing, seeds
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.progress import reporter
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.training import loop

TITLE = "Linear layers make an autoencoder find how many numbers describe a picture"
EXPLANATION = (
    "A few square linear layers between encoder and decoder add nothing that the network could express, and fold into "
    "the encoder afterwards. Trained, they leave fewer directions in which codes vary: the more layers, the nearer to "
    "the number of degrees of freedom of the pictures, at a similar error."
)
SOURCE = "Jing, Zbontar, LeCun (NeurIPS 2020): implicit rank-minimizing autoencoder"

DEGREES = 7  # of freedom of a generated shape
COUNTED = 0.01  # of the largest eigenvalue of the covariance of codes: above it, a direction counts
GAIN = 1 / math.sqrt(3)  # of a linear layer as PyTorch starts it: entries of standard deviation 1 / sqrt(3 n)


@dataclass(frozen=True)
class Settings:
    """An autoencoder of dense layers, with a product of square matrices in its middle.

    Attributes:
        images: "shapes", generated in colour, or "digits", "mnist", "fashion-mnist".
        side: of the shapes.
        train: pictures that are learnt from.
        test: pictures that are coded and reconstructed.
        code: width of the middle.
        hidden: width of two layers on either side.
        layers: numbers of square matrices; 0 is the plain autoencoder.
        steps: of Adam, the second half with a step size that falls to zero.
        batch_size: pictures per step.
        lr: of Adam.
        seeds: of pictures, start and batches.
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
    """Eigenvalues of the codes' covariance and errors of reconstruction, trained and untrained."""
    shape = (len(settings.layers), len(settings.seeds))
    trained, untrained = np.zeros((*shape, settings.code)), np.zeros((*shape, settings.code))
    error, folded = np.zeros(shape), np.zeros(shape)
    variance = np.zeros(len(settings.seeds))
    with reporter(None) as report:
        for n, seed in enumerate(settings.seeds):
            train, test = pictures(settings, seed)
            variance[n] = float((test - train.mean(dim=0)).square().mean())
            for k, layers in enumerate(settings.layers):
                report(f"{layers} linear layers, seed {seed}")
                model = autoencoder(settings, layers, train.shape[1], seed)
                untrained[k, n] = spectrum(model, test)
                fit(model, train, settings, seed)
                trained[k, n] = spectrum(model, test)
                with torch.no_grad():
                    found = model(test)
                    error[k, n] = float((found - test).square().mean())
                    folded[k, n] = float((fold(model)(test) - found).abs().max())
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
    for name in ("trained", "untrained"):
        largest = record[name].max("direction")
        record[f"{name}_count"] = (record[name] > COUNTED * largest).sum("direction").astype(float)
    return record


def pictures(settings: Settings, seed: int) -> tuple[Tensor, Tensor]:
    """What is learnt from and what is asked, as rows of numbers from 0 to 1."""
    if settings.images == "shapes":
        made = data.shapes(settings.train + settings.test, settings.side, seed=seed).images.flatten(1)
        return made[: settings.train], made[settings.train :]
    found = data.images(settings.images)
    parts = []
    for part, count in ((found.train, settings.train), (found.test, settings.test)):
        rows = torch.randperm(len(part.labels), generator=seeds.stream(seed, "pictures"))[:count]
        parts.append(part.images[rows].flatten(1).float() / found.largest)
    return parts[0], parts[1]


def autoencoder(settings: Settings, layers: int, pixels: int, seed: int) -> nn.Sequential:
    """Encoder, product of square matrices, decoder."""
    code, hidden = settings.code, settings.hidden
    with seeds.initial_values(seed, "autoencoder"):
        sizes = (pixels, hidden, hidden, code)
        encoder, decoder = _dense(sizes), _dense(sizes[::-1])
        square = nn.Linear(code, code, bias=False)
    middle: nn.Module = nn.Identity()
    if layers:
        middle = overparameterize(square, layers, init=GAIN ** (layers - 1), seed=seed)  # each starts as PyTorch's do
    return nn.Sequential(encoder, middle, decoder)


def _dense(sizes: tuple[int, ...]) -> nn.Sequential:
    layers = [part for into, out in itertools.pairwise(sizes) for part in (nn.Linear(into, out), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def fit(model: nn.Module, images: Tensor, settings: Settings, seed: int) -> None:
    """Adam on the mean square error."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    batches = loop.random_rows(len(images), settings.batch_size, seeds.stream(seed, "batches of pictures"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / settings.steps)))

    def loss(rows: loop.Rows) -> Tensor:
        batch = images[rows]
        return (model(batch) - batch).square().mean()

    loop.train(loss, optimizer, steps=settings.steps, batches=batches, schedule=schedule)


@torch.no_grad()
def spectrum(model: nn.Sequential, images: Tensor) -> Any:
    """Eigenvalues of the covariance of codes, in falling order."""
    codes = model[1](model[0](images)).double()
    return torch.linalg.eigvalsh(torch.cov(codes.T)).clamp_min(0).flip(0).numpy()


def fold(model: nn.Sequential) -> nn.Sequential:
    """The autoencoder without its middle, which the encoder's last layer takes in."""
    encoder, middle, decoder = collapse(model).children()
    if isinstance(middle, nn.Linear):
        last: Any = list(encoder.children())[-1]
        with torch.no_grad():
            last.weight.copy_(middle.weight @ last.weight)
            last.bias.copy_(middle.weight @ last.bias)
    return nn.Sequential(encoder, decoder)


def claims(record: xr.Dataset) -> list[Claim]:
    """Folding changes nothing; directions fall with depth, below the untrained product's, at a similar error."""
    settings = records.settings_of(record, Settings)
    count, untrained = record.trained_count.median("seed"), record.untrained_count.median("seed")
    plain, deepest = settings.layers[0], max(n for n in settings.layers if n <= 4)
    found = [
        Claim(
            "theorem",
            "folding the middle into the encoder changes an output by (largest)",
            float(record.folded.max(skipna=False)),
            "<=",
            1e-4,
        ),
    ]
    falling = [n for n in settings.layers if n <= 4]
    steps = [float(count.sel(layers=b) - count.sel(layers=a)) for a, b in itertools.pairwise(falling)]
    found += [
        Claim("finding", "directions of codes fall with layers up to 4 (largest change)", max(steps), "<=", -1.0),
        Claim(
            "finding",
            f"directions with {deepest} layers over those with {plain}",
            float(count.sel(layers=deepest) / count.sel(layers=plain)),
            "<=",
            0.5,
        ),
        Claim(
            "finding",
            f"directions with {deepest} layers over those before training",
            float(count.sel(layers=deepest) / untrained.sel(layers=deepest)),
            "<=",
            0.6,
        ),
    ]
    if settings.images == "shapes":
        statement = f"directions with {deepest} layers; the shapes have {DEGREES} degrees of freedom"
        found.append(Claim("finding", statement, float(count.sel(layers=deepest)), "within", (4.0, 10.0)))
    error = record.error.median("seed")
    found += [
        Claim(
            "finding",
            f"error with {layers} layers over that with {plain}",
            float(error.sel(layers=layers) / error.sel(layers=plain)),
            "<=",
            1.2,
        )
        for layers in settings.layers
        if 0 < layers <= 4
    ]
    return found


def draw(record: xr.Dataset) -> Figure:
    """Spectra of codes, how many directions count, and errors."""
    settings = records.settings_of(record, Settings)
    made, (spectra, counts, errors) = drawing.figure(3)
    for k, layers in enumerate(settings.layers):
        values = (record.trained / record.trained.max("direction")).sel(layers=layers).median("seed")
        name = "no linear layer" if layers == 0 else f"{layers} linear layers"
        spectra.plot(np.arange(1, len(values) + 1), values, label=name, **drawing.style(k))
    spectra.axhline(COUNTED, label="counted above", **drawing.THEORY)
    spectra.set_yscale("log")
    spectra.set_ylim(1e-7, 2)
    drawing.label(spectra, "Codes vary in fewer directions", "direction", "eigenvalue of covariance / largest")
    places = np.arange(len(settings.layers))
    for k, (name, label) in enumerate((("trained_count", "trained"), ("untrained_count", "before training"))):
        values = record[name]
        counts.plot(places, values.median("seed"), marker="os"[k], label=label, **drawing.style(k))
        for seed in values.seed:
            counts.plot(places, values.sel(seed=seed), ".", color=drawing.COLOURS[k], alpha=0.5)
    if settings.images == "shapes":
        counts.axhline(DEGREES, label="degrees of freedom", **drawing.THEORY)
    counts.set_xticks(places, [str(n) for n in settings.layers])
    counts.set_ylim(0)
    title = f"Directions above {COUNTED:.0%} of the largest"
    drawing.label(counts, title, "linear layers in the middle", "number of directions")
    share = record.error / record.variance
    errors.plot(places, 100 * share.median("seed"), marker="o", label="of unseen pictures", **drawing.style(0))
    for seed in share.seed:
        errors.plot(places, 100 * share.sel(seed=seed), ".", color=drawing.COLOURS[0], alpha=0.5)
    errors.set_xticks(places, [str(n) for n in settings.layers])
    errors.set_ylim(0)
    drawing.label(errors, "Reconstruction", "linear layers in the middle", "squared error, % of variance")
    for axes in (spectra, counts, errors):
        axes.legend(fontsize=8)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    parts = [
        f"{int(n)} layers {float(record.trained_count.sel(layers=n).median()):.0f} directions "
        f"({float(record.untrained_count.sel(layers=n).median()):.0f} before training)"
        for n in record.layers
    ]
    return f"Directions in which codes vary, by linear layers between encoder and decoder: {'; '.join(parts)}."
