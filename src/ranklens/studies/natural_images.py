"""Natural images are fitted with low rank, random images and random labels are not."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from ranklens import descent, drawing, families, init, problems, seeds, trees
from ranklens.network import TensorNetwork
from ranklens.studies.claim import Claim

TITLE = "Natural images are fitted by predictors of low tensor rank; noise is not"
EXPLANATION = (
    "Images of 64 pixels, black or white, index the entries of a tensor of order 64, and whether an image shows a six "
    "is the entry's value. A tensor of rank one, or of hierarchical rank one, already fits most of it and generalizes, "
    "while with random images or random labels, by the same steps of the same optimizer, it learns next to nothing."
)
SOURCE = "Razin, Maman, Cohen (ICML 2021), figure on natural data; the hierarchical version is the talk's"

IMAGES = 1797


@dataclass(frozen=True)
class Settings:
    """One-against-all on the digits that ship with scikit-learn; the same optimizer, steps and start for all data."""

    ranks: tuple[int, ...] = (1, 4)
    digit: int = 6
    train: int = 1200
    steps: int = 400
    lr: float = 1e-2
    start: float = 0.1
    std: float = 1e-3
    every: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        """Refuse what the digits do not have."""
        if self.digit not in range(10):
            raise ValueError(f"digit is {self.digit}; the digits are 0 to 9")
        if not 0 < self.train < IMAGES:
            raise ValueError(f"train is {self.train}; of the {IMAGES} images some must be left to test with")
        if self.steps < 1 or self.every < 1 or self.steps % self.every:
            raise ValueError(f"steps is {self.steps}; it must be a multiple of every, which is {self.every}")


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(ranks=(1, 2, 4, 8, 15), steps=2000),
    "tiny": Settings(ranks=(1,), steps=60, seeds=(0,)),
}
MINUTES = {"laptop": 1.0, "paper": 30.0, "tiny": 0.1}
SIDE = 8
DATA = ("true", "random images", "random labels")
LARGEST_ERROR = 1.0  # of one test image: labels are 0 and 1


@dataclass(frozen=True)
class Labelled:
    """Images as indices (n, 64) of zeros and ones, with labels 0 and 1."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Images:
    """What is learnt from, and what is asked."""

    train: Labelled
    test: Labelled


def images(data: str, settings: Settings, seed: int) -> Images:
    """The digits, split at random; or with every pixel drawn anew; or with labels permuted within both parts."""
    loaded = load_digits()
    pixels = torch.from_numpy(loaded.data > 8).long()  # grey values run from 0 to 16
    labels = torch.from_numpy(loaded.target == settings.digit).double()
    order = torch.randperm(len(labels), generator=seeds.stream(seed, "split of the digits"))
    made = seeds.stream(seed, data)
    if data == "random images":
        pixels = torch.randint(2, pixels.shape, generator=made)
    parts = []
    for rows in (order[: settings.train], order[settings.train :]):
        found = labels[rows]
        if data == "random labels":
            found = found[torch.randperm(len(rows), generator=made)]
        parts.append(Labelled(pixels[rows], found))
    return Images(*parts)


def network(family: str, rank: int, settings: Settings, seed: int) -> TensorNetwork:
    """A predictor that starts as nearly a constant: products of 64 factors need factors next to one.

    The constant is about the mean of the labels. From one, the first steps would take all products to zero, where
    they stay long.
    """
    shape = (2,) * SIDE**2
    if family == "CP":
        each = (settings.start / rank) ** (1 / len(shape))
        return init.normal_(families.cp(shape, rank), settings.std, mean=each, seed=seed)
    net = families.hierarchical(shape, rank, trees.ModeTree.square(SIDE, 2), std=settings.std, seed=seed)
    with torch.no_grad():
        for k, node in enumerate(net.nodes):
            one = torch.ones_like(node)
            node.add_(
                one
                if k < len(shape)
                else one * (settings.start / rank)
                if node.ndim == 1
                else torch.eye(rank, dtype=node.dtype)
            )
    return net


def run(settings: Settings) -> xr.Dataset:
    """Train and test errors of both families, on true and random data, for every rank and seed."""
    families_of = ("CP", "hierarchical")
    dims = ("family", "data", "rank", "seed")
    sizes = (len(families_of), len(DATA), len(settings.ranks), len(settings.seeds))
    steps = np.arange(0, settings.steps + 1, settings.every)
    train = np.zeros((*sizes, len(steps)))
    test, variance = np.zeros(sizes), np.zeros(len(settings.seeds))
    for place in np.ndindex(*sizes):
        family, data = families_of[place[0]], DATA[place[1]]
        rank, seed = settings.ranks[place[2]], settings.seeds[place[3]]
        found = images(data, settings, seed)
        task = problems.Completion(found.train.images, found.train.labels, (2,) * SIDE**2, duplicates="keep")
        net = network(family, rank, settings, seed)
        optimizer = torch.optim.Adam(net.parameters(), lr=settings.lr)
        record = descent.gradient_descent(
            net, task, optimizer, steps=settings.steps, until_loss=0.0, every=settings.every
        )
        train[place] = record.loss.values
        with torch.no_grad():
            wrong = (net.entries(found.test.images) - found.test.labels).square().clamp_max(LARGEST_ERROR)
        test[place] = wrong.mean()
        variance[place[3]] = found.train.labels.var(correction=0)
    return xr.Dataset(
        {"train": ((*dims, "step"), train), "test": (dims, test), "variance": ("seed", variance)},
        coords={
            "family": list(families_of),
            "data": list(DATA),
            "rank": list(settings.ranks),
            "seed": list(settings.seeds),
            "step": steps,
        },
        attrs={"solver": record.attrs["solver"]},
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Errors relative to the variance of the labels, which predicting their mean would leave."""
    train, test = record.train / record.variance, record.test / record.variance
    rank = int(record["rank"][0])
    found = []
    clipped = f"error of at most {LARGEST_ERROR:g} per image"
    for family in record.family.values:
        ends = train.sel(family=family, rank=rank).isel(step=-1)
        asked = test.sel(family=family, rank=rank)
        noise = ["random images", "random labels"]
        last = train.sel(family=family, data=noise)
        slope = (last.isel(step=3 * (last.sizes["step"] - 1) // 4) - last.isel(step=-1)).mean("seed")
        of = f"{family}, rank {rank}:"
        found += [
            _worst(f"{of} train error on true data over the variance", ends.sel(data="true"), "<=", 0.25),
            _worst(f"{of} train error on random images and labels over the variance", ends.sel(data=noise), ">=", 0.8),
            _worst(
                f"{of} test {clipped} on true data over the variance",
                asked.sel(data="true"),
                "<=",
                0.3,
            ),
            _worst(
                f"{of} test {clipped} on random images and labels over the variance",
                asked.sel(data=noise),
                ">=",
                0.95,
            ),
            *[
                Claim(
                    "finding",
                    f"{family}, rank {r}: what random data still gain in the last quarter of the steps, in variances "
                    f"(largest mean of seeds)",
                    float(slope.sel(rank=r).max()),
                    "<=",
                    0.02,
                )
                for r in record["rank"].values
            ],
        ]
    return found


def _worst(statement: str, values: xr.DataArray, relation: Literal["<=", ">="], bound: float) -> Claim:
    if relation == "<=":
        return Claim("finding", f"{statement} (largest of the seeds)", float(values.max()), "<=", bound)
    return Claim("finding", f"{statement} (smallest of the seeds)", float(values.min()), ">=", bound)


def draw(record: xr.Dataset) -> Figure:
    """Train and test error against rank, and the curves of training at the smallest rank."""
    made, panels = drawing.figure(2, 2)
    train, test = record.train / record.variance, record.test / record.variance
    least = int(record["rank"][0])
    for family, (ends, curves) in zip(record.family.values, (panels[:2], panels[2:]), strict=True):
        for k, data in enumerate(DATA):
            style = drawing.style(k)
            end = train.sel(family=family, data=data).isel(step=-1)
            ends.plot(record["rank"], end.mean("seed"), marker="o", label=f"{data}, train", **style)
            ends.plot(record["rank"], test.sel(family=family, data=data).mean("seed"), marker="x", alpha=0.6, **style)
            curve = train.sel(family=family, data=data).isel(rank=0)
            curves.plot(record.step, curve.mean("seed"), label=data, **style)
            curves.fill_between(record.step, curve.min("seed"), curve.max("seed"), color=style["color"], alpha=0.2)
        ends.axhline(1.0, **drawing.THEORY)
        curves.axhline(1.0, **drawing.THEORY)
        ends.set_ylim(0, 2.2)
        curves.set_ylim(0, 1.5)
        ends.set_xticks(record["rank"].values)
        drawing.label(ends, f"{family}: o train, x test", "rank", "error / variance of labels")
        drawing.label(curves, f"{family}, rank {least}: training", "steps of Adam", "train error / variance")
        ends.legend(fontsize=7)
        curves.legend(fontsize=7)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    train, test = record.train / record.variance, record.test / record.variance
    parts = []
    for family in record.family.values:
        numbers = [
            f"{data} {float(train.sel(family=family, data=data).isel(rank=0, step=-1).mean()):.2f} (test "
            f"{float(test.sel(family=family, data=data).isel(rank=0).mean()):.2f})"
            for data in DATA
        ]
        parts.append(f"{family} of rank {int(record['rank'][0])}: {', '.join(numbers)}")
    return (
        "Errors relative to the variance of the labels, mean of the seeds. "
        + "; ".join(parts)
        + ". On true data training falls at once, on random data its curves stay near the variance."
    )
