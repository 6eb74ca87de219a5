import numpy as np
import pytest

import ranklens as rl


def f(a, b=0, seed=0):
    return {"x": 100.0 * a + 10 * b + seed}


def test_a_full_grid_is_a_grid(tmp_path):
    data = rl.sweep(f, over={"a": [2, 1], "seed": range(3)}, store=tmp_path / "s", jobs=1)
    opened = rl.open_store(tmp_path / "s")
    assert opened.x.dims == ("a", "seed")
    np.testing.assert_array_equal(opened.x, data.sortby("a").x)
    assert opened.to_dataframe().x.loc[(2, 1)] == 201.0


def test_cells_that_are_missing_are_nan(tmp_path):
    for a, seeds in ((1, 3), (2, 2)):
        rl.sweep(f, over={"a": [a], "seed": range(seeds)}, store=tmp_path / "s", jobs=1)
    opened = rl.open_store(tmp_path / "s")
    np.testing.assert_array_equal(opened.x, [[100, 101, 102], [200, 201, np.nan]])
    assert opened.stopped.values[1].tolist() == ["done", "done", "missing"]


def test_runs_that_fill_no_grid_are_a_list(tmp_path):
    for k in range(5):
        rl.sweep(f, over={"a": [k], "b": [k * k], "seed": [-k]}, store=tmp_path / "s", jobs=1)
    opened = rl.open_store(tmp_path / "s")
    assert opened.x.dims == ("run",)
    np.testing.assert_array_equal(opened.x, 100.0 * opened.a + 10 * opened.b + opened.seed)


def test_one_of_several_functions_is_chosen(tmp_path):
    def g(a):
        return a * 1.0

    rl.sweep(f, over={"a": [1, 2]}, store=tmp_path / "s", jobs=1)
    rl.sweep(g, over={"a": [1]}, store=tmp_path / "s", jobs=1)
    with pytest.raises(ValueError, match="name one of them in what="):
        rl.open_store(tmp_path / "s")
    assert rl.open_store(tmp_path / "s", what="test_opened.f").x.values.tolist() == [100.0, 200.0]
    assert rl.open_store(tmp_path / "s", what="g").value.shape == ()
    with pytest.raises(ValueError, match="chooses 0 of them"):
        rl.open_store(tmp_path / "s", what="h")


def test_runs_of_earlier_code_are_left_out(tmp_path):
    def version(factor):
        def f(a):
            return a * factor

        return f

    for factor, values in ((2.0, [1, 2, 3]), (3.0, [1, 2])):
        rl.sweep(version(factor), over={"a": values}, store=tmp_path / "s", jobs=1)
    found = rl.open_store(tmp_path / "s").value.values.tolist()
    assert found in ([2.0, 4.0, 6.0], [3.0, 6.0])


def test_a_setting_of_one_value_has_its_singular_name(tmp_path):
    rl.sweep(
        "matrix_dynamics",
        over={"seed": [1, 2]},
        fixed={"size": 6, "rank": 1, "observed": 30},
        preset="tiny",
        store=tmp_path / "s",
        jobs=1,
    )
    assert rl.open_store(tmp_path / "s").seed.values.tolist() == [1, 2]


def test_there_must_be_a_store_with_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store"):
        rl.open_store(tmp_path / "none")
    rl.sweep(f, over={"a": [1]}, store=tmp_path / "s", jobs=1)
    for path in (tmp_path / "s" / "runs").glob("*/*.json"):
        path.unlink()
    with pytest.raises(ValueError, match="the store has runs of nothing"):
        rl.open_store(tmp_path / "s")
