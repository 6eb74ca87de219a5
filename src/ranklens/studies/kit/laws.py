"""Laws along a flow, held against central differences, and the claims that follow."""

from collections.abc import Callable, Hashable
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from ranklens import theory
from ranklens.studies.kit.claim import Claim
from ranklens.studies.kit.records import last, runs
from ranklens.tensors.network import TensorNetwork

LAW_PERIOD, DRIFT_PERIOD = 50, 10  # steps of the solver from one evaluation to the next


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
