"""Descending networks together gives what descending them one by one gives."""

import cases
import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.record import StoppedEarly

SAME = 1e-12  # relative: batched products add the same float64 numbers in another order

FAMILIES = {
    "matrix": lambda seed: rl.deep_matrix((6, 5), depth=3, std=0.3, seed=seed),
    "matrix of depth 1": lambda seed: rl.deep_matrix((6, 5), depth=1, std=0.3, seed=seed),
    "cp": lambda seed: rl.cp((4, 5, 3), rank=6, std=0.4, seed=seed),
    "hierarchical": lambda seed: rl.hierarchical((3, 3, 3, 3), width=4, std=0.5, seed=seed),
    "tensor ring": lambda seed: rl.tensor_ring((3, 4, 3), rank=2, std=0.5, seed=seed),
    "frozen": lambda seed: rl.cp((4, 5, 3), rank=6, std=0.4, seed=seed).freeze(1),
}
OPTIMIZERS = {
    "sgd": lambda p, n: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p, n: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p, n: torch.optim.Adam(p, lr=0.01),
    "group": lambda p, n: rl.optim.GroupRMSprop(p, lr=0.01, members=n),
    "signs": lambda p, n: rl.optim.SignDescent(p, lr=1e-3),
}


def target(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    return np.nanmax(np.abs(found - wanted)) <= SAME * np.nanmax(np.abs(wanted))


@pytest.mark.parametrize("loss", ["mse", "half_sse", "huber", lambda p, v: (p - v) ** 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_losses(family, loss):
    """A problem per member; an own loss is differentiated member by member."""
    nets = [FAMILIES[family](seed) for seed in range(4)]
    count = int(np.prod(nets[0].shape)) // 2
    tasks = [
        rl.Completion.sample(target(nets[0].shape, seed), observed=count, seed=seed, loss=loss) for seed in range(4)
    ]
    ensemble = rl.stack(nets)
    run = rl.gradient_descent(ensemble, tasks, torch.optim.SGD(ensemble.parameters(), lr=0.02), steps=60, every=20)
    for k, (net, task) in enumerate(zip(nets, tasks, strict=True)):
        alone = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.02), steps=60, every=20)
        assert close(run.loss[:, k], alone.loss)
        assert close(ensemble.members[k].tensor().detach(), net.tensor().detach())
        assert close(run.state[k], alone.state)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers(kind):
    nets = [FAMILIES["matrix"](seed) for seed in range(3)]
    task = rl.Completion.sample(target((6, 5)), observed=20)
    ensemble = rl.stack(nets)
    run = rl.gradient_descent(ensemble, task, OPTIMIZERS[kind](ensemble.parameters(), 3), steps=50, every=10)
    for k, net in enumerate(nets):
        alone = rl.gradient_descent(net, task, OPTIMIZERS[kind](net.parameters(), None), steps=50, every=10)
        assert close(run.loss[:, k], alone.loss)


def test_each_member_stops_by_itself():
    """A member that has reached the loss keeps its parameters and its number of steps."""
    nets = [rl.deep_matrix((5, 5), depth=2, std=0.3, seed=seed) for seed in range(5)]
    task = rl.Completion.sample(target((5, 5)) / 5, observed=8)
    ensemble = rl.stack(nets)
    options = {"steps": 4000, "until_loss": 1e-3, "every": 10}
    track = {"singular": lambda net: rl.singular_values(net.tensor())}
    run = rl.gradient_descent(ensemble, task, torch.optim.SGD(ensemble.parameters(), lr=0.2), track=track, **options)
    assert run.attrs["stopped"] == "loss"
    assert len(set(run.steps.values.tolist())) > 1, "the members should not all stop at once"
    for k, net in enumerate(nets):
        alone = rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.2), track=track, **options)
        rows = alone.sizes["step"]
        assert int(run.steps[k]) == alone.attrs["steps"]
        assert close(run.loss[:rows, k], alone.loss)
        assert close(run.singular[:rows, k], alone.singular)
        assert np.isnan(run.loss[rows:, k]).all()
        assert close(ensemble.members[k].tensor().detach(), net.tensor().detach())


def test_step_sizes_and_divergence():
    """Members with another step size move as with another learning rate; one that diverges does not harm the others."""
    nets = [rl.deep_matrix((5, 5), depth=2, std=0.5, seed=0) for _ in range(4)]
    task = rl.Completion.sample(target((5, 5)), observed=20)
    factors = [1.0, 0.25, 1000.0, 0.0]
    ensemble = rl.stack(nets, step_sizes=factors)
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.05)
    with pytest.warns(StoppedEarly, match="1 by 'nan', 3 by 'steps'"):
        run = rl.gradient_descent(ensemble, task, optimizer, steps=100, every=10)
    assert run.stopped.values.tolist() == ["steps", "steps", "nan", "steps"]
    for k, net in enumerate(nets[:2]):
        alone = rl.gradient_descent(
            net, task, torch.optim.SGD(net.parameters(), lr=0.05 * factors[k]), steps=100, every=10
        )
        assert close(run.loss[:, k], alone.loss)
    assert bool(torch.isfinite(ensemble.members[2].tensor()).all())
    assert torch.equal(ensemble.members[3].tensor(), nets[3].tensor())


def test_own_problems_go_one_by_one():
    nets = [rl.TensorNetwork("i,ij,j->", [torch.ones(2) + k, torch.ones(2, 3), torch.ones(3)]) for k in range(2)]
    ensemble = rl.stack([net.double() for net in nets])
    run = rl.gradient_descent(ensemble, cases.Scalar(), torch.optim.SGD(ensemble.parameters(), lr=1e-3), steps=20)
    alone = rl.gradient_descent(nets[1], cases.Scalar(), torch.optim.SGD(nets[1].parameters(), lr=1e-3), steps=20)
    assert close(run.loss[:, 1], alone.loss)


def test_what_is_refused():
    nets = [rl.cp((3, 4), rank=2), rl.cp((3, 4), rank=3)]
    with pytest.raises(ValueError, match=r"nets\[1\] is .*members need one equation"):
        rl.stack(nets)
    with pytest.raises(ValueError, match="nets is empty"):
        rl.stack([])
    with pytest.raises(ValueError, match="step_sizes are"):
        rl.stack(nets[:1], step_sizes=[-1.0])
    ensemble = rl.stack([rl.cp((3, 4), rank=2, seed=seed) for seed in range(3)])
    task = rl.Completion.sample(target((3, 4)), observed=6)
    sgd = torch.optim.SGD(ensemble.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="2 tasks were given for 3 members"):
        rl.gradient_descent(ensemble, [task, task], sgd)
    with pytest.raises(ValueError, match="make it with members=3"):
        rl.gradient_descent(ensemble, task, rl.optim.GroupRMSprop(ensemble.parameters()))
    with pytest.raises(ValueError, match="SharedAdam may couple the members"):
        rl.gradient_descent(ensemble, task, rl.optim.SharedAdam(ensemble.parameters()))
    with pytest.raises(ValueError, match="leave out batch_size"):
        rl.gradient_descent(ensemble, task, sgd, batch_size=2)
    with pytest.raises(TypeError, match="task is a list"):
        rl.gradient_descent(rl.cp((3, 4), rank=2), [task], sgd)
    with pytest.raises(ValueError, match="none of the ensemble's parameters"):
        rl.gradient_descent(ensemble, task, torch.optim.SGD(nets[0].parameters(), lr=0.1))


def sgd(ensemble, lr=0.05):
    return torch.optim.SGD(ensemble.parameters(), lr=lr)


def test_members_may_have_problems_of_unlike_numbers_of_observations_and_losses():
    """Batched or one by one, every member has its own problem: another number of entries, or another loss."""
    nets = [FAMILIES["matrix"](seed) for seed in range(3)]
    values = target((6, 5))
    counts = [rl.Completion.sample(values, observed=observed) for observed in (8, 15, 30)]
    losses = [rl.Completion.sample(values, observed=15, loss=loss) for loss in ("mse", "huber", "half_sse")]
    for tasks in (counts, losses):
        ensemble = rl.stack(nets)
        run = rl.gradient_descent(ensemble, tasks, sgd(ensemble), steps=30, every=10)
        for k, (net, task) in enumerate(zip(nets, tasks, strict=True)):
            alone = net.with_nodes(net.nodes)
            assert close(run.loss[:, k], rl.gradient_descent(alone, task, sgd(alone), steps=30, every=10).loss)


@pytest.mark.parametrize("loss", ["mse", "half_sse", "huber"])
def test_an_entry_counts_as_often_as_it_is_observed(loss):
    """Repeated observations of one entry, with different values."""
    nets = [FAMILIES["matrix"](seed) for seed in range(2)]
    indices = [[0, 1], [0, 1], [2, 3], [5, 4], [0, 1], [4, 0]]
    task = rl.Completion(indices, target((6,)), (6, 5), loss=loss, duplicates="keep")
    ensemble = rl.stack(nets)
    run = rl.gradient_descent(ensemble, task, sgd(ensemble), steps=30, every=10)
    for k, net in enumerate(nets):
        assert close(run.loss[:, k], rl.gradient_descent(net, task, sgd(net), steps=30, every=10).loss)


def test_a_loss_that_is_reached_exactly_ends_a_member():
    """`until_loss` is the largest loss at which a member stops, as it is for one network."""
    nets = [FAMILIES["matrix"](seed) for seed in range(2)]
    task = rl.Completion.sample(target((6, 5)), observed=20)
    ensemble = rl.stack(nets)
    start = rl.gradient_descent(ensemble, task, sgd(ensemble, 1e-9), steps=1).loss.values[0]
    ensemble = rl.stack(nets)
    run = rl.gradient_descent(ensemble, task, sgd(ensemble, 1e-9), steps=3, until_loss=float(start.max()))
    assert run.stopped.values.tolist() == ["loss", "loss"]
    assert run.steps.values.tolist() == [0, 0]


def test_the_counts_of_a_record_are_those_of_its_members():
    """A member that diverges has the steps of its last finite row; a gradient is counted for each member."""
    nets = [FAMILIES["matrix"](seed) for seed in range(3)]
    task = rl.Completion.sample(target((6, 5)), observed=20)
    ensemble = rl.stack(nets, step_sizes=[1.0, 1e6, 1.0])
    with pytest.warns(StoppedEarly, match="1 by 'nan'"):
        run = rl.gradient_descent(ensemble, task, sgd(ensemble), steps=45, every=10)
    assert run.step.values.tolist() == [0, 10, 20, 30, 40, 45], "the last step is recorded too"
    finite = np.isfinite(run.loss.values).sum(axis=0)
    assert run.steps.values.tolist() == [45, int(run.step[finite[1] - 1]), 45]
    assert (run.attrs["steps"], run.attrs["evaluations"]) == (45, 3 * 45)


def test_a_goal_that_was_passed_and_missed_warns():
    nets = [FAMILIES["matrix"](seed) for seed in range(2)]
    task = rl.Completion.sample(target((6, 5)), observed=20)
    ensemble = rl.stack(nets)
    with pytest.warns(StoppedEarly, match=r"2 of 2 members .* \(2 by 'steps'\)"):
        rl.gradient_descent(ensemble, task, sgd(ensemble), steps=5, until_loss=1e-9)


def test_an_interruption_goes_back_to_the_last_row():
    """As for one network, the record and the parameters are those of the last recorded row."""
    nets = [FAMILIES["matrix"](seed) for seed in range(2)]
    task = rl.Completion.sample(target((6, 5)), observed=20)
    ensemble = rl.stack(nets)

    class Interrupting(torch.optim.SGD):
        taken = 0

        def step(self, closure=None):
            self.taken += 1
            if self.taken == 8:
                raise KeyboardInterrupt
            super().step(closure)

    with pytest.raises(KeyboardInterrupt) as caught:
        rl.gradient_descent(ensemble, task, Interrupting(ensemble.parameters(), lr=0.05), steps=50, every=5)
    record = caught.value.record
    assert record.stopped.values.tolist() == ["interrupted", "interrupted"]
    assert record.step.values.tolist() == [0, 5]
    for k, member in enumerate(ensemble.members):
        assert float(task.loss(member).detach()) == pytest.approx(float(record.loss[-1, k]), rel=SAME)
    assert close(record.state, torch.cat([stack.detach().flatten(1) for stack in ensemble.stacks], dim=1))
