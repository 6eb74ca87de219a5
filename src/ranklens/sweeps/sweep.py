"""A sweep: a function or a study at every combination of some settings, run side by side, as one labelled Dataset."""

import math
import os
import shutil
import tempfile
import time as clock
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from ranklens.dynamics.record import StoppedEarly
from ranklens.progress import Report as Tell
from ranklens.progress import reporter
from ranklens.sweeps.cluster import run_on_ray
from ranklens.sweeps.dataset import StoreSource, dataset_of
from ranklens.sweeps.entry import DONE, FAILED, Entry
from ranklens.sweeps.grid import Grid, grid_of, words
from ranklens.sweeps.local import run_here, run_side_by_side
from ranklens.sweeps.perform import Job, Report
from ranklens.sweeps.settings import Setting, setting
from ranklens.sweeps.store import Store
from ranklens.sweeps.work import Work, key_of, work_of
from ranklens.sweeps.worker import cores
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# A sweep with a store is returned as values in memory up to this size in bytes, and larger ones are read when used.
IN_MEMORY = 2**30
# Runs that a warning names, at most.
NAMED = 20
# Frames from warnings.warn up to the user's call: _warn, sweep, the check of its arguments, the user.
CALLER = 4


class SweepInterrupted(KeyboardInterrupt):
    """Interrupt a sweep from the keyboard, and carry the Dataset of the runs that had ended.

    Attributes:
        record: the Dataset, in which other runs are padded and have "missing" as `stopped`.
    """

    def __init__(self, message: str, record: xr.Dataset) -> None:
        super().__init__(message)
        self.record = record


class RunsFailed(UserWarning):
    """Warn that runs of a sweep ended by an error; the coordinate `failure` of its Dataset says by which."""


@checked
def sweep(
    what: str | Callable[..., object],
    over: Mapping[str, Iterable[object]],
    *,
    fixed: Mapping[str, object] | None = None,
    preset: str = "laptop",
    executor: str = "local",
    store: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    address: str | None = None,
    progress: bool | Tell | None = None,
) -> xr.Dataset:
    """Run a function or a study at every combination of some settings, and return all records as one Dataset.

    A run is identified by the function or study, its settings and the version of ranklens. With a `store`, a run that
    has ended is never made twice: a sweep that was interrupted or killed goes on where it stood, a larger sweep reuses
    the runs of a smaller one, and two sweeps may use one store at the same time. A function is known by its name, its
    source and the values that it uses; if its code changes, its runs are made again. Code of other modules that it
    calls, files that it reads, and versions of other packages are not seen: use a new store when these change.

    Flows and descents inside a run keep their record every 30 seconds, and go on from it if their process is lost: a
    descent bit by bit, a flow within the error of its solver, because the solver starts anew.

    Args:
        what: a function of keyword arguments that returns a record, a number, an array, a network, or a dictionary of
            numbers, arrays and networks; or the name of a study. It must depend on its arguments alone.
        over: {name of an argument or of a study's setting: its values}: numbers, texts, True, False, None, or tuples of
            these. A setting of a study that holds several values, such as `seeds`, is swept as `seed`.
        fixed: further arguments or settings, the same for all runs.
        preset: the preset of a study, whose other settings are used.
        executor: "local" runs on this machine, "ray" on a Ray cluster (the extra `cluster`).
        store: a folder that keeps the runs; None keeps them in memory only.
        jobs: number of processes with executor "local", each with one thread; None takes one per core. With 1, runs are
            made in this process, one after the other.
        address: the address of the Ray cluster, such as "auto"; None takes RAY_ADDRESS, or starts Ray here.
        progress: True for a status line on the terminal with the time left; or a function that is called with that
            line; None for none.

    Returns:
        A Dataset with one dimension per swept setting, in their order, before the dimensions of the records. Records of
        unequal length are padded at the end with NaN; `row` counts rows, and the coordinate `time` or `step` holds
        their positions, unless all runs have the positions of the longest. The coordinates "stopped", "early",
        "seconds", "evaluations", "steps" and "failure" say how each run ended. `attrs["left_out"]` lists the variables
        of records that are not in the Dataset, with the reason for each. Networks that runs return are in the store.

    Raises:
        TypeError: for something that is neither a function nor the name of a study, or values that are no settings.
        ValueError: for settings that do not exist, no values, an unknown executor, or a folder that is no store.
        OSError: if the store cannot be written. Runs that had ended stay.
        SweepInterrupted: at Ctrl-C. Runs that had ended stay, and the same call goes on.

    Warns:
        StoppedEarly: if runs stopped before their goal; the warning names them.
        RunsFailed: if runs raised an error or their processes died; the next call makes them again.

    >>> import ranklens as rl
    >>> def error(depth, seed):
    ...     target = rl.targets.low_rank_matrix((8, 8), rank=1, seed=seed)
    ...     task = rl.Completion.sample(target, observed=40, seed=seed)
    ...     net = rl.deep_matrix((8, 8), depth=depth, std=1e-2, seed=seed)
    ...     rl.gradient_flow(net, task, until_loss=1e-3)
    ...     return task.error(net)
    >>> data = rl.sweep(error, over={"depth": [2, 3], "seed": range(3)}, jobs=1)
    >>> data.value.dims, data.value.shape, bool((data.value.median("seed") < 0.1).all())
    (('depth', 'seed'), (2, 3), True)
    """
    _check(executor, jobs)
    with arguments.reading("what"):
        work = work_of(what, preset)
    grid = grid_of(over)
    constant = {name: setting(name, value) for name, value in (fixed or {}).items()}
    twice = sorted(set(constant) & set(grid.over))
    if twice:
        raise ValueError(f"{twice[0]!r} is both in over and in fixed; give it once")
    jobs_of_grid = _jobs(work, grid, constant)
    folder = tempfile.mkdtemp(prefix="ranklens-sweep-") if store is None else None
    try:
        kept = Store(os.path.join(folder, "store") if folder is not None else os.fspath(store or ""))
        state = _State(kept, grid, jobs_of_grid)
        with reporter(progress) as tell:
            _run(state, _executed(kept, work, state.missing(), executor, jobs, address), tell, store)
        data = _gathered(state, lazy=store is not None)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    _warn(state)
    return data


@dataclass
class _State:
    """How far a sweep is: its runs, the entries of those that have ended, and digests of the records it has written."""

    store: Store
    grid: Grid
    jobs: Sequence[Job]
    entries: dict[str, Entry] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def missing(self) -> list[Job]:
        """Read the entries of the store, and return the runs that are to be made."""
        for job in self.jobs:
            entry = self.store.entry(job.key)
            if entry is not None and self.store.is_whole(entry):
                self.entries[job.key] = entry
        return [job for job in self.jobs if job.key not in self.entries]

    def data(self) -> xr.Dataset:
        """Return the Dataset of the runs that have ended, which is read when it is used."""
        cells = np.full(len(self.jobs), None, dtype=object)
        for k, job in enumerate(self.jobs):
            cells[k] = self.entries.get(job.key)
        source = StoreSource(self.store, self.written)
        return dataset_of(source, self.grid.labels(), cells.reshape(self.grid.shape), list(self.grid.over))


def _check(executor: str, jobs: int | None) -> None:
    if executor not in ("local", "ray"):
        raise ValueError(f"executor is {executor!r}; choose 'local' or 'ray'")
    if jobs is not None:
        arguments.count("jobs", jobs)


def _jobs(work: Work, grid: Grid, fixed: Mapping[str, Setting]) -> list[Job]:
    """Return the runs of a sweep, in the order of the grid.

    Raises:
        ValueError: if two combinations of settings are one and the same run.
    """
    found = []
    for cell in grid.cells():
        settings = work.settings({**fixed, **cell})
        found.append(Job(key_of(work, settings), settings))
    twice = [key for key, count in Counter(job.key for job in found).items() if count > 1]
    if twice:
        same = next(job for job in found if job.key == twice[0])
        raise ValueError(f"two combinations of over give one run, {words(same.settings)}; leave one of them out")
    return found


def _executed(
    store: Store, work: Work, missing: Sequence[Job], executor: str, jobs: int | None, address: str | None
) -> Iterator[Report]:
    """Return the iterator that makes the runs that are missing, and yields a report of each."""
    if not missing:
        return iter(())
    if executor == "ray":
        return run_on_ray(store, work, missing, address)
    processes = min(jobs or cores(), len(missing))
    return run_here(store, work, missing) if processes == 1 else run_side_by_side(store, work, missing, processes)


def _run(state: _State, reports: Iterator[Report], tell: Tell, store: str | os.PathLike[str] | None) -> None:
    """Follow the reports of the runs until all have ended.

    Raises:
        OSError: if the store cannot be written, or has lost a run.
        SweepInterrupted: at Ctrl-C.
    """
    started, reused, failed = clock.perf_counter(), len(state.entries), 0
    tell(_line(state, reused, failed, 0.0))
    try:
        for report in reports:
            entry = state.store.entry(report.key)
            if report.state == "unwritten" or entry is None:
                raise OSError(f"the store {state.store.path} {_trouble(report)}; {_go_on(state, store)}")
            state.entries[report.key] = entry
            state.written.add(report.record)
            failed += entry.state == FAILED
            tell(_line(state, reused, failed, clock.perf_counter() - started))
    except KeyboardInterrupt as error:
        data = state.data()
        if store is None:
            data.load()
        message = f"the sweep was interrupted; {_go_on(state, store)}"
        raise SweepInterrupted(message, data) from error
    finally:
        close = getattr(reports, "close", None)
        if close is not None:
            close()


def _trouble(report: Report) -> str:
    if report.state == "unwritten":
        return f"cannot be written ({report.message})"
    return "has lost a run that was written to it; was the folder changed?"


def _go_on(state: _State, store: str | os.PathLike[str] | None) -> str:
    """Return in words what is kept, and how to go on."""
    done = sum(entry.state == DONE for entry in state.entries.values())
    if store is None:
        return (
            f"{done} of {len(state.jobs)} runs had ended; pass store=FOLDER to keep runs, so that the same call goes on"
        )
    return f"{done} of {len(state.jobs)} runs are kept in {os.fspath(store)}, and the same call goes on with the others"


def _line(state: _State, reused: int, failed: int, seconds: float) -> str:
    """Return the line that tells how far a sweep is, and about how long it will still take."""
    ended, total = len(state.entries), len(state.jobs)
    parts = [f"{ended} of {total} runs"]
    if reused:
        parts.append(f"{reused} of them from the store")
    if failed:
        parts.append(f"{failed} failed")
    if ended > reused and ended < total:
        parts.append(f"about {_duration(seconds / (ended - reused) * (total - ended))} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _gathered(state: _State, *, lazy: bool) -> xr.Dataset:
    """Return the Dataset of a sweep, in memory unless it is large and there is a store to read it from."""
    data = state.data()
    return data if lazy and data.nbytes > IN_MEMORY else data.load()


def _warn(state: _State) -> None:
    """Warn of the runs that failed, of those that stopped before their goal, and of what runs warned of themselves."""
    entries = [state.entries[job.key] for job in state.jobs]
    named = dict(zip((job.key for job in state.jobs), map(words, state.grid.cells()), strict=True))
    failed = [f"{named[entry.key]} ({entry.error()})" for entry in entries if entry.state == FAILED]
    early = [f"{named[entry.key]} ({entry.stopped})" for entry in entries if entry.state == DONE and entry.early]
    if failed:
        warnings.warn(f"{len(failed)} of {len(entries)} runs failed: {_listed(failed)}", RunsFailed, stacklevel=CALLER)
    if early:
        text = f"{len(early)} of {len(entries)} runs stopped before their goal: {_listed(early)}"
        warnings.warn(text, StoppedEarly, stacklevel=CALLER)
    for text, count in Counter(text for entry in entries for text in entry.warned).most_common(NAMED):
        warnings.warn(f"{count} of {len(entries)} runs warned: {text}", stacklevel=CALLER)


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
