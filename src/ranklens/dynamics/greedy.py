"""Greedy learning: a factorization that gains one component after the other, as a prediction of gradient flow."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr

from ranklens.dynamics.from_start import LEAVE, Curve, FromStart, Plateau, Step
from ranklens.dynamics.learned import Learned
from ranklens.dynamics.next_component import check_plain, next_component, with_component
from ranklens.dynamics.plateau import AT_REST, settle
from ranklens.problems.problem import TensorProblem, check_problem
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork


@checked
def greedy_learning(
    net: TensorNetwork,
    task: TensorProblem,
    *,
    by: Literal["start", "rate"] = "start",
    most: int = 10,
    until_loss: float = 5e-5,
    starts: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    r"""Predict the plateaus of gradient flow: losses, end tensors, and which component is learned when.

    The prediction begins with the zero tensor, whatever the network is, and repeats two steps. First, the next
    component is found. Second, gradient flow of a network that has *only* the components found so far leads to the
    next plateau: a stationary point whose loss is predicted. With infinitesimal initial values, gradient flow of the
    whole network passes these points, and spends nearly all of its time there.

    The next component is found in one of two ways:

    - `by="rate"`: the direction in which the loss falls fastest on this plateau, see `next_component`. The network's
      values are not used, and no times are predicted.
    - `by="start"`: the small components of the network grow from their initial values, with the gradient of the
      plateau held constant. The first to take away 1% of the loss is the next one, and its time is predicted. All
      other components keep what they have gained. This can differ from the largest rate: a component that is larger at
      the start, or grew already on earlier plateaus, has a head start.

    From initial values that are not infinitesimal, two components can overlap: the first is not at rest yet when the
    second has left the plateau, so that the flow never comes to the stationary point between them. With `by="start"`
    the loss along such a flow is predicted too, without running it: it is the loss of a network that has only the
    components learned so far, less <-G, W> of all others, which grow by the gradient G of the stationary point. When
    the next component joins them, the learned ones go on from where they are. For the singular values of a fully
    observed matrix, which do not influence each other, only the curvature of the loss of small components is left out.
    The flow has a plateau where this loss falls most slowly.

    Args:
        net: the network at its initial values, which should be small and balanced; a product of matrices is taken as
            balanced factors of its initial product. It is not changed.
        task: a problem whose `loss` takes a network or, in its place, a tensor of the network's shape.
        by: "start" or "rate".
        most: largest number of components.
        until_loss: stop at a plateau whose loss is this small.
        starts: number of initial directions of each search, with `by="rate"`.
        seed: seed of these directions.

    Returns:
        A Dataset with the dimensions `learned` (0, 1, ..., n: how many components are learned) and `component` (1 to
        n). Along `learned`: `loss`, and `tensor` (the end tensor, with dimensions mode_0, mode_1, ...), both on the
        plateau. Along `component`: `bond` (the bonds at which an index value was added, as text), `time` (at which the
        loss is midway between two plateaus; NaN with `by="rate"`), and `rate` and `second` (the largest and second
        largest rate on the plateau before; NaN with `by="start"`). Along `row`: `path_time` and `path_loss`, the loss
        along a flow from the initial values (no rows with `by="rate"`). The attribute "stopped" is "loss", "most", or
        "rest" if no component can lower the loss.

    Raises:
        TypeError: for a network that is not in float64, or an argument of another type.
        ValueError: for a network with frozen nodes or without bonds, with orders of bonds for which initial values say
            nothing (`by="start"` needs a product of matrices, or bonds of order 3 or more), or wrong numbers.

    Source: Li, Luo, Lyu (ICLR 2021) for matrices with `by="rate"`; the extension to any network and to times is own.

    >>> import torch, ranklens as rl
    >>> target = torch.diag(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64))
    >>> indices = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    >>> task = rl.Completion(indices, target.reshape(-1), (3, 3), loss="half_sse")
    >>> net = rl.init.product_(rl.deep_matrix((3, 3), depth=2), 1e-6 * torch.eye(3, dtype=torch.float64))
    >>> found = rl.greedy_learning(net, task)
    >>> found.loss.values.round(3).tolist(), found.attrs["stopped"]  # half the sum of the squares still to come
    ([6.5, 2.0, 0.0], 'loss')
    >>> exact = [math.log(s / 1e-6 * x / (1 - x)) / (2 * s) for s, x in ((3.0, 1 - 0.5**0.5), (2.0, 1 - 0.5**0.5))]
    >>> bool(np.allclose(found.time, exact, rtol=0.02))  # s' = 2 s (target - s) until the loss is midway
    True
    """
    check_plain(net)
    check_problem(task)
    most = arguments.count("most", most)
    floor = arguments.number("until_loss", until_loss, least=0)
    starts = arguments.count("starts", starts)
    zero = torch.zeros(net.shape, dtype=net.dtype)
    with torch.no_grad():
        at = Plateau(float(task.loss(zero)), zero)
    path = _Steepest(net, task, floor, starts, seed) if by == "rate" else FromStart(net, task, floor)
    plateaus, steps = [at], list[Step]()
    while at.loss > floor and len(steps) < most:
        step = path.learn(at)
        if step is None or step.reached.loss > (1 - AT_REST) * at.loss:
            return _record(plateaus, steps, path.end(), by, "rest")
        at = step.reached
        steps.append(step)
        plateaus.append(at)
    return _record(plateaus, steps, path.end(), by, "loss" if at.loss <= floor else "most")


class _Steepest:
    """Learn the component of the largest rate on every plateau.

    Args:
        net: a network of the equation and the number of modes that are wanted; its values are not used.
        task: the problem.
        floor: loss at which a flow to a plateau ends in any case.
        starts: number of initial directions of each search.
        seed: seed of these directions.
    """

    def __init__(self, net: TensorNetwork, task: TensorProblem, floor: float, starts: int, seed: int) -> None:
        self.task, self.floor, self.starts, self.seed = task, floor, starts, seed
        first = Learned(net.layout, dict.fromkeys(net.bonds, (0,)))
        self.net = net.with_nodes([torch.zeros_like(part) for part in first.part(net.nodes)])

    def end(self) -> Curve:
        """Return no rows: times are not predicted."""
        return Curve(np.zeros(0), np.zeros(0))

    def learn(self, at: Plateau) -> Step | None:
        """Return the next component and the plateau after it; None if no component lowers the loss.

        Args:
            at: the plateau that the network is on.
        """
        found = next_component(self.net, self.task, starts=self.starts, seed=self.seed)
        if found.rate <= 0:
            return None
        self.net = with_component(self.net, found, LEAVE * at.loss / found.rate)
        _, losses = settle(self.net, self.task, self.floor)
        reached = Plateau(float(losses[-1]), self.net.tensor().detach())
        return Step(found.bonds, math.nan, found.rate, found.second, reached, self.end())


def _record(plateaus: Sequence[Plateau], steps: Sequence[Step], end: Curve, by: str, stopped: str) -> xr.Dataset:
    """Return the record of the plateaus and of the components between them."""
    tensors = np.stack([plateau.tensor.numpy() for plateau in plateaus])
    modes = [f"mode_{k}" for k in range(tensors.ndim - 1)]
    path = _path(steps, end)
    return xr.Dataset(
        {
            "loss": ("learned", [plateau.loss for plateau in plateaus]),
            "tensor": (["learned", *modes], tensors),
            "bond": ("component", [", ".join(str(bond) for bond in step.bonds) for step in steps]),
            "time": ("component", np.cumsum([step.wait for step in steps], dtype=np.float64)),
            "rate": ("component", np.array([step.rate for step in steps], dtype=np.float64)),
            "second": ("component", np.array([step.second for step in steps], dtype=np.float64)),
            "path_time": ("row", path.times),
            "path_loss": ("row", path.losses),
        },
        coords={"learned": np.arange(len(plateaus)), "component": np.arange(1, len(steps) + 1)},
        attrs={"by": by, "stopped": stopped},
    )


def _path(steps: Sequence[Step], end: Curve) -> Curve:
    """Return times since the start and losses along a flow from the initial values.

    Args:
        steps: the components.
        end: the loss after the last of them.
    """
    began = np.cumsum([0.0, *(step.wait for step in steps)])
    curves = [*(step.way for step in steps), end]
    times = np.concatenate([begin + curve.times for begin, curve in zip(began, curves, strict=True)])
    times, rows = np.unique(times, return_index=True)
    return Curve(times, np.concatenate([curve.losses for curve in curves])[rows])
