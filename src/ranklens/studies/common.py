"""What the dynamics studies share: gathering seeds into one record, and when components were learnt."""

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ranklens import drawing, theory
from ranklens.network import TensorNetwork
from ranklens.studies.claim import Claim

S = TypeVar("S")
Along = Callable[[xr.Dataset], NDArray[Any]]
LAW_PERIOD, DRIFT_PERIOD = 50, 10  # steps of the solver from one evaluation to the next
ON, NEARLY = 0.1, 0.9  # of its final value: a component has taken off, is nearly learnt


def gather(runs: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Runs of several seeds as one record with dimensions (seed, row, ...); shorter runs end in NaN."""
    axis = "time" if "time" in runs[0].coords else "step"
    tables = []
    for run in runs:
        kept = run.drop_vars([name for name in run if axis not in run[name].dims])
        row = np.arange(run.sizes[axis])
        tables.append(kept.rename({axis: "row"}).assign_coords(row=row).assign({axis: ("row", run[axis].values)}))
    record = xr.concat(tables, dim="seed", join="outer")
    record = record.assign_coords(seed=list(seeds))
    for name in ("stopped", "evaluations", "steps", "seconds"):
        record[f"run_{name}"] = ("seed", [run.attrs[name] for run in runs])
    record.attrs = {key: runs[0].attrs[key] for key in ("solver", "network", "loss_function", "versions")}
    return record


def rows(record: xr.Dataset, seed: int) -> xr.Dataset:
    """The run of one seed, without the rows that only longer runs have."""
    run = record.sel(seed=seed)
    return run.isel(row=np.isfinite(run.loss.values))


def runs(record: xr.Dataset) -> list[xr.Dataset]:
    """The runs of all seeds."""
    return [rows(record, int(seed)) for seed in record.seed.values]


def last(record: xr.Dataset, name: str) -> NDArray[Any]:
    """The final value of a variable for every seed."""
    return np.stack([run[name].values[-1] for run in runs(record)])


def times(run: xr.Dataset) -> NDArray[Any]:
    """The time of every row."""
    return np.asarray(run.time.values)


def settings_of(record: xr.Dataset, kind: type[S]) -> S:
    """The settings that a record was made with."""
    stored = json.loads(record.attrs["settings"])
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()})


class Sometimes:
    """A tracked quantity that is evaluated in every `period`-th row only, from the first on; other rows hold NaN."""

    def __init__(self, period: int, function: Callable[[TensorNetwork], Any]) -> None:
        self.period, self.function, self.calls = period, function, 0
        self.blank: Any = None

    def __call__(self, net: TensorNetwork) -> Any:
        """The quantity, or NaN of its shape."""
        self.calls += 1
        if (self.calls - 1) % self.period:
            return self.blank
        value = self.function(net)
        self.blank = torch.full_like(value, torch.nan)
        return value


def law_error(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """How far a predicted rate is off, relative to each measured rate and to a thousandth of the largest."""
    scale = measured.abs() + 1e-3 * measured.abs().max()
    off = (predicted - measured).abs()
    return (off / scale).where(off > 0, off).max()  # nothing is off by 0 / 0; and NaN stays NaN


def component_law(task: Any, bond: Hashable) -> Sometimes:
    """Tracks how far the law of a bond, gamma sigma^2 sum |s_k|^-2, is from a central difference.

    Its alignment gamma comes from the gradient in the end tensor alone, not from those of the nodes that move.
    """

    def error(net: TensorNetwork) -> torch.Tensor:
        norms = net.slice_norms(bond)
        law = theory.alignment(net, task, bond) * norms.prod(dim=0).square() * norms.pow(-2).sum(dim=0)
        return law_error(law, theory.measured_rate(net, task, lambda net: net.component_norms(bond)))

    return Sometimes(LAW_PERIOD, error)


def drift(net: TensorNetwork) -> Sometimes:
    """Tracks by how much what is conserved at the bonds has changed since now, over the largest squared slice norm."""
    start = [theory.conserved(net, bond) for bond in net.bonds]

    def change(net: TensorNetwork) -> torch.Tensor:
        largest = torch.stack([net.slice_norms(bond).max() for bond in net.bonds]).max() ** 2
        changes = [(theory.conserved(net, b) - c).abs().max() for b, c in zip(net.bonds, start, strict=True)]
        return torch.stack(changes).max() / largest

    return Sometimes(DRIFT_PERIOD, change)


def law_claim(record: xr.Dataset, what: str) -> Claim:
    """The law against central differences, along every run."""
    points = evaluated(record, "law_error", LAW_PERIOD)
    statement = f"the rate of {what} against a central difference, at {len(points)} points (worst relative error)"
    return Claim("theorem", statement, float(points.max()), "<=", 1e-5)


def drift_claim(record: xr.Dataset, rtol: float, what: str) -> Claim:
    """Conservation, to what the solver's tolerance allows."""
    points = evaluated(record, "drift", DRIFT_PERIOD)
    statement = f"{what} are conserved (worst of {len(points)} drifts over the largest squared norm, rtol {rtol:g})"
    return Claim("theorem", statement, float(points.max()), "<=", 100 * rtol)


def recovery_claim(record: xr.Dataset, of: Literal["largest", "median"]) -> Claim:
    """How much of the target is found, over the seeds."""
    errors = last(record, "error")
    measured = errors.max() if of == "largest" else np.median(errors)
    return Claim("finding", f"error over all entries, seen or not ({of} of the seeds)", float(measured), "<=", 0.03)


def evaluated(record: xr.Dataset, name: str, period: int) -> NDArray[Any]:
    """What `Sometimes` has evaluated, in all runs; a NaN among it is one that was computed."""
    return np.concatenate([run[name].values[::period] for run in runs(record)])


def onsets(time: NDArray[Any], values: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """When each of the `count` largest values (rows, values), sorted in every row, took off and was nearly learnt."""
    found = -np.sort(-values, axis=1)[:, :count]
    return tuple(time[(found >= share * found[-1]).argmax(axis=0)] for share in (ON, NEARLY))


def increments(time: NDArray[Any], values: NDArray[Any], count: int) -> int:
    """Of `count` - 1 pairs of neighbours, how many wait: the next takes off only after the last was nearly learnt."""
    on, nearly = onsets(time, values, count)
    return int((on[1:] > nearly[:-1]).sum())


def gap(values: NDArray[Any], count: int) -> NDArray[Any]:
    """The (count + 1)-th largest of the final values (seeds, values) relative to the count-th."""
    found = -np.sort(-values, axis=-1)
    return found[..., count] / found[..., count - 1]


def distance(run: xr.Dataset) -> NDArray[Any]:
    """The length of the way that the parameters have gone: along a flow d loss = -|gradient|^2 dt.

    It stands to the steps of an optimizer that moves by a fixed distance per step as time stands to plain descent, and
    makes plateaus short.
    """
    falls = np.clip(-np.diff(run.loss.values), 0, None) * np.diff(run.time.values)
    return np.concatenate([[0.0], np.cumsum(np.sqrt(falls))])


def draw_errors(axes: Axes, record: xr.Dataset, share: float, *, along: Along = times) -> None:
    """The error over all entries of every seed, each against the share of its own time or way."""
    for k, run in enumerate(runs(record)):
        at = along(run)
        axes.plot(at / at[-1], run.error, label=f"seed {int(run.seed)}", **drawing.style(k))
    axes.set_yscale("log")
    drawing.label(
        axes,
        f"Recovery from {share:.0%} of the entries",
        f"share of the {'time' if along is times else 'distance'} to fit",
        "|W - target| / |target|",
    )
    axes.legend(fontsize=8)
