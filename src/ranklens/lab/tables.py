"""The second and third tab of the laboratory: a table with holes is completed, and ranks of weights are measured."""

import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ranklens.completers import MatrixCompleter
from ranklens.nn.random_control import random_singular_values
from ranklens.nn.rank_profile import rank_profile
from ranklens.problems import Completion
from ranklens.seeds import stream
from ranklens.theory.convex import nuclear_norm_completion

MOST_CELLS = 40_000  # of a table
LEAST_SIZE, LARGEST_SIZE = 1e-100, 1e100  # of the largest number of a table: squares of it are still numbers
HELD_OUT = 0.1  # share of the observed entries on which the four ways are compared
NUCLEAR_STEPS = 500  # of the search for the least nuclear norm: a few seconds for the largest tables
DEPTHS = (2, 3)  # beside depth 1, which needs no descent
# Multiplications, rows times columns times the smaller of them, of the largest weight that is measured: some seconds.
MOST_WORK = 2**35
SPECTRUM = 64  # singular values of a matrix that are sent, of a weight evenly spaced
MEASURES = ("effective_rank", "random_effective_rank", "stable_rank", "numerical_rank")


def read_table(text: str) -> pd.DataFrame:
    """Return a pasted table of numbers with holes.

    Args:
        text: rows of numbers, separated by commas, semicolons, tabs or spaces. A first row of names is read as such.
            An empty cell, "nan", "na" and "?" are holes.

    Raises:
        ValueError: if it is no such table, has a single row or column, or more than `MOST_CELLS` cells.
    """
    lines = [line for line in text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise ValueError("the table is empty; paste rows of numbers")
    separator = next((mark for mark in ("\t", ";", ",") if mark in lines[0]), r"\s+")
    header = 0 if _is_header(lines[0], separator) else None
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            header=header,
            decimal="." if separator == "," else _decimal(lines),
            na_values=["?", "na", "nan", "NA", "NaN", ""],
            skipinitialspace=True,
            engine="python",
        )
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        raise ValueError(f"the table cannot be read: {error}") from error
    if table.size > MOST_CELLS or min(table.shape) < 2:
        raise ValueError(
            f"the table is {table.shape[0]} x {table.shape[1]}; from 2 x 2 up to {MOST_CELLS} cells are completed"
        )
    for place, name in enumerate(table.columns, start=1):
        if pd.api.types.is_numeric_dtype(table[name]):
            continue
        cells = [_number(str(cell)) for cell in table[name]]
        if None in cells:
            word, told = str(table[name].iloc[cells.index(None)]), place if header is None else repr(str(name)[:20])
            raise ValueError(f"column {told} has a cell {word[:20]!r}, which is no number; take it out")
        table[name] = (
            cells  # numbers that pandas leaves alone: whole ones of 20 digits, and those beside unusual blanks
        )
    numbers = table.to_numpy(np.float64, na_value=np.nan)
    largest = np.abs(numbers[table.notna().to_numpy()]).max(initial=0.0)
    if largest and not LEAST_SIZE <= largest <= LARGEST_SIZE:
        what = f"a number of size {largest:.1e}" if np.isfinite(largest) else "infinite numbers"
        raise ValueError(f"the table has {what}; sizes from {LEAST_SIZE:.0e} to {LARGEST_SIZE:.0e} are taken")
    return table.astype(np.float64)


def _decimal(lines: list[str]) -> str:
    """Return the decimal mark of a table whose cells are not separated by commas."""
    return "," if any("," in line for line in lines) and not any("." in line for line in lines[1:]) else "."


def _is_header(line: str, separator: str) -> bool:
    """Return whether no cell of a row is a number."""
    cells = line.split() if separator == r"\s+" else line.split(separator)
    mark = "," if separator != "," else "."
    return all(_number(cell.replace(mark, ".")) is None for cell in cells if cell.strip())


def _number(cell: str) -> float | None:
    """Return a cell as a number, NaN for a hole, or None for anything else."""
    try:
        return float(cell)
    except ValueError:
        return math.nan if cell.strip() in ("", "?", "na", "NA") else None


def complete(text: str, seed: int = 0) -> dict[str, object]:
    """Return a pasted table completed in four ways, with their errors on entries that were held out.

    The ways are deep matrix factorization of depth 1, 2 and 3, and the matrix of least nuclear norm. A tenth of the
    observed entries is held out from all of them to compare them, and the best one then fills the table.

    Args:
        text: the table, as `read_table` takes it.
        seed: seed of the choice of entries.

    Raises:
        ValueError: for what is no table, or has fewer than ten numbers.
    """
    table = read_table(text)
    values = table.to_numpy()
    observed = np.argwhere(~np.isnan(values))
    if len(observed) < 10:
        raise ValueError(f"the table has {len(observed)} numbers; at least 10 are needed to compare ways")
    drawn = torch.randperm(len(observed), generator=stream(seed, "held-out entries of a table")).numpy()
    tested = observed[drawn[: max(2, round(HELD_OUT * len(observed)))]]
    seen = values.copy()
    seen[tuple(tested.T)] = np.nan
    true = values[tuple(tested.T)]
    scale = float(np.nanstd(values)) or 1.0
    ways: list[dict[str, object]] = []
    # A matrix that is no product moves at observed entries only: the others stay where they start, at the mean.
    ways.append(_way("depth 1", np.where(np.isnan(seen), np.nanmean(seen), seen), tested, true, scale))
    for depth in DEPTHS:
        found = MatrixCompleter(depth=depth, posterior=0, random_state=seed).fit_transform(seen)
        ways.append(_way(f"depth {depth}", found, tested, true, scale))
    ways.append(_way("least nuclear norm", _least_nuclear(seen), tested, true, scale))
    filled = pd.DataFrame(MatrixCompleter(random_state=seed).fit_transform(values), columns=table.columns)
    named = not pd.api.types.is_integer_dtype(table.columns)  # a table without names is numbered by pandas
    return {
        "shape": list(values.shape),
        "holes": int(np.isnan(values).sum()),
        "held_out": len(tested),
        "ways": ways,
        "filled": filled.to_csv(index=False, header=named, float_format="%.6g"),
    }


def _way(name: str, found: np.ndarray, tested: np.ndarray, true: np.ndarray, scale: float) -> dict[str, object]:
    """Return the name, the error and the singular values of a completed matrix."""
    error = float(np.sqrt(np.mean((found[tuple(tested.T)] - true) ** 2))) / scale
    s = np.linalg.svd(found, compute_uv=False)
    p = s[s > 0] / s.sum()
    return {
        "name": name,
        "error": round(error, 6),
        "effective_rank": round(float(math.exp(-(p * np.log(p)).sum())), 3),
        "singular_values": [float(f"{x:.4g}") for x in s[:SPECTRUM]],
    }


def _least_nuclear(seen: np.ndarray) -> np.ndarray:
    """Return the matrix of least nuclear norm that has the given entries, after their mean was taken away."""
    mean = float(np.nanmean(seen))
    where = np.argwhere(~np.isnan(seen))
    task = Completion(where, seen[tuple(where.T)] - mean, seen.shape)
    return nuclear_norm_completion(task, tolerance=1e-3, steps=NUCLEAR_STEPS).matrix.numpy() + mean


def profile(path: Path) -> dict[str, object]:
    """Return the ranks of the weights in a safetensors file, with spectra beside random ones.

    Args:
        path: the file. Nothing else is read.

    Raises:
        ValueError: if it is no safetensors file, or has no weight matrix of at most `MOST_WORK`.
    """
    weights: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (a file is no mapping)
                shape = file.get_slice(name).get_shape()
                rows, columns = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
                if rows * columns * min(rows, columns) > MOST_WORK:
                    skipped[name] = f"is {rows} x {columns}, too large for this page; `ranklens rank FILE` measures it"
                else:
                    weights[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        told = str(error).replace(str(path), "the file")
        raise ValueError(f"this is no safetensors file that can be read: {told}") from error
    if skipped and not weights:
        raise ValueError(f"no weight can be measured here: {next(iter(skipped))} {next(iter(skipped.values()))}")
    if all(weight.ndim < 2 for weight in weights.values()):
        raise ValueError(f"none of the {len(weights)} tensors of this file is a matrix, so none has a rank")
    found = rank_profile(weights)
    skipped |= {str(name): str(why) for name, why in found.skipped.items()}
    layers = [_layer(found.isel(weight=k)) for k in range(found.sizes["weight"])]
    return {"layers": layers, "skipped": skipped}


@lru_cache(maxsize=64)
def _random_spectrum(rows: int, columns: int) -> np.ndarray:
    """Return the singular values of a random matrix; the weights of a network have few shapes."""
    return random_singular_values(rows, columns).numpy()


def _layer(row: xr.Dataset) -> dict[str, object]:
    """Return the measures and the spectrum of one weight, beside the spectrum of a random matrix of its shape."""
    s = row["spectrum"].values
    s = s[np.isfinite(s)]
    places = np.unique(np.linspace(0, max(len(s) - 1, 0), SPECTRUM).round().astype(int))
    random = _random_spectrum(int(row["rows"]), int(row["columns"]))
    shown: dict[str, object] = {name: float(row[name]) if np.isfinite(float(row[name])) else None for name in MEASURES}
    shown |= {"name": str(row["weight"].values), "shape": [int(row["rows"]), int(row["columns"])]}
    if len(s) and s[0] > 0 and len(random) == len(s):
        shown |= {"spectrum": _few(s[places] / s[0]), "random": _few(random[places] / random[0])}
    return shown


def _few(values: np.ndarray) -> list[float]:
    """Return numbers with four significant digits."""
    return [float(f"{x:.4g}") for x in values]
