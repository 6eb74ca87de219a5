"""Records of a study: the runs of several seeds gathered into one Dataset, and taken out of it again."""

import json
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

S = TypeVar("S")


def gather(runs: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Return the records of several runs as one record with dimensions (seed, row, ...).

    A row of the result is a row of a run: a time of a flow, or a step of an optimizer. Runs with fewer rows are padded
    with NaN. How each run ended is in `run_stopped`, `run_evaluations`, `run_steps` and `run_seconds`, one per seed.

    Args:
        runs: what `gradient_flow`, `gradient_descent` or `end_matrix_flow` returned, one per seed.
        seeds: the seeds, in the order of the runs.
    """
    axis = "time" if "time" in runs[0].coords else "step"
    tables = []
    for run in runs:
        kept = run.drop_vars([name for name in run if axis not in run[name].dims])
        row = np.arange(run.sizes[axis])
        tables.append(kept.rename({axis: "row"}).assign_coords(row=row).assign({axis: ("row", run[axis].values)}))
    record = xr.concat(tables, dim="seed", join="outer")
    record = record.assign_coords(seed=list(seeds))
    for name in ("stopped", "evaluations", "steps", "seconds"):
        record[f"run_{name}"] = ("seed", [run.attrs[name] for run in runs])
    record.attrs = {key: runs[0].attrs[key] for key in ("solver", "network", "loss_function", "versions")}
    return record


def unpadded(run: xr.Dataset) -> xr.Dataset:
    """Return one run of a gathered record without the rows that only longer runs have.

    Padded rows have no time (or no step). A row whose loss or any other measured value is NaN is kept.

    >>> import numpy as np, xarray as xr
    >>> run = xr.Dataset({"time": ("row", [0.0, 1.0, np.nan]), "loss": ("row", [1.0, np.nan, np.nan])})
    >>> unpadded(run).loss.values
    array([ 1., nan])
    """
    axis = "time" if "time" in run else "step"
    return run.isel(row=np.isfinite(run[axis].values))


def rows(record: xr.Dataset, seed: int) -> xr.Dataset:
    """Return the run of one seed, without the rows that only longer runs have."""
    return unpadded(record.sel(seed=seed))


def runs(record: xr.Dataset) -> list[xr.Dataset]:
    """Return the runs of all seeds, each without the rows that only longer runs have."""
    return [rows(record, int(seed)) for seed in record.seed.values]


def last(record: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return the last value of a variable for every seed, in an array whose first dimension is the seed."""
    return np.stack([run[name].values[-1] for run in runs(record)]).astype(np.float64)


def times(run: xr.Dataset) -> NDArray[np.float64]:
    """Return the time of every row of a flow, or the step of every row of a descent."""
    return np.asarray(run["time" if "time" in run else "step"].values, dtype=np.float64)


def settings_of(record: xr.Dataset, kind: type[S]) -> S:
    """Return the settings that a record was made with.

    Args:
        record: a record of a study, with its settings as JSON in the attribute `settings`.
        kind: the study's class of settings.
    """
    stored = json.loads(record.attrs["settings"])
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()})
