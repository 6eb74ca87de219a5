"""The stiff solver of all flows: SUNDIALS CVODE stepped one step at a time, and what ends a run."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from sksundae.cvode import CVODE

from ranklens.dynamics.record import Recorder
from ranklens.progress import Report

HORIZON = 1e25  # what would take longer than this counts as not moving
KRYLOV = 10  # Krylov vectors per linear solve
FLOOR = 0.1  # of the root mean square: where the errors of parameters differ by more, GMRES may crawl
# a flow is at rest when its loss has not fallen in so many steps while time grew by such a factor; a plateau takes
# fewer steps, some fifty for every factor e by which the escaping component grows, or less time
REST = ((300, 1e12), (5000, 1e3))
FLAT = 50  # or, where the solver then fails or cannot advance, in so few


@runtime_checkable
class Field(Protocol):
    """What moves, in CVODE's terms: arrays in, arrays out, evaluations counted.

    Attributes:
        array: the present state; it shares memory with what is moved.
        evaluations: how often the velocity was asked for.
        slope: norm of the latest velocity.
    """

    array: NDArray[Any]
    evaluations: int
    slope: float

    @property
    def subject(self) -> Any:
        """What a record is told of."""

    def __call__(self, time: float, y: NDArray[Any], yp: NDArray[Any], /) -> None:
        """Go to state y, and write its velocity into yp."""

    def velocity(self) -> NDArray[Any]:
        """The velocity at the present state."""

    def loss_at(self, y: NDArray[Any]) -> float:
        """Go to a state and evaluate the loss there."""


class Run:
    """One pass of the solver from a time on, with what it records and why it stopped."""

    def __init__(
        self,
        field: Field,
        recorder: Recorder,
        rtol: float,
        atol: NDArray[Any],
        time: float,
        ending: Callable[[NDArray[Any]], str] = lambda _: "",
    ) -> None:
        self.field, self.recorder, self.ending = field, recorder, ending
        self.begun = self.time = time
        self.loss = field.loss_at(field.array)
        self.state = field.array.copy()
        self.stopped, self.message, self.steps, self.stuck = "", "", 0, 0
        self.solver_rtol, self.low, self.fell = rtol, self.loss, (0, time)
        # an end time of 1e25 makes CVODE guess a first step that is far too long
        self.slope = float(np.linalg.norm(field.velocity()))
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
        self,
        until_loss: float,
        until_time: float,
        until_evaluations: int | None,
        times: Any,
        report: Report,
        begins: bool = True,
    ) -> None:
        """Step until something ends the run; the field is left at the last state."""
        if begins:
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
        reason = self.ending(state)
        if reason and loss > until_loss:
            end = self._onset(before, end)
            state = self._within(end)
            loss = self.field.loss_at(state)
            self._end(reason)
        elif loss <= until_loss:
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
        here = self.field.velocity()
        self.field.array *= 1 + self.solver_rtol
        there = self.field.velocity()
        if self.steps - self.fell[0] >= FLAT or float(np.linalg.norm(there - here)) >= float(np.linalg.norm(here)):
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

    def _onset(self, before: float, after: float) -> float:
        """When within a step the run's own ending comes about, by bisection."""
        while after - before > 1e-12 * after:
            middle = (before + after) / 2
            if not before < middle < after:
                break
            before, after = (before, middle) if self.ending(self._within(middle)) else (middle, after)
        return after

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
        self.recorder.add(self.time, self.loss, self.field.subject)

    def _end(self, reason: str, message: str = "") -> None:
        self.stopped, self.message = reason, message


def default_errors(start: NDArray[Any], rtol: float) -> NDArray[Any]:
    """Absolute error of every number: small against its own start, whatever the size of the others."""
    scale = float(np.sqrt(np.square(start).mean())) or 1.0
    return local_error(rtol) * np.maximum(np.abs(start), FLOOR * scale)


def local_error(rtol: float) -> float:
    """The error allowed per step: half of rtol, and a little less than in proportion, as smaller steps are more."""
    return 5e-7 * (rtol / 1e-6) ** 1.05


def check_bounds(
    until_loss: float, until_time: float, until_evaluations: int | None, rtol: float, atol: float | None
) -> None:
    """Refuse bounds and tolerances that make no sense."""
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


def check_times(times: Sequence[float] | NDArray[Any] | None, start: float) -> NDArray[Any] | None:
    """The times at which a record is wanted, as increasing numbers beyond the start."""
    if times is None:
        return None
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all() or (np.diff(wanted) <= 0).any():
        raise ValueError(f"times are {times!r}; give increasing finite numbers")
    if wanted[-1] <= start:
        raise ValueError(f"the last of times is {wanted[-1]:g}, but the flow starts at {start:g}; go further")
    return wanted
