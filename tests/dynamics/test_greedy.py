"""Predicted plateaus against best approximations, and the ways in which a prediction ends."""

import numpy as np
import pytest
import torch

import ranklens as rl


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
