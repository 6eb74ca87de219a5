"""SGD with weight decay: the effective rank of layers against the batch size over learning rate and weight decay."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from ranklens import data, drawing, seeds, theory
from ranklens.nn.rank_monitor import RankMonitor
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import measures
from ranklens.training import loop

TITLE = "Weight decay with small batches lowers the rank of layers, but far more slowly than the memory of SGD"
EXPLANATION = (
    "A step of SGD adds a matrix of rank B at most, and weight decay forgets a step after about 1 / (lr decay) others, "
    "so a layer is close to a matrix of rank B / (lr decay). The effective rank of layers of a small network grows "
    "with this number, but with a power far below 1, because gradients of different batches share directions; for "
    "random directions the power is 1. The growth stops at a rank that the task needs."
)
SOURCE = "Galanti, Siegel, Gupte, Poggio (CPAL 2025), theorem and experiments on SGD with weight decay"


@dataclass(frozen=True)
class Settings:
    """Networks of normalized square layers that classify images of handwritten digits, trained by plain SGD.

    Every layer but the last is followed by a layer normalization without weights, so that its scale does not matter and
    weight decay does not simply shrink the function to zero.

    Attributes:
        width: number of neurons of every hidden layer.
        batches: batch sizes B, in increasing order.
        products: learning rate times weight decay, in decreasing order.
        lr: learning rate.
        memories: number of steps of a run, times learning rate and weight decay. The initial weights, which have full
            rank, are left to a share of e^-memories.
        rates: learning rates at which one run is repeated with the weight decay that leaves the product unchanged.
        seeds: seeds of initial weights and batches.
    """

    width: int = 64
    batches: tuple[int, ...] = (1, 4, 16)
    products: tuple[float, ...] = (0.05, 0.02, 0.01, 0.005, 0.002)
    lr: float = 0.2
    memories: float = 8.0
    rates: tuple[float, ...] = (0.05, 0.1, 0.4)
    seeds: tuple[int, ...] = (0, 1)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        width=128,
        batches=(1, 4, 16, 64),
        products=(0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002),
        memories=10.0,
        seeds=(0, 1, 2, 3, 4),
    ),
    "tiny": Settings(width=32, batches=(1, 2), products=(0.2, 0.1, 0.05), memories=2.0, rates=(0.1,), seeds=(0,)),
}
MINUTES = {"laptop": 0.9, "paper": 30.0, "tiny": 0.02}
# Hidden layers; the square ones among them are measured, by their place in the network.
LAYERS = 3
# Number of profiles of a run, and share of them, at its end, over which ranks are averaged.
PROFILES, LAST = 20, 0.25
# Dimensions of the images of digits, and number of classes.
PIXELS, CLASSES = 64, 10
# Largest share of the width that B / (lr decay) may be for random updates, where the width does not matter yet.
SMALL = 0.25
# Share of the largest rank at which the growth of the rank counts as ended.
NEARLY = 0.9
# Confidence of the interval of a slope.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Slope:
    """A fitted slope and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def run(settings: Settings) -> xr.Dataset:
    """Return ranks, accuracies and the tightness of the bound for every batch size, product and seed, and controls."""
    grid = (settings.batches, settings.products, settings.seeds)
    shape = tuple(len(values) for values in grid)
    found = {name: np.zeros(shape) for name in ("rank", "accuracy", "share_of_bound")}
    for place, (batch, product, seed) in zip(np.ndindex(shape), itertools.product(*grid), strict=True):
        made = train(settings, batch, settings.lr, product / settings.lr, seed)
        for name, values in found.items():
            values[place] = made[name]
    middle = settings.products[len(settings.products) // 2]
    same = [
        [train(settings, settings.batches[-1], lr, middle / lr, seed)["rank"] for lr in (settings.lr, *settings.rates)]
        for seed in settings.seeds
    ]
    steps = round(settings.memories / middle)
    without = [train(settings, settings.batches[0], settings.lr, 0.0, seed, steps)["rank"] for seed in settings.seeds]
    noise = [[random_updates(settings.width, p, seed) for p in noise_products(settings)] for seed in settings.seeds]
    return xr.Dataset(
        {
            **{name: (("batch", "product", "seed"), values) for name, values in found.items()},
            "at_rate": (("seed", "rate"), np.array(same)),
            "without": ("seed", np.array(without)),
            "noise": (("seed", "noise_product"), np.array(noise)),
        },
        coords={
            "batch": list(settings.batches),
            "product": list(settings.products),
            "seed": list(settings.seeds),
            "rate": [settings.lr, *settings.rates],
            "noise_product": noise_products(settings),
        },
    )


def network(width: int, seed: int) -> nn.Sequential:
    """Return an untrained network: `LAYERS` linear layers, each normalized and followed by a ReLU, and a last one.

    Args:
        width: number of neurons of the hidden layers.
        seed: seed of the initial weights.
    """
    sizes = [PIXELS, *[width] * LAYERS]
    layers: list[nn.Module] = []
    with seeds.initial_values(seed, "network with weight decay"):
        for size, following in itertools.pairwise(sizes):
            normalized = nn.LayerNorm(following, elementwise_affine=False)
            layers += [nn.Linear(size, following, bias=False), normalized, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, CLASSES, bias=False))


def train(
    settings: Settings, batch: int, lr: float, weight_decay: float, seed: int, steps: int | None = None
) -> dict[str, float]:
    """Return the effective rank of the square layers at the end of a run, the test accuracy, and the bound's tightness.

    Args:
        settings: the settings.
        batch: batch size.
        lr: learning rate.
        weight_decay: weight decay of all weights.
        seed: seed of the initial weights and batches.
        steps: number of steps; None takes `settings.memories` times the memory of SGD.

    Returns:
        "rank", the mean effective rank over the square layers and the last profiles; "accuracy" on test images; and
        "share_of_bound", the distance of a square layer from rank k B divided by (1 - lr decay)^k times its norm k
        steps before, largest over these layers and all k with k B below the width. It is NaN without weight decay.
    """
    images = data.images("digits")
    mean, std = images.train.images.float().mean(), images.train.images.float().std()
    x, test = ((part.images.float().flatten(1) - mean) / std for part in (images.train, images.test))
    y = images.train.labels.long()
    steps = round(settings.memories / (lr * weight_decay)) if steps is None else steps
    model = network(settings.width, seed)
    names = [f"{3 * k}.weight" for k in range(1, LAYERS)]
    weights = [model.get_parameter(name) for name in names]
    monitor, norms = RankMonitor(model, every=max(steps // PROFILES, 1), share=1.0), []

    def loss(rows: loop.Rows) -> Tensor:
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    def watch(step: int) -> None:
        monitor.step()
        if step >= steps - settings.width:
            norms.append([float(W.detach().norm()) for W in weights])

    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    rows = loop.random_rows(len(x), batch, seeds.stream(seed, "batches"))
    loop.train(loss, optimizer, steps=steps, batches=rows, watch=watch)
    monitor.finish()
    ranks = monitor.record().effective_rank.sel(part=names).mean("part", skipna=False).values
    kept = max(1, round(LAST * len(ranks)))
    with torch.no_grad():
        accuracy = float((model(test).argmax(1) == images.test.labels).float().mean())
    share = _share_of_bound(weights, norms, batch, lr * weight_decay) if weight_decay else float("nan")
    return {"rank": float(ranks[-kept:].mean()), "accuracy": accuracy, "share_of_bound": share}


def _share_of_bound(weights: list[nn.Parameter], norms: list[list[float]], batch: int, product: float) -> float:
    """Return the largest distance from rank k B divided by its bound, over all numbers k of last updates.

    Args:
        weights: square weights at the end.
        norms: Frobenius norms of the weights before the first step and after each; the last ones are enough.
        batch: batch size B.
        product: learning rate times weight decay.
    """
    updates = np.arange(1, min((len(weights[0]) - 1) // batch, len(norms) - 1) + 1)
    shares = []
    for k, W in enumerate(weights):
        singular = measures.singular_values(W.detach().double())
        tails = singular.square().flip(0).cumsum(0).flip(0).sqrt().numpy()  # distance from rank r = 0, 1, ...
        before = np.array([row[k] for row in norms])[-1 - updates]
        shares.append(tails[updates * batch] / ((1 - product) ** updates * before))
    return reduce.largest(np.concatenate(shares))


def noise_products(settings: Settings) -> list[float]:
    """Return products at which 1 / product runs from a few steps to four times the width, in powers of two."""
    return [float(1 / 2**k) for k in range(1, int(np.log2(4 * settings.width)) + 1)]


def random_updates(width: int, product: float, seed: int) -> float:
    """Return the effective rank of a square matrix that SGD writes in random directions, one per step.

    Each step is W <- (1 - product) W + u v^T with random unit vectors u and v. As long as 1 / product is small against
    the width, the vectors are nearly orthogonal, the singular values are the shares (1 - product)^k, and their
    effective rank is e / product up to a factor that tends to 1.

    Args:
        width: size of the matrix.
        product: learning rate times weight decay.
        seed: seed of the directions.
    """
    steps = theory.memory_steps(1.0, product, 1e-6)
    drawn = torch.randn(2, steps, width, generator=seeds.stream(seed, "random updates"), dtype=torch.float64)
    u, v = drawn / drawn.norm(dim=-1, keepdim=True)
    shares = (1 - product) ** torch.arange(steps, dtype=torch.float64)
    return float(measures.effective_rank((u * shares[:, None]).T @ v))


def slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> Slope:
    """Return the slope of ln y against ln x by least squares, with its confidence interval by Student's t.

    The interval is NaN if fewer than three points are given or a number is not finite.

    Args:
        x: positive numbers.
        y: positive numbers, one for each of `x`.

    >>> import numpy as np
    >>> round(slope(np.array([1.0, 2.0, 4.0]), np.array([3.0, 6.0, 12.0])).value, 6)
    1.0
    """
    if len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return Slope(np.nan, np.nan, np.nan)
    fit = stats.linregress(np.log(x), np.log(y))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * fit.stderr)
    value = float(fit.slope)
    return Slope(value, value - half, value + half)


def memories(record: xr.Dataset) -> xr.DataArray:
    """Return B / (lr decay) for every batch size and product."""
    return record.batch / record["product"]


def fit(record: xr.Dataset, above: float = 0.0) -> Slope:
    """Return the slope of ln rank against ln B / (lr decay) over the runs where the latter is above a number.

    Args:
        record: a record of this study.
        above: the number; all runs count by default.
    """
    x = memories(record).broadcast_like(record["rank"]).transpose(*record["rank"].dims).values
    return slope(x[x > above], record["rank"].values[x > above])


def middle(record: xr.Dataset) -> float:
    """Return the median of B / (lr decay) over the grid, above which the growth of the rank is measured apart."""
    return float(np.median(memories(record).values))


def stops(record: xr.Dataset) -> float:
    """Return the least B / (lr decay) at which the mean rank over the seeds is nearly the largest of the grid."""
    mean = record["rank"].mean("seed", skipna=False)
    reached = memories(record).transpose(*mean.dims).where(mean >= NEARLY * mean.max(skipna=False))
    return float(reached.min())


def _controls(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the claims on updates in random directions, and on what the rank does not depend on."""
    few = np.array([p for p in noise_products(settings) if 1 / p <= SMALL * settings.width])
    noise = record.noise.sel(noise_product=few)
    random = slope(np.tile(1 / few, len(record.seed)), noise.values.reshape(-1))
    interval = f"{random.low:.2f} to {random.high:.2f}"
    ranks = record.at_rate.values
    return [
        finding(
            "Updates in random directions have the slope 1: slope of ln effective rank against ln 1 / (lr decay) up "
            f"to {SMALL:g} of the width (95% interval {interval})",
            random.value,
            within=(0.8, 1.1),
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "Learning rate and weight decay count by their product: effective rank at several learning rates with one "
            f"product, largest divided by least, largest over {reduce.count(record.seed)}",
            reduce.largest(ranks.max(axis=1) / ranks.min(axis=1)),
            at_most=1.25,
            source=sources.WEIGHT_DECAY,
        ),
        finding(
            "Without weight decay the rank stays high: effective rank without weight decay divided by the largest rank "
            f"with it, least over {reduce.count(record.seed)}",
            reduce.least(record.without / record["rank"].max(["batch", "product"], skipna=False)),
            at_least=1.5,
            source=sources.WEIGHT_DECAY,
        ),
    ]


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the bound, the slope and where it ends, what the rank depends on, and the controls."""
    settings = records.settings_of(record, Settings)
    whole = fit(record)
    above = fit(record, middle(record))
    interval = "{:.2f} to {:.2f}"
    return [
        theorem(
            "What weight decay leaves of all but the last k updates bounds the distance of a layer from rank k B: "
            "distance of a square layer from rank k B divided by (1 - lr decay)^k times its norm k steps before, "
            "largest of all layers, runs and k with k B below the width",
            reduce.largest(record.share_of_bound),
            at_most=1.0,
            source=sources.WEIGHT_MEMORY,
        ),
        finding(
            "The rank of layers grows with batch size over learning rate and weight decay: slope of ln effective rank "
            "against ln B / (lr decay) over all runs (95% interval "
            f"{interval.format(whole.low, whole.high)}), lower end of the interval",
            whole.low,
            at_least=0.2,
            source=sources.WEIGHT_DECAY,
        ),
        finding(
            "The rank is not proportional to B / (lr decay), which would be a slope of 1: upper end of the 95% "
            f"interval ({interval.format(whole.low, whole.high)}) of the slope of ln effective rank over all runs",
            whole.high,
            at_most=0.6,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"The growth slows down: slope over the runs with B / (lr decay) above its median, {middle(record):.0f} "
            f"(95% interval {interval.format(above.low, above.high)}), divided by the slope over all runs. The rank "
            f"reaches {NEARLY:.0%} of its largest value at {stops(record):.0f}",
            above.value / whole.value,
            at_most=0.6,
            source=sources.OWN_EXPERIMENT,
        ),
        *_controls(record, settings),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: rank by memory of SGD, test accuracy by rank, and updates in random directions."""
    settings = records.settings_of(record, Settings)
    made, (ranks, accuracies, random) = drawing.figure(3)
    for k, batch in enumerate(record.batch.values):
        at = record[["rank", "accuracy"]].sel(batch=batch).transpose("product", "seed")
        x = float(batch) / record["product"].values
        style = drawing.style(k)
        ranks.plot(x, at["rank"].median("seed"), marker="o", label=f"batch of {int(batch)}", **style)
        ranks.plot(x, at["rank"], ".", color=drawing.COLOURS[k], alpha=0.5)
        accuracies.plot(x, at.accuracy.median("seed"), marker="o", label=f"batch of {int(batch)}", **style)
    x = np.sort(memories(record).values.reshape(-1))
    ranks.plot(x, np.minimum(x, settings.width), label="proportional, at most the width", **drawing.THEORY)
    ranks.axhline(float(record.without.median()), color="#999999", linewidth=1, label="no weight decay")
    _draw_random(random, record, settings)
    for axes in (ranks, random):
        axes.set_yscale("log")
        axes.set_ylim(1, 40 * settings.width)  # space for the legend
    for axes in made.axes:
        axes.set_xscale("log")
    accuracies.set_ylim(0, 1.4)  # space for the legend
    memory = "memory, in updates: batch / (rate x decay)"
    drawing.label(ranks, "The rank grows slowly, and ends early", memory, "effective rank of layers")
    drawing.label(accuracies, "Short memory costs accuracy", memory, "accuracy on test images")
    drawing.label(
        random, "Random directions: slope 1", "memory, in updates: 1 / (rate x decay)", "effective rank of the matrix"
    )
    drawing.note(ranks, "grows slowly, stops early", 0.97, 0.05)
    drawing.note(accuracies, "short memory: low accuracy", 0.03, 0.3)
    drawing.note(random, "random directions: follow the line", 0.97, 0.05)
    for axes in made.axes:
        axes.legend(fontsize=7, loc="upper left")
    return made


def _draw_random(axes: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw the effective rank of random updates against their memory, with e times the memory and the width."""
    x = 1 / record.noise_product.values
    axes.plot(x, record.noise.median("seed"), marker="o", label="random updates", **drawing.style(0))
    axes.plot(x, np.minimum(np.e * x, settings.width), label="proportional, at most the width", **drawing.THEORY)


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    whole = fit(record)
    ranks, x = record["rank"].median("seed"), memories(record)
    return (
        f"Left: effective rank of layers, from {float(ranks.min()):.1f} to {float(ranks.max()):.1f} as B / (lr decay) "
        f"grows from {float(x.min()):.0f} to {float(x.max()):.0f}, with slope {whole.value:.2f} in logarithms; it "
        f"is nearly the largest from {stops(record):.0f} on; without weight decay it is "
        f"{float(record.without.median()):.1f}. Middle: accuracy on test images, from "
        f"{float(record.accuracy.min()):.2f} to {float(record.accuracy.max()):.2f}. Right: for updates in random "
        f"directions the effective rank grows in proportion, up to the width."
    )
