"""The stiff solver: exact solutions, the error against the tolerance, stiffness, interpolation, and failures."""

import math

import numpy as np
import pytest
import torch

from ranklens.dynamics.bdf import BDF, HIGHEST, KEPT, NoStepError, _weights

# Global errors of a whole solution are at most this many errors of a step (measured: up to 30).
WHOLE = 100
# Sums of a few states with weights of order one lose some units in the last place.
SUM = 1e-12
# An escape from 1e-12 multiplies the errors of its steps; its time is 28.
ESCAPE = 1e-4
# Rounding of arrays and of tensors differs, and the end of Newton's iteration makes more of it.
KINDS = 1e-9


def solver_of(rate, start, rtol=1e-7, first=1e-6, tensor=False, least=1e-3):
    """A solver of y' = rate(y) with absolute errors `least * rtol`, and the list that grows with every evaluation."""
    array = np.array(start, dtype=np.float64)
    vector = torch.from_numpy(array) if tensor else array
    atol = torch.full_like(vector, rtol * least) if tensor else np.full_like(array, rtol * least)
    calls = []

    def counted():
        calls.append(None)
        found = rate(array)
        return torch.from_numpy(found) if tensor else found

    return BDF(vector, counted, rtol, atol, 0.0, first), calls


def reach(solver, time):
    steps = 0
    while solver.time < time:
        solver.step()
        steps += 1
    return np.asarray(solver.at(time)), steps


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10])
def test_the_error_falls_with_the_tolerance(rtol):
    """y' = -y^2 from 1 is 1 / (1 + t)."""
    solver, _ = solver_of(lambda y: -(y**2), [1.0], rtol)
    found, _ = reach(solver, 10.0)
    assert found[0] == pytest.approx(1 / 11, rel=WHOLE * rtol)


def test_a_smaller_tolerance_takes_higher_order_and_not_many_more_steps():
    """With order 5 the steps grow as rtol^(-1/6), tenfold for six digits; order 1 would take 1000 times as many."""
    few, many = (reach(solver_of(lambda y: -(y**2), [1.0], rtol)[0], 10.0)[1] for rtol in (1e-4, 1e-10))
    assert few < many < 15 * few


@pytest.mark.parametrize("tensor", [False, True], ids=["array", "tensor"])
def test_stiff_directions_do_not_hold_it_up(tensor):
    """Rates of 1e6 beside 1 over a time of 5: an explicit method would need millions of steps."""
    rates = np.array([1.0, 1e3, 1e6])
    solver, calls = solver_of(lambda y: -rates * y, [1.0, 1.0, 1.0], tensor=tensor)
    found, steps = reach(solver, 5.0)
    assert steps < 700
    assert len(calls) < 5 * steps
    assert found[0] == pytest.approx(math.exp(-5), rel=WHOLE * 1e-7)
    assert np.abs(found[1:]).max() < WHOLE * 1e-10


def test_a_long_wait_takes_few_steps():
    """y' = y (1 - y) from 1e-12 passes 1/2 at time ln(1e12 - 1); then it rests, and steps grow without bound."""
    solver, _ = solver_of(lambda y: y * (1 - y), [1e-12], rtol=1e-8, first=1e-3, least=1e-12)
    wait = math.log(1e12 - 1)
    found, _ = reach(solver, wait)
    assert found[0] == pytest.approx(0.5, rel=ESCAPE)
    _, steps = reach(solver, 1e20)
    assert steps < 300
    assert float(solver.state[0]) == pytest.approx(1.0, rel=WHOLE * 1e-8)


def test_interpolation_is_as_exact_as_the_steps_and_meets_their_ends():
    solver, _ = solver_of(lambda y: -(y**2), [1.0], rtol=1e-8)
    before = 0.0
    while solver.time < 5.0:
        start = np.array(solver.state)
        solver.step()
        np.testing.assert_allclose(solver.at(solver.time), solver.state, rtol=SUM)
        np.testing.assert_allclose(solver.at(before), start, rtol=SUM)
        middle = (before + solver.time) / 2
        assert float(solver.at(middle)[0]) == pytest.approx(1 / (1 + middle), rel=WHOLE * 1e-8)
        before = solver.time


def test_arrays_and_tensors_take_the_same_steps():
    found = []
    for tensor in (False, True):
        solver, _ = solver_of(lambda y: -(y**3), np.linspace(0.5, 2.0, 7), tensor=tensor)
        found.append(reach(solver, 3.0))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=KINDS)
    assert found[0][1] == found[1][1]


def test_a_run_is_reproducible_to_the_bit():
    states = [reach(solver_of(lambda y: -(y**3), [1.0, 2.0])[0], 3.0)[0] for _ in range(2)]
    assert np.array_equal(*states)


def test_a_blow_up_ends_before_its_time():
    """y' = y^2 from 1 is infinite at time 1; the steps become shorter and shorter, and end there."""
    solver, _ = solver_of(lambda y: y**2, [1.0])
    with np.errstate(over="ignore"), pytest.raises(NoStepError, match=r"step of length"):  # noqa: PT012
        for _ in range(100_000):
            solver.step()
            assert solver.time < 1 + 1e-5 or not math.isfinite(float(solver.state[0]))


def test_a_rate_that_is_not_a_number_ends_at_the_state_before():
    solver, _ = solver_of(lambda y: np.where(y > 1.5, math.nan, 1.0), [1.0], first=1e-3)
    with pytest.raises(NoStepError, match="Newton's iteration does not converge"):  # noqa: PT012
        for _ in range(10_000):
            solver.step()
    assert 1.0 < float(solver.state[0]) < 1.5 + 1e-6  # the rate at the end of a step is not evaluated


def test_a_first_step_that_is_far_too_long_is_taken_again():
    solver, _ = solver_of(lambda y: -(y**2), [1.0], first=1e3)
    found, _ = reach(solver, 10.0)
    assert found[0] == pytest.approx(1 / 11, rel=WHOLE * 1e-7)


@pytest.mark.parametrize("order", range(1, HIGHEST + 1))
def test_the_weights_extrapolate_polynomials_exactly(order):
    s = np.cumsum(np.random.default_rng(order).uniform(0.5, 2.0, order + 1))
    polynomial = np.polynomial.Polynomial(np.arange(1.0, order + 2))
    assert np.dot(_weights(s.tolist()), polynomial(-s)) == pytest.approx(polynomial(0.0))


def test_past_states_survive_the_move_to_the_last_rows():
    """A long run moves the kept rows many times; a lost row would show as a jump of the error."""
    solver, _ = solver_of(lambda y: -y, [1.0], rtol=1e-9, first=1e-4)
    for _ in range(10 * KEPT):
        solver.step()
        assert float(solver.state[0]) == pytest.approx(math.exp(-solver.time), rel=WHOLE * 1e-9, abs=SUM)
