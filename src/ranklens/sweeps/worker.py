"""A process that makes one call at a time. Each has an executor of its own, so one that dies takes no other along."""

import os
import signal
import threading
import time as clock
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Generic, TypeVar

from joblib.externals import loky

Task = TypeVar("Task")
Value = TypeVar("Value")
# Environment of worker processes: one thread each, for all libraries that read one of these.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerDied(Exception):
    """The process of a call has ended without an answer: it was killed, ran out of memory, or crashed."""


class Worker(Generic[Task, Value]):
    """A worker process, and the task that it works on.

    Attributes:
        task: what the present call is for; None between calls.
        future: the answer of the present call; None between calls.
    """

    def __init__(self) -> None:
        self.task: Task | None = None
        self.future: Future[Value] | None = None
        self._executor: loky.ProcessPoolExecutor | None = None

    def start(self, task: Task, function: Callable[..., Value], *arguments: object) -> None:
        """Begin a call; the process is started if there is none.

        Args:
            task: what the call is for.
            function: what is called.
            arguments: its arguments.
        """
        if self._executor is None:
            self._executor = loky.ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(),), env=ONE_THREAD)
        self.task = task
        self.future = self._executor.submit(function, *arguments)

    def take(self) -> tuple[Task, Value | Exception]:
        """Return the task of a call that has ended, and what it returned or raised; `WorkerDied` if its process died.

        The process of a call that died is replaced when the next call begins.
        """
        assert self.task is not None
        assert self.future is not None
        task, future = self.task, self.future
        self.task = self.future = None
        try:
            return task, future.result()
        except BrokenProcessPool:
            self.close()
            return task, WorkerDied("its process died: it was killed, ran out of memory, or crashed")
        except Exception as error:  # what the function raised belongs to its task
            return task, error

    def close(self) -> None:
        """End the process at once."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def _begin(parent: int) -> None:
    """Prepare a worker process: Ctrl-C is the business of its parent, and it ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            clock.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
