"""Least squares for factors and biases together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.completers.biases import fit_biases
from ranklens.completers.equations import MatrixEntries
from ranklens.completers.joint import fit_jointly_
from ranklens.completers.observed import Observed

# A fit without noise, after few sweeps.
EXACT = 1e-6


def test_rows_are_ridge_regressions_with_a_bias(tolerance):
    made = np.random.default_rng(0)
    indices = np.stack([made.integers(0, 5, 40), made.integers(0, 6, 40)], axis=1)
    values, other = made.standard_normal(40), made.standard_normal((6, 3))
    observed = Observed(torch.from_numpy(indices), torch.from_numpy(values), (5, 6))
    factors = [torch.zeros(5, 3).double(), torch.from_numpy(other)]
    (equations,) = MatrixEntries(observed, biases=True).equations(0, factors)
    penalty = torch.tensor([0.1, 0.1, 2.0]).double()
    found = equations.solve(penalty)
    for row in range(5):
        own = indices[:, 0] == row
        design = np.concatenate([other[indices[own, 1], :2], np.ones((own.sum(), 1))], axis=1)
        target = values[own] - other[indices[own, 1], 2]
        wanted = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target)
        assert np.allclose(found[row], wanted, atol=tolerance["difference"])


@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("shape", [(40, 30), (12, 11, 10)])
def test_an_offset_of_any_size_is_told_from_the_factors(shape, offset):
    """Data without noise, a product of rank two plus an offset, are fitted exactly from a rough start."""
    target = rl.targets.cp(shape, 2) if len(shape) > 2 else rl.targets.low_rank_matrix(shape, 2)
    target = target / target.square().mean().sqrt()
    task = rl.Completion.sample(target + offset, observed=target.numel() // 2)
    observed = Observed(task.indices, task.values, shape)
    biases = replace(fit_biases(observed, 1.0))
    net = rl.init.scaled_(rl.cp(shape, 2) if len(shape) > 2 else rl.deep_matrix(shape, 2, 2), 1.0, seed=1)
    found = fit_jointly_(net, observed, biases, ridge=0.0, sweeps=300, converged=0.0)
    everywhere = torch.cartesian_prod(*map(torch.arange, shape))
    whole = net.entries(everywhere).detach() + found.at(everywhere) - offset
    assert float((whole - target.reshape(-1)).norm() / target.norm()) < EXACT


def test_sweeps_go_on_where_a_sum_of_squares_has_lost_its_digits():
    """Biases that are ten thousand times as large as the rest: rounding of their squares is no end of the fit."""
    target = rl.targets.low_rank_matrix((40, 30), 2)
    target = target / target.square().mean().sqrt()
    sizes = 1e4 * (1 + torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    task = rl.Completion.sample(target + sizes, observed=800)
    observed = Observed(task.indices, task.values, (40, 30))
    net = rl.init.scaled_(rl.deep_matrix((40, 30), 2, 2), 1.0, seed=1)
    found = fit_jointly_(net, observed, fit_biases(observed, 1e-6), ridge=0.0, sweeps=300, converged=1e-4)
    left = observed.minus(net.entries(observed.indices).detach() + found.at(observed.indices))
    assert left.mean_square() ** 0.5 < EXACT
