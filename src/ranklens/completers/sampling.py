"""The Bayesian finish of a completion: draws of the factors around the fitted network, kept only where they help."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.completers.factors import factors_of
from ranklens.completers.gibbs import GibbsSampler
from ranklens.completers.observed import Observed
from ranklens.completers.posterior import Posterior, draw
from ranklens.completers.side import Features
from ranklens.seeds import normals
from ranklens.tensors.network import TensorNetwork

# Draws that a posterior keeps if the user names no number.
DRAWS = 100
# Numbers that these draws may have, at most: half a gibibyte. For more rows, fewer draws are kept.
NUMBERS = 2**26
# Entries above which no draws are made if the user names no number, because they would take longer than the descent.
LARGE = 2**19
# The posterior is not kept if its held-out squared error is larger by more than this many standard errors. Held-out
# entries have also chosen the size and the ridge of the least squares, whose error they therefore underestimate.
DOUBTS = 2.0
# Number of held-out entries below which they cannot say that anything predicts better than biases alone.
FEW = 10
# Nominal shares of the intervals whose calibration is checked.
SHARES = (0.5, 0.8, 0.9, 0.95)
# Sweeps that are not kept, and draws, with the training set, by which held-out entries judge the posterior.
TRIED_SKIP, TRIED_DRAWS = 15, 20
# Sweeps with all entries before the draws that are kept. The sampler goes on from its rows for the training set.
SKIP = 15
# Components of a posterior, at least, for noisy data. Where noise is large, more small components exist than least
# squares can find, and their priors keep useless ones small.
COMPONENTS = 8
# Where the network explains nearly everything, one more component is tried too. It must lower the error by this share.
WORTH = 0.02
# There, small differences count. A component more grows for this many times as many sweeps before it is judged, and a
# posterior is given up only after this many times as many draws.
CLEAR_TIMES = 3
# Share of the biases' held-out squared error up to which the size of the fitted network is taken as exact.
CLEAR = 0.1
# Held-out root mean square error, in units of what the biases leave, below which data count as free of noise.
NOISE_FREE = 1e-3
# Standard deviation of the entries of a new component, in units of the noise. From small values components grow one
# after the other, as in a descent, and predict better than from large ones.
SMALL = 1e-3

# Returns the groups of features of every mode, given the entries that may be used.
MakeFeatures = Callable[[Observed], Sequence[Sequence[Features]]]


@dataclass(frozen=True)
class Begin:
    """Where a posterior begins: a completion by least squares, in units of what its biases leave.

    Attributes:
        net: the network of the training set, or None if biases alone are as good.
        biases: one vector per mode; None for a model without biases.
        mean: the mean, zero without biases.
        residuals: the held-out entries less what the completion predicts.
        alone: held-out root mean square error of the biases alone.
    """

    net: TensorNetwork | None
    biases: tuple[Tensor, ...] | None
    mean: float
    residuals: Observed
    alone: float

    @property
    def error(self) -> float:
        """Return the held-out root mean square error of the completion."""
        return math.sqrt(self.residuals.mean_square())

    @property
    def is_clear(self) -> bool:
        """Return whether the network explains nearly all that the biases leave, so that its size is certain."""
        return self.net is not None and self.error**2 < CLEAR * self.alone**2


@dataclass(frozen=True)
class Sampled:
    """The result of a Bayesian finish.

    Attributes:
        posterior: the posterior given all entries, or None if it was not kept.
        error: held-out root mean square error of the posterior given the training set; None if none was made.
        way: position, in the list of ways, of the features that the posterior uses.
        features: for every mode the groups of features of the posterior.
        coverage: {nominal share: share of the held-out entries in the central interval of the posterior given the
            training set}; empty if none was made.
    """

    posterior: Posterior | None
    error: float | None
    way: int = 0
    features: tuple[tuple[Features, ...], ...] = ()
    coverage: Mapping[float, float] = field(default_factory=dict)

    def times(self, factor: float) -> "Sampled":
        """Return the result for values in another unit: predictions and errors are multiplied by `factor`."""
        posterior = None if self.posterior is None else self.posterior.times(factor)
        return replace(self, posterior=posterior, error=None if self.error is None else factor * self.error)


def number_of_draws(posterior: int | None, observed: Observed) -> int:
    """Return how many draws are to be kept.

    Args:
        posterior: the number that the user named, or None for a number that fits the data.
        observed: the entries.
    """
    if posterior is not None:
        return posterior
    if len(observed) > LARGE:
        return 0
    return min(DRAWS, NUMBERS // (2 * sum(observed.shape) * (COMPONENTS + 1)))


def sample(
    train: Observed,
    held_out: Observed,
    whole: Observed,
    begin: Begin,
    *,
    draws: int,
    seed: int,
    ways: Sequence[MakeFeatures | None] = (None,),
    clear_ways: int = 1,
) -> Sampled:
    """Draw a posterior, and keep it unless it predicts held-out entries worse than least squares.

    It is worse if the mean of its squared errors is larger by more than `DOUBTS` standard errors of the difference.

    Args:
        train: the training set.
        held_out: the held-out set.
        whole: all entries.
        begin: the completion to begin with.
        draws: number of draws to keep.
        seed: seed of the draws.
        ways: functions that make the features of every mode, or None for a model without features. The one of least
            held-out error is taken.
        clear_ways: for data with little noise, only so many of the ways are tried: the first ones.

    Returns:
        The posterior, if it was kept, and its held-out error.
    """
    if not draws or not begin.error > NOISE_FREE or (begin.net is None and held_out.count < FEW):
        return Sampled(None, None)
    trials = [
        _try(train, held_out, begin, ways[way], way=way, more=more, seed=seed)
        for way in range(clear_ways if begin.is_clear else len(ways))
        for more in ((0, 1) if begin.is_clear else (0,))
    ]
    trial = min(trials, key=lambda trial: trial.error * (1 + WORTH * trial.more))
    if trial.is_worse(begin) and begin.is_clear:
        trial = trial.continued(held_out, begin.mean, CLEAR_TIMES * TRIED_DRAWS)
    if trial.is_worse(begin):
        return Sampled(None, trial.error)
    make_features, sampler = ways[trial.way], trial.sampler
    sampler.replace_entries(
        whole.minus(torch.full_like(whole.values, begin.mean)), None if make_features is None else make_features(whole)
    )
    posterior = draw(sampler, skip=SKIP, draws=draws, mean=begin.mean)
    coverage = covered(trial.residuals, trial.deviations)
    return Sampled(posterior, trial.error, trial.way, tuple(sampler.features), coverage)


@dataclass(frozen=True)
class Trial:
    """A posterior given the training set.

    Attributes:
        sampler: the sampler, after the draws.
        residuals: the held-out entries less the posterior means.
        deviations: standard deviations of the held-out entries.
        way: position of the function that made the features.
        more: number of components beyond those of the fitted network, for data with little noise.
    """

    sampler: GibbsSampler
    residuals: Observed
    deviations: Float[Tensor, " m"]
    way: int
    more: int

    @property
    def error(self) -> float:
        """Return the held-out root mean square error."""
        return math.sqrt(self.residuals.mean_square())

    def is_worse(self, begin: Begin) -> bool:
        """Return whether the posterior predicts held-out entries clearly worse than the completion it began with."""
        more = self.residuals.values.square() - begin.residuals.values.square()
        return math.isnan(self.error) or replace(self.residuals, values=more).exceeds_zero(DOUBTS)

    def continued(self, held_out: Observed, mean: float, draws: int) -> "Trial":
        """Return a trial with other draws, which follow the present ones.

        Args:
            held_out: the held-out set.
            mean: the mean that was subtracted from the entries.
            draws: number of draws.
        """
        return _judged(self.sampler, held_out, mean, skip=0, draws=draws, way=self.way, more=self.more)


def _try(
    train: Observed,
    held_out: Observed,
    begin: Begin,
    make_features: MakeFeatures | None,
    *,
    way: int,
    more: int,
    seed: int,
) -> Trial:
    """Return a posterior given the training set, and how it predicts the held-out set."""
    sampler = GibbsSampler(
        train.minus(torch.full_like(train.values, begin.mean)),
        initial_rows(begin, train.shape, seed, more=more),
        biases=begin.biases is not None,
        noise=begin.error,
        seed=seed,
        features=None if make_features is None else make_features(train),
    )
    skip = TRIED_SKIP * (CLEAR_TIMES if more else 1)
    return _judged(sampler, held_out, begin.mean, skip=skip, draws=TRIED_DRAWS, way=way, more=more)


def _judged(
    sampler: GibbsSampler, held_out: Observed, mean: float, *, skip: int, draws: int, way: int, more: int
) -> Trial:
    """Return how the next draws of a sampler predict the held-out set."""
    found = draw(sampler, skip=skip, draws=draws, mean=mean)
    residuals = held_out.minus(found.at(held_out.indices))
    return Trial(sampler, residuals, found.deviation(held_out.indices), way, more)


def covered(residuals: Observed, deviations: Float[Tensor, " m"]) -> dict[float, float]:
    """Return which share of residuals lies in the central intervals of Gaussian distributions: {nominal: found}.

    Args:
        residuals: observed entries less what was predicted.
        deviations: the standard deviations of the residuals.
    """
    sizes = (residuals.values / deviations).abs()
    bounds = {share: NormalDist().inv_cdf((1 + share) / 2) for share in SHARES}
    return {share: replace(residuals, values=(sizes < bound).double()).mean() for share, bound in bounds.items()}


def initial_rows(begin: Begin, shape: Sequence[int], seed: int, *, more: int = 0) -> list[Float[Tensor, "_ K"]]:
    """Return the rows at which a sampler begins: balanced factors of the network, small components, and the biases.

    Args:
        begin: the completion to begin with.
        shape: sizes of the modes.
        seed: seed of the small components.
        more: number of small components beyond those of a network that explains nearly everything.
    """
    factors = [torch.zeros(d, 0, dtype=torch.float64) for d in shape]
    if begin.net is not None:
        factors = factors_of(begin.net)
    found = factors[0].shape[1]
    width = max(found, min(found + more if begin.is_clear else COMPONENTS, *shape))
    std = (SMALL * begin.error) ** (1 / len(shape))
    small = normals([(d, width - found) for d in shape], seed, "new components of a posterior")
    parts = [[factor, std * new] for factor, new in zip(factors, small, strict=True)]
    if begin.biases is not None:
        for part, bias in zip(parts, begin.biases, strict=True):
            part.append(bias.cpu()[:, None])
    return [torch.cat(part, dim=1) for part in parts]
