"""MatrixCompleter against planted ranks, literal least squares, and the rules of scikit-learn."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from completion_cases import planted, relative_error

import ranklens as rl

# Entries of a fitted matrix that are computed by two ways of the same arithmetic.
SAME = 1e-9
# A row of the fitted matrix and its prediction as a new row, both solved by Gram matrices of few entries.
SOLVED = 1e-8
# Least squares that have converged, or a fit of the same data in other units.
REFITTED = 1e-6
# A completion of data without noise: relative error over all entries where many are observed, and where fewer are.
RECOVERED, MOSTLY_RECOVERED = 1e-5, 1e-3
# A completion of data with noise of 1%: relative error over all entries, twice the noise.
DENOISED = 0.02


def test_noise_stops_the_descent_early():
    made = np.random.default_rng(0)
    X = np.where(made.random((40, 40)) < 0.5, made.standard_normal((40, 40)), np.nan)
    completer = rl.MatrixCompleter().fit(X)
    assert completer.profile_.attrs["stopped"] == "worse"
    assert completer.profile_.attrs["best_step"] < int(completer.profile_.step[-1]) / 2
    assert completer.rank_ == 0
    assert (
        np.sqrt(np.mean(completer.predict(np.argwhere(np.isnan(X))) ** 2)) < 0.3
    )  # of noise with standard deviation 1, little is predicted


@pytest.mark.parametrize(("rank", "share"), [(1, 0.3), (2, 0.4), (4, 0.6)])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_rank_is_found(rank, share, depth):
    X, target = planted((50, 60), rank, share, noise=0.01, seed=rank)
    completer = rl.MatrixCompleter(depth=depth)
    filled = completer.fit_transform(X)
    assert completer.rank_ == rank
    assert relative_error(completer.left_ @ completer.right_.T, target) < DENOISED
    assert relative_error(filled, target) < DENOISED
    assert np.array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    assert completer.rmse_["polish"] <= completer.rmse_["descent"] < completer.rmse_["biases"]


def test_least_squares_given_the_rank_is_not_much_better():
    """At the true rank the refined completion is about as good as literal alternating least squares from the truth."""
    X, target = planted((50, 60), 3, 0.4, noise=0.05)
    U, s, V = np.linalg.svd(target, full_matrices=False)
    A, B = U[:, :3] * np.sqrt(s[:3]), V[:3].T * np.sqrt(s[:3])
    for _ in range(50):
        for i in range(50):
            there = ~np.isnan(X[i])
            A[i] = np.linalg.lstsq(B[there], X[i, there], rcond=None)[0]
        for j in range(60):
            there = ~np.isnan(X[:, j])
            B[j] = np.linalg.lstsq(A[there], X[there, j], rcond=None)[0]
    completer = rl.MatrixCompleter().fit(X)
    assert relative_error(completer.left_ @ completer.right_.T, target) <= 1.2 * relative_error(A @ B.T, target)


def test_scale_of_the_data_changes_nothing_but_the_scale():
    X, _ = planted((30, 40), 2, 0.5)
    one, other = (
        rl.MatrixCompleter(max_steps=300).fit_transform(X),
        rl.MatrixCompleter(max_steps=300).fit_transform(1e6 * X),
    )
    assert relative_error(other, 1e6 * one) < REFITTED


def test_new_rows():
    X, target = planted((80, 40), 2, 0.5)
    completer = rl.MatrixCompleter().fit(X[:60])
    filled = completer.transform(X[60:])
    assert relative_error(filled, target[60:]) < MOSTLY_RECOVERED
    again = completer.transform(X[:60])
    predicted = completer.predict(np.argwhere(np.isnan(X[:60])))
    assert np.allclose(again[np.isnan(X[:60])], predicted, atol=SOLVED)  # a known row as a new one


def test_a_new_row_is_a_ridge_regression():
    """Literal: minimise (x - mean - c_j - b - a . right_j)^2 + ridge |a|^2 + damping b^2 over the observed j."""
    X, _ = planted((40, 30), 2, 0.6, noise=0.1)
    completer = rl.MatrixCompleter(biases=True, max_steps=300, posterior=0).fit(X + np.arange(30))
    row = np.where(np.arange(30) % 3 == 0, 5.0 + np.arange(30), np.nan)
    there = ~np.isnan(row)
    design = np.concatenate([completer.right_[there], np.ones((there.sum(), 1))], axis=1)
    penalty = np.diag([completer._fitted.ridge] * completer.rank_ + [completer._fitted.damping])
    wanted = row[there] - completer.mean_ - completer.column_biases_[there]
    *a, b = np.linalg.solve(design.T @ design + penalty, design.T @ wanted)
    expected = completer.right_ @ np.array(a) + b + completer.mean_ + completer.column_biases_
    assert np.allclose(completer.transform(row[None])[0][~there], expected[~there], rtol=REFITTED)


def test_biases_alone_need_no_rank():
    """Data that are a sum of a row and a column effect need no matrix: the rank is zero, or one of hardly any size."""
    made = np.random.default_rng(0)
    target = 3 + np.add.outer(made.standard_normal(40), made.standard_normal(50))
    X = np.where(made.random((40, 50)) < 0.4, target + 0.1 * made.standard_normal((40, 50)), np.nan)
    completer = rl.MatrixCompleter(biases=True).fit(X)
    assert completer.rank_ <= 1
    assert relative_error(completer.predict(np.argwhere(np.isnan(X))), target[np.isnan(X)]) < 0.03
    assert completer.mean_ == pytest.approx(3, abs=0.5)


def test_frames_and_sparse_matrices_give_the_same_fit():
    X, _ = planted((30, 20), 2, 0.5)
    whole = rl.MatrixCompleter(max_steps=300).fit_transform(X)
    frame = pd.DataFrame(X, index=[f"user {i}" for i in range(30)], columns=[f"item {j}" for j in range(20)])
    filled = rl.MatrixCompleter(max_steps=300).fit_transform(frame)
    assert isinstance(filled, pd.DataFrame)
    assert list(filled.index) == list(frame.index)
    assert list(filled.columns) == list(frame.columns)
    assert np.array_equal(filled.to_numpy(), whole)
    i, j = np.argwhere(~np.isnan(X)).T
    for kind in (sp.csr_matrix, sp.coo_array, sp.csc_array):
        again = rl.MatrixCompleter(max_steps=300).fit_transform(kind((X[i, j], (i, j)), shape=X.shape))
        assert np.allclose(again, whole, atol=SAME)


def test_a_stored_zero_is_observed():
    X = sp.csr_matrix((np.array([0.0, 1.0, 2.0, np.nan]), ([0, 1, 2, 2], [0, 1, 2, 0])), shape=(3, 3))
    completer = rl.MatrixCompleter().fit(X)
    assert completer.transform(X)[0, 0] == 0


def test_mini_batches_find_the_planted_matrix():
    X, target = planted((60, 60), 2, 0.6)
    completer = rl.MatrixCompleter(batch_size=300, width=8, max_steps=600).fit(X)
    assert completer.rank_ == 2
    assert relative_error(completer.left_ @ completer.right_.T, target) < MOSTLY_RECOVERED


def test_fits_can_be_repeated_and_seeds_matter():
    X, _ = planted((30, 20), 2, 0.5, noise=0.1)
    one, same, other = (rl.MatrixCompleter(random_state=s, max_steps=300).fit_transform(X) for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_profile_shows_singular_values_grow_apart():
    X, _ = planted((40, 40), 2, 0.5)
    profile = rl.MatrixCompleter().fit(X).profile_
    standing = profile.standing.values
    assert profile.sizes["step"] == len(profile.train_loss) == len(profile.held_out_loss)
    assert (np.diff(standing, axis=1) <= 0).all()
    assert (standing[-1, 1] / standing[-1, 2]) > 10 * (standing[0, 1] / standing[0, 2])  # a gap has opened
    assert 1 < float(profile.effective_rank[-1]) < 2.5 < float(profile.effective_rank[0])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((3, 3), np.nan), "no observed entry"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "infinity"),
        (np.zeros((0, 3)), "0 sample"),
        (sp.csr_matrix((3, 3)), "no observed entry"),
        (np.ones((2, 2, 2)), r"complete a tensor by TensorCompleter\(X\.shape\)"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        rl.MatrixCompleter().fit(X)


@pytest.mark.parametrize("biases", [True, False, None])
def test_columns_of_different_units_are_completed_alike(biases):
    """Squared errors of a column in millions would hide a column of ones, so every column is divided by its size."""
    W = rl.targets.low_rank_matrix((60, 30), 2).numpy()
    W /= W.std()
    unit = np.logspace(0, 6, 30)
    seen = np.random.default_rng(0).random(W.shape) < 0.6
    completer = rl.MatrixCompleter(biases=biases)
    filled = completer.fit_transform(np.where(seen, W * unit, np.nan))
    assert np.abs(filled / unit - W).max() < MOSTLY_RECOVERED
    assert completer.column_scale_[-1] > 1e5 * completer.column_scale_[0]
    positions = np.argwhere(~seen)
    means, deviations = completer.predict(positions, return_std=True)
    assert np.allclose(means, filled[tuple(positions.T)], rtol=REFITTED)
    assert (deviations / unit[positions[:, 1]]).max() < MOSTLY_RECOVERED
    alike = rl.MatrixCompleter(max_steps=5).fit(np.where(seen, W, np.nan))
    assert (alike.column_scale_ == 1).all()
    ratings = rl.MatrixCompleter(max_steps=5).fit(sp.csr_array(np.where(seen, W * unit, 0.0)))
    assert (ratings.column_scale_ == 1).all()  # columns of a sparse matrix are items of one unit


def test_positions_outside_the_matrix_are_refused():
    completer = rl.MatrixCompleter().fit(np.eye(4))
    with pytest.raises(ValueError, match="outside mode 1 of size 4"):
        completer.predict([[0, 4]])
    with pytest.raises(ValueError, match="2 features"):
        completer.predict([[0.0, 1.0]])
    with pytest.raises(ValueError, match="1D array"):
        completer.predict([0, 1])


def test_predictions_of_rows_are_those_of_positions():
    X, _ = planted((20, 15), 1, 0.6, noise=0.1)
    completer = rl.MatrixCompleter(max_steps=300).fit(X)
    rows, everywhere = completer.predict(X[3:5]), np.argwhere(np.ones((20, 15)))
    assert np.allclose(rows, completer.predict(everywhere).reshape(20, 15)[3:5], atol=SAME)


@pytest.mark.parametrize("X", [np.zeros((4, 5)), np.full((4, 5), 7.0), np.array([[3.0]]), np.eye(3)[:, :1]])
def test_degenerate_matrices(X):
    for biases in (False, True):
        filled = rl.MatrixCompleter(biases=biases).fit_transform(X)
        assert np.array_equal(filled, X)


def test_rows_and_columns_without_observed_entries_are_named_and_filled_by_biases():
    X, _ = planted((30, 20), 1, 0.6)
    X[4], X[:, 7] = np.nan, np.nan
    frame = pd.DataFrame(X, index=[f"user {k}" for k in range(30)], columns=[f"item {k}" for k in range(20)])
    column = pytest.warns(UserWarning, match="column has no observed entry: 'item 7'")
    with column, pytest.warns(UserWarning, match="row has no observed entry: 'user 4'"):
        filled = rl.MatrixCompleter(biases=False).fit_transform(frame).to_numpy()
    assert np.abs(filled[4]).max() < REFITTED
    assert np.abs(filled[:, 7]).max() < REFITTED
    with pytest.warns(UserWarning, match="no observed entry"):
        completer = rl.MatrixCompleter(biases=True, posterior=0).fit(X + 5 + np.arange(20))
    assert completer.row_biases_[4] == completer.column_biases_[7] == 0
    known = np.delete(np.arange(20), 7)
    expected = completer.mean_ + completer.column_biases_
    assert np.allclose(completer.predict(np.stack([np.full(19, 4), known], axis=1)), expected[known], rtol=REFITTED)


def test_scores():
    X, target = planted((40, 30), 2, 0.5)
    completer = rl.MatrixCompleter().fit(X)
    holes = np.argwhere(np.isnan(X))
    assert completer.score(holes, target[tuple(holes.T)]) > 0.999
    assert completer.score(np.where(np.isnan(X), target, np.nan)) > 0.999
    new, _ = planted((12, 30), 2, 0.5, seed=1)
    assert completer.score(X[:7]) > 0.99  # rows of any number: a fifth of the entries is predicted from the others
    assert completer.score(new) < 0.9  # rows of another matrix


def test_rows_do_not_depend_on_the_units_of_other_rows():
    """A row observed only in columns of small numbers is completed as well beside other rows as alone."""
    made = np.random.default_rng(0)
    right = made.normal(size=(2, 40))
    right[:, :4] *= 1e-5
    truth = made.normal(size=(201, 2)) @ right
    X = np.where(made.random((200, 40)) < 0.7, truth[:200], np.nan)
    row = np.full((1, 40), np.nan)
    row[0, :4] = truth[200, :4]
    found = rl.MatrixCompleter(random_state=0).fit(X)
    alone, beside = found.transform(row)[0], found.transform(np.vstack([X, row]))[-1]
    size = np.linalg.norm(truth[200])
    assert np.linalg.norm(alone - truth[200]) < REFITTED * size
    assert np.linalg.norm(beside - truth[200]) < REFITTED * size


def test_entries_stored_twice_are_added_up():
    made = np.random.default_rng(0)
    truth = made.normal(size=(30, 2)) @ made.normal(size=(2, 20))
    i, j = np.nonzero(made.random(truth.shape) < 0.7)
    halves = sp.coo_matrix((np.tile(truth[i, j] / 2, 2), (np.tile(i, 2), np.tile(j, 2))), shape=truth.shape)
    twice, once = (rl.MatrixCompleter(random_state=0).fit_transform(X) for X in (halves, halves.tocsr()))
    assert np.allclose(twice, once, atol=SAME)
    assert np.linalg.norm(twice - truth) < RECOVERED * np.linalg.norm(truth)


@pytest.mark.parametrize("size", [1e-170, 1e155])
def test_extreme_units_are_fitted_too(size):
    made = np.random.default_rng(0)
    truth = size * (made.normal(size=(30, 2)) @ made.normal(size=(2, 20)))
    X = np.where(made.random(truth.shape) < 0.7, truth, np.nan)
    found = rl.MatrixCompleter(random_state=0).fit_transform(X)
    assert np.linalg.norm((found - truth) / size) < RECOVERED * np.linalg.norm(truth / size)


CHECKS = """
import json, sys, warnings
from sklearn.utils.estimator_checks import check_estimator
import ranklens as rl
warnings.simplefilter("ignore")
excused = json.load(sys.stdin)
results = check_estimator(rl.MatrixCompleter(max_steps=20, posterior=4), expected_failed_checks=excused, on_fail=None)
print(json.dumps([(r["check_name"], r["status"], repr(r["exception"])) for r in results]))
"""


EXCUSED = dict.fromkeys(
    ("check_estimator_sparse_array", "check_estimator_sparse_matrix"),
    "predict of rows returns all their entries; this check wants one number per row",
)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [40, 60])
def test_a_rank_above_the_first_width_is_found(rank):
    """The descent begins with 32 components; the others are added along directions that are not there yet."""
    X, whole = planted((300, 300), rank, 0.7)
    completer = rl.MatrixCompleter(posterior=0)
    assert relative_error(completer.fit_transform(X), whole) < 1e-3
    assert completer.rank_ == rank


@pytest.mark.slow
def test_scikit_learn_accepts_it():
    """In a Python without the suite's type checker, because scikit-learn passes arguments of all types on purpose."""
    answer = subprocess.run(
        [sys.executable, "-c", CHECKS], input=json.dumps(EXCUSED), capture_output=True, text=True, check=True
    )
    results = json.loads(answer.stdout)
    assert len(results) > 30
    assert not [result for result in results if result[1] == "failed"]
    assert {name for name, status, _ in results if status == "xfail"} == set(EXCUSED)  # none is excused that passes


def ratings_frame(seed=0):
    """A noisy frame of 60 users and 30 films with labels; features of the users explain most of it."""
    made = np.random.default_rng(seed)
    users = pd.DataFrame({"age": made.standard_normal(70), "town": made.choice(["a", "b"], 70)})
    users.index = [f"user {k}" for k in range(70)]
    effect = made.standard_normal(30)
    whole = 3 + np.outer(users.age, effect) + 0.2 * np.outer(made.standard_normal(70), made.standard_normal(30))
    noisy = np.where(made.random(whole.shape) < 0.4, whole + 0.3 * made.standard_normal(whole.shape), np.nan)
    frame = pd.DataFrame(noisy, index=users.index, columns=[f"film {k}" for k in range(30)])
    return frame, whole, users


@pytest.mark.slow
def test_features_predict_rows_without_entries():
    frame, whole, users = ratings_frame()
    completer = rl.MatrixCompleter(row_features=users, posterior=40, max_steps=500).fit(frame.iloc[:60])
    assert completer.posterior_
    new = pd.DataFrame(np.nan, index=frame.index[60:], columns=frame.columns)  # nothing is observed of these users
    off = completer.transform(new).to_numpy() - whole[60:]
    plain = rl.MatrixCompleter(posterior=40, max_steps=500).fit(frame.iloc[:60]).transform(new).to_numpy() - whole[60:]
    assert np.linalg.norm(off) < 0.5 * np.linalg.norm(plain)
    again = completer.predict(np.argwhere(np.ones((60, 30)))).reshape(60, 30)
    assert np.allclose(completer.predict(frame.iloc[:60]), again, atol=REFITTED)  # known rows as new ones
    with pytest.raises(ValueError, match="row_features has no row for 10 labels, such as 'user 60'"):
        rl.MatrixCompleter(row_features=users.iloc[:60]).fit(frame)


def test_entries_are_predicted_by_label():
    frame, _, _ = ratings_frame()
    completer = rl.MatrixCompleter(max_steps=300, posterior=20).fit(frame)
    by_position = completer.predict([[3, 4], [0, 2]], return_std=True)
    for labels in (
        [("user 3", "film 4"), ("user 0", "film 2")],
        np.array([["user 3", "film 4"], ["user 0", "film 2"]]),
    ):
        by_label = completer.predict(labels, return_std=True)
        assert np.array_equal(by_label[0], by_position[0])
        assert np.array_equal(by_label[1], by_position[1])
    assert np.array_equal(completer.predict(pd.DataFrame([[3, 4], [0, 2]]).astype("Int64")), by_position[0])
    with pytest.raises(ValueError, match="no column labelled 'film 99'; pass labels"):
        completer.predict([("user 3", "film 99")])
    with pytest.raises(ValueError, match="has no labels: pass positions"):
        rl.MatrixCompleter(max_steps=20).fit(frame.to_numpy()).predict([("user 3", "film 4")])


@pytest.mark.slow
def test_what_is_observed_can_say_something():
    """Users rate only films that they like, so that which films they rate predicts how."""
    made = np.random.default_rng(0)
    taste = made.standard_normal((120, 2)) @ made.standard_normal((2, 60))
    there = made.random(taste.shape) < 0.35 / (1 + np.exp(-3 * taste))
    values = 3 + taste + 1.5 * made.standard_normal(taste.shape)
    X = np.where(there, values, np.nan)
    errors = {}
    for implicit in (True, False):
        completer = rl.MatrixCompleter(implicit=implicit, posterior=40, max_steps=300).fit(X)
        assert completer.implicit_ == (implicit and completer.posterior_)
        errors[implicit] = np.linalg.norm((completer.predict(X) - 3 - taste)[there])
    assert errors[True] < errors[False]


def test_masked_arrays_and_frames_of_any_type_give_the_same_fit():
    X, _ = planted((30, 20), 2, 0.6)
    frame = pd.DataFrame(X)
    whole = rl.MatrixCompleter(max_steps=300).fit_transform(X)
    for table in (
        np.ma.masked_array(np.nan_to_num(X, nan=-9.0), np.isnan(X)),
        frame.astype(object).where(frame.notna(), pd.NA),
        frame.astype("Float64"),
        frame.astype(pd.SparseDtype(float, np.nan)),
    ):
        assert np.array_equal(np.asarray(rl.MatrixCompleter(max_steps=300).fit_transform(table), dtype=float), whole)


def test_a_long_table_is_told_from_a_matrix():
    table = np.stack([np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5), np.arange(20)], axis=1)
    with pytest.warns(UserWarning, match=r"use EntryRegressor\(\)\.fit"):
        rl.MatrixCompleter(max_steps=5).fit(table)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fit_on_a_gpu_is_as_good():
    made = np.random.default_rng(0)
    W = made.standard_normal((60, 2)) @ made.standard_normal((2, 40))
    X = np.where(made.random(W.shape) < 0.4, W, np.nan)
    completer = rl.MatrixCompleter(device="cuda")
    assert relative_error(completer.fit_transform(X), W) < MOSTLY_RECOVERED
    assert completer.rank_ == 2


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
def test_columns_of_unlike_units_with_few_entries(offset):
    """They are predicted about as well as by their own means, in the right units, wherever these are."""
    made = np.random.default_rng(3)
    W, unit = made.standard_normal((60, 1)) * made.standard_normal(20), 10 ** made.uniform(0, 6, 20)
    seen = made.random(W.shape) < 0.5
    for column, entries in enumerate([1, 2, 3, 4]):
        seen[:, column] = np.arange(60) < entries
    completer = rl.MatrixCompleter()
    filled = completer.fit_transform(np.where(seen, (W + offset) * unit, np.nan))
    error = np.sqrt(np.square(filled / unit - offset - W).mean(axis=0))
    assert (error[:4] < 3 * W.std(axis=0)[:4]).all()
    assert (completer.column_scale_ / unit < 10 * W.std()).all()
    assert (error[4:] < MOSTLY_RECOVERED).all()


@pytest.mark.parametrize("size", [1.0, 5.0, 1e7])
@pytest.mark.parametrize("rows", [30, 60])
def test_a_column_that_is_far_from_zero_among_others_that_are_near(size, rows):
    """Times in seconds beside standardized columns: the holes are filled better than by the columns' means."""
    for seed in range(3):
        made = np.random.default_rng(seed)
        whole = (made.standard_normal((rows, 1)) + 0.5 * made.standard_normal((rows, 5))) * [size, 1, 1, 1, 1]
        whole += [1.7e9, 0, 0, 0, 0]
        missing = made.random(whole.shape) < 0.2
        X = np.where(missing, np.nan, whole)
        left = (rl.MatrixCompleter().fit_transform(X) - whole) / np.nanstd(X, axis=0)
        alone = (np.nanmean(X, axis=0) - whole) / np.nanstd(X, axis=0)
        assert np.linalg.norm(left[missing]) < np.linalg.norm(alone[missing])


def test_integers_beyond_floating_point_numbers_are_refused():
    with pytest.raises(ValueError, match="X cannot be used"):
        rl.MatrixCompleter().fit(np.array([[10**400, 1], [2, 3]], dtype=object))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_columns_of_unlike_units_are_weighed_by_their_noise(seed):
    """A column with ten times the others' noise gets a larger unit, and is not given a component of its own."""
    made = np.random.default_rng(seed)
    W, unit = made.standard_normal((50, 1)) @ made.standard_normal((1, 30)), 10 ** made.uniform(0, 6, 30)
    spread = np.where(np.arange(30) == 7, 0.3, 0.03)
    seen = made.random(W.shape) < 0.6
    completer = rl.MatrixCompleter(random_state=seed)
    completer.fit(np.where(seen, (W + spread * made.standard_normal(W.shape)) * unit, np.nan))
    own = completer.column_scale_ / unit / spread  # the noise of all columns is alike in these units
    assert 0.5 < own[7] / np.median(own) < 2
    assert completer.rank_ == 1


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.1, 10.0, 1e4])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_ordinary_tables(offset, scaled, rank, noise):
    """Offsets of any size, columns of any unit, with and without noise: the error is about the unavoidable one."""
    made = np.random.default_rng(rank)
    W = made.standard_normal((60, rank)) @ made.standard_normal((rank, 30))
    W /= W.std()
    unit = 10 ** made.uniform(0, 6, 30) if scaled else np.ones(30)
    seen = made.random(W.shape) < 0.6
    X = np.where(seen, (W + offset + noise * made.standard_normal(W.shape)) * unit, np.nan)
    completer = rl.MatrixCompleter().fit(X)
    found = completer.predict(X) / unit - offset
    parameters = (rank + 1) * 60 + (rank + 1) * 30
    unavoidable = noise * np.sqrt(parameters / seen.sum())
    assert relative_error(found, W) < (2.0 if scaled else 1.2) * unavoidable + MOSTLY_RECOVERED
    if noise == 0:
        assert completer.rank_ in (rank, rank + 1)  # a constant is of rank one, unless it is taken for the mean


def test_few_entries_are_filled_in_by_the_mean():
    """One held-out entry cannot say that zero is a better prediction."""
    with pytest.warns(UserWarning, match="1 column has no observed entry: 1"):
        filled = rl.MatrixCompleter().fit_transform(np.array([[1.0, np.nan, 3.0, 4.0]]))
    assert filled[0, 1] == pytest.approx(8 / 3, rel=0.1)


def test_labels_that_occur_twice_cannot_be_predicted_by_label():
    X, _ = planted((12, 5), 1, 0.8)
    frame = pd.DataFrame(X, index=["a"] * 12, columns=list("vwxyz"))
    completer = rl.MatrixCompleter(max_steps=50).fit(frame)
    assert np.isfinite(completer.transform(frame).to_numpy()).all()
    with pytest.raises(ValueError, match="the fitted frame has the row label 'a' more than once; pass positions"):
        completer.predict([("a", "v")])
    with pytest.raises(ValueError, match="X has 5 columns of the name 'v'"):
        rl.MatrixCompleter().fit(frame.set_axis(["v"] * 5, axis=1))


def test_a_small_component_beside_a_large_one_is_found():
    """A constant of a tenth of the signal: the descent ended while its component had not grown."""
    made = np.random.default_rng(3)
    whole = np.outer(made.normal(size=60), made.normal(size=24)) + 0.1
    completer = rl.MatrixCompleter(posterior=0).fit(np.where(made.random(whole.shape) < 0.8, whole, np.nan))
    assert completer.rank_ == 2
    assert relative_error(completer.left_ @ completer.right_.T, whole) < REFITTED
