import numpy as np
import pytest

from ranklens.sweeps.grid import grid_of, labels_of, words


def test_cells_are_all_combinations_and_the_last_setting_changes_fastest():
    grid = grid_of({"depth": [2, 3], "std": np.geomspace(1e-3, 1e-1, 3), "seed": range(2)})
    assert grid.shape == (2, 3, 2)
    cells = grid.cells()
    assert len(cells) == 12
    assert cells[1] == {"depth": 2, "std": pytest.approx(1e-3), "seed": 1}
    assert {type(value) for cell in cells for value in cell.values()} == {int, float}


def test_labels_are_values_or_json():
    assert labels_of((1, 2.5)).tolist() == [1.0, 2.5]
    assert labels_of(("a", "b")).tolist() == ["a", "b"]
    assert labels_of(((8, 8), None, True, "a")).tolist() == ["[8, 8]", "null", "true", "a"]


def test_words_are_short():
    assert words({"std": 0.1 + 0.2, "shape": (8, 8), "name": "a"}) == "std=0.3, shape=(8, 8), name=a"


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({}, "over is empty"),
        ({"a": []}, "has no values"),
        ({"a": [1, 2, 1]}, "has 1 twice"),
        ({"a": [1, 1.0]}, "twice"),
        ({"a": [0.5, np.float64(0.5)]}, "twice"),
    ],
)
def test_grids_that_make_no_sense_are_refused(over, message):
    with pytest.raises(ValueError, match=message):
        grid_of(over)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1}])
def test_values_that_are_no_settings_are_refused(value):
    with pytest.raises(TypeError, match="setting 'a' is a"):
        grid_of({"a": [value]})


def test_a_text_is_no_list_of_values():
    with pytest.raises(TypeError, match=r"pass a list of values, such as \['adam'\]"):
        grid_of({"a": "adam"})
