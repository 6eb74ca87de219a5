import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens import drawing


def record(**variables):
    return xr.Dataset({"loss": ("time", [1.0, 0.1, 0.01]), **variables}, coords={"time": [0.0, 1.0, 2.0]})


def test_plot_has_a_panel_for_everything_that_depends_on_time():
    run = record(
        many=(("time", "many_0"), np.arange(30.0).reshape(3, 10)),
        matrix=(("time", "matrix_0", "matrix_1"), np.ones((3, 2, 2))),
        state=("state_0", np.ones(4)),
    )
    made = rl.plot(run)
    titles = [axes.get_title(loc="left") for axes in made.axes]
    assert titles == ["loss", "many", "matrix"]
    loss, many, matrix = made.axes
    assert loss.get_yscale() == "log"
    assert len(many.lines) == 10
    assert matrix.lines[0].get_ydata().tolist() == [2.0] * 3
    assert matrix.get_ylabel() == "norm of matrix"


def test_colours_and_styles_are_told_apart():
    assert len(set(drawing.COLOURS)) == len(set(map(str, drawing.STYLES))) == drawing.FEW


def test_long_times_get_a_scale_that_shows_them():
    run = xr.Dataset({"loss": ("time", np.ones(5))}, coords={"time": [0.0, 1.0, 2.0, 3.0, 1e8]})
    assert rl.plot(run).axes[0].get_xscale() == "symlog"
    assert rl.plot(record()).axes[0].get_xscale() == "linear"


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match="a record has one of time, step, distance"):
        rl.plot(xr.Dataset({"x": ("y", [1.0])}))


def test_svg_stands_inside_a_page_and_is_the_same_every_time():
    one, two = (drawing.svg(rl.plot(record())) for _ in range(2))
    assert one.startswith("<svg")
    assert one == two
    assert "time of the gradient flow" in one
