"""The record of a run: an xarray.Dataset of the loss and of tracked quantities along it, and of its final state."""

import functools
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Generic, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import ranklens
from ranklens.problems.problem import Problem, loss_name
from ranklens.tensors.network import TensorNetwork

Subject = TypeVar("Subject")  # the object that a run changes and that tracked functions take: a network, or a matrix
Quantity = Tensor | ArrayLike  # a tracked value: a number or an array of numbers, of fixed shape
Track = Mapping[str, Callable[[TensorNetwork], Quantity]]
Attributes = dict[str, str | int | float]

# What a user can do about a run that stopped before its goal, by the reason why it stopped.
REMEDIES = {
    "evaluations": "raise until_evaluations",
    "stationary": "start from other values, change the network, or pass until_loss=0 to stop at rest without a warning",
    "singular": "take a depth of at least 2, where no singular value reaches zero in finite time",
    "steps": "take more steps or a larger learning rate, or leave out until_loss",
    "nan": "check that the loss is bounded below, and finite at the initialization",
}
# Frames from warnings.warn up to the user's call: warn_if_early, the run's function, the check of its arguments, its
# enable_grad wrapper, the user.
CALLER = 5


class StoppedEarly(UserWarning):
    """Warn that a flow or a descent stopped before it reached its goal.

    The goal is `until_loss`, and for a flow also a given `until_time` or the last of `times`. The attribute `stopped`
    of the record holds the reason: "evaluations", "steps", "stationary", "singular" or "nan". The attribute `early` is
    1 if the run warned or was interrupted, else 0. Two endings are goals and do not warn: a flow with `until_loss=0`
    that comes to rest, and a descent that takes all its steps although no `until_loss` was passed.

    >>> import warnings, ranklens as rl
    >>> from ranklens.dynamics.record import StoppedEarly
    >>> task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), depth=2)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", StoppedEarly)
    ...     run = rl.gradient_flow(net, task, until_evaluations=5)
    >>> run.attrs["stopped"]
    'evaluations'
    """


@contextmanager
def ignoring_early_stops() -> Iterator[None]:
    """Ignore `StoppedEarly` inside a block or, as a decorator, inside a function, whose runs may end at any bound.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoppedEarly)
        yield


class Interrupted(KeyboardInterrupt):
    """Interrupt a run from the keyboard, and carry the record of the run up to there.

    Attributes:
        record: the record, whose attribute "stopped" is "interrupted"; it can be plotted, saved and resumed.
    """

    def __init__(self, record: xr.Dataset) -> None:
        super().__init__("the run was interrupted; the attribute `record` of this exception holds the run so far")
        self.record = record


@dataclass(frozen=True)
class Cost:
    """How much work a run took.

    Attributes:
        evaluations: number of gradient evaluations.
        steps: number of steps of the solver or the optimizer.
        seconds: wall-clock time, in seconds.
    """

    evaluations: int = 0
    steps: int = 0
    seconds: float = 0.0

    @staticmethod
    def of(record: xr.Dataset | None) -> "Cost":
        """Return the cost that a record states, or zero without a record."""
        if record is None:
            return Cost()
        attrs = record.attrs
        return Cost(int(attrs["evaluations"]), int(attrs["steps"]), float(attrs["seconds"]))


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        stopped: the reason in one word: "loss", "time", "steps", "evaluations", "stationary", "singular", "nan" or
            "interrupted".
        message: details of the reason, or the empty string.
        cost: the work of the run and of the runs that it resumed.
    """

    stopped: str
    message: str
    cost: Cost


def run_attributes(
    outcome: Outcome,
    task: Problem,
    *,
    network: str,
    solver: str,
    until_loss: float,
    early: bool,
    **settings: str | float,
) -> Attributes:
    """Return the attributes that the record of every run has.

    Args:
        outcome: how the run ended.
        task: the problem; the record keeps the name of its loss.
        network: a description of the network.
        solver: name of the solver or optimizer, with its settings.
        until_loss: the loss at which the run would have stopped.
        early: whether the run stopped before its goal.
        settings: further attributes of this kind of run.

    Returns:
        Attributes "stopped", "message", "evaluations", "steps", "seconds", "solver", "until_loss", "early" (0 or 1),
        "network", "loss_function", and those of `settings`.
    """
    return {
        "stopped": outcome.stopped,
        "message": outcome.message,
        "evaluations": outcome.cost.evaluations,
        "steps": outcome.cost.steps,
        "seconds": outcome.cost.seconds,
        "solver": solver,
        "until_loss": until_loss,
        "early": int(early),
        "network": network,
        "loss_function": loss_name(task),
        **settings,
    }


def is_early(stopped: str, goal: float) -> bool:
    """Return whether a run stopped before its goal.

    Args:
        stopped: the reason why it stopped.
        goal: the loss that was to be reached. At 0 or less there is none, and a flow that comes to rest, or a descent
            that takes all its steps, has reached its goal.
    """
    return stopped == "interrupted" or (stopped in REMEDIES and (goal > 0 or stopped not in ("stationary", "steps")))


def warn_if_early(outcome: Outcome, loss: float, goal: float) -> None:
    """Warn if a run stopped before its goal; the warning points at the line that called the run's function.

    Args:
        outcome: how the run ended.
        loss: the loss at its end.
        goal: the loss that was to be reached. At 0 or less there is none, and a flow that comes to rest, or a descent
            that takes all its steps, has reached its goal.
    """
    if is_early(outcome.stopped, goal) and outcome.stopped in REMEDIES:
        wanted = f", but until_loss is {goal:.3g}" if goal > 0 else ""
        details = f" ({outcome.message})" if outcome.message else ""
        warnings.warn(
            f"the run stopped by {outcome.stopped!r} at a loss of {loss:.3g}{wanted}{details}; "
            f"{REMEDIES[outcome.stopped]}",
            StoppedEarly,
            stacklevel=CALLER,
        )


class Recorder(Generic[Subject]):
    """Collect one row per recorded time (or step), and build the Dataset of a run.

    Args:
        axis: name of the coordinate, "time" or "step".
        track: {name: function of the subject}, where the subject is the object whose run is recorded, such as a network
            or a matrix, in its present state; the variable of that name gets the dimensions (axis, name_0, name_1,
            ...), one per dimension of the function's value.
        before: the record that is resumed, whose rows come first, after `check_resumed`; None for a new run.

    Attributes:
        start: the time or step at which the run starts: 0, or that of the state of `before`.
    """

    def __init__(
        self, axis: str, track: Mapping[str, Callable[[Subject], Quantity]] | None, before: xr.Dataset | None = None
    ) -> None:
        self.axis = axis
        track = {} if track is None else track
        _check_track(track, axis)
        self.track = dict(track)
        self.before = before
        self.at: list[float] = []
        self.losses: list[float] = []
        self.tracked: dict[str, list[NDArray[np.generic]]] = {name: [] for name in self.track}
        self.start = 0.0 if before is None else place_of_state(before, axis)

    def __len__(self) -> int:
        """Return the number of rows recorded by this run, without those of the resumed record."""
        return len(self.at)

    def add(self, at: float, loss: float, subject: Subject) -> None:
        """Record one row.

        Args:
            at: the time or step.
            loss: the loss there.
            subject: the network or matrix in its present state; the tracked functions are applied to it under no_grad.

        Raises:
            ValueError: if a tracked value changed its shape.
        """
        values = {}
        with torch.no_grad():
            for name, function in self.track.items():
                values[name] = array_of(name, function(subject))
                if self.tracked[name] and values[name].shape != self.tracked[name][0].shape:
                    raise ValueError(
                        f"track[{name!r}] has shape {values[name].shape}, before {self.tracked[name][0].shape}; "
                        f"keep it the same"
                    )
        self.at.append(at)
        self.losses.append(loss)
        for name, value in values.items():
            self.tracked[name].append(value)

    def result(
        self, outcome: Outcome, state: Mapping[str, ArrayLike], attrs: Attributes, at: float | None = None
    ) -> xr.Dataset:
        """Return the record of the run, made by `finish`, or raise an exception with it if the run was interrupted.

        Args:
            outcome: how the run ended.
            state: {name: values at the end of the run}.
            attrs: attributes of the record.
            at: the time or step of the state, which a run that resumes the record starts from; None if none can.

        Raises:
            Interrupted: if `outcome.stopped` is "interrupted"; the exception carries the record.
        """
        record = self.finish(state, attrs, at)
        if outcome.stopped == "interrupted":
            raise Interrupted(record)
        return record

    def drop(self) -> None:
        """Remove the latest row."""
        self.at.pop()
        self.losses.pop()
        for values in self.tracked.values():
            values.pop()

    def finish(
        self, state: Mapping[str, ArrayLike], attrs: Mapping[str, str | float | int], at: float | None = None
    ) -> xr.Dataset:
        """Return the record: all rows, the final state as further variables, and the attributes.

        Rows of the resumed record come first. Axis k of a variable of the final state is the dimension "{name}_{k}".

        Args:
            state: {name: values at the end of the run}.
            attrs: attributes of the record; the versions of the software are added to them.
            at: the time or step of the state, which becomes an attribute of the variable "state"; None if no run can
                resume the record.
        """
        record = self._rows()
        for name, value in state.items():
            values = np.asarray(value)
            record[name] = ((*[f"{name}_{k}" for k in range(values.ndim)],), values)
        if at is not None:
            record["state"].attrs[self.axis] = at
        record.attrs = {**attrs, "versions": versions()}
        return record

    def _rows(self) -> xr.Dataset:
        """Return the rows of the resumed record and of this run as one Dataset."""
        names = ["loss", *self.track]
        if self.before is not None and not len(self):
            return self.before[names].copy()
        columns = {"loss": np.asarray(self.losses), **{name: np.stack(rows) for name, rows in self.tracked.items()}}
        variables = {
            name: ((self.axis, *[f"{name}_{k}" for k in range(values.ndim - 1)]), values)
            for name, values in columns.items()
        }
        rows = xr.Dataset(variables, coords={self.axis: np.asarray(self.at)})
        if self.before is None:
            return rows
        # The row of the state that was resumed is left out. This run has recorded that state again, or, in a descent
        # that ended between two multiples of `every`, an uninterrupted run would not have recorded it.
        earlier = self.before[self.axis].values < self.start
        return xr.concat([self.before[names].isel({self.axis: earlier}), rows], self.axis)


def place_of_state(record: xr.Dataset, axis: str) -> float:
    """Return the time or step of a record's state, at which a run that resumes the record starts.

    Rows may have been left out of the record since it was made; its state is still that of the end of its run.

    Args:
        record: the record of a flow or a descent.
        axis: name of its coordinate, "time" or "step".

    Raises:
        ValueError: if the record does not say it, or has later rows, or rows that are not in order.
    """
    at, rows = record["state"].attrs.get(axis), record[axis].values
    if at is None:
        raise ValueError(
            f"the record to resume from does not say which {axis} its state belongs to: an earlier version wrote "
            f"it, or its attributes were lost; if its last row is the end of its run, set "
            f'record["state"].attrs["{axis}"] = float(record.{axis}[-1])'
        )
    if not (np.diff(rows) > 0).all() or (rows > at).any():
        raise ValueError(
            f"the record to resume from has rows that are not in order, or after {axis} {at:g}, which its state "
            f"belongs to; resume a record as it was returned, or with rows left out"
        )
    return float(at)


@functools.cache
def versions() -> str:
    """Return the versions of ranklens, of the packages that do its arithmetic, and of Python, in one line."""
    packages = [f"ranklens {ranklens.__version__}", *[f"{name} {version(name)}" for name in ("torch", "numpy")]]
    return ", ".join([*packages, f"Python {platform.python_version()}"])


def numpy(tensor: Tensor) -> NDArray[np.generic]:
    """Return a tensor as an array; bfloat16, which numpy does not have, becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def array_of(name: str, value: object) -> NDArray[np.generic]:
    """Return a copy of a tracked value as a numpy array.

    Args:
        name: name of the tracked quantity, for the error message.
        value: a tensor, or anything that `numpy.array` accepts.

    Raises:
        TypeError: if numpy makes an array of objects of the value.
    """
    found = numpy(value).copy() if isinstance(value, Tensor) else np.array(value)
    if found.dtype == object:
        raise TypeError(f"track[{name!r}] gave a {type(value).__name__}; let it return numbers")
    return found


def _check_track(track: Mapping[str, object], axis: str) -> None:
    if not isinstance(track, Mapping):
        raise TypeError(
            f"track is a {type(track).__name__}; pass a dictionary {{name: function of the network}}, such as "
            f'{{"s": lambda net: rl.singular_values(net.tensor())}}'
        )
    for name, function in track.items():
        if name in (axis, "loss", "state", "atol"):
            raise ValueError(f"track names {name!r}, which every record has already; choose another name")
        if not name.isidentifier() or name.rpartition("_")[2].isdigit():
            raise ValueError(f"track names {name!r}; take a word that does not end in _0, _1, ..., as dimensions do")
        if not callable(function):
            raise TypeError(f"track[{name!r}] is a {type(function).__name__}; pass a function of the state")
