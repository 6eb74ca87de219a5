"""Growth out of a plateau: the flow of a loss that is linear in the end tensor, which needs no data."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from ranklens.dynamics.gradient import planned_end_tensor
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork

# Relative tolerance of the integration. Growth from small values amplifies no error, so the time is as exact.
RTOL = 1e-5
# Absolute tolerance, relative to the largest parameter: components that start this far below it do not count.
ATOL = 1e-13
# Longest time of a growth: a component that needs longer counts as one that does not grow.
HORIZON = 1e15


@dataclass(frozen=True)
class Growth:
    """How parameters grew.

    Attributes:
        time: time at which the growth ended.
        nodes: one tensor per node, at that time.
        escaped: whether the loss fell as far as was asked for.
        times: (rows,) times of the steps of the integration, from 0 to `time`.
        falls: (rows,) how far <G, W> has fallen at these times.
    """

    time: float
    nodes: tuple[Tensor, ...]
    escaped: bool
    times: NDArray[np.float64]
    falls: NDArray[np.float64]


def linear_growth(
    net: TensorNetwork, gradient: Tensor, free: Sequence[Tensor], *, until_fall: float, until_time: float = HORIZON
) -> Growth:
    r"""Follow d theta / dt = -d <G, W(theta)> / d theta, where W is the end tensor and G a constant tensor.

    Near a plateau the parameters that are not learned are small. They change the end tensor by little, so the gradient
    of the loss in the end tensor stays what it is on the plateau, and the loss falls by <-G, change of W>. The flow of
    this linear loss therefore follows the small parameters until they are no longer small. It has no curvature, hence
    is not stiff, and an explicit formula of order 5 integrates it.

    Args:
        net: the network, which is not changed.
        gradient: G, of the network's shape.
        free: one tensor of True and False per node: the entries that move. All others keep their values.
        until_fall: stop when <G, W> has fallen by this much.
        until_time: stop at this time at the latest.

    Returns:
        When and at which nodes the growth ended, and how far the loss had fallen at every step before.

    >>> import torch, ranklens as rl
    >>> net = rl.init.product_(rl.deep_matrix((1, 1), depth=2), [[1e-3]])
    >>> G, free = -torch.ones(1, 1, dtype=torch.float64), [torch.ones(1, 1, dtype=torch.bool)] * 2
    >>> found = linear_growth(net, G, free, until_fall=1.0 - 1e-3)
    >>> round(found.time, 3), round(math.log(1e3) / 2, 3)  # w' = 2 w from 1e-3 to 1
    (3.454, 3.454)
    """
    moving = net.with_nodes(net.nodes)
    layout, stacks = net.layout, [stack.detach() for stack in moving.stacks]
    parameters, rates = [stack.view(-1) for stack in stacks], [torch.empty_like(stack) for stack in stacks]
    planned = planned_end_tensor(layout, contract.unstack(layout, stacks), contract.unstack(layout, rates))
    planned.upstream.copy_(planned.in_memory_order(-gradient))  # the derivative of -<G, W> in W stays what it is
    moves = np.concatenate([np.stack([free[k].numpy() for k in own]).reshape(-1) for own in contract.stacks_of(layout)])
    start = torch.cat(parameters).numpy()

    def place(y: NDArray[np.float64]) -> None:
        sizes = [len(part) for part in parameters]
        for part, values in zip(parameters, torch.from_numpy(y).split(sizes), strict=True):
            part.copy_(values)

    def velocity(_: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        place(y)
        planned.forward()
        planned.backward()
        found: NDArray[np.float64] = torch.cat([rate.view(-1) for rate in rates]).numpy() * moves
        return found

    fallen: dict[float, float] = {}

    def left(t: float, y: NDArray[np.float64]) -> float:
        place(y)
        planned.forward()
        fallen[t] = before - float((gradient * planned.value).sum())
        return limit - fallen[t]

    planned.forward()
    before = float((gradient * planned.value).sum())
    limit = min(until_fall, sys.float_info.max)
    left.terminal = True  # type: ignore[attr-defined]  # how scipy is told that this event ends the integration
    run = solve_ivp(
        velocity,
        (0.0, until_time),
        start,
        rtol=RTOL,
        atol=max(ATOL * float(np.abs(start).max()), math.ulp(0.0)),
        events=left,  # is called at every step, and records there how far the loss has fallen
    )
    left(run.t[-1], np.ascontiguousarray(run.y[:, -1]))  # the last time can be between two steps; values stay in place
    falls = np.array([fallen[t] for t in run.t])
    nodes = tuple(node.detach().clone() for node in moving.nodes)
    return Growth(float(run.t[-1]), nodes, run.status == 1, run.t, falls)
