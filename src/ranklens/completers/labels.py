"""Labels of a mode: any hashable values, numbered."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Int64

Value = TypeVar("Value")


@dataclass(frozen=True)
class Labels:
    """Labels of a mode, each with a number from 0.

    Attributes:
        index: the labels; sorted, if they can be.
    """

    index: pd.Index

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.index)

    @classmethod
    def of(cls, column: pd.Series, more: pd.Index | None = None) -> "Labels":
        """Return the labels of a column.

        Args:
            column: the labels, each any number of times. A missing label is a label of its own.
            more: further labels of the mode.

        Raises:
            TypeError: for labels that are not hashable.

        >>> Labels.of(pd.Series(["b", "a", "b"])).index.tolist()
        ['a', 'b']
        """
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        every = column if more is None else pd.concat([column, more.to_series()], ignore_index=True)
        try:
            found = pd.Index(pd.unique(every), tupleize_cols=False)
        except TypeError as error:
            raise TypeError(f"column {column.name!r} of X has labels that are not hashable: {error}") from None
        try:
            return cls(found.sort_values(na_position="last"))
        except TypeError:
            return cls(found)  # labels of several kinds have no order

    def codes(self, column: pd.Series) -> Int64[np.ndarray, " m"]:
        """Return the numbers of labels; the number of labels for one that is not among them.

        Args:
            column: the labels.

        >>> Labels.of(pd.Series(["b", "a"])).codes(pd.Series(["a", "c", "b"])).tolist()
        [0, 2, 1]
        """
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        at = self.index.get_indexer(pd.Index(column, tupleize_cols=False))
        return np.where(at < 0, len(self), at).astype(np.int64)


def by_column(table: pd.DataFrame, given: Mapping[Hashable, Value] | None, name: str) -> dict[int, Value]:
    """Return a mapping from columns, by name or position, as a mapping from their positions.

    Args:
        table: the table.
        given: the mapping; None is an empty one.
        name: what to call the mapping in messages.

    Raises:
        ValueError: for a column that the table does not have.
    """
    found = {}
    for column, value in (given or {}).items():
        if column in table.columns:
            found[int(table.columns.get_loc(column))] = value
        elif isinstance(column, int) and not isinstance(column, bool) and 0 <= column < table.shape[1]:
            found[column] = value
        else:
            raise ValueError(f"{name} has the column {column!r}; X has the columns {list(table.columns)}")
    return found
