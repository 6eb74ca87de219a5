"""Networks and records in files: safetensors with the structure as JSON, and NetCDF.

Nothing is pickled or unpickled, and an existing file is replaced as a whole or not at all.
"""

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from ranklens.files import hdf5_check
from ranklens.files.writing import atomic
from ranklens.tensors.arguments import told
from ranklens.tensors.network import TensorNetwork

# Written into every file of a network, so that `load` recognizes its own files and their version.
FORMAT = "ranklens network 1"
# The first bytes of every HDF5 file, which is what NetCDF files are.
HDF5 = b"\x89HDF\r\n\x1a\n"
# How the value of an attribute starts that NetCDF cannot hold, and that is stored as JSON text instead.
AS_JSON = "json:"
# The records that this process has written, or has tried before, which `load` need not try before it reads them.
_HARMLESS: set[tuple[int, ...]] = set()
# Kinds of numpy arrays that NetCDF holds: integers, also unsigned ones, and real and complex numbers.
NUMBERS = "iufc"


def save(thing: TensorNetwork | xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a network as safetensors, or a record as NetCDF; folders of the path that do not exist are made.

    Attributes of a record and of its variables may be texts, numbers and arrays of numbers, which NetCDF holds, and
    True, False, None, and lists and dictionaries of all these except arrays, which are stored as JSON. From `load` they
    come back as they were, except that a tuple is a list then, a path is a text, and so is every key of a dictionary.

    Args:
        thing: a network whose labels are strings, integers or tuples of these; or a record, as runs return it.
        path: the file to write. An existing file is replaced in one step, so a half-written file is never left.

    Returns:
        The path.

    Raises:
        TypeError: for anything else, and for a label or an attribute that a file cannot hold.

    >>> import tempfile, torch, ranklens as rl
    >>> net = rl.hierarchical((3, 3, 3, 3), width=2, std=1.0)
    >>> again = rl.load(rl.save(net, tempfile.mkdtemp() + "/net.safetensors"))
    >>> again.bonds == net.bonds, bool(torch.equal(again.tensor(), net.tensor()))
    (True, True)
    """
    path = _path(path)
    written = content(thing)
    with atomic(path) as name:
        name.write_bytes(written)
    if isinstance(thing, xr.Dataset):
        _HARMLESS.add(_identity(path))
    return path


def content(thing: TensorNetwork | xr.Dataset) -> bytes:
    """Return the content of the file that `save` writes.

    It is made in memory: where the disk is full, the HDF5 library crashes, and writing bytes raises an OSError.

    Args:
        thing: a network or a record.

    Raises:
        TypeError: for anything else, and for a label or an attribute that a file cannot hold.
    """
    if isinstance(thing, xr.Dataset):
        return bytes(_with_attributes(thing, _storable).to_netcdf(engine="h5netcdf"))
    if isinstance(thing, TensorNetwork):
        structure = {
            "format": FORMAT,
            "nodes": [[_write(x) for x in labels] for labels in thing.layout.nodes],
            "out": [_write(x) for x in thing.layout.out],
            "frozen": list(thing.frozen),
        }
        values = {f"nodes.{k}": node.detach().cpu().clone().contiguous() for k, node in enumerate(thing.nodes)}
        return to_safetensors(values, metadata={"structure": json.dumps(structure)})
    raise TypeError(f"thing is {told(thing)}; pass a TensorNetwork or a record (xarray.Dataset)")


def _path(path: object) -> Path:
    """Return an argument that is the path of a file.

    Raises:
        TypeError: if it is no path.
        ValueError: for the empty path, and for a text with a zero character.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {told(path)}; it must be a text or a pathlib.Path")
    found = Path(path)
    if not found.name or "\0" in str(found):
        raise ValueError(f"path is {str(path)!r}; give the name of a file")
    return found


def load(path: str | os.PathLike[str]) -> TensorNetwork | xr.Dataset:
    """Return the network or the record that `save` wrote to a file.

    A network comes back in its dtype, on the CPU, with its labels and its frozen nodes. A file that `save` did not
    write, or that is damaged, is a ValueError. A record of another process is first read on trial, in a process of its
    own with bounds on time and memory, because the HDF5 library can hang or crash on a damaged file and follows links
    to other files; that takes some 0.2 seconds, the first time.

    Args:
        path: the file.

    Returns:
        A network or a record. The content of the file decides which, not its name.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path = _path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(len(HDF5))
    return _load_record(path) if start == HDF5 else _load_network(path)


def try_records(paths: Sequence[Path]) -> dict[Path, str]:
    """Try which NetCDF files can be read without harm, all in one process, so that `load` need not try each by itself.

    Args:
        paths: the files. Those that do not exist are left out.

    Returns:
        For every file why it cannot be read, or the empty string. Files that this process has written, or has tried
        before and that have not changed, are not tried again.
    """
    new = {path: _identity(path) for path in paths if path.is_file()}
    tried = hdf5_check.check([path for path, identity in new.items() if identity not in _HARMLESS])
    _HARMLESS.update(new[path] for path, why in tried.items() if not why)
    return {path: tried.get(path, "") for path in new}


def _identity(path: Path) -> tuple[int, ...]:
    """Return numbers that change whenever a file is written or replaced."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _load_record(path: Path) -> xr.Dataset:
    """Return the record in a NetCDF file.

    Raises:
        ValueError: for a file that is damaged, holds something else, or would lead the HDF5 library astray.
    """
    if why := try_records([path]).get(path, "it has been removed"):
        raise ValueError(f"{path} is no record written by rl.save, or damaged: {why}")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as record:
            return _with_attributes(record.load(), _restored)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no record written by rl.save, or damaged: {error}") from error


def _with_attributes(record: xr.Dataset, change: Callable[[Hashable, object], object]) -> xr.Dataset:
    """Return a record whose attributes, and those of its variables, are changed by a function of name and value."""

    def changed(attrs: Mapping[Hashable, object]) -> dict[Hashable, object]:
        return {name: change(name, value) for name, value in attrs.items()}

    made = record.copy()
    made.attrs = changed(record.attrs)
    for name, variable in made.variables.items():
        variable.attrs = changed(record.variables[name].attrs)
    return made


def _storable(name: Hashable, value: object) -> object:
    """Return the value of an attribute as NetCDF holds it: as it is, or as JSON text after `AS_JSON`.

    Text that itself begins with `AS_JSON` becomes JSON too, so that it comes back as it was.

    Raises:
        TypeError: for a value that is neither, such as an object of a class of the user's.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.bool_):
        value = bool(value)
    if isinstance(value, str) and not value.startswith(AS_JSON):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind not in NUMBERS:
        value = value.tolist()
    small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if small or isinstance(value, (float, complex, bytes, np.number, np.ndarray)):
        return value
    try:
        return AS_JSON + json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"attribute {name!r} is a {type(value).__name__} that a file cannot hold ({error}); make it a text, a "
            "number, True, None, or a list or dictionary of these"
        ) from error


def _restored(name: Hashable, value: object) -> object:
    """Return the value of an attribute that `_storable` was given."""
    return json.loads(value[len(AS_JSON) :]) if isinstance(value, str) and value.startswith(AS_JSON) else value


def _load_network(path: Path) -> TensorNetwork:
    """Return the network in a safetensors file.

    Raises:
        ValueError: for a file that is damaged or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            structure = _structure((stored.metadata() or {}).get("structure", "{}"))
            if structure.get("format") != FORMAT:
                raise ValueError(f"{path} holds tensors, but no network written by rl.save")
            nodes = [stored.get_tensor(f"nodes.{k}") for k in range(len(structure["nodes"]))]
        labels = [[_read(x) for x in node] for node in structure["nodes"]]
        return TensorNetwork((labels, [_read(x) for x in structure["out"]]), nodes).freeze(*structure["frozen"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is neither a network nor a record written by rl.save: {error}") from error


def _structure(text: str) -> dict[str, Any]:
    """Return a JSON object, or an empty one for a text that is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(label: Hashable) -> object:
    """Return a label as JSON holds it: tuples become lists, which is safe because no label is a list.

    Raises:
        TypeError: for a label that is no string, integer or tuple of these.
    """
    if isinstance(label, tuple):
        return [_write(x) for x in label]
    if isinstance(label, (str, int)):
        return label
    raise TypeError(f"label {label!r} is a {type(label).__name__}; files hold labels of strings, integers and tuples")


def _read(label: object) -> Hashable:
    """Return the label that `_write` was given.

    Raises:
        TypeError: for a JSON object, which is no label.
    """
    if isinstance(label, list):
        return tuple(_read(x) for x in label)
    if isinstance(label, Hashable):
        return label
    raise TypeError(f"{label!r} is no label")
