"""Sequences: predictions, gradients with and without autograd, and flows whose end is known in closed form."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import ranklens as rl
from ranklens.dynamics.gradient import LossGradient

TEACHER = rl.StateSpace([1.0, 0.0], B=[1.0, 3.0])


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def student(states=4):
    return rl.StateSpace(numbers(states, seed=1), numbers(states, seed=2), numbers(states, seed=3))


def test_predictions_are_last_outputs_of_the_model():
    at, inputs = student(), numbers(5, 6)
    for everything, train in ((False, "A"), (True, "ABC")):
        task = rl.problems.Sequences.labelled(inputs, TEACHER, at, everything=everything)
        net = at.network(train)
        torch.testing.assert_close(task.predict(net).detach(), at.outputs(inputs)[:, -1])
        torch.testing.assert_close(task.values, TEACHER.outputs(inputs)[:, -1])
        trained = task.trained(net)
        for name in "ABC":
            torch.testing.assert_close(getattr(trained, name), getattr(at, name))


@pytest.mark.parametrize("loss", ["mse", "half_sse", "huber", lambda p, v: (p - v) ** 4])
@pytest.mark.parametrize("everything", [False, True])
def test_planned_gradients_are_those_of_autograd(loss, everything, tolerance):
    at = student()
    task = rl.problems.Sequences.labelled(numbers(5, 6), TEACHER, at, everything=everything, loss=loss)
    net = at.network("ABC" if everything else "A")
    gradient = LossGradient(net, task, sign=-1)
    for rows in (torch.tensor([1, 4]), None):
        assert gradient.is_planned(rows)
        wanted = (task if rows is None else task.subset(rows)).loss(net)
        (slope,) = torch.autograd.grad(wanted, [net.nodes[1]])
        found = gradient(rows)
        assert float(found) == pytest.approx(float(wanted.detach()), rel=tolerance["rounding"])
        torch.testing.assert_close(gradient.parts[0], -slope, rtol=tolerance["rounding"], atol=tolerance["rounding"])
    assert float(gradient.loss()) == pytest.approx(float(task.loss(net).detach()), rel=tolerance["rounding"])


def closed_form(start, delay):
    """The end of a flow that fits the delay `delay` alone, for B = C = 1 and A > 0.

    dA_r/dt = c A_r^(delay - 1) for all r, so A_r^-(delay - 2) falls by one common amount F, until sum A^delay = 1.
    """
    power = delay - 2
    falls = brentq(
        lambda F: ((start**-power - F) ** (-delay / power)).sum() - 1, 0, start.max() ** -power * (1 - 1e-14), xtol=1e-6
    )
    return (start**-power - falls) ** (-1 / power)


def test_a_flow_of_nearly_equal_states_ends_where_the_closed_form_does(tolerance):
    start = np.array([0.1, 0.1 - 1e-6, 0.04, 0.01])
    model = rl.StateSpace(start)
    task = rl.problems.Sequences.labelled(np.eye(6)[[0]], TEACHER, model)
    net = model.network()
    rl.gradient_flow(net, task, until_loss=1e-10, rtol=1e-4, atol=1e-20)
    np.testing.assert_allclose(net.tensor().detach().numpy(), closed_form(start, 5), rtol=tolerance["flow"])


def test_splits_keep_every_sequence_once():
    task = rl.problems.Sequences.labelled(numbers(10, 3), TEACHER, student())
    parts = task.split(0.3)
    assert (len(parts.train), len(parts.held_out)) == (7, 3)
    assert sorted(torch.cat([parts.train.values, parts.held_out.values]).tolist()) == sorted(task.values.tolist())


@pytest.mark.parametrize(
    ("inputs", "values", "words"),
    [
        (torch.zeros(2, 3), [1.0], r"expected \(1, time\)"),
        (torch.zeros(3), [1.0], r"inputs have shape \(3,\)"),
        (torch.zeros(1, 0), [1.0], "at least one time step"),
        ([[float("inf")]], [1.0], "inf"),
    ],
)
def test_wrong_inputs_are_refused(inputs, values, words):
    with pytest.raises(ValueError, match=words):
        rl.problems.Sequences(inputs, values, student())


def test_networks_of_another_shape_are_refused():
    task = rl.problems.Sequences(torch.zeros(1, 3), [1.0], student())
    with pytest.raises(ValueError, match=r"shape \(4,\), not \(3, 4\)"):
        task.loss(student().network("ABC"))
