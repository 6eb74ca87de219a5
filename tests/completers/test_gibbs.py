"""The Gibbs sampler against dense linear algebra, known moments, and a posterior with a formula."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.completers.equations import MatrixEntries
from ranklens.completers.gibbs import GibbsSampler, draw_rows
from ranklens.completers.observed import Observed
from ranklens.completers.side import decompose

# Standard errors of a mean of random draws by which it may be off.
SPREADS = 4.0


def sampler(shape=(7, 6), size=2, entries=25, **more):
    made = np.random.default_rng(0)
    indices = np.stack([made.integers(0, d, entries) for d in shape], axis=1)
    observed = Observed(torch.from_numpy(indices), torch.from_numpy(made.standard_normal(entries)), shape)
    rows = [torch.from_numpy(made.standard_normal((d, size))) for d in shape]
    return GibbsSampler(observed, rows, biases=False, noise=0.5, seed=0, **more)


def test_rows_are_drawn_from_their_gaussian(tolerance):
    made = np.random.default_rng(0)
    indices = torch.from_numpy(np.stack([made.integers(0, 5, 30), made.integers(0, 8, 30)], axis=1))
    observed = Observed(indices, torch.from_numpy(made.standard_normal(30)), (5, 8))
    V = made.standard_normal((8, 3))
    A = made.standard_normal((3, 3))
    precision, means, noise = A @ A.T + np.eye(3), made.standard_normal((5, 3)), made.standard_normal((5, 3))
    factors = [torch.zeros(5, 3).double(), torch.from_numpy(V)]
    (equations,) = MatrixEntries(observed, biases=False).equations(0, factors)
    drawn, expected = draw_rows(equations, 2.5, *map(torch.from_numpy, (precision, means, noise)))
    for row in range(5):
        own = indices[:, 0].numpy() == row
        features, values = V[indices[own, 1].numpy()], observed.values.numpy()[own]
        P = 2.5 * features.T @ features + precision
        mean = np.linalg.solve(P, 2.5 * features.T @ values + precision @ means[row])
        assert np.allclose(expected[row], mean, rtol=tolerance["rounding"])
        draw = mean + np.linalg.solve(np.linalg.cholesky(P).T, noise[row])  # has the covariance P^-1
        assert np.allclose(drawn[row], draw, rtol=tolerance["rounding"])


@pytest.mark.parametrize("shape", [0.5, 3.0, 400.0])
def test_gamma_draws_have_the_moments_of_the_distribution(shape):
    made = sampler()
    draws = np.array([made._gamma(shape) for _ in range(4000)])
    assert abs(draws.mean() - shape) < SPREADS * np.sqrt(shape / 4000)
    assert abs(draws.var() / shape - 1) < SPREADS * np.sqrt((2 + 6 / shape) / 4000)


def test_wishart_draws_have_the_mean_of_the_distribution():
    made = sampler()
    scatters = np.array([[[3.0, 1.0], [1.0, 2.0]], [[1.0, -0.5], [-0.5, 4.0]]])
    freedoms = np.array([9, 5])
    draws = np.array([made._wishart(scatters, freedoms)[0] for _ in range(4000)])
    error = draws.std(axis=0) / np.sqrt(4000)
    expected = freedoms[:, None, None] * np.linalg.inv(scatters)
    assert (abs(draws.mean(axis=0) - expected) < SPREADS * error).all()


def test_a_vector_that_comes_with_a_wishart_draw_has_it_for_a_precision():
    """Multiplied by the root of the precision on both sides, its outer products have the mean 1."""
    made = sampler()
    scatters = np.array([[[3.0, 1.0], [1.0, 2.0]]])
    whitened = []
    for _ in range(4000):
        precisions, vectors = made._wishart(scatters, np.array([9]))
        whitened.append(np.linalg.cholesky(precisions[0]).T @ vectors[0])
    products = np.einsum("sk,sl->skl", whitened, whitened)
    error = products.std(axis=0) / np.sqrt(4000)
    assert (abs(products.mean(axis=0) - np.eye(2)) < SPREADS * error).all()


def test_a_sweep_keeps_the_joint_distribution():
    """Geweke's test: if entries are drawn anew after every sweep, rows stay distributed as their prior says.

    The priors of the rows are held fixed here, so that the rows of both modes should be standard normal.
    """
    made = sampler(entries=12, size=1, shape=(3, 4))
    made._draw_priors = lambda: made.priors
    made.noise_precision = 0.3  # noisy entries say little, so that successive sweeps are nearly independent
    generator = torch.Generator().manual_seed(1)
    indices = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    squares = []
    for _ in range(1000):
        mean = (made.rows[0][indices[:, 0]] * made.rows[1][indices[:, 1]]).sum(dim=1)
        noise = torch.randn(12, generator=generator, dtype=torch.float64)
        made.replace_entries(Observed(indices, mean + noise * made.noise_precision**-0.5, (3, 4)))
        made.sweep()
        squares.append([float(mode.square().mean()) for mode in made.rows])
    block = np.array(squares).reshape(20, 50, 2).mean(axis=1)  # means of 50 sweeps are nearly independent
    assert (abs(block.mean(axis=0) - 1) < SPREADS * block.std(axis=0) / np.sqrt(20)).all()


def test_features_that_explain_rows_are_used():
    """Rows without an entry are predicted from their features."""
    made = np.random.default_rng(0)
    X = made.standard_normal((60, 2))
    truth = X @ np.array([[1.0], [-2.0]]) @ made.standard_normal((1, 20))
    indices = np.argwhere(np.ones((50, 20)))  # the last ten rows have no entry
    values = truth[tuple(indices.T)] + 0.1 * made.standard_normal(len(indices))
    observed = Observed(torch.from_numpy(indices), torch.from_numpy(values), (60, 20))
    rows = [torch.from_numpy(0.1 * made.standard_normal((d, 1))) for d in (60, 20)]
    found = GibbsSampler(observed, rows, biases=False, noise=1.0, seed=0, features=[[decompose(X)], []])
    total = np.zeros((10, 20))
    for k in range(60):
        found.sweep()
        total += (found.expected[50:] @ found.rows[1].T).numpy() / 40 if k >= 20 else 0.0
    assert np.linalg.norm(total - truth[50:]) < 0.1 * np.linalg.norm(truth[50:])


def test_draws_can_be_repeated():
    one, other = sampler(), sampler()
    for made in (one, other):
        for _ in range(3):
            made.sweep()
    assert all(torch.equal(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def test_rows_of_a_tensor_are_sampled():
    """From random rows a chain may stay at a local maximum for long, so this is said of the median of several."""
    target = rl.targets.cp((9, 8, 7), 2)
    task = rl.Completion.sample(target, observed=300, noise=0.05)
    made = np.random.default_rng(0)
    rows = [torch.from_numpy(made.standard_normal((d, 2))) for d in target.shape]
    observed = Observed(task.indices, task.values, tuple(target.shape))
    errors = []
    for seed in range(5):
        found = GibbsSampler(observed, rows, biases=False, noise=1.0, seed=seed)
        total = torch.zeros_like(target)
        for k in range(120):
            found.sweep()
            total += torch.einsum("ar,br,cr->abc", found.expected, *found.rows[1:]) / 60 if k >= 60 else 0.0
        errors.append(float((total - target).norm() / target.norm()))
    assert np.median(errors) < 0.05
