"""The record of a run: its rows, its attributes, and the warning of a run that stopped before its goal."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.dynamics.record import (
    Cost,
    Interrupted,
    Outcome,
    Recorder,
    StoppedEarly,
    ignoring_early_stops,
    is_early,
    numpy,
    warn_if_early,
)

COMMON = {"stopped", "message", "evaluations", "steps", "seconds", "solver", "until_loss", "early", "network"}
COMMON |= {"loss_function", "versions"}


def two_by_two(std=0.5):
    return rl.deep_matrix((2, 2), depth=2, std=std), rl.Completion.counterexample()


def outcome(stopped, message=""):
    return Outcome(stopped, message, Cost(evaluations=3, steps=2, seconds=0.1))


def test_all_runs_have_the_same_attributes():
    net, task = two_by_two()
    flow = rl.gradient_flow(net, task, until_time=1.0)
    descent = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.1), steps=3)
    end = rl.end_matrix_flow(torch.eye(2, dtype=torch.float64), task, depth=2, until_time=1.0)
    for run in (flow, descent, end):
        assert set(run.attrs) >= COMMON
        assert run.attrs["loss_function"] == "half_sse"
        assert run.attrs["until_loss"] == 5e-5


@pytest.mark.parametrize("stopped", ["evaluations", "stationary", "singular", "steps", "nan"])
def test_a_run_that_misses_its_goal_warns(stopped):
    with pytest.warns(StoppedEarly, match=f"stopped by '{stopped}' at a loss of 0.5, but until_loss is 0.1 .here.; "):
        warn_if_early(outcome(stopped, "here"), 0.5, 0.1)


@pytest.mark.parametrize(
    ("stopped", "until_loss"), [("loss", 0.1), ("time", 0.1), ("stationary", 0.0), ("interrupted", 0.1)]
)
def test_a_run_that_reaches_its_goal_does_not_warn(stopped, until_loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_early(outcome(stopped), 0.5, until_loss)


def test_a_bound_before_rest_warns():
    with pytest.warns(StoppedEarly):
        warn_if_early(outcome("evaluations"), 0.5, 0.0)


def test_the_warning_points_at_the_caller():
    """In a Python without the type checker of this suite, which adds frames of its own."""
    script = (
        "import torch, ranklens as rl\n"
        "task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), depth=2)\n"
        "rl.gradient_flow(net, task, until_evaluations=5)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert found.startswith("<string>:3: StoppedEarly: ")


def test_descent_warns_of_steps_only_if_a_loss_was_wanted():
    net, task = two_by_two()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    rl.gradient_descent(net, task, optimizer, steps=3)
    rl.gradient_descent(net, task, optimizer, steps=3, until_loss=0.0)
    with pytest.warns(StoppedEarly, match="stopped by 'steps'.*take more steps"):
        rl.gradient_descent(net, task, optimizer, steps=3, until_loss=1e-6)


@pytest.mark.parametrize(
    ("stopped", "goal", "early"),
    [
        ("loss", 1e-3, False),
        ("time", 1e-3, False),
        ("evaluations", 1e-3, True),
        ("evaluations", 0.0, True),
        ("nan", 0.0, True),
        ("interrupted", 0.0, True),
        ("steps", 1e-3, True),
        ("steps", 0.0, False),
        ("stationary", 1e-3, True),
        ("stationary", 0.0, False),
    ],
)
def test_a_run_is_early_if_it_missed_its_goal(stopped, goal, early):
    assert is_early(stopped, goal) is early


@pytest.mark.parametrize("until_loss", [None, 0.0, 1e-6, 0.3])
@pytest.mark.parametrize("lr", [1e-3, 1e3], ids=["slow", "divergent"])
@pytest.mark.parametrize("members", [1, 2])
def test_a_descent_is_marked_as_early_if_and_only_if_it_warned(until_loss, lr, members):
    net, task = two_by_two()
    net = net if members == 1 else rl.stack([net, two_by_two()[0]])
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoppedEarly)
        run = rl.gradient_descent(net, task, optimizer, steps=20, every=1, until_loss=until_loss)
    warned = any(issubclass(found.category, StoppedEarly) for found in caught)
    assert run.attrs["early"] == warned
    assert rl.plot(run if members == 1 else run.isel(member=0)).get_suptitle().startswith("The run stopped") == warned


@pytest.mark.parametrize("how", [{"until_time": 1.0}, {"until_evaluations": 3}, {"until_loss": 0.0}])
def test_a_flow_is_marked_as_early_if_and_only_if_it_warned(how):
    net, task = two_by_two()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoppedEarly)
        run = rl.gradient_flow(net, task, until_time=how.pop("until_time", 100.0), **how)
    assert run.attrs["early"] == any(issubclass(found.category, StoppedEarly) for found in caught)


def test_costs_add_up_over_resumed_flows():
    """A resumed record counts the steps and seconds of both runs, and never fewer than the record it resumes."""
    net, task = two_by_two()
    first = rl.gradient_flow(net, task, until_time=1.0)
    rest = rl.gradient_flow(net, task, until_time=2.0, resume=first)
    alone = rest.sizes["time"] - first.sizes["time"]
    assert rest.attrs["steps"] == first.attrs["steps"] + alone
    assert rest.attrs["seconds"] > first.attrs["seconds"]
    long_ago = first.assign_attrs(seconds=1e6)
    assert rl.gradient_flow(net, task, until_time=2.0, resume=long_ago).attrs["seconds"] > 1e6


def test_costs_add_up_over_resumed_descents():
    net, task = two_by_two()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    first = rl.gradient_descent(net, task, optimizer, steps=10).assign_attrs(seconds=1e6)
    rest = rl.gradient_descent(net, task, optimizer, steps=25, resume=first)
    assert rest.attrs["evaluations"] == rest.attrs["steps"] == 25
    assert rest.attrs["seconds"] > 1e6


def test_rows_keep_their_order_and_shapes():
    recorder = Recorder("time", {"twice": lambda x: 2 * x, "matrix": lambda x: torch.full((2, 3), float(x))})
    for time in (0.0, 1.0, 5.0):
        recorder.add(time, 10 - time, time)
    recorder.add(6.0, 0.0, 6.0)
    recorder.drop()
    record = recorder.finish({"state": np.arange(4.0)}, {"stopped": "loss"})
    assert isinstance(record, xr.Dataset)
    assert record.time.values.tolist() == [0.0, 1.0, 5.0]
    assert record.loss.values.tolist() == [10.0, 9.0, 5.0]
    assert record.twice.values.tolist() == [0.0, 2.0, 10.0]
    assert record.matrix.dims == ("time", "matrix_0", "matrix_1")
    assert record.matrix.values[2].tolist() == [[5.0] * 3] * 2


def test_a_row_that_fails_is_not_half_recorded():
    recorder = Recorder("time", {"good": lambda x: x, "bad": lambda x: [0.0] * x})
    recorder.add(0.0, 1.0, 1)
    with pytest.raises(ValueError, match=r"track\['bad'\] has shape \(2,\), before \(1,\)"):
        recorder.add(1.0, 1.0, 2)
    assert recorder.finish({}, {}).sizes["time"] == 1


def test_half_precision_becomes_single():
    assert numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert numpy(torch.ones(2, dtype=torch.float64)).dtype == np.float64


def flow(net, task, track):
    return rl.gradient_flow(net, task, until_loss=1e-12, track=track)


def descent(net, task, track):
    return rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=1e-2), every=1, track=track)


@pytest.mark.parametrize(("run", "axis"), [(flow, "time"), (descent, "step")])
def test_an_interrupted_run_gives_its_record(run, axis, tolerance):
    """The interrupt comes while the run tracks its tenth row; the record ends at a state that the network then has."""
    net, task = two_by_two(std=0.1)
    calls = []

    def interrupt(net):
        calls.append(net)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(Interrupted) as stop:
        run(net, task, {"calls": interrupt})
    record = stop.value.record
    assert record.attrs["stopped"] == "interrupted"
    assert record.sizes[axis] >= 9
    assert (np.diff(record[axis]) > 0).all()
    assert float(record.loss[-1]) == pytest.approx(float(task.loss(net).detach()), rel=tolerance["rounding"])
    if run is flow:
        rest = rl.gradient_flow(net, task, until_loss=1e-2, track={"calls": lambda net: 0.0}, resume=record)
        assert rest.attrs["stopped"] == "loss"


def test_early_stops_can_be_ignored():
    @ignoring_early_stops()
    def capped():
        net, task = two_by_two()
        return rl.gradient_flow(net, task, until_evaluations=5)

    assert capped().attrs["stopped"] == "evaluations"


@pytest.mark.parametrize("kind", [torch.zeros, np.zeros])
def test_a_tracked_view_of_the_state_is_kept_as_it_was(kind):
    """A function may return the state itself, in whose memory the run goes on."""
    recorder, state = Recorder("step", {"itself": lambda x: x}), kind(2)
    for step in range(3):
        recorder.add(step, 1.0, state)
        state += 1.0
    assert recorder.finish({}, {}).itself.values.tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def test_a_record_with_fewer_rows_is_resumed_from_the_time_of_its_state(tolerance):
    def go(until, **options):
        net, task = rl.deep_matrix((2, 2), depth=2, std=0.1), rl.Completion.counterexample()
        return rl.gradient_flow(net, task, until_time=until, **options)

    run, whole = go(5.0), go(9.0)
    every_third = run.isel(time=slice(None, None, 3))
    early = run.sel(time=slice(0.0, 2.0))
    assert float(early.time[-1]) < 2.0
    for thinned in (every_third, early):
        rest = go(9.0, resume=thinned)
        assert {5.0, *thinned.time.values} <= set(rest.time.values)
        assert (np.diff(rest.time) > 0).all()
        assert float(rest.loss[-1]) == pytest.approx(float(whole.loss[-1]), rel=tolerance["flow"])


def test_a_record_whose_state_has_no_place_is_not_resumed():
    net, task = rl.deep_matrix((2, 2), depth=2, std=0.1), rl.Completion.counterexample()
    run = rl.gradient_flow(net, task, until_time=5.0)
    stripped = run.copy()
    stripped["state"] = ("state_0", run.state.values)
    with pytest.raises(ValueError, match="does not say which time its state belongs to"):
        rl.gradient_flow(net, task, until_time=9.0, resume=stripped)
    for edited in (run.isel(time=slice(None, None, -1)), run.assign_coords(time=run.time.values * 2)):
        with pytest.raises(ValueError, match="not in order, or after time 5"):
            rl.gradient_flow(net, task, until_time=9.0, resume=edited)


def test_a_descent_is_resumed_from_the_step_of_its_state():
    def go(steps, **options):
        net, task = rl.deep_matrix((2, 2), depth=2, std=0.1), rl.Completion.counterexample()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return rl.gradient_descent(net, task, optimizer, steps=steps, every=10, until_loss=0.0, **options)

    rest = go(60, resume=go(35).isel(step=slice(0, 2)))
    assert rest.step.values.tolist() == [0, 10, 40, 50, 60]
    assert rest.loss.values[2:].tolist() == go(60).loss.values[4:].tolist()
