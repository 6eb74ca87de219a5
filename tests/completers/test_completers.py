"""Completers: what they find is held against least squares loops, planted ranks, and the rules of scikit-learn."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import ranklens as rl
from ranklens.completers.alternating import AlternatingLeastSquares
from ranklens.completers.descent import EVERY, descend
from ranklens.completers.entries import entries
from ranklens.completers.polish import thinned
from ranklens.completers.seen import Seen, fit_biases
from ranklens.completers.start import aligned_, leading
from ranklens.completers.tensor import leaning_
from ranklens.tensors.products import product_svd

FAMILIES = {
    "matrix": lambda: rl.deep_matrix((4, 5), 2, 2, std=1.0),
    "deep matrix": lambda: rl.deep_matrix((4, 5), 3, 3, std=1.0),
    "cp": lambda: rl.cp((3, 4, 5), 2, std=1.0),
    "hierarchical": lambda: rl.hierarchical((2, 3, 2, 3), 2, std=1.0),
    "train": lambda: rl.tensor_train((3, 4, 2), 2, std=1.0),
    "tucker": lambda: rl.tucker((3, 4, 2), 2, std=1.0),
}

EXCUSED = dict.fromkeys(
    ("check_estimator_sparse_array", "check_estimator_sparse_matrix"),
    "predict of rows returns all their entries; this check wants one number per row",
)


def everything(target):
    return torch.cartesian_prod(*map(torch.arange, target.shape)), target.reshape(-1)


def planted(shape, rank, share, *, noise=0.0, seed=0):
    """A matrix with holes, and the whole."""
    target = rl.targets.low_rank_matrix(shape, rank, seed=seed)
    task = rl.Completion.sample(target, observed=round(share * target.numel()), noise=noise, seed=seed)
    X = np.full(shape, np.nan)
    X[tuple(task.indices.numpy().T)] = task.values.numpy()
    return X, target.numpy()


def off(found, target):
    return np.linalg.norm(np.asarray(found) - np.asarray(target)) / np.linalg.norm(target)


# least squares


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sweep_ends_where_no_node_can_gain(name):
    """After solving for node k, the gradient of the penalised loss by node k vanishes."""
    net, ridge = FAMILIES[name](), 0.3
    made = torch.Generator().manual_seed(1)
    indices, _ = everything(net.tensor().detach())
    kept = torch.randperm(len(indices), generator=made)[: len(indices) // 2]
    seen = Seen(indices[kept], torch.randn(len(kept), generator=made, dtype=torch.float64), net.shape)
    solver = AlternatingLeastSquares(net, seen, ridge=ridge)
    for k in range(len(net.nodes)):
        squared = solver.sweep([k]) * len(seen)
        residual = net.entries(seen.indices) - seen.values
        assert float(residual.detach().square().sum()) == pytest.approx(squared, rel=1e-8)
        loss = residual.square().sum() / 2 + ridge / 2 * sum(node.square().sum() for node in net.nodes)
        gradient = net.gradients(loss)[k]
        assert float(gradient.abs().max()) < 1e-8 * float(seen.values.norm())


def test_a_component_that_is_there_twice_leaves_for_nothing():
    net = rl.cp((5, 6, 7), 3, std=1.0)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 2] = node[:, 0]  # twice the same
    seen = Seen(*everything(net.tensor().detach()), net.shape)
    fewer = thinned(net, "r", seen)
    assert fewer.layout.sizes["r"] == 2
    assert off(fewer.tensor().detach(), net.tensor().detach()) < 1e-4


def test_biases_by_literal_loops(tolerance):
    made = np.random.default_rng(0)
    rows, columns, values = made.integers(0, 6, 30), made.integers(0, 5, 30), made.standard_normal(30)
    damping, mean = 2.0, values.mean()
    b, c = np.zeros(6), np.zeros(5)
    for _ in range(200):
        for i in range(6):
            b[i] = sum(values[k] - mean - c[columns[k]] for k in range(30) if rows[k] == i) / (sum(rows == i) + damping)
        for j in range(5):
            c[j] = sum(values[k] - mean - b[rows[k]] for k in range(30) if columns[k] == j) / (
                sum(columns == j) + damping
            )
    seen = Seen(torch.from_numpy(np.stack([rows, columns], axis=1)), torch.from_numpy(values), (6, 5))
    found = fit_biases(seen, damping).adapted(seen, 200)
    assert np.allclose(found.modes[0].numpy(), b, atol=tolerance["rounding"])
    assert np.allclose(found.modes[1].numpy(), c, atol=tolerance["rounding"])


# the start and the descent


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("whole", [True, False])
def test_gradients_of_entries(depth, whole, tolerance):
    """The sparse gradient against autograd's through the end tensor, duplicates included."""
    net = rl.deep_matrix((60, 70), depth, 3, std=1.0)
    made = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randint(60, (500 if whole else 40,), generator=made)] * 2, dim=1)
    weights = torch.randn(len(indices), generator=made, dtype=torch.float64)
    found = net.gradients((entries(net, indices) * weights).sum())
    wanted = net.gradients((net.tensor()[tuple(indices.T)] * weights).sum())
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=tolerance["rounding"], atol=1e-11)


@pytest.mark.parametrize("shape", [(30, 20), (1100, 1000)])
def test_the_start_is_along_what_is_seen(shape):
    X, _ = planted(shape, 2, 0.2)
    seen = Seen(torch.from_numpy(np.argwhere(~np.isnan(X))), torch.from_numpy(X[~np.isnan(X)]), shape)
    U, s, V = leading(seen, 2)
    Y = np.nan_to_num(X)
    assert np.allclose(Y @ V.numpy(), (U * s).numpy(), atol=1e-2 * float(s[0]))
    net = aligned_(rl.deep_matrix(shape, 3, 4), seen, 1e-3)
    singular = product_svd(*_sides(net))[1]
    assert float(singular[0]) == pytest.approx(1e-3 * np.sqrt(shape[0] * shape[1]), rel=1e-6)
    assert float(net.imbalance()) < 1e-12 * float(singular[0])


def _sides(net):
    first, *inner, last = (node.detach() for node in net.nodes)
    for factor in inner:
        first = first @ factor
    return first, last.T


def test_the_plateau_of_a_tiny_start_does_not_end_the_descent():
    """The loss rests for longer than any patience in steps, and the held-out error is best at step 0 all that time."""
    X, target = planted((40, 40), 1, 0.5)
    seen = Seen(torch.from_numpy(np.argwhere(~np.isnan(X))), torch.from_numpy(X[~np.isnan(X)]), (40, 40))
    train, held_out = seen.split(0.1, 0)
    net = rl.init.scaled_(rl.deep_matrix((40, 40), 3, 4), 1e-12)
    found = descend(net, train, held_out, lr=2e-3, steps=8000, look_back=2.0)
    loss = found.profile.train_loss.values
    resting = int((loss > 0.99 * loss[0]).sum()) * EVERY
    assert resting > 4 * 4 * EVERY  # a plateau several times longer than the constant part of the patience
    assert found.stopped in ("held-out", "fitted")
    assert found.held_out < 1e-2 * float(held_out.values.square().mean())
    assert off(found.best.tensor().detach(), target) < 0.1


def test_noise_stops_the_descent_early():
    made = np.random.default_rng(0)
    X = np.where(made.random((40, 40)) < 0.5, made.standard_normal((40, 40)), np.nan)
    completer = rl.MatrixCompleter().fit(X)
    assert completer.profile_.attrs["stopped"] == "held-out"
    assert completer.profile_.attrs["best_step"] < int(completer.profile_.step[-1]) / 2
    assert completer.rank_ == 0
    assert np.sqrt(np.mean(completer.predict(np.argwhere(np.isnan(X))) ** 2)) < 0.3  # nothing is known, little is said


# matrices


@pytest.mark.parametrize(("rank", "share"), [(1, 0.3), (2, 0.4), (4, 0.6)])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_rank_is_found(rank, share, depth):
    X, target = planted((50, 60), rank, share, noise=0.01, seed=rank)
    completer = rl.MatrixCompleter(depth=depth)
    filled = completer.fit_transform(X)
    assert completer.rank_ == rank
    assert off(completer.left_ @ completer.right_.T, target) < 0.02
    assert off(filled, target) < 0.02
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
    assert off(completer.left_ @ completer.right_.T, target) <= 1.2 * off(A @ B.T, target)


def test_scale_of_the_data_changes_nothing_but_the_scale():
    X, _ = planted((30, 40), 2, 0.5)
    one, other = (
        rl.MatrixCompleter(max_steps=300).fit_transform(X),
        rl.MatrixCompleter(max_steps=300).fit_transform(1e6 * X),
    )
    assert off(other, 1e6 * one) < 1e-6


def test_new_rows():
    X, target = planted((80, 40), 2, 0.5)
    completer = rl.MatrixCompleter().fit(X[:60])
    filled = completer.transform(X[60:])
    assert off(filled, target[60:]) < 1e-3
    again = completer.transform(X[:60])
    predicted = completer.predict(np.argwhere(np.isnan(X[:60])))
    assert np.allclose(again[np.isnan(X[:60])], predicted, atol=1e-8)  # a known row as a new one


def test_a_new_row_is_a_ridge_regression():
    """Literal: minimise (x - mean - c_j - b - a . right_j)^2 + ridge |a|^2 + damping b^2 over the seen j."""
    X, _ = planted((40, 30), 2, 0.6, noise=0.1)
    completer = rl.MatrixCompleter(biases=True, max_steps=300).fit(X + np.arange(30))
    row = np.where(np.arange(30) % 3 == 0, 5.0 + np.arange(30), np.nan)
    there = ~np.isnan(row)
    design = np.concatenate([completer.right_[there], np.ones((there.sum(), 1))], axis=1)
    penalty = np.diag([completer._ridge] * completer.rank_ + [completer._damping])
    wanted = row[there] - completer.mean_ - completer.column_biases_[there]
    *a, b = np.linalg.solve(design.T @ design + penalty, design.T @ wanted)
    expected = completer.right_ @ np.array(a) + b + completer.mean_ + completer.column_biases_
    assert np.allclose(completer.transform(row[None])[0][~there], expected[~there], rtol=1e-6)


def test_biases_alone_need_no_rank():
    """What is a sum of rows and columns is left to them: the rank is zero, or what it adds is next to nothing."""
    made = np.random.default_rng(0)
    target = 3 + np.add.outer(made.standard_normal(40), made.standard_normal(50))
    X = np.where(made.random((40, 50)) < 0.4, target + 0.1 * made.standard_normal((40, 50)), np.nan)
    completer = rl.MatrixCompleter(biases=True).fit(X)
    assert completer.rank_ <= 1
    assert off(completer.predict(np.argwhere(np.isnan(X))), target[np.isnan(X)]) < 0.03
    assert completer.mean_ == pytest.approx(3, abs=0.5)


def test_frames_and_sparse_matrices_say_the_same():
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
        assert np.allclose(again, whole, atol=1e-9)


def test_a_stored_zero_is_seen():
    X = sp.csr_matrix((np.array([0.0, 1.0, 2.0, np.nan]), ([0, 1, 2, 2], [0, 1, 2, 0])), shape=(3, 3))
    completer = rl.MatrixCompleter().fit(X)
    assert completer.transform(X)[0, 0] == 0


def test_mini_batches_find_the_same():
    X, target = planted((60, 60), 2, 0.6)
    completer = rl.MatrixCompleter(batch_size=300, width=8, max_steps=600).fit(X)
    assert completer.rank_ == 2
    assert off(completer.left_ @ completer.right_.T, target) < 1e-3


def test_fits_can_be_repeated_and_seeds_matter():
    X, _ = planted((30, 20), 2, 0.5, noise=0.1)
    one, same, other = (rl.MatrixCompleter(random_state=s, max_steps=300).fit_transform(X) for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_profile_tells_of_the_descent():
    X, _ = planted((40, 40), 2, 0.5)
    profile = rl.MatrixCompleter().fit(X).profile_
    standing = profile.standing.values
    assert profile.sizes["step"] == len(profile.train_loss) == len(profile.held_out_loss)
    assert (np.diff(standing, axis=1) <= 0).all()
    assert (standing[-1, 1] / standing[-1, 2]) > 10 * (standing[0, 1] / standing[0, 2])  # a gap has opened
    assert 1 < float(profile.effective_rank[-1]) < 2.5 < float(profile.effective_rank[0])


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (np.full((3, 3), np.nan), "no entry that is seen"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "infinity"),
        (np.zeros((0, 3)), "0 sample"),
        (sp.csr_matrix((3, 3)), "no entry that is seen"),
    ],
)
def test_what_cannot_be_fitted(X, said):
    with pytest.raises(ValueError, match=said):
        rl.MatrixCompleter().fit(X)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depth": 1}, "depth is 1"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"width": 0}, "width is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(ValueError, match=said):
        rl.MatrixCompleter(**settings).fit(np.eye(4))


def test_positions_are_checked():
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
    assert np.allclose(rows, completer.predict(everywhere).reshape(20, 15)[3:5], atol=1e-9)


@pytest.mark.parametrize("X", [np.zeros((4, 5)), np.full((4, 5), 7.0), np.array([[3.0]]), np.eye(3)[:, :1]])
def test_degenerate_matrices(X):
    for biases in (False, True):
        filled = rl.MatrixCompleter(biases=biases).fit_transform(X)
        assert np.array_equal(filled, X)


def test_rows_and_columns_of_which_nothing_is_seen():
    X, _ = planted((30, 20), 1, 0.6)
    X[4], X[:, 7] = np.nan, np.nan
    filled = rl.MatrixCompleter().fit_transform(X)
    assert np.isfinite(filled).all()
    assert np.abs(filled[4]).max() < 1e-6
    assert np.abs(filled[:, 7]).max() < 1e-6


def test_scores():
    X, target = planted((40, 30), 2, 0.5)
    completer = rl.MatrixCompleter().fit(X)
    holes = np.argwhere(np.isnan(X))
    assert completer.score(holes, target[tuple(holes.T)]) > 0.999
    assert completer.score(np.where(np.isnan(X), target, np.nan)) > 0.999
    with pytest.raises(ValueError, match="the fitted matrix"):
        completer.score(target[:5])


CHECKS = """
import json, sys, warnings
from sklearn.utils.estimator_checks import check_estimator
import ranklens as rl
warnings.simplefilter("ignore")
excused = json.load(sys.stdin)
results = check_estimator(rl.MatrixCompleter(max_steps=20), expected_failed_checks=excused, on_fail=None)
print(json.dumps([(r["check_name"], r["status"], repr(r["exception"])) for r in results]))
"""


def test_scikit_learn_accepts_it():
    """In a Python without the suite's type checker: scikit-learn passes settings of all types on purpose."""
    answer = subprocess.run(
        [sys.executable, "-c", CHECKS], input=json.dumps(EXCUSED), capture_output=True, text=True, check=True
    )
    results = json.loads(answer.stdout)
    assert len(results) > 30
    assert not [result for result in results if result[1] == "failed"]
    assert {name for name, status, _ in results if status == "xfail"} == set(EXCUSED)  # none is excused that passes


# tensors


@pytest.mark.parametrize(
    ("family", "make", "widths"),
    [
        ("cp", lambda: rl.targets.cp((12, 11, 10), 2), {"r": 2}),
        ("hierarchical", lambda: rl.targets.hierarchical((6,) * 4, 2), {"(0, 1)": 2, "(2, 3)": 2, "(0, 1, 2, 3)": 2}),
        ("tensor_train", lambda: rl.targets.cp((8, 8, 8), 2), {"r1": 2, "r2": 2}),
    ],
)
def test_tensors_of_every_family(family, make, widths):
    target = make()
    task = rl.Completion.sample(target, observed=target.numel() * 4 // 10, noise=0.01)
    completer = rl.TensorCompleter(target.shape, family, max_steps=1000).fit(task.indices, task.values)
    assert completer.widths_ == widths
    assert float(task.error(completer.network_)) < 0.02


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_data_that_are_not_centred_start_on_the_side_of_their_mean(sign):
    made = torch.Generator().manual_seed(0)
    indices = torch.randint(9, (200, 3), generator=made)
    seen = Seen(indices, sign * (1 + torch.rand(200, generator=made, dtype=torch.float64)), (9, 9, 9))
    net = leaning_(rl.cp((9, 9, 9), 4, std=1e-2), seen)
    assert float(net.entries(indices).detach().mean()) * sign > 0
    before = rl.cp((9, 9, 9), 4, std=1e-2)
    centred = leaning_(rl.cp((9, 9, 9), 4, std=1e-2), seen.minus(seen.values.mean()))
    assert torch.equal(centred.tensor(), before.tensor())


def test_a_network_or_a_function_is_a_family():
    target = rl.targets.cp((8, 8, 8), 1)
    task = rl.Completion.sample(target, observed=300)
    ring = rl.tensor_ring((8, 8, 8), 3)
    before = ring.tensor().detach().clone()
    for family in (ring, lambda shape: rl.tucker(shape, 3)):
        completer = rl.TensorCompleter((8, 8, 8), family, max_steps=500).fit(task.indices, task.values)
        assert float(task.error(completer.network_)) < 1e-2
    assert torch.equal(ring.tensor(), before)  # it was copied


def test_frames_of_positions():
    target = rl.targets.cp((6, 6, 6), 1)
    task = rl.Completion.sample(target, observed=150)
    frame = pd.DataFrame(task.indices.numpy(), columns=["user", "item", "week"], index=range(1000, 1150))
    completer = rl.TensorCompleter((6, 6, 6), biases=True, max_steps=500).fit(frame, pd.Series(task.values.numpy()))
    found = completer.predict(frame)
    assert isinstance(found, pd.Series)
    assert list(found.index) == list(frame.index)
    assert completer.score(frame, task.values.numpy()) > 0.9


@pytest.mark.parametrize(
    ("indices", "values", "kind", "said"),
    [
        ([[0, 0, 3]], [1.0], ValueError, "outside mode 2"),
        ([[0.0, 0, 1]], [1.0], TypeError, "positions are integers"),
        ([[0, 0, 1]], [np.nan], ValueError, "not finite"),
        ([[0, 0, 1]], [1.0, 2.0], ValueError, "one value per row"),
        (np.zeros((0, 3), dtype=int), [], ValueError, "one value per row"),
    ],
)
def test_entries_that_make_no_sense(indices, values, kind, said):
    with pytest.raises(kind, match=said):
        rl.TensorCompleter((3, 3, 3)).fit(indices, values)


def test_families_that_do_not_fit():
    with pytest.raises(ValueError, match="choose one of"):
        rl.TensorCompleter((3, 3), "nothing").fit([[0, 1], [1, 0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="must agree"):
        rl.TensorCompleter((3, 3), rl.cp((3, 4))).fit([[0, 1], [1, 0]], [1.0, 2.0])


def test_rows_do_not_depend_on_other_rows_units():
    """A row seen only in columns of small numbers is completed as well beside others as alone."""
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
    assert np.linalg.norm(alone - truth[200]) < 1e-6 * size
    assert np.linalg.norm(beside - truth[200]) < 1e-6 * size


def test_what_is_stored_twice_counts_as_its_sum():
    made = np.random.default_rng(0)
    truth = made.normal(size=(30, 2)) @ made.normal(size=(2, 20))
    i, j = np.nonzero(made.random(truth.shape) < 0.7)
    halves = sp.coo_matrix((np.tile(truth[i, j] / 2, 2), (np.tile(i, 2), np.tile(j, 2))), shape=truth.shape)
    twice, once = (rl.MatrixCompleter(random_state=0).fit_transform(X) for X in (halves, halves.tocsr()))
    assert np.allclose(twice, once)
    assert np.linalg.norm(twice - truth) < 1e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize("size", [1e-170, 1e155])
def test_extreme_units_are_no_matter(size):
    made = np.random.default_rng(0)
    truth = size * (made.normal(size=(30, 2)) @ made.normal(size=(2, 20)))
    X = np.where(made.random(truth.shape) < 0.7, truth, np.nan)
    found = rl.MatrixCompleter(random_state=0).fit_transform(X)
    assert np.linalg.norm((found - truth) / size) < 1e-4 * np.linalg.norm(truth / size)


def test_a_network_that_a_family_gives_is_not_changed():
    shared = rl.cp((4, 4, 4), rank=2, std=1.0)
    before = shared.tensor().detach().clone()
    indices = np.argwhere(np.ones((4, 4, 4)))
    rl.TensorCompleter((4, 4, 4), family=lambda shape: shared, max_steps=20).fit(indices, np.ones(64))
    assert torch.equal(shared.tensor().detach(), before)
