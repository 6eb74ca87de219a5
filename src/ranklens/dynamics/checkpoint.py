"""Checkpoints of flows and descents: whoever starts a long run can keep its record so far, and go on from it later."""

import hashlib
import time as clock
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch
import xarray as xr

from ranklens.dynamics.resumed import check_resumed
from ranklens.progress import Report
from ranklens.tensors.network import TensorNetwork

# Value of the attribute "stopped" of a record that was kept while its run went on.
UNFINISHED = "checkpoint"


@runtime_checkable
class Keeper(Protocol):
    """Keeps the records of the flows and descents of one computation until that computation has ended.

    Attributes:
        seconds: time from one checkpoint to the next.
    """

    seconds: float

    def find(self, name: str) -> xr.Dataset | None:
        """Return the record that an interrupted computation kept under a name, or None."""

    def keep(self, name: str, record: xr.Dataset) -> None:
        """Keep a record under a name, in place of an earlier one of that name."""


@runtime_checkable
class Viewer(Protocol):
    """A keeper that is also shown the records of runs that cannot go on from a record."""

    def view(self, record: xr.Dataset) -> None:
        """Take the record of a run so far."""


class _Surrounding:
    """The flows and descents inside one `keeping` context: how many there were, and which await being kept."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper, self.calls = keeper, 0
        self.ended: dict[str, xr.Dataset] = {}
        self.last = clock.process_time()

    def is_due(self) -> bool:
        return clock.process_time() - self.last >= self.keeper.seconds

    def keep(self, name: str, record: xr.Dataset) -> None:
        """Keep the runs that have ended since the last checkpoint, and then one run."""
        for other, ended in self.ended.items():
            self.keeper.keep(other, ended)
        self.ended.clear()
        self.keeper.keep(name, record)
        self.last = clock.process_time()


_surrounding: ContextVar[_Surrounding | None] = ContextVar("surrounding keeper", default=None)


@contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """Let every flow and descent inside this context keep its record from time to time, and go on from a kept one.

    The runs are counted, so an interrupted computation must call them in the same order when it is started again. A
    record is used only if the network, its initialization and the record that it resumes are those of its run.

    Args:
        keeper: keeps the records.

    Yields:
        Nothing.
    """
    token = _surrounding.set(_Surrounding(keeper))
    try:
        yield
    finally:
        _surrounding.reset(token)


def viewed(report: Report, record: Callable[[], xr.Dataset]) -> Report:
    """Return `report`, extended by showing a record to a surrounding `Viewer` whenever a checkpoint is due.

    Args:
        report: the function to which a run that keeps no checkpoints reports its progress.
        record: returns the record of the run so far.
    """
    surrounding = _surrounding.get()
    if surrounding is None or not isinstance(surrounding.keeper, Viewer):
        return report
    viewer = surrounding.keeper

    def reported(text: str) -> None:
        report(text)
        if surrounding.is_due():
            viewer.view(record())
            surrounding.last = clock.process_time()

    return reported


class Checkpoint:
    """The record that one flow or descent goes on from, and, inside `keeping`, its checkpoint.

    Args:
        net: the network at the start.
        resume: the record that the user passed, or None. It is checked here, once.
        axis: name of the coordinate of the record, "time" or "step".
        tracked: names of the quantities that the run tracks, which the record must have too.

    Attributes:
        resume: the record to go on from: the kept one, else the user's, else None.
        finished: the kept record of a run that had ended, or None.
    """

    def __init__(self, net: TensorNetwork, resume: xr.Dataset | None, axis: str, tracked: Iterable[str] | None) -> None:
        names = [] if tracked is None else [*tracked]
        if resume is not None:
            check_resumed(resume, axis, names)
        self.resume, self.finished = resume, None
        self._surrounding = _surrounding.get()
        if self._surrounding is None:
            return
        self._name = f"run{self._surrounding.calls}"
        self._surrounding.calls += 1
        self._start = _digest(net, resume)
        found = self._surrounding.keeper.find(self._name)
        if found is None or found.attrs.get("checkpoint_of") != self._start:
            return
        check_resumed(found, axis, names)
        if found.attrs["stopped"] == UNFINISHED:
            self.resume = found
        else:
            self.finished = found

    def watch(self, report: Report, record: Callable[[], xr.Dataset]) -> Report:
        """Return `report`, extended by keeping a record whenever a checkpoint is due.

        Args:
            report: the function to which the run reports its progress.
            record: returns the record of the run so far.
        """
        surrounding = self._surrounding
        if surrounding is None:
            return report

        def reported(text: str) -> None:
            report(text)
            if surrounding.is_due():
                surrounding.keep(self._name, record().assign_attrs(checkpoint_of=self._start))

        return reported

    def end(self, record: xr.Dataset) -> xr.Dataset:
        """Return the record of a run that has ended; it is kept at once if a checkpoint is due, else with the next."""
        if self._surrounding is not None:
            marked = record.assign_attrs(checkpoint_of=self._start)
            if self._surrounding.is_due():
                self._surrounding.keep(self._name, marked)
            else:
                self._surrounding.ended[self._name] = marked
        return record


def _digest(net: TensorNetwork, resume: xr.Dataset | None) -> str:
    """Return a text that identifies the start of a run: the network, its parameters, and the state it resumes."""
    found = hashlib.sha256(repr(net).encode())
    for stack in net.stacks:
        found.update(stack.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if resume is not None and "state" in resume:
        found.update(resume["state"].values.tobytes())
    return found.hexdigest()
