"""State space models against their recurrence, step by step in numpy, and the ranks that their states allow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl
from ranklens.tensors.state_space import powers

# Sums of up to a hundred powers, in two orders; entries that are zero; and a rotation of coordinates.
SUMS, TINY, ROTATED = 1e-10, 1e-14, 1e-9


def model(states, seed=0):
    generator = torch.Generator().manual_seed(seed)
    A, B, C = torch.randn(3, states, generator=generator, dtype=torch.float64)
    return rl.StateSpace(0.9 * A / A.abs().max(), B, C)


def recurrence(model, u):
    """The definition: x_t = A x_(t-1) + B u_t, y_t = C x_t."""
    A, B, C = (x.numpy() for x in (model.A, model.B, model.C))
    x, y = np.zeros(len(A)), []
    for value in u:
        x = A * x + B * value
        y.append(C @ x)
    return np.array(y)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 10))
def test_outputs_are_those_of_the_recurrence(states, length, seed):
    at = model(states, seed)
    u = np.random.default_rng(seed).normal(size=(2, length))
    wanted = np.stack([recurrence(at, row) for row in u])
    np.testing.assert_allclose(at.outputs(u).numpy(), wanted, rtol=SUMS, atol=SUMS)
    response = at.impulse_response(length).numpy()
    np.testing.assert_allclose(response, recurrence(at, np.eye(length)[0]), rtol=SUMS, atol=SUMS)


def test_the_response_is_differentiable_also_where_a_state_forgets_at_once():
    A = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)
    rl.StateSpace(A).impulse_response(4).sum().backward()
    assert A.grad.tolist() == [1 + 2 * 0.5 + 3 * 0.25, 1.0]


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 5)])
def test_the_hankel_tensor_holds_the_response_at_sums_of_delays(shape, tolerance):
    at = model(3)
    T, h = at.hankel_network(shape).tensor().detach(), at.impulse_response(sum(shape))
    for place in np.ndindex(*shape):
        assert float(T[place]) == pytest.approx(float(h[sum(place)]), rel=tolerance["rounding"], abs=TINY)
    assert int(rl.numerical_rank(rl.matricize(T, [0]), rtol=1e-10)) == 3


@pytest.mark.parametrize("states", [1, 2, 7])
def test_orthogonal_coordinates_hold_the_diagonal_and_leave_its_flow_unchanged(states, tolerance):
    """Velocities of A in coordinates theta: Q theta' = -Q Q^T gradient must be minus the gradient in A."""
    at = model(states)
    for train, wanted in (("A", at.A), ("ABC", torch.stack([at.A, at.B, at.C]))):
        net = at.network(train)
        torch.testing.assert_close(net.tensor().detach(), wanted, rtol=0, atol=tolerance["rounding"])
        task = rl.problems.Sequences(torch.ones(1, 4), [1.0], at, everything=train == "ABC")
        A = wanted.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(task.loss(A), A)
        (theta,) = torch.autograd.grad(task.loss(net), [net.nodes[1]])
        moved = net.nodes[0].detach() @ theta if train == "A" else theta @ net.nodes[0].detach().T
        torch.testing.assert_close(moved, gradient, rtol=tolerance["rounding"], atol=tolerance["rounding"])
        assert net.layout.frozen == {0}


def test_the_difference_of_the_two_largest_states_is_a_coordinate():
    net = rl.StateSpace([0.1, 0.3, 0.2999]).network()
    assert abs(float(net.nodes[1][1].detach())) == pytest.approx(1e-4 / 2**0.5, rel=ROTATED)


def test_extrapolation_error_is_the_largest_difference_over_the_largest_response():
    student, teacher = rl.StateSpace([0.5, 0.5]), rl.StateSpace([1.0, 0.0], B=[1.0, 1.0])
    assert float(student.extrapolation_error(teacher, 4)) == pytest.approx(abs(2 * 0.5**3 - 1) / 2)
    with pytest.raises(ValueError, match="response is zero"):
        student.extrapolation_error(rl.StateSpace([0.0], C=[0.0]), 3)


def test_powers_of_negative_numbers_keep_their_sign():
    assert powers(torch.tensor([-2.0, 0.0]), 4).tolist() == [[1, 1], [-2, 0], [4, 0], [-8, 0]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rl.StateSpace([]), ValueError, "A has shape"),
        (lambda: rl.StateSpace(1.0), ValueError, "A has shape"),
        (lambda: rl.StateSpace([1.0, float("nan")]), ValueError, "is nan"),
        (lambda: rl.StateSpace([1j]), TypeError, "complex"),
        (lambda: rl.StateSpace([1.0, 2.0], B=[1.0]), ValueError, "B has shape"),
        (lambda: rl.StateSpace([1.0]).impulse_response(0), ValueError, "length"),
        (lambda: rl.StateSpace([1.0]).outputs(torch.zeros(2, 0)), ValueError, "inputs have shape"),
        (lambda: rl.StateSpace([1.0]).network("B"), ValueError, "train is 'B'"),
        (lambda: rl.StateSpace([1.0]).hankel_network((3,)), ValueError, "at least two modes"),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
