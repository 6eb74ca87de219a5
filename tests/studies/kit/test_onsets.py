"""Onsets and waits on curves whose answer is read off by hand."""

import numpy as np
import pytest
import xarray as xr

from ranklens.studies.kit import onsets

TIME = np.arange(6.0)
WAITS = np.array([[0, 0], [1, 0], [10, 0], [10, 0.5], [10, 4], [10, 5.0]])


def test_increments_by_hand():
    assert onsets.increments(TIME, WAITS, 2) == 1
    on, nearly = onsets.onsets(TIME, WAITS, 2)
    assert on.tolist() == [1, 3]
    assert nearly.tolist() == [2, 5]
    together = np.stack([WAITS[:, 0], WAITS[:, 0]], axis=1)
    assert onsets.increments(TIME, together, 2) == 0


def test_the_gap_is_the_next_value_over_the_last():
    assert onsets.gap(np.array([[3.0, 0.3, 6.0]]), 2) == pytest.approx(0.1)


def test_the_gap_after_a_value_of_zero_or_of_nan_is_nan():
    found = onsets.gap(np.array([[2.0, 0.0, 0.0], [2.0, 1.0, np.nan], [2.0, 1.0, 0.0]]), 2)
    assert found == pytest.approx([np.nan, np.nan, 0.0], nan_ok=True)


def test_the_distance_of_a_straight_flow_is_its_length():
    """For the loss x^2 / 2 and dx / dt = -x from x = 1, the parameter travels 1 - exp(-t)."""
    time = np.linspace(0, 3, 3001)
    run = xr.Dataset({"loss": ("time", np.exp(-2 * time) / 2)}, coords={"time": time})
    assert onsets.distance(run)[-1] == pytest.approx(1 - np.exp(-3), rel=1e-4)


def test_the_figure_of_learning_names_the_learned_components():
    time = np.linspace(0, 1, 5)
    sizes = np.stack([time, time / 2, 0 * time], axis=1)[None]
    record = xr.Dataset(
        {"size": (("seed", "row", "size_0"), sizes), "error": (("seed", "row"), 1 - time[None])},
        coords={"seed": [7], "time": (("seed", "row"), time[None])},
    )
    curves, errors = onsets.draw_learning(record, "size", "component norm", 2, 0.3).axes
    names = [text.get_text() for text in curves.get_legend().get_texts()]
    assert names == ["component norm 1", "component norm 2", "all others: not learned"]
    assert curves.get_ylabel() == "component norm"
    assert errors.get_title(loc="left") == "Recovery from 30% of the entries"
