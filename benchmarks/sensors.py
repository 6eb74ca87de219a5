"""Complete sensors x days x hours of which whole days are missing, beside methods for such data.

    python benchmarks/sensors.py [--seeds 0 1 2 3 4]

A generator makes daily patterns whose loads differ between sensors and drift over the days, weekends, an offset per
sensor, a common drift, and noise. Of every sensor 30% of the days are missing. All methods are given the same entries,
and choose their settings on held-out days. The error is the root mean square error over the missing entries, against
the values without noise.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

import ranklens as rl

Array = np.ndarray
# Shape of the tensor, share of the days of a sensor that are missing, and standard deviation of the noise.
SHAPE, MISSING, NOISE = (12, 42, 24), 0.3, 0.3
# Numbers of similar days that are averaged.
NEIGHBOURS = (1, 3, 5, 10)
# Ratios of the autoregression's weight to the step of LATC, and singular values that it leaves alone.
RATIOS, LEFT_ALONE = (0.1, 1.0, 10.0), (2, 5)


@dataclass(frozen=True)
class Data:
    """A tensor with missing days.

    Attributes:
        truth: the tensor without noise.
        values: the tensor with noise.
        there: (sensors, days) whether a day is observed.
    """

    truth: Array
    values: Array
    there: Array


def make(seed: int) -> Data:
    """Return the tensor of a seed."""
    made = np.random.default_rng(seed)
    sensors, days, hours = SHAPE
    t = np.arange(hours) / hours
    morning, evening = (np.exp(-(((t - at) / 0.1) ** 2)) for at in (0.35, 0.75))
    patterns = np.stack([np.sin(2 * np.pi * (t - 0.3)), morning, evening])
    weekday = 1 - 0.5 * (np.arange(days) % 7 >= 5)[:, None] * np.array([0.0, 1.0, 0.6])
    drift = (1 + 0.5 * np.cumsum(made.normal(0, 0.15, (days, 3)), axis=0)) * weekday
    truth = np.einsum("sr,dr,rh->sdh", np.abs(made.normal(1, 0.5, (sensors, 3))), drift, patterns)
    truth += made.normal(5, 2, sensors)[:, None, None] + np.cumsum(made.normal(0, 0.2, days))[None, :, None]
    return Data(truth, truth + NOISE * made.standard_normal(SHAPE), made.random((sensors, days)) > MISSING)


def daily_mean(values: Array, there: Array) -> Array:
    """Return for every sensor the mean of its observed days."""
    sums = np.einsum("sdh,sd->sh", values, there) / np.maximum(there.sum(axis=1), 1)[:, None]
    return np.repeat(sums[:, None], values.shape[1], axis=1)


def similar_days(values: Array, there: Array, neighbours: int) -> Array:
    """Return for every missing day the mean of the sensor's days on which the other sensors were most alike."""
    found = daily_mean(values, there)
    for s, d in np.argwhere(~there):
        days, distances = np.flatnonzero(there[s]), []
        for other in days:
            both = there[:, d] & there[:, other]
            distances.append(np.mean((values[both, d] - values[both, other]) ** 2) if both.any() else np.inf)
        if len(days):
            found[s, d] = values[s, days[np.argsort(distances)[:neighbours]]].mean(axis=0)
    return found


def latc(values: Array, there: Array, ratio: float, left_alone: int, steps: int = 60) -> Array:
    """Return the completion by low-rank autoregressive tensor completion, written from its paper.

    ADMM for the truncated nuclear norms of the three unfoldings, plus `ratio` times the step size times the squared
    residuals of an autoregression of every sensor over the lags of one and two hours and of one day.

    Source: Chen, Lei, Saunier, Sun (IEEE T-ITS 2022).
    """
    sensors, days, hours = values.shape
    length, lags = days * hours, (1, 2, hours)
    mask = np.repeat(there[:, :, None], hours, axis=2)
    Z = np.where(mask, values, daily_mean(values, there))
    X, T, rho = Z.copy(), np.zeros_like(Z), 1e-3
    coefficients = np.full((sensors, len(lags)), 1 / len(lags))
    rows = np.arange(max(lags), length)
    for _ in range(steps):
        rho = min(rho * 1.1, 1e5)
        parts = [_shrunk(Z + T / rho, n, 1 / (3 * rho), left_alone) for n in range(3)]
        X = np.mean(parts, axis=0)
        series = (X - T / rho).reshape(sensors, length)
        flat = Z.reshape(sensors, length)
        for s in range(sensors):
            blocks = [
                sp.csr_matrix((np.ones(len(rows)), (rows - rows[0], rows - lag)), (len(rows), length)) for lag in lags
            ]
            ahead = sp.csr_matrix((np.ones(len(rows)), (rows - rows[0], rows)), (len(rows), length))
            B = ahead - sum(a * block for a, block in zip(coefficients[s], blocks, strict=True))
            system = (ratio * (B.T @ B) + sp.eye(length)).tocsc()
            flat[s] = splu(system).solve(series[s])
        Z = np.where(mask, values, flat.reshape(values.shape))
        T = T + rho * (Z - X)
        flat = Z.reshape(sensors, length)
        for s in range(sensors):
            design = np.stack([flat[s, rows - lag] for lag in lags], axis=1)
            coefficients[s] = np.linalg.lstsq(design, flat[s, rows], rcond=None)[0]
    return X


def _shrunk(tensor: Array, mode: int, threshold: float, left_alone: int) -> Array:
    """Return a tensor with the singular values of an unfolding reduced by a threshold, except the largest ones."""
    moved = np.moveaxis(tensor, mode, 0)
    U, s, V = np.linalg.svd(moved.reshape(len(moved), -1), full_matrices=False)
    s[left_alone:] = np.maximum(s[left_alone:] - threshold, 0)
    return np.moveaxis(((U * s) @ V).reshape(moved.shape), 0, mode)


def ours(values: Array, there: Array) -> Array:
    """Return the completion by `TensorCompleter`, with held-out days."""
    mask = np.repeat(there[:, :, None], values.shape[2], axis=2)
    completer = rl.TensorCompleter(values.shape, held_out="blocks", smooth={1: 1.0, 2: 1.0})
    completer.fit(np.argwhere(mask), values[mask])
    return completer.predict(np.argwhere(np.ones(values.shape))).reshape(values.shape)


METHODS: dict[str, tuple[Callable[..., Array], tuple[tuple, ...]]] = {
    "ranklens, TensorCompleter": (ours, ((),)),
    "LATC": (latc, tuple(itertools.product(RATIOS, LEFT_ALONE))),
    "similar days (KNN)": (similar_days, tuple((k,) for k in NEIGHBOURS)),
    "daily mean of the sensor": (daily_mean, ((),)),
}


def error(found: Array, against: Array, where: Array) -> float:
    """Return the root mean square error over some days."""
    return float(np.sqrt(np.mean((found[where] - against[where]) ** 2)))


def main() -> None:
    """Print a table of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    print("| method | median | seeds | processor seconds, median |\n|---|---:|---|---:|")
    for name, (method, grid) in METHODS.items():
        errors, seconds = [], []
        for seed in seeds:
            data, begun = make(seed), time.process_time()
            held = data.there & (np.random.default_rng(seed).random(data.there.shape) < 0.1)
            settings = grid[0]
            if len(grid) > 1:
                kept = data.there & ~held
                settings = min(grid, key=lambda s: error(method(data.values, kept, *s), data.values, held))
            errors.append(error(method(data.values, data.there, *settings), data.truth, ~data.there))
            seconds.append(time.process_time() - begun)
        each = ", ".join(f"{e:.3f}" for e in errors)
        middle, taken = statistics.median(errors), statistics.median(seconds)
        print(f"| {name} | **{middle:.3f}** | {each} | {taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
