import numpy as np
import pytest
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


@pytest.mark.parametrize(("x", "place"), [(0.1, "left"), (0.5, "center"), (0.9, "right")])
def test_a_note_runs_to_the_middle_of_the_panel_in_a_darker_shade_of_its_line(x, place):
    _, [axes] = drawing.figure()
    axes.plot([0.0, 1.0], [1.0, 1.0], color="#ff0000", label="flat")
    axes.set_ylim(0.0, 4.0)
    drawing.note(axes, "some words", x, "flat")
    [text] = axes.texts
    assert (text.get_ha(), text.get_color(), text.xy) == (place, "#a60000", (x, pytest.approx(0.25)))


def test_a_note_keeps_clear_of_the_whole_line_above_or_below_it():
    _, [axes] = drawing.figure()
    axes.loglog([1.0, 10.0, 100.0], [1.0, np.nan, 100.0], label="rising")
    axes.set_xlim(1.0, 100.0)
    axes.set_ylim(1.0, 100.0)
    for side in ("above", "below"):
        drawing.note(axes, "ten letters", 0.5, "rising", side=side)
    above, below = (text.xy[1] for text in axes.texts)
    assert below < 0.45
    assert above > 0.55
    assert above + below == pytest.approx(1.0)


def test_a_note_of_a_line_across_the_panel_stands_at_its_height():
    _, [axes] = drawing.figure()
    axes.axhline(3.0, label="bound")
    axes.set_ylim(0.0, 4.0)
    drawing.note(axes, "never above", 0.9, "bound")
    assert axes.texts[0].xy == (0.9, pytest.approx(0.75))


def test_a_note_of_a_line_that_is_not_there_is_refused():
    _, [axes] = drawing.figure()
    axes.plot([0.0, 1.0], [0.0, 1.0], label="depth 2")
    with pytest.raises(ValueError, match="no line 'depth 3'; its lines are 'depth 2'"):
        drawing.note(axes, "stops", 0.5, "depth 3")
