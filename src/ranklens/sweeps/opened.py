"""A store as one Dataset."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ranklens.sweeps.dataset import StoreSource, dataset_of
from ranklens.sweeps.entry import Entry
from ranklens.sweeps.grid import labels_of
from ranklens.sweeps.settings import Setting
from ranklens.sweeps.store import Store
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# A store is shown as a grid if the grid has at most this many cells per run.
SPARSE = 2


@checked
def open_store(path: str | os.PathLike[str], what: str | None = None) -> xr.Dataset:
    """Return all runs of one function or study in a store as one Dataset, whose values are read when they are used.

    The settings in which the runs differ are the dimensions, with NaN where there is no run. If more than half of that
    grid would be empty, the runs have one dimension `run`, along which their settings are coordinates. Failed runs have
    their error in the coordinate `failure`. `to_dataframe()` makes a pandas frame of it.

    Args:
        path: the folder that was passed to `rl.sweep` as `store`.
        what: the function or study, as the attribute `what` of the Dataset of its sweep says, or the end of that; only
            needed if the store has runs of several. Runs of earlier code of a function are left out.

    Returns:
        A Dataset as `rl.sweep` returns it.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if the store has no runs, or runs of several functions or studies and `what` does not choose one.

    >>> import tempfile, ranklens as rl
    >>> path = tempfile.mkdtemp() + "/store"
    >>> def square(x):
    ...     return x * x
    >>> data = rl.sweep(square, over={"x": [1, 2, 3]}, store=path, jobs=1)
    >>> rl.open_store(path).value.values
    array([1, 4, 9])
    """
    with arguments.reading("path"):
        store = Store(path, create=False)
    entries = list(store.entries())
    names = sorted({entry.what for entry in entries})
    chosen = [name for name in names if what is None or name.endswith(what)]
    if len(chosen) != 1:
        asked = "" if what is None else f", and what={what!r} chooses {len(chosen)} of them"
        raise ValueError(f"the store has runs of {', '.join(names) or 'nothing'}{asked}; name one of them in what=")
    entries = _latest([entry for entry in entries if entry.what == chosen[0]])
    return runs_as_dataset(store, entries)


def runs_as_dataset(store: Store, entries: Sequence[Entry]) -> xr.Dataset:
    """Return runs of a store as one Dataset: a grid of the settings in which they differ, or a list.

    Args:
        store: the store.
        entries: the runs, at least one.
    """
    values = _different(entries)
    shape = tuple(len(each) for each in values.values())
    if int(np.prod(shape, dtype=object)) <= SPARSE * len(entries):
        cells = np.full(shape, None, dtype=object)
        for entry in entries:
            cells[tuple(each.index(_setting(entry, name)) for name, each in values.items())] = entry
        labels = {name: labels_of(each) for name, each in values.items()}
    else:
        cells = np.array([*entries, None], dtype=object)[:-1]  # numpy would look into a lone entry
        labels = {name: labels_of([_setting(entry, name) for entry in entries]) for name in values}
    return dataset_of(StoreSource(store), labels, cells, list(values))


def _latest(entries: Sequence[Entry]) -> list[Entry]:
    """Return the runs of that code and version of which the latest run is."""
    last = max(entries, key=lambda entry: entry.ended)
    return [entry for entry in entries if (entry.code, entry.version) == (last.code, last.version)]


def _different(entries: Sequence[Entry]) -> Mapping[str, list[Setting]]:
    """Return the values of every setting in which runs differ, sorted where they can be."""
    found = {}
    for told in dict.fromkeys(name for entry in entries for name in entry.settings):
        single = told.endswith("s") and all(_is_single(entry.settings.get(told)) for entry in entries)
        name = told[:-1] if single else told
        values = list(dict.fromkeys(_setting(entry, name) for entry in entries))
        if len(values) > 1:
            try:
                found[name] = sorted(values)  # type: ignore[type-var]
            except TypeError:
                found[name] = values
    return found


def _is_single(value: Setting) -> bool:
    return isinstance(value, tuple) and len(value) == 1


def _setting(entry: Entry, name: str) -> Setting:
    """Return a setting of a run; of one that holds a single value, its singular is the name of that value."""
    several = entry.settings.get(f"{name}s")
    if name not in entry.settings and isinstance(several, tuple) and len(several) == 1:
        return several[0]
    return entry.settings.get(name)
