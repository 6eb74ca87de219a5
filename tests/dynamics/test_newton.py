"""The implicit equation of a step: Newton's iteration against numpy's solution, for arrays and for tensors."""

import math

import numpy as np
import pytest
import torch
from conftest import TOLERANCE

from ranklens.dynamics.newton import DIRECTIONS, LINEAR, LeastSquares, Newton

RTOL, ALLOWED = 1e-6, 0.1
# Rounding of arrays and of tensors differs, and the end of the iteration makes more of it.
KINDS = 1e-9


def hessenberg(columns, seed=0):
    made = np.random.default_rng(seed)
    return np.triu(made.normal(size=(columns + 1, columns)), -1)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_growing_least_squares_problem_is_that_of_numpy(columns):
    matrix, size = hessenberg(columns), 3.0
    problem = LeastSquares(size)
    for k in range(columns):
        problem.add(matrix[: k + 1, k].tolist(), float(matrix[k + 1, k]))
        right = size * np.eye(k + 2)[0]
        wanted = np.linalg.lstsq(matrix[: k + 2, : k + 1], right, rcond=None)[0]
        np.testing.assert_allclose(problem.solution(), wanted, rtol=TOLERANCE["rounding"])
        assert problem.residual == pytest.approx(float(np.linalg.norm(matrix[: k + 2, : k + 1] @ wanted - right)))


def test_a_singular_matrix_has_no_finite_solution():
    problem = LeastSquares(1.0)
    problem.add([0.0], 0.0)
    assert problem.solution() == [math.inf]


def newton_of(rate, start, tensor):
    """A `Newton` for y' = rate(y), with its state in an array or in a tensor."""
    vector = torch.from_numpy(start.copy()) if tensor else start.copy()
    atol = torch.full_like(vector, RTOL) if tensor else np.full_like(vector, RTOL)
    calls = []

    def counted():
        calls.append(None)
        found = rate(np.asarray(vector))
        return torch.from_numpy(found) if tensor else found

    newton = Newton(vector, counted, RTOL, atol)
    newton.weigh(vector)
    return newton, vector, calls


@pytest.mark.parametrize("tensor", [False, True], ids=["array", "tensor"])
def test_a_linear_equation_is_solved_to_the_error_allowed(tensor):
    """y = p + gamma (A y - v) for a symmetric A with eigenvalues from -1000 to 1, so large that p is far from y."""
    made = np.random.default_rng(1)
    basis = np.linalg.qr(made.normal(size=(8, 8)))[0]
    matrix = basis @ np.diag([1.0, -0.1, -1.0, -1.0, -3.0, -30.0, -1000.0, -1000.0]) @ basis.T
    p, v, gamma = made.normal(size=8), made.normal(size=8), 0.3
    newton, vector, _ = newton_of(lambda y: matrix @ y, p, tensor)
    kind = torch.from_numpy if tensor else np.asarray
    out = torch.empty_like(vector) if tensor else np.empty_like(p)
    size = newton.solve(kind(p.copy()), kind(v.copy()), gamma, ALLOWED, out)
    wanted = np.linalg.solve(np.eye(8) - gamma * matrix, p - gamma * v)
    weights = 1 / (RTOL * np.abs(p) + RTOL)
    error = math.sqrt(np.square((np.asarray(out) - wanted) * weights).mean())
    assert error <= ALLOWED
    assert size == pytest.approx(math.sqrt(np.square((wanted - p) * weights).mean()), rel=RTOL)


def test_a_linear_solve_that_stops_early_is_not_trusted():
    """More unlike eigenvalues than directions: the first correction is small, because it lacks the slow directions."""
    count = 4 * DIRECTIONS
    rates, start, error = np.geomspace(1e-2, 1e8, count), np.ones(count), 2 * RTOL
    wanted = error * np.where(rates < 1, 1.0, 0.01)
    newton, _, _ = newton_of(lambda y: -rates * (y - 1) + wanted * (1 + rates), start, tensor=False)
    out = np.empty(count)
    size = newton.solve(start.copy(), np.zeros(count), 1.0, ALLOWED, out)
    assert size is None or math.sqrt(np.square((out - 1 - wanted) / error).mean()) <= ALLOWED


def test_arrays_and_tensors_give_the_same_numbers():
    def rate(y):
        return -(y**3)

    found = []
    for tensor in (False, True):
        start = np.linspace(0.5, 2.0, 6)
        newton, vector, _ = newton_of(rate, start, tensor)
        kind = torch.from_numpy if tensor else np.asarray
        out = torch.empty_like(vector) if tensor else np.empty_like(start)
        assert newton.solve(kind(start), kind(np.zeros(6)), 1e-3, ALLOWED, out) is not None
        found.append(np.asarray(out).copy())
    np.testing.assert_allclose(*found, rtol=KINDS)
    np.testing.assert_allclose(found[0] + 1e-3 * found[0] ** 3, np.linspace(0.5, 2.0, 6), rtol=RTOL)


def test_a_solution_at_hand_takes_one_evaluation():
    """A residual that a linear solve may leave is a correction by itself."""
    start = np.ones(3)
    newton, _, calls = newton_of(lambda y: np.full(3, 0.1 * ALLOWED * LINEAR * RTOL), start, tensor=False)
    out = np.empty(3)
    size = newton.solve(start.copy(), np.zeros(3), 1.0, ALLOWED, out)
    assert len(calls) == 1
    assert 0 < size < ALLOWED * LINEAR
    assert (out > start).all()


def test_a_rate_that_vanishes_moves_nothing():
    newton, _, _ = newton_of(lambda y: np.zeros(3), np.ones(3), tensor=False)
    out = np.empty(3)
    assert newton.solve(np.ones(3), np.zeros(3), 1.0, ALLOWED, out) == 0
    assert (out == 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rate_that_is_not_finite_does_not_converge(value):
    newton, _, _ = newton_of(lambda y: np.full(3, value), np.ones(3), tensor=False)
    assert newton.solve(np.ones(3), np.zeros(3), 1.0, ALLOWED, np.empty(3)) is None


def test_an_equation_without_a_solution_does_not_converge():
    """y = 1 + 10 (1 + y^2) has no real solution."""
    newton, _, _ = newton_of(lambda y: 1 + y**2, np.ones(1), tensor=False)
    assert newton.solve(np.ones(1), np.zeros(1), 10.0, ALLOWED, np.empty(1)) is None
