"""Guess and check: draw parameters at random until they fit, and estimate how probable this is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# A function of (draws, size) standard normal numbers that returns one loss per draw.
Losses = Callable[[Tensor], Tensor]
# Draws of one batch of plain guessing; their losses are computed in one call.
BATCH = 65536
# Acceptance rate of moves that the step size is adapted to. Rates from .2 to .5 serve about equally well.
WANTED = 0.35
# Length of the first moves, relative to a new draw.
FIRST_STEP = 0.5
# Number of levels after which subset simulation gives up: with a fifth kept, a probability of 10^-56.
MOST_LEVELS = 80


@dataclass(frozen=True)
class Guesses:
    """Draws that were accepted, and the probability with which a draw is accepted.

    Attributes:
        probability: estimated probability that the loss of one draw is at most the level.
        error: estimated standard error of `probability`.
        draws: (accepted, size) accepted draws. Those of rejection are independent; those of subset simulation are
            correlated.
        losses: (accepted,) their losses.
        method: "rejection", or "subset" for subset simulation.
        evaluations: number of draws whose loss was computed.
        estimates: (runs,) estimates of the independent runs of subset simulation, or one estimate of rejection.
    """

    probability: float
    error: float
    draws: Tensor
    losses: Tensor
    method: Literal["rejection", "subset"]
    evaluations: int
    estimates: Tensor


@dataclass(frozen=True)
class Population:
    """How subset simulation is run.

    Attributes:
        members: number of draws per run.
        runs: number of independent runs, at least 2; their spread gives the error. One more run finds the levels.
        kept: about the share of a population that survives a level, from above 0 to at most 1/2.
        moves: number of moves of every draw per level.
    """

    members: int = 500
    runs: int = 8
    kept: float = 0.2
    moves: int = 10

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: for a number out of range, or if the share that survives is less than one draw.
        """
        arguments.count("runs", self.runs, least=2)
        arguments.count("moves", self.moves)
        arguments.number("kept", self.kept, above=0, most=0.5)
        if arguments.count("members", self.members) * self.kept < 1:
            raise ValueError(f"members is {self.members}; with kept = {self.kept} none survive, so take more members")


@checked
@torch.no_grad()
def guess_and_check(
    losses: Losses,
    size: int,
    level: float,
    *,
    guesses: int = 100_000,
    enough: int = 100,
    population: Population | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Guesses:
    r"""Draw parameters from a prior until their loss is small, and return those that were accepted.

    Accepted draws have the distribution of the prior, conditioned on loss <= level: guess and check does not prefer
    any parameters that fit the data over others but by their probability. Parameters are given as functions of
    standard normal numbers, such as those of `random_product`.

    Plain guessing (rejection) comes first. If fewer than `enough` of `guesses` draws are accepted, subset simulation
    takes over. A population of draws is brought to lower and lower levels: the fifth of it (`kept`) with the smallest
    losses defines the next level and is copied, and every copy moves by z' = sqrt(1 - b^2) z + b * noise, which is
    taken back if the loss of z' is above the level. Such a move leaves the normal distribution below the level
    unchanged. Levels and lengths b of moves come from a first population, which does not count. Independent populations
    then pass the same levels. In each of them the product of the shares that pass is an estimate of the probability
    whose expectation is exact, for any number of draws and moves. The error is the standard error of the mean.

    Args:
        losses: function of a tensor (draws, size) that returns (draws,) losses.
        size: how many standard normal numbers make one draw.
        level: largest loss that is accepted.
        guesses: number of draws of plain guessing; 0 begins with subset simulation.
        enough: number of accepted draws from which plain guessing counts as enough.
        population: settings of subset simulation; None takes those of `Population`.
        seed: seed of all draws.
        dtype: floating-point type of the draws.

    Returns:
        The accepted draws and the probability of acceptance. Subset simulation returns
        `members` draws for every run that reached the level.

    Raises:
        ValueError: for numbers out of range, for losses that are not one per draw, and for a level that subset
            simulation does not reach.

    Source: subset simulation is due to Au and Beck (Probabilistic Engineering Mechanics 2001); the move is the
    preconditioned Crank-Nicolson proposal.

    >>> found = guess_and_check(lambda z: -z[:, 0], size=1, level=-5.0)  # a normal number above 5: 2.87e-7
    >>> found.method, abs(found.probability - 2.87e-7) < 3 * found.error
    ('subset', True)
    """
    size, guesses = arguments.count("size", size), arguments.count("guesses", guesses, least=0)
    enough, level = arguments.count("enough", enough), arguments.number("level", level)
    dtype = arguments.floating_dtype("dtype", dtype)
    drawn = _Draws(seeds.stream(seed, "guesses"), dtype)
    if guesses:
        draws, values = _reject(losses, size, level, guesses, drawn)
        if len(draws) >= enough:
            share = len(draws) / guesses
            error = math.sqrt(share * (1 - share) / guesses)
            return Guesses(share, error, draws, values, "rejection", guesses, torch.tensor([share]))
    found = _Subset(losses, size, level, population or Population(), drawn)
    log_probability, draws, values = found.go()
    estimates = log_probability.exp()
    error = float(estimates.std() / math.sqrt(len(estimates)))
    made = guesses + found.evaluations
    return Guesses(float(estimates.mean()), error, draws, values, "subset", made, estimates)


def _reject(
    losses: Losses, size: int, level: float, guesses: int, drawn: "_Draws"
) -> tuple[Float[Tensor, "accepted size"], Float[Tensor, " accepted"]]:
    """Return the accepted of `guesses` independent draws and their losses."""
    draws, values = [], []
    for start in range(0, guesses, BATCH):
        z = drawn.normal(min(BATCH, guesses - start), size)
        found = _computed(losses, z)
        small = found <= level
        draws.append(z[small])
        values.append(found[small])
    return torch.cat(draws), torch.cat(values)


def _computed(losses: Losses, z: Tensor) -> Tensor:
    """Return the losses of draws, after checking that there is one for each.

    Raises:
        TypeError: if the function returns no tensor.
        ValueError: if the tensor has another shape.
    """
    found = losses(z)
    if not isinstance(found, Tensor):
        raise TypeError(f"losses returned a {type(found).__name__}; it must return a tensor of one loss per draw")
    if found.shape != (len(z),):
        raise ValueError(f"losses returned shape {tuple(found.shape)} for {len(z)} draws; it must be ({len(z)},)")
    return found


@dataclass
class _Level:
    """One level of subset simulation: the largest loss that is kept, and the length of moves below it."""

    loss: float
    step: float


class _Subset:
    """Subset simulation: one population finds the levels, then independent populations of one batch use them."""

    def __init__(self, losses: Losses, size: int, level: float, population: Population, drawn: "_Draws") -> None:
        self.of, self.size, self.level, self.population, self.drawn = losses, size, level, population, drawn
        self.evaluations = 0

    def levels(self) -> list[_Level]:
        """Return the levels down to the target, each reached by about the share `kept` of those that reach the last.

        Raises:
            ValueError: if a population does not reach the target.
        """
        members = self.population.members
        found: list[_Level] = []
        survivors, step = round(members * self.population.kept), FIRST_STEP
        z = self.drawn.normal(members, self.size)
        values = self._losses(z)
        while len(found) < MOST_LEVELS:
            order = values.argsort()
            loss = max(float(values[order[survivors - 1]]), self.level)
            if not math.isfinite(loss):
                raise ValueError("a loss is not a number for most draws; losses must be finite where they are small")
            kept = order[: int((values <= loss).sum())]
            chosen = self.drawn.copies(kept, members)
            z, values, step = self._moved(z[chosen], values[chosen], _Level(loss, step), adapt=True)
            found.append(_Level(loss, step))
            if loss == self.level:
                return found
        raise ValueError(
            f"level is {self.level}; no draws so small were found after {MOST_LEVELS} levels, the last of them at "
            f"{found[-1].loss:.3g}; choose a larger level"
        )

    def go(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bring independent populations down the levels.

        Returns:
            The logarithm of the probability by every run, (runs,), minus infinity for a run that lost all its draws;
            the draws of all other runs, which are at or below the target; and their losses.

        Raises:
            ValueError: if all runs lost all their draws.
        """
        runs, members = self.population.runs, self.population.members
        levels = self.levels()
        z = self.drawn.normal(runs * members, self.size)
        values = self._losses(z)
        log_probability = torch.zeros(runs, dtype=torch.float64)
        for level in levels:
            inside = (values <= level.loss).reshape(runs, members)
            log_probability += inside.double().mean(dim=1).log()
            chosen = [
                start * members + self.drawn.copies((own if own.any() else ~own).nonzero().flatten(), members)
                for start, own in enumerate(inside)
            ]
            at = torch.cat(chosen)
            z, values, _ = self._moved(z[at], values[at], level)
        reached = torch.isfinite(log_probability).repeat_interleave(members)
        if not bool(reached.any()):
            raise ValueError(f"no population of {members} draws reached the level {self.level}; take more members")
        return log_probability, z[reached], values[reached]

    def _losses(self, z: Tensor) -> Tensor:
        self.evaluations += len(z)
        return _computed(self.of, z)

    def _moved(self, z: Tensor, values: Tensor, level: _Level, *, adapt: bool = False) -> tuple[Tensor, Tensor, float]:
        """Return draws and losses after moves that stay below a level, and the length of the moves."""
        step = level.step
        for _ in range(self.population.moves):
            proposed = math.sqrt(1 - step**2) * z + step * self.drawn.normal(*z.shape)
            losses = self._losses(proposed)
            accepted = losses <= level.loss
            z, values = torch.where(accepted[:, None], proposed, z), torch.where(accepted, losses, values)
            if adapt:
                rate = float(accepted.double().mean())
                step = min(max(step * math.exp(rate - WANTED), 1e-4), 0.999)
        return z, values, step


@dataclass
class _Draws:
    """Random numbers of one stream."""

    generator: torch.Generator
    dtype: torch.dtype

    def normal(self, count: int, size: int) -> Tensor:
        """Return standard normal numbers of shape (count, size)."""
        return torch.randn(count, size, generator=self.generator, dtype=self.dtype)

    def copies(self, kept: Tensor, count: int) -> Tensor:
        """Return `count` of the positions `kept`, each equally often, up to one more for some that are drawn.

        The expected number of copies is equal for all, which keeps the estimated probability unbiased.
        """
        return kept[torch.randperm(len(kept), generator=self.generator)][torch.arange(count) % len(kept)]
