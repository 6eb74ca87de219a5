"""The report: one page that needs no network, with a verdict table, every figure, and how to make each again."""

import json
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from ranklens import drawing, files, studies
from ranklens.studies.kit.claim import Claim


@dataclass(frozen=True)
class Entry:
    """One study in the report: what it found, how it looks, and how to run it again."""

    name: str
    title: str
    explanation: str
    source: str
    claims: tuple[Claim, ...]
    figure: Figure
    alt: str
    settings: dict[str, Any]
    seconds: float
    command: str
    versions: str

    @property
    def sound(self) -> bool:
        """Whether every theorem held."""
        return all(claim.holds for claim in self.claims if claim.kind == "theorem")


def entry(record: xr.Dataset, preset: str) -> Entry:
    """Judge and draw the record of a study."""
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
    """Write a study's record and its figure as PNG, PDF and SVG into a folder."""
    files.save(record, folder / f"{made.name}.nc")
    for kind in ("png", "pdf"):
        with files.atomic(folder / f"{made.name}.{kind}") as name:
            made.figure.savefig(name, dpi=150, metadata={"CreationDate": None} if kind == "pdf" else None)
    with files.atomic(folder / f"{made.name}.svg") as name:
        name.write_text(drawing.svg(made.figure), encoding="utf-8")


def write(entries: Sequence[Entry], folder: Path, preset: str) -> Path:
    """Write index.html of studies whose files are in the folder; everything printed into it is escaped."""
    environment = Environment(loader=PackageLoader("ranklens", "templates"), autoescape=True, trim_blocks=True)
    environment.filters |= {"number": number, "bound": bound, "words": lambda name: name.replace("_", " ")}
    # our own drawing, whose text matplotlib has escaped
    drawings = {
        made.name: Markup(_accessible((folder / f"{made.name}.svg").read_text(encoding="utf-8"), made))
        for made in entries
    }
    page = environment.get_template("report.html").render(
        entries=entries,
        drawings=drawings,
        preset=preset,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        theorems=[claim for made in entries for claim in made.claims if claim.kind == "theorem"],
        findings=[claim for made in entries for claim in made.claims if claim.kind == "finding"],
    )
    with files.atomic(folder / "index.html") as name:
        name.write_text(page, encoding="utf-8")
    return folder / "index.html"


def number(value: float) -> str:
    """A number with as many digits as a reader wants."""
    return f"{value:.4g}"


def bound(claim: Claim) -> str:
    """The bound as it is read: ≤ 0.1, or between two ends."""
    if isinstance(claim.bound, tuple):
        return f"{number(claim.bound[0])} to {number(claim.bound[1])}"
    return f"{'≤' if claim.relation == '<=' else '≥'} {number(claim.bound)}"


def _accessible(svg: str, made: Entry) -> str:
    """An SVG that a screen reader announces as one picture, and whose ids do not clash with another's."""
    title = Markup.escape(made.alt)
    head, rest = svg.split(">", maxsplit=1)
    for mark in ('id="', "url(#", 'href="#'):
        rest = rest.replace(mark, f"{mark}{made.name}-")
    return f'{head} role="img" aria-label="{title}"><title>{title}</title>{rest}'


def clear(folder: Path, names: Sequence[str]) -> None:
    """Remove what an earlier report left of some studies, and its page, and nothing else."""
    for name in names:
        for kind in ("nc", "png", "pdf", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    (folder / "index.html").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
