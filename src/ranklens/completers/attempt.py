"""A completion by least squares, as one of the ways that a completer tries, and why it was chosen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from ranklens.completers.descent import Descended
from ranklens.completers.explanation import Explanation, Rung, rises
from ranklens.completers.polish import Choice, Fit, Polish, widths
from ranklens.completers.prepared import Data
from ranklens.completers.sampling import Sampled


@dataclass(frozen=True)
class Refined:
    """The best fit of a polish.

    Attributes:
        polish: the polish.
        choice: the size and ridge that it chose.
        noise_level: the unit of ridges: the ridge at which noise alone keeps no component.
    """

    polish: Polish
    choice: Choice
    noise_level: float

    @property
    def error(self) -> float:
        """Return the held-out root mean square error of the chosen fit, in the units of the data it was fitted to."""
        return self.polish.errors[self.choice]

    @property
    def fit(self) -> Fit:
        """Return the chosen fit: the network and the biases, fitted to the training set."""
        return self.polish.fits[self.choice]


@dataclass(frozen=True)
class Attempt:
    """A completion by least squares, with or without biases, fitted to the training set.

    Attributes:
        data: the entries, in units of what the biases leave.
        descended: the descent.
        refined: the polish.
        is_better: whether network and biases predict held-out entries better than the biases alone.
    """

    data: Data
    descended: Descended
    refined: Refined
    is_better: bool

    @property
    def alone(self) -> float:
        """Return the held-out root mean square error of the biases alone, in the units of the observed values."""
        return self.data.scale * math.sqrt(self.data.residual(self.data.held_out).mean_square())

    @property
    def error(self) -> float:
        """Return the held-out root mean square error in the units of the observed values."""
        return self.data.scale * self.refined.error if self.is_better else self.alone

    def rmse(self) -> dict[str, float]:
        """Return the held-out root mean square errors of the stages of the fit."""
        return {
            "biases": self.alone,
            "descent": self.data.scale * math.sqrt(self.descended.held_out),
            "polish": self.data.scale * self.refined.error,
        }

    def profile(self) -> xr.Dataset:
        """Return the record of the descent, with the errors of all sizes and ridges that were tried as an attribute."""
        errors = sorted((choice.size, choice.ridge, error) for choice, error in self.refined.polish.errors.items())
        tried = {(size, ridge): round(self.data.scale * error, 6) for size, ridge, error in errors}
        return self.descended.profile.assign_attrs(
            stopped=self.descended.stopped, best_step=self.descended.step, tried=str(tried)
        )


def explain(attempt: Attempt, attempts: Sequence[Attempt], sampled: Sampled) -> Explanation:
    """Return what was tried, and why it was decided as it was.

    Args:
        attempt: the completion that was chosen.
        attempts: all completions, with and without biases.
        sampled: the posterior, in the units of the data.
    """
    data, polish = attempt.data, attempt.refined.polish
    whole = data.scale * math.sqrt(data.held_out.mean_square())
    share = 1 - (attempt.alone / whole) ** 2 if whole > 0 else 0.0
    rungs = []
    for size in sorted({choice.size for choice in polish.errors}, reverse=True):
        best = min((choice for choice in polish.errors if choice.size == size), key=polish.errors.__getitem__)
        sizes = widths(polish.candidates.networks[size])
        name = str(*sizes.values()) if len(sizes) == 1 else ", ".join(f"{bond}: {d}" for bond, d in sizes.items())
        chosen = attempt.is_better and size == attempt.refined.choice.size
        rungs.append(Rung(name, best.ridge, data.scale * polish.errors[best], chosen))
    kind = "with" if math.isfinite(data.biases.damping) else "without"
    decisions = [f"The model is {kind} biases; these alone have the held-out error {attempt.alone:.6g}."]
    for other in attempts:
        if other is not attempt:
            decisions.append(f"The other model was dropped: its held-out error is {other.error:.6g}.")
    if attempt.is_better:
        decisions.append(f"The smallest size about as good as the best was chosen; its error is {attempt.error:.6g}.")
    else:
        decisions.append(f"The network was dropped: its error {rungs[0].error:.6g} is not clearly below the biases'.")
    if sampled.posterior is not None:
        decisions.append(f"The posterior predicts: its held-out error {sampled.error:.6g} is not clearly larger.")
    elif sampled.error is not None:
        decisions.append(f"The posterior was dropped: its held-out error {sampled.error:.6g} is clearly larger.")
    else:
        decisions.append("No posterior was drawn: data without noise, very many entries, posterior=0, or the family.")
    errors = attempt.rmse() | ({} if sampled.error is None else {"posterior": sampled.error})
    return Explanation(
        errors, share, tuple(rungs), *rises(attempt.descended.profile), sampled.coverage, tuple(decisions)
    )
