"""A fitted matrix: factors by least squares and a posterior, which predict entries of known rows and of new ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.entries import CHUNK
from ranklens.completers.equations import BLOCK, entries_of, with_ones
from ranklens.completers.observed import Observed
from ranklens.completers.posterior import Posterior

# Entries of a filled matrix above which only predictions at positions are made, because it would take 2 GiB.
FILLED = 2**28


@dataclass(frozen=True)
class FittedMatrix:
    """A matrix that predicts its entries by mean + row bias + column bias + left @ right.T, or by a posterior.

    Attributes:
        left: (rows, R) left factor.
        right: (columns, R) right factor.
        mean: the mean.
        row_biases: (rows,) biases of the rows.
        column_biases: (columns,) biases of the columns.
        ridge: weight of the squared left factor in the regression of a new row.
        damping: weight of the squared bias in the regression of a new row; infinite for rows without bias.
        error: held-out root mean square error by least squares.
        posterior: draws whose mean predicts instead; None if least squares predict.
    """

    left: Float64[np.ndarray, "rows R"]
    right: Float64[np.ndarray, "columns R"]
    mean: float
    row_biases: Float64[np.ndarray, " rows"]
    column_biases: Float64[np.ndarray, " columns"]
    ridge: float
    damping: float
    error: float
    posterior: Posterior | None

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return len(self.left), len(self.right)

    def at(self, positions: Int64[Tensor, "m 2"]) -> Float64[np.ndarray, " m"]:
        """Return predictions at positions, of shape (m,).

        Args:
            positions: (m, 2) positions (row, column).
        """
        if self.posterior is not None:
            return self.posterior.at(positions).numpy()
        found = np.empty(len(positions))
        for begin in range(0, len(positions), CHUNK):
            i, j = positions[begin : begin + CHUNK].numpy().T
            fit = (self.left[i] * self.right[j]).sum(axis=1)
            found[begin : begin + CHUNK] = fit + self.mean + self.row_biases[i] + self.column_biases[j]
        return found

    def deviation(self, positions: Int64[Tensor, "m 2"]) -> Float64[np.ndarray, " m"]:
        """Return standard deviations of observations at positions, of shape (m,).

        Without a posterior, the held-out root mean square error is the standard deviation of all of them.

        Args:
            positions: (m, 2) positions (row, column).
        """
        if self.posterior is not None:
            return self.posterior.deviation(positions).numpy()
        return np.full(len(positions), self.error)

    def leverages(self, observed: Observed) -> Float64[np.ndarray, " m"]:
        r"""Return the leverages of observed entries in the fit by least squares, of shape (m,).

        The leverage of an entry is the derivative of its fitted value by its observed value: 0 for an entry that hardly
        counts, and 1 for one that is fitted exactly whatever its value. It is approximated by 1 - (1 - h) (1 - k),
        where h is the leverage in the regression of the entry's row on the columns, and k that in the regression of its
        column on the rows. This is exact if all entries are observed, and there are no ridge and no biases: the
        leverages then add up to R (rows + columns - R), the number of parameters of matrices of rank R.

        Args:
            observed: the entries that were fitted.
        """
        biased, penalty = math.isfinite(self.damping), self._penalty()
        if not len(penalty):
            return np.zeros(len(observed))
        features = [self._factor(part) for part in (self.left, self.right)]
        entries, free = entries_of(observed, biases=biased), torch.ones(len(observed), dtype=torch.float64)
        for n, own in enumerate(observed.indices.T):
            for made in entries.equations(n, features):
                inverses = made.inverses(penalty)
                in_block = ((own >= made.low) & (own < made.high)).nonzero().ravel()
                for part in in_block.split(max(BLOCK // len(penalty) ** 2, 1)):
                    other = features[1 - n][observed.indices[part, 1 - n]]
                    other = with_ones(other) if biased else other
                    leverage = torch.einsum("mk,mkl,ml->m", other, inverses[own[part] - made.low], other)
                    free[part] *= 1 - leverage.clamp(0, 1)
        return (1 - free).numpy()

    def whole(self) -> Float64[np.ndarray, "rows columns"]:
        """Return the predictions of all entries.

        Raises:
            ValueError: if there are too many entries to hold.
        """
        if math.prod(self.shape) > FILLED:
            raise ValueError(
                f"filled, this matrix of shape {self.shape} would have {math.prod(self.shape):.3g} entries, more than "
                f"{FILLED:.3g}; pass the positions that you need to predict(positions)"
            )
        if self.posterior is not None:
            return self.posterior.whole().numpy()
        return self.left @ self.right.T + (self.mean + self.row_biases[:, None] + self.column_biases)

    def with_rows(self, observed: Observed, features: Sequence[Tensor], *, seed: int) -> "FittedMatrix":
        """Return the fitted matrix with other rows, fitted to their entries with everything else held fixed.

        Args:
            observed: the entries of the new rows.
            features: for every group of features of the rows their coordinates along the singular directions.
            seed: seed of the draws of the new rows.
        """
        left, biases = self._regressed(observed)
        posterior = self.posterior
        if posterior is not None:
            posterior = posterior.with_rows(observed, features, seed=seed)
        return replace(self, left=left, row_biases=biases, posterior=posterior)

    def _regressed(self, observed: Observed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return left factors and biases of rows, by a ridge regression per row with everything else held fixed."""
        rank, rows, biased = self.right.shape[1], observed.shape[0], math.isfinite(self.damping)
        penalty, right = self._penalty(), self._factor(self.right)
        solved = torch.zeros(rows, len(penalty), dtype=torch.float64)
        if len(penalty):
            observed = observed.to("cpu")
            less = observed.minus(self.mean + torch.from_numpy(self.column_biases)[observed.indices[:, 1]])
            for made in entries_of(less, biases=biased).equations(0, [solved, right]):
                solved[made.low : made.high] = made.solve(penalty)
        return solved[:, :rank].numpy(), solved[:, rank].numpy() if biased else np.zeros(rows)

    def _penalty(self) -> Float64[Tensor, " K"]:
        """Return the weights of the squares of a row's factor and, if rows have one, of its bias."""
        penalty = [self.ridge] * self.right.shape[1] + [self.damping] * int(math.isfinite(self.damping))
        return torch.tensor(penalty, dtype=torch.float64)

    def _factor(self, factor: Float64[np.ndarray, "_ R"]) -> Float64[Tensor, "_ K"]:
        """Return a factor as equations take it: with biases of zero in a last column, if there are biases."""
        return torch.from_numpy(np.pad(factor, [(0, 0), (0, int(math.isfinite(self.damping)))]))
