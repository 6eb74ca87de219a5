"""A fitted matrix against its formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranklens.completers import equations, fitted
from ranklens.completers.fitted import FittedMatrix
from ranklens.completers.observed import Observed


def matrix(rank=2):
    made = np.random.default_rng(0)
    parts = [made.standard_normal(shape) for shape in ((6, rank), (5, rank), (6,), (5,))]
    return FittedMatrix(parts[0], parts[1], 3.0, parts[2], parts[3], ridge=0.1, damping=2.0, error=0.5, posterior=None)


def test_predictions_are_the_sum_of_biases_and_product(tolerance):
    made = matrix()
    whole = made.left @ made.right.T + 3.0 + made.row_biases[:, None] + made.column_biases
    positions = torch.cartesian_prod(torch.arange(6), torch.arange(5))
    assert np.allclose(made.whole(), whole, rtol=tolerance["rounding"])
    assert np.allclose(made.at(positions), whole.ravel(), rtol=tolerance["rounding"])
    assert (made.deviation(positions) == 0.5).all()


@pytest.mark.parametrize(("rank", "damping"), [(2, 2.0), (2, np.inf), (0, 2.0), (0, np.inf)])
def test_new_rows_are_ridge_regressions(rank, damping, tolerance):
    made = replace(matrix(rank), damping=damping)
    observed = Observed(torch.tensor([[0, 1], [0, 3], [2, 0]]), torch.tensor([1.0, -2.0, 0.5]).double(), (3, 5))
    found = made.with_rows(observed, [], seed=0)
    for row in range(3):
        own = observed.indices[:, 0].numpy() == row
        j, y = observed.indices[own, 1].numpy(), observed.values.numpy()[own]
        design = np.concatenate([made.right[j], np.ones((len(j), int(np.isfinite(damping))))], axis=1)
        penalty = np.diag([0.1] * rank + [damping] * int(np.isfinite(damping)))
        solved = np.linalg.solve(design.T @ design + penalty, design.T @ (y - 3.0 - made.column_biases[j]))
        assert np.allclose(found.left[row], solved[:rank], atol=tolerance["difference"])
        bias = solved[rank] if np.isfinite(damping) else 0.0
        assert found.row_biases[row] == pytest.approx(bias, abs=tolerance["difference"])


@pytest.mark.parametrize("damping", [2.0, np.inf])
def test_leverages_are_those_of_the_regressions_of_row_and_column(damping, monkeypatch, tolerance):
    monkeypatch.setattr(fitted, "BLOCK", 30)  # a few entries at a time
    monkeypatch.setattr(equations, "BLOCK", 18)  # two or three rows at a time
    made, biased = replace(matrix(), damping=damping), int(np.isfinite(damping))
    indices = torch.cartesian_prod(torch.arange(6), torch.arange(5))[
        torch.from_numpy(np.random.default_rng(1).permutation(30)[:22])
    ]
    found = made.leverages(Observed(indices, torch.zeros(22).double(), (6, 5)))
    penalty = np.diag([0.1, 0.1] + [damping] * biased)
    i, j = indices.numpy().T
    features = [np.c_[made.left, np.ones((6, biased))], np.c_[made.right, np.ones((5, biased))]]
    for k in range(22):
        free = 1.0
        for own, other, F in ((i, j, features[1]), (j, i, features[0])):
            design, x = F[other[own == own[k]]], F[other[k]]
            free *= 1 - x @ np.linalg.solve(design.T @ design + penalty, x)
        assert found[k] == pytest.approx(1 - free, rel=tolerance["difference"])  # small numbers are added to diagonals


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_leverages_add_up_to_the_number_of_parameters(rank, tolerance):
    left, right = (np.linalg.qr(part)[0] for part in (matrix(rank).left, matrix(rank).right))
    made = replace(matrix(rank), left=left, right=right, ridge=0.0, damping=np.inf)
    whole = Observed(torch.cartesian_prod(torch.arange(6), torch.arange(5)), torch.zeros(30).double(), (6, 5))
    assert made.leverages(whole).sum() == pytest.approx(rank * (6 + 5 - rank), abs=tolerance["difference"])


def test_an_entry_that_a_component_has_to_itself_has_leverage_one(tolerance):
    made = replace(matrix(), ridge=0.0, damping=np.inf)
    made.right[:, 1] = np.eye(5)[3]  # the second component has the fourth column only
    found = made.leverages(
        Observed(torch.cartesian_prod(torch.arange(6), torch.arange(5)), torch.zeros(30).double(), (6, 5))
    )
    assert np.allclose(found.reshape(6, 5)[:, 3], 1, atol=tolerance["difference"])
    assert (found.reshape(6, 5)[:, :3] < 0.95).all()


def test_too_many_entries_are_not_filled(monkeypatch):
    monkeypatch.setattr(fitted, "FILLED", 29)
    with pytest.raises(ValueError, match="would have 30 entries"):
        matrix().whole()
