import cases
import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.record import StoppedEarly

SAME = 1e-12  # relative; losses of two descents that add the same float64 numbers in another order


def easy(batch=False):
    net = rl.cp((4, 4, 4), rank=3, std=0.5)
    return net, rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=50)


def test_the_loop_is_the_plain_loop():
    net, task = easy()
    plain = [node.detach().clone().requires_grad_() for node in net.nodes]
    losses = []
    for _ in range(21):
        found = torch.einsum("ar,br,cr->abc", *plain)[tuple(task.indices.T)]
        loss = (found - task.values).square().mean()
        losses.append(float(loss.detach()))
        for node, g in zip(plain, torch.autograd.grad(loss, plain), strict=True):
            node.data -= 0.01 * g
    run = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.01), steps=20, until_loss=0, every=5)
    np.testing.assert_allclose(run.loss, losses[::5], rtol=1e-12)
    assert run.step.values.tolist() == [0, 5, 10, 15, 20]
    assert run.attrs["stopped"] == "steps"
    assert run.attrs["solver"].startswith("SGD lr=0.01")


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "group": lambda p: rl.optim.GroupRMSprop(p, lr=1e-2),
}


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_is_exact_to_the_bit(optimizer, batch_size, tmp_path):
    def go(net, steps, **how):
        made = OPTIMIZERS[optimizer](net.parameters())
        return rl.gradient_descent(
            net, easy()[1], made, steps=steps, until_loss=0, every=4, batch_size=batch_size, **how
        )

    whole = go(easy()[0], 41)
    path = rl.save(go(easy()[0], 20), tmp_path / "half.nc")
    rest = go(rl.cp((4, 4, 4), rank=3), 41, resume=rl.load(path))
    np.testing.assert_array_equal(rest.state, whole.state)
    np.testing.assert_array_equal(rest.loss, whole.loss)
    np.testing.assert_array_equal(rest.step, whole.step)
    assert rest.attrs["evaluations"] == whole.attrs["evaluations"] == 41


def test_resuming_between_two_records_leaves_no_trace():
    def go(net, steps, **how):
        made = OPTIMIZERS["adam"](net.parameters())
        return rl.gradient_descent(net, easy()[1], made, steps=steps, until_loss=0, every=4, **how)

    whole = go(easy()[0], 21)
    rest = go(easy()[0], 21, resume=go(easy()[0], 10))
    assert rest.step.values.tolist() == whole.step.values.tolist() == [0, 4, 8, 12, 16, 20, 21]
    np.testing.assert_array_equal(rest.loss, whole.loss)


def test_mini_batches_see_every_observation_once_per_epoch():
    net, task = easy()
    seen = []

    class Watch:
        def loss(self, net):
            return task.loss(net)

        def subset(self, rows):
            seen.append(rows.tolist())
            return task.subset(rows)

        def __len__(self):
            return len(task)

    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    rl.gradient_descent(net, Watch(), optimizer, steps=8, until_loss=0, every=100, batch_size=15)
    assert [len(rows) for rows in seen[:4]] == [15, 15, 15, 5]
    for epoch in (seen[:4], seen[4:8]):
        assert sorted(row for rows in epoch for row in rows) == list(range(50))
    assert seen[0] != seen[4]


def test_divergence_stops_and_keeps_the_record(tolerance):
    net, task = easy()
    with pytest.warns(StoppedEarly, match="stopped by 'nan' .* take a smaller lr"):
        run = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=1e3), every=25, until_loss=0)
    assert run.attrs["stopped"] == "nan"
    assert "take a smaller lr" in run.attrs["message"]
    assert run.sizes["step"] >= 1
    assert bool(np.isfinite(run.loss).all())
    # the network went back to the last row
    assert float(task.loss(net).detach()) == pytest.approx(float(run.loss[-1]), rel=tolerance["rounding"])
    assert run.attrs["steps"] == int(run.step[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    again = rl.gradient_descent(net, task, optimizer, steps=20, every=1, until_loss=0, resume=run)
    assert float(again.loss[-1]) < float(run.loss[-1])


def test_resuming_with_another_optimizer_and_closures_are_refused():
    net, task = easy()
    run = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=1e-3), steps=2)
    with pytest.raises(ValueError, match="made with SGD, and the optimizer is a Adam"):
        rl.gradient_descent(net, task, torch.optim.Adam(net.parameters()), steps=4, resume=run)
    with pytest.raises(TypeError, match="LBFGS needs a closure"):
        rl.gradient_descent(net, task, torch.optim.LBFGS(net.parameters()))


def test_bfloat16_descends():
    net = rl.cp((4, 4, 4), rank=3, std=0.5, dtype=torch.bfloat16)
    run = rl.gradient_descent(net, easy()[1], torch.optim.SGD(net.parameters(), lr=0.1), steps=20)
    assert float(run.loss[-1]) < float(run.loss[0])


def test_stops_at_the_loss_and_leaves_the_network_there():
    net, task = easy()
    heard = []
    optimizer = rl.optim.GroupRMSprop(net.parameters(), lr=1e-2)
    run = rl.gradient_descent(net, task, optimizer, until_loss=1e-2, every=1, progress=heard.append)
    assert run.attrs["stopped"] == "loss"
    assert float(run.loss[-1]) <= 1e-2 < float(run.loss[-2])
    assert float(task.loss(net).detach()) == float(run.loss[-1])
    assert "of 1e-02" in heard[0]


def test_float32_descends():
    net = rl.cp((4, 4, 4), rank=3, std=0.5, dtype=torch.float32)
    run = rl.gradient_descent(net, easy()[1], torch.optim.SGD(net.parameters(), lr=0.1), steps=50)
    assert float(run.loss[-1]) < float(run.loss[0])
    assert run.state.dtype == np.float32


def test_bad_arguments():
    net, task = easy()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for how in ({"steps": 0}, {"every": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(how))} is 0"):
            rl.gradient_descent(net, task, optimizer, **how)
    other = torch.optim.SGD(rl.cp((2, 2)).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"none of the network's parameters"):
        rl.gradient_descent(net, task, other)
    run = rl.gradient_descent(net, task, optimizer, steps=1)
    small = cases.NETWORKS["cp order 2"](std=1.0)
    with pytest.raises(ValueError, match="36 parameters"):
        rl.gradient_descent(small, task, torch.optim.SGD(small.parameters(), lr=0.1), resume=run)


def test_resuming_for_fewer_steps_is_refused_and_divergence_keeps_the_last_row():
    target = rl.targets.low_rank_matrix((6, 6), rank=1)
    task = rl.Completion.sample(target, observed=30)
    net = rl.deep_matrix((6, 6), depth=2, std=0.3)
    run = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.05), steps=90, every=25)
    fresh = rl.deep_matrix((6, 6), depth=2, std=0.3)
    with pytest.raises(ValueError, match="steps is 50, and the record has 90 already"):
        rl.gradient_descent(fresh, task, torch.optim.SGD(fresh.parameters(), lr=0.05), steps=50, resume=run)
    wild = torch.optim.SGD(fresh.parameters(), lr=1e4)
    with pytest.warns(StoppedEarly, match="stopped by 'nan'"):
        after = rl.gradient_descent(fresh, task, wild, steps=200, every=100, resume=run)
    assert after.attrs["stopped"] == "nan"
    assert after.step.values.tolist() == run.step.values.tolist()
    assert bool(np.isfinite(after.loss).all())
    assert torch.equal(fresh.tensor(), net.tensor())


@pytest.mark.parametrize("kind", [torch.optim.Adam, rl.optim.GroupRMSprop])
def test_half_precision_is_recorded(kind):
    target = rl.targets.low_rank_matrix((10, 10), rank=1)
    task = rl.Completion.sample(target, observed=60)
    net = rl.deep_matrix((10, 10), depth=2, std=0.1, dtype=torch.bfloat16)
    track = {"s": lambda net: net.component_norms(net.bonds[0])}
    run = rl.gradient_descent(net, task, kind(net.parameters(), lr=1e-2), steps=5, track=track)
    assert run.attrs["steps"] == 5


def test_an_optimizer_may_replace_the_memory_of_the_parameters():
    """Some optimizers assign `data` instead of writing to it; the next gradient is that at the new values."""

    class Assigning(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data - group["lr"] * p.grad

    runs = []
    for kind in (Assigning, torch.optim.SGD):
        net, task = easy()
        runs.append(rl.gradient_descent(net, task, kind(net.parameters(), lr=0.01), steps=20, until_loss=0, every=5))
        assert float(task.loss(net).detach()) == pytest.approx(float(runs[-1].loss[-1]))
    np.testing.assert_allclose(runs[0].loss, runs[1].loss, rtol=SAME)


def test_an_own_problem_descends_as_the_one_it_wraps():
    """Gradients of one step are not added to those of the step before."""
    net, task = easy()

    class Own:
        def loss(self, net):
            return task.loss(net)

    run = rl.gradient_descent(net, Own(), torch.optim.SGD(net.parameters(), lr=0.01), steps=20, until_loss=0, every=5)
    net, _ = easy()
    wanted = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.01), steps=20, until_loss=0, every=5)
    np.testing.assert_allclose(run.loss, wanted.loss, rtol=SAME)
