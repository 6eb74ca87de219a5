"""Entries of the report: what each study found, or the error that ended it, and the files that keep it."""

import dataclasses
import json
import shlex
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, studies
from ranklens.dynamics.record import versions
from ranklens.files import stored, writing
from ranklens.report.panels import settle
from ranklens.studies.kit.claim import Claim
from ranklens.studies.outline import outline

# The files of every study in the folder of a report, by their suffix: its record, and its figure.
KINDS = ("nc", "png", "pdf", "svg")


@dataclass(frozen=True)
class Entry:
    """One study in the report.

    Attributes:
        name: name of the study.
        title: its main statement.
        explanation: what it does and what it shows, in a few sentences.
        source: the paper and the figure or theorem that it reproduces.
        claims: its claims, each with the measured number, the bound, and whether it holds.
        figure: the figure of its results.
        alt: a description of the figure in words.
        settings: the settings of the run, by name.
        seconds: wall-clock time of the run.
        command: the command that runs the study again.
        versions: versions of the software that ran it.
    """

    name: str
    title: str
    explanation: str
    source: str
    claims: tuple[Claim, ...]
    figure: Figure
    alt: str
    settings: dict[str, object]
    seconds: float
    command: str
    versions: str

    @property
    def sound(self) -> bool:
        """Return whether every claim that must hold does, theorems and exactness; findings do not count."""
        return all(claim.holds for claim in self.claims if claim.must_hold)


@dataclass(frozen=True)
class Failure:
    """A study that has no record, because it raised an error or its process ended.

    Attributes:
        name: name of the study.
        title: its main statement.
        error: the error in one line, such as "ValueError: depth is 0; it must be at least 1".
        details: the traceback, or "".
        command: the command that runs the study again.
    """

    name: str
    title: str
    error: str
    details: str
    command: str


def entry(record: xr.Dataset, preset: str) -> Entry:
    """Return the report's entry of a study: its claims checked on a record, its figure drawn, and its settings.

    Args:
        record: the record that `studies.perform` returned, which names the study in its attributes.
        preset: the preset that was run; the command that repeats the run names it.
    """
    name = record.attrs["study"]
    study = studies.load(name)
    settings = json.loads(record.attrs["settings"])
    figure = study.draw(record)
    settle(figure)
    return Entry(
        name=name,
        title=study.TITLE,
        explanation=study.EXPLANATION,
        source=study.SOURCE,
        claims=tuple(studies.judge(record)),
        figure=figure,
        alt=study.alt(record),
        settings=settings,
        seconds=record.attrs["seconds"],
        command=_command(name, preset),
        versions=record.attrs["versions"],
    )


def failure(name: str, error: str, preset: str, *, details: str = "") -> Failure:
    """Return the report's entry of a study that has no record.

    Args:
        name: name of the study.
        error: the error in one line.
        preset: the preset that was run; the command that repeats the run names it.
        details: the traceback, if there is one.
    """
    return Failure(name, outline(name).title, error, details, _command(name, preset))


def made(found: xr.Dataset | Failure, preset: str, folder: Path | None, has: Collection[str] = ()) -> Entry | Failure:
    """Return the entry of a study after its files were written, or its failure if they cannot be.

    Args:
        found: the record of the study, or its failure, which is returned as it is.
        preset: the preset that was run.
        folder: the folder of the report; None to write no files.
        has: the studies whose records the folder has already; these stay as they are.
    """
    if isinstance(found, Failure):
        return found
    name = str(found.attrs["study"])
    try:
        new = entry(found, preset)
        if folder is not None:
            keep(new, None if name in has else found, folder)
    except Exception as error:  # a full disk, or claims and figures that a damaged record does not bear
        details = "".join(traceback.format_exception(error))
        return failure(name, f"{type(error).__name__}: {error}", preset, details=details)
    return new


def keep(made: Entry, record: xr.Dataset | None, folder: Path) -> None:
    """Write a study's record, as NetCDF, and its figure, as PNG, PDF and SVG, to a folder.

    Args:
        made: the entry of the report, which has the study's name and figure. The files are named after the study.
        record: the record of the study's run; None to write the figure only.
        folder: the folder of the report.
    """
    if record is not None:
        stored.save(record, folder / f"{made.name}.nc")
    for kind in ("png", "pdf"):
        with writing.atomic(folder / f"{made.name}.{kind}") as name:
            made.figure.savefig(name, dpi=150, metadata={"CreationDate": None} if kind == "pdf" else None)
    with writing.atomic(folder / f"{made.name}.svg") as name:
        name.write_text(drawing.svg(made.figure), encoding="utf-8")


def tidy(folder: Path) -> None:
    """Remove half-written files from the folder of a report, which a killed talk has left there."""
    writing.tidy(folder, [*(f"{name}.{kind}" for name in studies.STUDIES for kind in KINDS), "index.html"])


def kept(folder: Path, settings: Mapping[str, studies.Settings]) -> dict[str, xr.Dataset]:
    """Return the records in a folder that an earlier run made with these settings and this version, by study.

    A file that cannot be read, or that has other settings, is left out: its study is run again.

    Args:
        folder: the folder of a report.
        settings: settings by the name of the study.
    """
    found: dict[str, xr.Dataset] = {}
    stored.try_records([folder / f"{name}.nc" for name in settings])
    for name, how in settings.items():
        try:
            record = stored.load(folder / f"{name}.nc")
        except (OSError, ValueError):
            continue
        wanted = json.dumps(dataclasses.asdict(how))
        if not isinstance(record, xr.Dataset) or record.attrs.get("study") != name:
            continue
        if record.attrs.get("settings") == wanted and record.attrs.get("versions") == versions():
            found[name] = record
    return found


def _command(name: str, preset: str) -> str:
    """Return the command that runs a study with a preset."""
    return f"ranklens run {name} --preset {shlex.quote(preset)}"
