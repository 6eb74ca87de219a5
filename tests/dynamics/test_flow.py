import math

import cases
import numpy as np
import oracles
import pytest
import torch
import xarray as xr
from conftest import TOLERANCE

import ranklens as rl
from ranklens.dynamics.record import StoppedEarly


def diagonal_problem():
    target = torch.tensor([4.0, 2.0, 1.0]).double()
    everything = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    return rl.Completion(everything, target.diag().reshape(-1), (3, 3), loss="half_sse")


def identity_start(scale, depth=3, size=3):
    net = rl.deep_matrix((size, size), depth=depth)
    return rl.init.product_(net, scale**depth * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize(("rtol", "bound", "most"), [(1e-6, 0.02, 1800), (1e-8, 5e-4, 3300), (1e-10, 2e-5, 6000)])
def test_flow_against_exact_modes(rtol, bound, most):
    net = identity_start(0.1)
    run = rl.gradient_flow(
        net, diagonal_problem(), until_loss=1e-8, rtol=rtol, track={"s": lambda net: net.tensor().diagonal()}
    )
    some = np.linspace(0, run.sizes["time"] - 1, 40).astype(int)
    times = run.time.values[some]
    for k, target in enumerate([4.0, 2.0, 1.0]):
        exact = oracles.cube_mode(target, 0.1, times, steps_per_unit=2000) ** 3
        assert np.abs(run.s.values[some, k] - exact).max() / target <= bound
    assert run.attrs["evaluations"] <= most


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 3", "hierarchical binary", "tensor ring"])
def test_conserved_quantities_along_the_whole_flow(name):
    drifts = []
    for rtol in (1e-6, 1e-8):
        net = cases.NETWORKS[name](std=0.3)
        track = {f"c{k}": lambda net, bond=bond: rl.theory.conserved(net, bond) for k, bond in enumerate(net.bonds)}
        track["largest"] = lambda net: torch.cat([net.slice_norms(b).square().flatten() for b in net.bonds]).max()
        run = rl.gradient_flow(net, cases.problem(net), until_loss=1e-6, until_time=200.0, rtol=rtol, track=track)
        changes = [np.abs(run[key] - run[key][0]).max() for key in run if str(key).startswith("c")]
        drifts.append(float(max(changes)) / float(run.largest.max()))
        if rtol == 1e-6:
            assert drifts[0] <= 100 * rtol
            assert np.all(np.diff(run.loss) <= 1e-9 * run.loss.values[:-1] + 1e-14)  # the loss never rises
    assert drifts[0] >= 30 * drifts[1]


def test_descent_drift_halves_with_the_step():
    drifts = []
    for lr in (2e-3, 1e-3, 5e-4):
        net = rl.cp((3, 3, 3), rank=3, std=0.7)
        task = cases.problem(net)
        start = rl.theory.conserved(net, "r")
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        rl.gradient_descent(net, task, optimizer, steps=round(2.0 / lr), until_loss=0.0, every=1000)
        drifts.append(float((rl.theory.conserved(net, "r") - start).norm()))
    assert drifts[0] / drifts[1] == pytest.approx(2.0, abs=0.1)
    assert drifts[1] / drifts[2] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("depth", [3, 4])
def test_the_counterexample_follows_its_law(depth):
    net = identity_start(1e-3 ** (1 / depth), depth, size=2)
    track = {"w": lambda net: net.tensor()[0, 0].abs(), "s": lambda net: rl.singular_values(net.tensor())}
    run = rl.gradient_flow(net, rl.Completion.counterexample(), until_loss=1e-4, track=track)
    assert run.attrs["stopped"] == "loss"
    assert float(run.loss[-1]) == pytest.approx(1e-4, rel=1e-6)
    assert float(run.w[-1]) == pytest.approx(70.7, rel=2e-3)
    late = run.sel(time=run.time[run.loss <= 1e-2])
    growth = (late.w[-1] ** (2 + 2 / depth) - late.w[0] ** (2 + 2 / depth)) / (late.time[-1] - late.time[0])
    assert float(growth) == pytest.approx(2 * depth + 2, rel=0.02)
    bounds = rl.theory.bounds_2x2(torch.from_numpy(run.loss.values))
    assert bool((torch.from_numpy(run.w.values) >= bounds.w11).all())
    assert bool((torch.from_numpy(run.s.values[:, 1]) <= bounds.sigma2).all())
    assert run.attrs["evaluations"] <= 3000


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_escape_from_a_saddle_of_high_degree_is_not_missed(seed):
    """Seven nodes of entries around 0.05 rest for a time of 1e6, of the order that is predicted at the start."""
    target = rl.targets.hierarchical((3, 3, 3, 3), rank=1, norm=9.0, seed=seed)
    net = rl.hierarchical((3, 3, 3, 3), width=4, std=0.05, seed=seed)
    task = rl.Completion.sample(target, observed=81, seed=seed)
    predicted = rl.theory.escape_time(net, task)
    run = rl.gradient_flow(net, task, until_loss=1e-4, until_evaluations=20_000)
    assert run.attrs["stopped"] == "loss"
    half = float(run.time[run.loss < 0.5 * run.loss[0]][0])
    assert predicted > 1e5
    assert 0.1 * predicted < half < 10 * predicted


def test_stops_by_time_evaluations_and_at_once():
    task = diagonal_problem()
    run = rl.gradient_flow(identity_start(0.1), task, until_time=1.5)
    assert (run.attrs["stopped"], float(run.time[-1])) == ("time", 1.5)
    with pytest.warns(StoppedEarly, match=r"stopped by 'evaluations' at a loss of .*, but until_loss is 5e-05"):
        run = rl.gradient_flow(identity_start(0.1), task, until_evaluations=100)
    assert run.attrs["stopped"] == "evaluations"
    assert 100 <= run.attrs["evaluations"] < 130
    with pytest.warns(UserWarning, match="nothing was trained"):
        run = rl.gradient_flow(identity_start(0.1), task, until_loss=1e9)
    assert (run.attrs["stopped"], run.sizes["time"]) == ("loss", 1)


def test_stops_where_nothing_moves():
    zero = rl.deep_matrix((3, 3), depth=2, std=0.0)
    with pytest.warns(StoppedEarly, match="the gradient|parameters would need"):
        run = rl.gradient_flow(zero, diagonal_problem())
    assert run.attrs["stopped"] == "stationary"
    net = rl.deep_matrix((3, 3), depth=2, width=1, std=0.3)  # rank one cannot fit: ends at the best rank-one matrix
    with pytest.warns(StoppedEarly, match="the loss has not fallen"):
        run = rl.gradient_flow(net, diagonal_problem(), until_loss=1e-9, until_evaluations=50_000)
    assert run.attrs["stopped"] == "stationary"
    assert float(run.loss[-1]) == pytest.approx((2.0**2 + 1) / 2, rel=1e-6)


def test_a_plateau_is_not_stationary():
    task = rl.Completion(torch.zeros(1, 2).long(), torch.tensor([1.0]), (1, 1), loss="half_sse")
    net = rl.init.product_(rl.deep_matrix((1, 1), depth=4), torch.full((1, 1), 1e-24).double())
    run = rl.gradient_flow(net, task, until_loss=1e-6)  # u' = u^3 from u = 1e-6: escapes at time 5e11
    assert run.attrs["stopped"] == "loss"
    assert float(run.time[-1]) == pytest.approx(0.5e12, rel=0.01)


def test_a_second_plateau_a_million_times_longer_than_the_first_is_not_rest():
    target = torch.diag(torch.tensor([2.0, 1.0]).double())
    everything = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    task = rl.Completion(everything, target.reshape(-1), (2, 2), loss="half_sse")
    net = rl.deep_matrix((2, 2), depth=3)
    with torch.no_grad():
        for node in net.nodes:
            node.copy_(torch.diag(torch.tensor([1e-2, 1e-8])))
    start = [node.detach().clone() for node in net.nodes]
    for rtol, shift in [(1e-6, 0.15), (1e-8, 0.01)]:  # u' = u^2 from 1e-8, next to entries of 1e-2
        with torch.no_grad():
            for node, value in zip(net.nodes, start, strict=True):
                node.copy_(value)
        run = rl.gradient_flow(net, task, until_loss=1e-6, rtol=rtol)
        assert run.attrs["stopped"] == "loss"
        assert float(run.time[-1]) == pytest.approx(1e8, rel=shift)


def test_divergence_keeps_the_record_so_far():
    def falls_for_ever(prediction, value):
        return -(prediction**4) - value

    task = rl.Completion(torch.zeros(1, 2).long(), torch.tensor([1.0]), (1, 1), loss=falls_for_ever)
    net = rl.deep_matrix((1, 1), depth=2, std=0.5)
    with pytest.warns(StoppedEarly, match="after time"):
        run = rl.gradient_flow(net, task, until_loss=-math.inf, rtol=1e-3)
    assert run.attrs["stopped"] == "nan"
    assert "after time" in run.attrs["message"]
    assert run.sizes["time"] > 10
    assert bool(np.isfinite(run.loss).all())

    def not_a_number(prediction, value):
        return (prediction - value) * math.nan

    task = rl.Completion(torch.zeros(1, 2).long(), torch.tensor([1.0]), (1, 1), loss=not_a_number)
    with pytest.warns(StoppedEarly, match="not finite at the start"):
        run = rl.gradient_flow(net, task)
    assert (run.attrs["stopped"], run.sizes["time"]) == ("nan", 1)


def test_times_are_where_the_record_is():
    track = {"s": lambda net: net.tensor().diagonal()}
    times = [0.5, 1.0, 2.0, 7.5]
    run = rl.gradient_flow(identity_start(0.1), diagonal_problem(), times=times, rtol=1e-9, until_loss=0, track=track)
    assert run.time.values.tolist() == [0.0, *times]
    for k, target in enumerate([4.0, 2.0, 1.0]):
        exact = oracles.cube_mode(target, 0.1, run.time.values, steps_per_unit=2000) ** 3
        np.testing.assert_allclose(run.s.values[:, k], exact, rtol=1e-4)


def test_resuming_is_as_if_uninterrupted(tmp_path):
    def run(net, **how):
        return rl.gradient_flow(net, diagonal_problem(), until_loss=1e-8, rtol=1e-8, track=track, **how)

    track = {"s": lambda net: net.tensor()}
    whole = run(identity_start(0.1))
    path = rl.save(run(identity_start(0.1), until_time=3.0), tmp_path / "half.nc")
    rest = run(identity_start(0.3), resume=rl.load(path))  # the start is the record's, not the network's
    assert rest.attrs["stopped"] == "loss"
    assert float(rest.time[-1]) == pytest.approx(float(whole.time[-1]), rel=1e-5)
    np.testing.assert_allclose(rest.s[-1], whole.s[-1], atol=1e-6)
    assert (np.diff(rest.time) > 0).all()
    assert float(rest.time[0]) == 0.0
    assert rest.attrs["evaluations"] > rl.load(path).attrs["evaluations"]
    with pytest.raises(ValueError, match="27 parameters, this network 18"):
        rl.gradient_flow(rl.deep_matrix((3, 3), depth=2), diagonal_problem(), resume=rest.drop_vars("s"))
    with pytest.raises(ValueError, match="has no variable 'other'"):
        rl.gradient_flow(identity_start(0.1), diagonal_problem(), resume=rest, track={"other": track["s"]})


def test_resuming_more_exactly_asks_for_smaller_errors():
    first = rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=1.0, rtol=1e-4)
    rest = rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=2.0, rtol=1e-8, resume=first)
    ratio = float((rest["atol"] / first["atol"]).max())
    assert ratio == pytest.approx(1e-4**1.05)


def test_a_wanted_time_at_the_end_of_a_step_is_recorded():
    scout = rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=3.0)
    times = [float(t) for t in scout.time.values[[3, 7, 20]]] + [3.0]
    run = rl.gradient_flow(identity_start(0.1), diagonal_problem(), times=times)
    np.testing.assert_allclose(run.time.values, [0.0, *times], rtol=1e-12)


def test_the_network_is_left_at_the_last_state():
    net = rl.hierarchical((3, 3, 3), width=3, std=0.5).freeze(0)
    kept = net.nodes[0].detach().clone()
    task = cases.problem(net)
    run = rl.gradient_flow(net, task, until_time=5.0, track={"tensor": lambda net: net.tensor()})
    assert torch.equal(net.nodes[0].detach(), kept)
    np.testing.assert_array_equal(run.tensor[-1], net.tensor().detach())
    assert float(run.loss[-1]) == pytest.approx(float(task.loss(net).detach()))
    assert run.tensor.dims == ("time", "tensor_0", "tensor_1", "tensor_2")
    pointers = {stack.untyped_storage().data_ptr() for stack in net.stacks}
    assert len(pointers) == len(net.stacks)  # own storage again
    assert {type(v) for v in run.attrs.values()} <= {str, int, float}


def test_what_is_no_number_is_not_tracked():
    with pytest.raises(TypeError, match=r"track\['s'\] gave a NoneType"):
        rl.gradient_flow(identity_start(0.1), diagonal_problem(), track={"s": lambda net: None})


def test_resuming_at_rest_rests():
    task = rl.Completion(torch.zeros(2, 2).long(), torch.tensor([1.0, 2.0]), (2, 2), duplicates="keep")
    net = rl.deep_matrix((2, 2), 2, std=0.3)
    with pytest.warns(StoppedEarly, match="stationary"):
        first = rl.gradient_flow(net, task)
    assert first.attrs["stopped"] == "stationary"
    with pytest.warns(StoppedEarly, match="stationary"):
        rest = rl.gradient_flow(net, task, resume=first)
    assert rest.attrs["stopped"] == "stationary"
    assert float(rest.loss[-1]) == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flow_to_zero_loss_ends_at_rounding_and_is_not_called_diverged(seed):
    net = rl.deep_matrix((5, 5), 3, std=0.1, seed=seed)
    task = rl.Completion.sample(rl.targets.low_rank_matrix((5, 5), 2, seed=seed), 18)
    run = rl.gradient_flow(net, task, until_loss=0, until_evaluations=8_000)
    assert run.attrs["stopped"] in ("stationary", "evaluations", "loss")
    assert float(run.loss[-1]) < 1e-14


def test_a_flow_under_no_grad_flows():
    with torch.no_grad():
        run = rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=1.0)
    assert run.attrs["stopped"] == "time"


def test_progress_says_what_is_waited_for(capsys):
    heard = []
    rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=1.0, progress=heard.append)
    assert "of 5e-05" in heard[-1]
    assert "evaluations" in heard[-1]
    rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=1.0, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rtol": 0.0}, "rtol is 0.0"),
        ({"rtol": 1.5}, "rtol is 1.5"),
        ({"rtol": 0.999}, "rtol is 0.999; it must be a finite number above 0 and at most 0.1"),
        ({"atol": -1.0}, "atol is -1.0"),
        ({"until_time": 0.0}, "until_time is 0.0"),
        ({"until_loss": math.nan}, "until_loss is nan"),
        ({"until_evaluations": 0}, "until_evaluations is 0"),
        ({"times": [1.0, 1.0]}, "increasing finite numbers"),
        ({"times": [math.inf]}, "increasing finite numbers"),
        ({"times": [0.0]}, "the last of times is 0"),
        ({"track": {"loss": lambda net: 1.0}}, "choose another name"),
        ({"track": {"a/b": lambda net: 1.0}}, "track names 'a/b'; take a word"),
        ({"track": {"s_0": lambda net: 1.0}}, "track names 's_0'; take a word"),
        ({"track": {"s": lambda net, n=[]: n.append(0.0) or n.copy()}}, r"has shape \(2,\), before \(1,\)"),
    ],
)
def test_bad_arguments(how, message):
    with pytest.raises(ValueError, match=message):
        rl.gradient_flow(identity_start(0.1), diagonal_problem(), **how)


def test_what_has_no_flow_is_refused():
    net = identity_start(0.1)
    task = rl.Completion(torch.zeros(1, 2).long(), torch.ones(1), (3, 3), loss="l1")
    with pytest.raises(ValueError, match=r"discontinuous gradient.*huber"):
        rl.gradient_flow(net, task)
    with pytest.raises(ValueError, match="every node of the network is frozen"):
        rl.gradient_flow(net.freeze(0, 1, 2), diagonal_problem())


def test_singular_values_follow_their_law_along_the_flow():
    net = rl.init.balance_(rl.deep_matrix((4, 4), depth=3, std=0.3))
    task = rl.Completion.sample(rl.targets.low_rank_matrix((4, 4), 2), observed=12)
    track = {
        "s": lambda net: rl.singular_values(net.tensor()),
        "rate": lambda net: rl.theory.singular_value_rate(net, task, balanced=True),
    }

    times = np.arange(1, 200) * 0.01
    run = rl.gradient_flow(net, task, times=times, rtol=1e-10, until_loss=0, track=track)
    slope = np.gradient(run.s.values, run.time.values, axis=0, edge_order=2)[5:-5]
    assert np.abs(slope - run.rate.values[5:-5]).max() <= TOLERANCE["flow"] * np.abs(slope).max()


def test_records_are_labelled_datasets():
    run = rl.gradient_flow(identity_start(0.1), diagonal_problem(), until_time=1.0)
    assert isinstance(run, xr.Dataset)
    assert set(run.variables) == {"time", "loss", "state", "atol"}
    assert "torch" in run.attrs["versions"]


def test_a_flow_whose_solver_has_memory_of_its_own_is_the_same(monkeypatch):
    """On an accelerator the solver's arrays are copies of the flat vectors; here the CPU takes that path."""
    from ranklens.dynamics import flow

    class Copying(flow._Field):
        def __init__(self, net, task, flat, evaluations, *, shared):
            super().__init__(net, task, flat, evaluations, shared=False)

    target = rl.targets.cp((4, 4, 4), rank=2)
    task = rl.Completion.sample(target, observed=40)
    runs, ends = [], []
    for copying in (False, True):
        if copying:
            monkeypatch.setattr(flow, "_Field", Copying)
        net = rl.cp((4, 4, 4), rank=5, std=1e-2)
        runs.append(rl.gradient_flow(net, task, until_loss=1e-3, track={"norms": lambda net: net.component_norms("r")}))
        ends.append(net.tensor().detach())
    for name in ("loss", "time", "norms", "state"):
        assert np.array_equal(runs[0][name], runs[1][name])
    assert torch.equal(*ends)


def test_other_devices_are_refused_by_name():
    net = rl.cp((2, 2), rank=1).to("meta")
    with pytest.raises(TypeError, match="float64 on meta; a flow needs float64 on the CPU or on CUDA"):
        rl.gradient_flow(net, rl.Completion.counterexample())


def test_a_goal_that_the_initial_values_meet_already_warns():
    """The entries of this target are so small that a network at zero fits them up to the default `until_loss`."""
    task = rl.Completion.sample(torch.full((3, 3), 1e-3, dtype=torch.float64), observed=6)
    with pytest.warns(UserWarning, match="nothing was trained; pass an until_loss below 1e-06"):
        run = rl.gradient_flow(rl.deep_matrix((3, 3), depth=2), task)
    assert run.sizes["time"] == 1
    net = rl.deep_matrix((3, 3), depth=2)
    run = rl.gradient_flow(net, task, until_loss=1e-4 * float(task.values.square().mean()))
    assert run.sizes["time"] > 1
    assert float(task.loss(net).detach()) < float(run.loss[0]) / 1000
