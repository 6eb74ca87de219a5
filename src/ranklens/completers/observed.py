"""The observed entries of a matrix or tensor: one row of indices and one value per observation."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.seeds import stream


@dataclass(frozen=True)
class Observed:
    """Observed entries of a matrix or tensor.

    Attributes:
        indices: (m, N) int64 positions. A position may occur more than once.
        values: (m,) float64 values.
        shape: sizes of the N modes.
        weights: (m,) weights of the observations in sums of squares: an observation of weight 2 counts as two. None is
            weight 1 for all.
    """

    indices: Int[Tensor, "m order"]
    values: Float[Tensor, " m"]
    shape: tuple[int, ...]
    weights: Float[Tensor, " m"] | None = None

    def __len__(self) -> int:
        """Return the number of observations."""
        return len(self.values)

    def take(self, rows: Tensor) -> "Observed":
        """Return some of the observations.

        Args:
            rows: positions in `values`, or a mask of shape (m,).
        """
        weights = None if self.weights is None else self.weights[rows]
        return Observed(self.indices[rows], self.values[rows], self.shape, weights)

    def weighted(self, weights: Float[Tensor, " m"] | None) -> "Observed":
        """Return the observations with weights.

        Args:
            weights: one number per observation, at least 0; None for weight 1.
        """
        return replace(self, weights=weights)

    def counts(self) -> Float[Tensor, " m"]:
        """Return how often every observation counts: its weight, or 1."""
        return torch.ones_like(self.values) if self.weights is None else self.weights

    def minus(self, prediction: Float[Tensor, " m"]) -> "Observed":
        """Return the observations with a prediction subtracted from every value.

        Args:
            prediction: one number per observation.
        """
        return replace(self, values=self.values - prediction)

    def times(self, factor: float) -> "Observed":
        """Return the observations with their values multiplied by a factor."""
        return replace(self, values=self.values * factor)

    def to(self, device: torch.device | str | None) -> "Observed":
        """Return the observations on a device; None leaves them where they are."""
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, indices=self.indices.to(device), values=self.values.to(device), weights=weights)

    @property
    def count(self) -> float:
        """Return the sum of the weights: the number of observations, if all have weight 1."""
        return float(len(self)) if self.weights is None else float(self.weights.sum())

    def mean(self) -> float:
        """Return the weighted mean of the observed values; NaN without observations."""
        return float((self.values if self.weights is None else self.weights * self.values).sum()) / (
            self.count or math.nan
        )

    def mean_square(self) -> float:
        """Return the weighted mean of the squares of the m observed values; NaN without observations."""
        return replace(self, values=self.values.square()).mean()

    def exceeds_zero(self, doubts: float) -> bool:
        """Return whether the mean of the observed values exceeds zero by more than a number of its standard errors.

        Args:
            doubts: the number of standard errors.
        """
        mean = self.mean()
        spread = math.sqrt(self.minus(torch.full_like(self.values, mean)).mean_square())
        return mean > doubts * spread / math.sqrt(self.count)

    def split(self, fraction: float, seed: int) -> tuple["Observed", "Observed"]:
        """Split the observations at random into a training set and a held-out set.

        Args:
            fraction: share of the observations to hold out. Of two or more observations, each set gets at least one.
            seed: seed of the split.

        Returns:
            The training set and the held-out set, each in the order of the observations.
        """
        held = min(max(round(fraction * len(self)), 1), max(len(self) - 1, 0))
        order = torch.randperm(len(self), generator=stream(seed, "held-out entries")).to(self.values.device)
        return self.take(order[held:].sort().values), self.take(order[:held].sort().values)
