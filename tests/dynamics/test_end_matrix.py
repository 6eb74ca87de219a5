"""The closed equation of the end matrix against flows of the factors, its literal form, and its invariants."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

import ranklens as rl
from ranklens.dynamics.end_matrix import kernel
from ranklens.dynamics.record import StoppedEarly
from ranklens.seeds import normals

SAME = 1e-6  # two flows at rtol 1e-10, over times of order one


def start(singular, rows, columns, seed=0):
    U, V = normals([(rows, rows), (columns, columns)], seed, "start of an end matrix")
    k = len(singular)
    middle = torch.diag(torch.tensor(singular, dtype=torch.float64))
    return torch.linalg.qr(U).Q[:, :k] @ middle @ torch.linalg.qr(V).Q[:, :k].T


def literal(W, G, depth):
    """-sum_j (W W^T)^((L-j)/L) G (W^T W)^((j-1)/L), with powers of positive definite matrices, depth whole."""

    def power(A, p):
        return np.eye(len(A)) if p == 0 else scipy.linalg.fractional_matrix_power(A, p)

    terms = [power(W @ W.T, (depth - j) / depth) @ G @ power(W.T @ W, (j - 1) / depth) for j in range(1, depth + 1)]
    return -sum(terms)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_kernel_is_the_sum_of_the_theorem(depth, tolerance):
    W, G = start([2.0, 1.1, 0.6], 3, 3), normals([(3, 3)], 1, "gradient")[0]
    U, S, Vh = torch.linalg.svd(W)
    found = -U @ (kernel(S, S, float(depth)) * (U.T @ G @ Vh.T)) @ Vh
    assert np.allclose(found.numpy(), literal(W.numpy(), G.numpy(), depth), rtol=0, atol=tolerance["rounding"])


@pytest.mark.parametrize("depth", [1.0, 1.5, 2.0, 3.7, math.inf])
def test_the_kernel_is_smooth_where_values_meet_or_vanish(depth):
    s = torch.tensor([1.0], dtype=torch.float64)
    on = float(kernel(s, s, depth))
    assert on == pytest.approx(1.0 if math.isinf(depth) else depth, rel=1e-14)
    for off in (1e-15, 1e-12, 1e-8, 1e-5):
        assert float(kernel(s, s * (1 + off), depth)) == pytest.approx(on, rel=2 * off + 1e-14)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(kernel(s, zero, depth)) == pytest.approx(0.0 if math.isinf(depth) else 1.0)
    assert float(kernel(zero, zero, depth)) == (1.0 if depth == 1 else 0.0)


def test_infinite_depth_is_the_limit_of_depths():
    s = torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)
    assert torch.allclose(kernel(s, s, 1e7) / 1e7, kernel(s, s, math.inf), rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (5, 3)])
def test_it_is_the_flow_of_balanced_factors(depth, rows, columns):
    W0 = start([2.0, 1.0, 0.5][: min(rows, columns)], rows, columns)
    task = rl.Completion.sample(rl.targets.low_rank_matrix((rows, columns), 2), observed=9)
    times = [0.1, 0.5, 1.0, 2.0]
    how = {"until_loss": 0.0, "times": times, "rtol": 1e-10}
    closed = rl.end_matrix_flow(W0, task, depth=depth, track={"W": lambda W: W}, **how)
    net = rl.init.product_(rl.deep_matrix((rows, columns), depth), W0)
    layers = rl.gradient_flow(net, task, track={"W": lambda net: net.tensor()}, **how)
    off = np.abs(closed.W.values - layers.W.values).max() / np.abs(layers.W.values).max()
    assert off <= SAME
    assert closed.time.values.tolist() == [0.0, *times]


@pytest.mark.parametrize("depth", [2, 3])
def test_rank_is_kept(depth):
    W0 = start([2.0, 0.5], 4, 5)
    task = rl.Completion.sample(rl.targets.low_rank_matrix((4, 5), 3), observed=14)
    run = rl.end_matrix_flow(W0, task, depth=depth, until_time=5.0, until_loss=0.0, rtol=1e-9)
    assert (np.exp(run.log_sigma.values[:, 2:]) < 1e-7).all()
    assert (np.diff(run.loss.values) <= 1e-12).all()


@pytest.mark.parametrize("depth", [2.0, 2.5, 3.0, math.inf])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (3, 5), (5, 3)])
def test_both_forms_are_the_same_flow(depth, rows, columns):
    W0 = start([2.0, 1.0, 0.5], rows, columns)
    task = rl.Completion.sample(rl.targets.low_rank_matrix((rows, columns), 2), observed=7)
    times = [0.05, 0.2, 0.5]
    how = {"depth": depth, "until_loss": 0.0, "times": times, "rtol": 1e-10, "track": {"W": lambda W: W}}
    plain, logs = (rl.end_matrix_flow(W0, task, logarithmic=x, **how) for x in (False, True))
    assert np.abs(plain.W.values - logs.W.values).max() <= SAME
    assert np.abs(plain.log_sigma.values - logs.log_sigma.values).max() <= 10 * SAME
    assert (plain.sign.values == logs.sign.values).all()
    assert plain.time.values.tolist() == logs.time.values.tolist()


@pytest.mark.parametrize("depth", [1.0, 1.5, 2.0, 3.0])
def test_one_entry_has_its_exact_solution(depth):
    """From s0 towards y by s' = L s^(2 - 2/L) (y - s): the time it takes is the integral of 1 / s'."""
    y, s0, end = 1.0, 0.2, 1.5
    task = rl.Completion(torch.zeros(1, 2, dtype=torch.long), torch.tensor([y]), (1, 1), loss="half_sse")
    W0 = torch.tensor([[s0]], dtype=torch.float64)
    run = rl.end_matrix_flow(W0, task, depth=depth, until_time=end, until_loss=0.0, rtol=1e-10)
    s = np.linspace(s0, run.matrix.item(), 200_001)
    slowness = 1 / (depth * s ** (2 - 2 / depth) * (y - s))
    assert scipy.integrate.trapezoid(slowness, s) == pytest.approx(end, rel=1e-6)


def test_singular_values_and_determinant_obey_their_laws(tolerance):
    """d ln s_r / dt = -L s^(1 - 2/L) g_rr, and its sum for ln |det|, between two near records."""
    depth, W0 = 2.5, start([2.0, 1.0, 0.5], 3, 3)
    task = rl.Completion.sample(rl.targets.low_rank_matrix((3, 3), 2), observed=7)
    h = 1e-4
    how = {"times": [h, 2 * h], "until_loss": 0.0, "rtol": 1e-11, "track": {"W": lambda W: W}}
    run = rl.end_matrix_flow(W0, task, depth=depth, **how)
    measured = (run.log_sigma.values[2] - run.log_sigma.values[0]) / (2 * h)
    W = torch.from_numpy(run.W.values[1]).requires_grad_()
    (G,) = torch.autograd.grad(task.loss(W), W)
    U, S, Vh = torch.linalg.svd(W.detach())
    law = -depth * S ** (1 - 2 / depth) * (U.T @ G @ Vh.T).diagonal()
    assert np.allclose(measured, law.numpy(), rtol=10 * tolerance["difference"], atol=1e-7)


def test_below_depth_two_a_singular_value_reaches_zero():
    """The observed off-diagonal entries ask for det < 0; from det > 0 depth 1.5 gets there through det = 0."""
    task = rl.Completion.counterexample()
    W0 = torch.diag(torch.tensor([0.2, 0.1], dtype=torch.float64))
    with pytest.warns(StoppedEarly, match="stopped by 'singular'.*take a depth of at least 2"):
        run = rl.end_matrix_flow(W0, task, depth=1.5, until_loss=1e-8)
    assert run.attrs["stopped"] == "singular"
    assert float(run.log_sigma[-1, 1]) < math.log(1e-6)
    assert 0 < float(run.time[-1]) < 100
    assert rl.end_matrix_flow(W0, task, depth=2.0, until_loss=1e-1).attrs["stopped"] == "loss"
    assert rl.end_matrix_flow(W0, task, depth=1.0, until_loss=1e-8).attrs["stopped"] == "loss"


@pytest.mark.parametrize("depth", [2.0, 2.5, 3.0, 4.0])
def test_the_counterexample_to_the_loss_of_the_law(depth):
    """The exact growth: 2 loss w11^2 = 1, and ln sigma_2 of the valley, to a loss where float64 cannot hold sigma_2."""
    task, W0 = rl.Completion.counterexample(), 1e-3 * torch.eye(2, dtype=torch.float64)
    run = rl.end_matrix_flow(W0, task, depth=depth, logarithmic=True, until_loss=1e-4, track={"w": lambda W: W[0, 0]})
    x = abs(float(run.w[-1]))
    assert 2 * 1e-4 * x**2 == pytest.approx(1.0, abs=5e-3)
    assert (run.sign.values == 1).all()
    growth = x ** (2 + 2 / depth) / ((2 * depth + 2) * float(run.time[-1]))
    assert growth == pytest.approx(1.0, abs=0.012)
    if depth == 2:
        assert float(run.log_sigma[-1, 1]) == pytest.approx(-(x**2) / 2 + math.log(1e-3), rel=0.02)
    if depth == 3:
        assert float(run.log_sigma[-1, 1]) == pytest.approx(math.log(125 * x**-5), abs=0.4)


def test_a_record_has_what_is_tracked_and_every_ending():
    task, W0 = rl.Completion.counterexample(), 0.1 * torch.eye(2, dtype=torch.float64)
    run = rl.end_matrix_flow(W0, task, depth=3, until_time=1.0, track={"rank": rl.effective_rank})
    assert run.attrs["stopped"] == "time"
    assert run.sizes["time"] == len(run["rank"])
    assert run.matrix.shape == (2, 2)
    with pytest.warns(StoppedEarly, match="raise until_evaluations"):
        assert rl.end_matrix_flow(W0, task, depth=3, until_evaluations=5).attrs["stopped"] == "evaluations"
    with pytest.warns(StoppedEarly, match="stationary"):
        assert rl.end_matrix_flow(0 * W0, task, depth=3).attrs["stopped"] == "stationary"
    assert rl.end_matrix_flow(W0, task, depth=3, until_loss=10.0, logarithmic=True).attrs["stopped"] == "loss"
    lost = rl.Completion.counterexample(loss=lambda p, y: (p - y) ** 2 * torch.inf)
    with pytest.warns(StoppedEarly, match="not finite"):
        assert rl.end_matrix_flow(W0, lost, depth=3).attrs["stopped"] == "nan"
    assert [axes.get_title(loc="left") for axes in rl.plot(run).axes] == ["loss", "log_sigma", "sign", "rank"]


@pytest.mark.parametrize(
    ("start", "how", "message"),
    [
        (torch.eye(2), {}, "start is torch.float32; pass a float64"),
        (torch.eye(2, dtype=torch.float64) * math.nan, {}, "entries that are not finite"),
        (torch.zeros(0, 2, dtype=torch.float64), {}, "pass one whole matrix"),
        (torch.eye(3, dtype=torch.float64), {}, r"tensors of shape \(2, 2\), not \(3, 3\)"),
        (torch.eye(2, dtype=torch.float64), {"depth": 0.5}, "depth is 0.5; it must be a number at least 1"),
        (torch.eye(2, dtype=torch.float64), {"depth": math.nan}, "depth is nan"),
        (torch.eye(2, dtype=torch.float64), {"depth": 1.5, "logarithmic": True}, "leave out logarithmic"),
        (torch.ones(2, 2, dtype=torch.float64), {"logarithmic": True}, "start has rank 1 of 2"),
        (torch.eye(2, dtype=torch.float64), {"rtol": 0.0}, "rtol is 0.0"),
        (torch.eye(2, dtype=torch.float64), {"atol": -1.0}, "atol is -1.0"),
        (torch.eye(2, dtype=torch.float64), {"until_time": -1.0}, "until_time is -1.0"),
        (torch.eye(2, dtype=torch.float64), {"times": [2.0, 1.0]}, "give increasing finite numbers"),
        (torch.eye(2, dtype=torch.float64), {"track": {"sign": torch.det}}, "track names 'sign'"),
    ],
)
def test_bad_arguments(start, how, message):
    with pytest.raises((ValueError, TypeError), match=message):
        rl.end_matrix_flow(start, rl.Completion.counterexample(), **({"depth": 3} | how))


def test_a_discontinuous_field_is_refused():
    with pytest.raises(ValueError, match="discontinuous gradient"):
        rl.end_matrix_flow(torch.eye(2, dtype=torch.float64), rl.Completion.counterexample(loss="l1"), depth=2)
