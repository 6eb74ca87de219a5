"""The one pipeline of both completers: biases, a small start, descent, polish, and once more with all entries."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr

from ranklens.completers.descent import descend
from ranklens.completers.entries import predict
from ranklens.completers.polish import Polish, fit, make_ladder, noise_level, widths
from ranklens.completers.seen import Biases, Seen, fit_biases, no_biases
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

DAMPINGS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
DOUBTS = 1.0  # standard errors by which components must predict held-out entries better than biases do
SMALL = 1e-100  # values whose squares may under- or overflow are fitted in units of the largest
SINGLE = 2**15  # entries beyond which the descent works in float32

Start = Callable[[Seen, torch.dtype], TensorNetwork]


@dataclass(frozen=True)
class Settings:
    """What a completer's arguments say about the pipeline."""

    biases: bool
    held_out: float
    learning_rate: float
    max_steps: int
    look_back: float
    batch_size: int | None
    device: torch.device | str | None
    seed: int

    @classmethod
    def of(cls, completer: Any, seed: int) -> "Settings":
        """Those of an estimator, whose arguments have the same names but for `patience`."""
        given = {field.name: field.name for field in dataclasses.fields(cls)} | {"look_back": "patience"}
        return cls(**{name: getattr(completer, other) for name, other in given.items() if name != "seed"}, seed=seed)


@dataclass(frozen=True)
class Fitted:
    """A completion: scale (biases + network), or the biases alone where no component was worth its place.

    Attributes:
        net: of the size that was chosen, float64; None for rank zero.
        biases: in units of scale.
        scale: root mean square of what the biases leave.
        ridge: of the last least squares.
        rmse: held-out root mean square errors: "biases" alone, "descent", "polish", in the units of the values.
        profile: what stood along the descent.
    """

    net: TensorNetwork | None
    biases: Biases
    scale: float
    ridge: float
    rmse: dict[str, float]
    profile: xr.Dataset


def complete(seen: Seen, start: Start, settings: Settings) -> Fitted:
    """Run the pipeline; `start` makes the network at its small start from the entries that are fitted."""
    with threads(float(len(seen)) * 64):
        top = float(seen.values.abs().max())
        if top == 0 or SMALL < top < 1 / SMALL:
            return _complete(seen.to(settings.device), start, settings)
        found = _complete(seen.times(1 / top).to(settings.device), start, settings)
        rmse = {name: top * error for name, error in found.rmse.items()}
        return replace(found, scale=top * found.scale, rmse=rmse)


def _complete(seen: Seen, start: Start, settings: Settings) -> Fitted:
    train, held_out = seen.split(settings.held_out, settings.seed)
    biases = _choose_biases(train, held_out) if settings.biases else no_biases(seen.shape, seen.values.device)
    left = train.minus(biases.at(train.indices))
    scale = float(left.values.square().mean().sqrt())
    least = 1e-12 * float(seen.values.abs().max())
    if not scale > least or len(seen) < 2:
        whole = fit_biases(seen, biases.damping) if settings.biases else biases
        return Fitted(None, whole, 1.0, 0.0, {"biases": 0.0}, xr.Dataset())
    train, held_out, seen = (part.times(1 / scale) for part in (train, held_out, seen))
    biases = replace(biases, mean=biases.mean / scale, modes=tuple(mode / scale for mode in biases.modes))
    left, left_out = (part.minus(biases.at(part.indices)) for part in (train, held_out))
    net = start(left, torch.float32 if len(seen) > SINGLE else torch.float64)
    size = math.prod(seen.shape) ** (1 / (2 * len(net.nodes)))
    descended = descend(
        net,
        left,
        left_out,
        lr=settings.learning_rate * size,
        steps=settings.max_steps,
        look_back=settings.look_back,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    rmse = {
        "biases": scale * float(left_out.values.square().mean().sqrt()),
        "descent": scale * math.sqrt(descended.held_out),
    }
    profile = descended.profile.assign_attrs(stopped=descended.stopped, best_step=descended.step)
    unit = noise_level(left, math.sqrt(descended.held_out), len(net.nodes) if len(seen.shape) > 2 else 2)
    alike = is_chain(net) or descended.step == int(profile.step[-1])
    ends = [descended.best] if alike else [descended.best, descended.last]
    tried = [Polish(make_ladder(end, left, left_out, unit=unit), train, held_out, biases, unit) for end in ends]
    picks = [polish.search() for polish in tried]
    polish, (rung, ridge) = min(zip(tried, picks, strict=True), key=lambda pair: pair[0].errors[pair[1]])
    rmse["polish"] = scale * polish.errors[rung, ridge]
    chosen, adapted = polish.fits[rung, ridge]
    gains = (
        left_out.values.square()
        - (held_out.minus(adapted.at(held_out.indices)).values - predict(chosen, held_out.indices)).square()
    )
    if float(gains.mean()) <= DOUBTS * float(gains.std(correction=0)) / math.sqrt(len(gains)):
        whole = fit_biases(seen, biases.damping) if settings.biases else biases
        return Fitted(None, whole, scale, 0.0, rmse, profile)
    biases = fit(chosen, seen, adapted, ridge=ridge * unit)
    profile.attrs["widths"] = str(widths(chosen))
    profile.attrs["tried"] = str({key: round(scale * value, 6) for key, value in sorted(polish.errors.items())})
    return Fitted(chosen, biases, scale, ridge * unit, rmse, profile)


def _choose_biases(train: Seen, held_out: Seen) -> Biases:
    """The damping whose biases predict held-out entries best."""
    tried = [fit_biases(train, damping) for damping in DAMPINGS]
    return min(tried, key=lambda biases: float((biases.at(held_out.indices) - held_out.values).square().mean()))
