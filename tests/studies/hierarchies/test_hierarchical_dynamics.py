"""Tracked quantities of the study against the trained networks, and its claims on planted records."""

import math

import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.studies.hierarchies import hierarchical_dynamics as study


@pytest.fixture(scope="module")
def record():
    return studies.perform("hierarchical_dynamics", study.PRESETS["tiny"])


def test_the_first_row_is_of_the_initial_network(record, tolerance):
    settings = study.PRESETS["tiny"]
    shape = (settings.size,) * 4
    tree = rl.ModeTree.adjacent(4, 2)
    net = rl.hierarchical(shape, settings.width, tree, std=settings.std, seed=0)
    *_, left, right, top = (node.detach().numpy() for node in net.nodes)
    norms = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0) * np.abs(top)
    target = rl.targets.hierarchical(shape, settings.rank, norm=settings.norm, tree=tree, seed=0)
    start = net.tensor().detach()
    first = record.isel(seed=0, row=0)
    assert np.allclose(first.component, np.sort(norms)[::-1][: study.SHOWN], rtol=tolerance["rounding"])
    s = np.linalg.svd(start.reshape(16, 16), compute_uv=False)[: study.SHOWN]
    assert np.allclose(first.spectrum, s, rtol=0, atol=tolerance["rounding"] * s[0])
    error = float((start - target).norm() / target.norm())
    assert float(first.error) == pytest.approx(error, rel=tolerance["rounding"])


def test_findings_by_hand_and_with_nan(record):
    rows = np.full((6, study.SHOWN), 1e-9)
    in_turn, together = rows.copy(), rows.copy()
    in_turn[:, :2] = [[0, 0], [1, 0], [10, 0], [10, 0.1], [10, 4], [10, 5]]
    together[:, :2] = [[0, 0], [1, 0.5], [4, 2], [8, 4], [10, 5], [10, 5]]
    together[-1, 2] = 0.5
    planted = record.isel(row=slice(6)).copy(deep=True)
    planted = xr.concat([planted.assign_coords(seed=[k]) for k in range(2)], dim="seed")
    planted.attrs = record.attrs
    planted["spectrum"][:] = np.stack([in_turn, together])
    _, _, rank, waits, _ = study.claims(planted)
    assert rank.measured == pytest.approx(0.1)
    assert waits.measured == pytest.approx(0.5)
    planted["spectrum"][0, -1, 0] = math.nan
    _, _, rank, waits, _ = study.claims(planted)
    assert math.isnan(rank.measured)
    assert math.isnan(waits.measured)
    assert not rank.holds
    assert not waits.holds
