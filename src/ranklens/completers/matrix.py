"""MatrixCompleter: a scikit-learn transformer that fills in the missing entries of a matrix without a given rank."""

import math
import warnings
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ranklens.completers.alternating import ridge_solve
from ranklens.completers.check import check_arguments, check_positions
from ranklens.completers.completion import Settings, complete
from ranklens.completers.entries import CHUNK, outer_factors
from ranklens.completers.observed import Observed
from ranklens.completers.start import aligned_
from ranklens.tensors.families import deep_matrix
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

# The default width of the factors, which is also a cap on the rank, is at most this.
WIDEST = 128
# The default of `scale`. It is small enough to tell singular values that have grown from those that have not, and
# large enough for growth to begin within about a hundred steps.
SMALL_START = 1e-4
# Entries of a filled matrix above which only predictions at positions are made, because it would take 2 GiB.
FILLED = 2**28
# Ratio of the largest to the median root mean square of a column above which a fit warns: squared errors of half of the
# columns then weigh less than 1e-4 of those of the largest one.
UNEVEN = 100.0
# Share of the largest entry below which a column counts as zero there: subtracting a mean leaves rounding errors.
ROUNDING = 1e-12
Matrix: TypeAlias = ArrayLike | pd.DataFrame | sp.spmatrix | sp.sparray


class MatrixCompleter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Fill in the missing entries of a matrix by a matrix of low rank, without being given the rank.

    A deep matrix W = W_L ... W_1 is trained on the observed entries from a small initialization. Under gradient flow
    its singular values obey d sigma / dt = -L sigma^(2 - 2/L) <gradient, u v^T>, so they grow one after the other, the
    large ones first, and those that the data do not need stay small: depth and a small initialization lower the rank.
    The training stops when the error on held-out entries no longer falls. The result is then truncated to several ranks
    and refined by least squares with several ridges; the rank and the ridge that predict the held-out entries best are
    chosen. A last fit uses all entries.

    Args:
        depth: number L of factors, at least 2. More factors lower the rank more strongly, and train more slowly.
        scale: size of the initialization: the spectral norm of W divided by rms * sqrt(rows columns), where rms is the
            root mean square of the data. None takes 1e-4.
        width: size of the bonds between the factors, a cap on the rank. None takes min(rows, columns), at most 128.
        biases: whether to fit a mean, and one bias per row and column, before the matrix. Their damping is chosen by
            held-out entries.
        held_out: fraction of the observed entries that is held out to decide when to stop, and to choose rank, ridge
            and damping.
        max_steps: number of training steps, at most.
        learning_rate: length of a step, in units of the factors' norms at the end of the training.
        patience: training stops at this many times the step of its best held-out error, but never while the loss is
            still on the plateau of the initialization.
        batch_size: entries per step. None takes all of up to 2^20 entries, and 2^18 of more.
        device: device of the training and the refinement, such as "cuda".
        random_state: an integer, the seed of the split and of mini-batches.

    Attributes:
        rank_: rank of the fitted matrix without biases; 0 if the biases alone (or zero, without biases) predict the
            held-out entries as well.
        singular_values_: (rank_,) singular values of the fitted matrix without biases, in descending order.
        left_: (rows, rank_) left factor.
        right_: (columns, rank_) right factor; left_ @ right_.T is the fitted matrix without biases.
        mean_: the mean; zero without `biases`.
        row_biases_: (rows,) one number per row; zeros without `biases`.
        column_biases_: (columns,) one number per column; zeros without `biases`.
        rmse_: {name: held-out root mean square error}, in the units of the data: of the "biases" alone, after the
            "descent" (the training), and after the "polish" (the refinement). Without biases, "biases" is the error of
            predicting zero. If this prediction fits the training entries exactly, or only one entry is observed,
            rmse_ is {"biases": 0.0}.
        profile_: a Dataset over `step`, with `standing` over (step, standing_rank), the singular values of W in
            descending order, and with `effective_rank`, `train_loss` and `held_out_loss`. Losses are mean squared
            errors, divided by the mean square that the biases leave on the training entries. Without training, the
            Dataset is empty.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns; set only if the matrix was a frame whose column names are strings.

    Raises:
        ValueError: for arguments or data out of range; the message names them.
        TypeError: for arguments of a wrong type.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019), deep matrix factorization from a small initialization. The
        refinement is alternating least squares with a ridge, whose penalty is a nuclear norm (Srebro, Rennie,
        Jaakkola, NeurIPS 2004).

    >>> import numpy as np, ranklens as rl
    >>> target = rl.targets.low_rank_matrix((40, 30), rank=2).numpy()
    >>> X = np.where(np.add.outer(7 * np.arange(40), 11 * np.arange(30)) % 13 < 5, target, np.nan)  # 38% observed
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

    def fit(self, X: Matrix, y: object = None) -> "MatrixCompleter":
        """Fit the completer to the observed entries of a matrix.

        Args:
            X: (rows, columns) numbers, as an array or a pandas frame with NaN for missing entries, or as a scipy.sparse
                matrix whose stored entries are the observed ones. Columns of an array or frame that have different
                units should be standardized. A UserWarning is given if a column is 100 times as large as the median.
            y: ignored.

        Returns:
            The completer.

        Raises:
            ValueError: if X has more than two axes.
        """
        seed = check_arguments(self, least_depth=2)
        if isinstance(X, np.ndarray) and X.ndim > 2:
            raise ValueError(
                f"X has shape {X.shape}, which is no matrix; complete a tensor by "
                f"TensorCompleter(X.shape).fit(np.argwhere(~np.isnan(X)), X[~np.isnan(X)])"
            )
        checked = validate_data(
            self, X, accept_sparse=["csr", "csc", "coo"], dtype=np.float64, ensure_all_finite="allow-nan"
        )
        observed = _observed(checked)
        if isinstance(checked, np.ndarray):
            _warn_of_uneven_columns(checked, centred=self.biases)

        def initialize(residual: Observed, dtype: torch.dtype) -> TensorNetwork:
            width = min(*observed.shape, WIDEST) if self.width is None else self.width
            net = deep_matrix(observed.shape, self.depth, width, std=0.0, dtype=dtype, device=self.device)
            return aligned_(net, residual, SMALL_START if self.scale is None else self.scale, seed=seed)

        found = complete(observed, initialize, Settings.of(self, seed))
        biases = found.biases.times(found.scale)
        self.rmse_, self.profile_ = found.rmse, found.profile
        self.mean_, self._damping, self._ridge = biases.mean, biases.damping, found.ridge
        self.row_biases_, self.column_biases_ = (bias.cpu().numpy() for bias in biases.modes)
        self._set_factors(observed, found.net, found.scale)
        return self

    def _set_factors(self, observed: Observed, net: TensorNetwork | None, scale: float) -> None:
        """Set the factors: the right one from the network, the left one solved for as it is for new rows.

        Args:
            observed: all entries, in the units of the data.
            net: the fitted network, or None for rank zero.
            scale: the unit of the network's entries.
        """
        if net is None:
            self.left_, self.right_ = np.zeros((observed.shape[0], 0)), np.zeros((observed.shape[1], 0))
            self.singular_values_, self.rank_ = np.zeros(0), 0
            return
        left, right = outer_factors(net)
        _, s, V = (part.detach().cpu() for part in product_svd(left.detach().double(), right.detach().T.double()))
        self.right_ = (V * (scale * s).sqrt()).numpy()
        self._ridge *= scale
        self.left_, biases = self._rows(observed)
        if self.biases:
            self.row_biases_ = biases
        self.rank_ = self.right_.shape[1]
        self.singular_values_ = product_svd(torch.from_numpy(self.left_), torch.from_numpy(self.right_))[1].numpy()

    def _rows(self, observed: Observed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return left factors and biases of rows, by a ridge regression per row with everything else held fixed.

        Args:
            observed: entries of matrices with the fitted columns, and any number of rows.
        """
        right = torch.from_numpy(self.right_)
        rank, rows = right.shape[1], observed.shape[0]
        size = rank + int(self.biases)
        if size == 0:
            return np.zeros((rows, 0)), np.zeros(rows)
        penalty = torch.full((size,), self._ridge, dtype=torch.float64)
        if self.biases:
            right = torch.cat([right, torch.ones(len(right), 1, dtype=torch.float64)], dim=1)
            penalty[-1] = self._damping
        fixed = self.mean_ + torch.from_numpy(self.column_biases_)
        gram = torch.diag(penalty).expand(rows, size, size).clone()
        moment = torch.zeros(rows, size, dtype=torch.float64)
        step = max(16 * CHUNK // (size * size), 1)
        for indices, values in zip(observed.indices.cpu().split(step), observed.values.cpu().split(step), strict=True):
            i, j = indices.T
            features = right[j]
            gram.index_add_(0, i, features[:, :, None] * features[:, None, :])
            moment.index_add_(0, i, features * (values - fixed[j])[:, None])
        solved = ridge_solve(gram, moment, 0.0).numpy()
        return solved[:, :rank], solved[:, rank] if self.biases else np.zeros(rows)

    def transform(self, X: Matrix) -> NDArray[np.float64] | pd.DataFrame:
        """Return rows with their missing entries filled in; observed entries stay as they are.

        The rows may be rows of the fitted matrix or new ones.

        The left factor and the bias of every row are solved for by ridge regression against the fitted right factor. A
        row without observed entries gets the mean plus the column biases.

        Args:
            X: rows with the fitted columns: an array or frame with NaN for missing entries, or a sparse matrix whose
                stored entries are the observed ones.

        Returns:
            The filled matrix, of the shape of X: a frame for a frame, else an array, also for a sparse matrix.
        """
        observed = self._observed_rows(X)
        filled = self._whole_rows(observed)
        filled[tuple(observed.indices.numpy().T)] = observed.values.numpy()
        return pd.DataFrame(filled, index=X.index, columns=X.columns) if isinstance(X, pd.DataFrame) else filled

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Predict entries: at positions in the fitted matrix, or all entries of given rows.

        Args:
            X: (m, 2) integers, one (row, column) position per prediction. Any array or frame of two columns of
                integers is taken for positions. Or rows with the fitted columns, old or new: an array or frame with
                NaN for missing entries, or a sparse matrix whose stored entries are the observed ones.

        Returns:
            For positions, (m,) predictions. For rows, an array of the shape of X, in which the observed entries are
            replaced by predictions too.
        """
        check_is_fitted(self)
        if not _are_positions(X):
            return self._whole_rows(self._observed_rows(X))
        positions = check_positions(X, (len(self.left_), len(self.right_))).numpy()
        found = np.empty(len(positions))
        for begin in range(0, len(positions), CHUNK):
            i, j = positions[begin : begin + CHUNK].T
            fit = (self.left_[i] * self.right_[j]).sum(axis=1)
            found[begin : begin + CHUNK] = fit + self.mean_ + self.row_biases_[i] + self.column_biases_[j]
        return found

    def score(self, X: Matrix, y: ArrayLike | None = None) -> float:
        """Return the coefficient of determination R^2 of predictions.

        Args:
            X: (m, 2) integer positions (row, column), if `y` is given; or a matrix of the fitted shape, in the forms
                that `fit` takes, whose observed entries are compared with the predictions at their positions.
            y: (m,) values at the positions; not used for a matrix.

        Returns:
            1 minus the sum of squared errors divided by the sum of squared deviations of the values from their mean.

        Raises:
            ValueError: for a matrix of another shape than the fitted one.
        """
        check_is_fitted(self)
        if y is not None and _are_positions(X):
            return float(r2_score(np.asarray(y, dtype=np.float64), self.predict(X)))
        observed = self._observed_rows(X)
        if observed.shape != (len(self.left_), len(self.right_)):
            raise ValueError(
                f"X has shape {observed.shape}, the fitted matrix {(len(self.left_), len(self.right_))}; pass a matrix "
                f"of that shape, or positions and values"
            )
        return float(r2_score(observed.values.numpy(), self.predict(observed.indices.numpy())))

    def _observed_rows(self, X: Matrix) -> Observed:
        """Return the observed entries of rows, after checking that their columns are the fitted ones."""
        check_is_fitted(self)
        checked = validate_data(
            self, X, accept_sparse=["csr", "csc", "coo"], dtype=np.float64, ensure_all_finite="allow-nan", reset=False
        )
        return _observed(checked, least=0)

    def _whole_rows(self, observed: Observed) -> NDArray[np.float64]:
        """Return the predictions of all entries of rows.

        Args:
            observed: the observed entries of the rows.

        Raises:
            ValueError: if there are too many entries to hold.
        """
        if math.prod(observed.shape) > FILLED:
            raise ValueError(
                f"filled, this matrix of shape {observed.shape} would have {math.prod(observed.shape):.3g} entries, "
                f"more than {FILLED:.3g}; pass the positions that you need to predict(positions)"
            )
        left, biases = self._rows(observed)
        return left @ self.right_.T + (self.mean_ + biases[:, None] + self.column_biases_)

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn may assume: NaN and sparse matrices are accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


def _warn_of_uneven_columns(X: NDArray[np.float64], *, centred: bool) -> None:
    """Warn if one column is so much larger than half of all columns that the fit would ignore them.

    The comparison is with the (lower) median and not with the least, because a column of low-rank data with few
    observed entries may be small by chance.

    Args:
        X: (rows, columns) numbers, at least one of them observed, with NaN for missing entries.
        centred: whether the mean of every column is subtracted first, as the biases do.
    """
    unit = float(np.nanmax(np.abs(X)))  # squares of very large or small numbers would leave the range of float64
    if unit == 0:
        return
    scaled = X[:, ~np.isnan(X).all(axis=0)] / unit
    scaled -= np.nanmean(scaled, axis=0) if centred else 0.0
    sizes = unit * np.sqrt(np.nanmean(scaled**2, axis=0))
    sizes = sizes[sizes > ROUNDING * unit]
    if not len(sizes):
        return
    median = np.quantile(sizes, 0.5, method="lower")
    if sizes.max() > UNEVEN * median:
        warnings.warn(
            f"the root mean square of a column is {sizes.max():.3g}, and the median over all columns is {median:.3g}; "
            f"the fit minimizes squared errors and would ignore the small columns, so standardize the columns first, "
            f"for example by make_pipeline(StandardScaler(), MatrixCompleter())",
            stacklevel=3,
        )


def _are_positions(X: Matrix) -> bool:
    """Return whether X is an (m, 2) array of integers, which `predict` takes for positions."""
    if sp.issparse(X):
        return False
    array = X.to_numpy() if isinstance(X, pd.DataFrame) else np.asarray(X)
    return array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == 2


def _observed(X: NDArray[np.float64] | sp.spmatrix | sp.sparray, least: int = 1) -> Observed:
    """Return the observed entries of a matrix.

    Args:
        X: an array, in which NaN is a missing entry, or a sparse matrix, in which every stored entry but NaN is
            observed. Entries that a sparse matrix stores more than once are added up, as scipy does.
        least: number of entries that must be observed.

    Raises:
        ValueError: if fewer entries are observed.
    """
    if not isinstance(X, np.ndarray):
        stored = X.tocsr(copy=True)
        stored.sum_duplicates()
        stored = stored.tocoo()
        indices, values = np.stack([stored.row, stored.col], axis=1).astype(np.int64), stored.data.astype(np.float64)
        finite = ~np.isnan(values)
        if not finite.all():
            indices, values = indices[finite], values[finite]
    else:
        indices = np.argwhere(~np.isnan(X))
        values = X[tuple(indices.T)].astype(np.float64)
    if len(values) < least:
        raise ValueError(
            f"X of shape {X.shape} has no observed entry: all are NaN, or nothing is stored; pass at least one number"
        )
    return Observed(torch.from_numpy(indices), torch.from_numpy(values), tuple(X.shape))
