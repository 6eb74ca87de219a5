"""Biases that change with time: of every label one bias more per period, such as a user's mood or a film's fashion."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.biases import fit_biases
from ranklens.completers.observed import Observed
from ranklens.seeds import stream

# Dampings that are tried for the biases of the periods of a mode, in observations.
DAMPINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Damping of the constant biases whose residuals the biases of periods explain, in observations.
CONSTANT = 3.0
# Number of parts into which observations are divided. Every part is predicted from the others.
PARTS = 10
# Smallest relative improvement of the error that keeps the biases of a mode: less may be chance.
WORTH = 1e-3


@dataclass(frozen=True)
class LabelPeriods:
    """One bias for every pair of a label and a period that occurs in the fit, and zero for any other pair.

    Attributes:
        pairs: (P,) numbers of the pairs, in ascending order: label times the number of periods, plus period.
        values: (P,) the biases.
        damping: number of zero residuals that are added to the observations of every bias; infinite if they are zero.
    """

    pairs: Int64[np.ndarray, " P"]
    values: Float[np.ndarray, " P"]
    damping: float

    def at(self, pairs: Int64[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Return the biases of pairs, 0 for pairs that do not occur in the fit."""
        if not len(self.pairs):
            return np.zeros(len(pairs))
        places = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        return np.where(self.pairs[places] == pairs, self.values[places], 0.0)


@dataclass(frozen=True)
class Periods:
    """Periods of about equal numbers of observations, and the biases of labels within them.

    Attributes:
        edges: (B - 1,) times at which a new period begins, in ascending order.
        modes: for every mode the biases of its labels within the periods.
    """

    edges: Float[np.ndarray, " edges"]
    modes: tuple[LabelPeriods, ...]

    def at(self, indices: Int64[Tensor, "m order"], times: Float[np.ndarray, " m"]) -> Float[Tensor, " m"]:
        """Return the sum of the biases of the labels at given times. Times beyond the fit are in the outer periods.

        Args:
            indices: (m, N) codes of labels.
            times: (m,) times.
        """
        period = _period(self.edges, times)
        total = np.zeros(len(times))
        for own, mode in zip(indices.numpy().T, self.modes, strict=True):
            total += mode.at(own * (len(self.edges) + 1) + period)
        return torch.from_numpy(total)


def fit_periods(
    observed: Observed, times: Float[np.ndarray, " m"], bins: int, *, seed: int
) -> tuple[Periods, Observed]:
    r"""Return the biases of labels within periods, and the observations without what these biases explain.

    The residuals of constant biases are averaged by label and period, one mode after the other, with a damping d:

        b = sum of residuals / (number + d).

    The observations are divided into parts, and every part is predicted by biases, constant ones and those of periods,
    that are fitted to the other parts. These predictions choose the damping, and they are what is subtracted from the
    observations. If b itself were subtracted, which is fitted to the observation too, the rest would look less noisy
    than future observations are.

    Args:
        observed: the observations.
        times: (m,) their times.
        bins: number of periods, at most.
        seed: seed of the division into parts.

    >>> import torch
    >>> person, weeks = torch.arange(400) % 4, np.arange(400) // 100
    >>> moods = torch.from_numpy(np.where(weeks % 2 == 0, 1.0, -1.0)) * (person == 0)
    >>> entries = Observed(torch.stack([person, torch.arange(400) % 7], dim=1), moods.double(), (4, 7))
    >>> periods, rest = fit_periods(entries, weeks.astype(float), bins=4, seed=0)
    >>> rest.mean_square() < 0.05 * entries.mean_square()  # the moods of person 0 are found
    True
    """
    edges = np.unique(np.quantile(times, np.linspace(0, 1, bins + 1)[1:-1]))
    period, weights = _period(edges, times), observed.counts().numpy()
    order = torch.randperm(len(observed), generator=stream(seed, "parts of the observations")).numpy()
    part = order % min(PARTS, len(observed))
    used = [*(part != k for k in range(part.max() + 1)), np.ones(len(observed), dtype=bool)]  # by every fit
    used = [which for which in used if which.any()]
    residuals = np.stack([_residuals(observed, which) for which in used])
    left, modes = observed.values.numpy().copy(), []
    for own in observed.indices.numpy().T:
        pairs, place = np.unique(own * (len(edges) + 1) + period, return_inverse=True)
        sums = np.stack([np.bincount(place, u * weights * r) for u, r in zip(used, residuals, strict=True)])
        counts = np.stack([np.bincount(place, u * weights) for u in used])
        rows = np.arange(len(place))
        damping, least = math.inf, _error(residuals[part, rows], weights) * (1 - WORTH)
        for tried in DAMPINGS:
            error = _error(residuals[part, rows] - (sums / (counts + tried))[part, place], weights)
            damping, least = (tried, error) if error < least else (damping, least)
        biases = sums / (counts + damping)
        left -= biases[part, place]
        residuals -= biases[:, place]
        modes.append(LabelPeriods(pairs, biases[-1], damping))
    return Periods(edges, tuple(modes)), replace(observed, values=torch.from_numpy(left))


def _residuals(observed: Observed, used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return what constant biases, fitted to some of the observations, leave of all of them."""
    biases = fit_biases(observed.take(torch.from_numpy(used)), CONSTANT)
    return observed.minus(biases.at(observed.indices)).values.numpy()


def _period(edges: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the periods of times."""
    return np.searchsorted(edges, times, side="right").astype(np.int64)


def _error(residual: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the weighted root mean square."""
    return float(np.sqrt(weights @ residual**2 / weights.sum()))


def times_of(column: pd.Series, name: str) -> Float[np.ndarray, " m"]:
    """Return a column of times as numbers, in an unit of its own.

    Args:
        column: numbers, datetimes, periods, or datetimes as text.
        name: what to call the column in messages.

    Raises:
        ValueError: for a time that is missing or infinite.
        TypeError: for values that are no times.

    >>> times_of(pd.Series(["2026-01-01", "2026-01-02"]), "day").tolist() == [1767225600.0, 1767312000.0]
    True
    """
    try:
        if pd.api.types.is_numeric_dtype(column.dtype) or _are_numbers(column):
            found = column.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            stamps = column.dt.to_timestamp() if isinstance(column.dtype, pd.PeriodDtype) else column
            moments = pd.to_datetime(stamps, utc=True)
            seconds = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
            found = seconds.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} has values that are no times: {error}; pass numbers or datetimes") from None
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise ValueError(f"{name} is {column.iloc[row]} in row {row}; leave out rows without a time")
    return found


def _are_numbers(column: pd.Series) -> bool:
    """Return whether a column of objects, as arrays of mixed labels have, holds numbers."""
    return column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) in (
        "integer",
        "floating",
        "mixed-integer-float",
    )
