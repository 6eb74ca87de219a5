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
from scipy.optimize import brentq
from sksundae.cvode import CVODE
from torch import Tensor

from ranklens import contract
from ranklens.network import TensorNetwork
from ranklens.progress import Report, reporter
from ranklens.record import Recorder, Track

HORIZON = 1e25  # what would take longer than this counts as not moving
KRYLOV = 10  # Krylov vectors per linear solve
FLOOR = 0.1  # of the root mean square: where the errors of parameters differ by more, GMRES may crawl
# a flow is at rest when its loss has not fallen in so many steps while time grew by such a factor; a plateau takes
# fewer steps, some fifty for every factor e by which the escaping component grows, or less time
REST = ((300, 1e12), (5000, 1e3))
FLAT = 50  # or, where the solver then fails or cannot advance, in so few


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
    wanted = _check_times(times, start)
    until_time = min(until_time, wanted[-1]) if wanted is not None else until_time
    started = clock.perf_counter()
    with _flattened(net) as flat, contract.threads(net.layout.work), reporter(progress) as report:
        if resume is not None:
            _restore(flat, resume)
        field = _Field(net, task, flat)
        field.evaluations = int(before["evaluations"])
        errors = _absolute_errors(flat, rtol, atol, resume)
        run = _Run(field, recorder, _local(rtol), errors, start)
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
        np.copyto(yp, self.gradient().neg_().numpy())

    def gradient(self) -> Tensor:
        """The gradient at the present state, flat."""
        self.evaluations += 1
        parts = torch.autograd.grad(self.task.loss(self.net), self.trained, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in parts])
        self.slope = float(gradient.norm())
        return gradient

    def loss_at(self, y: NDArray[Any]) -> float:
        """Go to a state and evaluate the loss there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.net))


class _Run:
    """One pass of the solver from a time on, with what it records and why it stopped."""

    def __init__(self, field: _Field, recorder: Recorder, rtol: float, atol: NDArray[Any], time: float) -> None:
        self.field, self.recorder = field, recorder
        self.begun = self.time = time
        self.loss = field.loss_at(field.array)
        self.state = field.array.copy()
        self.stopped, self.message, self.steps, self.stuck = "", "", 0, 0
        self.solver_rtol, self.low, self.fell = rtol, self.loss, (0, time)
        # an end time of 1e25 makes CVODE guess a first step that is far too long
        self.slope = float(field.gradient().norm())
        first = 1e-3 * float(np.linalg.norm(self.state)) / self.slope if self.slope > 0 else 1.0
        self.first = max(min(first, HORIZON / 10), 1e-300)
        self.solver = CVODE(
            field,
            method="BDF",
            linsolver="gmres",
            krylov_dim=KRYLOV,
            rtol=rtol,
            atol=atol,
            first_step=self.first,
            max_num_steps=10**9,
        )

    def go(
        self, until_loss: float, until_time: float, until_evaluations: int | None, times: Any, report: Report
    ) -> None:
        """Step until something ends the run; the field is left at the last state."""
        self._record()
        if not math.isfinite(self.loss + self.slope):
            self._end("nan", f"the loss or its gradient is not finite at the start, time {self.time:g}")
        elif self.loss <= until_loss:
            self._end("loss")
        elif self.slope * HORIZON <= float(np.linalg.norm(self.state)):
            self._end("stationary")
        elif self.time >= until_time:
            self._end("time")
        else:
            self.solver.init_step(self.time, self.state)
        limit = math.inf if until_evaluations is None else until_evaluations
        while not self.stopped:
            self._step(until_loss, until_time, times)
            if not self.stopped and self.field.evaluations >= limit:
                self._end("evaluations")
            if not self.stopped and self._is_stationary():
                self._end("stationary")
            if times is None or self.stopped:
                self._record()
            report(
                f"loss {self.loss:.2e} of {until_loss:.0e}, time {self.time:.3g}, {self.field.evaluations} evaluations"
            )

    def _step(self, until_loss: float, until_time: float, times: Any) -> None:
        before = self.time
        result = self.solver.step(HORIZON * 2, method="onestep")
        self.steps += 1
        if not result.success and math.isfinite(self.field.slope):
            self._give_up(result.message)
            return
        loss = self.field.loss_at(result.y)
        if not math.isfinite(loss + self.field.slope):
            self._end("nan", f"after time {before:g} the loss or its gradient is not finite")
            return
        end, state = float(result.t), np.array(result.y)
        self.stuck = self.stuck + 1 if end <= before else 0  # where a step is less than the rounding of so long a time
        if end > until_time:
            end, state = until_time, self._within(until_time)
            loss = self.field.loss_at(state)
        if loss <= until_loss:
            end = self._crossing(before, end, until_loss)
            state = self._within(end)
            loss = self.field.loss_at(state)
            self._end("loss")
        elif end >= until_time:
            self._end("time")
        inside = [] if times is None else times[(times > before) & (times <= end)]
        for wanted in [time for time in inside if time < end or not self.stopped]:
            self.time, self.state = float(wanted), self._within(wanted)
            self.loss = self.field.loss_at(self.state)
            self._record()
        self.time, self.state, self.loss = end, state, loss

    def _give_up(self, message: str) -> None:
        """End where the solver fails: at rest, where its own error makes the gradient, it can trust no step."""
        np.copyto(self.field.array, self.state)
        here = self.field.gradient()
        self.field.flat.mul_(1 + self.solver_rtol)
        there = self.field.gradient()
        if self.steps - self.fell[0] >= FLAT or float((there - here).norm()) >= float(here.norm()):
            self._end("stationary", f"at time {self.time:g} the gradient is no more than the error of the solver")
        else:
            self._end("nan", f"at time {self.time:g} the solver found no step: {message}")

    def _within(self, time: float) -> NDArray[Any]:
        """The state at a time inside the last step, by the solver's own interpolation."""
        return np.array(self.solver.step(time, method="normal").y)

    def _crossing(self, before: float, after: float, until_loss: float) -> float:
        """When within a step the loss falls to a value; the later side of the root, so that it has."""
        excess = {before: math.inf, after: self.field.loss_at(self._within(after)) - until_loss}

        def over(time: float) -> float:
            if time not in excess or math.isinf(excess[time]):
                excess[time] = self.field.loss_at(self._within(time)) - until_loss
            return excess[time]

        if over(before) <= 0:
            return before
        brentq(over, before, after, xtol=1e-12 * abs(after) + 1e-300, rtol=1e-12)
        return min(time for time, value in excess.items() if value <= 0)

    def _is_stationary(self) -> bool:
        """Whether nothing moves any more; a plateau takes the solver few steps, or little time more than it has run."""
        if self.loss < self.low - self.solver_rtol * abs(self.low):
            self.low, self.fell = self.loss, (self.steps, self.time)
        steps = self.steps - self.fell[0]
        factor = (self.time - self.begun) / max(self.fell[1] - self.begun, self.first)
        resting = any(steps >= least and factor >= grown for least, grown in REST)
        stuck = self.stuck >= FLAT and steps >= FLAT
        return resting or stuck or self.field.slope == 0 or self.time > HORIZON

    def _record(self) -> None:
        np.copyto(self.field.array, self.state)
        self.recorder.add(self.time, self.loss, self.field.net)

    def _end(self, reason: str, message: str = "") -> None:
        self.stopped, self.message = reason, message


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


def _local(rtol: float) -> float:
    """The error allowed per step: half of rtol, and a little less than in proportion, as smaller steps are more."""
    return 5e-7 * (rtol / 1e-6) ** 1.05


def _absolute_errors(flat: Tensor, rtol: float, atol: float | None, record: xr.Dataset | None) -> NDArray[Any]:
    """Absolute local error of every parameter: small against its own start, whatever the size of the others."""
    if atol is not None:
        return np.full(len(flat), atol)
    if record is not None:  # what is small now need not have been small at the start
        return np.array(record["atol"].values * (_local(rtol) / _local(float(record.attrs["rtol"]))))
    scale = float(flat.square().mean().sqrt()) or 1.0
    return (_local(rtol) * flat.abs().clamp_min(FLOOR * scale)).numpy()


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
    if math.isnan(until_loss):
        raise ValueError("until_loss is nan; give the loss at which to stop, or 0 for none")
    if not until_time > 0:
        raise ValueError(f"until_time is {until_time}; it must be positive")
    if until_evaluations is not None and until_evaluations < 1:
        raise ValueError(f"until_evaluations is {until_evaluations}; it must be at least 1, or None for no bound")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol}; a relative tolerance lies between 0 and 1, such as 1e-6")
    if atol is not None and not (math.isfinite(atol) and atol > 0):
        raise ValueError(f"atol is {atol}; it must be positive and finite, or None")


def _check_times(times: Sequence[float] | NDArray[Any] | None, start: float) -> NDArray[Any] | None:
    if times is None:
        return None
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all() or (np.diff(wanted) <= 0).any():
        raise ValueError(f"times are {times!r}; give increasing finite numbers")
    if wanted[-1] <= start:
        raise ValueError(f"the last of times is {wanted[-1]:g}, but the flow starts at {start:g}; go further")
    return wanted
