"""Least nuclear norm against a conic solver, its certificate, and cases whose answer is known."""

import warnings

import cvxpy
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import ranklens as rl
from ranklens.studies.matrices import nuclear_norm

CERTIFIED = 1e-6  # relative: what the tolerance of the conic solver lets the two agree to


def sample(seed):
    rank, observed = 2 + seed % 4, (120, 160, 200, 240)[seed // 4 % 4]
    target = rl.targets.low_rank_matrix((20, 20), rank, seed=seed)
    return rl.Completion.sample(target, observed, seed=seed)


def conic(task):
    X = cvxpy.Variable(task.shape)
    rows, columns = task.indices.T.numpy()
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(X)), [X[rows, columns] == task.values.numpy()])
    tight = {f"tol_{name}": 1e-9 for name in ("gap_abs", "gap_rel", "feas")}
    with warnings.catch_warnings():  # it may stop short of 1e-9 and say so; the comparison is to 1e-6
        warnings.simplefilter("ignore", UserWarning)
        return problem.solve(solver=cvxpy.CLARABEL, **tight)


def certify(task, found):
    index = tuple(task.indices.T)
    seen = torch.zeros(task.shape, dtype=torch.bool)
    seen[index] = True
    assert torch.equal(found.matrix[index], task.values)
    assert not bool(found.dual[~seen].any())
    assert float(torch.linalg.matrix_norm(found.dual, 2)) <= 1 + CERTIFIED
    assert float((found.dual * found.matrix).sum()) >= (1 - CERTIFIED) * found.nuclear_norm
    assert found.nuclear_norm == pytest.approx(np.linalg.svd(found.matrix.numpy(), compute_uv=False).sum())
    assert found.converged


@pytest.mark.parametrize("seed", range(20))
def test_a_conic_solver_agrees(seed):
    task = sample(seed)
    found = rl.nuclear_norm_completion(task)
    certify(task, found)
    assert found.nuclear_norm == pytest.approx(conic(task), rel=CERTIFIED)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 5)])
def test_rectangular(shape):
    task = rl.Completion.sample(rl.targets.low_rank_matrix(shape, 1), observed=shape[0] * shape[1] * 2 // 3)
    certify(task, rl.nuclear_norm_completion(task))


def test_known_answers():
    one = rl.Completion(torch.tensor([[1, 2]]), torch.tensor([-3.0]), (3, 4))
    found = rl.nuclear_norm_completion(one)
    assert found.nuclear_norm == pytest.approx(3.0, rel=1e-6)
    whole = rl.Completion.sample(rl.targets.low_rank_matrix((5, 4), 2), observed=20)
    assert rl.nuclear_norm_completion(whole).nuclear_norm == pytest.approx(float(rl.nuclear_norm(whole.target)))
    zero = rl.Completion(torch.tensor([[0, 0]]), torch.tensor([0.0]), (2, 2))
    assert rl.nuclear_norm_completion(zero).nuclear_norm == 0.0
    row = rl.Completion(torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([1.0, 2.0, 2.0]), (2, 2))
    assert float(rl.nuclear_norm_completion(row).matrix[1, 1]) == pytest.approx(
        1.0, abs=1e-3
    )  # [[1, 2], [2, w]], |w| <= 1


def test_scale_does_not_matter():
    task = sample(0)
    small = rl.Completion(task.indices, 1e-9 * task.values, task.shape)
    a, b = rl.nuclear_norm_completion(task), rl.nuclear_norm_completion(small)
    assert b.nuclear_norm == pytest.approx(1e-9 * a.nuclear_norm, rel=CERTIFIED)
    assert a.steps == b.steps


def test_a_run_that_is_cut_off_says_so():
    found = rl.nuclear_norm_completion(sample(4), steps=20)
    assert not found.converged
    assert found.gap > 1e-6
    assert found.lower_bound < found.nuclear_norm


@pytest.mark.parametrize(
    ("task", "how", "message"),
    [
        (rl.Completion(torch.zeros(1, 3, dtype=torch.long), torch.ones(1), (2, 2, 2)), {}, "is that of a matrix"),
        (
            rl.Completion(torch.zeros(2, 2, dtype=torch.long), torch.ones(2), (2, 2), duplicates="keep"),
            {},
            "observed twice",
        ),
        (rl.Completion.counterexample(), {"tolerance": 0.0}, "tolerance is 0"),
        (rl.Completion.counterexample(), {"tolerance": float("nan")}, "tolerance is nan"),
        (rl.Completion.counterexample(), {"steps": 0}, "steps is 0"),
    ],
)
def test_bad_arguments(task, how, message):
    with pytest.raises(ValueError, match=message):
        rl.nuclear_norm_completion(task, **how)


def positive(seed, *, commuting=False, d=6, m=4):
    settings = nuclear_norm.Settings(psd_size=d, operators=m)
    return nuclear_norm.positive_problem(settings, commuting, seed)


@pytest.mark.parametrize("seed", range(6))
def test_least_trace_is_that_of_a_conic_solver(seed):
    task = positive(seed)
    found = rl.nuclear_norm_psd(task)
    A = task.operators.reshape(-1, *task.shape).numpy()
    X = cvxpy.Variable(task.shape, PSD=True)
    fits = [cvxpy.sum(cvxpy.multiply(a, X)) == y for a, y in zip(A, task.values.tolist(), strict=True)]
    tight = {f"tol_{name}": 1e-9 for name in ("gap_abs", "gap_rel", "feas")}
    least = cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(X)), fits).solve(solver=cvxpy.CLARABEL, **tight)
    assert found.converged
    assert found.nuclear_norm == pytest.approx(least, rel=CERTIFIED)
    assert torch.allclose(task.operators @ found.matrix.reshape(-1), task.values, rtol=1e-9)
    assert float(torch.linalg.eigvalsh(found.matrix)[0]) >= -CERTIFIED * found.nuclear_norm
    assert float(torch.linalg.eigvalsh(found.dual)[-1]) <= 1 + 1e-12
    coefficients = np.linalg.lstsq(A.reshape(len(A), -1).T, found.dual.reshape(-1).numpy(), rcond=None)
    assert float(coefficients[1][0]) < 1e-12  # the dual is a combination of the operators
    assert float(coefficients[0] @ task.values.numpy()) == pytest.approx(found.lower_bound)


@pytest.mark.parametrize("seed", range(4))
def test_commuting_operators_make_it_a_linear_programme(seed):
    task = positive(seed, commuting=True)
    A = task.operators.reshape(-1, *task.shape).numpy()
    _, Q = np.linalg.eigh(A[0])
    rows = np.stack([np.diag(Q.T @ a @ Q) for a in A])
    least = linprog(np.ones(len(Q)), A_eq=rows, b_eq=task.values.numpy(), bounds=(0, None))
    assert rl.nuclear_norm_psd(task).nuclear_norm == pytest.approx(least.fun, rel=CERTIFIED)


def test_nothing_positive_fits():
    eye = torch.eye(2, dtype=torch.float64)[None]
    found = rl.nuclear_norm_psd(rl.DenseSensing(eye, torch.tensor([-1.0])), steps=200)
    assert not found.converged
    with pytest.raises(ValueError, match="contradict each other by"):
        rl.nuclear_norm_psd(rl.DenseSensing(torch.cat([eye, eye]), torch.tensor([1.0, 2.0])))
    with pytest.raises(ValueError, match="positive matrices are square"):
        rl.nuclear_norm_psd(rl.DenseSensing(torch.ones(1, 2, 3), torch.ones(1)))
    zero = rl.nuclear_norm_psd(rl.DenseSensing(eye, torch.zeros(1)))
    assert zero.nuclear_norm == 0.0
    assert zero.converged
