"""How many threads of torch a piece of work is worth: decided here and nowhere else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREADED = 2**22  # multiply-adds below which a second thread costs more than it gives


@contextmanager
def threads(work: float) -> Iterator[None]:
    """Use as many threads as `work` multiply-adds are worth, then restore the count.

    Small contractions run many times slower on two threads than on one when the machine is shared.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if work < THREADED else min(before, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
