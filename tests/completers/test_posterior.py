"""The posterior against literal averages over its draws, and its intervals against planted noise."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.completers.gibbs import GibbsSampler
from ranklens.completers.observed import Observed
from ranklens.completers.posterior import draw
from ranklens.completers.side import decompose, observed_with

# Distance of a covered share from the nominal one.
POINTS = 0.02


def fitted(shape=(30, 20), *, biases=True, implicit=False, draws=25, noise=0.2, seed=0):
    made = np.random.default_rng(seed)
    target = rl.targets.cp(shape, 1, seed=seed) if len(shape) > 2 else rl.targets.low_rank_matrix(shape, 1, seed=seed)
    task = rl.Completion.sample(target, observed=target.numel() // 2, noise=noise, seed=seed)
    observed = Observed(task.indices, 1 + task.values, shape)
    size = 1 + int(biases)
    rows = [torch.from_numpy(made.standard_normal((d, size))) for d in shape]
    features = [[decompose(observed_with(observed, n), standardize=False)] for n in (0, 1)] if implicit else None
    less = observed.minus(torch.ones_like(observed.values))
    sampler = GibbsSampler(less, rows, biases=biases, noise=1.0, seed=seed, features=features)
    return draw(sampler, skip=30, draws=draws, mean=1.0), observed, 1 + target


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shape", [(30, 20), (8, 7, 6)])
def test_predictions_are_averages_over_draws(shape, biases, tolerance):
    posterior, observed, _ = fitted(shape, biases=biases)
    size = posterior.expected.shape[2] - int(biases)
    total, values = np.zeros(len(observed)), []
    for s in range(len(posterior)):
        for first, means in ((posterior.expected, True), (posterior.rows[0], False)):
            picked = [f[observed.indices[:, n], s].numpy() for n, f in enumerate((first, *posterior.rows[1:]))]
            value = np.prod([p[:, :size] for p in picked], axis=0).sum(axis=1)
            value += sum(p[:, -1] for p in picked) if biases else 0.0
            if means:
                total += value / len(posterior)
            else:
                values.append(value)
    twice = posterior.times(2.0)
    assert np.allclose(twice.at(observed.indices), 2 * (1 + total), rtol=tolerance["rounding"])
    variance = np.var(values, axis=0, ddof=1) + float(posterior.noise.square().mean())
    assert np.allclose(twice.deviation(observed.indices), 2 * np.sqrt(variance), rtol=tolerance["rounding"])
    if len(shape) == 2:
        i, j = observed.indices.T
        assert np.allclose(posterior.whole()[i, j], posterior.at(observed.indices), rtol=tolerance["rounding"])


@pytest.mark.parametrize("implicit", [True, False])
def test_known_rows_are_predicted_as_new_ones(implicit, tolerance):
    posterior, observed, _ = fitted(implicit=implicit)
    features = []
    if implicit:
        table = observed_with(observed, 0)
        features = [decompose(table, standardize=False).directions(table)]
    again = posterior.with_rows(observed, features, seed=0)
    assert np.allclose(again.whole(), posterior.whole(), atol=tolerance["difference"])


def test_new_rows_are_predicted():
    posterior, _, _ = fitted(noise=0.05, biases=False)
    direction = rl.targets.low_rank_matrix((30, 20), 1)[0]
    observed = Observed(torch.tensor([[0, j] for j in range(10)]), 1 + 2 * direction[:10], (1, 20))
    found = posterior.with_rows(observed, [], seed=0)
    assert float((found.whole()[0] - 1 - 2 * direction).norm() / (2 * direction).norm()) < 0.1
    nothing = Observed(torch.zeros(0, 2).long(), torch.zeros(0).double(), (1, 20))
    wide = posterior.with_rows(nothing, [], seed=0).deviation(torch.tensor([[0, 15]]))
    assert float(wide) > float(found.deviation(torch.tensor([[0, 15]])))  # less is known about a row without entries


def test_no_positions_have_no_predictions():
    posterior, *_ = fitted()
    assert posterior.at(torch.zeros(0, 2).long()).shape == (0,)


@pytest.mark.parametrize("shape", [(60, 50), (15, 14, 13)])
def test_intervals_cover_what_they_say(shape):
    """Of new noisy observations of unobserved entries, averaged over seeds, within two points of the nominal share."""
    shares = {0.5: [], 0.8: [], 0.9: [], 0.95: []}
    for seed in range(4):
        posterior, observed, target = fitted(shape, draws=60, seed=seed)
        seen = torch.zeros(shape, dtype=torch.bool)
        seen[tuple(observed.indices.T)] = True
        indices = (~seen).nonzero()
        noise = 0.2 * np.random.default_rng(seed).standard_normal(len(indices))
        off = target[tuple(indices.T)].numpy() + noise - posterior.at(indices).numpy()
        off = abs(off / posterior.deviation(indices).numpy())
        for share, found in shares.items():
            found.append(np.mean(off < NormalDist().inv_cdf((1 + share) / 2)))
    assert all(abs(np.mean(found) - share) < POINTS for share, found in shares.items())
