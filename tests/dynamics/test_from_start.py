"""What the initial values say about the next component, where the gradient alone would be wrong or silent."""

import pytest
import torch

import ranklens as rl

COARSE = 0.02  # a time read from the rows of a run, between which the loss falls by a few percent


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def full(target):
    indices = torch.cartesian_prod(*[torch.arange(size) for size in target.shape])
    return rl.Completion(indices, target.reshape(-1), target.shape, loss="half_sse")


@pytest.mark.parametrize("depth", [2, 3])
def test_a_head_start_beats_a_larger_rate(depth, tolerance):
    """The second singular value starts larger; it is learned first by the flow, and by the prediction."""
    task = full(diagonal(1.0, 0.9))
    net = rl.init.product_(rl.deep_matrix((2, 2), depth), diagonal(1e-6, 1e-4))
    found = rl.greedy_learning(net, task, most=1)
    assert float(found.tensor[1, 1, 1]) == pytest.approx(0.9, rel=tolerance["flow"])
    assert float(rl.greedy_learning(net, task, by="rate", most=1).tensor[1, 0, 0]) == pytest.approx(
        1.0, rel=tolerance["flow"]
    )
    run = rl.gradient_flow(net, task, until_loss=0.51, track={"W": lambda net: net.tensor()})
    assert float(run.W[-1, 1, 1]) > 5 * float(run.W[-1, 0, 0])


def test_a_component_of_a_tensor_is_the_one_that_flow_learns(tolerance):
    task = rl.Completion.sample(rl.targets.cp((4, 4, 4), 2, seed=3), 64, seed=3)
    net = rl.init.balance_(rl.cp((4, 4, 4), 8, std=1e-3, seed=3))
    found = rl.greedy_learning(net, task, most=2)
    run = rl.gradient_flow(net, task, until_loss=1.01 * float(found.loss[1]), track={"W": lambda net: net.tensor()})
    away = (torch.from_numpy(run.W.values[-1] - found.tensor.values[1])).norm()
    assert float(away) <= 0.15 * float(torch.from_numpy(found.tensor.values[1]).norm())
    middle = float(found.loss[:2].mean())
    at = float(run.time[int((run.loss.values > middle).sum())])
    assert at == pytest.approx(float(found.time[0]), rel=COARSE)


def test_bonds_whose_components_can_be_mixed_are_refused():
    task = rl.Completion.sample(rl.targets.cp((3, 3, 3), 2), 20)
    with pytest.raises(ValueError, match="has order 2"):
        rl.greedy_learning(rl.tensor_train((3, 3, 3), 2), task)
    assert rl.greedy_learning(rl.tensor_train((3, 3, 3), 2), task, by="rate", most=1).sizes["component"] == 1


def test_no_component_grows_without_a_gradient():
    target = diagonal(1.0, 0.0)
    net = rl.init.product_(rl.deep_matrix((2, 2), 3), diagonal(1e-6, 1e-6))
    found = rl.greedy_learning(net, full(target), until_loss=0.0, most=3)
    assert found.sizes["component"] <= 2
    assert float(found.loss[-1]) < 1e-6
