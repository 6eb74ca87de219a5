"""EntryRegressor: a scikit-learn regressor of long tables, whose rows are labels and whose targets are entries."""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_X_y, validate_data
from torch import Tensor

from ranklens.completers.check import check_arguments
from ranklens.completers.completion import Settings, complete
from ranklens.completers.descent import FIRST_WIDTH
from ranklens.completers.entries import predict
from ranklens.completers.explanation import Explained
from ranklens.completers.foreign import pandas_frame
from ranklens.completers.labels import Labels, Value, by_column
from ranklens.completers.observed import Observed
from ranklens.completers.periods import Periods, fit_periods, times_of
from ranklens.completers.polish import widths
from ranklens.completers.prepared import HeldOut
from ranklens.completers.sampling import MakeFeatures
from ranklens.completers.side import (
    Features,
    aligned,
    decompose,
    encode,
    observed_with,
    smooth_features,
    strengths,
    with_unknown,
)
from ranklens.completers.start import aligned_
from ranklens.completers.table import check_names, check_no_masks
from ranklens.completers.tensor import leaning_
from ranklens.tensors import arguments, init
from ranklens.tensors.annotations import checked
from ranklens.tensors.families import cp, deep_matrix
from ranklens.tensors.network import TensorNetwork

# Sizes of the initialization, of a deep matrix and of a CP factorization: as in the completers.
MATRIX_START, TENSOR_START = 1e-4, 1e-3
# The default width of the factors, which is also a cap on the rank, is at most this.
WIDEST = 128
Side = Mapping[Hashable, pd.DataFrame]


class EntryRegressor(Explained, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Predict values of a long table whose columns are labels, such as ratings by (user, item) or (user, item, week).

    Every column of labels is a mode, every label an index of it, and every row of the table an observed entry of a
    matrix or tensor, which is completed without a given rank: the entry is modelled by

        mean + sum of a bias for every label + sum_r product over the labels of the factors A_n[label, r].

    The factors are those of `MatrixCompleter` for two columns, and of `TensorCompleter` with a CP factorization for
    more: a descent from a small initialization finds the number of components, least squares refine them, and a
    posterior predicts where it predicts held-out rows about as well. Rows are samples, so `cross_val_score`,
    `GridSearchCV` and pipelines work as for any regressor.

    A label that is not in the fit falls back to the biases of the other labels: its own factor and bias are drawn
    from the prior of its mode. A missing label is a label of its own.

    Args:
        depth: number of factors of the deep matrix for two columns, at least 2.
        width: cap on the rank. None takes the size of the second largest mode, at most 128.
        biases: whether to fit a mean and a bias per label. None lets held-out rows decide.
        held_out: fraction of the rows that is held out to decide when to stop, and to choose size, ridge and damping;
            or "entries", "blocks" or a function, as in `MatrixCompleter`.
        max_steps: number of training steps, at most.
        learning_rate: length of a step, in units of the factors' norms at the end of the training.
        patience: training stops at this many times the step of its best held-out error.
        batch_size: rows per step. None takes all of up to 2^20 rows, and 2^18 of more.
        device: device of the training and the refinement, such as "cuda".
        posterior: number of draws from the posterior that are kept; 0 predicts by least squares; None chooses.
        implicit: for two columns, whether the prior of a label depends on which labels it occurs with. For ratings
            this is implicit feedback. None lets held-out rows decide where noise is large.
        features: {column: frame} of features of labels; the index of a frame has the labels. A column is given by its
            name, if the table is a frame, or by its position. Labels that only the frame has can be predicted too.
        time: a column that holds the time of every row, by its name or position: numbers, or datetimes. It is no mode.
            Instead, every label gets one bias more for each period of time, such as a user's mood or a film's fashion.
            The rows choose the damping of these biases, and whether labels of a column have them at all. Times beyond
            those of the fit are in the first or the last period.
        bins: number of periods. They have about equal numbers of rows.
        smooth: {column: strength} of columns with an order, such as time: the factors of neighbouring labels are then
            likely to be alike. The strength is the standard deviation of the smooth part of a factor before the fit, in
            units of the rest; the data adapt it. With "auto" for a strength, held-out rows choose it from 0.1 to 10, a
            common one for all such columns.
        random_state: an integer, the seed of the split, the initialization and the draws; a RandomState or Generator of
            numpy, from which the seed is drawn; or None, for a seed that differs between fits.

    Attributes:
        labels_: for every column the labels of its mode, an Index.
        rank_: number of components by least squares; 0 if biases alone predict the held-out rows as well.
        rmse_: {name: held-out root mean square error}: of the "biases" alone, after the "descent", after the "polish",
            and of the "posterior" if one was drawn. If the biases fit all rows exactly, rmse_ is {"biases": 0.0}.
        profile_: the record of the descent, as in `MatrixCompleter` and `TensorCompleter`.
        posterior_: whether the posterior predicts; otherwise least squares do.
        implicit_: whether the posterior takes into account which labels occur together.
        smooth_: {column: strength} of the smooth columns of the posterior that predicts; empty if it uses none.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns; set only if the table was a frame whose column names are strings.

    Raises:
        ValueError: for arguments or data out of range; the message names them.
        TypeError: for arguments of a wrong type.

    >>> import numpy as np, pandas as pd, ranklens as rl
    >>> from numpy.random import default_rng
    >>> made = default_rng(0)
    >>> taste, quality = made.normal(size=40), made.normal(size=30)
    >>> table = pd.DataFrame({"user": made.integers(40, size=900), "film": made.integers(30, size=900)})
    >>> ratings = 3 + taste[table.user] * quality[table.film] + 0.1 * made.normal(size=900)
    >>> regressor = rl.EntryRegressor().fit(table[:800], ratings[:800])
    >>> bool(regressor.score(table[800:], ratings[800:]) > 0.95)
    True
    >>> len(regressor.recommend(7, 3))
    3
    """

    scale = None  # the size of the initialization is the default one of the completers

    def __init__(  # noqa: PLR0913  (scikit-learn takes all settings here)
        self,
        *,
        depth: int = 3,
        width: int | None = None,
        biases: bool | None = True,
        held_out: HeldOut = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 0.01,
        patience: float = 3.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        posterior: int | None = None,
        implicit: bool | None = None,
        features: Side | None = None,
        time: Hashable | None = None,
        bins: int = 300,
        smooth: Mapping[Hashable, float | str] | None = None,
        random_state: object = 0,
    ) -> None:
        self.depth, self.width, self.biases, self.held_out = depth, width, biases, held_out
        self.max_steps, self.learning_rate, self.patience = max_steps, learning_rate, patience
        self.batch_size, self.device, self.posterior, self.implicit = batch_size, device, posterior, implicit
        self.features, self.smooth, self.random_state = features, smooth, random_state
        self.time, self.bins = time, bins

    def fit(
        self, X: ArrayLike | pd.DataFrame, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> "EntryRegressor":
        """Fit the regressor to rows of labels and their values.

        Args:
            X: (m, N) labels of any hashable kind, as a frame or an array with one column per mode, and with the column
                `time` if there is one. A combination of labels may occur more than once.
            y: (m,) values.
            sample_weight: (m,) weights: a row of weight 2 counts as two rows. Rows of weight 0 are left out. Weights
                whose mean is below 1, the zeros not counted, are divided by it. Divide weights that are no numbers of
                rows by their mean.

        Returns:
            The regressor.

        Raises:
            ValueError: for implicit feedback with other than two columns of labels, or if there is no column `time`.
        """
        seed = check_arguments(self, least_depth=2)
        arguments.count("bins", self.bins, 1)
        table, values = self._checked(X, y)
        weights = None
        if sample_weight is not None:
            with arguments.reading("sample_weight"):
                weights = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
            if not np.isfinite(weights).all():
                raise ValueError("sample_weight has entries that are not finite; leave these rows out")
            weights = weights / min(weights[weights > 0].mean(), 1.0)  # scikit-learn refuses zeros only
        labels = table.shape[1] - (self.time is not None)
        if self.implicit and labels != 2:
            raise ValueError(
                f"implicit is True, but X has {labels} columns of labels, and implicit feedback is for two; pass "
                f"implicit=None"
            )
        given = self._by_column(table, self.features, "features")
        tried = strengths(self.smooth or {})
        curves = [self._by_column(table, smooth, "smooth") for smooth in tried]
        table, times = self._split(table)
        more = [given[n].index if n in given else None for n in range(table.shape[1])]
        self._labels = [Labels.of(table.iloc[:, n], index) for n, index in enumerate(more)]
        self.labels_ = [labels.index for labels in self._labels]
        observed = self._observed(table, values, weights)
        self._periods: Periods | None = None
        if times is not None:
            kept = slice(None) if weights is None else weights > 0
            self._latest = float(times.max())
            self._periods, observed = fit_periods(observed, times[kept], self.bins, seed=seed)
        self._complete(observed, seed, self._ways(table, given, curves), tried)
        pairs = observed.indices[:, :2].numpy()
        self._seen = pd.Series(pairs[:, 1]).groupby(pairs[:, 0]).agg(frozenset).to_dict()
        return self

    def _complete(
        self,
        observed: Observed,
        seed: int,
        ways: list[tuple[MakeFeatures | None, bool]],
        tried: Sequence[dict[Hashable, float]],
    ) -> None:
        """Set what the completion of the observed entries finds."""
        sizes = sorted(observed.shape)
        width = max(min(sizes[-2], WIDEST), 1) if self.width is None else self.width

        def initialize(residual: Observed, dtype: torch.dtype) -> TensorNetwork:
            if len(observed.shape) == 2:
                first = min(width, FIRST_WIDTH)
                net = deep_matrix(observed.shape, self.depth, first, std=0.0, dtype=dtype, device=self.device)
                return aligned_(net, residual, MATRIX_START, seed=seed)
            net = cp(observed.shape, width).to(dtype=dtype, device=self.device)
            return leaning_(init.scaled_(net, TENSOR_START, seed=seed), residual)

        settings = Settings.of(self, seed, widest=width if len(observed.shape) == 2 else 0)
        makers = [make for make, _ in ways]
        found = complete(observed, initialize, settings, ways=makers, clear_ways=len(tried))
        self.rmse_, self.profile_, self._explanation = dict(found.rmse), found.profile, found.explanation
        self._posterior, self.posterior_ = found.sampled.posterior, found.sampled.posterior is not None
        self.implicit_ = self.posterior_ and ways[found.sampled.way][1]
        self.smooth_ = tried[found.sampled.way % len(tried)] if self.posterior_ else {}
        self._biases, self._network, self._scale = found.biases, found.net, found.scale
        self.rank_ = 0 if found.net is None else min(widths(found.net).values())
        self._error = found.rmse["biases" if found.net is None else "polish"]

    def _checked(self, X: ArrayLike | pd.DataFrame, y: ArrayLike) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return labels as a frame, and values, after the checks that scikit-learn prescribes and some more."""
        X = pandas_frame(X)
        check_names(X)
        check_no_masks(X, "X")
        check_no_masks(y, "y")
        table = self._frame(X)
        with arguments.reading("y, the values of the rows of X,"):
            _, values = check_X_y(np.zeros((len(table), max(table.shape[1], 1))), y, y_numeric=True, estimator=self)
        return table, np.asarray(values, dtype=np.float64)

    def _table(self, X: ArrayLike | pd.DataFrame) -> pd.DataFrame:
        """Return labels as a frame, after checking that they have the columns of the fit."""
        check_is_fitted(self)
        X = pandas_frame(X)
        check_names(X)
        check_no_masks(X, "X")
        return self._frame(X, reset=False)

    def _frame(self, X: ArrayLike | pd.DataFrame, *, reset: bool = True) -> pd.DataFrame:
        """Return labels as a frame, after the checks that scikit-learn prescribes.

        Columns of a frame keep their types: one array would turn large integers beside floating-point numbers into
        others.

        Args:
            X: the labels.
            reset: whether the columns are remembered, as in a fit, or compared with those of the fit.
        """
        with arguments.reading("X"):
            if isinstance(X, pd.DataFrame):
                validate_data(self, X, skip_check_array=True, reset=reset)
                return X
            return pd.DataFrame(validate_data(self, X, dtype=None, ensure_all_finite=False, reset=reset))

    def _observed(
        self, table: pd.DataFrame, values: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> Observed:
        """Return rows as observed entries of a tensor with one more index per mode, for unknown labels."""
        indices, shape = self._positions(table), tuple(len(labels) + 1 for labels in self._labels)
        if len(shape) == 1:  # one column of labels is a matrix of one column
            indices, shape = torch.cat([indices, torch.zeros_like(indices)], dim=1), (*shape, 1)
        observed = Observed(indices, torch.from_numpy(values.copy()), shape)
        if weights is None:
            return observed
        kept = torch.from_numpy(weights > 0)
        return observed.weighted(torch.from_numpy(weights)).take(kept)

    def _positions(self, table: pd.DataFrame) -> Int64[Tensor, "m N"]:
        """Return the codes of labels; those of unknown labels are one beyond the last."""
        return torch.from_numpy(
            np.stack([labels.codes(table.iloc[:, n]) for n, labels in enumerate(self._labels)], axis=1)
        )

    def _ways(
        self, table: pd.DataFrame, given: Mapping[int, pd.DataFrame], tried: Sequence[Mapping[int, float]]
    ) -> list[tuple[MakeFeatures | None, bool]]:
        """Return functions that make the features of every mode, each with whether it uses implicit feedback.

        Those without implicit feedback come first. In either half there is one for every choice of strengths.
        """
        known: list[list[Features]] = [[] for _ in range(max(table.shape[1], 2))]
        for n, frame in given.items():
            known[n].append(with_unknown(decompose(encode(frame)[aligned(frame, self.labels_[n], "features")])))
        fixed = []
        for more in tried:
            curves = {n: with_unknown(smooth_features(len(self.labels_[n]), more[n])) for n in more}
            fixed.append([[*groups, curves[n]] if n in curves else groups for n, groups in enumerate(known)])

        def make(entries: Observed, groups: list[list[Features]], implicit: bool) -> Sequence[Sequence[Features]]:
            if not implicit:
                return groups
            seen = [decompose(observed_with(entries, n), standardize=False) for n in (0, 1)]
            return [[*own, group] for own, group in zip(groups, seen, strict=True)]

        plain: list[tuple[MakeFeatures | None, bool]] = [
            (partial(make, groups=groups, implicit=False) if any(groups) else None, False) for groups in fixed
        ]
        if self.implicit is False or table.shape[1] != 2:
            return plain
        with_feedback: list[tuple[MakeFeatures | None, bool]] = [
            (partial(make, groups=groups, implicit=True), True) for groups in fixed
        ]
        return with_feedback if self.implicit else [*plain, *with_feedback]

    @checked
    def predict(
        self, X: ArrayLike | pd.DataFrame, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict the values of rows of labels.

        Args:
            X: (m, N) labels, in the columns of the fit.
            return_std: whether to return the standard deviation of an observation in every row too, noise included.
                Without a posterior, it is the held-out root mean square error.

        Returns:
            (m,) predictions. With `return_std`, a pair of predictions and standard deviations.
        """
        table, times = self._split(self._table(X))
        indices = self._positions(table)
        if len(self._labels) == 1:
            indices = torch.cat([indices, torch.zeros_like(indices)], dim=1)
        means = self._means(indices, times).numpy()
        if not return_std:
            return means
        if self._posterior is not None:
            return means, self._posterior.deviation(indices).numpy()
        return means, np.full(len(means), self._error)

    def _means(self, indices: Int64[Tensor, "m N"], times: NDArray[np.float64] | None) -> Tensor:
        """Return the predictions at codes and times."""
        shift: Tensor | float = 0.0
        if self._periods is not None and times is not None:
            shift = self._periods.at(indices, times)
        if self._posterior is not None:
            return self._posterior.at(indices) + shift
        found = self._biases.at(indices.to(self._biases.modes[0].device))
        if self._network is not None:
            found = found + predict(self._network, indices.to(self._network.device))
        return self._scale * found.cpu() + shift

    def _split(self, table: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float64] | None]:
        """Return the columns of labels, and the times if there is a column of them.

        Raises:
            ValueError: if there is no such column, or no column besides it.
        """
        if self.time is None:
            return table, None
        (place,) = by_column(table, {self.time: None}, "time")
        if table.shape[1] < 2:
            raise ValueError(f"X has only the column of the time, {self.time!r}; it needs a column of labels too")
        rest = [n for n in range(table.shape[1]) if n != place]
        return table.iloc[:, rest], times_of(table.iloc[:, place], f"the column {self.time!r}")

    def _by_column(self, table: pd.DataFrame, given: Mapping[Hashable, Value] | None, name: str) -> dict[int, Value]:
        """Return a mapping from columns as one from the positions of the columns of labels.

        Raises:
            ValueError: for a column that the table does not have, or for the column of the time.
        """
        found = by_column(table, given, name)
        if self.time is None:
            return found
        (place,) = by_column(table, {self.time: None}, "time")
        if place in found:
            raise ValueError(f"{name} has the column of the time, {self.time!r}; it may have columns of labels only")
        return {n - (n > place): value for n, value in found.items()}

    @checked
    def recommend(self, label: Hashable, n: int = 10, *, exclude: Sequence[Hashable] = ()) -> pd.Series:
        """Return the labels of the second column with the largest predictions for a label of the first column.

        Labels that occur with it in the fit are left out. With a column of times, predictions are for the latest one.

        Args:
            label: a label of the first column, such as a user. An unknown one gets the largest biases.
            n: how many labels to return, at most.
            exclude: further labels of the second column to leave out.

        Returns:
            The predictions, in descending order, with the labels as index.

        Raises:
            ValueError: if the table does not have two columns, or n is not positive.
        """
        check_is_fitted(self)
        if len(self._labels) != 2:
            raise ValueError(
                f"recommend needs a table of two columns, and this one has {len(self._labels)}; call predict with the "
                f"rows that you want to compare"
            )
        if n < 1:
            raise ValueError(f"n is {n}; pass a positive number of labels")
        row = int(self._labels[0].codes(pd.Series([label], dtype=object))[0])
        out = self._seen.get(row, frozenset()) | set(self._labels[1].codes(pd.Series(list(exclude), dtype=object)))
        kept = np.setdiff1d(np.arange(len(self.labels_[1])), np.fromiter(out, dtype=np.int64, count=len(out)))
        indices = torch.from_numpy(np.stack([np.full(len(kept), row), kept], axis=1).astype(np.int64))
        now = None if self._periods is None else np.full(len(kept), self._latest)
        scores = pd.Series(self._means(indices, now).numpy(), index=self.labels_[1][kept])
        return scores.sort_values(ascending=False, kind="stable").head(n)

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn may assume: labels of any kind; numbers that are no labels are predicted badly."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.regressor_tags.poor_score = True
        return tags
