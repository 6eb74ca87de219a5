"""Predicted plateaus against best approximations, and the ways in which a prediction ends."""

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.dynamics.plateau import plateaus

# Share of the loss by which a predicted path may be off. A component of 1% of the loss is called linear, which puts its
# time off by about half of that, in units of the time in which it grows.
PATH = 3e-3


def full(target):
    indices = torch.cartesian_prod(*[torch.arange(size) for size in target.shape])
    return rl.Completion(indices, target.reshape(-1), target.shape, loss="half_sse")


@pytest.mark.parametrize("by", ["rate", "start"])
@pytest.mark.parametrize("depth", [2, 3])
def test_plateaus_of_a_fully_observed_matrix_are_its_best_approximations(by, depth, tolerance):
    target = rl.targets.low_rank_matrix((5, 4), 3, seed=1)
    U, S, Vh = torch.linalg.svd(target, full_matrices=False)
    net = rl.init.balance_(rl.deep_matrix((5, 4), depth, std=1e-4))
    found = rl.greedy_learning(net, full(target), by=by, most=2)
    for k in range(3):
        best = (U[:, :k] * S[:k]) @ Vh[:k]
        np.testing.assert_allclose(found.tensor.values[k], best.numpy(), atol=10 * tolerance["flow"])
        assert float(found.loss[k]) == pytest.approx(float(S[k:].square().sum()) / 2, rel=tolerance["flow"])
    assert found.attrs["stopped"] == "most"
    if by == "rate":
        np.testing.assert_allclose(found.rate.values, S[:2].numpy(), rtol=tolerance["flow"])
        assert np.isnan(found.time.values).all()
    else:
        assert (np.diff(found.time.values) > 0).all()


def losses_at_rest(time, loss):
    return loss[plateaus(xr.Dataset({"loss": ("time", loss)}, {"time": time}))]


def test_the_path_of_a_fully_observed_matrix_is_known_and_its_plateau_is_not_the_stationary_point():
    """Singular values obey s' = 2 s (target - s) each; the plateau between two of them depends on the start."""
    start, values = 1e-6, (3.0, 1.8)
    net = rl.init.product_(rl.deep_matrix((3, 3), 2), start * torch.eye(3, dtype=torch.float64))
    found = rl.greedy_learning(net, full(torch.diag(torch.tensor([*values, 0.0], dtype=torch.float64))))

    def exact(time):
        return sum((s - s / (1 + (s / start - 1) * np.exp(-2 * s * time))) ** 2 / 2 for s in values)

    time, loss = found.path_time.values, found.path_loss.values
    assert (np.diff(time) > 0).all()
    np.testing.assert_allclose(loss, exact(time), atol=PATH * float(found.loss[0]))
    even = np.linspace(0, time[-1], 10_000)
    [wanted] = losses_at_rest(even, exact(even))
    assert losses_at_rest(time, loss) == pytest.approx([wanted], rel=PATH)
    assert abs(wanted / float(found.loss[1]) - 1) > 10 * PATH


@pytest.mark.parametrize("std", [1e-3, 1e-1])
def test_the_path_lies_on_the_flow_of_a_tensor(std):
    """With the larger start the second component escapes before the first one is at rest."""
    task = rl.Completion.sample(rl.targets.cp((4, 4, 4), 2, seed=3), 64, seed=3)
    net = rl.init.balance_(rl.cp((4, 4, 4), 8, std=std, seed=3))
    found = rl.greedy_learning(net, task, most=2)
    run = rl.gradient_flow(net, task, until_loss=1.1 * float(found.loss[-1]))
    predicted = np.interp(run.time.values, found.path_time.values, found.path_loss.values)
    assert np.abs(predicted - run.loss.values).mean() <= 0.05 * float(found.loss[0])


def test_no_path_is_predicted_without_initial_values():
    found = rl.greedy_learning(rl.deep_matrix((4, 4), 2), full(rl.targets.low_rank_matrix((4, 4), 1)), by="rate")
    assert found.sizes["row"] == 0


def test_a_tree_gains_components_at_single_nodes():
    target = rl.targets.hierarchical((3, 3, 3, 3), 2, seed=2)
    found = rl.greedy_learning(rl.hierarchical((3, 3, 3, 3), 2), full(target), by="rate", most=3)
    assert found.bond.values[0] == "(0, 1), (2, 3), (0, 1, 2, 3)"
    assert all("), (" not in bond for bond in found.bond.values[1:])
    assert (np.diff(found.loss.values) < 0).all()


def test_it_ends_where_the_data_are_fitted():
    target = rl.targets.low_rank_matrix((4, 4), 1)
    found = rl.greedy_learning(rl.deep_matrix((4, 4), 2), full(target), by="rate")
    assert (found.attrs["stopped"], found.sizes["component"]) == ("loss", 1)
    nothing = rl.greedy_learning(rl.deep_matrix((2, 2), 2), full(torch.zeros(2, 2, dtype=torch.float64)))
    assert (nothing.attrs["stopped"], nothing.sizes["component"]) == ("loss", 0)


def test_what_is_refused():
    task = rl.Completion.counterexample()
    with pytest.raises(TypeError, match="by is 'size'"):
        rl.greedy_learning(rl.deep_matrix((2, 2)), task, by="size")
    with pytest.raises(ValueError, match="most is 0"):
        rl.greedy_learning(rl.deep_matrix((2, 2)), task, most=0)
    with pytest.raises(ValueError, match="frozen"):
        rl.greedy_learning(rl.deep_matrix((2, 2)).freeze(1), task)
