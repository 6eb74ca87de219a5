"""Measure how much faster a sweep is with two processes than with one, and how much faster the machine allows.

    python benchmarks/sweeps.py [--flows 64] [--turns 3]

The flows are those of the study `matrix_dynamics`, preset small. The bare runs call the study alone, in new processes,
and are timed after their imports: once all in one process, and once half of them in each of two processes at a time.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from statistics import median

import torch

import ranklens as rl
from ranklens.sweeps.work import work_of
from ranklens.sweeps.worker import ONE_THREAD

STUDY, PRESET = "matrix_dynamics", "small"


def bare(first: int, end: int) -> float:
    """Return the seconds of some flows without a sweep, one after the other in this process."""
    tiny, study = work_of(STUDY, "tiny"), work_of(STUDY, PRESET)
    tiny.run(tiny.settings({}))  # imports what a first run does
    start = time.perf_counter()
    for seed in range(first, end):
        study.run(study.settings({"seed": seed}))
    return time.perf_counter() - start


def bare_at_once(flows: int, processes: int) -> float:
    """Return the seconds that flows take without a sweep, in one process or shared out to several at a time."""
    bounds = [round(k * flows / processes) for k in range(processes + 1)]
    commands = [[sys.executable, __file__, "--bare", str(a), str(b)] for a, b in itertools.pairwise(bounds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    return max(float(each.communicate()[0]) for each in started)


def swept(flows: int, processes: int) -> float:
    """Return the seconds of a sweep, the start of its processes, its files and its Dataset included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rl.sweep(STUDY, over={"seed": range(flows)}, preset=PRESET, jobs=processes, store=f"{folder}/store").load()
        return time.perf_counter() - start


def main() -> None:
    """Measure by turns, and print a line for each and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bare", type=int, nargs=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if chosen.bare:
        print(bare(*chosen.bare))
        return
    bare(0, 0)
    turns = []
    for _ in range(chosen.turns):
        alone, both = (bare_at_once(chosen.flows, processes) for processes in (1, 2))
        one, two = (swept(chosen.flows, processes) for processes in (1, 2))
        turns.append((one / alone - 1, one / two, alone / both))
        print(
            f"bare {alone:.1f} s, two at a time {both:.1f} s; sweep {one:.1f} s, two processes {two:.1f} s", flush=True
        )
    cost, faster, limit = map(median, zip(*turns, strict=True))
    print(
        f"a sweep takes {cost:.1%} more than its runs; two processes are {faster:.2f} times as fast (bare: {limit:.2f})"
    )


if __name__ == "__main__":
    os.environ |= ONE_THREAD
    main()
