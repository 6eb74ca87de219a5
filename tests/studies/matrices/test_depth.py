"""One start for all depths, and what depth one must do."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.matrices import depth as study

SETTINGS = study.PRESETS["tiny"]
# Absolute rounding error of a product of norm 1e-5 * sqrt(12).
ROUNDING = 1e-18
# Relative difference of two flows that end at one training loss, not at one point: of their errors and their norms.
ERRORS, NORMS = 0.05, 1e-2


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_all_depths_start_from_one_product(depth, tolerance):
    W = study.start(SETTINGS, 0)
    net = rl.init.product_(rl.deep_matrix((12, 12), depth), W)
    assert torch.allclose(net.tensor().detach(), W, atol=ROUNDING)
    assert depth == 1 or float(net.imbalance()) < tolerance["balance"]


def test_at_depth_one_the_error_is_that_of_zeros(tolerance):
    task = study.problem(SETTINGS, 60, 0)
    end = study._end(SETTINGS, task, 1.0, 0)
    zeros = np.zeros((12, 12))
    seen = task.indices.numpy()
    zeros[seen[:, 0], seen[:, 1]] = task.values.numpy()
    expected = np.linalg.norm(zeros - task.target.numpy()) / np.linalg.norm(task.target.numpy())
    assert end.error == pytest.approx(expected, rel=tolerance["flow"])
    assert end.missing < tolerance["balance"]


def test_a_whole_depth_ends_where_its_end_matrix_does():
    task = study.problem(SETTINGS, 60, 0)
    layers = study._end(SETTINGS, task, 2.0, 0)
    fractional = study.Settings(**{**SETTINGS.__dict__, "depths": (1,)})
    matrix = study._end(fractional, task, 2.0, 0)
    assert layers.error == pytest.approx(matrix.error, rel=ERRORS)
    assert layers.nuclear_norm == pytest.approx(matrix.nuclear_norm, rel=NORMS)


def test_no_flow_undercuts_the_certified_bound():
    record = study.run(SETTINGS)
    record.attrs["settings"] = "{}"
    over = study._over_least(record, SETTINGS)
    assert (over[np.isfinite(over)] >= 1).all()
    assert np.isfinite(over).any()
