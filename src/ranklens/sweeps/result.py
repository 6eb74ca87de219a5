"""The result of a run: a record, and networks beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from ranklens.dynamics.record import REMEDIES, array_of
from ranklens.tensors.network import TensorNetwork

# Variables with which a run is resumed; they stay in the store, and are not part of the Dataset of a sweep.
RESUMES = ("state", "atol")


@dataclass(frozen=True)
class Result:
    """What a run gives.

    Attributes:
        record: its measured values.
        networks: its networks, by name.
    """

    record: xr.Dataset
    networks: dict[str, TensorNetwork] = field(default_factory=dict)


def result_of(value: object) -> Result:
    """Return the result that a function returned.

    Args:
        value: a record; a number or an array, which becomes the variable "value"; a network; or a dictionary of
            numbers, arrays and networks by name.

    Raises:
        TypeError: for anything else.
        ValueError: for a name in a dictionary that cannot be the name of a file.
    """
    if isinstance(value, xr.Dataset):
        return Result(value)
    if isinstance(value, xr.DataArray):
        return Result(value.to_dataset(name=value.name or "value"))
    if not isinstance(value, Mapping):
        value = {"network" if isinstance(value, TensorNetwork) else "value": value}
    networks = {str(name): item for name, item in value.items() if isinstance(item, TensorNetwork)}
    for name in networks:
        if not name.isidentifier():
            raise ValueError(f"the function returned a network named {name!r}; take a word of letters, digits and _")
    variables = {str(name): _variable(str(name), item) for name, item in value.items() if str(name) not in networks}
    return Result(xr.Dataset(variables), networks)


def _variable(name: str, item: object) -> xr.Variable:
    """Return a value of a dictionary as a variable, whose dimensions are numbered.

    Raises:
        TypeError: for something that is neither a number, nor a text, nor an array of these.
    """
    if isinstance(item, xr.DataArray | xr.Variable):
        return item.variable if isinstance(item, xr.DataArray) else item
    kinds = (bool, int, float, complex, str, list, tuple, np.ndarray, np.generic, torch.Tensor)
    if not isinstance(item, kinds):
        raise TypeError(
            f"the function returned a {type(item).__name__} as {name!r}; let it return a record, a number, an array, a "
            f"network, or a dictionary of these"
        )
    values = array_of(name, item)
    return xr.Variable([f"{name}_{k}" for k in range(values.ndim)], values)


def how_it_stopped(record: xr.Dataset, until_loss: object) -> tuple[str, bool]:
    """Return why a run stopped, in one word, and whether that was before its goal.

    A record of a study holds the runs of several seeds; its words are those of all of them.

    Args:
        record: the record of a run.
        until_loss: the setting of that name, which says whether coming to rest was the goal of a study.
    """
    if "stopped" in record.attrs:
        return str(record.attrs["stopped"]), bool(record.attrs.get("early", 0))
    if "run_stopped" not in record:
        return "done", False
    words = sorted({str(word) for word in record["run_stopped"].values.reshape(-1)})
    resting = {"stationary"} if isinstance(until_loss, float | int) and until_loss <= 0 else set[str]()
    return ", ".join(words), bool(set(words) & (set(REMEDIES) - {"steps"} - resting))
