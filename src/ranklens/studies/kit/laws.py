"""Laws of the rates along a flow, compared with central differences, and the claims that follow from them."""

from collections.abc import Callable, Hashable
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ranklens import theory
from ranklens.problems import TensorProblem
from ranklens.studies.kit import reduce
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.studies.kit.records import last, runs
from ranklens.tensors.network import TensorNetwork

# Rows of a record from one evaluation of the law to the next: each evaluation costs several gradients.
LAW_PERIOD = 50
# Rows of a record from one evaluation of the conserved quantities to the next.
DRIFT_PERIOD = 10
# The law of `component_law` in the words of a claim.
COMPONENT_LAW = "d sigma / dt = gamma sigma^2 sum_k 1 / |s_k|^2 with alignment gamma and slices s_k"


class Sometimes:
    """A tracked quantity that is evaluated only in every `period`-th row, beginning with the first; other rows are NaN.

    Args:
        period: number of rows from one evaluation to the next.
        function: the quantity, a tensor of fixed shape, as a function of the network.
    """

    def __init__(self, period: int, function: Callable[[TensorNetwork], Tensor]) -> None:
        self.period, self.function, self.calls = period, function, 0
        self.blank = torch.tensor(torch.nan)

    def __call__(self, net: TensorNetwork) -> Tensor:
        """Return the quantity, or a tensor of its shape filled with NaN."""
        self.calls += 1
        if (self.calls - 1) % self.period:
            return self.blank
        value = self.function(net)
        self.blank = torch.full_like(value, torch.nan)
        return value


def law_error(predicted: Tensor, measured: Tensor) -> Tensor:
    """Return the largest relative deviation of predicted from measured rates.

    Each deviation is divided by |measured rate| + 0.001 * (largest |measured rate|), so that rates near zero, which a
    central difference cannot resolve, do not dominate. Equal rates, also two zeros, deviate by 0. NaN stays NaN.

    Args:
        predicted: rates by the law, of any shape.
        measured: measured rates, of the same shape.

    Returns:
        A scalar.
    """
    scale = measured.abs() + 1e-3 * measured.abs().max()
    off = (predicted - measured).abs()
    return (off / scale).where(off > 0, off).max()


def component_law(task: TensorProblem, bond: Hashable) -> Sometimes:
    """Return a quantity to track: the `law_error` of the law of a bond's component norms against a central difference.

    The law is d sigma / dt = gamma sigma^2 sum_k |s_k|^-2, where sigma is a component norm, s_k are its slices, and
    gamma is its alignment with the negative gradient of the loss in the end tensor. The gradients of the nodes, which
    make the flow, are not used for gamma.

    Args:
        task: the problem that the flow solves.
        bond: the bond whose components are compared.
    """

    def error(net: TensorNetwork) -> Tensor:
        norms = net.slice_norms(bond)
        law = theory.alignment(net, task, bond) * norms.prod(dim=0).square() * norms.pow(-2).sum(dim=0)
        return law_error(law, theory.measured_rate(net, task, lambda net: net.component_norms(bond)))

    return Sometimes(LAW_PERIOD, error)


def drift(net: TensorNetwork) -> Sometimes:
    """Return a quantity to track: the largest change of the conserved quantities of all bonds since this call.

    The change is divided by the largest squared slice norm of the network at the time of the evaluation.

    Args:
        net: the network at the start of the flow.
    """
    start = [theory.conserved(net, bond) for bond in net.bonds]

    def change(net: TensorNetwork) -> Tensor:
        largest = torch.stack([net.slice_norms(bond).max() for bond in net.bonds]).max() ** 2
        changes = [(theory.conserved(net, b) - c).abs().max() for b, c in zip(net.bonds, start, strict=True)]
        return torch.stack(changes).max() / largest

    return Sometimes(DRIFT_PERIOD, change)


def law_claim(record: xr.Dataset, quantity: str, source: str) -> Claim:
    """Return the claim that the law gives the rates of a quantity, along the runs of all seeds.

    The law is for factors that need not be balanced and holds in every state, so this claim is an exactness.

    Args:
        record: a gathered record with the variable `law_error`.
        quantity: what the rates are of, as a plural.
        source: the result that states the law.
    """
    points = evaluated(record, "law_error", LAW_PERIOD)
    statement = (
        f"The law gives the rates of {quantity} along the flow: difference between the rate by the law and a "
        "central difference in time, divided by the latter, largest over these quantities at "
        f"{len(points)} recorded times of all runs (rates near 0 are compared with 0.1% of the largest rate)"
    )
    return exactness(statement, reduce.largest(points), at_most=1e-5, source=source)


def drift_claim(record: xr.Dataset, rtol: float, quantities: str, source: str) -> Claim:
    """Return the claim that quantities are conserved, up to a change that the solver's tolerance explains.

    Each step may err by the relative tolerance, and errors of steps can add up: the bound is the tolerance times the
    number of steps of the longest run.

    Args:
        record: a gathered record with the variable `drift`, one row for each step.
        rtol: relative tolerance of the solver.
        quantities: what is conserved, as a plural with a capital.
        source: the result that states the conservation.
    """
    points = evaluated(record, "drift", DRIFT_PERIOD)
    steps = max(run.sizes["row"] for run in runs(record)) - 1
    statement = (
        f"{quantities} are conserved: absolute change of an entry since the start, divided by the largest squared "
        f"slice norm of the network at that time, largest over {len(points)} recorded times of all runs. The exact "
        f"flow has no change; the bound is {rtol:g}, the relative tolerance of each step of the solver, times {steps}, "
        "the steps of the longest run, because errors can add up"
    )
    return theorem(statement, reduce.largest(points), at_most=steps * rtol, source=source)


def recovery_claim(record: xr.Dataset, of: Literal["largest", "median"], source: str) -> Claim:
    """Return the claim that the target is recovered at the end of the runs.

    Args:
        record: a gathered record with the variable `error`, the relative error over all entries.
        of: how the errors of all seeds are reduced to one number.
        source: the experiment in which the target was recovered.
    """
    errors = last(record, "error")
    measured = reduce.largest(errors) if of == "largest" else reduce.median(errors)
    statement = (
        f"The target is recovered: relative error over all entries, observed and unobserved, at the end, {of} of "
        f"{reduce.count(errors)}"
    )
    return finding(statement, measured, at_most=0.03, source=source)


def evaluated(record: xr.Dataset, name: str, period: int) -> NDArray[np.float64]:
    """Return the values that a `Sometimes` has evaluated, of all runs; a NaN among them was computed, not left blank.

    Args:
        record: a gathered record.
        name: the variable that the quantity was tracked as.
        period: the period of the `Sometimes`.
    """
    return np.concatenate([run[name].values[::period] for run in runs(record)])
