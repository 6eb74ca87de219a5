"""Records and networks in the files of a run. A store is listed without them, and so without torch and xarray."""

import shutil
import tempfile
from pathlib import Path

import xarray as xr

from ranklens.files import stored
from ranklens.sweeps.entry import Entry
from ranklens.sweeps.store import Store
from ranklens.tensors.network import TensorNetwork


def network_of(store: Store, entry: Entry, name: str) -> TensorNetwork:
    """Return a network of a run.

    Raises:
        ValueError: if the run has no network of that name, or the file is damaged.
    """
    if name not in entry.networks:
        raise ValueError(f"run {entry.key[:8]} has the networks {sorted(entry.networks)}, not {name!r}")
    found = stored.load(store.checked(entry.key, entry.networks[name]))
    assert isinstance(found, TensorNetwork)
    return found


def record_of(store: Store, entry: Entry) -> xr.Dataset:
    """Return the record of a run whose record is a file of its own, as `rl.load` returns it.

    Raises:
        ValueError: if the file is damaged or missing, or the run has none.
    """
    if entry.record is None:
        raise ValueError(f"run {entry.key[:8]} has no file of its record; its values are in its entry")
    found = stored.load(store.checked(entry.key, entry.record))
    assert isinstance(found, xr.Dataset)
    return found


def thing_of(content: bytes) -> xr.Dataset | TensorNetwork:
    """Return the record or network whose file has this content.

    Raises:
        ValueError: if the content is damaged.
    """
    folder = Path(tempfile.mkdtemp(prefix="ranklens-"))
    try:
        (folder / "content").write_bytes(content)
        return stored.load(folder / "content")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
