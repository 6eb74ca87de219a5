"""What is seen of a matrix or tensor, as rows of indices and values, and the effects that need no rank."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.seeds import stream

SWEEPS = 15  # of the biases, each given the others; they converge by a constant factor


@dataclass(frozen=True)
class Seen:
    """Entries that are seen.

    Attributes:
        indices: (m, N) int64.
        values: (m,) float64.
        shape: sizes of the N modes.
    """

    indices: Int[Tensor, "m order"]
    values: Float[Tensor, " m"]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.values)

    def at(self, rows: Tensor) -> "Seen":
        """Some of the entries."""
        return Seen(self.indices[rows], self.values[rows], self.shape)

    def minus(self, prediction: Tensor) -> "Seen":
        """The same entries with something subtracted."""
        return replace(self, values=self.values - prediction)

    def times(self, factor: float) -> "Seen":
        """The same entries, rescaled."""
        return replace(self, values=self.values * factor)

    def to(self, device: torch.device | str | None) -> "Seen":
        """The same entries on a device."""
        return replace(self, indices=self.indices.to(device), values=self.values.to(device))

    def split(self, fraction: float, seed: int) -> tuple["Seen", "Seen"]:
        """What is fitted, and a random fraction that is held out (at least one entry of each, if there are two)."""
        held = min(max(round(fraction * len(self)), 1), max(len(self) - 1, 0))
        order = torch.randperm(len(self), generator=stream(seed, "held-out entries")).to(self.values.device)
        return self.at(order[held:].sort().values), self.at(order[:held].sort().values)


@dataclass(frozen=True)
class Biases:
    """A mean, and one number per index of every mode: what is said of an entry without knowing its other indices.

    Attributes:
        mean: of the values.
        modes: N tensors (d_n,).
        damping: d_n observations of zero that every bias starts with.
    """

    mean: float
    modes: tuple[Tensor, ...]
    damping: float

    def at(self, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
        """Mean plus the biases of every index."""
        total = torch.full((len(indices),), self.mean, dtype=torch.float64, device=indices.device)
        for bias, own in zip(self.modes, indices.T, strict=True):
            total += bias[own]
        return total

    def adapted(self, seen: Seen, sweeps: int = 1) -> "Biases":
        """Refitted to values, each mode given the others: b_i = sum of residuals / (observations + damping)."""
        modes = list(self.modes)
        residual = seen.values - self.at(seen.indices)
        for _ in range(sweeps):
            for n, own in enumerate(seen.indices.T):
                count = torch.bincount(own, minlength=seen.shape[n])
                residual += modes[n][own]
                modes[n] = torch.zeros_like(modes[n]).index_add_(0, own, residual) / (count + self.damping)
                residual -= modes[n][own]
        return replace(self, modes=tuple(modes))


def no_biases(shape: Sequence[int], device: torch.device | str | None = None) -> Biases:
    """Zero."""
    return Biases(0.0, tuple(torch.zeros(d, dtype=torch.float64, device=device) for d in shape), float("inf"))


def fit_biases(seen: Seen, damping: float) -> Biases:
    """The damped biases of what is seen: a ridge regression on mean and indicators, solved mode by mode in turn.

    >>> import torch
    >>> indices = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    >>> values = (10 * indices[:, 0] + indices[:, 1]).double()
    >>> biases = fit_biases(Seen(indices, values, (3, 4)), damping=0.0)
    >>> bool(torch.allclose(biases.at(indices), values))  # what is a sum of rows and columns needs nothing else
    True
    """
    zero = no_biases(seen.shape, seen.values.device)
    return replace(zero, mean=float(seen.values.mean()), damping=damping).adapted(seen, SWEEPS)
