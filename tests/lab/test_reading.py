import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ranklens.lab.experiment import Experiment
from ranklens.lab.knobs import Knobs
from ranklens.lab.reading import due_at, learned, next_escape, reading, waiting_time

# Three digits are written.
WRITTEN = 5e-3


@pytest.mark.parametrize("order", [1.0, 2.0, 2.5, 3.0, 7.0])
def test_the_waiting_time_solves_the_law(order):
    wanted, _ = quad(lambda s: 1 / (order * s ** (2 - 2 / order) * 0.3), 0.01, 0.7)
    assert waiting_time(0.01, 0.7, 0.3, order) == pytest.approx(wanted)


def test_waiting_times_at_the_ends():
    assert waiting_time(1.0, 0.5, 0.3, 3) == 0.0
    assert math.isinf(waiting_time(0.1, 0.5, 0.0, 3))
    assert math.isinf(waiting_time(0.0, 0.5, 0.3, 3))


@pytest.mark.parametrize("family", ["matrix", "cp"])
def test_the_escape_is_foretold(family):
    """On a plateau the prediction for the next component is right within a fifth of what is left to wait."""
    knobs = (
        Knobs(size=8, rank=2, start=0.01, observed=1.0)
        if family == "matrix"
        else Knobs("cp", 3, 6, 8, 0.03, rank=2, observed=1.0)
    )
    moments = []

    class Watched(Experiment):
        def tracked(self):
            return super().tracked() | {"learned": lambda _: learned(self), "wait": self.wait}

        def wait(self, _):
            escape = next_escape(self)
            return escape.wait if escape is not None else np.nan

    record = Watched(knobs).run(lambda _: None)
    time, count, wait = record.time.values, record.learned.values, record.wait.values
    second = time[np.argmax(count >= 2)]
    first = time[np.argmax(count >= 1)]
    for k in range(len(time)):
        if first + 0.5 * (second - first) < time[k] < first + 0.9 * (second - first):
            moments.append(abs(wait[k] - (second - time[k])) / (second - time[k]))
    assert moments
    assert max(moments) < 0.2


def test_the_line_says_where_the_run_stands():
    experiment = Experiment(Knobs(size=6, rank=2))
    line = reading(experiment, 0.0, next_escape(experiment))
    assert line.startswith("None of two singular values have been learned; the next one leaves at about t = ")
    experiment.net.with_nodes(experiment.net.nodes)
    with torch.no_grad():
        for node, factor in zip(experiment.net.nodes, (experiment.target, torch.eye(6), torch.eye(6)), strict=True):
            node.copy_(factor)
    assert reading(experiment, 1.0, next_escape(experiment)).startswith(
        "Two of two singular values have been learned; what is left"
    )
    assert "The loss has reached its goal; the effective rank is 1." in reading(experiment, 1.0, None, "loss")
    assert "take a smaller learning rate" in reading(experiment, 1.0, None, "nan")


def test_steps_of_a_descent_are_predicted_and_those_of_adam_are_not():
    """A step of gradient descent advances the time of the flow by the learning rate."""
    flow = Experiment(Knobs(size=6))
    escape = next_escape(flow)
    assert due_at(flow, escape, 5.0) == pytest.approx(5.0 + escape.wait)
    descent = Experiment(Knobs(size=6, optimizer="descent", rate=0.1))
    assert due_at(descent, escape, 5.0) == pytest.approx(5.0 + 10 * escape.wait)
    assert "the next one leaves at about step" in reading(descent, 0.0, escape)
    adam = Experiment(Knobs(size=6, optimizer="adam"))
    assert due_at(adam, escape, 0.0) is None
    assert "predicts no time for this optimizer" in reading(adam, 0.0, escape)


def test_a_run_that_was_cut_says_when_it_would_have_gone_on():
    """A descent of 3,000 steps from a small start ends on the first plateau, which looks as if nothing happened."""
    descent = Experiment(Knobs(size=6, optimizer="descent", rate=0.01))
    escape = next_escape(descent)
    line = reading(descent, 3000.0, escape, "steps")
    assert "All steps are done" in line
    step = float(re.search(r"would leave at about step (\S+)\.$", line)[1])
    assert step == pytest.approx(3000 + 100 * escape.wait, rel=WRITTEN)
    assert "would leave" not in reading(descent, 3000.0, escape, "loss")
