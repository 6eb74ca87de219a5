"""One run of a sweep, in whichever process or machine: it is claimed, run, kept with its result or its error."""

import hashlib
import time as clock
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import torch
import xarray as xr

import ranklens
from ranklens.dynamics import checkpoint
from ranklens.dynamics.record import StoppedEarly
from ranklens.files import stored
from ranklens.sweeps.contents import thing_of
from ranklens.sweeps.entry import DONE, FAILED, Entry, File
from ranklens.sweeps.identity import digest
from ranklens.sweeps.result import Result, how_it_stopped, is_small, result_of, variables_of
from ranklens.sweeps.settings import Setting
from ranklens.sweeps.work import Work

# Seconds from one checkpoint of a long run to the next: what a lost process costs at most, beside its start.
SECONDS = 30.0
# Largest number of different warnings that the entry of a run keeps.
WARNINGS = 20


@runtime_checkable
class Desk(Protocol):
    """Reads and writes the files of a store, which may be on another machine; see `Store`."""

    def claim(self, key: str) -> bool:
        """Return whether this process may run something now."""

    def release(self, key: str) -> None:
        """End a claim."""

    def tidy(self, key: str) -> None:
        """Remove half-written files of a run."""

    def read(self, key: str, name: str) -> bytes | None:
        """Return the content of a file of a run, or None."""

    def write(self, key: str, name: str, content: bytes) -> None:
        """Write a file of a run, whole or not at all."""

    def remove(self, key: str, *, beside: tuple[str, ...] = ()) -> None:
        """Remove the files of a run, except those named in `beside`."""


@dataclass(frozen=True)
class Job:
    """One run that is to be made.

    Attributes:
        key: the key of the run.
        settings: all its settings.
    """

    key: str
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class Report:
    """How a job went.

    Attributes:
        key: the key of the run.
        state: "done"; "failed"; "busy", if another sweep runs it at present; "unwritten", if the store cannot be
            written; or "lost", if its process died.
        message: details.
        record: the SHA-256 of the file of the record that the run has written, or the empty string.
    """

    key: str
    state: str
    message: str = ""
    record: str = ""


def perform(desk: Desk, work: Work, job: Job) -> Report:
    """Make one run and keep its result in the store, or its error.

    Ctrl-C is raised further; the latest checkpoint stays, and a later call goes on from it.

    Args:
        desk: the store.
        work: the function or study.
        job: the settings.

    Returns:
        How the run went.
    """
    try:
        if not desk.claim(job.key):
            return Report(job.key, "busy")
        try:
            return _perform(desk, work, job)
        finally:
            desk.release(job.key)
    except OSError as error:  # errors of the function itself have been caught further inside
        return Report(job.key, "unwritten", f"{type(error).__name__}: {error}")


def _perform(desk: Desk, work: Work, job: Job) -> Report:
    found = desk.read(job.key, f"{job.key}.json")
    with suppress(ValueError):
        if found is not None and (other := Entry.from_json(found)).state == DONE and _is_whole(desk, other):
            return Report(job.key, DONE)  # another sweep has made it since this one looked
    desk.tidy(job.key)
    blank = Entry(job.key, work.name, work.code, ranklens.__version__, dict(job.settings), FAILED, FAILED, False, 0.0)
    entry, contents = _attempt(desk, work, job, blank)
    for name, content in contents.items():
        desk.write(job.key, name, content)
    desk.write(job.key, f"{job.key}.json", entry.to_json().encode())
    desk.remove(job.key, beside=(f"{job.key}.json", *contents))
    return Report(job.key, entry.state, entry.error(), "" if entry.record is None else entry.record.sha256)


def _is_whole(desk: Desk, entry: Entry) -> bool:
    contents = {file: desk.read(entry.key, file.name) for file in entry.files()}
    return all(
        found is not None and hashlib.sha256(found).hexdigest() == file.sha256 for file, found in contents.items()
    )


def _attempt(desk: Desk, work: Work, job: Job, blank: Entry) -> tuple[Entry, dict[str, bytes]]:
    """Return the entry of a run, failed or not, and the contents of its files by name."""
    started, threads = clock.perf_counter(), torch.get_num_threads()
    contents: dict[str, bytes] = {}
    keeper = _Keeper(desk, job.key)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", StoppedEarly)
        torch.set_num_threads(1)
        try:
            with checkpoint.keeping(keeper):
                result = result_of(work.run(job.settings))
            entry, contents = _described(blank, result)
        except Exception:  # whatever the function raises is kept, and does not end the sweep
            if keeper.error is not None:
                raise keeper.error from None
            entry = replace(blank, failure=traceback.format_exc())
        finally:
            torch.set_num_threads(threads)
    warned = tuple(dict.fromkeys(f"{each.category.__name__}: {each.message}" for each in caught))[:WARNINGS]
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(entry, warned=warned, ended=ended, seconds=clock.perf_counter() - started), contents


def _described(blank: Entry, result: Result) -> tuple[Entry, dict[str, bytes]]:
    """Return the entry of a run that has ended, and the contents of its files by name."""
    contents: dict[str, bytes] = {}

    def file(suffix: str, content: bytes) -> File:
        found = hashlib.sha256(content).hexdigest()
        name = f"{blank.key}.{found[:8]}{suffix}"
        contents[name] = content
        return File(name, len(content), found)

    record, inside = result.record, is_small(result.record)
    stopped, early = how_it_stopped(record, blank.settings.get("until_loss"))
    counts = {name: int(record.attrs[name]) for name in ("evaluations", "steps") if name in record.attrs}
    entry = replace(
        blank,
        state=DONE,
        stopped=stopped,
        early=early,
        counts=counts,
        variables=variables_of(record, digest, inside=inside),
        record=None if inside else file(".nc", stored.content(record)),
        networks={name: file(f".{name}.safetensors", stored.content(net)) for name, net in result.networks.items()},
    )
    return entry, contents


def lost(desk: Desk, work: Work, job: Job, message: str) -> Report:
    """Keep a run as failed whose process has died again and again.

    Args:
        desk: the store.
        work: the function or study.
        job: the settings.
        message: what happened.

    Returns:
        The report of the run.
    """
    blank = Entry(job.key, work.name, work.code, ranklens.__version__, dict(job.settings), FAILED, FAILED, False, 0.0)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        desk.write(job.key, f"{job.key}.json", replace(blank, failure=message, ended=ended).to_json().encode())
    except OSError as error:
        return Report(job.key, "unwritten", f"{type(error).__name__}: {error}")
    return Report(job.key, FAILED, message)


class _Keeper:
    """Keeps checkpoints of the flows and descents of one run beside its entry."""

    def __init__(self, desk: Desk, key: str) -> None:
        self.desk, self.key, self.seconds = desk, key, SECONDS
        self.error: OSError | None = None

    def find(self, name: str) -> xr.Dataset | None:
        """Return a kept record, or None if there is none or it is damaged."""
        content = self.desk.read(self.key, f"{self.key}.{name}.nc")
        with suppress(ValueError):
            found = None if content is None else thing_of(content)
            return found if isinstance(found, xr.Dataset) else None
        return None

    def keep(self, name: str, record: xr.Dataset) -> None:
        """Keep a record.

        Raises:
            OSError: if the store cannot be written, which ends the sweep.
        """
        try:
            self.desk.write(self.key, f"{self.key}.{name}.nc", stored.content(record))
        except OSError as error:
            self.error = error
            raise
