"""Gradient flow: d theta / dt = -gradient, by a stiff solver that crosses plateaus in few steps."""

import math
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ranklens.dynamics.record import Recorder, Track
from ranklens.dynamics.solver import KRYLOV, Run, check_bounds, check_times, default_errors, local_error
from ranklens.progress import Report, reporter
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads


@torch.enable_grad()
def gradient_flow(  # noqa: PLR0913  (what ends a run, what it records, how exact it is)
    net: TensorNetwork,
    task: Any,
    *,
    until_loss: float = 5e-5,
    until_time: float = math.inf,
    until_evaluations: int | None = None,
    times: Sequence[float] | NDArray[Any] | None = None,
    rtol: float = 1e-6,
    atol: float | None = None,
    track: Track | None = None,
    resume: xr.Dataset | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    r"""Follow d theta / dt = -grad loss(theta) until the loss is reached; leaves the network at its last state.

    Gradient flow near a low-rank solution is stiff (escapes of saddles take times like 1e8, relaxations times of
    order one), so it is integrated by SUNDIALS CVODE: variable-order BDF with matrix-free GMRES, the right-hand side
    from autograd in float64. Steps grow over a plateau and shrink at its end, by the local error.

    A saddle turns local error into a shift in *time*: where sigma escapes like sigma' = c sigma^p, a relative error
    e in sigma before the escape moves the escape by about e times the waiting time. Values between
    plateaus, and the order of escapes, are exact to rtol; compare times of runs only at a small rtol.

    Args:
        net: a float64 network; frozen nodes stay.
        task: a problem: anything with a differentiable `loss(net)`.
        until_loss: stop when the loss is this small (found within a step by interpolation).
        until_time: stop at this time.
        until_evaluations: stop after this many evaluations of the gradient (in all, when resuming).
        times: record at these increasing times, at the start and at the end, by default the last of them; None records
            every step of the solver.
        rtol: relative error; that of a step is about this, and errors of a whole run fall in proportion to it.
        atol: absolute local error; None takes, for every parameter, rtol times its own initial size (or times a tenth
            of the root mean square of all, if that is more), so that small starts are resolved.
        track: {name: function of the network}, evaluated under no_grad at every recorded time.
        resume: a record of an earlier flow of this network: go on from its end, and return both as one.
        progress: True for a line on the terminal, or a function that is given one; None is silent.

    Returns:
        A Dataset with coordinate `time`, variables `loss`, what was tracked, and the final `state`; attributes
        stopped ("loss", "time", "evaluations", "stationary" when the gradient vanishes, the next change is beyond time
        1e25, or the loss has come to rest, "nan" when the flow diverged; `message` then says where), evaluations,
        steps, seconds, solver, rtol, versions. Variable `atol` keeps the absolute errors that a resumed run needs.

    Raises:
        ValueError: for a loss whose gradient is discontinuous ("l1"), or bounds that make no sense.
        TypeError: for a network that is not float64.

    Source: the setting of Razin and Cohen (NeurIPS 2020), Razin, Maman, Cohen (ICML 2021, 2022): gradient flow.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.counterexample()
    >>> net = rl.init.product_(rl.deep_matrix((2, 2), depth=3), 1e-3 * torch.eye(2, dtype=torch.float64))
    >>> run = rl.gradient_flow(net, task, until_loss=1e-4, track={"w": lambda net: net.tensor()[0, 0]})
    >>> run.attrs["stopped"], round(abs(float(run.w[-1])), 1)  # 1 / sqrt(2 loss), although it is not observed
    ('loss', 70.7)
    """
    _check(net, task, until_loss, until_time, until_evaluations, rtol, atol)
    recorder = Recorder("time", track, resume)
    before = {"evaluations": 0, "steps": 0, "seconds": 0.0} if resume is None else resume.attrs
    start = 0.0 if resume is None else float(resume.time[-1])
    wanted = check_times(times, start)
    until_time = min(until_time, wanted[-1]) if wanted is not None else until_time
    started = clock.perf_counter()
    with _flattened(net) as flat, threads(contract.work(net.layout)), reporter(progress) as report:
        if resume is not None:
            _restore(flat, resume)
        field = _Field(net, task, flat)
        field.evaluations = int(before["evaluations"])
        errors = _absolute_errors(flat, rtol, atol, resume)
        run = Run(field, recorder, local_error(rtol), errors, start)
        run.go(until_loss, until_time, until_evaluations, wanted, report)
        state = {"state": flat.numpy().copy(), "atol": errors}
    attrs = {
        "stopped": run.stopped,
        "message": run.message,
        "evaluations": field.evaluations,
        "steps": run.steps + int(before["steps"]),
        "seconds": clock.perf_counter() - started + float(before["seconds"]),
        "solver": f"SUNDIALS CVODE, BDF, GMRES({KRYLOV})",
        "rtol": rtol,
        "until_loss": until_loss,
        "network": repr(net),
        "loss_function": getattr(getattr(task, "objective", None), "name", type(task).__name__),
    }
    return recorder.finish(state, attrs)


class _Field:
    """The right-hand side in CVODE's terms: arrays in, arrays out, evaluations counted."""

    def __init__(self, net: TensorNetwork, task: Any, flat: Tensor) -> None:
        self.net, self.task, self.flat = net, task, flat
        self.array = flat.numpy()
        self.trained = [stack for stack in net.stacks if stack.requires_grad]
        self.evaluations = 0
        self.slope = math.inf  # norm of the latest gradient

    def __call__(self, _: float, y: NDArray[Any], yp: NDArray[Any]) -> None:
        np.copyto(self.array, y)
        np.copyto(yp, self.velocity())

    @property
    def subject(self) -> TensorNetwork:
        """What is moved."""
        return self.net

    def velocity(self) -> NDArray[Any]:
        """Minus the gradient at the present state, flat."""
        self.evaluations += 1
        parts = torch.autograd.grad(self.task.loss(self.net), self.trained, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in parts])
        self.slope = float(gradient.norm())
        return gradient.neg_().numpy()

    def loss_at(self, y: NDArray[Any]) -> float:
        """Go to a state and evaluate the loss there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.net))


@contextmanager
def _flattened(net: TensorNetwork) -> Iterator[Tensor]:
    """Have all trained parameters share one flat tensor, and give them storage of their own again afterwards."""
    trained = [stack for stack in net.stacks if stack.requires_grad]
    if not trained:
        raise ValueError("every node of the network is frozen; a flow needs something to move")
    flat = torch.cat([stack.detach().reshape(-1) for stack in trained])
    start = 0
    for stack in trained:
        stack.data = flat[start : start + stack.numel()].view_as(stack)
        start += stack.numel()
    try:
        yield flat
    finally:
        for stack in trained:
            stack.data = stack.data.clone()


def _absolute_errors(flat: Tensor, rtol: float, atol: float | None, record: xr.Dataset | None) -> NDArray[Any]:
    """Absolute local error of every parameter: small against its own start, whatever the size of the others."""
    if atol is not None:
        return np.full(len(flat), atol)
    if record is not None:  # what is small now need not have been small at the start
        return np.array(record["atol"].values * (local_error(rtol) / local_error(float(record.attrs["rtol"]))))
    return default_errors(flat.numpy(), rtol)


def _restore(flat: Tensor, record: xr.Dataset) -> None:
    state = torch.from_numpy(np.array(record["state"].values, dtype=np.float64))
    if state.shape != flat.shape:
        raise ValueError(f"the record's state has {len(state)} parameters, this network {len(flat)}; resume its own")
    flat.copy_(state)


def _check(
    net: TensorNetwork,
    task: Any,
    until_loss: float,
    until_time: float,
    until_evaluations: int | None,
    rtol: float,
    atol: float | None,
) -> None:
    if net.dtype != torch.float64 or net.device.type != "cpu":
        raise TypeError(
            f"the network is {net.dtype} on {net.device}; a flow needs float64 on the CPU, because its laws are "
            f"checked to 1e-8: make it with dtype=torch.float64, or use rl.gradient_descent"
        )
    objective = getattr(task, "objective", None)
    if objective is not None and not objective.smooth:
        raise ValueError(
            f"the loss {objective.name!r} has a discontinuous gradient, so it has no gradient flow; use "
            f"loss=rl.losses.huber(delta) with a small delta, or rl.gradient_descent"
        )
    check_bounds(until_loss, until_time, until_evaluations, rtol, atol)
