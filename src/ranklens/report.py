"""The report of a run of all studies: one HTML page with a table of verdicts, every figure, and how to repeat it."""

import json
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from ranklens import drawing, files, studies
from ranklens.studies.kit.claim import KINDS, Claim


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


def entry(record: xr.Dataset, preset: str) -> Entry:
    """Return the report's entry of a study: its claims checked on a record, its figure drawn, and its settings.

    Args:
        record: the record that `studies.perform` returned, which names the study in its attributes.
        preset: the preset that was run; the command that repeats the run names it.
    """
    name = record.attrs["study"]
    study = studies.load(name)
    settings = json.loads(record.attrs["settings"])
    return Entry(
        name=name,
        title=study.TITLE,
        explanation=study.EXPLANATION,
        source=study.SOURCE,
        claims=tuple(studies.judge(record)),
        figure=study.draw(record),
        alt=study.alt(record),
        settings=settings,
        seconds=record.attrs["seconds"],
        command=f"ranklens run {name} --preset {shlex.quote(preset)}",
        versions=record.attrs["versions"],
    )


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


def write(entries: Sequence[Entry], folder: Path, preset: str) -> Path:
    """Write the page of the report, index.html; every text that is put into it is escaped.

    Args:
        entries: the studies, in the order of the page. `keep` must have written their files to the folder before.
        folder: the folder of the report, in which index.html is written or replaced.
        preset: name of the preset with which the studies were run.

    Returns:
        The path of the page.
    """
    environment = Environment(loader=PackageLoader("ranklens", "templates"), autoescape=True, trim_blocks=True)
    environment.filters |= {"number": number, "bound": bound, "words": lambda name: name.replace("_", " ")}
    # Markup marks a text as safe. These are drawings of our own, in which matplotlib has escaped all text.
    drawings = {
        made.name: Markup(_accessible((folder / f"{made.name}.svg").read_text(encoding="utf-8"), made))
        for made in entries
    }
    page = environment.get_template("report.html").render(
        entries=entries,
        drawings=drawings,
        preset=preset,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        kinds={kind: [claim for made in entries for claim in made.claims if claim.kind == kind] for kind in KINDS},
    )
    with files.atomic(folder / "index.html") as name:
        name.write_text(page, encoding="utf-8")
    return folder / "index.html"


def number(value: float) -> str:
    """Return a number as text, with four significant digits."""
    return f"{value:.4g}"


def bound(claim: Claim) -> str:
    """Return the bound of a claim as text: "≤ 0.1" or "≥ 0.1" for one number, "0.5 to 2" for an interval."""
    if isinstance(claim.bound, tuple):
        return f"{number(claim.bound[0])} to {number(claim.bound[1])}"
    return f"{'≤' if claim.relation == '<=' else '≥'} {number(claim.bound)}"


def _accessible(svg: str, made: Entry) -> str:
    """Return an SVG that screen readers announce as one image, and whose ids differ from those of other SVGs."""
    title = Markup.escape(made.alt)
    head, rest = svg.split(">", maxsplit=1)
    for mark in ('id="', "url(#", 'href="#'):
        rest = rest.replace(mark, f"{mark}{made.name}-")
    return f'{head} role="img" aria-label="{title}"><title>{title}</title>{rest}'


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
