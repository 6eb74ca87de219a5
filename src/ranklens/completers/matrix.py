"""MatrixCompleter: a scikit-learn transformer that fills in the missing entries of a matrix without a given rank."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Int64
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ranklens.completers.check import check_arguments, check_positions
from ranklens.completers.completion import Completion, Settings, complete
from ranklens.completers.descent import FIRST_WIDTH
from ranklens.completers.entries import outer_factors
from ranklens.completers.explanation import Explained
from ranklens.completers.fitted import FittedMatrix
from ranklens.completers.foreign import pandas_frame
from ranklens.completers.observed import Observed
from ranklens.completers.prepared import HeldOut
from ranklens.completers.sampling import NOISE_FREE, MakeFeatures
from ranklens.completers.side import Features, aligned, decompose, encode, observed_with
from ranklens.completers.start import aligned_
from ranklens.completers.table import Matrix, are_labels, are_positions, numbers, observed_entries, warn_of_empty
from ranklens.completers.units import Units, noise_of_columns
from ranklens.seeds import stream
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.families import deep_matrix
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

# The default width of the factors, which is also a cap on the rank, is at most this.
WIDEST = 128
# The default of `scale`. It is small enough to tell singular values that have grown from those that have not, and
# large enough for growth to begin within about a hundred steps.
SMALL_START = 1e-4
# Times that columns of unlike size are weighed by their noise and fitted again.
REWEIGHTED = 3
# Parts into which `score` divides the observed entries of rows; each is predicted from the others.
PARTS = 5


class MatrixCompleter(Explained, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
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
        biases: whether to fit a mean, and one bias per row and column, with the matrix. Their damping is chosen by
            held-out entries. None lets held-out entries decide.
        held_out: fraction of the observed entries that is held out to decide when to stop, and to choose rank, ridge
            and damping. "entries" holds out a tenth of them, and "blocks" a tenth of the blocks, which are all entries
            along the mode that the observed entries fill most: use it where blocks are missing, such as days. Or a
            function of the (m, N) positions and a seed, which returns a mask of the held-out entries.
        max_steps: number of training steps, at most.
        learning_rate: length of a step, in units of the factors' norms at the end of the training.
        patience: training stops at this many times the step of its best held-out error, but never while the loss is
            still on the plateau of the initialization.
        batch_size: entries per step. None takes all of up to 2^20 entries, and 2^18 of more.
        device: device of the training and the refinement, such as "cuda".
        posterior: number of draws of the factors from their posterior (see below) that are kept. 0 predicts by least
            squares. None keeps 100 draws, fewer if they would take more than half a gibibyte, and none for more than
            2^19 entries.
        implicit: whether the prior of a row depends on which of its entries are observed, and that of a column too.
            For ratings this is implicit feedback: people rate what they expect to like. None lets held-out entries
            decide where noise is large. Only for posteriors.
        row_features: a frame with features of the rows, whose index has the labels of the rows if the matrix is a
            frame, else their positions. Columns that are not numeric are taken as categories. Only for posteriors.
        column_features: the same for the columns of the matrix.
        random_state: an integer, the seed of the split, of mini-batches and of draws; a RandomState or Generator of
            numpy, from which the seed is drawn; or None, for a seed that differs between fits.

    With noise, predictions are improved by a posterior: after least squares, a Gibbs sampler draws factors and biases
    from their posterior distribution, with Gaussian noise and Gaussian priors whose means and precisions are drawn too.
    The mean of the draws' predictions predicts, and their spread together with the noise gives a standard deviation.
    The posterior is used only if it predicts held-out entries about as well as least squares, or better.

    Columns of unlike size: if the spreads of the columns of an array or frame differ by more than a factor of 100 from
    their median, every column is divided by its spread before the fit. If there is noise, the columns are then divided
    by the noise that least squares leave in them, and fitted again, three times, so that all have the same noise. A
    mean that is more than three spreads from zero, or a hundred where columns are of like size, is subtracted, and
    there are biases then unless `biases` is False.

    Attributes:
        rank_: rank of the fitted matrix without biases; 0 if the biases alone (or zero, without biases) predict the
            held-out entries as well.
        singular_values_: (rank_,) singular values of the fitted matrix without biases, in descending order.
        left_: (rows, rank_) left factor.
        right_: (columns, rank_) right factor; left_ @ right_.T is the fitted matrix without biases, by least squares.
        column_scale_: (columns,) size of the unit of every column; ones if the columns are of like size. Factors,
            biases, singular values and errors are in these units.
        mean_: the mean; zero without biases.
        row_biases_: (rows,) one number per row; zeros without biases.
        column_biases_: (columns,) one number per column: its bias, zero without biases, plus the mean that was
            subtracted, if any, divided by `column_scale_`.
        rmse_: {name: held-out root mean square error}, in the units of the data divided by `column_scale_`: of the
            "biases" alone, after the "descent" (the training), after the "polish" (the refinement), and of the
            "posterior", if one was drawn. Without biases, "biases" is the error of predicting zero, or the mean that
            was subtracted. If this prediction fits the training entries exactly, or only one entry is observed, rmse_
            is {"biases": 0.0}.
        profile_: a Dataset over `step`, with `standing` over (step, standing_rank), the singular values of W in
            descending order, and with `effective_rank`, `train_loss` and `held_out_loss`. Losses are mean squared
            errors, divided by the mean square that the biases leave on the training entries. Without training, the
            Dataset is empty.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns; set only if the matrix was a frame whose column names are strings.
        posterior_: whether the posterior predicts; otherwise least squares do.
        implicit_: whether the posterior takes into account which entries are observed.

    Raises:
        ValueError: for arguments or data out of range; the message names them.
        TypeError: for arguments of a wrong type.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019), deep matrix factorization from a small initialization. The
        refinement is alternating least squares with a ridge, whose penalty is a nuclear norm (Srebro, Rennie,
        Jaakkola, NeurIPS 2004). The posterior is that of Bayesian matrix factorization (Salakhutdinov and Mnih, ICML
        2008).

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
        biases: bool | None = None,
        held_out: HeldOut = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 0.01,
        patience: float = 3.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        posterior: int | None = None,
        implicit: bool | None = None,
        row_features: pd.DataFrame | None = None,
        column_features: pd.DataFrame | None = None,
        random_state: object = 0,
    ) -> None:
        self.depth, self.scale, self.width, self.biases = depth, scale, width, biases
        self.held_out, self.max_steps, self.learning_rate = held_out, max_steps, learning_rate
        self.patience, self.batch_size, self.device, self.random_state = patience, batch_size, device, random_state
        self.posterior, self.implicit = posterior, implicit
        self.row_features, self.column_features = row_features, column_features

    def fit(self, X: Matrix, y: object = None) -> "MatrixCompleter":
        """Fit the completer to the observed entries of a matrix.

        A UserWarning names rows and columns without an observed entry.

        Args:
            X: (rows, columns) numbers, as an array, a masked array or a frame whose missing entries are NaN, None or
                NA, or as a scipy.sparse matrix whose stored entries are the observed ones. A frame with Sparse columns
                has the entries that pandas shows. A frame of polars is read as one of pandas.
            y: ignored.

        Returns:
            The completer.

        Raises:
            ValueError: if X has more than two axes.
        """
        self._seed = check_arguments(self, least_depth=2)
        X = pandas_frame(X)
        if isinstance(X, np.ndarray) and X.ndim > 2:
            raise ValueError(
                f"X has shape {X.shape}, which is no matrix; complete a tensor by "
                f"TensorCompleter(X.shape).fit(np.argwhere(~np.isnan(X)), X[~np.isnan(X)])"
            )
        _warn_of_a_long_table(X)
        table = self._table(X)
        self._index: pd.Index | None = X.index if isinstance(X, pd.DataFrame) else None
        self._columns: pd.Index | None = X.columns if isinstance(X, pd.DataFrame) else None
        observed = observed_entries(table)
        warn_of_empty(observed, self._index, self._columns)
        self._units = Units.of(table)
        for rounds_left in reversed(range(1 if (self._units.size == 1).all() else 1 + REWEIGHTED)):
            measured = self._units.measured(observed)
            self._complete(measured, draws=0 if rounds_left else self.posterior)
            if not rounds_left or self._fitted.error <= NOISE_FREE * self.rmse_["biases"]:
                break  # data without noise have no posterior either
            self._units = self._units.times(noise_of_columns(measured, self._fitted))
        self.left_, self.right_ = self._fitted.left, self._fitted.right
        self.mean_ = self._fitted.mean
        self.row_biases_, self.column_scale_ = self._fitted.row_biases, self._units.size
        self.column_biases_ = self._fitted.column_biases + self._units.zero / self._units.size
        self.rank_ = self.right_.shape[1]
        self.singular_values_ = product_svd(torch.from_numpy(self.left_), torch.from_numpy(self.right_))[1].numpy()
        return self

    def _complete(self, observed: Observed, draws: int | None) -> None:
        """Set what the completion of observed entries finds.

        Args:
            observed: the entries, in units of their columns.
            draws: number of draws of the posterior, as `posterior`.
        """
        seed = self._seed
        width = min(*observed.shape, WIDEST) if self.width is None else self.width

        def initialize(residual: Observed, dtype: torch.dtype) -> TensorNetwork:
            first = min(width, FIRST_WIDTH)
            net = deep_matrix(observed.shape, self.depth, first, std=0.0, dtype=dtype, device=self.device)
            return aligned_(net, residual, SMALL_START if self.scale is None else self.scale, seed=seed)

        ways = self._ways(observed.shape)
        # Means of a few entries are not the means of the columns, so biases are needed where means were subtracted.
        biases = True if self.biases is None and self._units.zero.any() else self.biases
        settings = replace(Settings.of(self, seed, widest=width), posterior=draws, biases=biases)
        found = complete(observed, initialize, settings, ways=[make for make, _ in ways])
        self.rmse_, self.profile_, self._explanation = dict(found.rmse), found.profile, found.explanation
        self.posterior_ = found.sampled.posterior is not None
        self.implicit_ = self.posterior_ and ways[found.sampled.way][1]
        self._features = found.sampled.features[0] if found.sampled.features else ()
        self._fitted = _fitted(observed, found)

    def _ways(self, shape: tuple[int, ...]) -> list[tuple[MakeFeatures | None, bool]]:
        """Return functions that make the features of rows and columns, each with whether it uses implicit feedback."""
        given: list[NDArray[np.float64] | None] = []
        for name, labels, d in zip(
            ("row_features", "column_features"), (self._index, self._columns), shape, strict=True
        ):
            frame = getattr(self, name)
            own = pd.RangeIndex(d) if labels is None else labels
            given.append(None if frame is None else encode(frame)[aligned(frame, own, name)])

        def make(entries: Observed, implicit: bool) -> list[list[Features]]:
            groups: list[list[Features]] = [[], []]
            for n, features in enumerate(given):
                if features is not None:
                    groups[n].append(decompose(features))
                if implicit:
                    groups[n].append(decompose(observed_with(entries, n), seed=self._seed, standardize=False))
            return groups

        plain: MakeFeatures | None = None if all(part is None for part in given) else partial(make, implicit=False)
        ways: list[tuple[MakeFeatures | None, bool]] = [] if self.implicit else [(plain, False)]
        return ways if self.implicit is False else [*ways, (partial(make, implicit=True), True)]

    def _new_features(self, X: Matrix, observed: Observed) -> list[Tensor]:
        """Return the coordinates of the features of rows, which may be new, along the fitted singular directions."""
        groups, found = list(self._features), []
        if groups and self.row_features is not None:
            group, labels = groups.pop(0), X.index if isinstance(X, pd.DataFrame) else None
            if labels is not None:
                found.append(
                    group.directions(encode(self.row_features)[aligned(self.row_features, labels, "row_features")])
                )
            elif observed.shape[0] == len(self.left_):
                found.append(group.Q * group.s)
            else:
                found.append(torch.zeros(observed.shape[0], len(group.s), dtype=torch.float64))
        return [*found, *(group.directions(observed_with(observed, 0)) for group in groups)]

    def transform(self, X: Matrix) -> NDArray[np.float64] | pd.DataFrame:
        """Return rows with their missing entries filled in; observed entries stay as they are.

        The rows may be rows of the fitted matrix or new ones.

        The factor and the bias of every row are solved for by ridge regression against the fitted columns, or, with a
        posterior, against those of every draw. A row without observed entries gets the mean plus the column biases.

        Args:
            X: rows with the fitted columns, in the forms that `fit` takes. If there are features of rows, new rows in a
                frame get theirs by label, and new rows in an array get average ones.

        Returns:
            The filled matrix, of the shape of X: a frame for a frame of pandas, else an array, also for a sparse
            matrix.
        """
        table = pandas_frame(X)
        observed = self._observed_rows(table)
        filled = self._units.restored(self._rows(table, observed).whole())
        filled[tuple(observed.indices.numpy().T)] = observed.values.numpy()
        return pd.DataFrame(filled, index=X.index, columns=X.columns) if isinstance(X, pd.DataFrame) else filled

    @checked
    def predict(
        self, X: Matrix, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict entries: at positions in the fitted matrix, or all entries of given rows.

        Args:
            X: (m, 2) integers, one (row, column) position per prediction. Any array or frame of two columns of
                integers is taken for positions. Or (m, 2) labels (row, column) of the frame that was fitted, if one of
                the two columns is not numeric. Or rows with the fitted columns, old or new, in the forms that `fit`
                takes.
            return_std: whether to return the standard deviation of an observation of every entry too, noise included.

        Returns:
            For positions or labels, (m,) predictions. For rows, an array of the shape of X, in which the observed
            entries are replaced by predictions too. With `return_std`, a pair of predictions and standard deviations.
        """
        check_is_fitted(self)
        X = pandas_frame(X)
        if are_positions(X) or are_labels(X):
            fitted, positions = self._fitted, self._positions(X)
            shape: tuple[int, ...] = (-1,)
        else:
            observed = self._observed_rows(X)
            fitted, shape = self._rows(X, observed), observed.shape
            if not return_std:
                return self._units.restored(fitted.whole())
            positions = torch.cartesian_prod(*(torch.arange(d) for d in shape)).reshape(-1, 2)
        column = positions[:, 1].numpy()
        means = self._units.restored(fitted.at(positions), column).reshape(shape)
        if not return_std:
            return means
        return means, (fitted.deviation(positions) * self._units.size[column]).reshape(shape)

    def _positions(self, X: Matrix) -> Int64[Tensor, "m 2"]:
        """Return positions in the fitted matrix that are given as positions or as labels.

        Raises:
            ValueError: for labels that the fitted matrix does not have.
        """
        shape = (len(self.left_), len(self.right_))
        if are_positions(X):
            return check_positions(X.astype(np.int64) if isinstance(X, pd.DataFrame) else X, shape)
        pairs = X if isinstance(X, pd.DataFrame) else pd.DataFrame(list(map(list, np.asarray(X, dtype=object))))
        found = []
        for n, (kind, labels) in enumerate((("row", self._index), ("column", self._columns))):
            if labels is None:
                raise ValueError(
                    "the completer was fitted on an array, which has no labels: pass positions, two columns of "
                    "integers (row, column), or fit a frame"
                )
            wanted = pd.Index(pairs.iloc[:, n], dtype=object)
            if not labels.is_unique:
                twice = labels[labels.duplicated()][0]
                raise ValueError(
                    f"the fitted frame has the {kind} label {twice!r} more than once; pass positions, two columns of "
                    f"integers (row, column), or fit a frame with distinct labels"
                )
            at = labels.get_indexer(wanted)
            if (at < 0).any():
                unknown = pairs.iloc[int(np.argmin(at)), n]
                raise ValueError(
                    f"the fitted matrix has no {kind} labelled {unknown!r}; pass labels of the fitted frame, or "
                    f"positions, two columns of integers (row, column)"
                )
            found.append(at)
        return torch.from_numpy(np.stack(found, axis=1).astype(np.int64))

    def score(self, X: Matrix, y: ArrayLike | None = None) -> float:
        """Return the coefficient of determination R^2 of predictions.

        Args:
            X: (m, 2) positions or labels (row, column), if `y` is given; or rows with the fitted columns, old or new.
                The observed entries of rows are divided into five parts at random, and each part is predicted from
                the others.
            y: (m,) values at the positions; not used for rows.

        Returns:
            1 minus the sum of squared errors divided by the sum of squared deviations of the values from their mean,
            all in the units of the fit. NaN for fewer than two values.
        """
        check_is_fitted(self)
        X = pandas_frame(X)
        if y is not None and (are_positions(X) or are_labels(X)):
            positions = self._positions(X)
            with arguments.reading("y"):
                values = np.asarray(y, dtype=np.float64)
            measured = self._units.measured_values(values, positions[:, 1].numpy())
            return float(r2_score(measured, self._fitted.at(positions)))
        observed = self._units.measured(self._observed_rows(X))
        part = torch.randint(PARTS, (len(observed),), generator=stream(self._seed, "parts of a score"))
        found = np.empty(len(observed))
        for k in range(PARTS):
            kept = observed.take(part != k)
            rows = self._fitted.with_rows(kept, self._new_features(X, kept), seed=self._seed)
            found[(part == k).numpy()] = rows.at(observed.indices[part == k])
        return float(r2_score(observed.values.numpy(), found))

    def _observed_rows(self, X: Matrix) -> Observed:
        """Return the observed entries of rows, after checking that their columns are the fitted ones.

        Raises:
            ValueError: for other columns; for two columns, the message says how positions are given.
        """
        check_is_fitted(self)
        try:
            table = self._table(X, reset=False)
        except ValueError as error:
            if getattr(X, "ndim", np.ndim(X) if isinstance(X, list) else 0) == 2 and np.shape(X)[1] == 2:
                raise ValueError(
                    f"{error} Or pass positions (row, column), two columns of integers: .astype(int)."
                ) from None
            raise
        return observed_entries(table, least=0)

    def _table(self, X: Matrix, *, reset: bool = True) -> NDArray[np.float64] | sp.spmatrix | sp.sparray:
        """Return a table as an array, or as a sparse matrix, after the checks that scikit-learn prescribes.

        Args:
            X: the table.
            reset: whether its columns are remembered, as in a fit, or compared with those of the fit.
        """
        formats = ["csr", "csc", "coo"]
        with arguments.reading("X"):
            return validate_data(
                self, numbers(X), accept_sparse=formats, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset
            )

    def _rows(self, X: Matrix, observed: Observed) -> FittedMatrix:
        """Return the fitted matrix with the rows that are given, fitted to their observed entries."""
        observed = self._units.measured(observed)
        return self._fitted.with_rows(observed, self._new_features(X, observed), seed=self._seed)

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn may assume: NaN and sparse matrices are accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


def _fitted(observed: Observed, found: Completion) -> FittedMatrix:
    """Return a fitted matrix: its right factor is that of the network, its left one is solved for as for new rows.

    Args:
        observed: all entries.
        found: the completion.
    """
    biases = found.biases.times(found.scale)
    row_biases, column_biases = (bias.cpu().numpy() for bias in biases.modes)
    right = np.zeros((observed.shape[1], 0))
    if found.net is not None:
        outer, inner = outer_factors(found.net)
        _, s, V = (part.detach().cpu() for part in product_svd(outer.detach().double(), inner.detach().T.double()))
        right = (V * (found.scale * s).sqrt()).numpy()
    made = FittedMatrix(
        np.zeros((observed.shape[0], right.shape[1])),
        right,
        biases.mean,
        row_biases,
        column_biases,
        ridge=found.ridge * found.scale,
        damping=biases.damping,
        error=found.rmse["biases" if found.net is None else "polish"],
        posterior=None,
    )
    if found.net is None:
        return replace(made, posterior=found.sampled.posterior)
    return replace(made.with_rows(observed, [], seed=0), posterior=found.sampled.posterior)


def _warn_of_a_long_table(X: Matrix) -> None:
    """Warn if X looks like a long table of positions and values, and not like a matrix with holes."""
    if isinstance(X, pd.DataFrame | np.ndarray) and X.ndim == 2 and X.shape[1] == 3 and len(X) > PARTS:
        first = X.iloc[:, :2] if isinstance(X, pd.DataFrame) else X[:, :2]
        whole = not pd.isna(X).any(axis=None)
        if whole and are_positions(first) and len(np.unique(np.asarray(first), axis=0)) == len(first):
            warnings.warn(
                "X has three columns without a hole, the first two of integers; if its rows are (row, column, value), "
                "use EntryRegressor().fit(X[:, :2], X[:, 2]) instead",
                stacklevel=3,
            )
