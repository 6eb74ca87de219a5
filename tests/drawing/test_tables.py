import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens.drawing import tables


def table(rows=3, **more):
    data = {
        "effective_rank": ("weight", np.arange(1.0, rows + 1)),
        "random_effective_rank": ("weight", np.arange(2.0, rows + 2)),
        "rows": ("weight", np.arange(rows)),
        "name": ("weight", ["x"] * rows),
        "spectrum": (("weight", "value"), np.full((rows, 4), [4.0, 2.0, 1.0, np.nan])),
    }
    return xr.Dataset(data | more, coords={"weight": [f"layer {k}" for k in range(rows)]})


def test_a_table_has_a_panel_per_measure_and_one_for_spectra():
    made = rl.plot(table())
    bars, spectra = made.axes
    assert bars.get_title(loc="left") == "effective rank"
    assert [patch.get_width() for patch in bars.patches] == [1.0, 2.0, 3.0]
    assert bars.lines[0].get_xdata().tolist() == [2.0, 3.0, 4.0]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["layer 0", "layer 1", "layer 2"]
    assert len(spectra.lines) == 3
    assert spectra.lines[0].get_ydata().tolist() == [1.0, 0.5, 0.25]
    assert spectra.get_yscale() == "log"


def test_what_is_not_drawn_is_named(monkeypatch):
    monkeypatch.setattr(tables, "MOST_PANELS", 2)
    more = {f"measure_{k}": ("weight", np.ones(70)) for k in range(tables.MOST_PANELS)}
    made = rl.plot(table(70, **more))
    last = f"measure_{tables.MOST_PANELS - 1}"
    assert made.get_suptitle() == f"not drawn: {last}; {70 - tables.MOST_ROWS} more rows are not drawn"


def test_a_table_with_sizes_alone_shows_them_and_one_without_numbers_is_refused():
    sizes = table().drop_vars(["effective_rank", "random_effective_rank", "spectrum"])
    assert [axes.get_title(loc="left") for axes in rl.plot(sizes).axes] == ["rows"]
    with pytest.raises(ValueError, match="no variable of the table is a number for each weight; it has name"):
        rl.plot(sizes.drop_vars("rows"))


def test_rows_are_found_by_their_coordinate():
    assert tables.rows_of(table()) == "weight"
    assert tables.rows_of(xr.Dataset(coords={"time": [1.0]})) == ""
