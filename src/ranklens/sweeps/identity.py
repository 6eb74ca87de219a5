"""The identity of a function: a digest of its code and of the values that it holds, so that a store can tell it apart.

The digest covers the source text of the function, the values that it closes over, default values, and those global
names of its own module that it uses: functions and classes by their source, data by their content. It does not cover
code of other modules, files, the environment, or the versions of other packages.
"""

import functools
import hashlib
import inspect
import os
import platform
import textwrap
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
import xarray as xr

# Types whose repr is their content.
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, torch.dtype, torch.device)


def digest(value: object) -> str:
    """Return a text of 64 hexadecimal digits that identifies the content of a value.

    Equal content gives equal digests, in another process too. Tensors and arrays count by dtype, shape and bytes,
    modules of torch by their class and state, other objects by their class and attributes.

    Args:
        value: data, a function, or an object made of these.

    Raises:
        TypeError: for an object whose content cannot be read, such as an open file or a random generator.

    >>> import torch
    >>> digest({"a": 1, "b": torch.zeros(2)}) == digest({"b": torch.zeros(2), "a": 1})
    True
    >>> digest(1) == digest(1.0)
    False
    """
    found = _Digest("")
    found.add(value)
    return found.hash.hexdigest()


def digest_of_function(function: Callable[..., object]) -> str:
    """Return the digest of a function, which changes when its code or a value that it holds changes.

    Args:
        function: a function, a method, or a functools.partial of one.

    Raises:
        TypeError: if the function closes over something whose content cannot be read.
    """
    found = _Digest(getattr(function, "__module__", ""))
    found.add(function)
    return found.hash.hexdigest()


class _Digest:
    """A digest to which values are added, and the module whose functions and globals are followed."""

    def __init__(self, home: str) -> None:
        self.home, self.hash, self.open = home, hashlib.sha256(), set[int]()

    def add(self, value: object) -> None:
        """Add the content of a value; an object inside itself counts by its position only."""
        if isinstance(value, PLAIN):
            self.tell(type(value).__name__, repr(value))
            return
        if id(value) in self.open:
            self.tell("again")
            return
        self.open.add(id(value))
        try:
            self._add(value)
        finally:
            self.open.discard(id(value))

    def tell(self, *texts: str) -> None:
        """Add texts, each with its length, so that no two lists of texts look alike."""
        for text in texts:
            self.hash.update(f"{len(text)}:{text}".encode())

    def _add(self, value: object) -> None:  # noqa: PLR0912  (one case per kind of value)
        if isinstance(value, torch.Tensor):
            self._add_array(value.detach().cpu().resolve_conj().contiguous())
        elif isinstance(value, np.ndarray | np.generic):
            self._add_array(np.asarray(value))
        elif isinstance(value, xr.Dataset | xr.DataArray):
            self.add(value.to_dict())
        elif isinstance(value, list | tuple):
            self.tell(type(value).__name__, str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, Mapping | set | frozenset):
            self._add_unordered(value)
        elif isinstance(value, os.PathLike):
            self.tell("path", str(os.fspath(value)))
        elif isinstance(value, functools.partial):
            self.tell("partial")
            self.add([value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            self.tell("method", value.__func__.__qualname__)
            self.add([value.__func__, value.__self__])
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, ModuleType):
            self.tell("module", value.__name__)
        elif isinstance(value, type) or inspect.isbuiltin(value):
            self._add_named(value)
        elif isinstance(value, torch.nn.Module):
            self.tell(type(value).__qualname__, repr(value))
            self.add(value.state_dict())
        elif hasattr(value, "__dict__"):
            self.tell(f"{type(value).__module__}.{type(value).__qualname__}")
            self.add(vars(value))
        else:
            raise TypeError(f"the content of a {type(value).__name__} cannot be read")

    def _add_array(self, values: torch.Tensor | np.ndarray) -> None:
        self.tell("array", str(values.dtype), str(tuple(values.shape)))
        if isinstance(values, torch.Tensor):
            self.hash.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif values.dtype == object:
            self.add(values.tolist())
        else:
            self.hash.update(np.ascontiguousarray(values).tobytes())

    def _add_unordered(self, values: Mapping[object, object] | set[object] | frozenset[object]) -> None:
        items = values.items() if isinstance(values, Mapping) else values
        parts = []
        for item in items:
            part = _Digest(self.home)
            part.open = self.open
            part.add(item)
            parts.append(part.hash.hexdigest())
        self.tell("unordered", *sorted(parts))

    def _add_named(self, value: object) -> None:
        """Add the name of a class or builtin, and the source of a class of the home module."""
        home, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", repr(value))
        self.tell("named", f"{home}.{name}")
        if isinstance(value, type) and home == self.home:
            self.tell(_source(value))

    def _add_function(self, function: FunctionType) -> None:
        self.tell("function", f"{function.__module__}.{function.__qualname__}")
        if function.__module__ != self.home:
            return
        text = "" if function.__name__ == "<lambda>" else _source(function)
        if text:
            self.tell("source", text)
        else:
            self._add_code(function.__code__)
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        self.add([value for value in defaults if not isinstance(value, PLAIN)])  # plain ones are settings
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.tell("closure", name)
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a name that is not bound yet
                self.tell("empty")
            except TypeError as error:
                raise TypeError(
                    f"{function.__qualname__} uses {name!r} of the function around it, and {error}, so a store cannot "
                    f"tell its results apart; make it inside {function.__qualname__}, or leave out store"
                ) from error
        for name in sorted(_names(function.__code__) & set(function.__globals__)):
            self._add_global(name, function.__globals__[name])

    def _add_global(self, name: str, value: object) -> None:
        """Add a global value that a function uses; of one whose content cannot be read, the class."""
        self.tell("global", name)
        trial = _Digest(self.home)
        trial.open = self.open
        try:
            trial.add(value)
        except (TypeError, RecursionError):
            self.tell(type(value).__qualname__)
        else:
            self.tell(trial.hash.hexdigest())

    def _add_code(self, code: CodeType) -> None:
        """Add the bytecode of a function without a source of its own, which differs between versions of Python."""
        self.tell("code", platform.python_version(), code.co_code.hex(), *code.co_names, *code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant)
            else:
                self.add(constant)


def _source(thing: Callable[..., object]) -> str:
    """Return the source text of a function or class, or the empty string where there is none."""
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return ""


def _names(code: CodeType) -> set[str]:
    """Return the global names and attributes that a function uses, those of the functions inside it included."""
    return set(code.co_names).union(*(_names(each) for each in code.co_consts if isinstance(each, CodeType)))
