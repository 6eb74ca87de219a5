"""Linear regression: gradient methods find the solution nearest to their initialization, others do not."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing, problems, seeds
from ranklens.dynamics import descent, flow, optim
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork

TITLE = "Linear regression: of all solutions, gradient descent finds the one nearest to its initialization"
EXPLANATION = (
    "With more unknowns than equations, every gradient is a linear combination of the rows of the design matrix, so "
    "descent, momentum, mini-batches and flow move only within the row space and end at the solution nearest to their "
    "initialization: from zero, the solution of least norm. Adam and sign descent rescale coordinates, leave the row "
    "space and end elsewhere."
)
SOURCE = "The talk's first slides; a classical fact of least squares"

Make = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
# Optimizers by name, as functions of the parameters and the base learning rate; Adam and sign have rates of their own.
METHODS: dict[str, Make] = {
    "descent": lambda params, lr: torch.optim.SGD(params, lr=lr),
    "heavy ball": lambda params, lr: torch.optim.SGD(params, lr=lr / 5, momentum=0.8),
    "Nesterov": lambda params, lr: torch.optim.SGD(params, lr=lr / 5, momentum=0.8, nesterov=True),
    "mini-batches": lambda params, lr: torch.optim.SGD(params, lr=lr / 4),
    "Adam": lambda params, _: torch.optim.Adam(params, lr=3e-3),
    "sign": lambda params, _: optim.SignDescent(params, lr=1e-3),
}
# Optimizers whose steps are not combinations of gradients.
LEAVE = ("Adam", "sign")


@dataclass(frozen=True)
class Settings:
    """Least squares with a Gaussian design matrix.

    Attributes:
        equations: number of rows of the design matrix.
        unknowns: number of columns of the design matrix.
        lr: base learning rate, in units of 1 / (largest curvature of the loss).
        batch: number of equations per step of the mini-batches.
        steps: number of steps at which the optimizers end at the latest.
        every: number of steps between two rows of the record.
        until_loss: training loss at which optimizers and flow end.
        rtol: relative tolerance of the solver of the flow.
        seeds: seeds of design, observations, random initialization and batches.
    """

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
# Kinds of initial parameters.
STARTS = ("zero", "random")
# Largest distance from the row space that counts as rounding.
ROUNDING = 1e-10
# Largest distance to the nearest solution, over the least norm of all solutions, that counts as having found it.
FOUND = 1e-6


def run(settings: Settings) -> xr.Dataset:
    """Return two distances and the final loss of every optimizer and the flow, from zero and from random parameters.

    The distances are to the solution nearest to the initialization, and from the row space.
    """
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
    """Return least squares as the sensing of a column w, with loss |X w - y|^2 / equations, and the design matrix X."""
    X, y = seeds.normals(
        [(settings.equations, settings.unknowns), (settings.equations,)], seed, "design and observations"
    )
    return problems.DenseSensing(X[:, :, None], y), X


def nearest(X: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Return the solution of X w = y nearest to an initial w0: w0 + X^+ (y - X w0), with the pseudoinverse X^+.

    Args:
        X: (equations, unknowns) design matrix.
        y: (equations,) observations.
        start: (unknowns,) the initial w0.
    """
    return start + torch.linalg.pinv(X) @ (y - X @ start)


def _descend(
    settings: Settings,
    name: str,
    net: TensorNetwork,
    task: problems.DenseSensing,
    lr: float,
    seed: int,
    track: Mapping[str, Callable[[TensorNetwork], Tensor]],
) -> xr.Dataset:
    """Return the record of one optimizer, whose base learning rate is `lr`."""
    return descent.gradient_descent(
        net,
        task,
        METHODS[name](net.parameters(), lr),
        steps=settings.steps,
        until_loss=settings.until_loss,
        every=settings.every,
        batch_size=settings.batch if name == "mini-batches" else None,
        seed=seed,
        track=track,
    )


@ignoring_early_stops()
def _one(settings: Settings, name: str, seed: int, start: str) -> xr.Dataset:
    """Return the record of one method, seed and kind of initialization, with rows padded to the same number."""
    task, X = problem(settings, seed)
    net = families.deep_matrix((settings.unknowns, 1), 1, std=0.0 if start == "zero" else 1.0, seed=seed)
    w0 = net.tensor().detach()[:, 0].clone()
    solution = nearest(X, task.values, w0)
    least = torch.linalg.pinv(X) @ task.values
    inside = torch.linalg.pinv(X) @ X

    def away(net: TensorNetwork) -> Tensor:
        """Return the distance to the nearest solution, over the least norm of all solutions."""
        return (net.tensor()[:, 0] - solution).norm() / least.norm()

    def outside(net: TensorNetwork) -> Tensor:
        """Return the norm of the part of w - w0 that is orthogonal to the row space."""
        moved = net.tensor()[:, 0] - w0
        return (moved - inside @ moved).norm()

    track = {"away": away, "outside": outside}
    if name == "flow":
        found = flow.gradient_flow(net, task, until_loss=settings.until_loss, rtol=settings.rtol, track=track)
        shown = {x: found[x].values[[-1]] for x in track}
    else:
        curvature = 2 * float(torch.linalg.matrix_norm(X, 2)) ** 2 / settings.equations
        found = _descend(settings, name, net, task, settings.lr / curvature, seed, track)
        shown = {x: found[x].values for x in track}
    length = settings.steps // settings.every + 1
    padded = {x: np.pad(v, (0, length - len(v)), constant_values=np.nan) for x, v in shown.items()}
    return xr.Dataset(
        {
            **{x: ("row", v) for x, v in padded.items()},
            "end": float(found.away[-1]),
            "farthest": float(found.outside.max(skipna=False)),
            "fit": float(found.loss[-1]),
        }
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: gradient methods stay in the row space and find the nearest solution; the others do not."""
    gradients = record.drop_sel(optimizer=list(LEAVE))
    others = record.end.sel(optimizer=list(LEAVE), start="zero")
    adam = record.fit.sel(optimizer="Adam")
    return [
        theorem(
            "Descent, momentum, mini-batches and flow change the parameters only within the row space of the design "
            "matrix: Euclidean norm of the part of the change since the start that is orthogonal to the row space, "
            f"largest at all recorded steps of {reduce.count(gradients.farthest.size, 'run')}. It is 0 up to rounding",
            reduce.largest(gradients.farthest),
            at_most=ROUNDING,
            source=sources.LEAST_SQUARES,
        ),
        theorem(
            "Descent, momentum, mini-batches and flow end at the solution of the equations that is nearest to the "
            "initial parameters: Euclidean distance of the final parameters from this solution, divided by the least "
            f"norm of all solutions, largest of {reduce.count(gradients.end.size, 'run')}",
            reduce.largest(gradients.end),
            at_most=FOUND,
            source=sources.LEAST_SQUARES,
        ),
        finding(
            "Adam and sign descent from zero do not end at the solution of least Euclidean norm: distance of the "
            f"final parameters from this solution, divided by its norm, least of {reduce.count(others.size, 'run')}",
            reduce.least(others),
            at_least=0.1,
            source=sources.ADAPTIVE,
        ),
        finding(
            "Adam nevertheless solves the equations: training loss (mean squared residual of the equations) at the "
            f"end, largest of {reduce.count(adam.size, 'run')}",
            reduce.largest(adam),
            at_most=1e-6,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: both distances against steps, from zero, for the first seed."""
    settings = records.settings_of(record, Settings)
    made, (ends, outside) = drawing.figure(2)
    first = record.sel(start="zero").isel(seed=0)
    steps = settings.every * np.arange(record.sizes["row"])
    for k, name in enumerate(METHODS):
        run = first.sel(optimizer=name)
        ends.semilogy(steps, run.away, label=name, **drawing.style(k))
        outside.semilogy(steps, np.maximum(run.outside, 1e-17), label=name, **drawing.style(k))
    outside.axhline(ROUNDING, **drawing.THEORY, label="counts as rounding")
    ends.axhline(FOUND, **drawing.THEORY, label="counts as found")
    drawing.label(ends, "From zero to the solution of least norm", "step", "distance to the least-norm solution")
    drawing.label(outside, "Only Adam and sign leave the row space", "step", "part outside the span of the data")
    for axes in (ends, outside):
        axes.set_ylim(top=1e6 if axes is ends else 1e12)  # space for the legend
        axes.legend(fontsize=7, loc="upper right", ncols=2)
    drawing.note(ends, "Adam and sign stop far away", 0.95, "sign")
    drawing.note(ends, "all others arrive", 0.85, "counts as found")
    drawing.note(outside, "Adam and sign leave the span of the data", 0.95, "sign")
    drawing.note(outside, "all others stay in it", 0.95, "mini-batches")
    return made


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    ends = record.end.sel(start="zero").median(dim="seed")
    found = ", ".join(f"{name} {float(ends.sel(optimizer=name)):.0e}" for name in record.optimizer.values)
    return (
        f"Left: final distance to the solution of least norm over its norm, medians of the seeds: {found}. Right: only "
        f"Adam and sign descent leave the row space."
    )
