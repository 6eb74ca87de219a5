"""Plateaus of a gradient flow: where a recorded run has them, and the flow of a small network to the next one."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import find_peaks

from ranklens.dynamics.flow import gradient_flow
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems.problem import Problem
from ranklens.tensors import arguments
from ranklens.tensors.network import TensorNetwork

# Evaluations of the gradient after which a flow to a plateau is looked at, and how often at most.
EVALUATIONS, LOOKS = 200, 24
# Relative fall of the loss between two looks below which a flow counts as being on a plateau.
AT_REST = 1e-4
# Relative tolerance of the flows to the plateaus.
RTOL = 1e-6


def plateaus(run: xr.Dataset, factor: float = 4.0) -> NDArray[np.int64]:
    r"""Return the rows of a gradient flow at which it is on a plateau between two falls of the loss.

    Along gradient flow d loss / dt = -|gradient|^2. A plateau is a row at which this rate is least, and at least
    `factor` times smaller than its largest value before and after, up to the next smaller minimum. The beginning and
    the end of a run do not count.

    Args:
        run: what `gradient_flow` returned, with every step of the solver.
        factor: how much slower than its surroundings a plateau is.

    Returns:
        Positions of the rows, in increasing order.

    Raises:
        ValueError: for a factor of 1 or less, or a run of fewer than four rows.

    >>> import torch, ranklens as rl
    >>> from ranklens.dynamics.plateau import plateaus
    >>> indices = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    >>> task = rl.Completion(indices, torch.tensor([2.0, 0.0, 0.0, 1.0]).double(), (2, 2), loss="half_sse")
    >>> net = rl.init.product_(rl.deep_matrix((2, 2), depth=2), 1e-8 * torch.eye(2, dtype=torch.float64))
    >>> run = rl.gradient_flow(net, task)
    >>> run.loss.values[plateaus(run)].round(2).tolist()  # 2 is learned, 1 is not yet: half of its square
    [0.5]
    """
    factor = arguments.number("factor", factor, above=1)
    if run.sizes.get("time", 0) < 4:
        raise ValueError(f"the run has {run.sizes.get('time', 0)} rows along time; a plateau needs at least four")
    rates = -np.diff(run.loss.values) / np.diff(run.time.values)
    falling = np.flatnonzero(rates > 0)  # rounding errors of a long wait can let the loss rise
    slowness = -np.log(np.interp(np.arange(len(rates)), falling, rates[falling]))
    found: NDArray[np.int64] = find_peaks(slowness, prominence=np.log(factor))[0]
    return found


@ignoring_early_stops()
def settle(net: TensorNetwork, task: Problem, floor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Follow gradient flow of a network, which is changed, until it is on a plateau.

    The flow is looked at after every `EVALUATIONS` gradients, and ends once the loss has fallen by less than `AT_REST`
    of its value since the last look, or to the floor.

    Args:
        net: the network.
        task: the problem.
        floor: loss at which the flow ends in any case.

    Returns:
        Times and losses, one of each per step of the solver.
    """
    times, losses = np.zeros(0), np.zeros(0)
    for _ in range(LOOKS):
        run = gradient_flow(net, task, until_loss=floor, until_evaluations=EVALUATIONS, rtol=RTOL)
        began = times[-1] if len(times) else 0.0
        times, losses = np.append(times, began + run.time.values), np.append(losses, run.loss.values)
        fell = run.loss.values[0] - run.loss.values[-1]
        if run.attrs["stopped"] != "evaluations" or fell < AT_REST * run.loss.values[0]:
            break
    return times, losses


@ignoring_early_stops()
def follow(
    net: TensorNetwork, task: Problem, floor: float, time: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Follow gradient flow of a network, which is changed, for some time.

    Args:
        net: the network.
        task: the problem.
        floor: loss at which the flow ends in any case.
        time: for how long.

    Returns:
        Times and losses, one of each per step of the solver.
    """
    most = EVALUATIONS * LOOKS
    run = gradient_flow(net, task, until_loss=floor, until_time=time, until_evaluations=most, rtol=RTOL)
    return run.time.values, run.loss.values


def midway(times: NDArray[np.float64], losses: NDArray[np.float64], high: float, low: float) -> float:
    """Return the first time at which the loss is midway between two plateaus, interpolated between two rows.

    Args:
        times: (rows,) times.
        losses: (rows,) losses at them.
        high: loss of the plateau before.
        low: loss of the plateau after.

    Returns:
        The time, or NaN if the loss does not fall so far.

    >>> midway(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.8, 0.0]), 1.0, 0.2)
    1.25
    """
    middle = (high + low) / 2
    below = np.flatnonzero(losses <= middle)
    if not len(below):
        return float("nan")
    row = int(below[0])
    if row == 0:
        return float(times[0])
    share = (losses[row - 1] - middle) / (losses[row - 1] - losses[row])
    return float(times[row - 1] + share * (times[row] - times[row - 1]))
