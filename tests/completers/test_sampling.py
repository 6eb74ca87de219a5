"""The Bayesian finish: where it begins, and when it is kept."""

import numpy as np
import torch

import ranklens as rl
from ranklens.completers.observed import Observed
from ranklens.completers.sampling import DRAWS, Begin, initial_rows, number_of_draws, sample


def noisy(noise, rank=1, seed=0):
    """Return training set, held-out set, all entries, and the completion by the planted matrix."""
    target = rl.targets.low_rank_matrix((40, 30), rank, seed=seed)
    target = target / target.square().mean().sqrt()
    task = rl.Completion.sample(target, observed=700, noise=noise, seed=seed)
    whole = Observed(task.indices, task.values, (40, 30))
    train, held_out = whole.split(0.1, 0)
    net = rl.deep_matrix((40, 30), 2, width=rank)
    rl.init.product_(net, target)
    residuals = held_out.minus(target[tuple(held_out.indices.T)])
    return train, held_out, whole, Begin(net, None, 0.0, residuals, held_out.mean_square() ** 0.5), target


def left(value, count=9):
    """Return residuals that are all equal."""
    return Observed(torch.zeros(count, 2).long(), torch.full((count,), value).double(), (40, 30))


def test_noisy_data_get_more_components_than_clear_ones():
    _, _, _, begin, _ = noisy(0.1)
    assert [rows.shape for rows in initial_rows(begin, (40, 30), 0)] == [(40, 1), (30, 1)]
    assert [rows.shape for rows in initial_rows(begin, (40, 30), 0, more=1)] == [(40, 2), (30, 2)]
    unclear = Begin(begin.net, (torch.zeros(40).double(), torch.zeros(30).double()), 1.0, left(0.9), 1.0)
    assert [rows.shape for rows in initial_rows(unclear, (40, 30), 0)] == [(40, 9), (30, 9)]
    alone = Begin(None, None, 0.0, left(1.0), 1.0)
    assert [rows.shape for rows in initial_rows(alone, (40, 3), 0)] == [(40, 3), (3, 3)]


def test_a_posterior_that_predicts_as_well_is_kept():
    train, held_out, whole, begin, target = noisy(0.3)
    rough = Begin(begin.net, None, 0.0, begin.residuals.times(1.2), begin.alone)  # no fit is as good as the truth
    found = sample(train, held_out, whole, rough, draws=20, seed=0)
    assert found.posterior is not None
    assert float((found.posterior.whole() - target).norm() / target.norm()) < 0.15


def test_a_posterior_that_predicts_worse_is_not_kept():
    train, held_out, whole, begin, _ = noisy(0.3)
    better = Begin(begin.net, None, 0.0, begin.residuals.times(0.5), begin.alone)
    found = sample(train, held_out, whole, better, draws=20, seed=0)
    assert found.posterior is None
    assert found.error > better.error


def test_data_without_noise_need_no_draws():
    train, held_out, whole, begin, _ = noisy(0.0)
    exact = Begin(begin.net, None, 0.0, left(1e-8), begin.alone)
    found = sample(train, held_out, whole, exact, draws=20, seed=0)
    assert (found.posterior, found.error) == (None, None)


def test_the_number_of_draws_fits_the_data():
    few = Observed(torch.zeros(3, 2).long(), torch.zeros(3).double(), (10, 10))
    wide = Observed(few.indices, few.values, (10**5, 10**5))
    assert number_of_draws(None, few) == DRAWS
    assert number_of_draws(7, wide) == 7
    assert 0 < number_of_draws(None, wide) < DRAWS
    assert np.isfinite(number_of_draws(0, few))
