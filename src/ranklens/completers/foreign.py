"""Frames of other libraries, such as polars, as frames of pandas."""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd

# Integers from this size on are not all floating-point numbers.
EXACT = 2.0**53
Table = TypeVar("Table")


@runtime_checkable
class Lazy(Protocol):
    """A query of polars that has no rows yet."""

    def collect_schema(self) -> object:
        """Return names and types of the columns."""
        ...


@runtime_checkable
class Columns(Protocol):
    """A frame whose columns have names, and can be read one by one."""

    columns: Iterable[object]

    def __getitem__(self, name: str) -> object:
        """Return a column."""
        ...


def is_foreign(X: object) -> bool:
    """Return whether X is a frame of another library than pandas: it offers its columns to other libraries."""
    offers = hasattr(X, "__arrow_c_stream__") or hasattr(X, "__dataframe__")
    return offers and not isinstance(X, pd.DataFrame) and len(getattr(X, "shape", ())) == 2


def pandas_frame(X: Table) -> Table | pd.DataFrame:
    """Return a frame of another library as one of pandas, column by column; anything else as it is.

    Every column is read as an array of numpy, so that it keeps its own type, and pyarrow, which pandas and polars use
    to exchange whole frames, is not needed. A missing value is NaN, None or NaT.

    Args:
        X: a frame of polars, or of another library whose frames have named columns; or anything else.

    Raises:
        TypeError: for a frame without rows yet, or whose columns cannot be read; the message says how to convert it.

    >>> import numpy as np
    >>> class Frame:  # stands for a frame of another library
    ...     columns, shape = ["user", "stars"], (2, 2)
    ...     def __getitem__(self, name):
    ...         return {"user": ["ann", None], "stars": [5, 3]}[name]
    ...     def __arrow_c_stream__(self, requested_schema=None):
    ...         raise NotImplementedError
    >>> pandas_frame(Frame()).dtypes["stars"], pandas_frame(Frame()).to_numpy().tolist()
    (dtype('int64'), [['ann', 5], [None, 3]])
    """
    if isinstance(X, Lazy) and not is_foreign(X):
        raise TypeError(f"X is a {_kind(X)}, a query that has not been run; pass X.collect()")
    if not is_foreign(X):
        return X
    if not isinstance(X, Columns) or not all(isinstance(name, str) for name in X.columns):
        raise TypeError(f"X is a {_kind(X)}, whose columns cannot be read by name; pass X.to_pandas()")
    return pd.DataFrame({str(name): _column(X[str(name)]) for name in X.columns})


def check_labelled(features: object, name: str) -> None:
    """Refuse features whose rows have no labels.

    Args:
        features: a frame of pandas, or None.
        name: what to call the features in the message.

    Raises:
        TypeError: for anything else. A frame of another library has no index, so it cannot be aligned.
    """
    if features is not None and not isinstance(features, pd.DataFrame):
        raise TypeError(
            f"{name} is a {_kind(features)}, and its rows have no labels; pass a frame of pandas with the labels as "
            f"its index, for example pandas.DataFrame({{name: list(F[name]) for name in F.columns}}, index=labels)"
        )


def _kind(thing: object) -> str:
    """Return the library and the class of a thing, such as polars.DataFrame."""
    return f"{type(thing).__module__.partition('.')[0]}.{type(thing).__name__}"


def _column(column: object) -> pd.Series:
    """Return a column as a series of pandas.

    Integers beside missing values become floating-point numbers in numpy. Where they are so large that this changes
    them, as identifiers may be, they stay integers.
    """
    values = np.asarray(column)
    if values.dtype.kind == "f" and hasattr(column, "to_list") and (np.abs(values) >= EXACT).any():
        return pd.Series(column.to_list(), dtype=object)
    return pd.Series(values, dtype=object if values.dtype == object else None)
