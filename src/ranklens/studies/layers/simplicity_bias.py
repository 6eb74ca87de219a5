"""Deeper networks start and end with embeddings of lower rank, which helps where targets are simple."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing, seeds
from ranklens.problems import targets
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import measures
from ranklens.training import loop

TITLE = "Deeper networks compute outputs of lower rank, before training and after"
EXPLANATION = (
    "The more layers a network has, linear or not, the lower is the effective rank of its outputs as it starts, and a "
    "product of many random matrices is nearly of low rank. After training from few examples it is lower too, which "
    "serves a target of low rank."
)
SOURCE = "Huh, Mobahi, Zhang, Cheung, Agrawal, Isola (TMLR 2023): the low-rank simplicity bias"

NETWORKS = ("linear", "ReLU")
TARGETS = ("low", "full")
PRODUCTS = {1: 51.5, 2: 42.5, 3: 36.6, 4: 31.5, 6: 24.7, 8: 20.8, 12: 15.0}  # effective rank of 64 x 64 ones
WIDTH = 64  # of those products


@dataclass(frozen=True)
class Settings:
    """Regression of random linear maps from few noisy examples.

    Attributes:
        size: of inputs, outputs and layers.
        rank: of the simple target.
        train: examples.
        test: examples that are asked.
        noise: of what is learnt from, as a share of the target's standard deviation.
        depths: layers.
        optimizers: "SGD", "momentum", "Adam".
        lr: of each.
        steps: of each, over all examples.
        seeds: of targets, examples and starts.
    """

    size: int = 32
    rank: int = 2
    train: int = 24
    test: int = 500
    noise: float = 0.2
    depths: tuple[int, ...] = (1, 2, 4)
    optimizers: tuple[str, ...] = ("momentum",)
    lr: tuple[float, ...] = (0.05,)
    steps: int = 800
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        size=64,
        train=48,
        depths=(1, 2, 3, 4, 6),
        optimizers=("SGD", "momentum", "Adam"),
        lr=(0.1, 0.05, 1e-3),
        steps=4000,
        seeds=(0, 1, 2, 3, 4),
    ),
    "tiny": Settings(size=8, train=12, depths=(1, 3), steps=30, seeds=(0,)),
}
MINUTES = {"laptop": 0.25, "paper": 12.0, "tiny": 0.05}


def run(settings: Settings) -> xr.Dataset:
    """Effective ranks of outputs before and after training, and test errors, over everything that varies."""
    axes: dict[str, list[Any]] = {
        "optimizer": list(settings.optimizers),
        "network": list(NETWORKS),
        "target": list(TARGETS),
        "depth": list(settings.depths),
        "seed": list(settings.seeds),
    }
    shape = tuple(len(values) for values in axes.values())
    before, after, error = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place in np.ndindex(shape):
        optimizer, network, target, depth, seed = (axes[name][k] for name, k in zip(axes, place, strict=True))
        lr = settings.lr[settings.optimizers.index(optimizer)]
        x, y, asked, answers = _examples(settings, target, seed)
        model = network_of(network, settings.size, depth, seed)
        before[place] = _rank(model, asked)
        _train(model, x, y, optimizer, lr, settings.steps)
        after[place] = _rank(model, asked)
        with torch.no_grad():
            error[place] = float((model(asked) - answers).square().mean() / answers.square().mean())
    product = [[_product(layers, seed) for layers in PRODUCTS] for seed in range(5)]
    return xr.Dataset(
        {
            "before": (tuple(axes), before),
            "after": (tuple(axes), after),
            "error": (tuple(axes), error),
            "product": ("layers", np.mean(product, axis=0)),
        },
        coords={**axes, "layers": list(PRODUCTS)},
    )


def _examples(settings: Settings, target: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = settings.size
    rank = settings.rank if target == "low" else size
    A = targets.low_rank_matrix((size, size), rank, norm=float(size), seed=seed) / size**0.5
    made = seeds.stream(seed, "examples")
    x = torch.randn(settings.train + settings.test, size, generator=made, dtype=torch.float64)
    y = x @ A.T
    noisy = y[: settings.train] + settings.noise * float(y.std()) * torch.randn(
        settings.train, size, generator=made, dtype=torch.float64
    )
    return x[: settings.train], noisy, x[settings.train :], y[settings.train :]


def network_of(kind: str, size: int, depth: int, seed: int) -> nn.Sequential:
    """Square layers without biases, started by Kaiming's rule for the kind."""
    gain = 1.0 if kind == "linear" else 2.0**0.5
    drawn = seeds.normals([(size, size)] * depth, seed, f"{kind} network")
    layers: list[nn.Module] = []
    for k, value in enumerate(drawn):
        layer = nn.utils.skip_init(nn.Linear, size, size, bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_((gain if k < depth - 1 else 1.0) * value / size**0.5)
        layers += [layer, nn.ReLU()] if kind == "ReLU" else [layer]
    return nn.Sequential(*(layers[:-1] if kind == "ReLU" else layers))


def _train(model: nn.Module, x: Tensor, y: Tensor, optimizer: str, lr: float, steps: int) -> None:
    made: Any = {
        "SGD": lambda p: torch.optim.SGD(p, lr=lr),
        "momentum": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=lr),
    }[optimizer](model.parameters())
    loop.train(lambda rows: (model(x[rows]) - y[rows]).square().sum(dim=1).mean() / 2, made, steps=steps, clip=1.0)


@torch.no_grad()
def _rank(model: nn.Module, x: Tensor) -> float:
    """Effective rank of the outputs' Gram matrix."""
    out = model(x)
    return float(measures.effective_rank(out.T @ out))


def _product(layers: int, seed: int) -> float:
    product = torch.eye(WIDTH, dtype=torch.float64)
    for factor in seeds.normals([(WIDTH, WIDTH)] * layers, seed, "product of random matrices"):
        product = factor @ product / WIDTH**0.5
    return float(measures.effective_rank(product))


def claims(record: xr.Dataset) -> list[Claim]:
    """What is known of random products; ranks that fall with depth; where depth helps and where it hurts."""
    settings = records.settings_of(record, Settings)
    known = np.array(list(PRODUCTS.values()))
    shallow, deep = settings.depths[0], settings.depths[-1]
    found = [
        Claim(
            "theorem",
            f"effective rank of products of 1 to 12 random {WIDTH} x {WIDTH} matrices: largest distance to the known",
            float(np.abs(record["product"].values - known).max()),
            "<=",
            1.5,
        ),
    ]
    middle = record.median("seed")
    for network in NETWORKS:
        ratio = middle.before.sel(network=network)
        found.append(
            Claim(
                "finding",
                f"{network}: effective rank of outputs at the start, {deep} layers over {shallow} (largest)",
                float((ratio.sel(depth=deep) / ratio.sel(depth=shallow)).max()),
                "<=",
                0.8,
            )
        )
    ratio = middle.after.sel(depth=deep) / middle.after.sel(depth=shallow)
    for target in TARGETS:
        statement = f"after training on the target of {target} rank, {deep} layers over {shallow} (largest)"
        found.append(Claim("finding", statement, float(ratio.sel(target=target).max()), "<=", 0.95))
    error = middle.error.sel(network="linear")
    change = error.sel(depth=deep) / error.sel(depth=shallow)
    found += [
        Claim(
            "finding",
            f"linear, target of low rank: test error with {deep} layers over {shallow} (largest)",
            float(change.sel(target="low").max()),
            "<=",
            0.9,
        ),
        Claim(
            "finding",
            "linear, target of full rank: the same (smallest), where depth does not help",
            float(change.sel(target="full").min()),
            ">=",
            0.98,
        ),
    ]
    return found


def draw(record: xr.Dataset) -> Figure:
    """Random products, ranks before and after, test errors."""
    settings = records.settings_of(record, Settings)
    made, (products, ranks, errors) = drawing.figure(3)
    products.plot(record.layers, record["product"], marker="o", label="five products each", **drawing.style(0))
    products.plot(list(PRODUCTS), list(PRODUCTS.values()), label="known", **drawing.THEORY)
    drawing.label(products, "A product of random matrices", "factors", f"effective rank, of {WIDTH}")
    first = record.isel(optimizer=0).median("seed")
    for k, network in enumerate(NETWORKS):
        at = first.sel(network=network)
        ranks.plot(
            record.depth, at.before.sel(target="low"), marker="o", label=f"{network}, at start", **drawing.style(k)
        )
        ranks.plot(
            record.depth, at.after.sel(target="low"), marker="s", label=f"{network}, trained", **drawing.style(k + 2)
        )
    ranks.axhline(settings.rank, label="target", **drawing.THEORY)
    drawing.label(ranks, f"Outputs, target of rank {settings.rank}", "layers", "effective rank of their Gram matrix")
    k = 0
    for network in NETWORKS:
        for target in TARGETS:
            at = first.sel(network=network, target=target)
            errors.plot(record.depth, at.error, marker="o", label=f"{network}, {target} rank", **drawing.style(k))
            k += 1
    errors.axhline(1.0, label="predicting zero", **drawing.THEORY)
    drawing.label(errors, f"Asked after {settings.train} examples", "layers", "test error / mean square")
    errors.set_ylim(0, 1.15 * float(first.error.max()))
    for axes in (ranks, errors):
        axes.set_xticks(record.depth.values)
    products.legend(fontsize=8)
    ranks.legend(fontsize=8)
    errors.legend(fontsize=8, loc="lower left")
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    at = record.isel(optimizer=0).median("seed").sel(network="linear", target="low")
    parts = [
        f"{int(depth)} layers: effective rank {float(at.before.sel(depth=depth)):.1f} at start and "
        f"{float(at.after.sel(depth=depth)):.1f} trained, test error {float(at.error.sel(depth=depth)):.2f}"
        for depth in record.depth
    ]
    return f"Linear networks on a target of low rank. {'; '.join(parts)}."
