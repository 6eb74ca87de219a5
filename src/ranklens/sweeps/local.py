"""Runs of a sweep on this machine: in this process, or in several, each of which makes one run at a time.

Every worker process belongs to an executor of its own. When one dies, only its run is affected, and it is known which.
"""

import os
import signal
import threading
import time as clock
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from joblib.externals import loky

from ranklens.sweeps.perform import Job, Report, lost, perform
from ranklens.sweeps.store import Store
from ranklens.sweeps.work import Work

# How often a run is tried again after its process has died, before it counts as failed.
RETRIES = 2
# Seconds to wait before asking again for a run that another sweep is making.
PATIENCE = 0.2
# Environment of worker processes: one thread each, for all libraries that read one of these.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


def run_here(store: Store, work: Work, jobs: Sequence[Job]) -> Iterator[Report]:
    """Make runs one after the other in this process, and yield a report of each.

    Args:
        store: the store of the results.
        work: the function or study.
        jobs: the runs.

    Yields:
        One report per run.
    """
    waiting = deque(jobs)
    while waiting:
        job = waiting.popleft()
        report = perform(store, work, job)
        if report.state == "busy":
            waiting.append(job)
            clock.sleep(PATIENCE)
        else:
            yield report


def run_side_by_side(store: Store, work: Work, jobs: Sequence[Job], processes: int) -> Iterator[Report]:
    """Make runs in several processes, and yield a report of each as it ends.

    A run whose process dies is tried again; after `RETRIES` more deaths it is kept as failed.

    Args:
        store: the store of the results.
        work: the function or study.
        jobs: the runs.
        processes: number of processes.

    Yields:
        One report per run.
    """
    waiting, deaths = deque(jobs), dict[str, int]()
    slots = [_Slot(store, work) for _ in range(min(processes, len(jobs)))]
    try:
        while waiting or any(slot.job for slot in slots):
            for slot in slots:
                if slot.job is None and waiting:
                    slot.start(waiting.popleft())
            wait([slot.future for slot in slots if slot.future is not None], return_when=FIRST_COMPLETED)
            for slot in slots:
                if slot.future is None or not slot.future.done():
                    continue
                job, report = slot.take()
                if report is None:
                    deaths[job.key] = deaths.get(job.key, 0) + 1
                if report is None and deaths[job.key] <= RETRIES:
                    waiting.appendleft(job)
                elif report is None:
                    yield lost(store, work, job, _died(deaths[job.key]))
                elif report.state == "busy":
                    waiting.append(job)
                    clock.sleep(PATIENCE if len(waiting) <= len(slots) else 0)
                else:
                    yield report
    finally:
        for slot in slots:
            slot.close()


def _died(times: int) -> str:
    return f"WorkerDied: its process died {times} times: it was killed, ran out of memory, or crashed"


class _Slot:
    """A worker process, and the run that it makes at present."""

    def __init__(self, store: Store, work: Work) -> None:
        self.store, self.work = store, work
        self.job: Job | None = None
        self.future: Future[Report] | None = None
        self.executor: loky.ProcessPoolExecutor | None = None

    def start(self, job: Job) -> None:
        """Let the process make a run; it is started if there is none."""
        if self.executor is None:
            self.executor = loky.ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(),), env=ONE_THREAD)
        self.job = job
        self.future = self.executor.submit(_perform_at, str(self.store.path), self.work, job)

    def take(self) -> tuple[Job, Report | None]:
        """Return the run that has ended, and its report, or None if the process has died."""
        assert self.job is not None
        assert self.future is not None
        job, future = self.job, self.future
        self.job = self.future = None
        try:
            return job, future.result()
        except BrokenProcessPool:
            self.close()
            return job, None

    def close(self) -> None:
        """End the process at once."""
        if self.executor is not None:
            self.executor.shutdown(wait=True, kill_workers=True)
            self.executor = None


def _perform_at(path: str, work: Work, job: Job) -> Report:
    """Make a run in a worker process."""
    try:
        store = Store(path, create=False)
    except (OSError, ValueError) as error:
        return Report(job.key, "unwritten", f"{type(error).__name__}: {error}")
    return perform(store, work, job)


def _begin(parent: int) -> None:
    """Prepare a worker process: Ctrl-C is the business of its parent, and it ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            clock.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
