"""Gibbs sampling of the factors of a matrix or of a CP tensor: draws from their posterior, given observed entries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.equations import Equations, MatrixEntries, TensorEntries, entries_of
from ranklens.completers.observed import Observed
from ranklens.completers.side import Features
from ranklens.seeds import stream

# Weight of the prior mean, zero, in rows: it counts as much as two rows with a factor of zero.
PRIOR_ROWS = 2.0
# Prior standard deviation of the entries of a component, in units of the initial noise. It is small, so that a
# component that the data do not need can shrink, and not so small that one that they need cannot grow any more.
PRIOR_SIZE = 1e-3
# Degrees of freedom of the prior of the noise precision, in observations.
PRIOR_NOISE = 1.0
# Added to the diagonal of every precision matrix, in units of its mean. Rounding errors then leave it positive definite
# if a few entries have weights that are many orders of magnitude larger than the others.
LIFT = 1e-12
# Number of rows from which on their Cholesky factorizations are made together (measured).
MANY = 300
Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """The Gaussian prior of the rows of one mode.

    Attributes:
        mean: (K,) prior mean of a row without features.
        precision: (K, K) prior precision.
        coefficients: for every group of features the (R, K) coefficients along its singular directions.
        weights: for every group of features the prior precision of the coefficients, in units of `precision`.
    """

    mean: Float[Tensor, " K"]
    precision: Float[Tensor, "K K"]
    coefficients: tuple[Tensor, ...] = ()
    weights: tuple[float, ...] = ()


class GibbsSampler:
    r"""Draw the factors of a matrix or CP tensor, and biases, from their posterior given observed entries.

    The model of an entry with indices i_1 ... i_N is

        y = sum_r prod_n A_n[i_n, r] + sum_n b_n[i_n] + noise,

    with Gaussian noise. Every row u = (A_n[i], b_n[i]) has a Gaussian prior, whose mean and precision are drawn too,
    from a Normal-Wishart prior, one for each mode. Given everything else, the rows of one mode are independent, and
    the distribution of each is Gaussian:

        precision  alpha sum phi phi^T + Lambda,     mean  precision^-1 (alpha sum phi t + Lambda m),

    where the sums are over the entries of the row, phi are the features of an entry (the products of the other modes'
    factors, and 1 for the bias), t is its value less the other modes' biases, alpha is the noise precision, and m and
    Lambda are the mean and the precision of the prior. A draw for all rows of a mode is therefore one batch of small
    Cholesky factorizations.

    With features x of the rows of a mode, the prior mean is m = mu + sum_g x_g^T B_g. The coefficients B_g have
    independent rows with precision w_g Lambda, and their weights w_g are drawn too.

    Args:
        observed: the entries, of order one.
        rows: for every mode its initial rows, of shape (d_n, K); with biases, the last column is the bias.
        biases: whether the last column of `rows` is a bias.
        noise: initial standard deviation of the noise.
        seed: seed of all draws.
        features: for every mode the groups of features of its rows; None for no features.

    Source: Salakhutdinov and Mnih (ICML 2008), Bayesian matrix factorization; Xiong et al. (SDM 2010) for CP; Simm et
        al. (MLSP 2017) for features.

    >>> import torch, ranklens as rl
    >>> target = rl.targets.low_rank_matrix((30, 20), rank=1)
    >>> task = rl.Completion.sample(target, observed=400, noise=0.1)
    >>> rows = [torch.ones(30, 1).double(), torch.ones(20, 1).double()]
    >>> sampler = GibbsSampler(Observed(task.indices, task.values, task.shape), rows, biases=False, noise=1.0, seed=0)
    >>> noise = []
    >>> for _ in range(60):
    ...     sampler.sweep()
    ...     noise.append(sampler.noise_precision**-0.5)
    >>> round(sum(noise[20:]) / 40, 1)  # the standard deviation of the noise is found
    0.1
    """

    def __init__(
        self,
        observed: Observed,
        rows: Sequence[Float[Tensor, "_ K"]],
        *,
        biases: bool,
        noise: float,
        seed: int,
        features: Sequence[Sequence[Features]] | None = None,
    ) -> None:
        self.rows = [mode.double().clone() for mode in rows]
        self.expected = self.rows[0].clone()
        self.biases, self.noise_precision = biases, noise**-2
        size = rows[0].shape[1]
        self.priors = [Prior(torch.zeros(size).double(), torch.eye(size).double())] * len(rows)
        self._noise, self._least_noise = noise, PRIOR_NOISE * noise**2
        self._generator = stream(seed, "draws of a Gibbs sampler")
        self.replace_entries(observed, features)

    def replace_entries(self, observed: Observed, features: Sequence[Sequence[Features]] | None = None) -> None:
        """Replace the observed entries and the features, to go on with all of them after a beginning with a part.

        Args:
            observed: entries of the same shape.
            features: for every mode the groups of features of its rows; None for no features. Their coefficients begin
                at zero.
        """
        self._entries: MatrixEntries | TensorEntries = entries_of(observed, biases=self.biases)
        self._count = float(observed.counts().sum())
        self._squared: float | None = None  # sum of squared residuals after the last sweep
        self.features = [()] * len(self.rows) if features is None else [tuple(groups) for groups in features]
        for n, groups in enumerate(self.features):
            size = self.rows[n].shape[1]
            zeros = tuple(torch.zeros(len(group.s), size, dtype=torch.float64) for group in groups)
            self.priors[n] = replace(self.priors[n], coefficients=zeros, weights=(1.0,) * len(groups))

    @torch.no_grad()
    def sweep(self) -> None:
        """Draw everything once: the noise precision, the priors, and the rows of every mode, the first mode last.

        After it, `expected` is the mean of the rows of the first mode, given everything else that was drawn.
        """
        if self._squared is not None:
            shape = (self._count + PRIOR_NOISE) / 2
            self.noise_precision = 2 * self._gamma(shape) / (self._squared + self._least_noise)
        self.priors = self._draw_priors()
        for n in reversed(range(len(self.rows))):
            self._draw_rows(n)

    def _draw_rows(self, n: int) -> None:
        """Draw the rows of a mode, given everything else; of the first mode, keep the sum of squared residuals too."""
        rows, prior = self.rows[n], self.priors[n]
        means = prior.mean.expand_as(rows) + self._linear(n)
        squared = self._entries.energy(n, self.rows) if n == 0 else 0.0
        for made in self._entries.equations(n, self.rows):
            some = slice(made.low, made.high)
            noise = self._normal(made.high - made.low, rows.shape[1])
            drawn, expected = draw_rows(made, self.noise_precision, prior.precision, means[some], noise)
            rows[some] = drawn
            if n == 0:
                self.expected[some] = expected
                squared += made.change(drawn)
        self._squared = max(squared, 0.0)

    def _linear(self, n: int) -> Tensor | float:
        """Return the part of the prior means of a mode's rows that is linear in their features."""
        groups = zip(self.features[n], self.priors[n].coefficients, strict=True)
        return sum(group.Q @ (group.s[:, None] * coefficients) for group, coefficients in groups)

    def _draw_priors(self) -> list[Prior]:
        """Return a draw of the prior of every mode, given its rows and its previous prior; all are drawn together."""
        rows = np.array([[len(mode)] for mode in self.rows])
        linear, averages, scatters, freedoms = [], [], [], []
        for n in range(len(rows)):
            left, coefficients, weights = self._draw_linear(n)
            linear.append((coefficients, weights))
            averages.append(left.mean(axis=0))
            scatters.append(self._scatter(left, averages[n], coefficients, weights))
            freedoms.append(len(left) + left.shape[1] + sum(map(len, coefficients)))
        precisions, deviations = self._wishart(np.stack(scatters), np.array(freedoms))
        means = rows / (PRIOR_ROWS + rows) * np.stack(averages) + deviations / np.sqrt(PRIOR_ROWS + rows)
        parts = zip(torch.from_numpy(means), torch.from_numpy(precisions), linear, strict=True)
        return [Prior(mean, precision, *features) for mean, precision, features in parts]

    def _draw_linear(self, n: int) -> tuple[Matrix, tuple[Tensor, ...], tuple[float, ...]]:
        """Draw the coefficients of a mode's features, and their weights.

        Returns:
            What the features do not explain of the rows, the coefficients, and the weights.
        """
        before = self.priors[n]
        left = self.rows[n] - self._linear(n)
        coefficients, weights = [], []
        for group, old, weight in zip(self.features[n], before.coefficients, before.weights, strict=True):
            left += group.Q @ (group.s[:, None] * old)
            made = self._draw_coefficients(group, left - before.mean, before.precision, weight)
            left -= group.Q @ (group.s[:, None] * made)
            energy = float(((made @ before.precision) * made).sum())
            weights.append(2 * self._gamma((made.numel() + 1) / 2) / (energy + 1.0))
            coefficients.append(made)
        return left.numpy(), tuple(coefficients), tuple(weights)

    def _scatter(
        self, left: Matrix, average: Matrix, coefficients: Sequence[Tensor], weights: Sequence[float]
    ) -> Matrix:
        """Return the inverse of the scale of the Wishart distribution of a mode's precision, of shape (K, K).

        Args:
            left: (d, K) what the features leave of the rows.
            average: (K,) the mean of `left`.
            coefficients: the coefficients of the features.
            weights: their weights.
        """
        rows, size = left.shape
        variance = (PRIOR_SIZE * self._noise) ** (2 / len(self.rows))  # of a factor's rows
        centred = left - average
        scatter: Matrix = centred.T @ centred + PRIOR_ROWS * rows / (PRIOR_ROWS + rows) * np.outer(average, average)
        scatter.ravel()[:: size + 1] += rows * variance
        for made, weight in zip(coefficients, weights, strict=True):
            scatter += weight * (made.T @ made).numpy()
        return scatter

    def _draw_coefficients(self, group: Features, left: Tensor, precision: Tensor, weight: float) -> Tensor:
        """Draw the coefficients of features, given what they are to explain of the rows."""
        curvature = (group.s**2 + weight)[:, None]
        mean = group.s[:, None] * (group.Q.T @ left) / curvature
        return mean + torch.from_numpy(self._gaussian(precision.numpy(), len(group.s))) / curvature.sqrt()

    def _normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def _gaussian(self, precision: Matrix, count: int) -> Matrix:
        """Return Gaussian vectors of mean zero and a given precision, as the rows of a matrix."""
        return np.linalg.solve(np.linalg.cholesky(precision).T, self._normal(len(precision), count).numpy()).T

    def _wishart(self, scatters: Matrix, freedoms: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
        """Return draws W of Wishart distributions, and for each a Gaussian vector of mean zero and precision W.

        By Bartlett's decomposition, W = L^-T A A^T L^-1, where L is the Cholesky factor of the scatter matrix. A is a
        random lower triangle: standard normal numbers, and on its diagonal roots of chi-squared ones. For a vector z of
        standard normal numbers, L A^-T z has the precision W.

        Args:
            scatters: (N, K, K) inverses of the scales.
            freedoms: (N,) degrees of freedom, at least K.

        Returns:
            The draws, of shape (N, K, K), and the vectors, of shape (N, K).
        """
        number, size, _ = scatters.shape
        A = np.tril(self._normal(number, size, size).numpy(), -1)
        steps = np.arange(size)
        A[:, steps, steps] = np.sqrt(2 * self._gammas((freedoms[:, None] - steps) / 2))
        L = np.linalg.cholesky(scatters)
        half = np.linalg.solve(L.swapaxes(1, 2), A)
        whitened: Matrix = np.linalg.solve(A.swapaxes(1, 2), self._normal(number, size, 1).numpy())
        vectors: Matrix = np.matmul(L, whitened)
        return half @ half.swapaxes(1, 2), vectors[:, :, 0]

    def _gamma(self, shape: float) -> float:
        """Return a draw of the Gamma distribution of scale 1."""
        return float(self._gammas(np.array([shape]))[0])

    def _gammas(self, shapes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a draw of the Gamma distribution of scale 1 for every shape."""
        return torch._standard_gamma(torch.from_numpy(shapes), generator=self._generator).numpy()


@torch.no_grad()
def draw_rows(
    made: Equations,
    noise_precision: float,
    precision: Float[Tensor, "K K"],
    means: Float[Tensor, "rows K"],
    noise: Float[Tensor, "rows K"],
) -> tuple[Float[Tensor, "rows K"], Float[Tensor, "rows K"]]:
    """Return a draw of rows from their posterior, and its mean.

    For many rows their Cholesky factorizations are made together, an entry of all factors at a time: for thousands of
    small matrices this takes a third of the time of one call of LAPACK for each.

    Args:
        made: the normal equations of the rows.
        noise_precision: alpha, the inverse of the noise variance.
        precision: prior precision.
        means: prior mean of every row.
        noise: standard normal numbers.

    Returns:
        The draw, the mean plus precision^(-1/2) times `noise`; and the mean.
    """
    y = torch.addmm(made.moment, means, precision, beta=noise_precision)
    if len(means) < MANY:
        return _by_rows(made, noise_precision, precision, y, noise)
    i, j, diagonal = _triangle(y.shape[1])
    lower = torch.add(precision[i, j], made.gram, alpha=noise_precision)
    lifted = lower[:, diagonal]
    lower[:, diagonal] = lifted + LIFT * lifted.mean(dim=1, keepdim=True)
    return _by_entries(lower, y, noise)


@lru_cache
def _triangle(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and columns of the entries of a lower triangle, row after row, and the places of the diagonal."""
    i, j = torch.tril_indices(size, size)
    return i, j, (i == j).nonzero().ravel()


def _by_rows(
    made: Equations, noise_precision: float, precision: Tensor, y: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return draws and means, by one call of LAPACK per row."""
    P = made.matrices().mul_(noise_precision).add_(precision)
    diagonal = P.diagonal(dim1=1, dim2=2)
    diagonal.add_(diagonal.mean(dim=1, keepdim=True), alpha=LIFT)
    L = torch.linalg.cholesky(P)
    half = torch.linalg.solve_triangular(L, y[:, :, None], upper=False)
    both = torch.linalg.solve_triangular(L.mT, torch.cat([half + noise[:, :, None], half], dim=2), upper=True)
    return both[:, :, 0], both[:, :, 1]


def _by_entries(lower: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return draws and means, by Cholesky factorizations of all rows together, one entry of all factors at a time."""
    rows, size = y.shape
    i, j, _ = _triangle(size)
    # Of every row, the lower triangle and then its factor. The upper triangles are not used.
    P = torch.zeros(size, size, rows, dtype=torch.float64)
    P[i, j] = lower.T
    y = y.T.contiguous()
    for k in range(size):
        P[k, k].sqrt_()
        column = P[k + 1 :, k]
        column /= P[k, k]
        y[k] /= P[k, k]
        y[k + 1 :].addcmul_(column, y[k], value=-1)
        P[k + 1 :, k + 1 :].addcmul_(column[:, None], column[None], value=-1)
    both = torch.stack([y + noise.T, y])
    for k in reversed(range(size)):
        both[:, k] /= P[k, k]
        both[:, :k].addcmul_(P[k, :k], both[:, k : k + 1], value=-1)
    drawn, expected = both.transpose(1, 2)
    return drawn, expected
