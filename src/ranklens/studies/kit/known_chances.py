"""Random matrices that fit measurements with a probability that is known in closed form, to check samplers with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special, stats
from torch import Tensor

from ranklens.tensors.random_product import RandomProduct


@dataclass(frozen=True)
class Case:
    """A prior and a loss for which the probability of acceptance is known in closed form at every level.

    Attributes:
        prior: the distribution of the end matrix.
        losses: function of end matrices (draws, rows, columns) that returns (draws,) losses.
        chance: the probability of acceptance as a function of the level.
        level: the level of the check.
    """

    prior: RandomProduct
    losses: Callable[[Tensor], Tensor]
    chance: Callable[[float], float]
    level: float

    @property
    def probability(self) -> float:
        """Return the exact probability at the level of the check."""
        return float(self.chance(self.level))


# Number of entries that are measured of the Gaussian matrices, and the value that is wanted of each.
COUNT, VALUE = 15, 0.2
# Value that is wanted of a scalar product, times sqrt(2): 12 standard deviations of the Laplace distribution's scale.
FAR = 12.0


def _ball(level: float) -> float:
    """Return the probability that a Gaussian matrix has COUNT entries within a mean squared distance of VALUE."""
    return float(stats.ncx2.cdf(COUNT * level * 5, COUNT, COUNT * VALUE**2 * 5))


def _cap(level: float) -> float:
    """Return the probability that COUNT entries of a uniform point of the sphere have a small mean square."""
    return float(special.betainc(COUNT / 2, (25 - COUNT) / 2, min(COUNT * level, 1.0)))


def _slab(level: float) -> float:
    """Return the probability that a Laplace variable, divided by sqrt(2), is close to a value."""
    edge = math.sqrt(2 * level)
    return float(stats.laplace.cdf(FAR + edge) - stats.laplace.cdf(FAR - edge))


def _arc(level: float) -> float:
    """Return the probability that the cosine of a uniform angle is close to 1."""
    return math.acos(max(1 - math.sqrt(level), -1.0)) / math.pi


def _tip(level: float) -> float:
    """Return the probability that two uniform points of a sphere in 5 dimensions have a scalar product close to 1."""
    return float(special.betainc(2, 2, min(math.sqrt(level) / 2, 1.0)))


def cases() -> dict[str, Case]:
    """Return the cases, by what is measured.

    The entries of a Gaussian matrix are normal, so the sum of squared errors of some of them has a noncentral
    chi-squared distribution. The squares of some entries of a normalized Gaussian matrix have a beta distribution as
    their sum. A scalar product of two independent normal vectors with two entries has a Laplace distribution. The
    factors of a normalized matrix of rank one are uniform on the sphere, so its trace is the cosine of a uniform angle
    in two dimensions, and in five dimensions (1 + trace) / 2 has the beta distribution with parameters 2 and 2.
    """

    def trace(W: Tensor) -> Tensor:
        return (W.diagonal(dim1=1, dim2=2).sum(1) - 1).square()

    return {
        "entries of a Gaussian matrix": Case(
            RandomProduct(5, 5), lambda W: (W.flatten(1)[:, :COUNT] - VALUE).square().mean(1), _ball, 0.02
        ),
        "entries of a normalized matrix": Case(
            RandomProduct(5, 5, (), True), lambda W: W.flatten(1)[:, :COUNT].square().mean(1), _cap, 0.004
        ),
        "a product of width two": Case(
            RandomProduct(1, 1, (2,)), lambda W: (W.flatten() - FAR / math.sqrt(2)).square(), _slab, 0.02
        ),
        "trace, width one, two dimensions": Case(RandomProduct(2, 2, (1,), True), trace, _arc, 1e-12),
        "trace, three factors of width one, five dimensions": Case(
            RandomProduct(5, 5, (1, 1), True), trace, _tip, 1e-6
        ),
    }


CASES = cases()
