"""A statement that a study checks: what was measured, what it is held against, and whether it holds."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """A measured number against a bound; whether it holds is computed, never typed.

    Attributes:
        kind: "theorem" must hold; a "finding" is reported either way.
        statement: what is claimed, with the quantity that is measured.
        measured: the number.
        relation: how it must stand to the bound.
        bound: a number, or for "within" the two ends.

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
        """Whether the relation is true; never for what is not a finite number."""
        if not math.isfinite(self.measured):
            return False
        if isinstance(self.bound, tuple):
            return self.bound[0] <= self.measured <= self.bound[1]
        return self.measured <= self.bound if self.relation == "<=" else self.measured >= self.bound

    def __post_init__(self) -> None:
        """Refuse a bound that does not fit the relation."""
        if isinstance(self.bound, tuple) != (self.relation == "within"):
            raise ValueError(f"relation {self.relation!r} does not go with the bound {self.bound}")
