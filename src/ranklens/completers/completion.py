"""The pipeline of both completers: biases, initialization, descent, polish, and a last fit to all entries."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import xarray as xr

from ranklens.completers.biases import Biases, fit_biases, no_biases
from ranklens.completers.candidates import make_candidates
from ranklens.completers.check import Completer
from ranklens.completers.descent import Descended, descend
from ranklens.completers.observed import Observed
from ranklens.completers.polish import Choice, Fit, Polish, fit, noise_level, residual, tolerated, widths
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

# Dampings of the biases that are tried on the held-out entries.
DAMPINGS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
# The network is kept only if it beats the biases on held-out entries by more than this many standard errors.
DOUBTS = 1.0
# Data whose largest value is below this, or above its inverse, are fitted in units of that value, because their squares
# would underflow or overflow.
SMALL = 1e-100
# Residuals below this share of the largest value are rounding errors: the biases fit the data exactly.
ROUNDING = 1e-12
# Number of entries above which the descent runs in float32.
SINGLE = 2**15
# Multiply-adds per entry of a fit, roughly, from which the number of threads is chosen.
WORK_PER_ENTRY = 64

# Makes a network at its initialization, from the residuals that it is to fit and the dtype that it is to have.
Initialize = Callable[[Observed, torch.dtype], TensorNetwork]


@dataclass(frozen=True)
class Settings:
    """The arguments of a completer that `complete` needs.

    `seed` is the completer's `random_state` as an int. The other fields have the meanings that `MatrixCompleter` gives
    to its arguments of these names.
    """

    biases: bool
    held_out: float
    learning_rate: float
    max_steps: int
    patience: float
    batch_size: int | None
    device: torch.device | str | None
    seed: int

    @classmethod
    def of(cls, completer: Completer, seed: int) -> "Settings":
        """Return the settings of a completer.

        Args:
            completer: a completer whose arguments were checked.
            seed: the seed from its `random_state`.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name != "seed"]
        return cls(**{name: getattr(completer, name) for name in names}, seed=seed)


@dataclass(frozen=True)
class Completion:
    """A fitted completion: entries are predicted by scale * (biases + network), or by the biases alone.

    Attributes:
        net: the network in float64, or None if it did not predict better than the biases.
        biases: the biases, in units of `scale`: predictions are multiplied by `scale`.
        scale: root mean square of the training entries after the biases are subtracted; another positive number if the
            biases fit the training entries exactly.
        ridge: ridge of the last least squares, for entries in units of `scale`; 0 without a network.
        rmse: held-out root mean square errors in the units of the data: of the "biases" alone, after the "descent", and
            after the "polish". If the biases fit the training entries exactly, or there is only one entry, it has
            only "biases", with the value 0.
        profile: losses and spectra along the descent, a Dataset over `step` (see `Descended`); empty without a descent.
    """

    net: TensorNetwork | None
    biases: Biases
    scale: float
    ridge: float
    rmse: dict[str, float]
    profile: xr.Dataset


@dataclass(frozen=True)
class Data:
    """The observed entries in units of `scale`, split, with the biases of the training set.

    Attributes:
        whole: all entries.
        train: the entries of the training set.
        held_out: the entries of the held-out set; train and held_out together are `whole`.
        biases: the biases fitted to the training set.
        scale: size of one unit, in units of the observed values.
    """

    whole: Observed
    train: Observed
    held_out: Observed
    biases: Biases
    scale: float

    def residual(self, observed: Observed) -> Observed:
        """Return observations with the predictions of the biases subtracted."""
        return observed.minus(self.biases.at(observed.indices))

    def times(self, factor: float) -> "Data":
        """Return the data in another unit: all values and biases are multiplied by `factor`."""
        return Data(
            self.whole.times(factor),
            self.train.times(factor),
            self.held_out.times(factor),
            self.biases.times(factor),
            self.scale / factor,
        )

    def biases_of_all(self) -> Biases:
        """Return the biases fitted to all entries, or biases of zero if the training set has no biases."""
        damping = self.biases.damping
        return fit_biases(self.whole, damping) if math.isfinite(damping) else self.biases


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


def complete(observed: Observed, initialize: Initialize, settings: Settings) -> Completion:
    """Fit a completion to observed entries.

    Args:
        observed: the entries.
        initialize: a function of the residuals that the biases leave in the training set, and of a dtype. It returns
            a network of that dtype at its small initialization.
        settings: arguments of the completer.

    Returns:
        The completion, which predicts entries in the units of `observed`.
    """
    with threads(float(len(observed)) * WORK_PER_ENTRY):
        largest = float(observed.values.abs().max())
        if largest == 0 or SMALL < largest < 1 / SMALL:
            return _complete(observed.to(settings.device), initialize, settings)
        found = _complete(observed.times(1 / largest).to(settings.device), initialize, settings)
        rmse = {name: largest * error for name, error in found.rmse.items()}
        return replace(found, scale=largest * found.scale, rmse=rmse)


def _complete(observed: Observed, initialize: Initialize, settings: Settings) -> Completion:
    """Return the completion of entries whose squares neither underflow nor overflow."""
    data = _prepare(observed, settings)
    spread = math.sqrt(data.residual(data.train).mean_square())
    if not spread > ROUNDING * float(observed.values.abs().max()) or len(observed) < 2:
        return Completion(None, data.biases_of_all(), data.scale, 0.0, {"biases": 0.0}, xr.Dataset())
    data = data.times(1 / spread)
    dtype = torch.float32 if len(observed) > SINGLE else torch.float64
    descended = _descend(initialize(data.residual(data.train), dtype), data, settings)
    refined = _refine(descended, data)
    rmse = {
        "biases": data.scale * math.sqrt(data.residual(data.held_out).mean_square()),
        "descent": data.scale * math.sqrt(descended.held_out),
        "polish": data.scale * refined.error,
    }
    profile = descended.profile.assign_attrs(stopped=descended.stopped, best_step=descended.step)
    if not _is_better(refined.fit, data):
        return Completion(None, data.biases_of_all(), data.scale, 0.0, rmse, profile)
    ridge = refined.choice.ridge * refined.noise_level
    final = fit(refined.fit.net, data.whole, refined.fit.biases, ridge=ridge)
    errors = sorted((choice.size, choice.ridge, error) for choice, error in refined.polish.errors.items())
    profile.attrs["widths"] = str(widths(final.net))
    profile.attrs["tried"] = str({(size, ridge): round(data.scale * error, 6) for size, ridge, error in errors})
    return Completion(final.net, final.biases, data.scale, ridge, rmse, profile)


def _prepare(observed: Observed, settings: Settings) -> Data:
    """Return the entries split, with biases if the settings ask for them, in the units of the values."""
    train, held_out = observed.split(settings.held_out, settings.seed)
    none = no_biases(observed.shape, observed.values.device)
    biases = _choose_biases(train, held_out) if settings.biases else none
    return Data(observed, train, held_out, biases, 1.0)


def _choose_biases(train: Observed, held_out: Observed) -> Biases:
    """Return the biases of the training set with the damping that predicts the held-out set best."""
    tried = [fit_biases(train, damping) for damping in DAMPINGS]
    return min(tried, key=lambda biases: held_out.minus(biases.at(held_out.indices)).mean_square())


def _descend(net: TensorNetwork, data: Data, settings: Settings) -> Descended:
    """Return the descent of a network on what the biases leave, with steps in units of the nodes' final norms.

    The nodes of an end tensor with D entries of order one have norms of about D^(1/2M), where M is their number.
    """
    return descend(
        net,
        data.residual(data.train),
        data.residual(data.held_out),
        lr=settings.learning_rate * math.prod(data.whole.shape) ** (1 / (2 * len(net.nodes))),
        steps=settings.max_steps,
        patience=settings.patience,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )


def _refine(descended: Descended, data: Data) -> Refined:
    """Return the polish of least held-out error: of the network of the best step, or of that of the last step.

    The network of the last step has fitted more components, which may be worth more after a polish than before. A deep
    matrix is polished from the best step only.
    """
    train, held_out = data.residual(data.train), data.residual(data.held_out)
    nodes = len(descended.best.nodes) if len(data.whole.shape) > 2 else 2
    unit = noise_level(train, math.sqrt(descended.held_out), nodes)
    one_is_enough = is_chain(descended.best) or descended.step == int(descended.profile.step[-1])
    found = []
    for net in [descended.best] if one_is_enough else [descended.best, descended.last]:
        made = make_candidates(net, train, held_out, noise_level=unit, factor=tolerated(held_out))
        polish = Polish(made, data.train, data.held_out, data.biases, unit)
        found.append(Refined(polish, polish.search(), unit))
    return min(found, key=lambda refined: refined.error)


def _is_better(made: Fit, data: Data) -> bool:
    """Return whether network and biases predict held-out entries better than their biases alone.

    The mean improvement of the squared error must exceed `DOUBTS` times its standard error.
    """
    alone = data.held_out.minus(made.biases.at(data.held_out.indices))
    gains = alone.values.square() - residual(made, data.held_out).values.square()
    return float(gains.mean()) > DOUBTS * float(gains.std(correction=0)) / math.sqrt(len(gains))
