import numpy as np
import pytest
import xarray as xr

import ranklens as rl


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


def test_long_times_get_a_scale_that_shows_them():
    run = xr.Dataset({"loss": ("time", np.ones(5))}, coords={"time": [0.0, 1.0, 2.0, 3.0, 1e8]})
    assert rl.plot(run).axes[0].get_xscale() == "symlog"
    assert rl.plot(record()).axes[0].get_xscale() == "linear"


def test_datasets_that_are_no_records_are_refused():
    with pytest.raises(ValueError, match="a record has one of time, step, distance"):
        rl.plot(xr.Dataset({"x": ("y", [1.0])}))
    with pytest.raises(ValueError, match="run is an empty list"):
        rl.plot([])
    with pytest.raises(ValueError, match="run along step and time"):
        rl.plot([record(), record().rename(time="step")])
    with pytest.raises(ValueError, match="no variable along time in common"):
        rl.plot([record(), record().rename(loss="error")])


def test_a_comparison_has_a_line_per_record_for_every_common_quantity():
    one = record(vector=(("time", "vector_0"), np.full((3, 4), 2.0)), mine=("time", np.ones(3)))
    other = record(vector=(("time", "vector_0"), np.full((3, 9), 1.0)), size=("time", np.ones(3)))
    made = rl.plot([one, other.assign_coords(time=[0.0, 5.0, 6.0])])
    loss, vector = made.axes
    assert [axes.get_title(loc="left") for axes in made.axes] == ["loss", "vector"]
    assert loss.get_yscale() == "log"
    assert [line.get_xdata().tolist() for line in loss.lines] == [[0, 1, 2], [0, 5, 6]]
    assert [line.get_ydata().tolist() for line in vector.lines] == [[4.0] * 3, [3.0] * 3]  # norms of 4 twos, 9 ones
    assert vector.get_ylabel() == "norm of vector"


def names(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_legend_of_a_comparison_says_how_the_records_differ():
    shared = {"loss_function": "mse", "versions": "1"}
    runs = [
        record().assign_attrs(shared, network=network, seconds=seconds)
        for network, seconds in [("cp", 1), ("train", 2)]
    ]
    assert names(rl.plot(runs)) == ["record 0: cp", "record 1: train"]
    seeds = [record().assign_coords(seed=seed) for seed in (3, 5)]
    assert names(rl.plot(seeds)) == ["record 0: seed=3", "record 1: seed=5"]
    assert names(rl.plot([record(), record()])) == ["record 0", "record 1"]


@pytest.mark.parametrize(("stopped", "early"), [("loss", False), ("steps", False), ("steps", True), ("nan", True)])
def test_a_run_that_stopped_before_its_goal_is_marked(stopped, early):
    run = record().assign_attrs(stopped=stopped, early=int(early))
    title = rl.plot(run).get_suptitle()
    assert (title == f"The run stopped before its goal: {stopped}") if early else title == ""
    assert [f"(stopped: {stopped})" in name for name in names(rl.plot([record(), run]))] == [False, early]
