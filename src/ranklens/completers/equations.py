"""Normal equations of the rows of one mode: sums over observed entries that both least squares and sampling need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.observed import Observed
from ranklens.completers.pattern import stable_order

# Numbers in tables of features, and in normal equations, that are held at a time: 32 MiB in float64.
BLOCK = 2**22
# Ridge that is always added, in units of the mean diagonal of the Gram matrix. A row with fewer observations than
# unknowns then has one small solution instead of infinitely many.
JITTER = 1e-10


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

    def solve(self, penalty: Float[Tensor, " K"]) -> Float[Tensor, "rows K"]:
        """Return the rows that minimize their sums of squared residuals plus a weighted sum of their squares.

        Args:
            penalty: weights of the K squares.
        """
        return ridge_solve(self.matrices() + torch.diag(penalty), self.moment, 0.0)

    def matrices(self) -> Float[Tensor, "rows K K"]:
        """Return `gram` as symmetric matrices."""
        size = self.moment.shape[1]
        return self.gram[:, symmetric(size)].unflatten(1, (size, size))

    def inverses(self, penalty: Float[Tensor, " K"]) -> Float[Tensor, "rows K K"]:
        """Return the inverses of the matrices of the systems that `solve` solves.

        Args:
            penalty: weights of the K squares.
        """
        return torch.linalg.inv(_lifted(self.matrices() + torch.diag(penalty), 0.0))

    def change(self, rows: Float[Tensor, "rows K"]) -> float:
        """Return by how much the sum of squared residuals is larger with these rows than with rows of zero.

        Args:
            rows: factors and biases.
        """
        return float(((self.matrices() @ rows[:, :, None])[:, :, 0] * rows).sum() - 2 * (rows * self.moment).sum())


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
        self._values, self._weights = values, weights
        self._numbers = tuple(np.asarray(table.sum(axis=1)).ravel() for table in self._counts)
        self._totals = tuple(np.asarray(table.sum(axis=1)).ravel() for table in self._sums)

    @cached_property
    def _squared(self) -> float:
        """Return the sum of the squared values, which for values beyond 1e154 is infinite: not all uses need it."""
        return float(self._weights @ self._values**2)

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
        features = with_ones(other) if self.biases else other
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


@dataclass(frozen=True)
class _Block:
    """The entries of consecutive rows of one mode, sorted by row.

    Attributes:
        low: the first row.
        high: the row after the last.
        others: for every other mode the indices of the entries.
        values: the values of the entries.
        weights: the weights of the entries, or None if all are 1.
        filled: rows that have entries, counted from `low`.
        begins: where the entries of each of these rows begin.
    """

    low: int
    high: int
    others: dict[int, NDArray[np.int64]]
    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    filled: NDArray[np.int64]
    begins: NDArray[np.int64]

    def targets(self, factors: Sequence[Tensor], *, biases: bool) -> NDArray[np.float64]:
        """Return the values less the biases of the other modes."""
        if not biases:
            return self.values
        return self.values - sum(factors[m].numpy()[:, -1].take(own) for m, own in self.others.items())

    def features(self, factors: Sequence[Tensor], *, biases: bool) -> NDArray[np.float64]:
        """Return the products of the other modes' factors, of shape (K, entries), with ones in place of biases."""
        (first, at_first), *others = self.others.items()
        made: NDArray[np.float64] = _columns(factors[first]).take(at_first, axis=1)
        for m, own in others:
            np.multiply(made, _columns(factors[m]).take(own, axis=1), out=made)
        if biases:
            made[-1] = 1.0
        return made


class TensorEntries:
    """Observed entries of a tensor of any order. Their normal equations are sums over the entries of every row.

    Args:
        observed: the entries.
        biases: whether the last column of every factor is a bias.
    """

    def __init__(self, observed: Observed, *, biases: bool) -> None:
        self.biases, self._shape = biases, observed.shape
        indices, self._values = observed.indices.cpu(), observed.values.cpu().numpy()
        self._weights = None if observed.weights is None else observed.weights.cpu().numpy()
        self._indices = indices.T.contiguous().numpy()
        self._orders = [stable_order(own, d).numpy() for own, d in zip(indices.T, self._shape, strict=True)]
        self._starts = [
            np.concatenate([[0], np.bincount(own, minlength=d).cumsum()])
            for own, d in zip(self._indices, self._shape, strict=True)
        ]
        self._sorted: dict[int, _Block] = {}  # blocks that hold a whole mode, which are made once

    def energy(self, n: int, factors: Sequence[Float[Tensor, "_ K"]]) -> float:
        """Return the sum of the squared targets of mode n: of the residuals with rows of zero in mode n.

        Args:
            n: the mode.
            factors: the rows of all modes.
        """
        targets = self._values
        if self.biases:
            others = [m for m in range(len(factors)) if m != n]
            targets = targets - sum(factors[m].numpy()[:, -1].take(self._indices[m]) for m in others)
        return float(targets @ (targets if self._weights is None else self._weights * targets))

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
            block = self._block(n, low, high)
            yield _equations(
                block.features(factors, biases=self.biases), block.targets(factors, biases=self.biases), block
            )
            low = high

    def _block(self, n: int, low: int, high: int) -> _Block:
        """Return the entries of the rows from `low` to before `high` of mode n."""
        if (low, high) == (0, self._shape[n]) and n in self._sorted:
            return self._sorted[n]
        starts = self._starts[n][low : high + 1]
        entries = self._orders[n][starts[0] : starts[-1]]
        others = {m: self._indices[m].take(entries) for m in range(len(self._shape)) if m != n}
        weights = None if self._weights is None else self._weights.take(entries)
        filled = np.flatnonzero(np.diff(starts))
        block = _Block(low, high, others, self._values.take(entries), weights, filled, starts[filled] - starts[0])
        if (low, high) == (0, self._shape[n]):
            self._sorted[n] = block
        return block


def _equations(features: NDArray[np.float64], targets: NDArray[np.float64], block: _Block) -> Equations:
    """Return the normal equations of a block of rows.

    Args:
        features: (K, entries) features.
        targets: (entries,) targets.
        block: the rows and their entries.
    """
    size, entries = features.shape
    weighted = features if block.weights is None else features * block.weights
    table = np.empty((size * (size + 3) // 2, entries))
    end = 0
    for k in range(size):
        begin, end = end, end + k + 1
        np.multiply(weighted[k], features[: k + 1], out=table[begin:end])
    np.multiply(weighted, targets, out=table[end:])
    found = np.zeros((len(table), block.high - block.low))
    if entries:
        found[:, block.filled] = np.add.reduceat(table, block.begins, axis=1)
    made = torch.from_numpy(found)
    return Equations(block.low, made[:end].T, made[end:].T)


def _columns(factor: Tensor) -> NDArray[np.float64]:
    """Return the columns of a factor one after the other, of shape (K, d)."""
    return np.ascontiguousarray(factor.numpy().T)


def with_ones(factor: Tensor) -> Tensor:
    """Return a factor with ones in place of the biases in its last column."""
    features = factor.clone()
    features[:, -1] = 1.0
    return features


def _outer(features: Tensor) -> Tensor:
    """Return the lower triangles of the outer products of rows with themselves."""
    parts = [features[:, k : k + 1] * features[:, : k + 1] for k in range(features.shape[1])]
    return torch.cat(parts, dim=1)


def entries_of(observed: Observed, *, biases: bool) -> MatrixEntries | TensorEntries:
    """Return observed entries in the form that their order prescribes.

    Args:
        observed: the entries.
        biases: whether the last column of every factor is a bias.
    """
    return (MatrixEntries if len(observed.shape) == 2 else TensorEntries)(observed, biases=biases)


@lru_cache
def symmetric(size: int) -> Int64[Tensor, " squared"]:
    """Return for every entry of a symmetric matrix its place in the lower triangle, row after row.

    Args:
        size: number K of rows.

    >>> symmetric(2).tolist()  # the entry (0, 1) is the entry (1, 0)
    [0, 1, 1, 2]
    """
    i, j = torch.tril_indices(size, size)
    places = torch.empty(size, size, dtype=torch.int64)
    places[i, j] = places[j, i] = torch.arange(len(i))
    return places.ravel()


def ridge_solve(
    gram: Float[Tensor, "*batch size size"], moment: Float[Tensor, "*batch size"], ridge: float
) -> Float[Tensor, "*batch size"]:
    """Solve (gram + ridge I) x = moment for a batch of systems.

    A multiple of the identity, 1e-10 times the mean diagonal of the system's own Gram matrix, is added, so that a
    singular system has a solution whatever the units of other systems are. Where the moment is zero, x is zero.

    Args:
        gram: positive semidefinite matrices, of shape (*batch, size, size).
        moment: right-hand sides, of shape (*batch, size).
        ridge: number, at least 0, that is added to the diagonals.

    Returns:
        The solutions x, of shape (*batch, size).
    """
    return torch.linalg.solve(_lifted(gram, ridge), moment.unsqueeze(-1)).squeeze(-1)


def _lifted(gram: Tensor, ridge: float) -> Tensor:
    """Return matrices with the ridge, and what makes them regular, on their diagonals."""
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    lift = ridge + JITTER * scale.where(scale > 0, 1.0)
    return gram + lift * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
