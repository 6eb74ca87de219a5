"""What a sweep runs: a function or a study, with the settings of one run, and the key under which the run is stored."""

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import ranklens
from ranklens import studies
from ranklens.sweeps.identity import digest_of_function
from ranklens.sweeps.settings import Setting, is_setting, setting

# The layout of what is hashed into a key. Runs stored under another layout are not found.
KEY_FORMAT = 1


@runtime_checkable
class Work(Protocol):
    """A function or a study that can be run at given settings."""

    @property
    def name(self) -> str:
        """Return its name in a store."""

    @property
    def code(self) -> str:
        """Return a digest of its code."""

    def settings(self, chosen: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return all settings of a run, given those that a sweep chooses."""

    def run(self, settings: Mapping[str, Setting]) -> object:
        """Run once, and return what the function or the study returned."""


@dataclass(frozen=True)
class FunctionWork:
    """A function, called with settings as keyword arguments."""

    function: Callable[..., object]
    name: str
    code: str

    def settings(self, chosen: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return the chosen settings, and the default values of all other arguments that are settings.

        Raises:
            ValueError: for a name that is no argument of the function, or an argument without a value.
        """
        parameters = inspect.signature(self.function).parameters.values()
        named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        unknown = sorted(set(chosen) - named)
        if unknown and not any(each.kind == each.VAR_KEYWORD for each in parameters):
            raise ValueError(f"{self.name} has no argument {unknown[0]!r}; it has {', '.join(sorted(named)) or 'none'}")
        found: dict[str, Setting] = {}
        for each in parameters:
            if each.name in chosen or each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
                continue
            if each.default is each.empty:
                raise ValueError(f"{self.name} needs {each.name!r}; sweep over it, or give its value in `fixed`")
            if is_setting(each.default):
                found[each.name] = setting(each.name, each.default)
        return {**found, **chosen}

    def run(self, settings: Mapping[str, Setting]) -> object:
        """Return what the function returns."""
        return self.function(**settings)


@dataclass(frozen=True)
class StudyWork:
    """A study, whose settings are those of a preset, some of them replaced."""

    study: str
    preset: str
    name: str
    code: str

    def settings(self, chosen: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return all settings of the study; one that holds several values may be chosen by its singular, as "seed".

        Raises:
            ValueError: for a setting that does not exist, or a value of another type.
        """
        settings = studies.preset(self.study, self.preset)
        fields = {field.name for field in dataclasses.fields(settings)}
        changes = []
        for name, value in chosen.items():
            known = f"{name}s" if name not in fields and f"{name}s" in fields else name
            changes.append(f"{known}={json.dumps(value)}")
        return {name: setting(name, value) for name, value in vars(studies.override(settings, changes)).items()}

    def run(self, settings: Mapping[str, Setting]) -> object:
        """Return the study's record."""
        kind = type(studies.preset(self.study, self.preset))
        return studies.perform(self.study, kind(**settings))


def work_of(what: str | Callable[..., object], preset: str) -> Work:
    """Return the work that a function or the name of a study stands for.

    Args:
        what: a function, or the name of a study.
        preset: the preset of a study.

    Raises:
        TypeError: for anything else.
        ValueError: for a name that is no study, or a preset that it does not have.
    """
    if isinstance(what, str):
        studies.preset(what, preset)
        source = Path(inspect.getfile(inspect.getmodule(studies.load(what)) or studies)).read_bytes()
        return StudyWork(what, preset, f"study {what}", hashlib.sha256(source).hexdigest())
    if not callable(what) or isinstance(what, type):
        raise TypeError(f"what is {what!r}; pass a function, or the name of a study as `ranklens list` shows it")
    inner = what
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    return FunctionWork(what, name, digest_of_function(what))


def key_of(work: Work, settings: Mapping[str, Setting]) -> str:
    """Return the key of a run: a digest of the work's name and code, the settings, and the version of ranklens."""
    told = [KEY_FORMAT, work.name, work.code, settings, ranklens.__version__]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
