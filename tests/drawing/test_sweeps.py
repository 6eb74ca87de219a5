"""Figures of sweeps: medians and bands over seeds, a line per value, panels, heat maps, marks of early runs."""

import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens.drawing.sweeps import draw_sweep, last_values


def sweep_of(shape, *, early=(), axis="time"):
    """A sweep whose runs rise from 0 to (index of the setting) + seed / 10, in rows of unequal number."""
    names = [*["depth", "std", "kind"][: len(shape) - 1], "seed"]
    rows = 6
    level = np.zeros(shape)
    for k, size in enumerate(shape):
        along = [-1 if k == j else 1 for j in range(len(shape))]
        level = level + np.arange(size).reshape(along) * (1.0 if k < len(shape) - 1 else 0.1)
    values = level[..., None] * np.linspace(0, 1, rows)
    values[..., 0, -1] = np.nan
    at = np.broadcast_to(np.arange(rows, dtype=float), values.shape).copy()
    at[..., 0, -1] = np.nan
    marks = np.zeros(shape, int)
    for index in early:
        marks[index] = 1
    return xr.Dataset(
        {"x": ((*names, "row"), values), "end": (names, level)},
        coords={
            axis: ((*names, "row"), at),
            "early": (names, marks),
            **dict(zip(names, map(np.arange, shape), strict=True)),
        },
        attrs={"swept": names, "solver": "CVODE"},
    )


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def legend(figure):
    return [text.get_text() for made in figure.legends for text in made.get_texts()]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_lines_are_medians_over_seeds_and_a_run_that_has_ended_keeps_its_last_value():
    figure = rl.plot(sweep_of((2, 5)))
    [axes] = figure.axes
    assert legend(figure) == ["depth=0", "depth=1"]
    ends = [line.get_ydata()[-1] for line in lines(axes)]
    assert ends == pytest.approx([0.2, 1.2])  # medians of k + (0, .1, .2, .3, .4) at the end; seed 0 ended at 0.8 k
    assert len(axes.collections) == 2
    assert "median of 5 seeds, bands from the 10% to the 90% quantile" in figure.get_suptitle()
    assert "not drawn: end" in figure.get_suptitle()


def test_a_second_setting_has_panels():
    figure = rl.plot(sweep_of((2, 3, 4), early=[(1, 2, 0)]))
    assert titles(figure) == ["x, std=0", "x, std=1", "x, std=2 (1 of 8 early)"]
    assert [len(lines(axes)) for axes in figure.axes] == [2, 2, 2]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert "1 of 24 runs stopped before their goal" in figure.get_suptitle()


def test_early_runs_are_counted_in_the_legend():
    assert legend(rl.plot(sweep_of((2, 4), early=[(0, 1), (0, 2)]))) == ["depth=0 (2 of 4 early)", "depth=1"]


def test_components_of_one_setting_are_lines():
    data = sweep_of((1, 3)).isel(depth=0)
    data["s"] = data.x * xr.DataArray([3.0, 2.0, 1.0], dims="s_0")
    figure = rl.plot(data[["s"]])
    assert legend(figure) == ["s[0]", "s[1]", "s[2]"]
    figure = rl.plot(sweep_of((2, 3)).assign(s=lambda data: data.x * xr.DataArray([3.0, 4.0], dims="s_0"))[["s"]])
    assert figure.axes[0].get_ylabel() == "norm of s"
    assert lines(figure.axes[0])[1].get_ydata()[-1] == pytest.approx(5 * 1.1)


def test_end_values_are_a_heat_map_over_two_settings():
    figure = rl.plot(sweep_of((2, 3, 5), early=[(1, 2, 0)]), ends=True)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.2", "1.2", "2.2", "1.2", "2.2", "3.2*"]
    assert "* 1 of 30 runs stopped before their goal" in figure.get_suptitle()
    assert titles(figure)[:2] == ["x at the end", "end at the end"]


def test_end_values_against_one_setting_have_bars():
    figure = rl.plot(sweep_of((3, 5))[["end"]])
    [axes] = figure.axes
    assert axes.lines[0].get_ydata() == pytest.approx([0.2, 1.2, 2.2])
    assert axes.get_xlabel() == "depth"


def test_seeds_alone_are_points():
    figure = rl.plot(sweep_of((4,))[["end"]])
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_last_value_is_that_before_the_padding():
    values = xr.DataArray([[1.0, 2.0, np.nan], [3.0, np.nan, 4.0]], dims=("seed", "row"))
    assert last_values(values, "row").values.tolist() == [2.0, 4.0]


def test_runs_of_unlike_lengths_in_time_are_on_a_logarithmic_scale():
    data = sweep_of((2, 3))
    data = data.assign_coords(time=data.time * xr.DataArray([1.0, 1e6], dims="depth"))
    assert rl.plot(data).axes[0].get_xscale() == "log"


def test_sweeps_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match=r"choose a value, such as data.sel\(kind="):
        draw_sweep(sweep_of((2, 2, 2, 2)))
    with pytest.raises(ValueError, match="the runs fill no grid"):
        draw_sweep(xr.Dataset({"x": ("run", [1.0])}, coords={"a": ("run", [1])}, attrs={"swept": ["a"]}))
    with pytest.raises(ValueError, match="no variable has one number per run"):
        draw_sweep(xr.Dataset({"x": (("a", "b"), [[1.0]])}, coords={"a": [1]}, attrs={"swept": ["a"]}))
    with pytest.raises(ValueError, match="this is no sweep"):
        rl.plot(xr.Dataset({"loss": ("time", [1.0])}, coords={"time": [0.0]}), ends=True)


def test_a_selection_of_a_real_sweep_is_drawn():
    data = rl.sweep(
        "matrix_dynamics", over={"depth": [2, 3]}, fixed={"size": 6, "rank": 1, "observed": 30}, preset="tiny", jobs=1
    )
    figure = rl.plot(data.sel(depth=3)[["singular", "error"]])
    assert titles(figure) == ["singular", "error"]
    assert legend(figure)[0] == "singular[0]"
