"""The grid of a sweep: every combination of the values that are swept over, in order, with its labels."""

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ranklens.sweeps.settings import Setting, setting


@dataclass(frozen=True)
class Grid:
    """The values that a sweep goes through.

    Attributes:
        over: the values of each setting, in the order of the dimensions of the sweep's Dataset.
    """

    over: dict[str, tuple[Setting, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of values of each setting."""
        return tuple(len(values) for values in self.over.values())

    def cells(self) -> list[dict[str, Setting]]:
        """Return the settings of all runs; the last setting changes fastest."""
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values())]

    def labels(self) -> dict[str, np.ndarray]:
        """Return the coordinate of every setting: its values, or JSON text where they are not of one plain type."""
        return {name: labels_of(values) for name, values in self.over.items()}


def grid_of(over: Mapping[str, Iterable[object]]) -> Grid:
    """Return the grid of a sweep.

    Args:
        over: {name of a setting: its values}.

    Raises:
        TypeError: if `over` is no dictionary, or has values that are not a list.
        ValueError: for no settings, no values, or a value that comes twice.

    >>> grid_of({"depth": [2, 3], "seed": range(2)}).cells()[1]
    {'depth': 2, 'seed': 1}
    """
    if not isinstance(over, Mapping):
        raise TypeError(
            f"over is a {type(over).__name__}; pass a dictionary such as {{'depth': [2, 3], 'seed': range(5)}}"
        )
    if not over:
        raise ValueError("over is empty; name at least one setting, with its values")
    found = {}
    for name, values in over.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"over[{name!r}] is {values!r}; pass a list of values, such as [{values!r}]")
        listed = tuple(setting(name, value) for value in values)
        if not listed:
            raise ValueError(f"over[{name!r}] has no values; pass at least one")
        labels = labels_of(listed).tolist()
        twice = [label for k, label in enumerate(labels) if label in labels[:k]]
        if twice:
            raise ValueError(f"over[{name!r}] has {twice[0]!r} twice; pass every value once")
        found[str(name)] = listed
    return Grid(found)


def labels_of(values: Iterable[Setting]) -> np.ndarray:
    """Return values as the coordinate of a dimension: numbers or texts as they are, anything else as JSON text."""
    listed = list(values)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed)
    if numbers or all(isinstance(value, str) for value in listed):
        return np.array(listed)
    return np.array([value if isinstance(value, str) else json.dumps(value) for value in listed])


def words(cell: Mapping[str, Setting]) -> str:
    """Return settings in one line, such as "depth=2, seed=0"."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in cell.items()
    )
