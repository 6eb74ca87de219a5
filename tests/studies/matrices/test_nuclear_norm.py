"""The study's problems are what they are said to be, and symmetric flows are the positive ones."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.matrices import nuclear_norm as study

SETTINGS = study.PRESETS["tiny"]
# Absolute rounding error of products of matrices with entries of order one.
ROUNDING = 1e-12
# Mean of squared rounding errors.
SQUARED = 1e-20
# Relative error of 4000 Euler steps, which are of first order.
EULER = 2e-3
# Absolute rounding error of the inner product with the certificate.
CERTIFIED = 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("commuting", [True, False])
def test_operators_commute_or_do_not_and_a_positive_matrix_fits(commuting, seed):
    task = study.positive_problem(SETTINGS, commuting, seed)
    A = task.operators.reshape(-1, *task.shape)
    assert torch.allclose(A, A.mT, atol=ROUNDING)
    off = float((A[0] @ A[1] - A[1] @ A[0]).norm())
    assert off < 100 * ROUNDING if commuting else off > 0.1
    assert float(task.loss(task.target)) < SQUARED
    assert float(torch.linalg.eigvalsh(task.target)[0]) > -ROUNDING


@pytest.mark.parametrize("seed", range(3))
def test_depth_two_from_a_positive_start_follows_x_g_plus_g_x(seed):
    """Explicit Euler steps of X' = -(X G + G X) against the end-matrix flow, at a time long before the end."""
    task = study.positive_problem(SETTINGS, False, seed)
    X, until, steps = 0.5 * np.eye(5), 0.02, 4000
    A, y = task.operators.reshape(-1, 5, 5).numpy(), task.values.numpy()
    for _ in range(steps):
        residual = np.array([(a * X).sum() for a in A]) - y
        G = sum(2 / len(y) * r * a for r, a in zip(residual, A, strict=True))
        X = X - until / steps * (X @ G + G @ X)
    start = 0.5 * torch.eye(5, dtype=torch.float64)
    run = rl.end_matrix_flow(start, task, depth=2, until_loss=0.0, until_time=until)
    assert np.allclose(run["matrix"].values, X, atol=EULER * np.abs(X).max())
    assert not np.allclose(X, 0.5 * np.eye(5), atol=0.1)


def test_patterns_have_the_components_they_are_named_for():
    for seed in range(5):
        two, one = (study.parts_problem(SETTINGS, graph, seed) for graph in study.GRAPHS)
        assert int(rl.theory.observation_components(two).max()) == 1
        assert int(rl.theory.observation_components(one).max()) == 0
        assert len(two) == len(one) == 8
        assert int(rl.numerical_rank(two.target)) == 1


def test_the_bound_of_what_is_fitted_is_a_bound():
    """<Y, W> <= |W|_* for the certificate Y and any W, fitting or not."""
    task = rl.Completion.sample(rl.targets.low_rank_matrix((8, 8), 2), observed=40)
    exact = rl.nuclear_norm_completion(task)
    rows, columns = task.indices.T
    for seed in range(5):
        W = rl.targets.low_rank_matrix((8, 8), 3, seed=seed)
        slack = float((exact.dual[rows, columns] * (W[rows, columns] - task.values)).sum())
        assert float(rl.nuclear_norm(W)) >= exact.lower_bound + slack - CERTIFIED
