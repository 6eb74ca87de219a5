"""Texts of the report as HTML: numbers, bounds, formulas, and terms that carry their definition."""
# ruff: noqa: RUF001  (letters and signs of formulas look like others)

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup, escape

from ranklens.studies.kit.claim import Claim

# Names of Greek letters that the texts spell out, and the letters.
GREEK = {"sigma": "σ", "gamma": "γ", "alpha": "α", "lambda": "λ", "eps": "ε", "theta": "θ"}
# Terms that are everyday words as well. They are in the glossary, and are not marked in running text.
EVERYDAY = {"control", "mode", "node", "order", "preset", "run", "share", "study", "talk"}
_SYMBOL = re.compile(r"(\S+) \((\w+)\)")


@dataclass(frozen=True)
class Term:
    """An entry of the glossary.

    Attributes:
        name: the term as the glossary writes it, such as "effective rank" or "σ (sigma)".
        key: its id on the page.
        definition: its definition, in plain text.
        symbol: whether it is a symbol, whose case matters.
    """

    name: str
    key: str
    definition: str
    symbol: bool

    @property
    def spellings(self) -> tuple[str, ...]:
        """Return the words that stand for the term in a text."""
        letter = _SYMBOL.fullmatch(self.name)
        return (letter[2],) if letter else (self.name,)


@cache
def glossary() -> tuple[Term, ...]:
    """Return the entries of the glossary, symbols first."""
    text = (files("ranklens") / "templates" / "glossary.md").read_text(encoding="utf-8")
    found = []
    for part in text.split("\n## ")[1:]:
        symbol = part.startswith("Symbols")
        for name, definition in re.findall(r"^(\S[^\n]*)\n    ([^\n]+)$", part, re.MULTILINE):
            plain = re.sub(r"\s*See (?:\[[^\]]*\]\([^)]*\)(?:, | and )?)+\.", "", definition).replace("`", "")
            key = re.sub(r"\W+", "-", _SYMBOL.sub(r"\2", name)).strip("-").lower()
            found.append(Term(name, f"symbol-{key}" if symbol else f"term-{key}", plain, symbol))
    return tuple(found)


def rich(text: str, linked: set[str] | None = None) -> Markup:
    """Return a text as HTML: powers raised, Greek letters as such, and terms linked to their definition.

    Args:
        text: plain text, which is escaped.
        linked: keys of the terms that have a link already, to which those of this text are added; None for no links.

    >>> rich("sigma^(2 - 2/K) <= 1")
    Markup('σ<sup>2 − 2/K</sup> ≤ 1')
    >>> str(rich("its rank", set()))
    'its <a class="term" href="#term-rank">rank</a>'
    """
    made, at = [], 0
    for found in _tokens().finditer(text):
        made += [escape(text[at : found.start()]), _token(found, linked)]
        at = found.end()
    return Markup("").join([*made, escape(text[at:])])


@cache
def _tokens() -> re.Pattern[str]:
    """Return the pattern of everything in a text that is written in another way on the page."""
    words = [
        re.escape(word) for term in glossary() for word in term.spellings if not term.symbol and word not in EVERYDAY
    ]
    letters = [re.escape(word) for term in glossary() for word in term.spellings if term.symbol]
    return re.compile(
        r"\^(?:\((?P<raised>(?:[^()]|\([^()]*\))*)\)|(?P<power>-?\w+))"
        rf"|\b(?P<base>{'|'.join(GREEK)}|[A-Za-z])_(?P<index>[A-Za-z0-9]{{1,2}})\b"
        r"|\b(?P<factor>[wW])(?P<number>\d{1,2})\b"
        rf"|(?<![\w/])(?P<symbol>{'|'.join(letters)})(?![\w/])|\b(?P<greek>{'|'.join(GREEK)})\b"
        r"|(?P<sign><=|>=)|(?<=\d) (?P<times>x) (?=\d)|(?P<minus>(?<=[\w)] )-(?= [\w(])|(?<![\w-])-(?=\d))"
        rf"|\b(?P<word>(?i:{'|'.join(sorted(words, key=len, reverse=True))})s?)\b"
    )


@cache
def _by_spelling() -> dict[str, Term]:
    """Return the terms by their spellings, in lower case for those that are no symbols."""
    return {word if term.symbol else word.lower(): term for term in glossary() for word in term.spellings}


def _token(found: re.Match[str], linked: set[str] | None) -> Markup:
    """Return the HTML of one match of `_tokens`."""
    part = found.groupdict()
    if found[0].startswith("^"):
        return Markup("<sup>{}</sup>").format(rich(part["raised"] or part["power"], None))
    if part["base"]:
        return Markup("{}<sub>{}</sub>").format(GREEK.get(part["base"], part["base"]), part["index"])
    if part["sign"] or part["times"] or part["minus"]:
        return Markup({"<=": "≤", ">=": "≥"}.get(found[0], " × " if part["times"] else "−"))
    shown: Markup = escape(GREEK.get(found[0], found[0]))
    if part["number"]:
        shown = Markup("{}<sub>{}</sub>").format(part["factor"], part["number"])
    names = [found[0], found[0].lower(), found[0].lower().removesuffix("s"), "w11" if part["factor"] == "w" else ""]
    term = next((_by_spelling()[name] for name in names if name in _by_spelling()), None)
    if term is None or linked is None or term.key in linked:
        return shown
    linked.add(term.key)
    return Markup('<a class="term" href="#{}">{}</a>').format(term.key, shown)


def short(value: float) -> str:
    """Return a number as text with three significant digits, and a power of ten if it is very small or large.

    >>> short(0.45312), short(1.2e-7), short(2640.0)
    ('0.453', '1.2 × 10^-7', '2640')
    """
    text = f"{value:.3g}"
    digits, _, power = text.partition("e")
    if not power:
        return text
    if 0 < int(power) < 6:
        return f"{value:.0f}"
    return f"10^{int(power)}" if digits == "1" else f"{digits} × 10^{int(power)}"


def bound(claim: Claim) -> str:
    """Return the bound of a claim as text: "≤ 0.1" or "≥ 0.1" for one number, "0.5 to 2" for an interval.

    A bound is written in full if it has more digits, because a measured number may lie just beside it.
    """
    if isinstance(claim.bound, tuple):
        return f"{_full(claim.bound[0])} to {_full(claim.bound[1])}"
    return f"{'≤' if claim.relation == '<=' else '≥'} {_full(claim.bound)}"


def _full(value: float) -> str:
    """Return a bound as text: in short if this is the number up to rounding of float64, else with ten digits."""
    return short(value) if math.isclose(float(f"{value:.3g}"), value, rel_tol=1e-12) else f"{value:.10g}"


def tally(claims: Sequence[Claim], kind: str) -> str:
    """Return in words how many claims of a kind hold, such as "48 of 48 theorems hold"; "" if there are none."""
    mine = [claim for claim in claims if claim.kind == kind]
    if not mine:
        return ""
    noun = {"theorem": "theorem check", "exactness": "exactness check", "finding": "finding"}[kind]
    held = sum(claim.holds for claim in mine)
    if held == len(mine):
        return f"the one {noun} holds" if held == 1 else f"all {held} {noun}s hold"
    return f"{held} of {len(mine)} {noun}s hold"
