"""The check of types that the suite puts around every function of the package: an int is a float, as everywhere."""

import inspect
import typing
from collections.abc import Iterator

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check the types of all functions of the package, which must not be imported yet.

    A function with shapes among its types is called with a table of the sizes that its axes have, and gets that from
    jaxtyping, which takes some fifty microseconds per call. All others get beartype's check alone, which takes one: the
    solver of flows makes a million calls in a test.
    """
    jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = _checked
    install_import_hook("ranklens", "strict_types.check")


def _checked(fn: object = None, **how: object) -> object:
    """Return a function, or a class or another holder of functions, with the check; called as `jaxtyping.jaxtyped`."""
    if fn is None:
        return lambda fn: _checked(fn, **how)
    if not inspect.isfunction(fn) or getattr(fn, "__no_type_check__", False) or how.get("typechecker") is None:
        return _jaxtyped(fn, **how)
    if inspect.isgeneratorfunction(fn):  # its body, beartype's check included, runs when the table of sizes has gone
        return _jaxtyped(fn, **how)
    parts = [part for kind in fn.__annotations__.values() for part in _parts(kind)]
    if any(isinstance(part, str | typing.ForwardRef) for part in parts):  # jaxtyping passes over names it cannot find
        return _jaxtyped(fn, **how)
    with_shapes = any(inspect.isclass(part) and issubclass(part, AbstractArray) for part in parts)
    return _jaxtyped(check(fn), typechecker=None) if with_shapes else check(fn)


def _parts(kind: object) -> Iterator[object]:
    """Yield a type and all types in its brackets."""
    yield kind
    for argument in kind if isinstance(kind, list) else typing.get_args(kind):
        yield from _parts(argument)
