"""A claim of a study: a sentence, the measured number, the bound it is compared with, and whether it holds."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """A measured number and its bound; whether the claim holds is computed from the two.

    Attributes:
        kind: "theorem" for a claim that must hold; "finding" for a claim that is reported whether it holds or not.
        statement: a sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        relation: "<=", ">=" or "within": how `measured` must compare with `bound`.
        bound: a number; for "within" the two ends, both included.

    >>> Claim("finding", "the gap is small", 1e-5, "<=", 1e-3).holds
    True
    >>> Claim("theorem", "nothing was measured", float("nan"), ">=", 0.0).holds
    False
    """

    kind: Literal["theorem", "finding"]
    statement: str
    measured: float
    relation: Literal["<=", ">=", "within"]
    bound: float | tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the relation is true; False if the measured number is NaN or infinite."""
        if not math.isfinite(self.measured):
            return False
        if isinstance(self.bound, tuple):
            return self.bound[0] <= self.measured <= self.bound[1]
        return self.measured <= self.bound if self.relation == "<=" else self.measured >= self.bound

    def __post_init__(self) -> None:
        """Refuse a bound that does not fit the relation.

        Raises:
            ValueError: for two ends without "within", or one number with it.
        """
        if isinstance(self.bound, tuple) != (self.relation == "within"):
            raise ValueError(f"relation {self.relation!r} does not go with the bound {self.bound}")


def theorem(statement: str, measured: float, **bound: float | tuple[float, float]) -> Claim:
    """Return a claim that must hold: a proved law, inequality or identity, compared with a measured number.

    Args:
        statement: a whole sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        bound: exactly one of `at_most`, `at_least` (a number) or `within` (the two ends); otherwise a TypeError.

    >>> theorem("The largest error over all steps is small.", 0.5, at_most=1.0).holds
    True
    """
    return Claim("theorem", statement, float(measured), *_relation(bound))


def finding(statement: str, measured: float, **bound: float | tuple[float, float]) -> Claim:
    """Return a claim that is reported whether it holds or not: what an experiment of this size was expected to show.

    Args:
        statement: a whole sentence that names the quantity, how it is reduced to one number, and over what.
        measured: that number.
        bound: exactly one of `at_most`, `at_least` (a number) or `within` (the two ends); otherwise a TypeError.

    >>> finding("Depth 3 recovers the matrix: relative error, median of 5 seeds.", 0.02, within=(0.0, 0.03)).holds
    True
    """
    return Claim("finding", statement, float(measured), *_relation(bound))


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
