"""The baseline of zeros by its formula, and the lower bound of a CP rank."""

import itertools

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.seeds import normals
from ranklens.studies.cp import tensor_completion as study

SETTINGS = study.PRESETS["tiny"]


@pytest.mark.parametrize("order", [3, 4])
def test_entries_fitted_directly_end_at_zeros_elsewhere(order, tolerance):
    task = study.problem(SETTINGS, order, 30, 0)
    found = study._direct(SETTINGS, task)
    T = task.target.numpy()
    unseen = np.ones(T.shape, dtype=bool)
    unseen[tuple(task.indices.T.numpy())] = False
    assert found["error"] == pytest.approx(np.sqrt((T[unseen] ** 2).sum()), rel=tolerance["flow"])
    assert found["off"] < 0.1 * tolerance["flow"]


def test_the_mean_square_error_of_zeros_is_the_share_unseen():
    """Over all subsets of one size of a small tensor, exactly."""
    [T] = normals([(2, 2, 2)], 0, "tensor")
    flat = (T / T.norm()).reshape(-1).numpy()
    for m in (1, 3, 6):
        subsets = list(itertools.combinations(range(8), m))
        missed = np.mean([1 - sum(flat[k] ** 2 for k in subset) for subset in subsets])
        assert missed == pytest.approx(1 - m / 8)


@pytest.mark.parametrize("seed", range(4))
def test_rank_at_least_is_a_lower_bound(seed):
    for rank in (1, 2, 3):
        T = rl.targets.cp((4, 5, 6), rank, seed=seed)
        assert study.rank_at_least(T, 1e-6) == rank
        assert study.rank_at_least(T, 0.5) <= rank
    noisy = torch.eye(4, dtype=torch.float64)[:, :, None] * torch.ones(3, dtype=torch.float64)
    assert study.rank_at_least(noisy, 0.1) == 4  # one singular value of four is half of the norm
    assert study.rank_at_least(noisy, 0.6) == 3


def test_the_first_order_is_fitted_to_the_published_loss():
    settings = study.PRESETS["laptop"]
    assert settings.until_share / settings.size**3 == pytest.approx(1e-6, rel=0.05)
