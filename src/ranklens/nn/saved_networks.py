"""The networks in a file of `torch.save`, read without running any code from the file."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# A key that contains one of these, in any case, holds the state of training rather than weights of a model.
TRAINING_KEYS = ("optim", "sched", "scaler", "rng_state", "callbacks", "loops", "random_states")
# The two keys that the state of every optimizer of torch has.
OPTIMIZER_KEYS = {"state", "param_groups"}
# How torch names a class that it does not allow.
REFUSED = re.compile(r"GLOBAL (\S+) was not an allowed global")
# Number of classes that a message names.
CLASSES_SHOWN = 5


class Unread:
    """Stand-in for an object of a class that is not read: it keeps the attributes, and has none of the methods.

    Attributes:
        made: what takes the place of the object: None for a stand-in, or an empty container.
    """

    made: type | None = None

    def __new__(cls, *_: object, **__: object) -> object:  # type: ignore[misc]
        """Return what takes the place of an object, whatever arguments the object was made from."""
        return super().__new__(cls) if cls.made is None else cls.made()

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__ = {str(name): value for name, value in state.items()}


def saved_networks(path: Path) -> dict[str, Tensor]:
    """Return the weights of all networks in a file of `torch.save`, by name.

    The file may hold a state dict; state dicts under keys, beside numbers, texts and objects of any class, which are
    not read; lists of state dicts; or a whole model that was saved as an object, whose tensors are then read and whose
    classes are not. States of optimizers, schedulers and gradient scalers are left out. If the file holds several
    networks, each name begins with the key of its network. A mapping with tensors is a network if one of these has two
    axes or more, or if there is no such mapping.

    Args:
        path: a file that `file_kind` recognizes as one of `torch.save`.

    Returns:
        {name: tensor}. The tensors are views of the file where it is an archive, so that their numbers are read when
        they are used.

    Raises:
        ValueError: if the file is damaged, holds no tensors, holds the state of an optimizer alone, or holds objects
            that cannot be left out.
    """
    found = _load(path)
    networks = dict(_networks(found))
    whole = {key: tensors for key, tensors in networks.items() if any(x.ndim >= 2 for x in tensors.values())}
    networks = whole or networks
    if not networks:
        raise ValueError(f"{path} {_what_instead(found)}")
    if len(networks) == 1:
        return next(iter(networks.values()))
    return {f"{key}.{name}".lstrip("."): x for key, tensors in networks.items() for name, x in tensors.items()}


def _load(path: Path) -> object:
    """Return the object in a file, with stand-ins for objects of classes that are not allowed.

    A stand-in is empty at first: an `Unread`, into which torch writes the attributes of the object. For an object that
    is a kind of mapping or of list, torch writes the entries into the stand-in, which must then be one too. That an
    object is of such a kind shows when torch refuses to write its entries, so the file is then read once more.

    Raises:
        ValueError: if the file is damaged, or holds objects that cannot be left out.
    """
    kinds: dict[str, type | None] = dict.fromkeys(_unsafe(path))
    while True:
        classes = {name: type(name, (Unread,), {"made": kind}) for name, kind in kinds.items()}
        try:
            with safe_globals([(stand_in, name) for name, stand_in in classes.items()]), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch warns of protocols of pickle and of old storages
                return _load_safely(path)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {_first_line(error)}") from error
        except Exception as error:  # torch raises pickle.UnpicklingError for objects that are not allowed
            refused = REFUSED.search(str(error))  # in a file of the old format, whose classes cannot be listed before
            if refused is not None and refused[1] not in kinds:
                kinds[refused[1]] = None
                continue
            name = next((name for name, stand_in in classes.items() if repr(stand_in) in str(error)), None)
            if name is None or kinds[name] is not None:
                raise ValueError(
                    f"{path} holds more than tensors, and loading it could run code; save model.state_dict() instead "
                    f"({_first_line(error)})"
                ) from error
            kinds[name] = list if "lists" in str(error) else OrderedDict


def _load_safely(path: Path) -> object:
    """Return the object in a file, whose tensors are views of the file where torch can do that."""
    if _is_archive(path) and path.suffix != ".safetensors":  # torch goes by this suffix, whatever the content is
        name = str(path)  # torch maps only files that are named
        return torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _unsafe(path: Path) -> list[str]:
    """Return the names of the classes and functions in a file that torch would refuse."""
    try:
        return get_unsafe_globals_in_checkpoint(str(path)) if _is_archive(path) else []
    except Exception:  # the file is damaged, and loading it says how
        return []


def _is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive, as `torch.save` writes since version 1.6."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_line(error: Exception) -> str:
    """Return the first sentence of a message; the rest gives advice about arguments of torch that no user passed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "GLOBAL" in line or "nsupported" in line), lines[0] if lines else "")
    return told.split(". ")[0].replace("weights_only", "restricted") or type(error).__name__


def _networks(found: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the key and the tensors of every mapping with tensors; a mapping that comes twice is yielded once."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", found)]
    while waiting:
        key, value = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Unread):
            tensors, inner = _module(value)
        elif isinstance(value, Mapping) and not set(value) >= OPTIMIZER_KEYS:
            tensors, inner = _by_name({k: x for k, x in value.items() if isinstance(x, Tensor)}), dict(value)
        elif isinstance(value, list | tuple):
            tensors, inner = {}, dict(enumerate(value))
        else:
            continue
        if tensors:
            yield key, tensors
        waiting += [(f"{key}.{name}".lstrip("."), x) for name, x in inner.items() if not _is_training_state(name)]


def _module(unread: Unread) -> tuple[dict[str, Tensor], dict[object, object]]:
    """Return the tensors of a saved module with those of the modules in it, or what else the object holds."""
    if not isinstance(vars(unread).get("_parameters"), dict):
        return {}, {key: value for key, value in vars(unread).items()}  # noqa: C416  (whose keys may be of any type)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()  # a file may be made so that a module is part of itself
    waiting = [("", unread)]
    while waiting:
        prefix, module = waiting.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        parts = vars(module)
        for kind in ("_parameters", "_buffers"):
            own = {k: x for k, x in (parts.get(kind) or {}).items() if isinstance(x, Tensor)}
            tensors |= {f"{prefix}{name}": x for name, x in _by_name(own).items()}
        inner = (parts.get("_modules") or {}).items()
        waiting += [(f"{prefix}{name}.", m) for name, m in inner if isinstance(m, Unread)]
    return tensors, {}


def _by_name(tensors: Mapping[object, Tensor]) -> dict[str, Tensor]:
    """Return tensors by text; keys that are equal as texts, such as 1 and "1", are told apart by their type."""
    names = [str(key) for key in tensors]
    return {
        name if names.count(name) == 1 else f"{name} ({type(key).__name__})": x
        for name, (key, x) in zip(names, tensors.items(), strict=True)
    }


def _is_training_state(key: object) -> bool:
    """Return whether a key names the state of an optimizer, a scheduler, a gradient scaler or of random numbers."""
    return any(part in str(key).lower() for part in TRAINING_KEYS)


def _what_instead(found: object) -> str:
    """Return what a file without weights holds, and what to do, for a message."""
    if isinstance(found, Mapping) and set(found) >= OPTIMIZER_KEYS:
        return "holds the state of an optimizer, and no weights; give the file of the model beside it"
    if isinstance(found, Unread):
        told = f"holds an object of the class {type(found).__name__}, and no state dict; "
    elif isinstance(found, Mapping):
        kinds = list(dict.fromkeys(type(x).__name__ for x in found.values()))[:CLASSES_SHOWN]
        if any(kind.startswith("numpy.") for kind in kinds):
            return "holds arrays of numpy instead of tensors; save {name: torch.from_numpy(array)}"
        told = f"holds no state dict, but a mapping of {', '.join(kinds) or 'nothing'}; "
    else:
        told = f"holds no state dict, but an object of type {type(found).__name__}; "
    return f"{told}save a mapping of names to tensors, or one that has it under a key"
