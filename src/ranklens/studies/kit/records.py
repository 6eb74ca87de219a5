"""Records of a study: runs of several seeds gathered into one Dataset, and taken out of it again."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

S = TypeVar("S")


def gather(runs: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Runs of several seeds as one record with dimensions (seed, row, ...); shorter runs end in NaN."""
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


def rows(record: xr.Dataset, seed: int) -> xr.Dataset:
    """The run of one seed, without the rows that only longer runs have."""
    run = record.sel(seed=seed)
    return run.isel(row=np.isfinite(run.loss.values))


def runs(record: xr.Dataset) -> list[xr.Dataset]:
    """The runs of all seeds."""
    return [rows(record, int(seed)) for seed in record.seed.values]


def last(record: xr.Dataset, name: str) -> NDArray[Any]:
    """The final value of a variable for every seed."""
    return np.stack([run[name].values[-1] for run in runs(record)])


def times(run: xr.Dataset) -> NDArray[Any]:
    """The time of every row."""
    return np.asarray(run.time.values)


def settings_of(record: xr.Dataset, kind: type[S]) -> S:
    """The settings that a record was made with."""
    stored = json.loads(record.attrs["settings"])
    return kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()})
