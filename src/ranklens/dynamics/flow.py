"""Gradient flow d theta / dt = -gradient, by a stiff solver that crosses plateaus in few steps."""

import math
import time as clock
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from ranklens.dynamics.checkpoint import UNFINISHED, Checkpoint
from ranklens.dynamics.gradient import LossGradient
from ranklens.dynamics.newton import Vector
from ranklens.dynamics.record import Attributes, Cost, Outcome, Recorder, Track, is_early, run_attributes, warn_if_early
from ranklens.dynamics.solver import SOLVER, Floats, Run, default_errors, flow_bounds, local_error
from ranklens.problems.problem import Problem, check_smooth
from ranklens.progress import Report, reporter
from ranklens.tensors import contract
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

# Number of parameters up to which the solver works on numpy arrays, whose functions are called faster than those of
# torch. Above it torch is faster, and uses the threads and the device of the network.
SMALL = 1000
# Frames from a warning inside `gradient_flow` to the line that called it: the decorators add two to the usual two.
AT_CALLER = 4


@torch.enable_grad()
@checked
def gradient_flow(  # noqa: PLR0913  (what ends a run, what it records, how exact it is)
    net: TensorNetwork,
    task: Problem,
    *,
    until_loss: float = 5e-5,
    until_time: float = math.inf,
    until_evaluations: int | None = None,
    times: Sequence[float] | ArrayLike | None = None,
    rtol: float = 1e-6,
    atol: float | None = None,
    track: Track | None = None,
    resume: xr.Dataset | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    r"""Follow d theta / dt = -grad loss(theta) until the loss is reached; the network is left at its last state.

    Gradient flow near a low-rank solution is stiff (escapes from saddles take times such as 1e8, relaxations times of
    order one), so it is integrated by implicit formulas, BDF of variable order with matrix-free GMRES, in float64. The
    local error sets the length of the steps: they grow over a plateau and shrink at its end.

    A saddle turns local error into a shift in *time*: where a component sigma escapes as sigma' = c sigma^p, a relative
    error e in sigma before the escape moves the escape by about e times the waiting time. Values between plateaus, and
    the order of escapes, have a relative error of about rtol. Compare the times of two runs only at a small rtol.

    Args:
        net: a network in float64, on the CPU or on CUDA; its frozen nodes keep their values.
        task: a problem: an object with a differentiable `loss(net)`.
        until_loss: stop when the loss is this small; the time of that is found inside a step. The default suits a mean
            squared error of values of order one; for other values, scale it with their mean square. With 0 the flow
            goes on until it is at rest.
        until_time: stop at this time.
        until_evaluations: stop after this many evaluations of the gradient; a resumed run counts those before it.
        times: record only at the start, at these increasing times and at the end; the run stops at the last of them
            at the latest. None records every step of the solver.
        rtol: relative tolerance, at most 0.1. Errors of a whole run fall in proportion to it.
        atol: absolute error per step; None takes for every parameter about rtol / 2 times its own initial size (or
            times a tenth of the root mean square of all parameters, if that is more), which resolves small starts.
        track: {name: function of the network that returns a number, tensor or array, always of one shape}; it is
            evaluated under no_grad at every recorded time.
        resume: the record of an earlier flow of this network: go on from its last state, and return both as one. The
            record says which time its state belongs to, also after rows were left out of it.
        progress: True for a status line on the terminal; or a function that is called with that line; None for none.

    Returns:
        A Dataset with coordinate `time`, variables `loss` and the tracked ones along it, `state` (all trained
        parameters at the end, as one vector), and `atol`, the absolute errors that a resumed run needs. Its attributes
        are "stopped", "message" (details of "stopped"), "evaluations" (of the gradient), "steps" (of the solver),
        "seconds", "solver", "rtol", "until_loss", "early" (1 after a warning `StoppedEarly` or an interrupt, else 0),
        "network", "loss_function" and "versions". "stopped" is "loss", "time", "evaluations", "stationary" (the
        gradient vanishes, the next change is beyond time 1e25, or the loss does not fall any more) or "nan" (the flow
        diverged).

        Ctrl-C raises a KeyboardInterrupt whose attribute `record` holds the record so far.

    Raises:
        TypeError: for a network that is not in float64 on the CPU or on CUDA, several networks from `rl.stack`, or a
            task that is no problem.
        ValueError: for a loss whose gradient is discontinuous ("l1"), a network with all nodes frozen, or bounds or
            tolerances outside their ranges, such as times that do not increase.

    Warns:
        StoppedEarly: if the run ends by "evaluations", "nan", or (unless `until_loss` is 0) "stationary".
        UserWarning: if the loss is `until_loss` or less at the start already, so that nothing is trained.

    Source: the setting of Razin and Cohen (NeurIPS 2020) and of Razin, Maman, Cohen (ICML 2021, 2022): gradient flow.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.counterexample()
    >>> net = rl.init.product_(rl.deep_matrix((2, 2), depth=3), 1e-3 * torch.eye(2, dtype=torch.float64))
    >>> run = rl.gradient_flow(net, task, until_loss=1e-4, track={"w": lambda net: net.tensor()[0, 0]})
    >>> run.attrs["stopped"], round(abs(float(run.w[-1])), 1)  # 1 / sqrt(2 loss), although this entry is unobserved
    ('loss', 70.7)
    """
    _check_network(net)
    check_smooth(task)
    checkpoint = Checkpoint(net, resume, "time", track)
    if checkpoint.finished is not None:
        with _flattened(net) as flat:
            _restore(flat, checkpoint.finished)
        return checkpoint.finished
    resume = checkpoint.resume
    recorder = Recorder("time", track, resume)
    bounds = flow_bounds(until_loss, until_time, until_evaluations, times, rtol, atol, recorder.start)
    before, started = Cost.of(resume), clock.perf_counter()
    with _flattened(net) as flat, threads(contract.work(net.layout)), reporter(progress) as report:
        if resume is not None:
            _restore(flat, resume)
        field = _Field(net, task, flat, before.evaluations, shared=flat.device.type == "cpu")
        errors = _absolute_errors(flat, rtol, atol, resume)
        run = Run(field, recorder, local_error(rtol), errors, recorder.start)

        def record(stopped: str, message: str = "") -> xr.Dataset:
            outcome = Outcome(stopped, message, _cost(before, field, run, started))
            attrs = _attributes(outcome, net, task, until_loss, rtol)
            return recorder.result(outcome, {"state": run.point.state, "atol": errors}, attrs, run.point.time)

        # A row of a checkpoint's own time, between the recorded `times`, would not be in an uninterrupted record.
        begins = resume is None or resume.attrs["stopped"] != UNFINISHED or recorder.start in resume.time
        run.go(bounds, checkpoint.watch(report, lambda: record(UNFINISHED)), begins)
        field.subject  # noqa: B018  (leaves the network at the last state)
    warn_if_early(Outcome(run.stopped, run.message, Cost()), run.point.loss, until_loss)
    if resume is None and run.stopped == "loss" and not run.steps and until_loss > 0:
        warnings.warn(
            f"{run.message}, so nothing was trained; pass an until_loss below {run.point.loss:.3g}",
            stacklevel=AT_CALLER,
        )
    return checkpoint.end(record(run.stopped, run.message))


def _cost(before: Cost, field: "_Field", run: Run[TensorNetwork], started: float) -> Cost:
    """Return the work of a run so far, with that of the runs that it resumed."""
    return Cost(field.evaluations, before.steps + run.steps, before.seconds + clock.perf_counter() - started)


def _attributes(outcome: Outcome, net: TensorNetwork, task: Problem, until_loss: float, rtol: float) -> Attributes:
    """Return the attributes of a flow's record."""
    return run_attributes(
        outcome,
        task,
        network=repr(net),
        solver=SOLVER,
        until_loss=until_loss,
        early=is_early(outcome.stopped, until_loss),
        rtol=rtol,
    )


class _Field:
    """The right-hand side of the flow of a network: minus the gradient.

    The solver writes states into the parameters themselves, on the device of the network. On an accelerator, states are
    copied only to be recorded.

    Args:
        net: the network.
        task: the problem.
        flat: the trained parameters of `net` as one tensor, with which they share memory.
        evaluations: number of gradients that an earlier run has evaluated.
        shared: whether `array` shares memory with `flat`, which needs the CPU.
    """

    def __init__(self, net: TensorNetwork, task: Problem, flat: Tensor, evaluations: int, *, shared: bool) -> None:
        self.net, self.flat, self.shared = net, flat, shared
        self.array: Floats = flat.numpy() if shared else flat.cpu().numpy().copy()
        self._velocity = torch.zeros_like(flat)
        trained = [stack for stack in net.stacks if stack.requires_grad]
        parts = self._velocity.split([stack.numel() for stack in trained])
        shaped = [part.view_as(stack) for part, stack in zip(parts, trained, strict=True)]
        self.gradient = LossGradient(net, task, shaped, sign=-1)
        self.evaluations = evaluations
        small = flat.device.type == "cpu" and len(flat) <= SMALL
        self.vector: Vector = flat.numpy() if small else flat
        self._rate: Vector = self._velocity.numpy() if small else self._velocity

    @property
    def slope(self) -> float:
        """Return the Euclidean norm of the latest gradient."""
        return math.sqrt(float(torch.dot(self._velocity, self._velocity)))

    @property
    def subject(self) -> TensorNetwork:
        """Return the network, at the present state."""
        self._place()
        return self.net

    def rate(self) -> Vector:
        """Return minus the gradient at the state in `vector`, in memory that the next evaluation writes to again."""
        self.evaluations += 1
        self.gradient.write()
        return self._rate

    def velocity(self) -> Floats:
        """Return minus the gradient at the state in `array`, flat."""
        self._place()
        self.rate()
        return self._velocity.cpu().numpy().copy()

    def loss_at(self, y: Floats) -> float:
        """Go to a state, and return its loss."""
        np.copyto(self.array, y)
        self._place()
        return float(self.gradient.loss())

    def _place(self) -> None:
        """Give the network the state that `array` holds."""
        if not self.shared:
            self.flat.copy_(torch.from_numpy(self.array))


@contextmanager
def _flattened(net: TensorNetwork) -> Iterator[Tensor]:
    """Let all trained parameters share one flat tensor; afterwards give each its own storage again."""
    trained = [stack for stack in net.stacks if stack.requires_grad]
    if not trained:
        raise ValueError("every node of the network is frozen; leave at least one node to train")
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


def _absolute_errors(flat: Tensor, rtol: float, atol: float | None, record: xr.Dataset | None) -> Floats:
    """Return the absolute error per step of every parameter; a resumed run rescales those of its record.

    They are taken from the sizes at the very start: a parameter that is small now may have been large there.
    """
    if atol is not None:
        return np.full(len(flat), float(atol))
    if record is not None:
        return np.array(record["atol"].values * (local_error(rtol) / local_error(float(record.attrs["rtol"]))))
    return default_errors(flat.cpu().numpy(), rtol)


def _restore(flat: Tensor, record: xr.Dataset) -> None:
    state = torch.from_numpy(np.array(record["state"].values, dtype=np.float64))
    if "atol" not in record.variables or record["atol"].shape != state.shape:
        raise ValueError("resume has no atol for every parameter; pass the record of a flow as it was returned")
    if state.shape != flat.shape:
        raise ValueError(
            f"the record's state has {len(state)} parameters, this network {len(flat)}; resume with a network of the "
            f"record's own shape"
        )
    flat.copy_(state)


def _check_network(net: TensorNetwork) -> None:
    if not isinstance(net, TensorNetwork):
        raise TypeError(
            f"net is a {type(net).__name__}; a flow takes one TensorNetwork: call it for each network in turn, or "
            f"train those of rl.stack together with rl.gradient_descent"
        )
    if net.dtype != torch.float64 or net.device.type not in ("cpu", "cuda"):
        raise TypeError(
            f"the network is {net.dtype} on {net.device}; a flow needs float64 on the CPU or on CUDA, because its laws "
            f"are checked to 1e-8: make it with dtype=torch.float64, or use rl.gradient_descent"
        )
