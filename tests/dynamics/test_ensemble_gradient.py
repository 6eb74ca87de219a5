import pytest
import torch

import ranklens as rl
from ranklens.dynamics import ensemble_gradient as module
from ranklens.dynamics.ensemble_gradient import Batch, EnsembleGradient, Single, descend_


def members(count):
    """Return deep matrices with starts of their own, and a completion for each, all of other entries."""
    nets = [rl.deep_matrix((5, 6), 3, std=0.5, seed=seed) for seed in range(count)]
    tasks = [rl.Completion.sample(net.tensor().detach() + 1.0, observed=12 + k, seed=k) for k, net in enumerate(nets)]
    return nets, tasks


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("loss", ["mse", "half_sse", "huber", "l1"])
def test_losses_and_gradients_are_those_of_the_members(size, loss, monkeypatch, tolerance):
    """Seven members in groups of 1, 3 and 7; the losses differ in how their derivative is found."""
    monkeypatch.setattr(module, "_group_size", lambda ensemble: size)
    nets, tasks = members(7)
    tasks = [rl.Completion(task.indices, task.values, task.shape, loss=loss) for task in tasks]
    ensemble = rl.stack(nets)
    gradient = EnsembleGradient(ensemble, tasks)
    losses = gradient.losses()
    gradient.evaluate()
    for k, (net, task) in enumerate(zip(nets, tasks, strict=True)):
        wanted = task.loss(net)
        assert float(losses[k]) == pytest.approx(float(wanted.detach()), rel=tolerance["rounding"])
        parts = torch.autograd.grad(wanted, net.stacks)
        for stack, part in zip(ensemble.stacks, parts, strict=True):
            assert torch.allclose(stack.grad[k], part, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_completions_of_the_whole_tensor_are_batched_and_other_problems_are_not():
    nets, tasks = members(2)
    assert all(isinstance(group, Batch) for group in EnsembleGradient(rl.stack(nets), tasks).groups)
    mixed = [tasks[0], rl.Completion(tasks[1].indices, tasks[1].values, tasks[1].shape, loss="half_sse")]
    assert all(isinstance(group, Single) for group in EnsembleGradient(rl.stack(nets), mixed).groups)


def test_a_group_fits_into_the_cache(monkeypatch):
    nets, tasks = members(6)
    bytes_of_one = 8 * (2 * sum(stack.numel() for stack in nets[0].stacks) + 6 * 30)
    for fits, groups in ((1, 6), (2, 3), (4, 2), (100, 1)):
        monkeypatch.setattr(module, "CACHE", fits * bytes_of_one)
        assert len(EnsembleGradient(rl.stack(nets), tasks).groups) == groups


def test_a_step_leaves_members_of_factor_zero_alone():
    """Even if their gradient is not finite."""
    value, gradient = torch.ones(3, 2), torch.tensor([[1.0, 2.0], [1.0, 2.0], [float("nan"), float("inf")]])
    descend_([(value, gradient)], [0.5], torch.tensor([1.0, 2.0, 0.0]))
    assert value.tolist() == [[0.5, 0.0], [0.0, -1.0], [1.0, 1.0]]
