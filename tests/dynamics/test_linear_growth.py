"""Growth by a constant gradient against solutions in closed form."""

import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.linear_growth import linear_growth


def everywhere(net):
    return [torch.ones(node.shape, dtype=torch.bool) for node in net.nodes]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_balanced_component_along_the_gradient(order, tolerance):
    """u' = gamma u^(K-1) for the norm u of each of K slices, and the loss falls by gamma u^K."""
    gamma, small, fall = 2.0, 1e-3, 0.1
    net = rl.cp((3,) * order, 1, std=0.0)
    with torch.no_grad():
        for node in net.nodes:
            node[0, 0] = small
    gradient = torch.zeros(net.shape, dtype=torch.float64)
    gradient[(0,) * order] = -gamma
    end = (fall / gamma + small**order) ** (1 / order)
    if order == 2:
        exact = math.log(end / small) / gamma
    else:
        exact = (small ** (2 - order) - end ** (2 - order)) / ((order - 2) * gamma)
    found = linear_growth(net, gradient, everywhere(net), until_fall=fall)
    assert found.escaped
    assert found.time == pytest.approx(exact, rel=tolerance["flow"])
    assert float(found.nodes[0][0, 0]) == pytest.approx(end, rel=tolerance["flow"])
    assert (found.times[-1], found.falls[0]) == (found.time, 0.0)
    assert found.falls[-1] == pytest.approx(fall, rel=tolerance["flow"])
    if order == 2:  # of other orders, errors of the time grow without bound towards the end
        known = gamma * small**2 * np.expm1(2 * gamma * found.times)
        np.testing.assert_allclose(found.falls, known, rtol=tolerance["flow"], atol=tolerance["rounding"])
    assert float(net.nodes[0].detach()[0, 0]) == small


def test_entries_that_are_not_free_keep_their_values():
    net = rl.cp((3, 3, 3), 4, std=0.1)
    free = everywhere(net)
    free[1][:, 2] = False
    found = linear_growth(net, -torch.ones(3, 3, 3, dtype=torch.float64), free, until_fall=0.1)
    assert torch.equal(found.nodes[1][:, 2], net.nodes[1].detach()[:, 2])
    assert not torch.equal(found.nodes[1][:, 1], net.nodes[1].detach()[:, 1])


def test_it_follows_the_flow_of_a_loss_that_is_nearly_linear(tolerance):
    """Values that are large beside what is learned: the gradient hardly changes."""
    task = rl.Completion.sample(1e4 * rl.targets.cp((3, 3, 3), 2), observed=20)
    net = rl.cp((3, 3, 3), 4, std=0.1)
    zero = torch.zeros(3, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(zero), zero)
    found = linear_growth(net, gradient, everywhere(net), until_fall=10.0)
    rl.gradient_flow(net, task, until_loss=0.0, until_time=found.time, rtol=1e-8)
    for node, grown in zip(net.nodes, found.nodes, strict=True):
        torch.testing.assert_close(grown, node.detach(), rtol=tolerance["flow"], atol=tolerance["flow"])


def test_what_does_not_grow_does_not_escape():
    net = rl.cp((3, 3, 3), 2, std=0.0)
    found = linear_growth(net, torch.ones(3, 3, 3, dtype=torch.float64), everywhere(net), until_fall=1.0)
    assert not found.escaped
