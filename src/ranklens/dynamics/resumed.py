"""The check of a record before a run goes on from it: a record that was edited or damaged is refused, and says why."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ranklens.tensors import arguments

# Attributes of every record that a resumed run adds to or compares with.
WORK = ("evaluations", "steps", "seconds")
TEXTS = ("solver", "stopped")


def check_resumed(record: xr.Dataset, axis: str, tracked: Sequence[str]) -> None:
    """Refuse a record from which a run cannot go on.

    Args:
        record: the value of the argument `resume`.
        axis: name of its coordinate, "time" or "step".
        tracked: names of the tracked quantities, which the record must have too.

    Raises:
        TypeError: if it is no record.
        ValueError: if a variable or an attribute is missing, is of another kind, or has values that no run gives.
    """
    if not isinstance(record, xr.Dataset):
        raise TypeError(
            f"resume is {arguments.told(record)}; pass the record that an earlier run returned, or that rl.load read"
        )
    missing = [name for name in (axis, "loss", "state", *tracked) if name not in record.variables]
    if missing:
        raise ValueError(f"resume has no variable {missing[0]!r}; pass a record of the same quantities as before")
    if record[axis].dims != (axis,) or record["loss"].dims != (axis,) or record["state"].ndim != 1:
        raise ValueError(f"resume has a loss or a state of other dimensions; pass a record with one row per {axis}")
    for name in (axis, "loss", "state", *(["atol"] if "atol" in record.variables else [])):
        _check_numbers(name, record[name])
    for name in TEXTS:
        if not isinstance(record.attrs.get(name), str):
            raise ValueError(f"resume has lost its attribute {name!r}; pass a record as it was returned")
    for name in WORK:
        found = record.attrs.get(name)
        if not isinstance(found, int | float | np.number) or not (np.isfinite(found) and found >= 0):
            raise ValueError(f"resume has {arguments.told(found)} for the attribute {name!r}; pass a whole record")
    if "rtol" in record.attrs:
        arguments.number("the rtol of the record to resume from", record.attrs["rtol"], above=0, most=0.1)


def _check_numbers(name: str, variable: xr.DataArray) -> None:
    """Refuse a variable whose values no run gives.

    Raises:
        ValueError: for such a variable.
    """
    if variable.dtype.kind not in "iuf" or not variable.size:
        raise ValueError(f"resume has no numbers in {name!r}; pass a record with at least one row")
    if name != "loss" and not np.isfinite(variable.values).all():
        raise ValueError(f"resume has values in {name!r} that are not finite; a run that diverged cannot go on")
    if name == "atol" and not (variable.values > 0).all():
        raise ValueError("resume has an atol that is not positive; pass a record as it was returned")
