"""The distribution of a product of Gaussian matrices, as a function of few standard normal numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import interpolate, special, stats
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# Standard normal numbers outside [-RANGE, RANGE] have probability 2e-17; the table of quantiles ends there.
RANGE = 8.5
# Number of intervals in the table of quantiles of a chi distribution. Linear interpolation then errs by less than 1e-7.
INTERVALS = 32768
# Number of intervals between exact quantiles, which cost some microseconds each. The cubic polynomial between them errs
# by less than 1e-9.
EXACT = 1024


@dataclass(frozen=True)
class RandomProduct:
    r"""The distribution of the end matrix W = W_L ... W_1 of Gaussian factors, whatever their widths.

    All entries of W_j are independent and normal with mean 0 and variance 1 / (number of columns of W_j), so every
    entry of W has variance 1 / (number of columns of W). The end matrix is computed from `size` standard normal
    numbers, and `size` does not depend on the widths as soon as these are at least the number of columns.

    Why: the QR decomposition W_1 = Q_1 R_1 of a Gaussian matrix has factors that are independent of each other. Entries
    of R_1 above the diagonal are normal, and the i-th diagonal entry, counted from 0, has the chi distribution with
    (number of rows - i) degrees of freedom. W_2 Q_1 is again Gaussian, since W_2 is independent of Q_1 and Q_1 has
    orthonormal columns, so the argument repeats, and W = G R_{L-1} ... R_1 with a Gaussian matrix G. Each chi
    variable is a monotone function of one standard normal number.

    Attributes:
        rows: number of rows of W.
        columns: number of columns of W.
        widths: L - 1 widths of the factors, from W_1 to W_{L-1}; empty for a single Gaussian matrix.
        normalized: whether W is divided by its Frobenius norm.

    Source: the distribution of R is Bartlett's decomposition (1933).

    >>> import torch
    >>> from ranklens.tensors.random_product import RandomProduct
    >>> wide, narrow = RandomProduct(5, 5, (160, 160)), RandomProduct(5, 5, (5, 5))
    >>> wide.size, narrow.size
    (55, 55)
    >>> z = torch.randn(1000, wide.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> [round(float(prior.matrices(z).square().sum((1, 2)).mean()), 1) for prior in (wide, narrow)]  # rows: 5
    [5.1, 5.1]
    """

    rows: int
    columns: int
    widths: tuple[int, ...] = ()
    normalized: bool = False

    def __post_init__(self) -> None:
        """Check that all sizes are positive integers."""
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            arguments.count(name, value)
        for j, width in enumerate(self.widths):
            arguments.count(f"widths[{j}]", width)

    @property
    def size(self) -> int:
        """Return the number of standard normal numbers of which `matrices` computes one end matrix."""
        inner = self._ranks()
        triangles = sum(_triangle(own, before) for own, before in zip(inner[1:], inner[:-1], strict=True))
        return triangles + self.rows * inner[-1]

    def matrices(self, z: Float[Tensor, "draws size"]) -> Float[Tensor, "draws rows columns"]:
        """Return end matrices; if all z are independent standard normal numbers, they have the named distribution.

        Args:
            z: one row of `size` numbers per end matrix, float32 or float64. The function is continuous in z.

        Raises:
            ValueError: for rows of another length than `size`.
        """
        if z.shape[1] != self.size:
            raise ValueError(f"z has {z.shape[1]} numbers per draw; this product takes {self.size}")
        inner, at = self._ranks(), 0
        product: Tensor | None = None
        for j, width in enumerate(self.widths):
            own, before = inner[j + 1], inner[j]
            taken = _triangle(own, before)
            upper = _upper(z[:, at : at + taken], width, own, before)
            product = upper if product is None else torch.bmm(upper, product)
            at += taken
        last = z[:, at:].reshape(len(z), self.rows, inner[-1])
        whole = last if product is None else torch.bmm(last, product)
        if self.normalized:
            return whole / whole.flatten(1).norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny)[:, None, None]
        return whole / math.sqrt(math.prod((self.columns, *self.widths)))

    def _ranks(self) -> list[int]:
        """Return the number of columns, and the ranks of W_1, W_2 W_1, ... without the last factor."""
        ranks = [self.columns]
        for width in self.widths:
            ranks.append(min(width, ranks[-1]))
        return ranks


@checked
def random_product(
    shape: Sequence[int], depth: int, width: int | None = None, *, normalized: bool = False
) -> RandomProduct:
    """Return the distribution of the end matrix of `depth` Gaussian factors of one width.

    Args:
        shape: (rows, columns) of the end matrix.
        depth: number of factors, at least 1.
        width: number of rows of all factors but the last; None takes min(shape).
        normalized: whether the end matrix is divided by its Frobenius norm.

    Raises:
        ValueError: for a shape that is no pair, or sizes below 1.

    >>> from ranklens.tensors.random_product import random_product
    >>> random_product((5, 4), depth=3, width=7).widths
    (7, 7)
    """
    if len(shape) != 2:
        raise ValueError(f"shape is {tuple(shape)!r}; a matrix has two sizes, (rows, columns)")
    rows, columns = (arguments.count("shape", n) for n in shape)
    width = min(rows, columns) if width is None else arguments.count("width", width)
    return RandomProduct(rows, columns, (width,) * (arguments.count("depth", depth) - 1), normalized)


def _triangle(rows: int, columns: int) -> int:
    """Return the number of entries on and above the diagonal of a matrix with at most as many rows as columns."""
    return rows * columns - rows * (rows - 1) // 2


def _upper(z: Tensor, height: int, rows: int, columns: int) -> Tensor:
    """Return upper triangles R of QR decompositions of Gaussian matrices of `height` rows, from normal numbers."""
    numbers = torch.cat([_chi(z[:, :rows], [height - i for i in range(rows)]), z[:, rows:], z.new_zeros(len(z), 1)], 1)
    return numbers[:, _places(rows, columns)].reshape(len(z), rows, columns)


@lru_cache(maxsize=1024)
def _places(rows: int, columns: int) -> Tensor:
    """Return, per entry of a triangle, the position of its number: diagonal, above it, and last the zero below."""
    places = torch.full((rows, columns), _triangle(rows, columns))
    diagonal, above = torch.arange(rows), torch.triu_indices(rows, columns, offset=1)
    places[diagonal, diagonal] = diagonal
    places[above[0], above[1]] = rows + torch.arange(above.shape[1])
    return places.flatten()


def _chi(z: Tensor, degrees: Sequence[int]) -> Tensor:
    """Return chi variables from normal numbers, one column per number of degrees of freedom, by equal quantiles."""
    tables = torch.stack([torch.from_numpy(_quantiles(k)) for k in degrees]).to(z)
    place = ((z + RANGE) * (INTERVALS / (2 * RANGE))).clamp(0, INTERVALS)
    low = place.floor().clamp_max(INTERVALS - 1)
    at = low.long() + torch.arange(len(degrees)) * (INTERVALS + 1)
    flat = tables.reshape(-1)
    return torch.lerp(flat[at], flat[at + 1], place - low)


@lru_cache(maxsize=1024)
def _quantiles(degrees: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the quantiles of a chi distribution at the quantiles of evenly spaced standard normal numbers."""
    z, half = np.linspace(-RANGE, RANGE, EXACT + 1), degrees / 2
    lower = special.gammaincinv(half, special.ndtr(np.minimum(z, 0)))
    upper = special.gammainccinv(half, special.ndtr(-np.maximum(z, 0)))
    x = np.sqrt(2 * np.where(z < 0, lower, upper))
    slope = np.exp(stats.norm.logpdf(z) - stats.chi(degrees).logpdf(x))  # both sides of P(chi <= x) = P(normal <= z)
    return interpolate.CubicHermiteSpline(z, x, slope)(np.linspace(-RANGE, RANGE, INTERVALS + 1))
