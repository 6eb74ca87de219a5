"""The pipeline of both completers: biases, initialization, descent, polish, and a last fit to all entries."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import xarray as xr

from ranklens.completers.attempt import Attempt, Refined, explain
from ranklens.completers.biases import Biases
from ranklens.completers.candidates import EXACT, make_candidates
from ranklens.completers.check import Completer
from ranklens.completers.descent import Descended, descend
from ranklens.completers.explanation import Explanation
from ranklens.completers.factors import is_factored
from ranklens.completers.observed import Observed
from ranklens.completers.polish import Fit, Polish, fit, noise_level, residual, tolerated, widths
from ranklens.completers.prepared import Data, HeldOut, is_exact, prepare
from ranklens.completers.sampling import FEW, Begin, MakeFeatures, Sampled, number_of_draws, sample
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

# The network is kept only if it beats the biases on held-out entries by more than this many standard errors.
DOUBTS = 1.0
# Data whose largest value is below this, or above its inverse, are fitted in units of that value, because their squares
# would underflow or overflow.
SMALL = 1e-100
# Training loss of the last network, relative to that of the best, above which the last hardly fits the entries better.
HARDLY = 0.9
# Share of the held-out mean square that a network without biases leaves below which biases are not tried as well.
EXPLAINED = 1e-2
# Number of entries above which the descent runs in float32.
SINGLE = 2**11
# Multiply-adds per entry of a fit, roughly, from which the number of threads is chosen.
WORK_PER_ENTRY = 64

# Makes a network at its initialization, from the residuals that it is to fit and the dtype that it is to have.
Initialize = Callable[[Observed, torch.dtype], TensorNetwork]


@dataclass(frozen=True)
class Settings:
    """The arguments of a completer that `complete` needs.

    `seed` is the completer's `random_state` as an int, and `widest` the size up to which the bonds of a deep matrix may
    be widened. The other fields have the meanings that `MatrixCompleter` gives to its arguments of these names.
    """

    biases: bool | None
    held_out: HeldOut
    learning_rate: float
    max_steps: int
    patience: float
    batch_size: int | None
    device: torch.device | str | None
    posterior: int | None
    seed: int
    widest: int = 0

    @classmethod
    def of(cls, completer: Completer, seed: int, *, widest: int = 0) -> "Settings":
        """Return the settings of a completer.

        Args:
            completer: a completer whose arguments were checked.
            seed: the seed from its `random_state`.
            widest: size up to which the bonds of a deep matrix may be widened; 0 for other networks.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name not in ("seed", "widest")]
        return cls(**{name: getattr(completer, name) for name in names}, seed=seed, widest=widest)


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
            after the "polish", and of the "posterior" if one was drawn. If the biases fit the training entries exactly,
            or there is only one entry, it has only "biases", with the value 0.
        profile: losses and spectra along the descent, a Dataset over `step` (see `Descended`); empty without a descent.
        sampled: draws of the factors, in the units of the data, whose mean predicts instead of the network, if there
            are any: they are made of noisy data, and kept if they predict held-out entries about as well.
        explanation: what was tried, and why it was decided as it was.
    """

    net: TensorNetwork | None
    biases: Biases
    scale: float
    ridge: float
    rmse: Mapping[str, float]
    profile: xr.Dataset
    sampled: Sampled
    explanation: Explanation


def complete(
    observed: Observed,
    initialize: Initialize,
    settings: Settings,
    *,
    ways: Sequence[MakeFeatures | None] = (None,),
    clear_ways: int = 1,
) -> Completion:
    """Fit a completion to observed entries.

    Args:
        observed: the entries.
        initialize: a function of the residuals that the biases leave in the training set, and of a dtype. It returns
            a network of that dtype at its small initialization.
        settings: arguments of the completer.
        ways: functions that make features of every mode for the posterior, or None for no features; held-out entries
            choose one.
        clear_ways: number of ways, the first ones, among which they choose where there is little noise.

    Returns:
        The completion, which predicts entries in the units of `observed`.
    """
    with threads(float(len(observed)) * WORK_PER_ENTRY):
        largest = float(observed.values.abs().max())
        if largest == 0 or SMALL < largest < 1 / SMALL:
            return _complete(observed.to(settings.device), initialize, settings, ways, clear_ways)
        scaled = observed.times(1 / largest).to(settings.device)
        found = _complete(scaled, initialize, settings, ways, clear_ways)
        rmse = {name: largest * error for name, error in found.rmse.items()}
        return replace(found, scale=largest * found.scale, rmse=rmse, sampled=found.sampled.times(largest))


def _complete(
    observed: Observed,
    initialize: Initialize,
    settings: Settings,
    ways: Sequence[MakeFeatures | None],
    clear_ways: int,
) -> Completion:
    """Return the completion of entries whose squares neither underflow nor overflow."""
    prepared = prepare(observed, settings.held_out, settings.biases, settings.seed)
    exact = [data for data in prepared if is_exact(data)]
    if exact or len(observed) < 2:
        data = (exact or prepared)[0]
        said = Explanation({"biases": 0.0}, 1.0, (), (), (), {}, ("The biases fit the training entries exactly.",))
        nothing = Sampled(None, None)
        return Completion(None, data.biases_of_all(), data.scale, 0.0, said.rmse, xr.Dataset(), nothing, said)
    attempts = _attempts(prepared, initialize, settings)
    floor = EXACT * min(attempt.data.scale for attempt in attempts)  # exact fits are not told apart
    enough = tolerated(attempts[0].data.held_out) * max(floor, min(attempt.error for attempt in attempts))
    attempt = next(attempt for attempt in attempts if attempt.error <= enough)
    if not attempt.is_better and attempt.data.held_out.count < FEW:
        attempt = attempts[-1]
    data, refined = attempt.data, attempt.refined
    rmse = attempt.rmse()
    sampled = _sample(attempt, settings, ways, clear_ways).times(data.scale)
    if sampled.error is not None:
        rmse["posterior"] = sampled.error
    profile, said = attempt.profile(), explain(attempt, attempts, sampled)
    if not attempt.is_better:
        return Completion(None, data.biases_of_all(), data.scale, 0.0, rmse, profile, sampled, said)
    ridge = refined.choice.ridge * refined.noise_level
    final = fit(refined.fit.net, data.whole, refined.fit.biases, ridge=ridge)
    left = min(1.0, residual(final, data.whole).mean_square())
    biases = replace(final.biases, damping=final.biases.damping * left)  # as in the fit of all entries
    profile.attrs["widths"] = str(widths(final.net))
    return Completion(final.net, biases, data.scale, ridge, rmse, profile, sampled, said)


def _attempts(prepared: Sequence[Data], initialize: Initialize, settings: Settings) -> list[Attempt]:
    """Return completions of prepared data, the one without biases first.

    One with biases is not tried if the first explains most of the held-out mean square, and more than biases alone.
    """
    attempts = [_attempt(prepared[0], initialize, settings)]
    for data in prepared[1:]:
        alone = min(attempts[0].alone, data.scale * math.sqrt(data.residual(data.held_out).mean_square()))
        if attempts[0].error ** 2 > EXPLAINED * alone**2:
            attempts.append(_attempt(data, initialize, settings))
    return attempts


def _attempt(data: Data, initialize: Initialize, settings: Settings) -> Attempt:
    """Return the completion by least squares of prepared data."""
    dtype = torch.float32 if len(data.whole) > SINGLE else torch.float64
    descended = _descend(initialize(data.residual(data.train), dtype), data, settings)
    refined = _refine(descended, data)
    return Attempt(data, descended, refined, _is_better(refined.fit, data))


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
        widest=settings.widest,
        seed=settings.seed,
    )


def _refine(descended: Descended, data: Data) -> Refined:
    """Return the polish of least held-out error: of the network of the best step, or of that of the last step.

    The network of the last step may have fitted more components, which may be worth more after a polish than before. It
    is left out for a deep matrix, and if it fits the training entries hardly better.
    """
    train, held_out = data.residual(data.train), data.residual(data.held_out)
    nodes = len(descended.best.nodes) if len(data.whole.shape) > 2 else 2
    unit = noise_level(train, math.sqrt(descended.held_out), nodes)
    losses = descended.profile.train_loss
    one_is_enough = is_chain(descended.best) or float(losses[-1]) > HARDLY * float(losses.sel(step=descended.step))
    found = []
    for net in [descended.best] if one_is_enough else [descended.best, descended.last]:
        made = make_candidates(net, train, held_out, noise_level=unit, factor=tolerated(held_out))
        polish = Polish(made, data.train, data.held_out, data.biases, unit)
        found.append(Refined(polish, polish.search(), unit))
    return min(found, key=lambda refined: refined.error)


def _sample(attempt: Attempt, settings: Settings, ways: Sequence[MakeFeatures | None], clear_ways: int) -> Sampled:
    """Return the posterior around the best fit, or around the biases where no network is better."""
    data, made = attempt.data, attempt.refined.fit
    draws = number_of_draws(settings.posterior, data.whole) if is_factored(made.net) else 0
    net, biases = (made.net, made.biases) if attempt.is_better else (None, data.biases)
    begin = Begin(
        net,
        biases.modes if math.isfinite(biases.damping) else None,
        biases.mean,
        (residual(made, data.held_out) if attempt.is_better else data.residual(data.held_out)).to("cpu"),
        attempt.alone / data.scale,
    )
    return sample(
        data.train.to("cpu"),
        data.held_out.to("cpu"),
        data.whole.to("cpu"),
        begin,
        draws=draws,
        seed=settings.seed,
        ways=ways,
        clear_ways=clear_ways,
    )


def _is_better(made: Fit, data: Data) -> bool:
    """Return whether network and biases predict held-out entries better than their biases alone.

    The mean improvement of the squared error must exceed `DOUBTS` times its standard error.
    """
    alone = data.held_out.minus(made.biases.at(data.held_out.indices)).values.square()
    gains = replace(data.held_out, values=alone - residual(made, data.held_out).values.square())
    return gains.exceeds_zero(DOUBTS)
