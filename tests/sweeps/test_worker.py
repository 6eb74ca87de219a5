import os
import signal
import sys
from concurrent.futures import wait

import pytest

from ranklens.sweeps.worker import Worker, WorkerDied

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def call(worker, function, *arguments):
    worker.start("task", function, *arguments)
    wait([worker.future])
    return worker.take()


def threads():
    return os.environ.get("OMP_NUM_THREADS")


def raises():
    raise KeyError("a")


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_answers_and_outlives_what_its_calls_do():
    worker = Worker()
    try:
        assert call(worker, max, 2, 3) == ("task", 3)
        task, error = call(worker, raises)
        assert isinstance(error, KeyError)
        task, error = call(worker, dies)
        assert (task, type(error)) == ("task", WorkerDied)
        assert call(worker, threads) == ("task", "1")
        assert worker.task is None
    finally:
        worker.close()
