"""Chapters of the report: the parts of the talk in its order, with the texts of the page."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ranklens.studies.kit.claim import Claim


@dataclass(frozen=True)
class Chapter:
    """A chapter of the report.

    Attributes:
        key: its id on the page.
        title: the title of the talk's part.
        question: the question that it answers.
        answer: the answer, in two sentences.
        studies: names of its studies, in the order of the talk.
    """

    key: str
    title: str
    question: str
    answer: str
    studies: tuple[str, ...]


@dataclass(frozen=True)
class Guide:
    """What the page says beside the figure of a study.

    Attributes:
        see: one sentence on what to see in the figure.
        evidence: a phrase in the statement of the claim whose number the badge shows.
        number: what this number is, in plain words.
        unless: why findings of the study may fail, if that is known; else "".
    """

    see: str
    evidence: str
    number: str
    unless: str = ""


@dataclass(frozen=True)
class Opening:
    """The first lines of the page.

    Attributes:
        title: the title of the page.
        sentence: one sentence that says the point of the talk.
        law: one sentence that says the law.
    """

    title: str
    sentence: str
    law: str


@dataclass(frozen=True)
class Notion:
    """A row of the table of notions of rank: one architecture, and what training does to its rank.

    Attributes:
        architecture: the architecture.
        rank: its notion of rank.
        small: whether the rank is lowered from a small initialization.
        usual: the same from the usual initialization.
        by: what lowers it.
        use: what one can do with it.
        studies: names of the studies that measured it.
        page: name of the page on it among the concepts of the documentation.
    """

    architecture: str
    rank: str
    small: str
    usual: str
    by: str
    use: str
    studies: tuple[str, ...]
    page: str


@cache
def notions() -> tuple[Notion, ...]:
    """Return the notions of rank, of factorizations first."""
    return tuple(Notion(**{**row, "studies": tuple(row["studies"])}) for row in _texts("notions")["notion"])


@cache
def opening() -> Opening:
    """Return the first lines of the page."""
    return Opening(**_texts("chapters")["opening"])


@cache
def chapters() -> tuple[Chapter, ...]:
    """Return all chapters, in the order of the talk.

    >>> [chapter.key for chapter in chapters()]
    ['matrices', 'cp', 'hierarchies', 'layers', 'conclusion', 'beyond']
    """
    return tuple(Chapter(**{**text, "studies": tuple(text["studies"])}) for text in _texts("chapters")["chapters"])


def guide(study: str) -> Guide | None:
    """Return the texts beside the figure of a study; None for a study that has none."""
    found = _texts("chapters")["studies"].get(study)
    return None if found is None else Guide(**found)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of studies in the order of the chapters; studies that are in no chapter come last, as given."""
    order = [name for chapter in chapters() for name in chapter.studies]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def evidence(study: str, claims: Sequence[Claim]) -> tuple[Claim, str] | None:
    """Return the claim whose number the badge of a study shows, and what this number is in plain words.

    Returns:
        None for a study without texts, or without a claim that has the phrase of its texts.
    """
    texts = guide(study)
    if texts is None:
        return None
    found = [claim for claim in claims if texts.evidence in claim.statement]
    return (found[0], texts.number) if found else None


@cache
def _texts(name: str) -> dict[str, Any]:
    """Return the texts of the file NAME.toml as it has them."""
    return tomllib.loads((files("ranklens") / "templates" / f"{name}.toml").read_text(encoding="utf-8"))
