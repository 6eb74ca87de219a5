"""Runs of unequal length, kinds and states as one Dataset."""

import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens.files import hdf5_check

# Settings with which a run of the study takes a fraction of a second.
SMALL = {"size": 6, "rank": 1, "observed": 30}


def rows(count, step):
    return np.arange(count) * step


def test_records_along_unequal_times_are_padded_rows():
    def f(n):
        return xr.Dataset({"x": ("time", rows(n, 1.0) + n)}, coords={"time": rows(n, 1.0 / n)})

    data = rl.sweep(f, over={"n": [2, 3]}, jobs=1)
    assert data.x.dims == ("n", "row")
    np.testing.assert_array_equal(data.x, [[2, 3, np.nan], [3, 4, 5]])
    np.testing.assert_array_equal(data.time, [[0, 1 / 2, np.nan], [0, 1 / 3, 2 / 3]])


def test_records_along_the_first_of_common_steps_keep_their_steps():
    def f(n):
        return xr.Dataset({"x": ("step", rows(n, 1.0))}, coords={"step": rows(n, 25)})

    data = rl.sweep(f, over={"n": [2, 4]}, jobs=1)
    assert data.step.values.tolist() == [0, 25, 50, 75]
    np.testing.assert_array_equal(data.x, [[0, 1, np.nan, np.nan], [0, 1, 2, 3]])


def test_kinds_of_values_are_kept_unless_they_are_padded():
    def f(n):
        words = np.array(["a", "bb"][:n], dtype=object)
        whole = {"count": n, "yes": True, "word": "w" * n}
        return {"list": np.arange(n), **whole} if n < 9 else {"words": words}

    data = rl.sweep(f, over={"n": [1, 2]}, jobs=1)
    assert data["count"].dtype == int
    assert data.yes.dtype == bool
    assert data.word.values.tolist() == ["w", "ww"]
    np.testing.assert_array_equal(data.list, [[0, np.nan], [0, 1]])


def test_words_and_booleans_of_files_come_back():
    def f(n):
        long = {"long": ("m", np.zeros(100)), "words": ("k", ["a", "bcd"]), "yes": ("k", [True, False])}
        return xr.Dataset({**long, "when": ("k", np.array(["2026-01-01", "2026-01-02"], "datetime64[ns]"))})

    data = rl.sweep(f, over={"n": [1, 2]}, jobs=1)
    assert data.words.values.tolist() == [["a", "bcd"]] * 2
    assert data.yes.values.tolist() == [[True, False]] * 2
    assert str(data.when.values[1, 1])[:10] == "2026-01-02"


def test_variables_that_do_not_fit_together_are_listed():
    def f(n):
        return xr.Dataset({"a": (("u", "v")[:n], np.zeros((3, 3)[:n])), "b": 1.0, "state": ("state_0", np.zeros(n))})

    data = rl.sweep(f, over={"n": [1, 2]}, jobs=1)
    assert list(data.data_vars) == ["b"]
    left_out = dict(line.split(": ") for line in data.attrs["left_out"])
    assert left_out["a"] == "its dimensions differ between runs"
    assert left_out["state"].startswith("a state to resume from")


def test_missing_and_failed_runs_are_nan_and_say_why():
    def f(n):
        if n == 2:
            raise ZeroDivisionError("two")
        return {"x": n}

    with pytest.warns(UserWarning, match=r"1 of 3 runs failed: n=2 \(ZeroDivisionError: two\)"):
        data = rl.sweep(f, over={"n": [1, 2, 3]}, jobs=1)
    np.testing.assert_array_equal(data.x, [1, np.nan, 3])
    assert data.stopped.values.tolist() == ["done", "failed", "done"]
    assert data.failure.values.tolist() == ["", "ZeroDivisionError: two", ""]
    assert data.early.values.tolist() == [0, 1, 0]


def test_a_dimension_of_a_study_that_is_swept_is_dropped():
    data = rl.sweep("matrix_dynamics", over={"seed": [3, 5]}, fixed=SMALL, preset="tiny", jobs=1)
    assert data.seed.values.tolist() == [3, 5]
    assert data.singular.dims == ("seed", "row", "singular_0")
    assert data.stopped.values.tolist() == ["loss", "loss"]
    alone = rl.sweep("matrix_dynamics", over={"seed": [5]}, fixed=SMALL, preset="tiny", jobs=1)
    count = alone.sizes["row"]
    np.testing.assert_array_equal(data.loss[1, :count], alone.loss[0])
    assert np.isnan(data.loss[1, count:]).all()


def test_values_are_read_when_they_are_used(tmp_path):
    def f(n, m):
        return xr.Dataset({"x": (("p", "q"), np.full((n, 70), n + 10.0 * m))})

    whole = rl.sweep(f, over={"n": [1, 2, 3], "m": [0, 1]}, store=tmp_path / "s", jobs=1)
    lazy = rl.open_store(tmp_path / "s")
    assert lazy.x[2, 1, 1, 5].item() == 13.0
    np.testing.assert_array_equal(lazy.x.isel(m=1, q=[3, 1]), whole.x.isel(m=1, q=[3, 1]))
    np.testing.assert_array_equal(lazy.x.isel(p=slice(None, None, -1)), whole.x[:, :, ::-1])
    path = next((tmp_path / "s").glob("runs/*/*.nc"))
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged or missing"):
        rl.open_store(tmp_path / "s").x.load()


def test_records_are_tried_before_they_are_read_unless_the_sweep_has_written_them(tmp_path, monkeypatch):
    def f(n):
        return xr.Dataset({"x": ("p", np.full(70, n))})

    tried = []
    monkeypatch.setattr(hdf5_check, "check", lambda paths: tried.extend(paths) or dict.fromkeys(paths, ""))
    rl.sweep(f, over={"n": [1, 2]}, store=tmp_path / "s", jobs=1)
    assert not tried
    data = rl.sweep(f, over={"n": [1, 2, 3]}, store=tmp_path / "s", jobs=1)
    assert len(set(tried)) == 2
    assert data.x[:, 0].values.tolist() == [1, 2, 3]
    monkeypatch.setattr(hdf5_check, "check", lambda paths: dict.fromkeys(paths, "it is harmful"))
    with pytest.raises(ValueError, match="cannot be read: it is harmful"):
        rl.open_store(tmp_path / "s").x.load()
