import xarray as xr

import ranklens as rl
from ranklens import drawing


def test_colours_and_styles_are_told_apart():
    assert len(set(drawing.COLOURS)) == len(set(map(str, drawing.STYLES))) == drawing.FEW


def test_svg_stands_inside_a_page_and_is_the_same_every_time():
    record = xr.Dataset({"loss": ("time", [1.0, 0.1, 0.01])}, coords={"time": [0.0, 1.0, 2.0]})
    one, two = (drawing.svg(rl.plot(record)) for _ in range(2))
    assert one.startswith("<svg")
    assert one == two
    assert "time of the gradient flow" in one


def test_a_record_of_one_row_shows_points():
    record = xr.Dataset({"loss": ("time", [1.0])}, coords={"time": [0.0]})
    assert rl.plot(record).axes[0].lines[0].get_marker() == "o"
