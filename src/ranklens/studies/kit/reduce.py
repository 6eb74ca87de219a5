"""One number from many measured values: a value that is not a number makes the result not a number.

xarray skips NaN by default, and the built-in `min` and `max` depend on the order of their arguments. A claim that is
built from these functions fails as soon as one of its measurements is NaN.
"""

from collections.abc import Callable, Sized

import numpy as np
from numpy.typing import ArrayLike, NDArray


def largest(values: ArrayLike) -> float:
    """Return the largest of all values; NaN if one of them is NaN or there is none.

    >>> largest([[1.0, 3.0], [2.0, 0.0]]), largest([1.0, float("nan")]), largest([])
    (3.0, nan, nan)
    """
    return _reduced(values, np.max)


def least(values: ArrayLike) -> float:
    """Return the least of all values; NaN if one of them is NaN or there is none.

    >>> least([2.0, -1.0]), least([float("nan"), 1.0])
    (-1.0, nan)
    """
    return _reduced(values, np.min)


def median(values: ArrayLike) -> float:
    """Return the median of all values; NaN if one of them is NaN or there is none.

    >>> median([3.0, 1.0, 2.0]), median([3.0, float("nan"), 2.0])
    (2.0, nan)
    """
    return _reduced(values, np.median)


def mean(values: ArrayLike) -> float:
    """Return the mean of all values; NaN if one of them is NaN or there is none.

    >>> mean([3.0, 1.0]), mean([3.0, float("nan")])
    (2.0, nan)
    """
    return _reduced(values, np.mean)


def farthest(values: ArrayLike, point: float) -> float:
    """Return the value with the largest distance from a point; NaN if one of them is NaN or there is none.

    >>> farthest([0.9, 1.3, 1.1], 1.0), farthest([0.9, float("nan")], 1.0)
    (1.3, nan)
    """
    return _reduced(values, lambda x: x[np.abs(x - point).argmax()])


def share(values: ArrayLike, condition: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> float:
    """Return the share of values for which a condition is true; NaN if one of them is NaN or there is none.

    >>> share([1.0, 2.0, 3.0, 4.0], lambda x: x > 1), share([2.0, float("nan")], lambda x: x > 1)
    (0.75, nan)
    """
    return _reduced(values, lambda x: np.float64(condition(x).mean()))


def count(values: Sized | int, noun: str = "seed") -> str:
    """Return a number of values, or their given number, and what they are, in words for a claim.

    >>> count([0.1, 0.2]), count([0.1]), count(3, "run")
    ('2 seeds', '1 seed', '3 runs')
    """
    number = values if isinstance(values, int) else len(values)
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _reduced(values: ArrayLike, function: Callable[[NDArray[np.float64]], np.float64]) -> float:
    """Return a function of all values as one array, or NaN if one of them is NaN or there is none."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(function(flat)) if len(flat) and not np.isnan(flat).any() else float("nan")
