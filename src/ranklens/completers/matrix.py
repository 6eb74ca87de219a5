"""MatrixCompleter: a scikit-learn transformer that fills the holes of a matrix and asks for no rank."""

import math
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from ranklens.completers.alternating import ridge_solve
from ranklens.completers.check import check_arguments, check_pairs
from ranklens.completers.completion import Settings, complete
from ranklens.completers.entries import CHUNK, outer_factors
from ranklens.completers.seen import Seen
from ranklens.completers.start import aligned_
from ranklens.tensors.families import deep_matrix
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

WIDEST = 128  # the width's default is at most this: a cap on the rank that is stated
FILLED = 2**28  # entries of a filled matrix beyond which `predict` is the way to ask


class MatrixCompleter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Fill the holes of a matrix with a matrix of low rank, without being told the rank.

    A deep matrix W = W_L ... W_1 descends from a small start on the entries that are seen. Its singular values obey
    d sigma / dt = -L sigma^(2 - 2/L) <gradient, u v^T>, so they rise one at a time, large ones first, and what the
    data do not ask for stays at the start: depth and a small start lower the rank. Held-out entries end the descent.
    What then stands is truncated at its gaps and refined by ridge least squares, at the size and ridge that predict
    the held-out entries best, and at last with all entries.

    Args:
        depth: L, the number of factors; 2 lowers rank less, 4 more slowly.
        scale: of the start, its spectral norm over that of a matrix of independent entries as large as the data
            (root mean square times sqrt(rows columns)). None takes 1e-4: small enough to tell any singular value that
            counts from one that has not left, and large enough to leave within a hundred steps or so.
        width: of the factors inside, a cap on the rank; None takes min(rows, columns), but 128 at most.
        biases: whether a mean and one number per row and column come first, with a damping that is chosen.
        held_out: fraction of the seen entries that decides on stopping, size, ridge and damping.
        max_steps: of the descent, at most.
        learning_rate: distance per step, in units of the factors' size at the end.
        patience: the descent ends when it has gone on for this many times what its best held-out error took, counted
            from the start, never while it is still on the plateau of the small start.
        batch_size: entries per step; None takes all up to 2^20, and 2^18 beyond.
        device: where the descent and the refinement run, such as "cuda".
        random_state: an integer: of the split, of mini-batches.

    Attributes:
        rank_: of what was learnt, the number of components; 0 if biases (or zero) predict as well.
        singular_values_: of the learnt matrix, without biases.
        left_, right_: (rows, rank_) and (columns, rank_) factors.
        mean_, row_biases_, column_biases_: zero unless `biases`.
        rmse_: held-out errors of "biases" alone, of the "descent", and after the "polish".
        profile_: Dataset of singular values ("standing"), effective rank and losses along the descent.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        ValueError: for arguments or data that make no sense; each says which.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019) for deep matrix factorization from a small start. The refinement is
        alternating least squares with a ridge, whose penalty is a nuclear norm (Srebro, Rennie, Jaakkola 2004).

    >>> import numpy as np, ranklens as rl
    >>> target = rl.targets.low_rank_matrix((40, 30), rank=2).numpy()
    >>> X = np.where(np.add.outer(7 * np.arange(40), 11 * np.arange(30)) % 13 < 5, target, np.nan)  # 38% seen
    >>> completer = rl.MatrixCompleter(depth=3, random_state=0)
    >>> filled = completer.fit_transform(X)
    >>> completer.rank_, bool(np.linalg.norm(filled - target) < 1e-4 * np.linalg.norm(target))
    (2, True)
    """

    def __init__(  # noqa: PLR0913  (scikit-learn takes all settings here)
        self,
        *,
        depth: int = 3,
        scale: float | None = None,
        width: int | None = None,
        biases: bool = False,
        held_out: float = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 0.01,
        patience: float = 3.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        random_state: int = 0,
    ) -> None:
        self.depth, self.scale, self.width, self.biases = depth, scale, width, biases
        self.held_out, self.max_steps, self.learning_rate = held_out, max_steps, learning_rate
        self.patience, self.batch_size, self.device, self.random_state = patience, batch_size, device, random_state

    def fit(self, X: Any, y: Any = None) -> "MatrixCompleter":
        """Learn from the entries that are seen.

        Args:
            X: (rows, columns) numbers with NaN for holes, a pandas frame of such, or a scipy.sparse matrix whose stored
                entries are what is seen.
            y: ignored.
        """
        seed = check_arguments(self, least_depth=2)
        checked = validate_data(
            self, X, accept_sparse=["csr", "csc", "coo"], dtype=np.float64, ensure_all_finite="allow-nan"
        )
        seen = _seen(checked)
        settings = Settings.of(self, seed)

        def start(left: Seen, dtype: torch.dtype) -> TensorNetwork:
            width = min(*seen.shape, WIDEST) if self.width is None else self.width
            net = deep_matrix(seen.shape, self.depth, width, std=0.0, dtype=dtype, device=self.device)
            return aligned_(net, left, 1e-4 if self.scale is None else self.scale, seed=seed)

        found = complete(seen, start, settings)
        self.rmse_, self.profile_, scale = found.rmse, found.profile, found.scale
        self.mean_ = found.biases.mean * scale
        self._damping, self._ridge = found.biases.damping, found.ridge
        self.row_biases_, self.column_biases_ = (scale * bias.cpu().numpy() for bias in found.biases.modes)
        self._set_factors(seen, found.net, scale)
        return self

    def _set_factors(self, seen: Seen, net: TensorNetwork | None, scale: float) -> None:
        """Balanced factors; the left side is then solved for once more, as it is for new rows."""
        if net is None:
            self.left_, self.right_ = np.zeros((seen.shape[0], 0)), np.zeros((seen.shape[1], 0))
            self.singular_values_, self.rank_ = np.zeros(0), 0
            return
        left, right = outer_factors(net)
        _, s, V = (part.detach().cpu() for part in product_svd(left.detach().double(), right.detach().T.double()))
        self.right_ = (V * (scale * s).sqrt()).numpy()
        self._ridge *= scale
        self.left_, biases = self._rows(seen)
        if self.biases:
            self.row_biases_ = biases
        self.rank_ = self.right_.shape[1]
        self.singular_values_ = product_svd(torch.from_numpy(self.left_), torch.from_numpy(self.right_))[1].numpy()

    def _rows(self, seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Left factors and biases of rows, given everything about the columns: a ridge regression per row."""
        right = torch.from_numpy(self.right_)
        rank, rows = right.shape[1], seen.shape[0]
        size = rank + int(self.biases)
        if size == 0:
            return np.zeros((rows, 0)), np.zeros(rows)
        penalty = torch.full((size,), self._ridge, dtype=torch.float64)
        if self.biases:
            right = torch.cat([right, torch.ones(len(right), 1, dtype=torch.float64)], dim=1)
            penalty[-1] = self._damping
        known = self.mean_ + torch.from_numpy(self.column_biases_)
        gram = torch.diag(penalty).expand(rows, size, size).clone()
        moment = torch.zeros(rows, size, dtype=torch.float64)
        step = max(16 * CHUNK // (size * size), 1)
        for indices, values in zip(seen.indices.cpu().split(step), seen.values.cpu().split(step), strict=True):
            i, j = indices.T
            features = right[j]
            gram.index_add_(0, i, features[:, :, None] * features[:, None, :])
            moment.index_add_(0, i, features * (values - known[j])[:, None])
        solved = ridge_solve(gram, moment, 0.0).numpy()
        return solved[:, :rank], solved[:, rank] if self.biases else np.zeros(rows)

    def transform(self, X: Any) -> Any:
        """Fill the holes of rows, old or new: entries that are seen stay as they are.

        A row's left factor and bias are solved for against the right side that was learnt; a row of which nothing is
        seen gets the mean and the column biases.

        Args:
            X: as for `fit`, with the same columns.

        Returns:
            A frame for a frame, else an array.
        """
        seen = self._checked(X)
        filled = self._whole_rows(seen)
        filled[tuple(seen.indices.numpy().T)] = seen.values.numpy()
        return pd.DataFrame(filled, index=X.index, columns=X.columns) if isinstance(X, pd.DataFrame) else filled

    def predict(self, X: Any) -> NDArray[np.float64]:
        """What the learnt matrix has: at positions of the matrix that was fitted, or everywhere in rows.

        Args:
            X: (m, 2) integers, (row, column) positions; or rows as for `transform`. Rows of two integers would be
                ambiguous, and are taken for positions.

        Returns:
            (m,) numbers; for rows all their entries, those that are seen as well.
        """
        check_is_fitted(self)
        if not _are_positions(X):
            return self._whole_rows(self._checked(X))
        pairs = check_pairs(X, (len(self.left_), len(self.right_)))
        found = np.empty(len(pairs))
        for begin in range(0, len(pairs), CHUNK):
            i, j = pairs[begin : begin + CHUNK].T
            fit = (self.left_[i] * self.right_[j]).sum(axis=1)
            found[begin : begin + CHUNK] = fit + self.mean_ + self.row_biases_[i] + self.column_biases_[j]
        return found

    def score(self, X: Any, y: Any = None) -> float:
        """Coefficient of determination R^2 of predictions.

        Args:
            X: (m, 2) integer positions, with their values in y; or a matrix like the fitted one, whose known entries
                are compared (and y is not used).
            y: (m,) values.
        """
        check_is_fitted(self)
        if y is not None and _are_positions(X):
            return float(r2_score(np.asarray(y, dtype=np.float64), self.predict(X)))
        known = self._checked(X)
        if known.shape != (len(self.left_), len(self.right_)):
            raise ValueError(
                f"X has shape {known.shape}, the fitted matrix {(len(self.left_), len(self.right_))}; pass a matrix of "
                f"that shape, or positions and values"
            )
        return float(r2_score(known.values.numpy(), self.predict(known.indices.numpy())))

    def _checked(self, X: Any) -> Seen:
        """What is seen of rows with the columns that were fitted."""
        check_is_fitted(self)
        checked = validate_data(
            self, X, accept_sparse=["csr", "csc", "coo"], dtype=np.float64, ensure_all_finite="allow-nan", reset=False
        )
        return _seen(checked, least=0)

    def _whole_rows(self, seen: Seen) -> NDArray[np.float64]:
        """All entries of rows, by their factors and biases."""
        if math.prod(seen.shape) > FILLED:
            raise ValueError(
                f"filled, this matrix of shape {seen.shape} would have {math.prod(seen.shape):.3g} entries, more than "
                f"{FILLED:.3g}; ask predict(positions) for those that are wanted"
            )
        left, biases = self._rows(seen)
        return left @ self.right_.T + (self.mean_ + biases[:, None] + self.column_biases_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


def _are_positions(X: Any) -> bool:
    """Whether something is (m, 2) integers."""
    array = X.to_numpy() if isinstance(X, pd.DataFrame) else X if sp.issparse(X) else np.asarray(X)
    return not sp.issparse(array) and array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == 2


def _seen(X: Any, least: int = 1) -> Seen:
    """Rows of what is seen of a checked matrix."""
    if sp.issparse(X):
        stored = X.tocsr(copy=True)
        stored.sum_duplicates()  # as scipy reads what is stored twice
        stored = stored.tocoo()
        indices, values = np.stack([stored.row, stored.col], axis=1).astype(np.int64), stored.data.astype(np.float64)
        there = ~np.isnan(values)
        if not there.all():
            indices, values = indices[there], values[there]
    else:
        indices = np.argwhere(~np.isnan(X))
        values = X[tuple(indices.T)].astype(np.float64)
    if len(values) < least:
        raise ValueError(f"X of shape {X.shape} has no entry that is seen; all are NaN (or nothing is stored)")
    return Seen(torch.from_numpy(indices), torch.from_numpy(values), tuple(X.shape))
