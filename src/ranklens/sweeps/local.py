"""Runs of a sweep on this machine: in this process, or in several, each of which makes one run at a time.

Every worker process belongs to an executor of its own. When one dies, only its run is affected, and it is known which.
"""

import time as clock
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait

from ranklens.sweeps.perform import Job, Report, lost, perform
from ranklens.sweeps.store import Store
from ranklens.sweeps.work import Work
from ranklens.sweeps.worker import Worker, WorkerDied

# How often a run is tried again after its process has died, before it counts as failed.
RETRIES = 2
# Seconds to wait before asking again for a run that another sweep is making.
PATIENCE = 0.2


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
    slots: list[Worker[Job, Report]] = [Worker() for _ in range(min(processes, len(jobs)))]
    try:
        while waiting or any(slot.task for slot in slots):
            for slot in slots:
                if slot.task is None and waiting:
                    slot.start(job := waiting.popleft(), _perform_at, str(store.path), work, job)
            wait([slot.future for slot in slots if slot.future is not None], return_when=FIRST_COMPLETED)
            for slot in slots:
                if slot.future is None or not slot.future.done():
                    continue
                job, answer = slot.take()
                report = _report_in(answer)
                if report is None:
                    deaths[job.key] = deaths.get(job.key, 0) + 1
                    if deaths[job.key] <= RETRIES:
                        waiting.appendleft(job)
                    else:
                        yield lost(store, work, job, _died(deaths[job.key]))
                elif report.state == "busy":
                    waiting.append(job)
                    clock.sleep(PATIENCE if len(waiting) <= len(slots) else 0)
                else:
                    yield report
    finally:
        for slot in slots:
            slot.close()


def _report_in(answer: Report | Exception) -> Report | None:
    """Return the report that a worker gave, or None if its process died; raise what kept the call from being made."""
    if isinstance(answer, WorkerDied):
        return None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _died(times: int) -> str:
    return f"WorkerDied: its process died {times} times: it was killed, ran out of memory, or crashed"


def _perform_at(path: str, work: Work, job: Job) -> Report:
    """Make a run in a worker process."""
    try:
        store = Store(path, create=False)
    except (OSError, ValueError) as error:
        return Report(job.key, "unwritten", f"{type(error).__name__}: {error}")
    return perform(store, work, job)
