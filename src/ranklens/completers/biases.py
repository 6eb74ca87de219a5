"""Biases: a mean, and one number per index of every mode, which predict an entry by their sum."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.completers.observed import Observed

# Number of sweeps over the modes in a fit. The error of the biases shrinks by a constant factor per sweep.
SWEEPS = 15


@dataclass(frozen=True)
class Biases:
    """A mean and one bias per index of every mode.

    Attributes:
        mean: the mean of the observed values.
        modes: one tensor of shape (d_n,) for each of the N modes: the biases of the indices of mode n.
        damping: number of zero residuals that are added to the observations of every bias, which shrinks biases with
            few observations towards zero. Infinite for biases that stay zero.
    """

    mean: float
    modes: tuple[Tensor, ...]
    damping: float

    def at(self, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
        """Return the predictions at m positions, of shape (m,): the mean plus one bias per mode.

        Args:
            indices: (m, N) positions: column n is the index in mode n.
        """
        total = torch.full((len(indices),), self.mean, dtype=torch.float64, device=indices.device)
        for bias, own in zip(self.modes, indices.T, strict=True):
            total += bias[own]
        return total

    def times(self, factor: float) -> "Biases":
        """Return these biases and their mean multiplied by a factor, as if fitted to values in another unit.

        The damping, which is a number of observations, is unchanged.
        """
        return replace(self, mean=factor * self.mean, modes=tuple(factor * mode for mode in self.modes))

    def adapted(self, observed: Observed, sweeps: int = 1) -> "Biases":
        """Return the biases fitted to other values, with the mean unchanged.

        Each bias in turn becomes the sum of the residuals at its observations (their values minus the mean and the
        biases of all other modes), divided by their number plus the damping. This is the ridge solution given the
        biases of the other modes.

        Args:
            observed: the values to fit, with the mean not subtracted.
            sweeps: number of times that the biases of every mode are fitted.
        """
        modes = list(self.modes)
        residual = observed.values - self.at(observed.indices)
        indices = observed.indices.T.contiguous()
        weights = observed.counts()
        counts = [torch.bincount(own, weights, minlength=d) for own, d in zip(indices, observed.shape, strict=True)]
        for _ in range(sweeps):
            for n, (own, count) in enumerate(zip(indices, counts, strict=True)):
                sums = torch.zeros_like(modes[n]).index_add_(0, own, weights * residual) + count * modes[n]
                change = sums / (count + self.damping) - modes[n]
                modes[n] = modes[n] + change
                residual -= change[own]
        return replace(self, modes=tuple(modes))


def no_biases(shape: Sequence[int], device: torch.device | str | None = None) -> Biases:
    """Return biases that predict zero everywhere, and stay zero when they are adapted.

    Args:
        shape: sizes of the modes.
        device: device of the biases; None is the CPU.
    """
    return Biases(0.0, tuple(torch.zeros(d, dtype=torch.float64, device=device) for d in shape), float("inf"))


def fit_biases(observed: Observed, damping: float) -> Biases:
    """Return the biases of observed values: a ridge regression on the indices, solved by sweeps over the modes.

    Their mean is the mean of the observed values.

    Args:
        observed: the values to fit.
        damping: number of zero residuals that are added to the observations of every bias. With 0, the bias of an index
            without observations is NaN; with a positive number it is 0.

    >>> import torch
    >>> indices = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    >>> values = (10 * indices[:, 0] + indices[:, 1]).double()
    >>> biases = fit_biases(Observed(indices, values, (3, 4)), damping=0.0)
    >>> bool(torch.allclose(biases.at(indices), values))  # a sum of a row effect and a column effect is fitted exactly
    True
    """
    zero = no_biases(observed.shape, observed.values.device)
    counts = observed.counts()
    mean = float(counts @ observed.values / counts.sum())
    return replace(zero, mean=mean, damping=damping).adapted(observed, SWEEPS)
