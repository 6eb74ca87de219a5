"""Sweeps: what is run, what is reused, what is warned of, and what is left after an end of any kind."""

import ast
import os
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.dynamics.record import StoppedEarly
from ranklens.sweeps import local
from ranklens.sweeps.contents import network_of
from ranklens.sweeps.store import Store
from ranklens.sweeps.sweep import RunsFailed, SweepInterrupted

# Evaluations after which the flow of depth 2 below has reached its loss, and that of depth 3 has not.
UNTIL = 250


def flow(depth, seed, until_evaluations=None):
    net = rl.deep_matrix((3, 3), depth=depth, std=0.3, seed=seed)
    task = rl.Completion.sample(torch.diag(torch.tensor([3.0, 2.0, 1.0])), observed=9)
    return rl.gradient_flow(net, task, until_evaluations=until_evaluations, until_loss=1e-3)


class Calls:
    """A file that lists the calls of a function. What a file holds is no part of the identity of the function."""

    def __init__(self, folder):
        self.path = str(folder / "calls")
        self.wrong = str(folder / "wrong")  # while this file exists, the functions below fail

    def add(self, *values):
        with open(self.path, "a") as file:
            file.write(f"{values}\n")

    def list(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path) as file:
            return [ast.literal_eval(line) for line in file]


def counted(folder):
    calls = Calls(folder)

    def f(a, b=1):
        calls.add(a, b)
        return a * 10.0 + b

    return f, calls


def test_a_sweep_is_the_runs_one_by_one():
    data = rl.sweep(flow, over={"depth": [2, 3], "seed": range(2)}, jobs=1)
    assert data.loss.dims == ("depth", "seed", "row")
    for depth in (2, 3):
        for seed in (0, 1):
            alone, found = flow(depth, seed), data.sel(depth=depth, seed=seed)
            count = alone.sizes["time"]
            assert found.loss.values[:count].tolist() == alone.loss.values.tolist()
            assert found.time.values[:count].tolist() == alone.time.values.tolist()
            assert np.isnan(found.loss.values[count:]).all()
            assert int(found.evaluations) == alone.attrs["evaluations"]
    assert (data.stopped == "loss").all()
    assert data.attrs["what"].endswith("test_sweep.flow")


def test_runs_that_stop_early_are_named():
    with pytest.warns(StoppedEarly, match=r"1 of 2 runs stopped before their goal: depth=3 \(evaluations\)"):
        data = rl.sweep(flow, over={"depth": [2, 3]}, fixed={"seed": 0, "until_evaluations": UNTIL}, jobs=1)
    assert data.stopped.values.tolist() == ["loss", "evaluations"]
    assert data.early.values.tolist() == [0, 1]


def test_cells_that_are_added_later_reuse_the_others(tmp_path):
    f, calls = counted(tmp_path)
    rl.sweep(f, over={"a": [1, 2]}, store=tmp_path / "s", jobs=1)
    data = rl.sweep(f, over={"a": [1, 2, 3], "b": [1, 5]}, store=tmp_path / "s", jobs=1)
    assert calls.list() == [(1, 1), (2, 1), (1, 5), (2, 5), (3, 1), (3, 5)]
    np.testing.assert_array_equal(data.value, [[11, 15], [21, 25], [31, 35]])
    rl.sweep(f, over={"b": [5]}, fixed={"a": 3}, store=tmp_path / "s", jobs=1)
    assert len(calls.list()) == 6


def test_without_a_store_nothing_is_reused_and_nothing_left(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "empty"))
    f, calls = counted(tmp_path)
    for _ in range(2):
        rl.sweep(f, over={"a": [1]}, jobs=1)
    assert len(calls.list()) == 2
    assert not list((tmp_path / "empty").iterdir())


def test_failed_and_damaged_runs_are_made_again(tmp_path):
    calls = Calls(tmp_path)
    wrong = tmp_path / "wrong"
    wrong.touch()

    def f(a):
        calls.add(a)
        if a == 2 and os.path.exists(calls.wrong):
            raise ValueError("not yet")
        return xr.Dataset({"x": ("n", np.full(100, float(a)))})

    with pytest.warns(RunsFailed, match="not yet"):
        rl.sweep(f, over={"a": [1, 2, 3]}, store=tmp_path / "s", jobs=1)
    wrong.unlink()
    store = Store(tmp_path / "s")
    third = next(entry for entry in store.entries() if entry.settings["a"] == 3)
    (store.folder(third.key) / third.record.name).write_bytes(b"")
    data = rl.sweep(f, over={"a": [1, 2, 3]}, store=tmp_path / "s", jobs=1)
    assert calls.list() == [(1,), (2,), (3,), (2,), (3,)]
    assert data.x[:, 0].values.tolist() == [1, 2, 3]


def test_warnings_of_runs_are_given_once():
    def f(a):
        warnings.warn("rough", stacklevel=1)
        return a

    with pytest.warns(UserWarning, match="3 of 3 runs warned: UserWarning: rough"):
        rl.sweep(f, over={"a": [1, 2, 3]}, jobs=1)


def test_progress_tells_how_far_and_how_long():
    lines = []
    rl.sweep(lambda a: a, over={"a": [1, 2, 3]}, jobs=1, progress=lines.append)
    assert lines[0] == "0 of 3 runs"
    assert lines[1].startswith("1 of 3 runs, about ")
    assert lines[-1] == "3 of 3 runs"


def test_ctrl_c_keeps_what_has_ended_and_says_how_to_go_on(tmp_path):
    calls = Calls(tmp_path)
    wrong = tmp_path / "wrong"
    wrong.touch()

    def f(a):
        calls.add(a)
        if a == 3 and os.path.exists(calls.wrong):
            raise KeyboardInterrupt
        return a * 1.0

    with pytest.raises(SweepInterrupted, match=r"2 of 4 runs are kept in .*, and the same call goes on") as caught:
        rl.sweep(f, over={"a": [1, 2, 3, 4]}, store=tmp_path / "s", jobs=1)
    np.testing.assert_array_equal(caught.value.record.value, [1, 2, np.nan, np.nan])
    assert caught.value.record.stopped.values.tolist() == ["done", "done", "missing", "missing"]
    assert not list((tmp_path / "s").glob("runs/*/.*"))
    wrong.unlink()
    assert rl.sweep(f, over={"a": [1, 2, 3, 4]}, store=tmp_path / "s", jobs=1).value.sum() == 10
    assert calls.list() == [(1,), (2,), (3,), (3,), (4,)]
    wrong.touch()
    with pytest.raises(SweepInterrupted, match="pass store=FOLDER") as caught:
        rl.sweep(f, over={"a": [1, 2, 3, 4]}, jobs=1)
    assert caught.value.record.value[1] == 2


def test_a_store_that_is_removed_or_lost_is_an_error(tmp_path):
    def f(a):
        if a == 2:
            (tmp_path / "s" / "store.json").unlink()
        return a

    with pytest.raises(OSError, match=r"cannot be written .*has been removed.*1 of 3 runs are kept"):
        rl.sweep(f, over={"a": [1, 2, 3]}, store=tmp_path / "s", jobs=1)


def test_a_run_of_another_sweep_is_waited_for(tmp_path, monkeypatch):
    """Another sweep holds the first run, and ends it while this one makes the others."""
    monkeypatch.setattr(local, "PATIENCE", 0.0)
    claim, busy = Store.claim, [3]
    f, calls = counted(tmp_path)

    def claimed(store, key):
        if busy[0]:
            busy[0] -= 1
            return False
        return claim(store, key)

    monkeypatch.setattr(Store, "claim", claimed)
    data = rl.sweep(f, over={"a": [1, 2]}, store=tmp_path / "s", jobs=1)
    assert sorted(calls.list()) == [(1, 1), (2, 1)]
    assert data.value.values.tolist() == [11.0, 21.0]


def test_networks_stay_in_the_store(tmp_path):
    def f(rank):
        net = rl.cp((3, 3, 3), rank=rank)
        return {"net": net, "norm": float(net.tensor().detach().norm())}

    data = rl.sweep(f, over={"rank": [1, 2]}, store=tmp_path / "s", jobs=1)
    assert list(data.data_vars) == ["norm"]
    store = Store(tmp_path / "s")
    assert {network_of(store, entry, "net").nodes[0].shape[-1] for entry in store.entries()} == {1, 2}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: rl.sweep(f, over={"c": [1]}, jobs=1), ValueError, "has no argument 'c'"),
        (lambda f: rl.sweep(f, over={"a": [1]}, fixed={"a": 2}), ValueError, "both in over and in fixed"),
        (lambda f: rl.sweep(f, over={"a": [1]}, executor="slurm"), ValueError, "choose 'local' or 'ray'"),
        (lambda f: rl.sweep(f, over={"a": [1]}, jobs=0), ValueError, "jobs is 0"),
        (lambda f: rl.sweep("none", over={"a": [1]}), ValueError, "there is no study 'none'"),
        (lambda f: rl.sweep(int, over={"a": [1]}), TypeError, "pass a function, or the name of a study"),
        (lambda f: rl.sweep(f, over={"a": [1]}, executor="ray", address="ray://x:1"), ValueError, "the Ray client"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(counted(tmp_path)[0])


def test_settings_that_are_one_run_are_refused():
    """A study holds a single value of a tuple as a tuple."""
    with pytest.raises(ValueError, match=r"two combinations of over give one run, .*seeds"):
        rl.sweep("matrix_dynamics", over={"seeds": [1, (1,)]}, preset="tiny", jobs=1)
