"""Files that last: networks as safetensors with their structure as JSON, records as NetCDF. Nothing is unpickled."""

import json
import os
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ranklens.tensors.network import TensorNetwork

FORMAT = "ranklens network 1"


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well, and is removed when it does not.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic(folder / "a.txt") as name:
    ...     _ = name.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """What this process takes away from the modes of files it makes; it can only be read by being set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def save(thing: TensorNetwork | xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a network (safetensors; its labels, of strings, integers and tuples, as JSON) or a record (NetCDF).

    Args:
        thing: a network, or what a run returned.
        path: the file; an existing one is replaced in one go, so that no half-written file is ever left.

    Returns:
        The path.

    Raises:
        TypeError: for anything else, or labels that JSON cannot hold.

    >>> import tempfile, torch, ranklens as rl
    >>> net = rl.hierarchical((3, 3, 3, 3), width=2, std=1.0)
    >>> again = rl.load(rl.save(net, tempfile.mkdtemp() + "/net.safetensors"))
    >>> again.bonds == net.bonds, bool(torch.equal(again.tensor(), net.tensor()))
    (True, True)
    """
    if isinstance(thing, xr.Dataset):
        with atomic(path) as name:
            thing.to_netcdf(name, engine="h5netcdf")
    elif isinstance(thing, TensorNetwork):
        structure = {
            "format": FORMAT,
            "nodes": [[_write(x) for x in labels] for labels in thing.layout.nodes],
            "out": [_write(x) for x in thing.layout.out],
            "frozen": list(thing.frozen),
        }
        values = {f"nodes.{k}": node.detach().cpu().clone().contiguous() for k, node in enumerate(thing.nodes)}
        with atomic(path) as name:
            save_file(values, name, metadata={"structure": json.dumps(structure)})
    else:
        raise TypeError(f"cannot save a {type(thing).__name__}; pass a TensorNetwork or a record (xarray.Dataset)")
    return Path(path)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote: a network or a record.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that `save` did not write.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        try:
            with xr.open_dataset(path, engine="h5netcdf") as record:
                return record.load()
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is no record written by rl.save, or damaged: {error}") from error
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
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(label: Hashable) -> Any:
    """Integers and strings as they are, tuples as lists: JSON has no tuples, and no label is a list."""
    if isinstance(label, tuple):
        return [_write(x) for x in label]
    if isinstance(label, (str, int)):
        return label
    raise TypeError(f"label {label!r} is a {type(label).__name__}; files hold labels of strings, integers and tuples")


def _read(label: Any) -> Hashable:
    return tuple(_read(x) for x in label) if isinstance(label, list) else label
