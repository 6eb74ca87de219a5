"""The second and third tab of the laboratory: a table with holes is completed, and ranks of weights are measured."""

import io
import math

import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load

from ranklens.completers import MatrixCompleter
from ranklens.nn.random_control import random_singular_values
from ranklens.nn.rank_profile import rank_profile
from ranklens.problems import Completion
from ranklens.seeds import stream
from ranklens.theory.convex import nuclear_norm_completion

MOST_CELLS = 40_000  # of a table
HELD_OUT = 0.1  # share of the observed entries on which the four ways are compared
DEPTHS = (2, 3)  # beside depth 1, which needs no descent
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
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise ValueError("the table is empty; paste rows of numbers")
    separator = next((mark for mark in (",", ";", "\t") if mark in lines[0]), r"\s+")
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            header=0 if _is_header(lines[0], separator) else None,
            na_values=["?", "na", "nan", "NA", "NaN", ""],
            skipinitialspace=True,
            engine="python",
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise ValueError(f"the table cannot be read: {error}") from error
    if table.size > MOST_CELLS or min(table.shape) < 2:
        raise ValueError(
            f"the table is {table.shape[0]} x {table.shape[1]}; from 2 x 2 up to {MOST_CELLS} cells are completed"
        )
    words = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        raise ValueError(f"column {words[0]!r} has cells that are no numbers; take it out")
    if not np.isfinite(table.to_numpy(np.float64, na_value=np.nan)[table.notna().to_numpy()]).all():
        raise ValueError("the table has infinite numbers; take them out")
    return table.astype(np.float64)


def _is_header(line: str, separator: str) -> bool:
    """Return whether no cell of a row is a number."""
    cells = line.split() if separator == r"\s+" else line.split(separator)
    return not any(_is_number(cell) for cell in cells if cell.strip())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip() in ("?", "na", "NA")
    return True


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
    filled = MatrixCompleter(random_state=seed).fit_transform(values)
    return {
        "shape": list(values.shape),
        "holes": int(np.isnan(values).sum()),
        "held_out": len(tested),
        "ways": ways,
        "filled": pd.DataFrame(filled, columns=table.columns).to_csv(index=False, float_format="%.6g"),
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
    return nuclear_norm_completion(task, tolerance=1e-3, steps=2000).matrix.numpy() + mean


def profile(content: bytes) -> dict[str, object]:
    """Return the ranks of all weights in the content of a safetensors file, with spectra beside random ones.

    Args:
        content: the file. Nothing else is read.

    Raises:
        ValueError: if it is no safetensors file, or has no weight matrix.
    """
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"this is no safetensors file that can be read: {error}") from error
    found = rank_profile(weights)
    layers = [_layer(found.isel(weight=k)) for k in range(found.sizes["weight"])]
    return {"layers": layers, "skipped": {str(name): str(why) for name, why in found.skipped.items()}}


def _layer(row: xr.Dataset) -> dict[str, object]:
    """Return the measures and the spectrum of one weight, beside the spectrum of a random matrix of its shape."""
    s = row["spectrum"].values
    s = s[np.isfinite(s)]
    places = np.unique(np.linspace(0, max(len(s) - 1, 0), SPECTRUM).round().astype(int))
    random = random_singular_values(int(row["rows"]), int(row["columns"])).numpy()
    shown: dict[str, object] = {name: float(row[name]) for name in MEASURES}
    shown |= {"name": str(row["weight"].values), "shape": [int(row["rows"]), int(row["columns"])]}
    if len(s) and s[0] > 0 and len(random) == len(s):
        shown |= {"spectrum": _few(s[places] / s[0]), "random": _few(random[places] / random[0])}
    return shown


def _few(values: np.ndarray) -> list[float]:
    """Return numbers with four significant digits."""
    return [float(f"{x:.4g}") for x in values]
