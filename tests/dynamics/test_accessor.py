import xarray as xr

import ranklens as rl
import ranklens.dynamics.accessor


def test_a_record_shows_its_picture_and_says_what_is_in_it():
    run = rl.gradient_flow(rl.deep_matrix((2, 2), 2, std=0.1), rl.Completion.counterexample(), until_time=1.0)
    assert run.rl._repr_svg_().startswith("<svg")
    assert [axes.get_title(loc="left") for axes in run.rl.plot().axes] == ["loss"]
    assert repr(run.rl).startswith("<picture of loss along time: ")


def test_a_dataset_that_cannot_be_drawn_shows_text():
    nothing = xr.Dataset({"x": ("y", [1.0])})
    assert nothing.rl._repr_svg_() is None
    assert repr(nothing.rl) == "<picture of x along y: run.rl.plot() returns it>"
