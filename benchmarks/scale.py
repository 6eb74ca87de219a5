"""Measure time and memory of completion against the number of observed entries at a fixed shape; both should be linear.

    python benchmarks/scale.py passes [--what matrix tensor] [--counts 1000000 ...]   # one process per count
    python benchmarks/scale.py planted [--what matrix tensor] [--count 10000000]      # rank 5, held-out error
    python benchmarks/scale.py page                                                  # figure and table

A pass visits every observed entry once, in mini-batches. The matrix is 10^5 x 10^5, the tensor 10^4 x 10^4 x 10^4.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

import ranklens as rl
from ranklens import drawing
from ranklens.completers.descent import BATCH, descend
from ranklens.completers.observed import Observed
from ranklens.completers.start import aligned_
from ranklens.tensors import init

SHAPES = {"matrix": (100_000, 100_000), "tensor": (10_000, 10_000, 10_000)}
# Rank of the planted matrix or tensor, width of the fitted factorization, and standard deviation of the noise of
# observed entries over that of the entries.
RANK, WIDTH, NOISE = 5, 16, 0.01
# Numbers of observed entries.
COUNTS = (1_000_000, 2_000_000, 5_000_000, 10_000_000)
# Number of timed passes.
PASSES = 2
RESULTS = Path(__file__).parent / "scale_results.jsonl"
FIGURE = Path(__file__).parents[1] / "docs" / "scale.png"


def planted(shape: tuple[int, ...], count: int, *, seed: int) -> tuple[Observed, list[np.ndarray]]:
    """Return noisy entries at random positions of a sum of `RANK` outer products, and its factors.

    Factors of the matrix are normal. Factors of the tensor are uniform on [0, 1], since counts and intensities are not
    centred either. For centred factors no polynomial method is known that certainly finds 10^12 entries from 10^7.
    """
    made = np.random.default_rng(seed)
    if len(shape) == 2:
        factors = [made.standard_normal((d, RANK)).astype(np.float32) for d in shape]
    else:
        factors = [made.random((d, RANK)).astype(np.float32) for d in shape]
    indices = np.stack([made.integers(0, d, count) for d in shape], axis=1)
    values = np.empty(count)
    for begin in range(0, count, 2**18):
        rows = indices[begin : begin + 2**18]
        values[begin : begin + 2**18] = np.prod([f[rows[:, n]] for n, f in enumerate(factors)], axis=0).sum(axis=1)
    values += NOISE * values.std() * made.standard_normal(count)
    return Observed(torch.from_numpy(indices), torch.from_numpy(values), shape), factors


def peak() -> float:
    """Return the largest amount of memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def passes(what: str, count: int) -> dict:
    """Return the row of results of `PASSES` passes of descent, including evaluations on the held-out entries."""
    observed, _ = planted(SHAPES[what], count, seed=0)
    observed = observed.times(1 / float(observed.values.square().mean().sqrt()))
    train, held_out = observed.split(0.1, 0)
    if what == "matrix":
        net = rl.deep_matrix(train.shape, 3, WIDTH, std=0.0, dtype=torch.float32)
        aligned_(net, train, 1e-2)
    else:
        net = init.scaled_(rl.cp(train.shape, WIDTH, dtype=torch.float32), 1e-3)
    steps = max(round(PASSES * len(train) / BATCH), 1)
    begun, cpu = time.perf_counter(), time.process_time()
    descend(net, train, held_out, lr=1e-2, steps=steps, patience=1e9, batch_size=min(BATCH, len(train)))
    share = len(train) / (steps * min(BATCH, len(train)))
    return {
        "run": "passes",
        "what": what,
        "count": count,
        "seconds": (time.perf_counter() - begun) * share,
        "cpu_seconds": (time.process_time() - cpu) * share,
        "gib": peak(),
    }


def recover(what: str, count: int) -> dict:
    """Return the row of results of a completion, with its relative error at random, mostly unobserved entries."""
    observed, factors = planted(SHAPES[what], count, seed=0)
    shape = observed.shape
    begun, cpu = time.perf_counter(), time.process_time()
    made = np.random.default_rng(1)
    queried = np.stack([made.integers(0, d, 100_000) for d in shape], axis=1)
    truth = np.prod([f[queried[:, n]] for n, f in enumerate(factors)], axis=0).sum(axis=1)
    if what == "matrix":
        i, j = observed.indices.numpy().T
        X = sp.csr_matrix((observed.values.numpy(), (i.astype(np.int32), j.astype(np.int32))), shape=shape)
        del observed, i, j
        completer = rl.MatrixCompleter(width=WIDTH).fit(X)
        rank = completer.rank_
    else:
        indices, values = observed.indices.numpy(), observed.values.numpy()
        del observed
        completer = rl.TensorCompleter(shape, "cp", width=WIDTH, max_steps=1000).fit(indices, values)
        rank = completer.widths_
    error = float(np.linalg.norm(completer.predict(queried) - truth) / np.linalg.norm(truth))
    return {
        "run": "planted",
        "what": what,
        "count": count,
        "error": error,
        "rank": str(rank),
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "gib": peak(),
        "stopped": completer.profile_.attrs["stopped"],
        "steps": int(completer.profile_.step[-1]),
    }


def results() -> list[dict]:
    """Return the rows of all runs so far; of several with equal settings, the last one."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return list({(r["run"], r["what"], r["count"]): r for r in map(json.loads, lines)}.values())


def slope(rows: list[dict], name: str) -> float:
    """Return the slope of the least-squares line through the logarithm of a result against that of the count."""
    x, y = np.log([r["count"] for r in rows]), np.log([r[name] for r in rows])
    return float(np.polyfit(x, y, 1)[0])


def page() -> None:
    """Save a log-log figure with the slopes in its legend, and print a table."""
    rows = sorted(results(), key=lambda r: r["count"])
    figure, axes = drawing.figure(2)
    print("| what | entries | processor seconds per pass | by the clock | peak GiB |\n|---|---:|---:|---:|---:|")
    for k, what in enumerate(SHAPES):
        own = [r for r in rows if r["run"] == "passes" and r["what"] == what]
        for r in own:
            print(f"| {what} | {r['count']:,} | {r['cpu_seconds']:.1f} | {r['seconds']:.1f} | {r['gib']:.2f} |")
        for panel, name in zip(axes, ("cpu_seconds", "gib"), strict=True):
            if len(own) > 1:
                legend = f"{what}, slope {slope(own, name):.2f}"
                panel.plot(
                    [r["count"] for r in own], [r[name] for r in own], marker="o", label=legend, **drawing.style(k)
                )
    for panel, title, y in zip(
        axes,
        ("Time", "Memory"),
        ("processor seconds per pass", "peak memory (GiB)"),
        strict=True,
    ):
        drawing.label(panel, title, "observed entries", y)
        panel.set(xscale="log", yscale="log")
        panel.legend()
    axes[1].axhline(4, **drawing.THEORY)
    figure.savefig(FIGURE, dpi=150)
    for r in rows:
        if r["run"] == "planted":
            print(r)


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=("passes", "planted", "page", "one"))
    parser.add_argument("--what", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--count", type=int, default=COUNTS[-1])
    chosen = parser.parse_args()
    if chosen.run == "page":
        return page()
    if chosen.run == "one":  # in a process of its own, because the peak of the memory is measured per process
        row = passes(chosen.what[0], chosen.count)
    for what in chosen.what if chosen.run == "passes" else []:
        for count in chosen.counts:
            command = [sys.executable, __file__, "one", "--what", what, "--count", str(count)]
            subprocess.run(command, check=True)
    for what in chosen.what if chosen.run != "passes" else []:
        row = recover(what, chosen.count) if chosen.run == "planted" else row
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    return None


if __name__ == "__main__":
    main()
