"""Units of columns: a shift and a scale of each, so that columns of very unlike size weigh the same in a fit."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from ranklens.completers.fitted import FittedMatrix
from ranklens.completers.observed import Observed

# Ratio of the spread of a column to the median one, or its inverse, above which columns are divided by their spreads:
# otherwise squared errors of half of the columns would weigh less than 1e-4 of those of others.
UNEVEN = 100.0
# Distance of the mean of a column from zero, in units of its size, above which the mean is subtracted. Columns of like
# size share their offset, which the biases find, as long as it is no more than the second number: beyond it, rounding
# errors and the damping of biases are as large as the spreads.
FAR, VERY_FAR = 3.0, 100.0
# Number of entries from which on a column is scaled by its own spread. A guess of a spread counts as so many entries.
FEW = 5
# Spread, in units of a column's largest entry, below which the column is constant: subtracting a mean leaves rounding
# errors.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Units:
    """Units of columns: a value is fitted as (value - zero) / size.

    Attributes:
        zero: (columns,) what is subtracted.
        size: (columns,) what values are divided by.
    """

    zero: Float64[np.ndarray, " columns"]
    size: Float64[np.ndarray, " columns"]

    @classmethod
    def of(cls, X: NDArray[np.float64] | sp.spmatrix | sp.sparray) -> "Units":
        """Return the units of columns: their spreads around their means if these are of very unlike size, else 1.

        Sizes are compared with the (lower) median and not with each other, because a column of low-rank data with few
        observed entries may be small by chance. Means that are far from zero are subtracted. Columns of a sparse matrix
        have one unit, as ratings do.

        Where most means are farther from zero than one spread, the spread of a column with few entries is guessed as
        if spreads were proportional to means; elsewhere the guess is the distance of its mean from zero. The square of
        the guess is averaged with the column's variance, which has one weight less than the column has entries. A
        constant column has the guess as its size. A column without entries has the median size, and the median mean.

        Args:
            X: (rows, columns) numbers, with NaN for missing entries.

        >>> import numpy as np
        >>> ages, incomes = np.arange(30.0, 60.0), np.linspace(2e4, 9e4, 30)
        >>> Units.of(np.stack([ages, incomes], axis=1)).size.round(-1).tolist()
        [10.0, 21250.0]
        """
        plain = cls(np.zeros(X.shape[1]), np.ones(X.shape[1]))
        if not isinstance(X, np.ndarray) or np.isnan(X).all() or not np.nanmax(np.abs(X)) > 0:
            return plain
        counts = (~np.isnan(X)).sum(axis=0)
        filled = np.where(np.isnan(X), 0.0, X)
        largest = np.abs(filled).max(axis=0)
        largest = np.where(largest > 0, largest, 1.0)  # squares of very large or small numbers would leave float64
        means = (filled / largest).sum(axis=0) / np.maximum(counts, 1)
        own = np.maximum(counts - 1, 0)
        spread = np.sqrt((np.where(np.isnan(X), 0.0, filled / largest - means) ** 2).sum(axis=0) / np.maximum(own, 1))
        known = (counts >= FEW) & (spread > ROUNDING)
        if not known.any():
            return plain
        ratios = means[known] / spread[known]
        distance = float(np.median(np.abs(ratios)))
        means, spread = largest * means, largest * spread
        median = np.quantile(spread[known], 0.5, method="lower")
        means = np.where(counts == 0, median * np.median(ratios), means)
        if spread[known].max() <= UNEVEN * median and median <= UNEVEN * spread[known].min():
            far = np.abs(means) > VERY_FAR * np.where(known, spread, median)
            return cls(np.where(far, means, 0.0), plain.size)
        guess = np.where(means != 0, np.abs(means) / max(distance, 1.0), median)
        averaged = guess * np.sqrt((FEW + own * (spread / guess) ** 2) / (FEW + own))
        size = np.where(known, spread, np.where(counts < FEW, averaged, guess))
        size = np.where(counts == 0, median, size)
        return cls(np.where(np.abs(means) > FAR * size, means, 0.0), size)

    @property
    def are_plain(self) -> bool:
        """Return whether values are fitted as they are."""
        return bool((self.zero == 0).all() and (self.size == 1).all())

    def measured(self, observed: Observed) -> Observed:
        """Return observed entries in these units.

        Args:
            observed: entries of the matrix, or of other rows with its columns.
        """
        if self.are_plain:
            return observed
        values = self.measured_values(observed.values.numpy(), observed.indices[:, 1].numpy())
        return replace(observed, values=torch.from_numpy(values))

    def measured_values(self, values: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return values of the table in these units.

        Args:
            values: the values.
            columns: the columns that they belong to.
        """
        return (values - self.zero[columns]) / self.size[columns]

    def restored(
        self, values: NDArray[np.float64], columns: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[np.float64]:
        """Return values in the units of the table.

        Args:
            values: values in these units, whose last axis runs over `columns`.
            columns: the columns that they belong to; all by default.
        """
        return values * self.size[columns] + self.zero[columns]

    def times(self, factors: Float64[np.ndarray, " columns"]) -> "Units":
        """Return units of other sizes: each is multiplied by a factor."""
        return replace(self, size=self.size * factors)


def noise_of_columns(observed: Observed, fitted: FittedMatrix) -> Float64[np.ndarray, " columns"]:
    """Return the standard deviation of the noise of every column, in units of the median one.

    Columns that are divided by these numbers have about the same noise, and a sum of squares weighs them as it should.
    The variance of a column is the sum of its squared residuals divided by its degrees of freedom, the sum of
    1 - `leverages`. A column with a component of its own leaves no residuals, and has no degrees of freedom. The
    variance is shrunk towards that of all columns, which counts as `FEW` entries.

    Args:
        observed: the entries.
        fitted: the fit, of which only the least squares are used. A posterior may have one component more, which
            follows the noise of a single column.
    """
    squares = np.square(observed.values.numpy() - replace(fitted, posterior=None).at(observed.indices))
    free = 1 - fitted.leverages(observed)
    column, d = observed.indices[:, 1].numpy(), observed.shape[1]
    sums, counts = np.bincount(column, squares, d), np.bincount(column, free, d)
    mean = squares.sum() / max(free.sum(), 1.0)
    spread = np.sqrt((sums + FEW * mean) / (counts + FEW))
    return np.asarray(spread / np.median(spread))
