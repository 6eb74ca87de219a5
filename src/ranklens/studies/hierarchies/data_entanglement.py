"""Natural images are hardly entangled in their own order, and can be put back in such an order."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import data, drawing, seeds
from ranklens.data import pixels
from ranklens.studies.kit import predictors, records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import measures
from ranklens.tensors.trees import ModeTree

TITLE = "Natural images suit a hierarchy because their pixels are hardly entangled"
EXPLANATION = (
    "A hierarchical factorization can fit only what is hardly entangled: what pixels of one patch say about all others "
    "must be little, for the patches it is built of. That holds for images as they are, less so once their pixels are "
    "permuted, and again when the pixels are put back by their correlations, without knowing where they came from."
)
SOURCE = "Alexander, De La Vega, Razin, Cohen (NeurIPS 2023): data entanglement, and feature arrangement by min-cuts"

ORDERS = ("natural", "permuted", "rearranged")
ORACLE = 8  # features whose tensor is written out to check the spectra that come from Gram matrices


@dataclass(frozen=True)
class Settings:
    """Pixels in three orders; their entanglement, and what a narrow hierarchical factorization fits of them.

    Entanglement is that of grey values x as vectors (cos, sin) of pi x / 2, which for black and white are the indices
    that the factorization is trained on.

    Attributes:
        images: "digits", "mnist" or "fashion-mnist", padded to the next power of two.
        train: images learnt from, and whose correlations rearrange; 0 takes all.
        rows: images whose entanglement is measured.
        widths: of factorizations, for what they cannot reach.
        width: of the one that is trained.
        classes: each against all others.
        steps: of Adam.
        batch_size: images per step; 0 takes all.
        lr: of Adam.
        std: of the initial factors around those of a constant.
        seeds: of permutation, rows, split, start and batches.
    """

    images: str = "digits"
    train: int = 1200
    rows: int = 300
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    width: int = 2
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
    "laptop": Settings(),
    "paper": Settings(seeds=(0, 1, 2), classes=tuple(range(10)), steps=600),
    "mnist": Settings(images="mnist", train=0, rows=500, classes=(6, 8), steps=1200, batch_size=500, lr=2e-4, std=0.03),
    "tiny": Settings(rows=60, widths=(1, 8), classes=(8,), steps=40),
}
MINUTES = {"laptop": 0.2, "paper": 8.0, "mnist": 12.0, "tiny": 0.1}


def run(settings: Settings) -> xr.Dataset:
    """Entropies by size of patch, what widths cannot reach, and errors of training, for every order."""
    recipe = settings.recipe
    tree = ModeTree.square(recipe.side, 2)
    patches = sorted({len(node) for node in tree.nodes if 1 < len(node) < tree.order})
    shape = (len(ORDERS), len(settings.seeds))
    entropy = np.zeros((*shape, len(patches)))
    beyond = np.zeros((*shape, len(settings.widths)))
    train, test = np.zeros((*shape, len(settings.classes))), np.zeros((*shape, len(settings.classes)))
    excess, oracle = np.zeros(shape), np.zeros(shape)
    variance = np.zeros((shape[1], len(settings.classes)))
    for n, seed in enumerate(settings.seeds):
        drawn = pixels.draw(pixels.Selection(settings.images, recipe.levels, 0, settings.train), "true", seed)
        grey = _grey(settings, seed)
        angles = math.pi / 2 * grey[torch.randperm(len(grey), generator=seeds.stream(seed, "rows"))[: settings.rows]]
        for i, order in enumerate(_orders(grey, tree, seed)):
            features = torch.stack([angles[:, order].cos(), angles[:, order].sin()], dim=2)
            found = data.canonical_entanglement(features, tree)
            for k, size in enumerate(patches):
                entropy[i, n, k] = np.mean([float(s) for node, s in found.items() if len(node) == size])
            most = {node: math.log(min(len(angles), 2 ** min(len(node), 60))) for node in found}
            excess[i, n] = max(float(s) - most[node] for node, s in found.items())
            oracle[i, n] = _against_oracle(features[:, :: len(order) // ORACLE][:, :ORACLE])
            beyond[i, n] = [float(data.unreachable(features, tree, width)) for width in settings.widths]
            for m, label in enumerate(settings.classes):
                whole = pixels.pad(pixels.against(drawn, label, 1.0, recipe.dtype), recipe.side)
                variance[n, m] = whole.train.labels.double().var(correction=0)
                train[i, n, m], test[i, n, m] = _fit(whole, order, settings, seed)
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
        },
        coords={
            "order": list(ORDERS),
            "seed": list(settings.seeds),
            "patch": patches,
            "width": list(settings.widths),
            "label": list(settings.classes),
        },
    )


def _grey(settings: Settings, seed: int) -> Tensor:
    """The images learnt from, padded, with grey values from 0 to 1."""
    drawn = pixels.draw(pixels.Selection(settings.images, 256, 0, settings.train), "true", seed)
    return pixels.pad(pixels.against(drawn, 0, 1.0, torch.float64), settings.recipe.side).train.images.double() / 255


def _orders(images: Tensor, tree: ModeTree, seed: int) -> list[Tensor]:
    """Which pixel is at every mode: as it is, at random, and put back by the correlations of what is at random."""
    natural = torch.arange(images.shape[1])
    permuted = torch.randperm(len(natural), generator=seeds.stream(seed, "order of the pixels"))
    back = data.arrange(data.correlations(images[:, permuted]), tree)
    return [natural, permuted, permuted[back]]


def _against_oracle(features: Tensor) -> float:
    """The difference in entropy to the singular values of the tensor itself."""
    half = range(features.shape[1] // 2)
    expected = measures.entanglement_entropy(data.data_tensor(features), tuple(half))
    return abs(float(data.entanglement(features, half)) - float(expected))


def _fit(images: pixels.PixelData, order: Tensor, settings: Settings, seed: int) -> tuple[float, float]:
    """Train and test error after the same steps."""
    train, test = (pixels.PixelCompletion(part.images[:, order], part.labels) for part in (images.train, images.test))
    errors = predictors.fit(settings.recipe, settings.width, pixels.PixelData(train, test), seed)
    return float(errors.train[-1]), errors.test


def claims(record: xr.Dataset) -> list[Claim]:
    """Entropies within their bounds and those of the tensor; natural and rearranged orders below permuted ones."""
    settings = records.settings_of(record, Settings)
    entropy = record.entropy.isel(patch=-1)
    natural, permuted, rearranged = (entropy.sel(order=order) for order in ORDERS)
    size = int(record.patch[-1])
    train, beyond = record.train.mean("label"), record.beyond.isel(width=record.sizes["width"] // 2)
    of = f"patches of {size} pixels: entanglement"
    return [
        Claim(
            "theorem",
            "entropy above the log of the rank that a partition can have (largest)",
            float(record.excess.max(skipna=False)),
            "<=",
            1e-9,
        ),
        Claim(
            "theorem",
            f"difference to the entropy of the written-out tensor of {ORACLE} pixels (largest)",
            float(record.oracle.max(skipna=False)),
            "<=",
            1e-7,
        ),
        Claim("finding", f"{of} in natural over permuted order", float((natural / permuted).max()), "<=", 0.97),
        Claim("finding", f"{of} rearranged over permuted", float((rearranged / permuted).max()), "<=", 0.97),
        Claim("finding", f"{of} rearranged over natural", float((rearranged / natural).max()), "<=", 1.05),
        *(
            Claim(
                "finding",
                f"width {int(beyond.width)}: what it cannot reach of {order} over that of permuted images",
                float((beyond.sel(order=order) / beyond.sel(order="permuted")).max()),
                "<=",
                0.9,
            )
            for order in ("natural", "rearranged")
        ),
        *(
            Claim(
                "finding",
                f"width {settings.width}: train error in {order} over permuted order, {len(record.label)} classes",
                float((train.sel(order=order) / train.sel(order="permuted")).median()),
                "<=",
                0.95,
            )
            for order in ("natural", "rearranged")
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Entanglement by size of patch, what a width cannot reach, and what one fits."""
    settings = records.settings_of(record, Settings)
    made, (entropies, tails, errors) = drawing.figure(3)
    _bars(entropies, record.entropy, "patch")
    for k, size in enumerate(record.patch.values):
        most = math.log(min(settings.rows, 2.0 ** min(size, 60)))
        entropies.plot(
            [k - 0.42, k + 0.42], [most] * 2, label="the most it can be" if k == 0 else None, **drawing.THEORY
        )
    drawing.label(entropies, "Entanglement with all other pixels", "pixels in a patch", "entropy (nats)")
    for k, order in enumerate(ORDERS):
        values = 100 * record.beyond.sel(order=order)
        tails.plot(record.width, values.mean("seed"), marker="o", markersize=4, label=order, **drawing.style(k))
    tails.set_xscale("log", base=2)
    tails.set_xticks(record.width.values, [str(width) for width in record.width.values])
    drawing.label(tails, "What no factorization of a width reaches", "width", "% of the squared norm of the data")
    _bars(errors, record.train / record.variance, "label")
    errors.axhline(1.0, label="variance of labels", **drawing.THEORY)
    title = f"What width {settings.width} fits in {settings.steps} steps"
    drawing.label(errors, title, f"class of the {settings.images}", "train error / variance of labels")
    entropies.legend(fontsize=8, loc="upper left")
    tails.legend(fontsize=8)
    errors.legend(fontsize=8, loc="center right")
    return made


def _bars(axes: Axes, values: xr.DataArray, dim: str) -> None:
    """Groups of a bar per order, with the range of the seeds."""
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
    """What the picture shows."""
    parts = []
    for order in ORDERS:
        at = record.sel(order=order)
        fitted = float((at.train / record.variance).mean())
        parts.append(
            f"{order} {float(at.entropy.isel(patch=-1).mean()):.2f} nats, train error {fitted:.2f} of variance"
        )
    size = int(record.patch[-1])
    return f"Entanglement of patches of {size} pixels and what a narrow factorization fits: {'; '.join(parts)}."
