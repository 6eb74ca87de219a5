"""Many runs as one Dataset, labelled by their settings; its variables are read from the store when they are used.

Records of unequal length are padded at the end: with NaN, or the empty text. Where the positions along a dimension
(such as the times of a flow) are those of the longest run, they are its coordinate. Otherwise the dimension is `row`,
and the positions are a coordinate of their own for every run.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from ranklens.files import hdf5_check
from ranklens.sweeps.contents import record_of
from ranklens.sweeps.entry import DONE, Entry, Variable, stored_values
from ranklens.sweeps.result import RESUMES
from ranklens.sweeps.store import Store

# Positions along one dimension that are compared in full, at most, before its dimension becomes `row`.
COMPARED = 64
# Coordinates of the runs, by the name of the attribute of an entry.
OUTCOMES = ("stopped", "early", "seconds")


@runtime_checkable
class Source(Protocol):
    """Reads the values of runs."""

    def values(self, entry: Entry, name: str) -> np.ndarray:
        """Return the values of a variable of a run."""

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Check the files of several runs before their values are read."""


class StoreSource:
    """Reads the values of runs from a store.

    Args:
        store: the store.
        harmless: the SHA-256 of records that need not be tried before they are read, because ranklens has just written
            them.
    """

    def __init__(self, store: Store, harmless: Collection[str] = ()) -> None:
        self.store, self.harmless = store, harmless
        self._checked: set[str] = set()

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Check the files of several runs: their content is what was written, and reading it does no harm.

        Raises:
            ValueError: for a file that is missing, damaged or harmful.
        """
        new = {entry.key: entry.record for entry in entries if entry.record and entry.key not in self._checked}
        paths = {self.store.checked(key, file): file.sha256 for key, file in new.items()}
        tried = hdf5_check.check([path for path, sha256 in paths.items() if sha256 not in self.harmless])
        for path, why in tried.items():
            if why:
                raise ValueError(f"{path} cannot be read: {why}")
        self._checked.update(new)

    def values(self, entry: Entry, name: str) -> np.ndarray:
        """Return the values of a variable of a run."""
        variable = entry.variables[name]
        if entry.record is None:
            return stored_values(variable)
        kind = np.dtype(variable.dtype).kind
        if kind in "mM":  # a number and a unit in the file
            return np.asarray(record_of(self.store, entry)[name].values)
        with h5py.File(self.store.folder(entry.key) / entry.record.name, "r") as file:
            if kind in "OUST":
                return np.asarray(file[name].asstr()[()], dtype=object)
            return np.asarray(file[name][()], dtype=variable.dtype)


@dataclass(frozen=True)
class _Column:
    """A variable of all runs: its dimensions and sizes beside those of the sweep, and which runs have it."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    coordinate: bool


class _Padded(BackendArray):
    """The values of one variable of all runs, read when they are used.

    Args:
        source: reads the values of one run.
        cells: the runs, None where there is none.
        column: the variable.
        swept: names of the dimensions of `cells`, which a run may have with size 1.
    """

    def __init__(self, source: Source, cells: np.ndarray, column: _Column, swept: Sequence[str]) -> None:
        self.source, self.cells, self.column, self.swept = source, cells, column, swept
        self.shape, self.dtype = (*cells.shape, *column.shape), column.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[int | slice | NDArray[np.int64], ...]) -> np.ndarray:
        """Return the chosen part, one index per dimension."""
        several = [np.atleast_1d(np.arange(size)[each]) for each, size in zip(key, self.shape, strict=True)]
        outer, inner = several[: self.cells.ndim], several[self.cells.ndim :]
        chosen = self.cells[np.ix_(*outer)] if outer else self.cells
        self.source.prepare([entry for entry in chosen.reshape(-1) if self._has(entry)])
        found = np.full((chosen.size, *(len(each) for each in inner)), _fill(self.dtype), dtype=self.dtype)
        for k, entry in enumerate(chosen.reshape(-1)):
            if self._has(entry):
                values = self._squeezed(entry)
                if inner and values.shape != self.column.shape:
                    room = np.full(self.column.shape, _fill(self.dtype), dtype=self.dtype)
                    room[tuple(slice(size) for size in values.shape)] = values
                    values = room
                found[k] = values[np.ix_(*inner)] if inner else values[()]
        found = found.reshape(*(len(each) for each in several))
        return np.asarray(found[tuple(0 if isinstance(each, int | np.integer) else slice(None) for each in key)])

    def _has(self, entry: Entry | None) -> bool:
        return entry is not None and entry.state == DONE and self.column.name in entry.variables

    def _squeezed(self, entry: Entry) -> np.ndarray:
        values, dims = self.source.values(entry, self.column.name), entry.variables[self.column.name].dims
        return values.reshape([size for size, dim in zip(values.shape, dims, strict=True) if dim not in self.swept])


def dataset_of(source: Source, labels: Mapping[str, np.ndarray], cells: np.ndarray, swept: Sequence[str]) -> xr.Dataset:
    """Return runs as one Dataset, whose variables are read when they are used.

    Args:
        source: reads the values of one run.
        labels: the coordinate of every dimension of `cells`; or, along one dimension `run`, the settings of the runs.
        cells: the entries of the runs, None where there is none.
        swept: names of the settings that label the runs.

    Returns:
        A Dataset with the dimensions of `cells` and those of the records. The coordinates "stopped", "early",
        "seconds", "evaluations" and "steps" say how each run ended, and "failure" the error of a failed one. The
        attribute "swept" names the settings, and "left_out" lists the variables that are not in the Dataset, with the
        reason for each.
    """
    dims = tuple(labels) if len(labels) == cells.ndim and "run" not in labels else ("run",)
    runs = [entry for entry in cells.reshape(-1) if entry is not None and entry.state == DONE]
    renamed, indexes = _dimensions(source, runs, swept)
    columns, left_out = _columns(runs, swept, renamed, cells.size)
    found = xr.Dataset(
        coords={name: (dims if dims == ("run",) else (name,), values) for name, values in labels.items()}
    )
    found = found.assign_coords(indexes | _outcomes(cells, dims))
    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, xr.Variable] = {}
    for column in columns:
        lazy = indexing.LazilyIndexedArray(_Padded(source, cells, column, swept))
        name = f"run_{column.name}" if column.name in found.coords or column.name in OUTCOMES else column.name
        is_coordinate = column.coordinate or column.name in ("time", "step") or column.name.startswith("run_")
        (coordinates if is_coordinate else variables)[name] = xr.Variable((*dims, *column.dims), lazy)
    found = found.assign(variables).assign_coords(coordinates)
    return found.assign_attrs(swept=list(swept), left_out=left_out, **_attributes(runs))


def _outcomes(cells: np.ndarray, dims: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return how every run ended, as coordinates."""

    def each(values: Sequence[object], kind: type) -> tuple[tuple[str, ...], np.ndarray]:
        return dims, np.array(values, dtype=kind).reshape(cells.shape)

    entries: list[Entry | None] = list(cells.reshape(-1))
    found = {
        "stopped": each(["missing" if entry is None else entry.stopped for entry in entries], str),
        "early": each([entry is None or entry.early or entry.state != DONE for entry in entries], int),
        "seconds": each([np.nan if entry is None else entry.seconds for entry in entries], float),
        "failure": each(["" if entry is None else entry.error() for entry in entries], str),
    }
    for name in ("evaluations", "steps"):
        if any(entry is not None and name in entry.counts for entry in entries):
            counts = [np.nan if entry is None else entry.counts.get(name, np.nan) for entry in entries]
            found[name] = each(counts, float)
    return found


def _dimensions(
    source: Source, runs: Sequence[Entry], swept: Sequence[str]
) -> tuple[dict[str, str], dict[Hashable, xr.Variable]]:
    """Return new names of dimensions, and the coordinates of those whose positions are those of the longest run."""
    renamed, indexes = {}, dict[Hashable, xr.Variable]()
    names = dict.fromkeys(dim for entry in runs for each in entry.variables.values() for dim in each.dims)
    for dim in names:
        having = [entry for entry in runs if dim in entry.variables and entry.variables[dim].dims == (dim,)]
        if dim in swept or not having:
            continue
        if (values := _shared(source, having, dim)) is None:
            renamed[dim] = "row" if dim in ("time", "step") else f"{dim}_row"
        else:
            indexes[dim] = xr.Variable((dim,), values)
    return renamed, indexes


def _shared(source: Source, runs: Sequence[Entry], dim: str) -> np.ndarray | None:
    """Return the positions along a dimension if those of every run are the first of those; else None."""
    different = {entry.variables[dim].digest: entry for entry in runs}
    heads = [entry.variables[dim].head for entry in different.values()]
    longest_head = max(heads, key=len)
    if len(different) > COMPARED or any(head != longest_head[: len(head)] for head in heads):
        return None
    source.prepare(list(different.values()))
    values = [source.values(entry, dim) for entry in different.values()]
    longest = max(values, key=len)
    return longest if all(np.array_equal(each, longest[: len(each)]) for each in values) else None


def _columns(
    runs: Sequence[Entry], swept: Sequence[str], renamed: Mapping[str, str], size: int
) -> tuple[list[_Column], list[str]]:
    """Return the variables of a Dataset, and a line for each that is left out, with the reason."""
    found, left_out = [], []
    for name in dict.fromkeys(name for entry in runs for name in entry.variables):
        having = [entry.variables[name] for entry in runs if name in entry.variables]
        if name in RESUMES or name.startswith("optimizer|"):
            left_out.append(f"{name}: a state to resume from; `Store.record` returns it")
        elif having[0].dims == (name,) and name not in renamed:
            continue  # the coordinate of a dimension, which is there already
        elif any(max(_sizes(each, swept, of_swept=True), default=1) > 1 for each in having):
            left_out.append(f"{name}: every run has several values along a swept setting")
        elif len({tuple(dim for dim in each.dims if dim not in swept) for each in having}) > 1:
            left_out.append(f"{name}: its dimensions differ between runs")
        else:
            try:
                found.append(_column(name, having, swept, renamed, len(having) == size))
            except TypeError as error:
                left_out.append(f"{name}: {error}")
    return found, left_out


def _column(
    name: str, having: Sequence[Variable], swept: Sequence[str], renamed: Mapping[str, str], everywhere: bool
) -> _Column:
    """Return the description of a variable of all runs."""
    sizes = [_sizes(each, swept) for each in having]
    shape = tuple(max(column) for column in zip(*sizes, strict=True)) if sizes[0] else ()
    dtype = np.result_type(*{each.dtype for each in having})
    padded = not everywhere or any(each != shape for each in sizes)
    if dtype.kind in "US":
        dtype = np.dtype(object)
    elif padded and dtype.kind in "iub":
        dtype = np.dtype(float)
    dims = tuple(renamed.get(dim, dim) for dim in having[0].dims if dim not in swept)
    return _Column(name, dims, shape, dtype, any(each.coordinate for each in having))


def _sizes(variable: Variable, swept: Sequence[str], *, of_swept: bool = False) -> tuple[int, ...]:
    """Return the sizes of the dimensions of a variable that are not swept, or of those that are."""
    pairs = zip(variable.dims, variable.shape, strict=True)
    return tuple(size for dim, size in pairs if (dim in swept) == of_swept)


def _attributes(runs: Sequence[Entry]) -> dict[str, str]:
    """Return the function or study and the version of ranklens, where they are those of all runs."""
    found = {"what": {entry.what for entry in runs}, "ranklens": {entry.version for entry in runs}}
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _fill(dtype: np.dtype) -> object:
    """Return the value of what a run does not have."""
    if dtype.kind == "O":
        return ""
    return np.array("NaT", dtype=dtype)[()] if dtype.kind in "mM" else (np.nan if dtype.kind in "fc" else 0)
