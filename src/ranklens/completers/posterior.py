"""The posterior of a completion: draws of factors and biases. Their mean predicts, their spread is the uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.completers.equations import MatrixEntries
from ranklens.completers.gibbs import GibbsSampler, Prior, draw_rows
from ranklens.completers.observed import Observed
from ranklens.seeds import stream

# Numbers of draws that are multiplied at a time in predictions at positions: 8 MiB in float64.
NUMBERS = 2**20


@dataclass(frozen=True)
class Posterior:
    """Draws of the factors of a matrix or CP tensor, and of biases.

    Attributes:
        expected: (d_0, S, K) mean of the rows of the first mode given the rest of each of the S draws. With biases, the
            last column is the bias. Its products with the other factors have the mean of the draws' products, and
            less variance.
        rows: for every mode the (d_n, S, K) drawn rows.
        noise: (S,) drawn standard deviations of the noise.
        priors: the S drawn priors of the rows of the first mode.
        biases: whether the last column is a bias.
        mean: number that is added to every prediction.
        scale: size of one unit of the draws, in units of the observed values. The mean is in units of the draws.
    """

    expected: Float[Tensor, "d S K"]
    rows: tuple[Float[Tensor, "_ S K"], ...]
    noise: Float[Tensor, " S"]
    priors: tuple[Prior, ...]
    biases: bool
    mean: float
    scale: float

    def __len__(self) -> int:
        """Return the number S of draws."""
        return len(self.noise)

    @torch.no_grad()
    def at(self, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
        """Return the posterior means of entries, of shape (m,).

        Args:
            indices: (m, N) positions.
        """
        first, *others = self._factors(expected=True)
        parts = [_entries([first, *others], part, self.biases).mean(dim=1) for part in self._parts(indices)]
        return self.scale * (self.mean + _joined(parts))

    @torch.no_grad()
    def deviation(self, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
        """Return the posterior standard deviations of observations of entries, noise included, of shape (m,).

        Args:
            indices: (m, N) positions.
        """
        factors = self._factors(expected=False)
        parts = [_entries(factors, part, self.biases).var(dim=1) for part in self._parts(indices)]
        return self.scale * (_joined(parts) + self.noise.square().mean()).sqrt()

    @torch.no_grad()
    def whole(self) -> Float[Tensor, "rows columns"]:
        """Return the posterior mean of all entries of a matrix."""
        left, right = self.expected, self.rows[1]
        size = left.shape[2] - int(self.biases)
        U, V = (factor[:, :, :size].flatten(1) for factor in (left, right))
        found = U @ V.T / len(self)
        if self.biases:
            found += left[:, :, -1].mean(dim=1)[:, None] + right[:, :, -1].mean(dim=1)
        return self.scale * (found + self.mean)

    @torch.no_grad()
    def with_rows(self, observed: Observed, features: Sequence[Float[Tensor, "rows _"]], *, seed: int) -> "Posterior":
        """Return the posterior of a matrix with other rows, drawn given their entries and everything else.

        Args:
            observed: the entries of the new rows.
            features: for every group of features of the rows, their coordinates along the singular directions.
            seed: seed of the draws.
        """
        entries = MatrixEntries(
            observed.times(1 / self.scale).minus(torch.full_like(observed.values, self.mean)), biases=self.biases
        )
        generator = stream(seed, "draws of new rows")
        count, size = observed.shape[0], self.expected.shape[2]
        shape = (count, len(self), size)
        rows, expected = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
        for s, prior in enumerate(self.priors):
            means = prior.mean.expand(count, size)
            for group, coefficients in zip(features, prior.coefficients, strict=True):
                means = means + group @ coefficients
            for made in entries.equations(0, [rows[:, s], self.rows[1][:, s]]):
                some = slice(made.low, made.high)
                noise = torch.randn(made.high - made.low, size, generator=generator, dtype=torch.float64)
                rows[some, s], expected[some, s] = draw_rows(
                    made, float(self.noise[s]) ** -2, prior.precision, means[some], noise
                )
        return replace(self, expected=expected, rows=(rows, *self.rows[1:]))

    def times(self, factor: float) -> "Posterior":
        """Return the posterior of values in another unit: all predictions are multiplied by `factor`."""
        return replace(self, scale=factor * self.scale)

    def _factors(self, *, expected: bool) -> list[Tensor]:
        """Return the rows of all modes, those of the first either expected or drawn."""
        return [self.expected if expected else self.rows[0], *self.rows[1:]]

    def _parts(self, indices: Tensor) -> Sequence[Tensor]:
        """Cut positions into chunks whose products fit into `NUMBERS`."""
        return indices.split(max(NUMBERS // math.prod(self.expected.shape[1:]), 1))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return chunks as one vector."""
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64)


def _entries(factors: Sequence[Tensor], indices: Tensor, biases: bool) -> Float[Tensor, "m S"]:
    """Return entries for every draw, without the mean."""
    picked = [factor[own] for factor, own in zip(factors, indices.T, strict=True)]
    size = picked[0].shape[2] - int(biases)
    product = picked[0][:, :, :size].clone()
    for factor in picked[1:]:
        product *= factor[:, :, :size]
    total = product.sum(dim=2)
    if biases:
        for factor in picked:
            total += factor[:, :, -1]
    return total


@torch.no_grad()
def draw(sampler: GibbsSampler, *, skip: int, draws: int, mean: float) -> Posterior:
    """Return draws of a Gibbs sampler, one per sweep.

    Args:
        sampler: the sampler, for entries less `mean`.
        skip: sweeps that come first and are not kept.
        draws: number S of draws.
        mean: the mean that was subtracted.
    """
    for _ in range(skip):
        sampler.sweep()
    shapes = [(len(mode), draws, mode.shape[1]) for mode in sampler.rows]
    rows = tuple(torch.empty(shape, dtype=torch.float64) for shape in shapes)
    expected = torch.empty(shapes[0], dtype=torch.float64)
    noise, priors = torch.empty(draws, dtype=torch.float64), []
    for s in range(draws):
        sampler.sweep()
        for kept, mode in zip(rows, sampler.rows, strict=True):
            kept[:, s] = mode
        expected[:, s], noise[s] = sampler.expected, sampler.noise_precision**-0.5
        priors.append(sampler.priors[0])
    return Posterior(expected, rows, noise, tuple(priors), sampler.biases, mean, 1.0)
