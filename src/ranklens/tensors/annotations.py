"""Checks of the types of arguments by the annotations of a function, which need not repeat in code what it says there.

Ranges of numbers and what arguments must have in common are not annotated. Functions check these with `arguments`.
"""

import inspect
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, SimpleNamespace, UnionType
from typing import Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

from ranklens.tensors.arguments import told

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
# Integers from here on do not fit into 64 bits, the largest integers of torch and numpy.
TOO_LARGE = 2**63
# Words for what jaxtyping calls the dtypes of an array.
DTYPES = {"Float": "floating-point ", "Shaped": ""}


@dataclass(frozen=True)
class Kind:
    """What an annotation allows: in words, in words for several of it, and as a test of a value."""

    words: str
    several: str
    allows: Callable[[object], bool]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that checks the types of its arguments by its annotations, and then does as before.

    A number of numpy or torch counts as a number, an array as a sequence of numbers, and a list as a tuple. True is no
    number, and nan is none either. A function, a list and a dictionary are checked as far as that is possible without
    calling the function and without using up an iterator.

    Args:
        function: a function or method with annotations.

    Returns:
        A function of the same name and signature. It raises a TypeError (for nan a ValueError) that names the argument.

    >>> from ranklens.tensors.annotations import checked
    >>> @checked
    ... def repeated(words: Sequence[str], times: int = 2) -> list[str]:
    ...     return [*words] * times
    >>> repeated(["a"], 3)
    ['a', 'a', 'a']
    >>> repeated("a", 3)
    Traceback (most recent call last):
    TypeError: words is 'a'; it must be a list of texts
    >>> repeated(["a"], times="3")
    Traceback (most recent call last):
    TypeError: times is '3'; it must be an integer
    """
    parameters = inspect.signature(function).parameters
    positional = [name for name, given in parameters.items() if given.kind is not given.KEYWORD_ONLY]
    repeated = next((name for name, given in parameters.items() if given.kind is given.VAR_POSITIONAL), None)

    @cache
    def kinds() -> dict[str, Kind]:
        """Return what the annotations allow. They are read at the first call, when all their names exist."""
        given = {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}
        hints = get_type_hints(SimpleNamespace(__annotations__=given), inspect.unwrap(function).__globals__)
        return {name: kind_of(hint) for name, hint in hints.items()}

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        allowed = kinds()
        for k, value in enumerate(args):
            name = positional[k] if k < len(positional) else repeated
            if name in allowed:
                _check(name, allowed[name], value)
        for name, value in kwargs.items():
            if name in allowed:
                _check(name, allowed[name], value)
        return function(*args, **kwargs)

    return guarded


def checked_class(made: C) -> C:
    """Return a class after changing it so that its constructor checks the types of its arguments.

    Args:
        made: a class, such as a dataclass.

    >>> from dataclasses import dataclass
    >>> from ranklens.tensors.annotations import checked_class
    >>> @checked_class
    ... @dataclass(frozen=True)
    ... class Pen:
    ...     width: float
    >>> Pen(width="fine")
    Traceback (most recent call last):
    TypeError: width is 'fine'; it must be a number
    """
    type.__setattr__(made, "__init__", checked(vars(made)["__init__"]))
    return made


def check_attributes(thing: object) -> None:
    """Check the types of the attributes of an object that have the names of its constructor's arguments.

    An estimator of scikit-learn keeps its arguments as they are, and may refuse them only later.

    Args:
        thing: the object.
    """
    for name, hint in get_type_hints(type(thing).__init__).items():
        if name != "return":
            _check(name, kind_of(hint), getattr(thing, name))


def _check(name: str, kind: Kind, value: object) -> None:
    """Refuse a value that an annotation does not allow.

    Raises:
        TypeError: for a value of a wrong type.
        ValueError: for nan.
    """
    if kind.allows(value):
        return
    message = f"{name} is {told(value)}; it must be {kind.words}"
    raise ValueError(message) if isinstance(value, float) and math.isnan(value) else TypeError(message)


def kind_of(hint: object) -> Kind:
    """Return what an annotation allows. An annotation that cannot be checked allows everything.

    Args:
        hint: a class, a generic such as `Sequence[int]`, a union, a literal, or a type variable with a bound.

    >>> kind_of(int | None).words, kind_of(Sequence[int]).allows(["a"])
    ('an integer or None', False)
    """
    if isinstance(hint, TypeVar):
        return kind_of(hint.__bound__ or object)
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if parts and kind in _WITH_PARTS:
        return _WITH_PARTS[kind](kind, parts)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if not isinstance(kind, type) or kind is object:
        return ANYTHING
    return _arrays(kind) if issubclass(kind, AbstractArray) else _instances(kind)


def _is_integer(value: object) -> bool:
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < TOO_LARGE


def _is_number(value: object) -> bool:
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and not math.isnan(value)


def _of(*kinds: type) -> Callable[[object], bool]:
    """Return a function that tells whether a value is an instance of one of some classes."""
    return lambda value: isinstance(value, kinds)


ANYTHING = Kind("anything", "things", lambda _: True)
_PLAIN: dict[object, Kind] = {
    int: Kind("an integer", "integers", _is_integer),
    float: Kind("a number", "numbers", _is_number),
    bool: Kind("True or False", "True and False", _of(bool, np.bool_)),
    str: Kind("a text", "texts", _of(str)),
    NoneType: Kind("None", "None", _of(NoneType)),
    Tensor: Kind("a tensor", "tensors", _of(Tensor)),
    np.ndarray: Kind("an array", "arrays", _of(np.ndarray)),
    Callable: Kind("a function", "functions", callable),
    Mapping: Kind("a dictionary", "dictionaries", _of(Mapping)),
    dict: Kind("a dictionary", "dictionaries", _of(Mapping)),
    os.PathLike: Kind("a path", "paths", _of(os.PathLike)),
}


def _any_of(_: object, hints: tuple[object, ...]) -> Kind:
    """Return what at least one of several annotations allows. Whatever is converted to an array is checked there."""
    if any(hint == Sequence[object] or getattr(get_origin(hint), "__name__", "") == "_SupportsArray" for hint in hints):
        return ANYTHING
    kinds = [kind_of(hint) for hint in hints]
    words, several = [kind.words for kind in kinds], [kind.several for kind in kinds if kind.words != "None"]
    return Kind(
        ", ".join([*words[:-2], " or ".join(words[-2:])]),
        " or ".join(several),
        lambda value: any(kind.allows(value) for kind in kinds),
    )


def _instances(kind: type) -> Kind:
    """Return the kind of the instances of a class. Those of a protocol cannot always be told."""
    name = kind.__name__
    words = f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    if getattr(kind, "_is_protocol", False):
        if not getattr(kind, "_is_runtime_protocol", False):
            return ANYTHING
        words += f" (an object with {', '.join(part for part in vars(kind) if not part.startswith('_'))})"
    return Kind(words, f"objects of the class {name}", _of(kind))


def _words(_: object, allowed: tuple[object, ...]) -> Kind:
    """Return the kind of some literal words."""
    words = f"one of {', '.join(map(repr, allowed))}"
    return Kind(words, words, lambda value: isinstance(value, str) and value in allowed)


def _subclasses(_: object, parts: tuple[object, ...]) -> Kind:
    """Return the kind of the subclasses of a class."""
    (kind,) = (part for part in parts if isinstance(part, type))
    words = f"a subclass of {kind.__name__}"
    return Kind(words, words, lambda value: isinstance(value, type) and issubclass(value, kind))


def _arrays(kind: type[AbstractArray]) -> Kind:
    """Return the kind of the tensors or arrays of a dtype and a shape, in the notation of jaxtyping."""
    array = "tensor" if kind.array_type is Tensor else "array"
    sort = kind.__name__.partition("[")[0]
    words = f"a {DTYPES.get(sort, f'{sort.lower()} ')}{array} of shape ({', '.join(kind.dim_str.split())})"

    def allows(value: object) -> bool:
        with jaxtyped("context"):  # sizes are compared with each other, and not with those of a function that calls
            return isinstance(value, kind)

    return Kind(words, words, allows)


def _lists(kind: object, parts: tuple[object, ...]) -> Kind:
    """Return the kind of sequences, or of all that can be iterated over, whose parts are of a kind."""
    length = len(parts) if kind is tuple and Ellipsis not in parts else None
    each = kind_of(parts[0])
    takes_numbers = any(each.allows(example) for example in (1, 1.0))

    def allows(value: object) -> bool:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return False
        if isinstance(value, Tensor | np.ndarray):
            return value.ndim > 0 and takes_numbers and _has_numbers(value) and length in (None, len(value))
        if not isinstance(value, Sequence):
            if not hasattr(value, "__array__") and not (kind is Collection and isinstance(value, Collection)):
                return kind is Iterable
            value = list(value)  # such as a set, or a series of pandas; of a frame, the names of the columns
        return length in (None, len(value)) and all(each.allows(part) for part in value)

    what = "" if each is ANYTHING else f" of {'' if length is None else f'{length} '}{each.several}"
    return Kind(f"a list{what}", f"lists{what}", allows)


def _arrays_of(_: object, parts: tuple[object, ...]) -> Kind:
    """Return the kind of the numpy arrays of a dtype."""
    dtype: object = get_args(parts[-1])[0]
    if not isinstance(dtype, type):
        return _PLAIN[np.ndarray]
    kind: type = dtype
    name = kind.__name__.rstrip("_")
    words = ("an array", "arrays") if kind is np.generic else (f"an array of {name}", f"arrays of {name}")
    return Kind(*words, lambda value: isinstance(value, np.ndarray) and issubclass(value.dtype.type, kind))


def _has_numbers(value: Tensor | np.ndarray) -> bool:
    """Return whether an array holds real numbers."""
    return not value.dtype.is_complex if isinstance(value, Tensor) else value.dtype.kind in "iuf"


_WITH_PARTS: dict[object, Callable[[object, tuple[object, ...]], Kind]] = {
    **dict.fromkeys((Union, UnionType), _any_of),
    **dict.fromkeys((Sequence, Iterable, Collection, list, tuple), _lists),
    Literal: _words,
    np.ndarray: _arrays_of,
    type: _subclasses,
}
