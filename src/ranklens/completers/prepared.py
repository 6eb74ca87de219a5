"""Observed entries made ready for a fit: a training set and a held-out set, biases, and a unit of size one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int64

from ranklens.completers.biases import Biases, fit_biases, no_biases
from ranklens.completers.observed import Observed
from ranklens.seeds import derive, stream

# Dampings of the biases that are tried on the held-out entries.
DAMPINGS = (1e-6, 1e-3, 0.03, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
# Sweeps of a fit with another damping, which begins with the biases of the damping before.
RETRIED = 4
# Shares of the held-out mean square that the biases leave: below the first, a model without biases is not tried, and
# above the second, a model with biases is not tried. Biases that explain little cost accuracy in noisy data.
MOSTLY, HARDLY_ANY = 0.1, 0.8
# Number of entries up to which both ways are always tried, unless biases explain nearly everything.
CHEAP = 2**14
# Residuals below this share of the largest value are rounding errors: the biases fit the data exactly.
ROUNDING = 1e-12
# Share of the entries, or of the blocks, that is held out if only their kind is given.
SHARE = 0.1
# Says which entries are held out: a share of them, "entries", "blocks", or a function.
HeldOut: TypeAlias = float | str | Callable[[Int64[np.ndarray, "m order"], int], Bool[np.ndarray, " m"]]


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


def divide(observed: Observed, held_out: HeldOut, seed: int) -> tuple[Observed, Observed]:
    """Return the training set and the held-out set.

    Where whole blocks of entries are missing, such as the days of a sensor, held-out blocks say how well blocks are
    predicted. A block is a fiber: all entries that agree in the indices of all modes but one. This mode is the one
    along which the observed entries fill their fibers most.

    Args:
        observed: the entries.
        held_out: the share of the entries to hold out, drawn at random; "entries" for a tenth of them; "blocks" for a
            tenth of the blocks; or a function of the (m, N) indices and a seed, which returns a mask of the held-out
            entries.
        seed: seed of the draw.

    Raises:
        ValueError: if a function returns no mask that leaves entries in both sets, or for fewer than two blocks.
    """
    if isinstance(held_out, Real | int | float):
        return observed.split(float(held_out), seed)
    if held_out == "entries":
        return observed.split(SHARE, seed)
    if isinstance(held_out, str):
        block = torch.unique(fibers(observed, fiber_mode(observed)), return_inverse=True)[1]
        count = int(block.max()) + 1
        if count < 2:
            raise ValueError("held_out is 'blocks', but all entries are in one block; pass held_out='entries'")
        order = torch.randperm(count, generator=stream(seed, "held-out blocks"))
        mask = torch.isin(block.cpu(), order[: max(round(SHARE * count), 1)])
    else:
        given = np.asarray(held_out(observed.indices.cpu().numpy(), derive(seed, "held-out entries")))
        if given.shape != (len(observed),) or given.dtype != bool or given.all() or not given.any():
            raise ValueError(
                f"the function held_out returned an array of {given.dtype} of shape {given.shape}; it must return a "
                f"mask of shape ({len(observed)},) that is True for some of the entries, and not for all"
            )
        mask = torch.from_numpy(given)
    mask = mask.to(observed.values.device)
    return observed.take(~mask), observed.take(mask)


def fiber_mode(observed: Observed) -> int:
    """Return the mode along which the observed entries fill those of its fibers that have any the most.

    Args:
        observed: the entries.
    """
    shares = []
    for n, d in enumerate(observed.shape):
        others = len(torch.unique(fibers(observed, n)))
        shares.append(len(observed) / (others * d) if d > 1 else 0.0)
    return max(range(len(shares)), key=lambda n: shares[n])


def fibers(observed: Observed, mode: int) -> Int64[torch.Tensor, " m"]:
    """Return for every entry a number of its fiber: entries with equal numbers agree in all modes but one.

    Args:
        observed: the entries.
        mode: the mode along which the fibers run.
    """
    number = torch.zeros_like(observed.indices[:, 0])
    for n, d in enumerate(observed.shape):
        if n != mode:
            number = number * d + observed.indices[:, n]
    return number


def is_exact(data: Data) -> bool:
    """Return whether the biases fit the training set up to rounding errors."""
    residual = data.residual(data.train).mean_square()
    return not math.sqrt(residual) > ROUNDING * float(data.whole.values.abs().max())


def prepare(observed: Observed, held_out: HeldOut, biases: bool | None, seed: int) -> list[Data]:
    """Return the entries split, in units of what their biases leave: without biases, with biases, or both ways.

    If the choice is left open, it depends on how much the biases alone explain of the held-out entries. Both ways are
    returned if this is neither little nor nearly all.

    Args:
        observed: the entries.
        held_out: which of them are held out, see `divide`.
        biases: whether to have biases; None leaves the choice.
        seed: seed of the division.
    """
    train, left_out = divide(observed, held_out, seed)
    plain = Data(observed, train, left_out, no_biases(observed.shape, observed.values.device), 1.0)
    if biases is False:
        return [_in_units_of_residuals(plain)]
    biased = Data(observed, train, left_out, _choose_biases(train, left_out), 1.0)
    if biases:
        return [_in_units_of_residuals(biased)]
    left, whole = (data.residual(left_out).mean_square() for data in (biased, plain))
    hardly_any = math.inf if len(observed) <= CHEAP else HARDLY_ANY
    ways = [biased] if left < MOSTLY * whole else [plain] if left > hardly_any * whole else [plain, biased]
    return [_in_units_of_residuals(data) for data in ways]


def _in_units_of_residuals(data: Data) -> Data:
    """Return data in units of the root mean square of what the biases leave of the training set, if they leave any."""
    return data if is_exact(data) else data.times(1 / math.sqrt(data.residual(data.train).mean_square()))


def _choose_biases(train: Observed, held_out: Observed) -> Biases:
    """Return the biases of the training set with the damping that predicts the held-out set best."""
    tried = [fit_biases(train, DAMPINGS[0])]
    for damping in DAMPINGS[1:]:
        tried.append(replace(tried[-1], damping=damping).adapted(train, RETRIED))
    return min(tried, key=lambda biases: held_out.minus(biases.at(held_out.indices)).mean_square())
