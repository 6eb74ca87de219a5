"""Entries of the report: what each study found, or the error that ended it, and the files that keep it."""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, files, studies
from ranklens.report.panels import settle
from ranklens.studies.kit.claim import Claim
from ranklens.studies.outline import outline


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


def keep(made: Entry, record: xr.Dataset, folder: Path) -> None:
    """Write a study's record, as NetCDF, and its figure, as PNG, PDF and SVG, to a folder.

    Args:
        made: the entry of the report, which has the study's name and figure. The files are named after the study.
        record: the record of the study's run.
        folder: the folder of the report.
    """
    files.save(record, folder / f"{made.name}.nc")
    for kind in ("png", "pdf"):
        with files.atomic(folder / f"{made.name}.{kind}") as name:
            made.figure.savefig(name, dpi=150, metadata={"CreationDate": None} if kind == "pdf" else None)
    with files.atomic(folder / f"{made.name}.svg") as name:
        name.write_text(drawing.svg(made.figure), encoding="utf-8")


def clear(folder: Path, names: Sequence[str]) -> None:
    """Remove the page of an earlier report and its files of the named studies; leave every other file.

    A folder that is empty afterwards is removed too.
    """
    for name in names:
        for kind in ("nc", "png", "pdf", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    (folder / "index.html").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)


def _command(name: str, preset: str) -> str:
    """Return the command that runs a study with a preset."""
    return f"ranklens run {name} --preset {shlex.quote(preset)}"
