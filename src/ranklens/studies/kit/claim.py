"""A claim of a study: a sentence, its kind and source, the measured number and its bound, and whether it holds."""

import math
from dataclasses import dataclass
from typing import Literal

# The kinds of claims, in the order of a report.
KINDS: tuple[Literal["theorem", "exactness", "finding"], ...] = ("theorem", "exactness", "finding")


@dataclass(frozen=True)
class Claim:
    """A measured number and its bound; whether the claim holds is computed from the two.

    A theorem is a published or derived law or inequality about runs: a run outside its assumptions, for example with
    another optimizer, unbalanced factors or too large steps, would violate it. An exactness is an identity or
    inequality that holds for every input and every state, such as equal outputs of two ways to compute: only an error
    of the software or too coarse a tolerance violates it. A finding is what an experiment of this size shows or not.

    Attributes:
        kind: "theorem", "exactness" or "finding". A claim of the first two kinds must hold; a finding is reported
            whether it holds or not.
        statement: a sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        relation: "<=", ">=" or "within": how `measured` must compare with `bound`.
        bound: a number; for "within" the two ends, both included.
        source: the result or experiment that states the claim, by its name, or that it is of our own; see `sources`.

    >>> Claim("finding", "the gap is small", 1e-5, "<=", 1e-3, "own experiment").holds
    True
    >>> Claim("theorem", "nothing was measured", float("nan"), ">=", 0.0, "own derivation").holds
    False
    """

    kind: Literal["theorem", "exactness", "finding"]
    statement: str
    measured: float
    relation: Literal["<=", ">=", "within"]
    bound: float | tuple[float, float]
    source: str

    @property
    def must_hold(self) -> bool:
        """Whether a run of right software satisfies the claim: True for theorems and exactness, False for findings."""
        return self.kind != "finding"

    @property
    def holds(self) -> bool:
        """Whether the relation is true; False if the measured number is NaN or infinite."""
        if not math.isfinite(self.measured):
            return False
        if isinstance(self.bound, tuple):
            return self.bound[0] <= self.measured <= self.bound[1]
        return self.measured <= self.bound if self.relation == "<=" else self.measured >= self.bound

    def __post_init__(self) -> None:
        """Refuse a bound that does not fit the relation, and an empty source.

        Raises:
            ValueError: for two ends without "within", or one number with it; for a source without a word.
        """
        if not self.source.strip():
            raise ValueError("source is empty; name the result that states the claim, or say that it is of our own")
        if isinstance(self.bound, tuple) != (self.relation == "within"):
            raise ValueError(f"relation {self.relation!r} does not go with the bound {self.bound}")


def theorem(statement: str, measured: float, *, source: str, **bound: float | tuple[float, float]) -> Claim:
    """Return a claim on runs that must hold: a proved law or inequality, compared with a measured number.

    Args:
        statement: a whole sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        source: the result that states the claim, by its name, such as a constant of `ranklens.studies.kit.sources`.
        bound: exactly one of `at_most`, `at_least` (a number) or `within` (the two ends); otherwise a TypeError.

    >>> theorem("The determinant keeps its sign.", 1.0, at_least=1.0, source="own derivation").holds
    True
    """
    return Claim("theorem", statement, float(measured), *_relation(bound), source)


def exactness(statement: str, measured: float, *, source: str, **bound: float | tuple[float, float]) -> Claim:
    """Return a claim on the software that must hold: an identity or inequality for all inputs and states.

    Args:
        statement: a whole sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        source: the result that states the claim, by its name, such as a constant of `ranklens.studies.kit.sources`.
        bound: exactly one of `at_most`, `at_least` (a number) or `within` (the two ends); otherwise a TypeError.

    >>> exactness("A composed layer has equal outputs.", 1e-8, at_most=1e-6, source="own derivation").holds
    True
    """
    return Claim("exactness", statement, float(measured), *_relation(bound), source)


def finding(statement: str, measured: float, *, source: str, **bound: float | tuple[float, float]) -> Claim:
    """Return a claim that is reported whether it holds or not: what an experiment of this size was expected to show.

    Args:
        statement: a whole sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        source: the result that states the claim, by its name, such as a constant of `ranklens.studies.kit.sources`.
        bound: exactly one of `at_most`, `at_least` (a number) or `within` (the two ends); otherwise a TypeError.

    >>> finding("Depth 3 recovers the matrix: relative error.", 0.02, at_most=0.03, source="own experiment").holds
    True
    """
    return Claim("finding", statement, float(measured), *_relation(bound), source)


_RELATIONS: dict[str, Literal["<=", ">=", "within"]] = {"at_most": "<=", "at_least": ">=", "within": "within"}


def _relation(
    bound: dict[str, float | tuple[float, float]],
) -> tuple[Literal["<=", ">=", "within"], float | tuple[float, float]]:
    """Return the relation and the bound that a keyword and its value mean.

    Raises:
        TypeError: for no bound, more than one, or an unknown keyword.
    """
    if len(bound) != 1 or not bound.keys() <= _RELATIONS.keys():
        raise TypeError(f"a claim takes exactly one of {', '.join(_RELATIONS)}; it was given {sorted(bound) or 'none'}")
    [(name, value)] = bound.items()
    return _RELATIONS[name], value
