"""Plateaus of a run, found without knowing what is learned, and flows to them."""

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.dynamics.plateau import follow, midway, plateaus, settle

FLAT = 0.01  # how much of a plateau's loss the components before and after it still take or give


def full(*singular):
    target = torch.diag(torch.tensor(singular, dtype=torch.float64))
    size = len(singular)
    indices = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    return rl.Completion(indices, target.reshape(-1), (size, size), loss="half_sse")


def test_a_run_has_a_plateau_between_two_components():
    start = 1e-4 * torch.eye(3, dtype=torch.float64)
    run = rl.gradient_flow(rl.init.product_(rl.deep_matrix((3, 3), 3), start), full(4.0, 2.0, 1.0))
    losses = run.loss.values[plateaus(run)]
    np.testing.assert_allclose(losses, [(4 + 1) / 2, 1 / 2], rtol=FLAT)


def test_a_loss_that_falls_evenly_has_none():
    time = np.linspace(0, 5, 50)
    assert not len(plateaus(xr.Dataset({"loss": ("time", np.exp(-time))}, {"time": time})))


def test_what_is_refused():
    run = xr.Dataset({"loss": ("time", [1.0, 0.5])}, {"time": [0.0, 1.0]})
    with pytest.raises(ValueError, match="2 rows"):
        plateaus(run)
    with pytest.raises(ValueError, match="factor is 1"):
        plateaus(run, factor=1.0)


def test_a_small_network_settles_at_the_best_matrix_of_its_rank(tolerance):
    net = rl.deep_matrix((3, 3), 2, 1, std=0.1)
    times, losses = settle(net, full(4.0, 2.0, 1.0), 0.0)
    assert (np.diff(times) >= 0).all()
    assert losses[-1] == pytest.approx((4 + 1) / 2, rel=tolerance["flow"])


def test_a_network_is_followed_for_some_time(tolerance):
    """The only entry obeys w' = 2 w (2 - w)."""
    net = rl.init.product_(rl.deep_matrix((1, 1), 2), [[0.1]])
    times, losses = follow(net, full(2.0), 0.0, 1.0)
    assert (times[0], times[-1]) == (0.0, 1.0)
    assert losses[-1] == pytest.approx((2 - 2 / (1 + 19 * np.exp(-4))) ** 2 / 2, rel=tolerance["flow"])


def test_midway_is_interpolated():
    times, losses = np.array([0.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.9, 0.4, 0.1])
    assert midway(times, losses, 1.0, 0.2) == pytest.approx(2 + 0.3 / 0.5)
    assert midway(times, losses, 2.0, 1.0) == 0.0
    assert np.isnan(midway(times, losses, 0.1, 0.0))
