"""The studies: one experiment of the talk per file, found by name, run, and judged by the claims they make."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from ranklens.studies.kit.claim import Claim

if TYPE_CHECKING:  # studies are listed without torch, xarray and matplotlib, whose imports take seconds
    import xarray as xr
    from matplotlib.figure import Figure

# The folder of every study, in the order of the talk.
CHAPTER = {
    "linear_regression": "laws",
    "matrix_dynamics": "matrices",
    "nuclear_norm": "matrices",
    "norms_to_infinity": "matrices",
    "perturbed_norms": "matrices",
    "depth": "matrices",
    "tensor_dynamics": "cp",
    "tensor_completion": "cp",
    "rank_one": "cp",
    "hierarchical_dynamics": "hierarchies",
    "analogy": "laws",
    "autoencoder": "layers",
    "expandnets": "layers",
    "simplicity_bias": "layers",
    "compressible_layers": "layers",
    "natural_images": "cp",
    "data_entanglement": "hierarchies",
    "long_range": "hierarchies",
    "countering_locality": "layers",
    "penalty_trap": "layers",
    "when_the_law_fails": "laws",
    "optimizers": "laws",
    "volume": "beyond",
    "attention": "beyond",
    "state_space": "beyond",
    "weight_decay": "beyond",
    "next_component": "beyond",
    "graph_interactions": "beyond",
}
STUDIES = tuple(CHAPTER)
# The folder of the studies that go beyond the talk: other architectures, each with its own notion of rank. They run
# only when they are asked for.
BEYOND = "beyond"


@runtime_checkable
class Settings(Protocol):
    """The settings of a study: a frozen dataclass, each study with fields of its own, all with a tuple of seeds."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs: one run, or one group of runs, per seed."""


S = TypeVar("S", bound=Settings)


@runtime_checkable
class Study(Protocol):
    """A study: a module with these names.

    Attributes:
        TITLE: the main statement, in one line.
        EXPLANATION: two or three sentences on what is done, what is seen, and why. A string literal.
        SOURCE: the paper and the figure or theorem that the study reproduces.
        PRESETS: settings by the name of the preset; all studies have "laptop", "paper" and "tiny".
        MINUTES: about how many minutes each preset takes on one core. A literal, with the keys of `PRESETS`.
    """

    TITLE: str
    EXPLANATION: str
    SOURCE: str
    PRESETS: Mapping[str, Settings]
    MINUTES: Mapping[str, float]

    def run(self, settings: Settings, /) -> "xr.Dataset":
        """Run the experiment and return its record."""

    def claims(self, record: "xr.Dataset", /) -> list[Claim]:
        """Return the study's claims, checked on a record."""

    def draw(self, record: "xr.Dataset", /) -> "Figure":
        """Return the figure of a record."""

    def alt(self, record: "xr.Dataset", /) -> str:
        """Return a description of the figure in words, for readers who cannot see it."""


def check_name(name: str) -> str:
    """Return the name of a study, after checking that there is such a study.

    Raises:
        ValueError: for a name that is not in `STUDIES`.
    """
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; choose one of {', '.join(STUDIES)}")
    return name


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """Return the names of studies that were asked for, in the order of `STUDIES`.

    Args:
        only: names of studies; the name "beyond" stands for all studies that go beyond the talk. Empty for the
            studies of the talk, without those.

    Raises:
        ValueError: for a name that is neither.

    >>> chosen(["depth", "matrix_dynamics"])
    ('matrix_dynamics', 'depth')
    """
    for name in only:
        if name != BEYOND:
            check_name(name)
    if not only:
        return tuple(name for name in STUDIES if CHAPTER[name] != BEYOND)
    return tuple(name for name in STUDIES if name in only or (BEYOND in only and CHAPTER[name] == BEYOND))


def load(name: str) -> Study:
    """Return the module of a study, which is imported; a name that is not in `STUDIES` is a ValueError.

    >>> load("matrix_dynamics").TITLE
    'Matrix factorization learns singular values one at a time'
    """
    return cast(Study, import_module(f"ranklens.studies.{CHAPTER[check_name(name)]}.{name}"))


def preset(name: str, called: str) -> Settings:
    """Return the settings of a study's preset.

    Args:
        name: the name of the study.
        called: the name of the preset, such as "laptop".

    Raises:
        ValueError: for a study or a preset that does not exist.
    """
    study = load(name)
    if called not in study.PRESETS:
        raise ValueError(f"study {name} has no preset {called!r}; choose one of {', '.join(study.PRESETS)}")
    return study.PRESETS[called]


def override(settings: S, changes: Sequence[str]) -> S:
    """Return settings with some fields replaced.

    Args:
        settings: the settings to begin with; they are not changed.
        changes: one ``name=value`` per field to replace. The value is JSON, or a bare word, which counts as a string.
            A single value for a field that holds a tuple makes a tuple of length one.

    Raises:
        ValueError: for a field that does not exist, or a value of another type than the field's.

    >>> from ranklens.studies.matrices import matrix_dynamics
    >>> override(matrix_dynamics.PRESETS["laptop"], ["size=32", "seeds=[3]"]).seeds
    (3,)
    """
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    found = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if name not in fields:
            raise ValueError(f"there is no setting {name!r}; write name=value with one of {', '.join(fields)}")
        if not equals:
            raise ValueError(f"setting {name} has no value; write {name}=value, like {name}={json.dumps(fields[name])}")
        found[name] = _read(name, text, fields[name])
    return dataclasses.replace(settings, **found)


def perform(name: str, settings: Settings) -> "xr.Dataset":
    """Run a study and return its record.

    Returns:
        The record that the study's `run` returned. The attributes `study`, `settings` (as JSON), `seconds` (wall-clock
        time of the run) and `versions` (of the libraries) are added to those it has.
    """
    from ranklens.dynamics.record import versions

    started = time.perf_counter()
    record = load(name).run(settings)
    record.attrs |= {
        "study": name,
        "settings": json.dumps(dataclasses.asdict(settings)),
        "seconds": time.perf_counter() - started,
        "versions": versions(),
    }
    return record


def judge(record: "xr.Dataset") -> list[Claim]:
    """Return the claims of a study, checked on its record.

    Args:
        record: what `perform` returned; its attribute `study` says which study made it.
    """
    return load(record.attrs["study"]).claims(record)


def _read(name: str, text: str, present: object) -> object:
    """Return the value that a text gives to a setting.

    Args:
        name: the setting.
        text: the value as JSON, or a bare word.
        present: the present value; the new one must be of its type.

    Raises:
        ValueError: for a value, or an item of a tuple, of another type, or an empty tuple.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = text
    if isinstance(present, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
        if not value:
            raise ValueError(f"setting {name} is empty; give at least one, like {json.dumps(present)}")
        value = tuple(_widened(item, present[0]) for item in value) if present else value
        fits = not present or all(type(item) is type(present[0]) for item in value)
    else:
        value = _widened(value, present)
        fits = type(value) is type(present)
    if not fits:
        raise ValueError(f"setting {name} is {text!r}; it must be like {json.dumps(present)}")
    return value


def _widened(value: object, present: object) -> object:
    """Return an integer as a float if the present value is a float, and any other value as it is."""
    return float(value) if type(value) is int and isinstance(present, float) else value
