"""What a run returns: an xarray.Dataset of the loss and what was tracked along the way, and the state at its end."""

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ranklens.tensors.network import TensorNetwork

Track = Mapping[str, Callable[[TensorNetwork], Any]]
AnyTrack = Mapping[str, Callable[[Any], Any]]  # of whatever moves: a network, a matrix


class Recorder:
    """Collects one row per recorded time (or step), and makes the Dataset.

    Args:
        axis: name of the coordinate, "time" or "step".
        track: {name: function of what is moved, such as a network}; what it returns gets the dimensions (axis, name_0,
            name_1, ...).
        before: the record that is continued, if any: its rows come first.
    """

    def __init__(self, axis: str, track: AnyTrack | None, before: xr.Dataset | None = None) -> None:
        self.axis = axis
        self.track = _check_track(track or {}, axis)
        self.before = before
        self.rows: dict[str, list[Any]] = {name: [] for name in (axis, "loss", *self.track)}
        if before is not None:
            missing = [name for name in (axis, "loss", "state", *self.track) if name not in before.variables]
            if missing:
                raise ValueError(f"the record to resume from has no {missing[0]!r}; track the same names as before")

    def add(self, at: float, loss: float, subject: Any) -> None:
        """Record a row at the present state of what is moved."""
        self.rows[self.axis].append(at)
        self.rows["loss"].append(loss)
        with torch.no_grad():
            for name, function in self.track.items():
                value = _array(name, function(subject))
                before = self.rows[name][0] if self.rows[name] else value
                if value.shape != before.shape:
                    raise ValueError(
                        f"track[{name!r}] has shape {value.shape}, before {before.shape}; keep it the same"
                    )
                self.rows[name].append(value)

    def drop(self) -> None:
        """Forget the latest row."""
        for values in self.rows.values():
            values.pop()

    def finish(self, state: Mapping[str, Any], attrs: Mapping[str, str | float | int]) -> xr.Dataset:
        """The Dataset: rows, final state variables, and flat attributes."""
        if self.before is not None and not self.rows[self.axis]:  # nothing was added to what there was
            record = self.before[["loss", *self.track]].copy()
            return self._complete(record, state, attrs)
        at = np.asarray(self.rows[self.axis])
        variables: dict[str, Any] = {}
        for name in ("loss", *self.track):
            values = np.stack([np.asarray(x) for x in self.rows[name]])
            variables[name] = ((self.axis, *[f"{name}_{k}" for k in range(values.ndim - 1)]), values)
        record = xr.Dataset(variables, coords={self.axis: at})
        if self.before is not None:
            # what was recorded last is where the run went on, or off the grid of an optimizer's steps
            earlier = self.before[list(variables)].isel({self.axis: slice(None, -1)})
            record = xr.concat([earlier, record], self.axis)
        return self._complete(record, state, attrs)

    @staticmethod
    def _complete(record: xr.Dataset, state: Mapping[str, Any], attrs: Mapping[str, str | float | int]) -> xr.Dataset:
        for name, value in state.items():
            values = np.asarray(value)
            record[name] = ((*[f"{name}_{k}" for k in range(values.ndim)],), values)
        record.attrs = {**attrs, "versions": versions()}
        return record


def versions() -> str:
    """What made a record: the versions of this library, of what does its arithmetic, and of Python."""
    packages = ["ranklens", "torch", "scikit-sundae", "numpy"]
    return ", ".join([*[f"{name} {version(name)}" for name in packages], f"Python {platform.python_version()}"])


def numpy(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array, in single precision where numpy has none of its kind."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _array(name: str, value: Any) -> NDArray[Any]:
    found = numpy(value).copy() if isinstance(value, Tensor) else np.array(value)
    if found.dtype == object:
        raise TypeError(f"track[{name!r}] gave a {type(value).__name__}; let it return numbers")
    return found


def _check_track(track: AnyTrack, axis: str) -> AnyTrack:
    for name, function in track.items():
        if name in (axis, "loss", "state", "atol"):
            raise ValueError(f"track names {name!r}, which every record has already; choose another name")
        if not name.isidentifier() or name.rpartition("_")[2].isdigit():
            raise ValueError(f"track names {name!r}; take a word that does not end in _0, _1, ..., as dimensions do")
        if not callable(function):
            raise TypeError(f"track[{name!r}] is a {type(function).__name__}; pass a function of the state")
    return track
