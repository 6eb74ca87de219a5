"""Deeper networks have outputs of lower rank, which helps if the target has low rank and harms if it has full rank."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing, seeds
from ranklens.problems import targets
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.tensors import measures
from ranklens.training import loop

TITLE = "Deeper networks compute outputs of lower rank, before training and after"
EXPLANATION = (
    "The more layers a network has, linear or not, the lower is the effective rank of its outputs at initialization, "
    "because a product of many random matrices is nearly of low rank. The effective rank is lower after training as "
    "well. If few values are observed, so that many functions fit them, this lowers the test error for a target of low "
    "rank, and raises it for a target of full rank."
)
SOURCE = "Huh, Mobahi, Zhang, Cheung, Agrawal, Isola (TMLR 2023): the low-rank simplicity bias"

NETWORKS = ("linear", "ReLU")
TARGETS = ("low", "full")
# Width of the square random matrices whose products are measured.
WIDTH = 64
# Number of products over which the mean effective rank is taken.
PRODUCTS = 5
# Mean effective rank of a product of Gaussian WIDTH x WIDTH matrices, by the number of factors, from simulations.
KNOWN = {1: 51.5, 2: 42.5, 3: 36.6, 4: 31.5, 6: 24.7, 8: 20.8, 12: 15.0}
# Largest Euclidean norm of a gradient; longer gradients are scaled down to it.
CLIP = 1.0


@dataclass(frozen=True)
class Settings:
    """Regression of a random linear map, of low or full rank, from some noisy outputs of few examples.

    If all outputs of an example were observed, the rank of the target would say nothing about the directions of inputs
    in which there is no example. A linear map of low rank is determined by far fewer values than one of full rank if
    each example shows some of its outputs.

    Attributes:
        size: number of inputs, of outputs, and width of all layers.
        rank: rank of the target of low rank.
        train: number of training examples.
        shown: probability with which an output of a training example is observed.
        test: number of test examples.
        noise: standard deviation of the noise of training outputs, over the standard deviation of the outputs.
        scale: standard deviation of the initial weights, over the one with which outputs keep their size. PyTorch's
            linear layers have 1 / sqrt(3).
        depths: numbers of layers, in increasing order; the claims compare the last with the first.
        optimizers: "SGD", "momentum" or "Adam"; each uses all training examples in every step.
        lr: learning rate of each optimizer.
        steps: number of steps.
        seeds: seeds of the targets, examples and initial weights.
    """

    size: int = 32
    rank: int = 2
    train: int = 48
    shown: float = 0.5
    test: int = 500
    noise: float = 0.2
    scale: float = 0.577
    depths: tuple[int, ...] = (1, 2, 4)
    optimizers: tuple[str, ...] = ("momentum",)
    lr: tuple[float, ...] = (0.05,)
    steps: int = 800
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        size=64,
        train=96,
        depths=(1, 2, 3, 4, 6),
        optimizers=("SGD", "momentum", "Adam"),
        lr=(0.1, 0.05, 1e-3),
        steps=3000,
    ),
    "tiny": Settings(size=8, train=24, depths=(1, 3), steps=30, seeds=(0,)),
}
MINUTES = {"laptop": 0.3, "paper": 17.0, "tiny": 0.05}


@dataclass(frozen=True)
class Examples:
    """Inputs and outputs of shape (examples, size), float64.

    Attributes:
        x: training inputs.
        y: noisy training outputs.
        observed: 1 where a training output is observed, 0 elsewhere.
        test_x: test inputs.
        test_y: test outputs, without noise.
    """

    x: Tensor
    y: Tensor
    observed: Tensor
    test_x: Tensor
    test_y: Tensor


def run(settings: Settings) -> xr.Dataset:
    """Return effective ranks of outputs before and after training, test errors, and effective ranks of random products.

    Ranks and errors are for every optimizer, kind of network, target, depth and seed.
    """
    axes: dict[str, Sequence[str] | Sequence[int]] = {
        "optimizer": settings.optimizers,
        "network": NETWORKS,
        "target": TARGETS,
        "depth": settings.depths,
        "seed": settings.seeds,
    }
    shape = tuple(len(values) for values in axes.values())
    before, after, error = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place, (optimizer, kind, target, depth, seed) in zip(
        np.ndindex(shape),
        itertools.product(settings.optimizers, NETWORKS, TARGETS, settings.depths, settings.seeds),
        strict=True,
    ):
        made = examples(settings, target, seed)
        model = network(kind, settings.size, depth, seed, settings.scale)
        before[place] = _rank(model, made.test_x)
        lr = settings.lr[settings.optimizers.index(optimizer)]
        _train(model, made, _optimizer(optimizer, model, lr), settings.steps)
        after[place] = _rank(model, made.test_x)
        with torch.no_grad():
            error[place] = float((model(made.test_x) - made.test_y).square().mean() / made.test_y.square().mean())
    product = [[rank_of_product(factors, seed) for factors in KNOWN] for seed in range(PRODUCTS)]
    return xr.Dataset(
        {
            "before": (tuple(axes), before),
            "after": (tuple(axes), after),
            "error": (tuple(axes), error),
            "product": ("layers", np.mean(product, axis=0)),
        },
        coords={**{name: list(values) for name, values in axes.items()}, "layers": list(KNOWN)},
    )


def examples(settings: Settings, target: str, seed: int) -> Examples:
    """Return Gaussian inputs, their outputs under a random matrix of low or full rank, and which are observed."""
    size = settings.size
    rank = settings.rank if target == "low" else size
    A = targets.low_rank_matrix((size, size), rank, norm=float(size), seed=seed) / size**0.5
    drawn = seeds.stream(seed, "examples")
    x = torch.randn(settings.train + settings.test, size, generator=drawn, dtype=torch.float64)
    y = x @ A.T
    noise = torch.randn(settings.train, size, generator=drawn, dtype=torch.float64)
    noisy = y[: settings.train] + settings.noise * float(y.std()) * noise
    observed = (torch.rand(noisy.shape, generator=drawn, dtype=torch.float64) < settings.shown).double()
    return Examples(x[: settings.train], noisy, observed, x[settings.train :], y[settings.train :])


def network(kind: str, size: int, depth: int, seed: int, scale: float = 1.0) -> nn.Sequential:
    """Return an untrained network of square layers without biases.

    The entries of a layer have variance (scale gain)^2 / size, with the gain 1 of linear layers or sqrt(2) of layers
    before a ReLU. With the scale 1 outputs keep their size through the layers.

    Args:
        kind: "linear", or "ReLU" for a ReLU between layers.
        size: number of inputs and outputs of every layer.
        depth: number of layers.
        seed: seed of the weights.
        scale: factor of all initial weights.
    """
    gain = 1.0 if kind == "linear" else 2.0**0.5
    drawn = seeds.normals([(size, size)] * depth, seed, f"{kind} network")
    layers: list[nn.Module] = []
    for k, value in enumerate(drawn):
        layer = nn.utils.skip_init(nn.Linear, size, size, bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(scale * (gain if k < depth - 1 else 1.0) * value / size**0.5)
        layers += [layer, nn.ReLU()] if kind == "ReLU" else [layer]
    return nn.Sequential(*(layers[:-1] if kind == "ReLU" else layers))


def _optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return an optimizer of the weights of a model, by its name in the settings."""
    if name == "Adam":
        return torch.optim.Adam(model.parameters(), lr=lr)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum={"SGD": 0.0, "momentum": 0.9}[name])


def _train(model: nn.Module, made: Examples, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Train on half of the mean squared error of the observed outputs, times the number of outputs of an example."""
    weights = made.observed * made.y.shape[1] / (2 * made.observed.sum())

    def loss(rows: loop.Rows) -> Tensor:
        return ((model(made.x[rows]) - made.y[rows]).square() * weights[rows]).sum()

    loop.train(loss, optimizer, steps=steps, clip=CLIP)


@torch.no_grad()
def _rank(model: nn.Module, x: Tensor) -> float:
    """Return the effective rank of the Gram matrix, outputs by outputs, of a model's outputs."""
    out = model(x)
    return float(measures.effective_rank(out.T @ out))


def rank_of_product(factors: int, seed: int) -> float:
    """Return the effective rank of a product of Gaussian `WIDTH` x `WIDTH` matrices."""
    product = torch.eye(WIDTH, dtype=torch.float64)
    for factor in seeds.normals([(WIDTH, WIDTH)] * factors, seed, "product of random matrices"):
        product = factor @ product / WIDTH**0.5
    return float(measures.effective_rank(product))


def claims(record: xr.Dataset) -> list[Claim]:
    """Return a theorem on random products, and findings on ranks and errors of deep relative to shallow networks.

    The function is long because it is one flat list of claims.
    """
    settings = records.settings_of(record, Settings)
    known = np.array(list(KNOWN.values()))
    medians = record.median("seed", skipna=False)
    deep, shallow = medians.sel(depth=settings.depths[-1]), medians.sel(depth=settings.depths[0])
    ratio = deep / shallow
    over = f"{settings.depths[-1]} layers divided by {settings.depths[0]} (medians of {reduce.count(record.seed)}"
    error = (
        "Mean squared error over the test examples after training, divided by the mean square of the targets, of "
        "linear networks and a target of {} rank, " + over
    )
    return [
        exactness(
            f"Products of random Gaussian {WIDTH} x {WIDTH} matrices have the mean effective rank that is known from "
            f"simulations: absolute difference between it and the mean of {PRODUCTS} products, largest of "
            f"{len(KNOWN)} numbers of factors up to {max(KNOWN)}. The bound allows for the chance of so few products",
            reduce.largest(np.abs(record["product"] - known)),
            at_most=1.5,
            source=sources.OWN_EXPERIMENT,
        ),
        *(
            finding(
                f"Effective rank of the Gram matrix Y^T Y of the outputs Y (test examples by outputs) of {kind} "
                f"networks before training, {over}; largest over targets and optimizers)",
                reduce.largest(ratio.before.sel(network=kind)),
                at_most=0.8,
                source=sources.SIMPLICITY,
            )
            for kind in NETWORKS
        ),
        *(
            finding(
                "Effective rank of the Gram matrix Y^T Y of the outputs Y (test examples by outputs) after training "
                f"on the target of {target} rank, {over}; largest over networks and optimizers)",
                reduce.largest(ratio.after.sel(target=target)),
                at_most=0.85,
                source=sources.SIMPLICITY,
            )
            for target in TARGETS
        ),
        finding(
            f"{error.format('low')}; largest over optimizers). Depth helps if the target has low rank: in 12 other "
            "seeds the ratio is 0.54",
            reduce.largest(ratio.error.sel(network="linear", target="low")),
            at_most=0.75,
            source=sources.SIMPLICITY,
        ),
        finding(
            f"{error.format('full')}; smallest over optimizers). Depth harms if the target has full rank: in 12 other "
            "seeds the ratio is 1.75",
            reduce.least(ratio.error.sel(network="linear", target="full")),
            at_least=1.3,
            source=sources.SIMPLICITY,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of random products, of effective ranks before and after training, and of test errors."""
    settings = records.settings_of(record, Settings)
    made, (products, ranks, low, full) = drawing.figure(2, 2)
    products.plot(record.layers, record["product"], marker="o", label=f"mean of {PRODUCTS}", **drawing.style(0))
    products.plot(list(KNOWN), list(KNOWN.values()), label="known", **drawing.THEORY)
    drawing.label(products, "A product of random matrices", "number of factors", f"effective rank, at most {WIDTH}")
    first = record.isel(optimizer=0).median("seed")
    for k, kind in enumerate(NETWORKS):
        at = first.sel(network=kind, target="low")
        ranks.plot(record.depth, at.before, marker="o", label=f"{kind}, before training", **drawing.style(k))
        ranks.plot(record.depth, at.after, marker="s", label=f"{kind}, after training", **drawing.style(k + 2))
    ranks.axhline(settings.rank, label="rank of the target", **drawing.THEORY)
    ranks.set_ylim(0, 1.6 * float(first.before.max()))  # space for the legend
    drawing.label(ranks, f"Outputs, target of rank {settings.rank}", "layers", "effective rank of the outputs")
    for axes, target, title in ((low, "low", "Low rank: depth helps"), (full, "full", "Full rank: depth harms")):
        for k, kind in enumerate(NETWORKS):
            at = record.error.isel(optimizer=0).sel(network=kind, target=target)
            axes.plot(record.depth, at.median("seed"), marker="o", label=f"{kind} network", **drawing.style(k))
            axes.plot(record.depth, at.transpose("depth", "seed"), ".", color=drawing.COLOURS[k], alpha=0.5)
        axes.axhline(1.0, label="prediction of zero", **drawing.THEORY)
        axes.set_ylim(0, 1.5 * max(1.0, float(record.error.isel(optimizer=0).max())))
        drawing.label(axes, title, "layers", "test error / mean square of targets")
    for axes in (ranks, low, full):
        axes.set_xticks(record.depth.values)
    for axes, words, height in (
        (products, "more factors: lower rank", 0.6),
        (ranks, "deeper: lower rank", 0.48),
        (low, "target of low rank:\nsmaller error from two layers on", 0.38),
        (full, "target of full rank:\ndeeper is worse", 0.02),
    ):
        drawing.note(axes, words, 0.97, height)
    for axes in made.axes:
        axes.legend(fontsize=8, loc="upper right")
    return made


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words, for linear networks and the first optimizer."""
    medians = record.isel(optimizer=0).median("seed").sel(network="linear")
    at, full = medians.sel(target="low"), ", ".join(f"{x:.2f}" for x in medians.error.sel(target="full").values)
    parts = [
        f"{int(depth)} layers: effective rank {float(at.before.sel(depth=depth)):.1f} before training and "
        f"{float(at.after.sel(depth=depth)):.1f} after it, test error {float(at.error.sel(depth=depth)):.2f}"
        for depth in record.depth
    ]
    return (
        f"Outputs of linear networks, target of low rank, medians of the seeds. {'; '.join(parts)}. For a target of "
        f"full rank the test errors are {full}."
    )
