"""The study's measures on made-up paths, and its targets."""

import numpy as np
import pytest
import xarray as xr

from ranklens.studies.beyond import next_component as study

SETTINGS = study.PRESETS["tiny"]


def path(*points):
    tensors = np.array(points, dtype=float)
    return xr.Dataset(
        {"tensor": (("time", "x"), tensors), "loss": ("time", np.linspace(1, 0, len(points)))},
        {"time": np.arange(len(points), dtype=float)},
    )


def predicted(*points):
    return xr.Dataset({"tensor": (("learned", "x"), np.array([(0.0, 0.0), *points]))})


def test_a_flow_that_passes_all_plateaus_in_order():
    found = path((0, 0), (1, 0), (1, 1))
    assert study.farthest(found, predicted((1, 0), (1, 1))) == 0.0
    assert study.farthest(found, predicted((1, 0.1), (1, 1))) == pytest.approx(0.1 / np.hypot(1, 0.1))


def test_a_flow_in_another_order_misses_one():
    found = path((0, 0), (0, 1), (1, 1))
    assert study.farthest(found, predicted((1, 0), (1, 1))) >= 0.5


def test_times_are_those_midway_between_losses():
    found = path((0, 0), (1, 0), (1, 1))
    stairs = xr.Dataset({"loss": ("learned", [1.0, 0.5, 0.0])})
    np.testing.assert_allclose(study.times(found, stairs), [0.5, 1.5])


@pytest.mark.parametrize("kind", study.FAMILIES)
def test_networks_start_balanced(kind):
    settings = study.Settings()
    net, task = study.problem(settings, kind, 0)
    assert net.shape == task.shape
    assert float(net.imbalance()) <= 1e-9 * max(float(node.detach().square().sum()) for node in net.nodes)
    assert len(task) == round(settings.share * np.prod(task.shape))


def test_plateaus_of_a_loss_between_two_components():
    time = np.linspace(0, 3, 301)
    loss = sum(0.5 / (1 + np.exp(40 * (time - at))) for at in (1.0, 2.0))
    found = xr.Dataset({"loss": ("time", loss)}, {"time": time})
    assert study.plateau_losses(found, np.array([1.0, 2.0])) == pytest.approx([0.5])
    assert not len(study.plateau_losses(found, np.array([1.8, 2.0])))


def test_losses_are_compared_with_the_nearest_and_one_by_one():
    predicted = np.array([1.0, 0.5])
    assert study.farthest_loss(np.array([0.51, 0.49]), predicted) == pytest.approx(0.02)
    assert study.farthest_loss(np.array([]), predicted) == 0.0
    assert study.farthest_loss(predicted, np.array([])) == np.inf
    assert study.paired(np.array([1.02, 0.51]), predicted) == pytest.approx(0.02)
    assert study.paired(np.array([1.0]), predicted) == np.inf
    assert study.paired(np.array([]), np.array([])) == 0.0
