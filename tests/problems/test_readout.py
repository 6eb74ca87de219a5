"""Readouts of a planned contraction: mini-batches of every problem, and which problems are read in this way."""

import cases
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.gradient import LossGradient
from ranklens.problems.readout import readout, reads_end_tensor

ROWS = ([0, 1, 2, 3, 4, 5], [3], [8, 6, 7, 3], [0, 1], [5, 2, 4])


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def entries(loss):
    """Nine observations, of which three are of one entry, with different values."""
    indices = [[0, 1, 2], [0, 1, 2], [1, 0, 0], [2, 2, 1], [0, 1, 2], [1, 1, 1], [2, 0, 2], [0, 0, 1], [1, 2, 2]]
    return rl.Completion(indices, numbers(9), (3, 3, 3), loss=loss, duplicates="keep")


TASKS = {
    "repeated entries": entries("mse"),
    "repeated entries, huber": entries("huber"),
    "all entries": rl.Completion.sample(numbers(3, 3, 3, seed=1), observed=27, loss="half_sse"),
    "sensing": rl.Sensing([numbers(9, 3, seed=seed) for seed in range(3)], numbers(9)),
    "dense sensing": rl.DenseSensing(numbers(9, 3, 3, 3), numbers(9), loss="half_sse"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_mini_batch_is_the_problem_of_its_observations(name, tolerance, monkeypatch):
    """One after the other, so that nothing of one mini-batch may be left in memory for the next one."""
    task, net = TASKS[name], rl.cp((3, 3, 3), rank=2, std=0.7)
    monkeypatch.setattr("ranklens.tensors.contract.work", lambda layout: 0)  # the whole tensor is read for any batch
    gradient = LossGradient(net, task)
    for rows in (*map(torch.tensor, ROWS), None):
        assert gradient.is_planned(rows)
        loss = (task if rows is None else task.subset(rows)).loss(net)
        assert float(gradient(rows)) == pytest.approx(float(loss.detach()), rel=tolerance["rounding"])
        for part, wanted in zip(gradient.parts, torch.autograd.grad(loss, net.stacks), strict=True):
            torch.testing.assert_close(part, wanted, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_the_number_of_observations_decides():
    """The whole tensor pays for many of its entries and not for few."""
    net = rl.hierarchical((8, 8, 8, 8), width=512)
    task = rl.Completion.sample(numbers(8, 8, 8, 8), observed=2048)
    assert reads_end_tensor(task, net.layout)
    assert not reads_end_tensor(task, net.layout, observations=4)
    assert LossGradient(net, task).is_planned()
    assert not LossGradient(net, task).is_planned(torch.arange(4))


def test_a_tensor_too_large_for_memory_is_never_read_whole():
    net = rl.cp((2,) * 64, rank=2)
    task = rl.Sensing([numbers(5, 2, seed=seed) for seed in range(64)], numbers(5))
    assert not reads_end_tensor(task, net.layout)
    assert bool(torch.isfinite(LossGradient(net, task)()))


@pytest.mark.parametrize("name", ["sensing", "dense sensing", "all entries"])
def test_the_loss_of_a_subclass_is_its_own(name):
    """A class that inherits from a problem of the library may define another loss."""
    task, net = TASKS[name], rl.cp((3, 3, 3), rank=2, std=0.7)

    class Doubled(type(task)):
        def loss(self, tensor):
            return 2 * super().loss(tensor)

    doubled = Doubled.__new__(Doubled)
    doubled.__dict__.update(task.__dict__)
    assert not reads_end_tensor(doubled, net.layout)
    assert float(LossGradient(net, doubled)()) == pytest.approx(2 * float(LossGradient(net, task)()))


def test_a_problem_of_another_class_has_no_readout():
    net = rl.cp((3, 3, 3), rank=2)
    planned = LossGradient(net, TASKS["all entries"]).planned
    with pytest.raises(TypeError, match="a Scalar has a loss of its own"):
        readout(cases.Scalar(), planned)
