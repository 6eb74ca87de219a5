"""Processes that die: a worker, the driver, by a signal or by themselves; and two sweeps on one store."""

import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import ranklens as rl
from ranklens.sweeps.store import Store
from ranklens.sweeps.sweep import RunsFailed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def dying(folder):
    """A function that kills its process at every call with a = 2 and b = 1, and at the first with a = 3."""
    folder = str(folder)

    def f(a, b=0):
        import os
        import signal

        with open(f"{folder}/calls", "a") as file:
            file.write(f"{a} {b}\n")
        first = not os.path.exists(f"{folder}/died")
        if (a, b) == (2, 1) or (a == 3 and first):
            open(f"{folder}/died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return a * 10.0 + b

    return f


def calls(folder):
    return (folder / "calls").read_text().split("\n")[:-1]


def test_a_run_whose_process_dies_is_made_again_and_the_others_are_not_touched(tmp_path):
    data = rl.sweep(dying(tmp_path), over={"a": [1, 2, 3, 4]}, store=tmp_path / "s", jobs=2)
    assert data.value.values.tolist() == [10.0, 20.0, 30.0, 40.0]
    assert sorted(calls(tmp_path)) == ["1 0", "2 0", "3 0", "3 0", "4 0"]


@pytest.mark.slow
def test_a_run_whose_process_dies_every_time_is_kept_as_failed(tmp_path):
    (tmp_path / "died").touch()
    with pytest.warns(RunsFailed, match=r"1 of 3 runs failed: a=2 \(WorkerDied: its process died 3 times"):
        data = rl.sweep(dying(tmp_path), over={"a": [1, 2, 3]}, fixed={"b": 1}, store=tmp_path / "s", jobs=2)
    np.testing.assert_array_equal(data.value, [11, np.nan, 31])
    assert calls(tmp_path).count("2 1") == 3


DRIVER = textwrap.dedent(
    """
    import signal, sys, time
    import ranklens as rl

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell switches off for background jobs

    def slow(a):
        with open(sys.argv[2], "a") as file:
            file.write(f"{a}\\n")
        time.sleep(0.05)
        return {"x": a * 10.0, "net": rl.cp((3, 3, 3), rank=1, seed=a)}

    data = rl.sweep(slow, over={"a": range(int(sys.argv[3]))}, store=sys.argv[1], jobs=int(sys.argv[4]))
    print(data.x.sum().item())
    """
)


def driver(folder, count, jobs):
    arguments = [sys.executable, folder / "driver.py", folder / "s", folder / "calls", str(count), str(jobs)]
    (folder / "driver.py").write_text(DRIVER)
    return subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    """Wait until something is so, without an end: a test that hangs is ended from outside."""
    while not condition():
        time.sleep(0.01)


def check(folder, count):
    """Every run is in the store once, whole, with the result of its settings."""
    store = Store(folder / "s", create=False)
    entries = list(store.entries())
    assert sorted(entry.settings["a"] for entry in entries) == list(range(count))
    assert all(store.is_whole(entry) for entry in entries)
    assert all(entry.variables["x"].values == entry.settings["a"] * 10.0 for entry in entries)
    assert not [why for _, why in store.all_entries() if isinstance(why, str)]
    left = [path.name for path in (folder / "s").glob("runs/*/*") if path.name.startswith(".")]
    assert not left


def test_a_driver_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path):
    count = 12
    with driver(tmp_path, count, jobs=1) as killed:
        wait_for(lambda: (tmp_path / "calls").exists() and len(calls(tmp_path)) >= 4)
        killed.kill()
    with driver(tmp_path, count, jobs=1) as second:
        assert second.communicate()[0].strip() == str(float(sum(range(count)) * 10))
    check(tmp_path, count)
    assert len(calls(tmp_path)) <= count + 1  # the one that ran when the driver was killed


@pytest.mark.slow
def test_a_driver_that_is_killed_at_random_moments_loses_nothing(tmp_path):
    """Its workers end within a second of it, and the store has every run once whatever they were doing."""
    count, moments, kills = 120, random.Random(5), 20
    for _ in range(kills):
        with driver(tmp_path, count, jobs=2) as killed:
            before = len(calls(tmp_path)) if (tmp_path / "calls").exists() else 0
            wait_for(
                lambda before=before: (
                    killed.poll() is not None or ((tmp_path / "calls").exists() and len(calls(tmp_path)) > before)
                )
            )
            time.sleep(moments.uniform(0.0, 0.4))
            killed.kill()
    with driver(tmp_path, count, jobs=2) as last:
        assert last.communicate()[0].strip() == str(float(sum(range(count)) * 10))
    check(tmp_path, count)
    assert len(calls(tmp_path)) <= count + 2 * kills


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_ends_workers_and_says_how_to_go_on(tmp_path):
    with driver(tmp_path, 400, jobs=2) as stopped:
        wait_for(lambda: (tmp_path / "calls").exists() and len(calls(tmp_path)) >= 6)
        stopped.send_signal(signal.SIGINT)
        _, errors = stopped.communicate()
    assert stopped.returncode != 0
    assert "runs are kept in" in errors
    assert "the same call goes on with the others" in errors
    ended = len(calls(tmp_path))
    time.sleep(1.0)
    assert len(calls(tmp_path)) == ended
    assert not list((tmp_path / "s").glob("runs/*/.*"))


@pytest.mark.slow
def test_two_sweeps_share_a_store(tmp_path):
    count = 60
    with driver(tmp_path, count, jobs=2) as one, driver(tmp_path, count, jobs=2) as other:
        assert one.communicate()[0] == other.communicate()[0] == f"{sum(range(count)) * 10.0}\n"
    check(tmp_path, count)
    assert sorted(map(int, calls(tmp_path))) == list(range(count))


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_and_leaves_whole_files(tmp_path):
    """A limit on the size of files stands for a full disk: both are an OSError in write."""
    text = textwrap.dedent(
        """
        import resource, sys
        import numpy as np
        import ranklens as rl
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        def f(a):
            return {"x": np.zeros(100 if a < 2 else 10**5)}
        rl.sweep(f, over={"a": [0, 1, 2, 3]}, store=sys.argv[1], jobs=1)
        """
    )
    answer = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "File too large" in answer.stderr
    store = Store(tmp_path / "s", create=False)
    assert all(store.is_whole(entry) or entry.state == "failed" for entry in store.entries())
    assert not [why for _, why in store.all_entries() if isinstance(why, str)]


@pytest.mark.slow
def test_ten_thousand_tiny_runs(tmp_path):
    def f(a, b):
        return a * 100.0 + b

    data = rl.sweep(f, over={"a": range(100), "b": range(100)}, store=tmp_path / "s", jobs=1)
    np.testing.assert_array_equal(data.value, np.arange(10_000.0).reshape(100, 100))
    assert rl.open_store(tmp_path / "s").value.sum() == sum(range(10_000))
