"""The page of the report: chapters with figures and verdicts, all claims, and a glossary, in one HTML file."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ranklens import studies
from ranklens.files import stored, writing
from ranklens.report import chapters, opening, palette, panels, wording
from ranklens.report.chapters import Chapter, Guide
from ranklens.report.entries import Entry, Failure
from ranklens.report.panels import Panel
from ranklens.studies.kit.claim import KINDS, Claim

# Characters of a failed claim that the list at the top of the page shows; the table has the whole sentence.
LONGEST_STATEMENT = 220


@dataclass(frozen=True)
class Shown:
    """A study as the page shows it.

    Attributes:
        made: its entry, or its failure.
        guide: the texts beside its figure; None for a study that has none.
        badge: the claim whose number stands under the figure, and what the number is; None without one.
        panels: the panels of its figure; none for a failure.
    """

    made: Entry | Failure
    guide: Guide | None
    badge: tuple[Claim, str] | None
    panels: tuple[Panel, ...]

    @property
    def failed(self) -> bool:
        """Return whether the study has no record."""
        return isinstance(self.made, Failure)


@dataclass(frozen=True)
class Part:
    """A chapter as the page shows it: its texts, and those of its studies that were run."""

    chapter: Chapter
    studies: tuple[Shown, ...]

    @property
    def claims(self) -> list[Claim]:
        """Return the claims of all its studies."""
        return [claim for shown in self.studies if isinstance(shown.made, Entry) for claim in shown.made.claims]


def write(entries: Sequence[Entry], folder: Path, preset: str, *, failures: Sequence[Failure] = ()) -> Path:
    """Write the page of the report, index.html; every text that is put into it is escaped.

    Args:
        entries: the studies, in any order. `keep` must have written their files to the folder before.
        folder: the folder of the report, in which index.html is written or replaced.
        preset: name of the preset with which the studies were run.
        failures: the studies that have no record. The page shows each in its chapter, and names them at its top.

    Returns:
        The path of the page.
    """
    environment = Environment(
        loader=PackageLoader("ranklens", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "short": lambda value: wording.rich(wording.short(value)),
        "limit": lambda claim: wording.rich(wording.bound(claim)),
        "rich": wording.rich,
        "words": lambda name: name.replace("_", " "),
        "clip": _clip,
    }
    made: list[Entry | Failure] = [*entries, *failures]
    parts = _parts({each.name: each for each in made})
    shown = [study for part in parts for study in part.studies]
    trio = opening.curves(_records(folder, {each.name for each in entries}))
    claims = [claim for made in entries for claim in made.claims]
    page = environment.get_template("report.html").render(
        opening=chapters.opening(),
        notions=chapters.notions(),
        beyond=studies.BEYOND,
        extra=studies.chosen([studies.BEYOND]),
        badges={study.made.name: study.badge for study in shown if study.badge},
        trio=trio,
        parts=parts,
        rows=[(study.made, claim) for study in shown if isinstance(study.made, Entry) for claim in study.made.claims],
        failures=[study.made for study in shown if study.failed],
        verdict=_verdict(claims, len(failures)),
        tally=lambda found: [text for kind in KINDS if (text := wording.tally(found, kind))],
        kinds=KINDS,
        glossary=wording.glossary(),
        colours=_colours([*(c.colours for c in trio), *(panel.colours for study in shown for panel in study.panels)]),
        preset=preset,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        new=set,
        explain=_explanation,
    )
    with writing.atomic(folder / "index.html") as name:
        name.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _parts(made: Mapping[str, Entry | Failure]) -> list[Part]:
    """Return the chapters that have a study that was run; a last one has the studies that are in no chapter."""
    known = {name for chapter in chapters.chapters() for name in chapter.studies}
    others = tuple(name for name in made if name not in known)
    last = Chapter(
        "more", "More studies", "What else was tried?", "These studies belong to no chapter of the talk.", others
    )
    parts = [
        Part(chapter, tuple(_shown(made[name]) for name in chapter.studies if name in made))
        for chapter in [*chapters.chapters(), last]
    ]
    return [part for part in parts if part.studies]


def _shown(made: Entry | Failure) -> Shown:
    """Return a study as the page shows it."""
    if isinstance(made, Failure):
        return Shown(made, None, None, ())
    badge = chapters.evidence(made.name, made.claims)
    return Shown(made, chapters.guide(made.name), badge, tuple(panels.split(made.figure, made.name)))


def _records(folder: Path, names: set[str]) -> dict[str, xr.Dataset]:
    """Return the records of the opening picture, by study, as far as these studies were run."""
    loaded = {kind.study: stored.load(folder / f"{kind.study}.nc") for kind in opening.KINDS if kind.study in names}
    return {name: record for name, record in loaded.items() if isinstance(record, xr.Dataset)}


def _verdict(claims: Sequence[Claim], failed: int) -> str:
    """Return one or two sentences that say how many claims hold, and how many studies could not be run."""
    parts = [text for kind in KINDS if (text := wording.tally(claims, kind))]
    said = "; ".join(parts) or "no claim was checked"
    studies = "" if not failed else f" {failed} {'study' if failed == 1 else 'studies'} could not be run."
    return f"{said[0].upper()}{said[1:]}.{studies}"


def _explanation(study: str) -> str:
    """Return why findings of a study may fail, or "" if nothing is known."""
    texts = chapters.guide(study)
    return "" if texts is None else texts.unless


def _clip(text: str) -> str:
    """Return a text, or its beginning up to the last whole word if it is long."""
    if len(text) <= LONGEST_STATEMENT:
        return text
    return f"{text[:LONGEST_STATEMENT].rsplit(' ', maxsplit=1)[0]} ..."


def _colours(used: Sequence[frozenset[str]]) -> Markup:
    """Return the style sheet with the colours of all figures, for light pages and paper, and for dark ones."""
    colours = sorted({"#000000", "#dddddd"}.union(*used))
    light = "".join(f"--c-{colour[1:]}:{colour};" for colour in colours)
    dark = "".join(f"--c-{colour[1:]}:{palette.dark(colour)};" for colour in colours)
    return Markup(f":root{{{light}}}@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}")
