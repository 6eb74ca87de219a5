"""The warm-up: in linear regression gradient methods find the nearest solution, and methods per coordinate do not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, problems, seeds
from ranklens.dynamics import descent, flow, optim
from ranklens.studies.kit import records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork

TITLE = "Linear regression: of all solutions, gradient descent finds the one nearest to its start"
EXPLANATION = (
    "With more unknowns than equations, every gradient is a combination of the equations' rows, so descent, momentum, "
    "mini-batches and flow never leave the row space and end at the solution nearest to their start: from zero "
    "the one of least norm. Adam and sign steps rescale coordinates, leave the row space and end elsewhere."
)
SOURCE = "The talk's first slides; a classical fact of least squares"

Make = Callable[[Any, float], torch.optim.Optimizer]
METHODS: dict[str, Make] = {
    "descent": lambda params, lr: torch.optim.SGD(params, lr=lr),
    "heavy ball": lambda params, lr: torch.optim.SGD(params, lr=lr / 5, momentum=0.8),
    "Nesterov": lambda params, lr: torch.optim.SGD(params, lr=lr / 5, momentum=0.8, nesterov=True),
    "mini-batches": lambda params, lr: torch.optim.SGD(params, lr=lr / 4),
    "Adam": lambda params, _: torch.optim.Adam(params, lr=3e-3),
    "sign": lambda params, _: optim.SignDescent(params, lr=1e-3),
}
LEAVE = ("Adam", "sign")


@dataclass(frozen=True)
class Settings:
    """A Gaussian design of `equations` rows and `unknowns` columns; steps in units of 1 / (largest curvature)."""

    equations: int = 20
    unknowns: int = 60
    lr: float = 1.0
    batch: int = 10
    steps: int = 1600
    every: int = 20
    until_loss: float = 1e-17
    rtol: float = 1e-8
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(equations=100, unknowns=400, steps=8000, seeds=(0, 1, 2, 3, 4)),
    "tiny": Settings(equations=5, unknowns=12, batch=3, steps=2000, seeds=(0,)),
}
MINUTES = {"laptop": 0.15, "paper": 0.5, "tiny": 0.05}
STARTS = ("zero", "random")


def run(settings: Settings) -> xr.Dataset:
    """Every method from zero and from a random start: distance to the nearest solution, and out of the row space."""
    names = [*METHODS, "flow"]
    parts = [
        xr.concat([_one(settings, name, seed, start) for seed in settings.seeds], dim="seed")
        for start in STARTS
        for name in names
    ]
    rows = [xr.concat(parts[k * len(names) : (k + 1) * len(names)], dim="optimizer") for k in range(len(STARTS))]
    record = xr.concat(rows, dim="start")
    return record.assign_coords(start=list(STARTS), optimizer=names, seed=list(settings.seeds))


def problem(settings: Settings, seed: int) -> tuple[problems.DenseSensing, Tensor]:
    """Least squares as sensing of a column, |X w - y|^2 / m, and its design X."""
    X, y = seeds.normals(
        [(settings.equations, settings.unknowns), (settings.equations,)], seed, "design and observations"
    )
    return problems.DenseSensing(X[:, :, None], y), X


def nearest(X: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """The solution of X w = y nearest to a start: start + X^+ (y - X start)."""
    return start + torch.linalg.pinv(X) @ (y - X @ start)


def _one(settings: Settings, name: str, seed: int, start: str) -> xr.Dataset:
    task, X = problem(settings, seed)
    net = families.deep_matrix((settings.unknowns, 1), 1, std=0.0 if start == "zero" else 1.0, seed=seed)
    w0 = net.tensor().detach()[:, 0].clone()
    solution = nearest(X, task.values, w0)
    least = torch.linalg.pinv(X) @ task.values
    inside = torch.linalg.pinv(X) @ X

    def away(net: TensorNetwork) -> Tensor:
        return (net.tensor()[:, 0] - solution).norm() / least.norm()

    def outside(net: TensorNetwork) -> Tensor:
        moved = net.tensor()[:, 0] - w0
        return (moved - inside @ moved).norm()

    track = {"away": away, "outside": outside}
    if name == "flow":
        found = flow.gradient_flow(net, task, until_loss=settings.until_loss, rtol=settings.rtol, track=track)
        shown = {x: found[x].values[[-1]] for x in track}
    else:
        curvature = 2 * float(torch.linalg.matrix_norm(X, 2)) ** 2 / settings.equations
        found = descent.gradient_descent(
            net,
            task,
            METHODS[name](net.parameters(), settings.lr / curvature),
            steps=settings.steps,
            until_loss=settings.until_loss,
            every=settings.every,
            batch_size=settings.batch if name == "mini-batches" else None,
            seed=seed,
            track=track,
        )
        shown = {x: found[x].values for x in track}
    length = settings.steps // settings.every + 1
    padded = {x: np.pad(v, (0, length - len(v)), constant_values=np.nan) for x, v in shown.items()}
    return xr.Dataset(
        {
            **{x: ("row", v) for x, v in padded.items()},
            "end": float(found.away[-1]),
            "farthest": float(found.outside.max()),
            "fit": float(found.loss[-1]),
        }
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Those that go along gradients stay in the row space and find the nearest solution; the others do not."""
    gradients = record.drop_sel(optimizer=list(LEAVE))
    others = record.sel(optimizer=list(LEAVE))
    return [
        Claim(
            "theorem",
            "descent, momentum, mini-batches, flow: distance out of the row space (largest, at all steps)",
            float(gradients.farthest.max()),
            "<=",
            1e-10,
        ),
        Claim(
            "theorem",
            "distance of their ends to the solution nearest to the start, over the least norm (largest)",
            float(gradients.end.max()),
            "<=",
            1e-6,
        ),
        Claim(
            "finding",
            "Adam and sign steps from zero: the same distance (least)",
            float(others.end.sel(start="zero").min()),
            ">=",
            0.1,
        ),
        Claim(
            "finding",
            "loss of Adam at the end (largest): it fits",
            float(record.fit.sel(optimizer="Adam").max()),
            "<=",
            1e-6,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Distance to the nearest solution, and out of the row space, against steps."""
    settings = records.settings_of(record, Settings)
    made, (ends, outside) = drawing.figure(2)
    first = record.sel(start="zero").isel(seed=0)
    steps = settings.every * np.arange(record.sizes["row"])
    for k, name in enumerate(METHODS):
        run = first.sel(optimizer=name)
        ends.semilogy(steps, run.away, label=name, **drawing.style(k))
        outside.semilogy(steps, np.maximum(run.outside, 1e-17), label=name, **drawing.style(k))
    outside.axhline(1e-10, **drawing.THEORY, label="rounding is below")
    ends.axhline(1e-6, **drawing.THEORY, label="counts as there")
    drawing.label(ends, "From zero to the solution of least norm", "step", "|w - least| / |least|")
    drawing.label(outside, "Who leaves the row space", "step", "distance from the row space")
    ends.legend(fontsize=7)
    outside.legend(fontsize=7)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    ends = record.end.sel(start="zero").median(dim="seed")
    found = ", ".join(f"{name} {float(ends.sel(optimizer=name)):.0e}" for name in record.optimizer.values)
    return (
        f"Left: distance to the solution of least norm at the end: {found}. Right: only Adam and sign steps leave the "
        f"row space."
    )
