import errno
import warnings

import pytest
import torch

import ranklens as rl
from ranklens.sweeps import perform as performing
from ranklens.sweeps.contents import record_of
from ranklens.sweeps.entry import DONE, FAILED
from ranklens.sweeps.perform import Job, lost, perform
from ranklens.sweeps.store import Store
from ranklens.sweeps.work import key_of, work_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def job_of(work, **chosen):
    settings = work.settings(chosen)
    return Job(key_of(work, settings), settings)


def test_a_result_is_kept_once(store):
    calls = []

    def f(x):
        calls.append(x)
        return x + 1.0

    work = work_of(f, "laptop")
    job = job_of(work, x=1)
    assert perform(store, work, job).state == DONE
    assert perform(store, work, job).state == DONE
    assert calls == [1]
    entry = store.entry(job.key)
    assert entry.settings == {"x": 1}
    assert entry.variables["value"].values == 2.0
    assert [path.name for path in store.folder(job.key).iterdir()] == [f"{job.key}.json"]


def test_errors_are_kept_with_their_traceback_and_warnings_with_their_text(store):
    def f(x):
        warnings.warn("look out", stacklevel=1)
        raise OSError(x)

    work = work_of(f, "laptop")
    report = perform(store, work, job_of(work, x="no file"))
    assert report.state == FAILED
    assert report.message == "OSError: no file"
    entry = store.entry(report.key)
    assert "line" in entry.failure
    assert "in f" in entry.failure
    assert entry.warned == ("UserWarning: look out",)


def test_results_that_cannot_be_kept_are_failures(store):
    work = work_of(lambda: None, "laptop")
    assert "the function returned a NoneType" in perform(store, work, job_of(work)).message


def test_a_store_that_cannot_be_written_is_no_failure_of_the_run(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    work = work_of(lambda: 1, "laptop")
    report = perform(store, work, job_of(work))
    assert report.state == "unwritten"
    assert "No space left" in report.message
    assert lost(store, work, job_of(work), "died").state == "unwritten"


def flow():
    net = rl.deep_matrix((3, 3), depth=2, std=0.1)
    return rl.gradient_flow(net, rl.Completion.sample(torch.eye(3), observed=9))


def test_a_run_goes_on_from_its_checkpoint(store, monkeypatch):
    """A store that is full at the tenth checkpoint stands for a process that is killed there."""
    monkeypatch.setattr(performing, "SECONDS", 0.0)
    work, write, count = work_of(flow, "laptop"), store.write, []

    def tenth(key, name, content):
        count.append(name)
        if len(count) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(key, name, content)

    monkeypatch.setattr(store, "write", tenth)
    job = job_of(work)
    assert perform(store, work, job).state == "unwritten"
    kept = thing(store, job, f"{job.key}.run0.nc")
    monkeypatch.setattr(store, "write", write)
    monkeypatch.setattr(performing, "SECONDS", 1e9)
    assert perform(store, work, job).state == DONE
    entry = store.entry(job.key)
    record = record_of(store, entry)
    assert record.time.values[: len(kept.time)].tolist() == kept.time.values.tolist()
    assert record.attrs["steps"] > kept.attrs["steps"] > 5
    assert {path.name for path in store.folder(job.key).iterdir()} == {f"{job.key}.json", entry.record.name}


def test_a_damaged_checkpoint_is_not_used(store, monkeypatch):
    work = work_of(flow, "laptop")
    job = job_of(work)
    store.write(job.key, f"{job.key}.run0.nc", b"damaged")
    assert perform(store, work, job).state == DONE
    assert record_of(store, store.entry(job.key)).attrs["stopped"] == "loss"


def thing(store, job, name):
    return performing.thing_of(store.read(job.key, name))


def test_lost_runs_are_kept_as_failed(store):
    work = work_of(lambda: 1, "laptop")
    job = job_of(work)
    assert lost(store, work, job, "WorkerDied: killed").state == FAILED
    assert store.entry(job.key).error() == "WorkerDied: killed"
    assert perform(store, work, job).state == DONE
