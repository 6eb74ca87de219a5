"""The result of a run: a record, and networks beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from ranklens.dynamics.record import REMEDIES, array_of
from ranklens.sweeps.entry import Variable
from ranklens.sweeps.settings import Setting
from ranklens.tensors.network import TensorNetwork

# Number of values up to which a record without attributes is kept inside its entry instead of a file of its own.
SMALL = 64
# Kinds of numpy arrays that JSON holds exactly.
EXACT = "ifbU"
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


def is_small(record: xr.Dataset) -> bool:
    """Return whether a record can be kept inside its entry: few values, no attributes, dtypes that JSON holds."""
    each = record.variables.values()
    plain = all(variable.dtype.kind in EXACT and not variable.attrs for variable in each)
    return plain and not record.attrs and sum(variable.size for variable in each) <= SMALL


def variables_of(record: xr.Dataset, digest: Callable[[object], str], *, inside: bool) -> dict[str, Variable]:
    """Return the description of the variables of a record.

    Args:
        record: the record.
        digest: a function that identifies values.
        inside: whether to keep all values.
    """
    found = {}
    for name, variable in record.variables.items():
        indexes = variable.dims == (name,)
        found[str(name)] = Variable(
            tuple(str(dim) for dim in variable.dims),
            variable.shape,
            variable.dtype.str,
            coordinate=name in record.coords,
            head=tuple(_plain(variable.values[:3])) if indexes else (),
            digest=digest(variable.values) if indexes else "",
            values=variable.values.tolist() if inside else None,
        )
    return found


def _plain(values: np.ndarray) -> list[Setting]:
    return [str(value) if values.dtype.kind not in EXACT else value for value in values.tolist()]
