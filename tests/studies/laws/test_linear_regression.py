"""The nearest solution, by its normal equations, and methods that keep to the row space."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.laws import linear_regression as study

SETTINGS = study.PRESETS["tiny"]
# Relative rounding error of products with matrices of a few dozen numbers of order one.
ROUNDING = 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_solution_fits_and_is_orthogonal_to_the_kernel(seed):
    task, X = study.problem(SETTINGS, seed)
    start = torch.ones(SETTINGS.unknowns, dtype=torch.float64)
    w = study.nearest(X, task.values, start)
    assert torch.allclose(X @ w, task.values)
    kernel = np.linalg.svd(X.numpy())[2][SETTINGS.equations :]
    assert np.abs(kernel @ (w - start).numpy()).max() < ROUNDING
    assert torch.allclose(study.nearest(X, task.values, 0 * start), torch.linalg.pinv(X) @ task.values)


def test_the_problem_is_least_squares():
    task, X = study.problem(SETTINGS, 0)
    w = torch.linspace(-1, 1, SETTINGS.unknowns, dtype=torch.float64)
    loss = float(((X @ w - task.values) ** 2).mean())
    assert float(task.loss(w[:, None])) == pytest.approx(loss)


def test_every_step_of_descent_is_that_of_the_formula():
    task, X = study.problem(SETTINGS, 0)
    net = rl.deep_matrix((SETTINGS.unknowns, 1), depth=1, std=1.0)
    w = net.tensor().detach()[:, 0].numpy().copy()
    lr = 1e-2
    rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=lr), steps=7, until_loss=0.0)
    for _ in range(7):
        w = w - lr * 2 / SETTINGS.equations * X.numpy().T @ (X.numpy() @ w - task.values.numpy())
    assert np.allclose(net.tensor().detach()[:, 0].numpy(), w, rtol=ROUNDING)
