"""Sensing from numpy arrays and nested lists. Its losses are tested in test_problem.py."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.seeds import normals

[W] = normals([(3, 4)], 0, "sensed matrix")
ROWS, COLUMNS = normals([(5, 3), (5, 4)], 0, "sensing vectors")


def test_vectors_of_every_kind_give_the_inner_products(tolerance):
    expected = torch.stack([x @ W @ y for x, y in zip(ROWS, COLUMNS, strict=True)])
    kinds = [[ROWS, COLUMNS], [ROWS.numpy(), COLUMNS.numpy()], [ROWS.tolist(), COLUMNS.tolist()]]
    for vectors in kinds:
        found = rl.Sensing(vectors, [0.0] * 5).predict(W)
        assert torch.allclose(found, expected, rtol=tolerance["rounding"])
    square = torch.stack([ROWS, ROWS], dim=1)
    expected = torch.stack([x @ W[:, :3] @ x for x in ROWS])
    for vectors in (square, square.numpy()):
        assert torch.allclose(rl.Sensing(vectors, [0.0] * 5).predict(W[:, :3]), expected, rtol=tolerance["rounding"])


def test_operators_of_every_kind_give_the_inner_products(tolerance):
    operators = torch.einsum("zi,zj->zij", ROWS, COLUMNS)
    expected = torch.stack([(A * W).sum() for A in operators])
    for given in (operators, operators.numpy(), operators.tolist()):
        found = rl.DenseSensing(given, np.zeros(5)).predict(W)
        assert torch.allclose(found, expected, rtol=tolerance["rounding"])


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"vectors have shape \(5, 3\); pass \(m, N, d\)"):
        rl.Sensing(ROWS, torch.zeros(5))
    with pytest.raises(ValueError, match=r"vectors of mode 1 have shape \(4, 4\).*expected \(5, d\)"):
        rl.Sensing([ROWS, COLUMNS[:4]], torch.zeros(5))


def test_nothing_is_trained_through_one_array_of_vectors():
    """A problem is data: what its vectors were computed from gets no gradient, and may be used again."""
    x = torch.ones(5, 2, 3, dtype=torch.float64, requires_grad=True)
    task = rl.Sensing(2 * x, torch.ones(5, dtype=torch.float64))
    net = rl.deep_matrix((3, 3), depth=2, std=0.3)
    for _ in range(2):
        task.loss(net).backward()
    assert x.grad is None
