"""Tables of numbers with holes, in any container: arrays, masked arrays, frames of any column type, sparse matrices."""

import warnings
from collections.abc import Hashable
from numbers import Real
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray

from ranklens.completers.observed import Observed

Matrix: TypeAlias = ArrayLike | pd.DataFrame | sp.spmatrix | sp.sparray
# Names of rows or columns that a message lists.
LISTED = 5


def numbers(X: Matrix) -> Matrix:
    """Return a table as float64 numbers, with NaN for holes, in the container that it came in.

    A hole is NaN, None or pandas' NA, a masked entry of a masked array, or an entry that a scipy.sparse matrix does not
    store. In a frame with Sparse columns, the entries that are not stored have the fill value, as pandas shows them.
    Booleans are 0 and 1. Columns of dtype object or category are read as numbers. Anything that is no table, or that
    has no numbers, is returned as it is.

    Args:
        X: the table.

    Raises:
        ValueError: for a column of a frame that has no numbers, or a name of several columns; the message names it.

    >>> import pandas as pd
    >>> numbers(pd.DataFrame({"a": [1, None], "b": pd.array([True, pd.NA])}, dtype=object)).to_numpy()
    array([[ 1.,  1.],
           [nan, nan]])
    """
    if isinstance(X, pd.DataFrame):
        check_names(X)
        columns = [_column(X.iloc[:, k], X.columns[k]) for k in range(X.shape[1])]
        whole = np.stack(columns, axis=1) if columns else np.zeros(X.shape)
        return pd.DataFrame(whole, index=X.index, columns=X.columns)
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    if isinstance(X, np.ndarray | list | tuple):
        array = np.asarray(X, dtype=object) if isinstance(X, list | tuple) else X
        if array.dtype == object and array.ndim == 2:
            return np.where(pd.isna(array), np.nan, array) if pd.isna(array).any() else X
    return X


def check_names(X: object) -> None:
    """Refuse a frame in which several columns have one name.

    Args:
        X: the frame; anything else is not checked.

    Raises:
        ValueError: if a name occurs more than once.
    """
    if isinstance(X, pd.DataFrame) and not X.columns.is_unique:
        name = X.columns[X.columns.duplicated()][0]
        count = int((X.columns == name).sum())
        raise ValueError(f"X has {count} columns of the name {name!r}; give every column a name of its own")


def check_no_masks(values: Matrix, name: str) -> None:
    """Refuse a masked array with masked values, where every value must be known.

    Args:
        values: the values; anything but a masked array is not checked.
        name: what to call them in the message.

    Raises:
        ValueError: if a value is masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        row = int(np.argwhere(np.ma.getmaskarray(values))[0, 0])
        raise ValueError(f"{name} is masked in row {row}; leave that row out")


def _column(column: pd.Series, name: Hashable) -> NDArray[np.float64]:
    """Return a column of a frame as float64 numbers, with NaN for holes.

    Raises:
        ValueError: if its entries are no numbers.
    """
    if isinstance(column.dtype, pd.SparseDtype):
        column = column.sparse.to_dense()
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    reason: object = "they are dates, durations or complex numbers"
    if column.dtype.kind not in "cmM":
        try:
            return column.where(column.notna(), np.nan).astype(np.float64).to_numpy()
        except (TypeError, ValueError) as error:
            reason = error
    raise ValueError(
        f"column {name!r} of the frame has dtype {column.dtype} and entries that are no numbers ({reason}); leave the "
        f"column out, or convert it, for example with pandas.to_numeric"
    )


def observed_entries(X: NDArray[np.float64] | sp.spmatrix | sp.sparray, least: int = 1) -> Observed:
    """Return the observed entries of a matrix.

    Args:
        X: an array, in which NaN is a missing entry, or a sparse matrix, in which every stored entry but NaN is
            observed. Entries that a sparse matrix stores more than once are added up, as scipy does.
        least: number of entries that must be observed.

    Raises:
        ValueError: if fewer entries are observed.
    """
    if not isinstance(X, np.ndarray):
        stored = X.tocsr(copy=True)
        stored.sum_duplicates()
        stored = stored.tocoo()
        indices, values = np.stack([stored.row, stored.col], axis=1).astype(np.int64), stored.data.astype(np.float64)
        finite = ~np.isnan(values)
        if not finite.all():
            indices, values = indices[finite], values[finite]
    else:
        indices = np.argwhere(~np.isnan(X))
        values = X[tuple(indices.T)].astype(np.float64)
    if len(values) < least:
        raise ValueError(
            f"X of shape {X.shape} has no observed entry: all are NaN, or nothing is stored; pass at least one number"
        )
    return Observed(torch.from_numpy(indices), torch.from_numpy(values), tuple(X.shape))


def are_positions(X: Matrix) -> bool:
    """Return whether X is an (m, 2) array or frame of integers, which `predict` takes for positions."""
    if sp.issparse(X):
        return False
    if isinstance(X, pd.DataFrame):
        whole = all(pd.api.types.is_integer_dtype(dtype) for dtype in X.dtypes) and not X.isna().any(axis=None)
        return X.shape[1] == 2 and bool(whole)
    array = np.asarray(X)
    return array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == 2


def are_labels(X: Matrix) -> bool:
    """Return whether X has two columns that are not numbers, which are labels of rows and columns."""
    if sp.issparse(X):
        return False
    if isinstance(X, pd.DataFrame):
        return X.shape[1] == 2 and any(not pd.api.types.is_numeric_dtype(dtype) for dtype in X.dtypes)
    if isinstance(X, np.ndarray):
        return X.ndim == 2 and X.shape[1] == 2 and X.dtype.kind in "OUS" and not _only_numbers(X)
    if not isinstance(X, list | tuple) or not X:
        return False
    pairs = [tuple(pair) for pair in X if isinstance(pair, tuple | list) and len(pair) == 2]
    return len(pairs) == len(X) and not _only_numbers(pd.DataFrame(pairs).to_numpy(dtype=object))


def _only_numbers(values: NDArray[np.generic]) -> bool:
    """Return whether all values are numbers or holes; text is no number."""
    return all(isinstance(part, Real) or part is None or part is pd.NA for part in values.ravel())


def named(positions: NDArray[np.int64], names: pd.Index | None) -> str:
    """Return the names at some positions, for a message; the first few of many.

    Args:
        positions: the positions.
        names: names of all positions; None if they have none.
    """
    listed = [repr(names[k]) if names is not None else str(int(k)) for k in positions[:LISTED]]
    more = f" and {len(positions) - LISTED} more" if len(positions) > LISTED else ""
    return ", ".join(listed) + more


def warn_of_empty(observed: Observed, rows: pd.Index | None, columns: pd.Index | None) -> None:
    """Warn of rows and columns without an observed entry, and name them.

    Args:
        observed: the entries.
        rows: names of the rows, if they have any.
        columns: names of the columns, if they have any.
    """
    for n, (kind, names) in enumerate((("row", rows), ("column", columns))):
        counts = torch.bincount(observed.indices[:, n], minlength=observed.shape[n])
        empty = (counts == 0).nonzero()[:, 0].numpy()
        if len(empty):
            warnings.warn(
                f"{len(empty)} {kind}{'s have' if len(empty) > 1 else ' has'} no observed entry: "
                f"{named(empty, names)}; nothing is known about {'them' if len(empty) > 1 else 'it'} but the mean and "
                f"the other mode's biases, which fill {'them' if len(empty) > 1 else 'it'} in",
                stacklevel=4,
            )
