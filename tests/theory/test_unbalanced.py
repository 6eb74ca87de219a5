"""Unbalanced starts: the sandwich along flows, the closed equation of lambda-balance, and the monitor."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from cases import NETWORKS, problem

import ranklens as rl
from ranklens.seeds import normals

LOOSE = 1e-9  # relative: rounding in the exact rate


def nets(seed):
    tree = (rl.ModeTree.adjacent(4), rl.ModeTree.distant(4), rl.ModeTree.nested(((0, 1), (2, 3))))[seed % 3]
    if seed % 2:
        return rl.cp((3, 4, 2), rank=3, std=0.4, seed=seed)
    return rl.hierarchical((2, 3, 2, 3), width=2, tree=tree, std=0.6, seed=seed)


def check(net, task):
    for bond in net.bonds:
        found = rl.theory.sandwich(net, task, bond)
        room = LOOSE * torch.maximum(found.lower.abs(), found.upper.abs())
        assert bool((found.lower <= found.rate + room).all())
        assert bool((found.rate <= found.upper + room).all())
    return torch.zeros(())


@pytest.mark.parametrize("seed", range(20))
def test_the_sandwich_along_a_flow(seed):
    net = nets(seed)
    task = problem(net, seed)
    run = rl.gradient_flow(net, task, until_time=20.0, rtol=1e-4, track={"checked": lambda net: check(net, task)})
    assert run.sizes["time"] > 10


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sandwich_is_the_law_where_balanced_and_wider_elsewhere(name):
    net = NETWORKS[name](0.7)
    task = problem(net)
    check(net, task)
    rl.init.balance_(net)
    for bond in net.bonds:
        found = rl.theory.sandwich(net, task, bond)
        scale = found.rate.abs().max()
        assert float((found.upper - found.lower).abs().max()) <= 1e-8 * float(scale) + 1e-14


def test_the_sandwich_by_hand():
    """Slices of squared norms 4 and 1: sigma = 2, e = 3, and a gradient along the component of slope -1."""
    nodes = [torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)]
    net = rl.TensorNetwork("ar,rb->ab", nodes)
    task = rl.Completion(torch.zeros(1, 2, dtype=torch.long), torch.tensor([3.0]), (1, 1), loss="half_sse")
    found = rl.theory.sandwich(net, task, "r")
    assert [round(float(x), 9) for x in (found.lower, found.rate, found.upper)] == [1.6, 5.0, 10.0]
    assert float(rl.theory.relative_imbalance(net, "r")) == pytest.approx(1.5)


@pytest.mark.parametrize("imbalance", [-2.0, -1e-3, 0.0, 1e-6, 0.3, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_equation_is_what_the_factors_do(imbalance, seed):
    W0, G = normals([(4, 4), (4, 4)], seed, "product and gradient")
    net = rl.theory.lambda_balanced_(rl.deep_matrix((4, 4), depth=2), W0, imbalance)
    A, B = (node.detach() for node in net.nodes)
    assert torch.allclose(A @ B, W0, atol=1e-13)
    assert torch.allclose(A.T @ A - B @ B.T, imbalance * torch.eye(4, dtype=torch.float64), atol=1e-12)
    exact = -(A @ (A.T @ G) + (G @ B.T) @ B)
    found = rl.theory.lambda_balanced_velocity(W0, G, imbalance)
    assert float((found - exact).abs().max() / exact.abs().max()) <= 1e-12
    U, s, Vh = torch.linalg.svd(W0)
    law = -(imbalance**2 + 4 * s**2).sqrt() * (U.T @ G @ Vh.T).diagonal()
    assert float(((U.T @ exact @ Vh.T).diagonal() - law).abs().max() / law.abs().max()) <= 1e-12


def test_no_imbalance_is_the_flow_of_depth_two():
    """Balanced factors obey the end-matrix equation of depth 2, whose kernel is s + s'."""
    W0, G = normals([(3, 3), (3, 3)], 0, "product and gradient")
    values, left = np.linalg.eigh((W0 @ W0.T).numpy())
    root = left @ np.diag(np.sqrt(values)) @ left.T
    values, right = np.linalg.eigh((W0.T @ W0).numpy())
    other = right @ np.diag(np.sqrt(values)) @ right.T
    law = -(root @ G.numpy() + G.numpy() @ other)
    assert np.allclose(rl.theory.lambda_balanced_velocity(W0, G, 0.0).numpy(), law, atol=1e-11)


def test_relative_imbalance_bounds_the_error_of_the_balanced_law():
    net = rl.cp((3, 4, 2), rank=4, std=0.5, seed=3)
    task, order = problem(net), 3
    x = rl.theory.relative_imbalance(net, "r")
    sigma = net.component_norms("r").detach()
    law = order * sigma ** (2 - 2 / order) * rl.theory.alignment(net, task, "r")
    ratio = rl.theory.component_rate(net, task, "r") / law
    assert bool((ratio >= 1 - 1e-12).all())  # by the inequality of means, more than the sandwich says
    assert bool((ratio <= (1 + x) ** (order - 1)).all())


def test_imbalance_of_components_that_are_zero():
    net = rl.cp((3, 4, 2), rank=2, std=0.5)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 0] = 0.0
        net.nodes[0][:, 1] = 0.0
    assert rl.theory.relative_imbalance(net, "r").tolist() == [0.0, math.inf]
    found = rl.theory.sandwich(net, problem(net), "r")
    assert found.lower.tolist() == found.upper.tolist() == [0.0, 0.0]


def test_when_the_law_begins_to_mean_something():
    record = xr.Dataset({"x": (("time", "x_0"), [[1.0, 9], [0.05, 0.2], [0.3, 0.0], [0.1, 0.1], [0, 0]])})
    record = record.assign_coords(time=[0.0, 1, 2, 3, 4])
    assert rl.theory.balanced_from(record, "x") == 3.0
    assert rl.theory.balanced_from(record, "x", share=0.5) == 1.0
    assert rl.theory.balanced_from(record, "x", share=10.0) == 0.0
    assert rl.theory.balanced_from(record.isel(time=slice(0, 2)), "x") == math.inf


def test_bad_arguments():
    net, task = rl.cp((3, 4, 2), rank=2), problem(rl.cp((3, 4, 2), rank=2))
    with pytest.raises(ValueError, match="bond 'r' meets a frozen node"):
        rl.theory.sandwich(net.freeze(0), task, "r")
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="pass a square one of depth 2"):
        rl.theory.lambda_balanced_(rl.deep_matrix((2, 2), depth=3), eye, 1.0)
    with pytest.raises(ValueError, match="imbalance is nan; it must be a finite number"):
        rl.theory.lambda_balanced_(rl.deep_matrix((2, 2), depth=2), eye, math.nan)
    run = rl.gradient_flow(rl.cp((2, 2), rank=1, std=0.5), problem(rl.cp((2, 2), rank=1)), until_time=1.0)
    with pytest.raises(ValueError, match=r"name is 'x', but the record has .* along time; track it first"):
        rl.theory.balanced_from(run, "x")
    with pytest.raises(ValueError, match="share is 0"):
        rl.theory.balanced_from(run, "loss", share=0.0)
