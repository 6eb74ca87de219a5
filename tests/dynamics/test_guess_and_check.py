"""Guess and check: probabilities and accepted draws against cases that are known in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from ranklens.dynamics.guess_and_check import Population, guess_and_check
from ranklens.tensors.random_product import RandomProduct

# Distance to the exact value, in estimated standard errors of 8 runs, that chance exceeds once in 200 times.
CHANCE = 4.0
QUICK = Population(members=200, runs=8)
# Smallest accepted p-value of a Kolmogorov-Smirnov test with a fixed seed.
UNLIKELY = 1e-3


def deviation(found, exact):
    return abs(found.probability - exact) / found.error


def ball(z):
    return (z - 0.5).square().sum(1)


@pytest.mark.parametrize(
    ("losses", "size", "level", "exact"),
    [
        (ball, 6, 0.5, stats.ncx2.cdf(0.5, 6, 6 * 0.25)),
        (ball, 12, 0.5, stats.ncx2.cdf(0.5, 12, 12 * 0.25)),
        (lambda z: -z.sum(1), 4, -11.0, stats.norm.sf(5.5)),
        (lambda z: z.abs().amin(1), 3, 1e-7, 3e-7 * math.sqrt(2 / math.pi)),  # three thin slabs
        (lambda z: torch.minimum(5 - z[:, 0], 4.5 + z[:, 0]), 2, 0.0, stats.norm.sf(5) + stats.norm.sf(4.5)),
    ],
    ids=["ball of 6", "ball of 12", "half space", "slabs", "two modes"],
)
def test_rare_probabilities_are_known_within_their_error(losses, size, level, exact):
    found = guess_and_check(losses, size, level, guesses=0, population=QUICK)
    assert found.method == "subset"
    assert deviation(found, exact) < CHANCE
    assert found.error < 0.5 * exact
    assert found.losses.max() <= level
    assert torch.equal(losses(found.draws), found.losses)
    assert len(found.draws) == QUICK.members * QUICK.runs


def test_accepted_draws_have_the_conditional_distribution():
    """Normal numbers above 4: their distribution is known; one draw in eight counts, for the draws are correlated."""
    found = guess_and_check(lambda z: -z[:, 0], 3, -4.0, guesses=0, population=Population(400, 8, moves=20))
    tail = stats.norm.sf(4.0)
    values = found.draws[::8, 0].numpy()
    assert stats.kstest(values, lambda x: 1 - stats.norm.sf(x) / tail).pvalue > UNLIKELY
    assert stats.kstest(found.draws[::8, 1].numpy(), stats.norm.cdf).pvalue > UNLIKELY


def test_rejection_where_it_can():
    found = guess_and_check(lambda z: -z[:, 0], 2, -1.0, guesses=100_000, enough=100)
    assert (found.method, found.evaluations, len(found.estimates)) == ("rejection", 100_000, 1)
    assert deviation(found, stats.norm.sf(1)) < CHANCE
    assert found.error == pytest.approx(math.sqrt(found.probability * (1 - found.probability) / 100_000))
    assert len(found.draws) == round(found.probability * 100_000)
    assert bool((found.draws[:, 0] >= 1).all())


def test_subset_simulation_takes_over_where_too_few_guesses_fit():
    few = guess_and_check(lambda z: -z[:, 0], 1, -3.0, guesses=1000, enough=100, population=QUICK)
    assert few.method == "subset"
    assert few.evaluations > 1000 + QUICK.members * QUICK.runs
    assert deviation(few, stats.norm.sf(3)) < CHANCE


def test_a_level_that_most_draws_reach_needs_no_further_level():
    found = guess_and_check(ball, 1, 10.0, guesses=0, population=Population(100, 4, moves=1))
    assert found.evaluations == 5 * 100 * 2
    assert found.probability == pytest.approx(stats.ncx2.cdf(10, 1, 0.25), abs=CHANCE * found.error + 1 / 400)


def test_both_methods_agree_on_products_of_matrices():
    """Three factors of width 2 and three measurements: nothing is known in closed form, but rejection can."""
    prior = RandomProduct(3, 3, (2, 2), normalized=True)
    losses = lambda z: (prior.matrices(z)[:, 0] - 0.4).square().mean(1)  # noqa: E731
    plain = guess_and_check(losses, prior.size, 0.002, guesses=60_000, enough=10)
    subset = guess_and_check(losses, prior.size, 0.002, guesses=0, population=QUICK)
    assert (plain.method, subset.method) == ("rejection", "subset")
    assert abs(plain.probability - subset.probability) < CHANCE * math.hypot(plain.error, subset.error)


def test_a_normalized_gaussian_matrix_has_a_beta_distribution():
    prior = RandomProduct(4, 4, (), normalized=True)
    found = guess_and_check(
        lambda z: prior.matrices(z)[:, :2].square().sum((1, 2)), prior.size, 0.02, guesses=0, population=QUICK
    )
    assert deviation(found, special.betainc(4, 4, 0.02)) < CHANCE


def test_equal_seeds_give_equal_draws_and_others_other_ones():
    one, same, other = (guess_and_check(ball, 3, 0.05, population=QUICK, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.draws, same.draws)
    assert one.probability != other.probability
    single = guess_and_check(ball, 3, 0.05, population=QUICK, seed=1, dtype=torch.float32)
    assert single.draws.dtype == torch.float32


def test_runs_are_independent_and_their_spread_is_the_error():
    found = guess_and_check(ball, 4, 0.05, guesses=0, population=QUICK)
    estimates = found.estimates.numpy()
    assert len(np.unique(estimates)) == QUICK.runs
    assert found.probability == pytest.approx(estimates.mean())
    assert found.error == pytest.approx(estimates.std(ddof=1) / math.sqrt(QUICK.runs))


def test_a_level_out_of_reach_is_named():
    with pytest.raises(ValueError, match=r"level is -1.0; no draws so small were found after 80 levels, the last of"):
        guess_and_check(ball, 1, -1.0, guesses=0, population=Population(10, 2, moves=1))
    with pytest.raises(ValueError, match="a loss is not a number for most draws"):
        guess_and_check(lambda z: z[:, 0] * math.nan, 1, 0.0, guesses=0, population=Population(10, 2))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"kept is 0.7; it must be a finite number above 0 and at most 0.5"):
        Population(kept=0.7)
    with pytest.raises(ValueError, match=r"members is 4; with kept = 0.2 none survive"):
        Population(members=4)
    with pytest.raises(ValueError, match="runs is 1; it must be at least 2"):
        Population(runs=1)
    with pytest.raises(ValueError, match="size is 0"):
        guess_and_check(ball, 0, 1.0)
    with pytest.raises(ValueError, match="level is nan"):
        guess_and_check(ball, 1, math.nan)
    with pytest.raises(ValueError, match=r"losses returned shape \(100, 3\) for 100 draws; it must be \(100,\)"):
        guess_and_check(lambda z: z, 3, 0.0, guesses=100)
    with pytest.raises(TypeError, match="losses returned a float; it must return a tensor"):
        guess_and_check(lambda z: 0.5, 3, 0.0, guesses=100)
