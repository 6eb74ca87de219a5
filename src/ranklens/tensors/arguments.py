"""Checks of single arguments: counts, numbers and lists. Errors name the argument, its value and what it should be."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

K = TypeVar("K")
T = TypeVar("T")
# Longest text of a value in a message.
SHOWN = 60
# Largest count: more than any array of this library has entries, and small enough for the integers of torch.
LARGEST = 2**40


def count(name: str, value: object, least: int = 1) -> int:
    """Return an argument that is an integer, after checking that it is large enough.

    Args:
        name: name of the argument, for the message.
        value: its value: an integer of Python, numpy or torch.
        least: the smallest allowed value.

    Raises:
        TypeError: if the value is no integer.
        ValueError: if it is below `least`, or above 2^40.

    >>> count("rank", 3)
    3
    >>> count("rank", 0)
    Traceback (most recent call last):
    ValueError: rank is 0; it must be at least 1
    """
    single = not isinstance(value, np.ndarray | Tensor) or value.ndim == 0
    if isinstance(value, bool | np.bool_) or not single or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {told(value)}; it must be an integer")
    try:
        found = int(value.__index__())
    except TypeError as error:  # an array or tensor of floating-point numbers
        raise TypeError(f"{name} is {told(value)}; it must be an integer") from error
    if found < least:
        raise ValueError(f"{name} is {found}; it must be at least {least}")
    if found > LARGEST:
        raise ValueError(f"{name} is {told(found)}; it must be at most 2^40")
    return found


def number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    finite: bool = True,
) -> float:
    """Return an argument that is a real number, as a float, after checking that it lies in its range.

    Args:
        name: name of the argument, for the message.
        value: its value: a number of Python, numpy or torch.
        least: the smallest allowed value.
        above: a value that the number must exceed.
        most: the largest allowed value.
        finite: whether infinity is refused. Not a number (nan) always is.

    Raises:
        TypeError: if the value is no real number.
        ValueError: if it is outside the range.

    >>> number("rtol", 1e-6, above=0, most=0.1)
    1e-06
    >>> number("rtol", 2, above=0, most=0.1)
    Traceback (most recent call last):
    ValueError: rtol is 2.0; it must be a finite number above 0 and at most 0.1
    """
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name} is {told(value)}; it must be a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    low = found < least or (above > -math.inf and found <= above)
    if math.isnan(found) or (finite and math.isinf(found)) or low or found > most:
        raise ValueError(f"{name} is {found}; it must be {_range(least, above, most, finite)}")
    return found


def sequence(name: str, value: Iterable[T]) -> Sequence[T]:
    """Return an argument that is a list, a tuple, or another iterable, as a sequence.

    Args:
        name: name of the argument, for the message.
        value: its value.

    Raises:
        TypeError: if the value is a text, or is nothing that can be iterated over.
    """
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} is {told(value)}; it must be a list or a tuple")
    if isinstance(value, Sequence):
        return value
    try:
        return list(value)
    except TypeError as error:
        raise TypeError(f"{name} is {told(value)}; it must be a list or a tuple") from error


def mapping(name: str, value: Mapping[K, T]) -> Mapping[K, T]:
    """Return an argument that is a dictionary or another mapping.

    Args:
        name: name of the argument, for the message.
        value: its value.

    Raises:
        TypeError: if the value is no mapping.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {told(value)}; it must be a dictionary")
    return value


def instance(name: str, value: object, kind: type[T]) -> T:
    """Return an argument that is an object of a class.

    Args:
        name: name of the argument, for the message.
        value: its value.
        kind: the class.

    Raises:
        TypeError: if the value is of another class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {told(value)}; it must be a {kind.__name__}")
    return value


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Name an argument in the errors of another library that reads it inside the block.

    Args:
        name: name of the argument.

    Yields:
        Nothing.

    Raises:
        TypeError: for a TypeError inside the block.
        ValueError: for a ValueError or an OverflowError inside the block.

    >>> with reading("values"):
    ...     np.asarray(["a"], dtype=float)
    Traceback (most recent call last):
    ValueError: values cannot be used: could not convert string to float: 'a'
    """
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        message = f"{name} cannot be used: {error}"
        raise (TypeError(message) if isinstance(error, TypeError) else ValueError(message)) from error


@contextmanager
def renamed(inner: str, outer: str) -> Iterator[None]:
    """Replace the name of an argument in errors inside the block by the name that the caller knows.

    Args:
        inner: name at the start of the message.
        outer: name that takes its place.

    Yields:
        Nothing.

    Raises:
        TypeError: for a TypeError inside the block.
        ValueError: for a ValueError or an OverflowError inside the block.

    >>> with renamed("width", "rank"):
    ...     count("width", 0)
    Traceback (most recent call last):
    ValueError: rank is 0; it must be at least 1
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(f"{inner} "):
            raise
        message = f"{outer}{str(error).removeprefix(inner)}"
        raise (TypeError(message) if isinstance(error, TypeError) else ValueError(message)) from error


def floating_dtype(name: str, value: object) -> torch.dtype:
    """Return an argument that is a floating-point dtype of torch.

    Args:
        name: name of the argument, for the message.
        value: its value.

    Raises:
        TypeError: if the value is anything else.
    """
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name} is {told(value)}; it must be a floating-point dtype, such as torch.float64")
    return value


def device(name: str, value: torch.device | str | None) -> torch.device | None:
    """Return an argument that names a device, or None for the default one.

    Args:
        name: name of the argument, for the message.
        value: its value.

    Raises:
        TypeError: if the value is neither a device nor a text.
        ValueError: if torch has no device of that name, or this machine has none.
    """
    if value is None:
        return None
    if not isinstance(value, str | torch.device):
        raise TypeError(f"{name} is {told(value)}; it must be a device, such as 'cpu' or 'cuda'")
    try:
        found = torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"{name} is {value!r}; it must be a device of torch, such as 'cpu' or 'cuda'") from error
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # a build without a kind of device fails by an assertion
        raise ValueError(
            f"{name} is {str(value)!r}, which cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return found


def told(value: object) -> str:
    """Return a value as text for a message: numbers and short texts as they are, anything else by its type.

    >>> told("all"), told(None), told([1, 2]), told(object())
    ("'all'", 'None', '[1, 2]', 'of type object')
    """
    plain = value is None or isinstance(value, str | bytes | bool | complex | Real | list | tuple | dict | torch.dtype)
    if isinstance(value, np.ndarray | Tensor):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    if not plain or len(text := repr(value)) > SHOWN:
        return f"of type {type(value).__name__}"
    return text


def _range(least: float, above: float, most: float, finite: bool) -> str:
    """Return in words which numbers are allowed."""
    parts = [
        text
        for text, given in (
            (f"above {above:g}", above > -math.inf),
            (f"at least {least:g}", least > -math.inf),
            (f"at most {most:g}", most < math.inf),
        )
        if given
    ]
    return " ".join(["a finite number" if finite else "a number", " and ".join(parts)]).strip()
