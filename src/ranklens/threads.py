"""The number of threads that torch uses for a computation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Number of multiply-adds from which on several threads are used. Below it, starting and joining a second thread costs
# more time than it saves.
THREADED = 2**22


@contextmanager
def threads(work: float) -> Iterator[None]:
    """Let torch use one thread for small computations inside this context, and restore the number of threads after it.

    Small contractions run many times slower on two threads than on one when other processes use the machine.

    Args:
        work: number of multiply-adds in one step of the computation. Below `THREADED`, torch uses one thread;
            otherwise its present number of threads, but at most one per CPU core.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if work < THREADED else min(before, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
