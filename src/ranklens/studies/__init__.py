"""The figures of the talk, one file each, in the talk's order. Nothing imports them but the surface.

A study is a module with TITLE, EXPLANATION (two sentences), SOURCE, a frozen dataclass Settings, PRESETS (name ->
Settings), MINUTES (preset -> about how long on one core), `run(settings) -> record`, `claims(record)`,
`draw(record)` and `alt(record)`, what the picture shows, in words.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import xarray as xr
from joblib import Parallel, delayed

from ranklens.dynamics.record import versions
from ranklens.studies.kit.claim import Claim

CHAPTER = {  # in the talk's order: the folder of every study
    "linear_regression": "laws",
    "norms_to_infinity": "matrices",
    "perturbed_norms": "matrices",
    "when_the_law_fails": "laws",
    "nuclear_norm": "matrices",
    "matrix_dynamics": "matrices",
    "depth": "matrices",
    "tensor_dynamics": "cp",
    "rank_one": "cp",
    "tensor_completion": "cp",
    "hierarchical_dynamics": "hierarchies",
    "long_range": "hierarchies",
    "analogy": "laws",
    "optimizers": "laws",
    "natural_images": "cp",
    "data_entanglement": "hierarchies",
    "autoencoder": "layers",
    "simplicity_bias": "layers",
    "expandnets": "layers",
    "compressible_layers": "layers",
    "countering_locality": "layers",
}
STUDIES = tuple(CHAPTER)


def load(name: str) -> Any:
    """The module of a study.

    Raises:
        ValueError: for a name that is no study.
    """
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; choose one of {', '.join(STUDIES)}")
    return import_module(f"ranklens.studies.{CHAPTER[name]}.{name}")


def preset(name: str, called: str) -> Any:
    """The settings of a study's preset.

    Raises:
        ValueError: for an unknown study or preset.
    """
    study = load(name)
    if called not in study.PRESETS:
        raise ValueError(f"study {name} has no preset {called!r}; choose one of {', '.join(study.PRESETS)}")
    return study.PRESETS[called]


def override(settings: Any, changes: list[str]) -> Any:
    """Settings with some fields replaced, each given as ``name=value`` with the value in JSON (or a bare word).

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
        if not equals or name not in fields:
            raise ValueError(f"there is no setting {change!r}; write name=value with one of {', '.join(fields)}")
        found[name] = _read(name, text, fields[name])
    return dataclasses.replace(settings, **found)


def perform(name: str, settings: Any) -> xr.Dataset:
    """Run a study; its record also says which study, which settings (as JSON) and how many seconds."""
    started = time.perf_counter()
    record: xr.Dataset = load(name).run(settings)
    record.attrs |= {
        "study": name,
        "settings": json.dumps(dataclasses.asdict(settings)),
        "seconds": time.perf_counter() - started,
        "versions": versions(),
    }
    return record


def perform_all(settings: Mapping[str, Any], jobs: int) -> Iterator[xr.Dataset]:
    """Run studies, each in one of `jobs` processes with one thread, and give their records as they finish."""
    calls = (delayed(perform)(name, how) for name, how in settings.items())
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered", inner_max_num_threads=1)(calls)


def judge(record: xr.Dataset) -> list[Claim]:
    """The claims of a study, checked on its record."""
    found: list[Claim] = load(record.attrs["study"]).claims(record)
    return found


def _read(name: str, text: str, present: Any) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(present, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
        if not value:
            raise ValueError(f"setting {name} is empty; give at least one, like {json.dumps(present)}")
    elif isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(present):
        raise ValueError(f"setting {name} is {text!r}; it must be like {json.dumps(present)}")
    return value
