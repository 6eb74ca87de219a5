"""Normal equations of the rows of one mode: sums over observed entries that both least squares and sampling need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.completers.observed import Observed
from ranklens.completers.pattern import stable_order

# Numbers in tables of features, and in normal equations, that are held at a time: 32 MiB in float64.
BLOCK = 2**22


@dataclass(frozen=True)
class Equations:
    """The normal equations of consecutive rows of one mode.

    The features of an entry are the K numbers whose inner product with a row (factor and bias) predicts the entry, less
    what does not depend on the row. The rest of the entry is the target.

    Attributes:
        low: the first row.
        gram: (rows, T) sums of the outer products of the features, by row. Only the T = K (K + 1) / 2 entries of the
            lower triangle are stored, in the order of `torch.tril_indices`.
        moment: (rows, K) sums of the features times the targets, by row.
    """

    low: int
    gram: Float[Tensor, "rows T"]
    moment: Float[Tensor, "rows K"]

    @property
    def high(self) -> int:
        """Return the row after the last."""
        return self.low + len(self.moment)

    def change(self, rows: Float[Tensor, "rows K"]) -> float:
        """Return by how much the sum of squared residuals is larger with these rows than with rows of zero.

        Args:
            rows: factors and biases.
        """
        i, j = torch.tril_indices(rows.shape[1], rows.shape[1])
        twice = torch.where(i == j, 1.0, 2.0).to(rows.dtype)
        quadratic = (self.gram * rows[:, i] * rows[:, j]) @ twice
        return float(quadratic.sum() - 2 * (rows * self.moment).sum())


class MatrixEntries:
    """Observed entries of a matrix. Their normal equations are products with the sparse matrix of counts.

    Args:
        observed: the entries.
        biases: whether the last column of every factor is a bias.
    """

    def __init__(self, observed: Observed, *, biases: bool) -> None:
        self.biases = biases
        i, j = observed.indices.cpu().numpy().T
        values, weights = observed.values.cpu().numpy(), observed.counts().cpu().numpy()
        counts = sp.csr_matrix((weights, (i, j)), shape=observed.shape)
        sums = sp.csr_matrix((weights * values, (i, j)), shape=observed.shape)
        self._counts, self._sums = (counts, counts.T.tocsr()), (sums, sums.T.tocsr())
        self._squared = float(weights @ values**2)
        self._numbers = tuple(np.asarray(table.sum(axis=1)).ravel() for table in self._counts)
        self._totals = tuple(np.asarray(table.sum(axis=1)).ravel() for table in self._sums)

    def energy(self, n: int, factors: Sequence[Float[Tensor, "_ K"]]) -> float:
        """Return the sum of the squared targets of mode n: of the residuals with rows of zero in mode n.

        Args:
            n: the mode.
            factors: the rows of both modes.
        """
        if not self.biases:
            return self._squared
        bias = factors[1 - n][:, -1].numpy()
        return self._squared + float(bias**2 @ self._numbers[1 - n] - 2 * bias @ self._totals[1 - n])

    def equations(self, n: int, factors: Sequence[Float[Tensor, "_ K"]]) -> Iterator[Equations]:
        """Compute the normal equations of the rows of mode n, with the other factor fixed.

        Args:
            n: the mode.
            factors: the rows of both modes.

        Yields:
            The equations of one block of rows after the other.
        """
        other = factors[1 - n]
        features = _with_ones(other) if self.biases else other
        table = _outer(features)
        squares = table.shape[1]
        if self.biases:
            table = torch.cat([table, features * other[:, -1:]], dim=1)
        counts, sums = self._counts[n], self._sums[n]
        rows, step = counts.shape[0], max(BLOCK // table.shape[1], 1)
        for low in range(0, rows, step):
            some = slice(low, min(low + step, rows))
            found = torch.from_numpy((counts if step >= rows else counts[some]) @ table.numpy())
            moment = torch.from_numpy((sums if step >= rows else sums[some]) @ features.numpy())
            if self.biases:
                moment -= found[:, squares:]
            yield Equations(low, found[:, :squares], moment)


class TensorEntries:
    """Observed entries of a tensor of any order. Their normal equations are sums over the entries of every row.

    Args:
        observed: the entries.
        biases: whether the last column of every factor is a bias.
    """

    def __init__(self, observed: Observed, *, biases: bool) -> None:
        self.biases, self._shape = biases, observed.shape
        indices, self._values = observed.indices.cpu(), observed.values.cpu()
        self._weights = observed.counts().cpu()
        self._indices = indices.T.contiguous()
        self._orders = [stable_order(own, d) for own, d in zip(self._indices, self._shape, strict=True)]
        self._starts = [
            np.concatenate([[0], torch.bincount(own, minlength=d).cumsum(0).numpy()])
            for own, d in zip(self._indices, self._shape, strict=True)
        ]

    def energy(self, n: int, factors: Sequence[Float[Tensor, "_ K"]]) -> float:
        """Return the sum of the squared targets of mode n: of the residuals with rows of zero in mode n.

        Args:
            n: the mode.
            factors: the rows of all modes.
        """
        return float(self._weights @ self._targets(n, factors, slice(None)).square())

    def equations(self, n: int, factors: Sequence[Float[Tensor, "_ K"]]) -> Iterator[Equations]:
        """Compute the normal equations of the rows of mode n, with the factors of all other modes fixed.

        Args:
            n: the mode.
            factors: the rows of all modes.

        Yields:
            The equations of one block of rows after the other.
        """
        size, starts = factors[n].shape[1], self._starts[n]
        most = max(BLOCK // (size * (size + 3) // 2), 1)
        low = 0
        while low < len(starts) - 1:
            high = int(np.searchsorted(starts, starts[low] + most, side="right")) - 1
            high = min(max(high, low + 1), low + most, len(starts) - 1)
            yield self._block(n, factors, low, high)
            low = high

    def _block(self, n: int, factors: Sequence[Tensor], low: int, high: int) -> Equations:
        """Return the normal equations of the rows from `low` to before `high`."""
        starts = self._starts[n][low : high + 1]
        entries = self._orders[n][starts[0] : starts[-1]]
        features = torch.ones(len(entries), factors[n].shape[1], dtype=torch.float64)
        for m, factor in enumerate(factors):
            if m != n:
                features *= (_with_ones(factor) if self.biases else factor)[self._indices[m, entries]]
        targets = self._targets(n, factors, entries)
        table = torch.cat([_outer(features), features * targets[:, None]], dim=1).numpy()
        columns = np.arange(len(entries))
        by_row = sp.csr_matrix(
            (self._weights[entries].numpy(), columns, starts - starts[0]), shape=(high - low, len(entries))
        )
        found = torch.from_numpy(by_row @ table)
        size = features.shape[1]
        return Equations(low, found[:, :-size], found[:, -size:])

    def _targets(self, n: int, factors: Sequence[Tensor], entries: Tensor | slice) -> Tensor:
        """Return the values of some entries less the biases of all modes but n."""
        targets = self._values[entries].clone()
        if self.biases:
            for m, factor in enumerate(factors):
                if m != n:
                    targets -= factor[self._indices[m, entries], -1]
        return targets


def _with_ones(factor: Tensor) -> Tensor:
    """Return a factor with ones in place of the biases in its last column."""
    features = factor.clone()
    features[:, -1] = 1.0
    return features


def _outer(features: Tensor) -> Tensor:
    """Return the lower triangles of the outer products of rows with themselves."""
    parts = [features[:, k : k + 1] * features[:, : k + 1] for k in range(features.shape[1])]
    return torch.cat(parts, dim=1)
