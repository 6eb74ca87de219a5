"""The solver of all flows: which bound ends a run, when a run is at rest, and what a start of mixed sizes costs."""

import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.record import Recorder
from ranklens.dynamics.solver import Bounds, Run, default_errors, flow_bounds, local_error

RTOL = 1e-6
# A flow that starts at the level of rounding is at rest after these few gradients: two at the start, two to compare.
AT_ONCE = 5
# Gradients for a start of mixed sizes: measured are 790 with the floor of the absolute errors, and 1000 without it.
MIXED_SIZES = 880


class Decay:
    """y' = -y with loss |y|^2 / 2: y(t) = y(0) e^-t."""

    def __init__(self, start):
        self.array = self.vector = np.array(start, dtype=np.float64)
        self.evaluations, self.slope = 0, math.inf

    @property
    def subject(self):
        return self.array.copy()

    def rate(self):
        return self.velocity()

    def velocity(self):
        self.evaluations += 1
        self.slope = float(np.linalg.norm(self.array))
        return -self.array

    def loss_at(self, y):
        np.copyto(self.array, y)
        return float(np.square(self.array).sum()) / 2


def run_of(start=(1.0,), ending=lambda _: "", loss=0.0, time=math.inf, evaluations=None):
    field = Decay(start)
    recorder = Recorder("time", {"y": lambda y: y})
    run = Run(field, recorder, local_error(RTOL), default_errors(field.array, RTOL), 0.0, ending)
    run.go(Bounds(loss, time, evaluations, None), lambda line: None)
    return run, recorder.finish({}, {})


def test_the_trajectory_is_the_exact_one():
    run, record = run_of(time=3.0)
    assert run.stopped == "time"
    assert run.point.time == 3.0
    np.testing.assert_allclose(record.y.values[:, 0], np.exp(-record.time.values), rtol=100 * RTOL)


def test_an_ending_is_found_where_it_comes_about():
    run, _ = run_of(ending=lambda y: "small" if y[0] < 0.5 else "")
    assert run.stopped == "small"
    assert run.point.time == pytest.approx(math.log(2), rel=100 * RTOL)


@pytest.mark.parametrize("share", [1 + 1e-6, 1 - 1e-6])
def test_a_loss_that_is_reached_within_the_step_of_an_ending_counts(share):
    """Both thresholds lie within one step, in either order: the goal of the run takes precedence over its ending."""
    until = 0.5**2 / 2
    run, _ = run_of(ending=lambda y: "small" if y[0] < 0.5 * share else "", loss=until)
    assert run.stopped == "loss"
    assert run.point.loss == pytest.approx(until, rel=1e-9)


def test_bounds_end_a_run():
    assert run_of(loss=1e-3)[0].stopped == "loss"
    assert run_of(evaluations=7)[0].stopped == "evaluations"
    assert run_of(start=(0.0,), loss=-1.0)[0].stopped == "stationary"
    assert run_of(start=(math.nan,))[0].stopped == "nan"


def test_a_fit_to_rounding_is_at_rest_at_once():
    target = rl.targets.low_rank_matrix((8, 8), rank=2, norm=8.0)
    task = rl.Completion.sample(target, observed=40)
    net = rl.init.product_(rl.deep_matrix((8, 8), depth=2), target)
    run = rl.gradient_flow(net, task, until_loss=0.0)
    assert run.attrs["stopped"] == "stationary"
    assert run.attrs["evaluations"] <= AT_ONCE
    assert float(run.loss[-1]) < 1e-28


def test_a_plateau_of_a_small_loss_is_not_rest():
    """A loss of 5e-13 rests for a time of 1e4, and is far above what rounding of the parameters makes."""
    task = rl.Completion([[0, 0]], [1e-6], (1, 1), loss="half_sse")
    net = rl.init.product_(rl.deep_matrix((1, 1), depth=2), torch.full((1, 1), 1e-12, dtype=torch.float64))
    run = rl.gradient_flow(net, task, until_loss=1e-18)
    assert run.attrs["stopped"] == "loss"


def test_a_start_of_mixed_sizes_is_no_more_work():
    """Entries of 1e-6 beside entries of 1: without a floor of their absolute errors the linear solves need more."""
    target = rl.targets.low_rank_matrix((6, 6), rank=2)
    task = rl.Completion.sample(target, observed=24)
    net = rl.deep_matrix((6, 6), depth=3, std=0.3)
    with torch.no_grad():
        for node in net.nodes:
            node[::2] *= 1e-6
    assert rl.gradient_flow(net, task, until_loss=1e-4).attrs["evaluations"] <= MIXED_SIZES


def test_errors_are_relative_to_every_number_but_not_below_the_floor():
    errors = default_errors(np.array([1.0, 1e-9, 0.0, 2.0]), RTOL)
    size = math.sqrt((1 + 4 + 1e-18) / 4)
    np.testing.assert_allclose(errors / local_error(RTOL), [1.0, 0.1 * size, 0.1 * size, 2.0])
    assert default_errors(np.zeros(2), RTOL).min() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"until_loss": math.nan}, "until_loss is nan"),
        ({"until_time": math.nan}, "until_time is nan"),
        ({"rtol": 0.999}, "at most 0.1"),
        ({"rtol": math.nan}, "rtol is nan"),
        ({"atol": math.inf}, "atol is inf"),
        ({"times": [[1.0]]}, "increasing finite numbers"),
        ({"times": []}, "increasing finite numbers"),
        ({"times": [1.0, 1.0]}, "increasing finite numbers"),
        ({"times": [2.0, 1.0]}, "increasing finite numbers"),
        ({"times": [1.0, math.inf]}, "increasing finite numbers"),
    ],
)
def test_bounds_that_make_no_sense(given, message):
    usual = {"until_loss": 0.0, "until_time": 1.0, "until_evaluations": None, "times": None, "rtol": 1e-6, "atol": None}
    with pytest.raises(ValueError, match=message):
        flow_bounds(**(usual | given))


def test_the_last_wanted_time_bounds_the_run():
    assert flow_bounds(0.0, math.inf, None, [1.0, 4.0], 1e-6, None).time == 4.0
    assert flow_bounds(0.0, 2.0, None, [1.0, 4.0], 1e-6, None).time == 2.0
