"""Tracked quantities of the study against the trained networks, and its claims on planted records."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.studies.hierarchies import hierarchical_dynamics as study

# Relative error of the mean square of 2,000 products of Gaussian vectors.
DRAWN = 0.2


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
    planted["inner_spectrum"][:] = 1e-9
    planted["inner_spectrum"][:, -1, :, :2] = [5.0, 2.0]
    planted["inner_spectrum"][1, -1, 3, 2] = 0.5
    _, _, rank, waits, inner, _ = study.claims(planted)
    assert rank.measured == pytest.approx(0.1)
    assert waits.measured == pytest.approx(0.5)
    assert inner.measured == pytest.approx(0.25)
    planted["spectrum"][0, -1, 0] = math.nan
    planted["inner_spectrum"][0, -1, 2, 1] = math.nan
    _, _, rank, waits, inner, _ = study.claims(planted)
    assert math.isnan(inner.measured)
    assert math.isnan(rank.measured)
    assert math.isnan(waits.measured)
    assert not rank.holds
    assert not waits.holds


def test_inner_nodes_of_the_initial_network_by_numpy(record, tolerance):
    settings = study.PRESETS["tiny"]
    tree = rl.ModeTree.adjacent(4, 2)
    net = rl.hierarchical((settings.size,) * 4, settings.width, tree, std=settings.std, seed=0)
    first, second, third, fourth, left, right, _ = (node.detach().numpy() for node in net.nodes)
    found = record.isel(seed=0, row=0)
    for k, (a, b, top) in enumerate(((first, second, left), (third, fourth, right))):
        norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0) * np.linalg.norm(top, axis=1)
        assert np.allclose(found.inner_component[k], np.sort(norms)[::-1][: study.SHOWN], rtol=tolerance["rounding"])
    start = net.tensor().detach().numpy()
    for mode in range(4):
        s = np.linalg.svd(np.moveaxis(start, mode, 0).reshape(4, -1), compute_uv=False)
        assert np.allclose(found.inner_spectrum[mode], s, rtol=0, atol=tolerance["rounding"] * s[0])


def test_measurements_of_rank_one_are_inner_products_with_scaled_outer_products(tolerance):
    settings = study.Settings(size=3, rank=1, width=4, observed=2000, measurements="rank one", seeds=(0,))
    target = rl.targets.hierarchical((3,) * 4, 1, norm=2.0, seed=0)
    task = study._measured(target, settings, seed=0)
    products = torch.einsum("za,zb,zc,zd->zabcd", *task.vectors)
    assert torch.allclose((products * target).sum(dim=(1, 2, 3, 4)), task.values, atol=tolerance["rounding"])
    assert float(products.square().sum(dim=(1, 2, 3, 4)).mean()) == pytest.approx(1.0, rel=DRAWN)
    assert float(task.error(target)) == 0
    with pytest.raises(ValueError, match=r"measurements is 'all'; choose one of entries, rank one"):
        study.Settings(measurements="all")


def test_the_figure_marks_published_norms_only_for_the_published_rank(record):
    ends = study.draw(record).axes[4]
    assert [line.get_label() for line in ends.lines[:3]] == ["root", "inner node 1", "inner node 2"]
    assert not any(line.get_label() == "root, published" for line in ends.lines)
    assert len(study.PUBLISHED) == study.PRESETS["paper"].rank
