"""A flow: the stiff solver, advanced step by step until one of the bounds of a run is met."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from torch import Tensor

from ranklens.dynamics.bdf import BDF, NoStepError
from ranklens.dynamics.newton import DIRECTIONS, Vector, copy
from ranklens.dynamics.record import Recorder
from ranklens.progress import Report
from ranklens.tensors import arguments
from ranklens.tensors.convert import as_tensor

Floats = NDArray[np.float64]
Subject_co = TypeVar("Subject_co", covariant=True)  # the object that a field moves: a network, or a matrix
Subject = TypeVar("Subject")

SOLVER = f"BDF, Newton-GMRES({DIRECTIONS})"
# Longest time of a flow. A state that would need longer to change by its own size counts as stationary.
HORIZON = 1e25
# Smallest absolute error of a parameter, as a share of the root mean square of all parameters (times the relative
# error). GMRES weighs the parameters by their errors, and converges slowly when the errors differ by much more.
FLOOR = 0.1
# Pairs (steps, factor): a flow is stationary if its loss has not fallen in that many steps, while the time since the
# start grew by that factor. A plateau takes fewer steps (some fifty for every factor e by which the escaping component
# grows) or a smaller factor of time.
REST = ((300, 1e12), (5000, 1e3))
# Steps without a fall of the loss after which a failure of the solver, a time that no longer advances, or a loss as
# small as the error of the solver counts as rest.
FLAT = 50
# Relative change of the parameters that leaves a loss at the level of rounding no smaller: a few units of float64.
ROUNDING = 8 * float(np.finfo(np.float64).eps)


@runtime_checkable
class Field(Protocol[Subject_co]):
    """The right-hand side of a flow as the solver needs it: states and velocities are flat arrays.

    Attributes:
        array: the present state as a flat array on the CPU.
        vector: the present state as the solver writes it: `array` itself, or a tensor of the same numbers.
        evaluations: the number of velocities computed so far.
    """

    array: Floats
    vector: Vector
    evaluations: int

    @property
    def subject(self) -> Subject_co:
        """Return the present state as an object, a network or a matrix, on which tracked quantities are evaluated."""

    @property
    def slope(self) -> float:
        """Return the Euclidean norm of the latest velocity."""

    def rate(self) -> Vector:
        """Return the velocity at the state in `vector`, in memory that the next call may overwrite; count it."""

    def velocity(self) -> Floats:
        """Return the velocity, a new flat array, at the state in `array`, and count one evaluation."""

    def loss_at(self, y: Floats) -> float:
        """Go to the state `y`, and return its loss."""


@dataclass(frozen=True)
class Bounds:
    """The bounds at which a flow stops, and the times at which it is recorded.

    Attributes:
        loss: stop when the loss is at most this number.
        time: stop at this time.
        evaluations: stop after this many evaluations of the velocity; None for no bound.
        times: increasing times to record; None records every step of the solver.
    """

    loss: float
    time: float
    evaluations: int | None
    times: Floats | None


@dataclass(frozen=True)
class Point:
    """A point of a trajectory.

    Attributes:
        time: the time of the flow.
        state: the state as a flat array, which shares no memory with the field.
        loss: the loss of this state.
    """

    time: float
    state: Floats
    loss: float


@dataclass(frozen=True)
class _Lowest:
    """The lowest loss so far, and the step and the time at which it was reached."""

    loss: float
    step: int
    time: float


class Run(Generic[Subject]):
    """One pass of the solver from a given time on.

    Args:
        field: the right-hand side, at the initial state.
        recorder: the `Recorder` to which one row per recorded time is added.
        rtol: relative error that the solver allows per step: `local_error` of the run's relative tolerance.
        atol: absolute error per step of each number of the state.
        time: the time at the start.
        ending: a function of the state, a flat array, that returns a reason to stop, or the empty string to go on.

    Attributes:
        point: the present point; after `go`, the last one.
        stopped: the reason why the run ended; the empty string while it goes on.
        message: details of that reason.
        steps: number of steps that the solver took.
    """

    def __init__(
        self,
        field: Field[Subject],
        recorder: Recorder[Subject],
        rtol: float,
        atol: Floats,
        time: float,
        ending: Callable[[Floats], str] = lambda _: "",
    ) -> None:
        self.field, self.recorder, self.rtol, self.ending = field, recorder, rtol, ending
        self.point = Point(time, field.array.copy(), field.loss_at(field.array))
        self.stopped, self.message = "", ""
        self.steps = 0
        self._start_time = time
        self._lowest = _Lowest(self.point.loss, 0, time)
        self._steps_without_time = 0
        self._initial_slope = float(np.linalg.norm(field.velocity()))
        size = float(np.linalg.norm(self.point.state))
        first = 1e-3 * size / self._initial_slope if self._initial_slope > 0 else 1.0
        self._first_step = max(min(first, HORIZON / 10), 1e-300)
        self.atol = atol
        self.solver: BDF | None = None  # there is none before the first step

    def go(self, bounds: Bounds, report: Report, begins: bool = True) -> None:
        """Step until the run ends, and leave the field at the last state.

        A run ends at the first of these: a bound is met; the flow is at rest; the loss or its gradient is not finite;
        the solver finds no step; `ending` gives a reason; Ctrl-C is pressed. `stopped` then holds the reason, and a
        KeyboardInterrupt is not raised further.

        Args:
            bounds: the bounds that end the run, and the times at which it is recorded.
            report: called with a line of text after every step.
            begins: whether to record the initial point, which a run that continues another one has recorded already.
        """
        if begins:
            self._record()
        try:
            self._go(bounds, report)
        except KeyboardInterrupt:
            self._end("interrupted", f"interrupted from the keyboard at time {self.point.time:g}")
            if self.recorder.at[-1:] != [self.point.time]:
                self._record()
            np.copyto(self.field.array, self.point.state)

    def _go(self, bounds: Bounds, report: Report) -> None:
        """Take the steps of a run, and end it."""
        self._check_start(bounds)
        if not self.stopped:
            self.solver = self._solver()
        limit = math.inf if bounds.evaluations is None else bounds.evaluations
        while self.solver and not self.stopped:
            self._step(self.solver, bounds)
            if not self.stopped and self.field.evaluations >= limit:
                self._end("evaluations")
            if not self.stopped and (reason := self._rest()):
                self._end("stationary", reason)
            if bounds.times is None or self.stopped:
                self._record()
            report(
                f"loss {self.point.loss:.2e} of {bounds.loss:.0e}, time {self.point.time:.3g}, "
                f"{self.field.evaluations} evaluations"
            )

    def _check_start(self, bounds: Bounds) -> None:
        """End the run before its first step where the initial point already meets a bound or is at rest."""
        time, loss = self.point.time, self.point.loss
        if not math.isfinite(loss + self._initial_slope):
            self._end("nan", f"the loss or its gradient is not finite at the start, time {time:g}")
        elif loss <= bounds.loss:
            self._end("loss", f"the loss at the start is {loss:.3g}, no more than until_loss")
        elif self._initial_slope * HORIZON <= float(np.linalg.norm(self.point.state)):
            self._end("stationary", f"at this gradient the parameters would need a time over {HORIZON:g} to change")
        elif time >= bounds.time:
            self._end("time")
        elif self._is_error(ROUNDING):
            self._end("stationary", "the loss at the start is no more than its rounding error")

    def _solver(self) -> BDF:
        """Return the solver, at the present point."""
        vector = self.field.vector
        copy(self.point.state, vector)
        atol = torch.from_numpy(self.atol).to(vector) if isinstance(vector, Tensor) else self.atol
        return BDF(vector, self.field.rate, self.rtol, atol, self.point.time, self._first_step)

    def _step(self, solver: BDF, bounds: Bounds) -> None:
        """Take one step of the solver; cut it short where a bound is met inside it; record the times inside it."""
        before = self.point.time
        self.steps += 1
        try:
            solver.step()
        except NoStepError as error:
            if math.isfinite(self.field.slope):
                self._give_up(str(error))
                return
        state = _array(solver.state)
        loss = self.field.loss_at(state)
        # Rounding errors of the gradient drive a flow at rest along flat directions, ever faster, until the loss rises.
        if not loss <= self.point.loss + self.rtol * abs(self.point.loss) and self._is_gradient_error(ROUNDING):
            self._end("stationary", f"at time {before:g} the gradient is no more than its rounding error")
            return
        if not math.isfinite(loss + self.field.slope):
            self._end("nan", f"after time {before:g} the loss or its gradient is not finite")
            return
        after = Point(solver.time, state, loss)
        # A step shorter than the rounding error of the time leaves the time where it was.
        self._steps_without_time = self._steps_without_time + 1 if after.time <= before else 0
        if after.time > bounds.time:
            after = self._inside(bounds.time)
        reason = self.ending(after.state)
        if reason and after.loss > bounds.loss:
            after = self._inside(self._onset(before, after.time))
            self._end(reason)
        elif after.loss <= bounds.loss:
            after = self._inside(self._crossing(before, after.time, bounds.loss))
            self._end("loss")
        elif after.time >= bounds.time:
            self._end("time")
        for wanted in [] if bounds.times is None else bounds.times:
            if before < wanted < after.time or (wanted == after.time and not self.stopped):
                self.point = self._inside(float(wanted))
                self._record()
        self.point = after

    def _give_up(self, message: str) -> None:
        """End a run whose solver found no step: at rest, where the gradient is mere error, it can trust none."""
        if self.steps - self._lowest.step >= FLAT or self._is_gradient_error(self.rtol):
            self._end("stationary", f"at time {self.point.time:g} the gradient is no more than the error of the solver")
        else:
            self._end("nan", f"at time {self.point.time:g} the solver found no step: {message}")

    def _inside(self, time: float) -> Point:
        """Return the point at a time inside the last step, by the interpolation of the solver."""
        assert self.solver is not None  # only a step calls this
        state = _array(self.solver.at(time))
        return Point(time, state, self.field.loss_at(state))

    def _crossing(self, before: float, after: float, until_loss: float) -> float:
        """Return the time inside a step at which the loss falls to a value, on the later side of the root."""
        excess = {before: math.inf, after: self._inside(after).loss - until_loss}

        def over(time: float) -> float:
            if time not in excess or math.isinf(excess[time]):
                excess[time] = self._inside(time).loss - until_loss
            return excess[time]

        if over(before) <= 0:
            return before
        brentq(over, before, after, xtol=1e-12 * abs(after) + 1e-300, rtol=1e-12)
        return min(time for time, value in excess.items() if value <= 0)

    def _onset(self, before: float, after: float) -> float:
        """Return the time inside a step at which `ending` first gives a reason, by bisection."""
        while after - before > 1e-12 * after:
            middle = (before + after) / 2
            if not before < middle < after:
                break
            before, after = (before, middle) if self.ending(self._inside(middle).state) else (middle, after)
        return after

    def _rest(self) -> str:
        """Return why the flow counts as stationary, or the empty string if it still moves."""
        if self.point.loss < self._lowest.loss - self.rtol * abs(self._lowest.loss):
            self._lowest = _Lowest(self.point.loss, self.steps, self.point.time)
        steps = self.steps - self._lowest.step
        fell_after = max(self._lowest.time - self._start_time, self._first_step)
        factor = (self.point.time - self._start_time) / fell_after
        if self.field.slope == 0:
            return "the gradient is zero"
        if self.point.time > HORIZON:
            return f"the time is beyond {HORIZON:g}"
        if any(steps >= least and factor >= grown for least, grown in REST):
            return f"the loss has not fallen in {steps} steps, while the time grew by a factor of {factor:.2g}"
        if self._steps_without_time >= FLAT and steps >= FLAT:
            return f"the loss has not fallen in {steps} steps, and steps are shorter than the rounding of the time"
        if steps and steps % FLAT == 0 and self._is_error(self.rtol):
            return "the loss is no more than the error of the solver; a smaller rtol resolves smaller losses"
        return ""

    def _is_error(self, relative: float) -> bool:
        """Return whether a relative change of the state by this much changes both loss and gradient by their own size.

        A loss below that level is not resolved by computations with that relative error. On a plateau, where the loss
        is large, the change of the loss is far smaller than the loss.
        """
        changed = self.field.loss_at(self.point.state * (1 + relative))
        np.copyto(self.field.array, self.point.state)
        return abs(changed - self.point.loss) >= abs(self.point.loss) and self._is_gradient_error(relative)

    def _is_gradient_error(self, relative: float) -> bool:
        """Return whether a relative change of the state by this much changes the gradient by its own size."""
        np.copyto(self.field.array, self.point.state * (1 + relative))
        there = self.field.velocity().copy()
        np.copyto(self.field.array, self.point.state)
        here = self.field.velocity()
        return float(np.linalg.norm(there - here)) >= float(np.linalg.norm(here))

    def _record(self) -> None:
        np.copyto(self.field.array, self.point.state)
        self.recorder.add(self.point.time, self.point.loss, self.field.subject)

    def _end(self, reason: str, message: str = "") -> None:
        self.stopped, self.message = reason, message


def _array(vector: Vector) -> Floats:
    """Return a copy of a vector as an array on the CPU."""
    return vector.cpu().numpy().copy() if isinstance(vector, Tensor) else vector.copy()


def default_errors(start: Floats, rtol: float) -> Floats:
    """Return the absolute error that the solver allows per step for every number of a state.

    It is `local_error(rtol)` times the number's own initial size, or times a tenth of the root mean square of all
    numbers where that is more, so that a small start is resolved however large the others are. The result is an array
    of the shape of `start`. Its entries are positive: if all numbers are zero, their root mean square counts as 1.

    Args:
        start: the initial state, a flat array.
        rtol: the relative tolerance of the run.
    """
    scale = float(np.sqrt(np.square(start).mean())) or 1.0
    return local_error(rtol) * np.maximum(np.abs(start), FLOOR * scale)


def local_error(rtol: float) -> float:
    """Return the relative error that the solver may make per step, 5e-7 (rtol / 1e-6)^1.05.

    Smaller steps are more steps. With the power 1.05 the error of a whole run falls in proportion to rtol.

    Args:
        rtol: the relative tolerance of the run.
    """
    return 5e-7 * (rtol / 1e-6) ** 1.05


def flow_bounds(
    until_loss: float,
    until_time: float,
    until_evaluations: int | None,
    times: Sequence[float] | ArrayLike | None,
    rtol: float,
    atol: float | None,
    start: float = 0.0,
) -> Bounds:
    """Return the bounds of a flow, after checking them and the tolerances.

    Args:
        until_loss: stop when the loss is at most this number; not nan.
        until_time: stop at this time, or at the last of `times` if that is earlier; above 0.
        until_evaluations: stop after this many evaluations of the velocity, at least 1; None for no bound.
        times: the times to record, finite and increasing; None records every step of the solver.
        rtol: relative tolerance, above 0 and at most 0.1. It is checked, and is not part of the result.
        atol: absolute error per step, above 0, or None. It is checked, and is not part of the result.
        start: the time at which the flow starts; the last of `times` must be later.

    Raises:
        ValueError: for a bound or a tolerance outside its range.
    """
    until_loss = arguments.number("until_loss", until_loss, finite=False)
    until_time = arguments.number("until_time", until_time, above=0, finite=False)
    if until_evaluations is not None:
        until_evaluations = arguments.count("until_evaluations", until_evaluations)
    arguments.number("rtol", rtol, above=0, most=0.1)
    if atol is not None:
        arguments.number("atol", atol, above=0)
    if times is None:
        return Bounds(until_loss, until_time, until_evaluations, None)
    wanted = as_tensor("times", times, torch.float64).cpu().numpy()  # type: ignore[arg-type]
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all() or (np.diff(wanted) <= 0).any():
        raise ValueError(f"times are {times!r}; give increasing finite numbers")
    if wanted[-1] <= start:
        raise ValueError(f"the last of times is {wanted[-1]:g}, but the flow starts at {start:g}; go further")
    return Bounds(until_loss, min(until_time, float(wanted[-1])), until_evaluations, wanted)
