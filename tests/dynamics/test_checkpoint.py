"""Checkpoints: a computation that dies anywhere goes on from what was kept, and ends as if it had not died."""

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.dynamics import checkpoint


class Memory:
    """Keeps records in a dictionary, and raises after a number of them, as a process that is killed."""

    def __init__(self, most=10**9, seconds=0.0):
        self.kept, self.most, self.seconds, self.writes = {}, most, seconds, 0

    def find(self, name):
        return self.kept.get(name)

    def keep(self, name, record):
        self.kept[name] = record.copy(deep=True)
        self.writes += 1
        if self.writes == self.most:
            raise SystemExit("killed")


def flow(std=0.3, **options):
    net = rl.deep_matrix((3, 3), depth=2, std=std)
    task = rl.Completion.sample(torch.diag(torch.tensor([3.0, 2.0, 1.0])), observed=9)
    run = rl.gradient_flow(net, task, track={"s": lambda net: rl.singular_values(net.tensor())}, **options)
    return run, net


def descent(**options):
    net = rl.deep_matrix((3, 3), depth=2, std=0.3)
    task = rl.Completion.sample(torch.diag(torch.tensor([3.0, 2.0, 1.0])), observed=9)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    return rl.gradient_descent(net, task, optimizer, steps=103, every=10, batch_size=4, **options), net


def killed_and_again(function, most):
    memory = Memory(most)
    with pytest.raises(SystemExit), checkpoint.keeping(memory):
        function()
    memory.most = 10**9
    with checkpoint.keeping(memory):
        return function(), memory


@pytest.mark.parametrize("most", [1, 4, 9])
def test_a_descent_that_was_killed_ends_bit_by_bit_as_if_it_had_not_been(most):
    (run, net), _ = killed_and_again(descent, most)
    expected, there = descent()
    xr.testing.assert_identical(run.drop_attrs(), expected.drop_attrs())
    assert torch.equal(net.tensor(), there.tensor())
    assert run.attrs["stopped"] == expected.attrs["stopped"]
    assert run.attrs["evaluations"] == expected.attrs["evaluations"]


@pytest.mark.parametrize("most", [1, 5, 20])
def test_a_flow_that_was_killed_ends_within_the_error_of_the_solver(most, tolerance):
    (run, _), _ = killed_and_again(flow, most)
    expected, _ = flow()
    assert run.attrs["stopped"] == "loss"
    assert (np.diff(run.time) > 0).all()
    assert np.allclose(run.s[-1], expected.s[-1], rtol=tolerance["flow"])
    assert float(run.time[-1]) == pytest.approx(float(expected.time[-1]), rel=tolerance["flow"])


@pytest.mark.parametrize("most", [2, 7, 13])
def test_a_killed_flow_is_recorded_at_the_given_times_and_no_others(most, tolerance):
    times = np.linspace(0.3, 3.0, 5)
    (run, _), _ = killed_and_again(lambda: flow(times=times), most)
    expected, _ = flow(times=times)
    assert run.time.values.tolist() == expected.time.values.tolist() == [0.0, *times]
    assert np.allclose(run.s, expected.s, rtol=tolerance["flow"])


def test_runs_that_had_ended_are_not_run_again():
    def both():
        return flow(until_loss=1e-2), descent()

    expected, there = flow(until_loss=1e-2)
    ((first, net), (second, _)), memory = killed_and_again(both, expected.sizes["time"] + 3)
    assert set(memory.kept) == {"run0", "run1"}
    assert first.loss.values.tolist() == expected.loss.values.tolist()
    assert torch.equal(net.tensor(), there.tensor())
    assert second.loss.values.tolist() == descent()[0].loss.values.tolist()


def test_ended_runs_are_kept_with_the_next_checkpoint():
    memory = Memory(seconds=1e9)
    with checkpoint.keeping(memory):
        flow(until_loss=1e-2)
        assert not memory.kept
        memory.seconds = 0.0
        descent()
    assert memory.kept["run0"].attrs["stopped"] == "loss"


def test_a_record_of_another_start_is_not_used():
    memory = Memory()
    with checkpoint.keeping(memory):
        flow()
    with checkpoint.keeping(memory):
        run, _ = flow(std=0.2)
    assert run.loss.values.tolist() == flow(std=0.2)[0].loss.values.tolist()


def test_nothing_is_kept_outside_of_the_context():
    memory = Memory()
    with checkpoint.keeping(memory):
        pass
    run, _ = flow()
    assert not memory.kept
    assert "checkpoint_of" not in run.attrs


def test_the_record_that_a_run_goes_on_from_is_checked_once(monkeypatch):
    first, _ = flow(until_time=0.5)
    seen = []
    check = checkpoint.check_resumed
    monkeypatch.setattr(checkpoint, "check_resumed", lambda record, *rest: seen.append(record) or check(record, *rest))
    flow(until_time=1.0, resume=first)
    assert seen == [first]
    killed_and_again(lambda: flow(until_time=1.0), 2)
    assert len(seen) == 2
    with pytest.raises(ValueError, match="resume has no variable 's'"):
        flow(until_time=1.0, resume=first.drop_vars("s"))
