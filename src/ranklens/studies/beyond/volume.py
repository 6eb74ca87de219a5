"""Descent or volume: gradient descent from small factors against guessing all factors until they fit the data."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, seeds
from ranklens.dynamics.guess_and_check import Guesses, Population, guess_and_check
from ranklens.dynamics.optim import GroupRMSprop
from ranklens.problems import targets
from ranklens.studies.kit import records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.studies.kit.known_chances import CASES, COUNT
from ranklens.tensors import measures
from ranklens.tensors.random_product import RandomProduct, random_product
from ranklens.training import loop

TITLE = "Guessing needs narrow or deep networks to find low rank; descent from a small start does not"
EXPLANATION = (
    "A matrix of rank one is to be recovered from few measurements, by factors that gradient descent trains, or by "
    "factors that are drawn at random until they fit. Most of the wide factorizations that fit have a high rank, so "
    "that guessing fails where descent succeeds; with more layers the volume of low rank grows, and guessing improves."
)
SOURCE = "Alexander, Slutzky, Ran-Milo, Cohen (NeurIPS 2025): guess and check against gradient descent"

# Distributions of the end matrix: the product of the factors, or the product divided by its Frobenius norm.
PRIORS = ("product", "normalized")
# Factors of the prior's draw from which descent starts: near zero, and the draw itself.
STARTS = ("small", "prior")
# Number that is added to the norm of the gradient: far below the gradient at a start near zero, a product of up to nine
# factors of size 1e-3, so that the plateau there is left in steps of full length.
SMALLEST = 1e-30


@dataclass(frozen=True)
class Settings:
    """Recovery of a matrix of rank one and Frobenius norm 1 from measurements with Gaussian matrices of norm 1.

    Attributes:
        size: number of rows and columns.
        measurements: number of measurements.
        depths: numbers of factors for which all widths are run, in increasing order.
        widths: widths of the factors, in increasing order.
        deeper: further numbers of factors, for the first of the widths only, in increasing order.
        levels: largest mean squared error of accepted guesses, for a product and for a normalized product.
        guesses: number of plain guesses, before subset simulation takes over.
        enough: number of accepted guesses from which subset simulation is not needed.
        members: draws per population of subset simulation.
        runs: populations of subset simulation.
        moves: moves of every draw per level.
        scale: factor of the prior's draw from which descent starts near zero.
        lr: learning rate of descent, about the distance that the factors move per step.
        steps: number of steps of descent.
        checked: draws per population in the checks of known probabilities.
        seeds: seeds of the matrix, the measurements, the guesses and the initial factors.
    """

    size: int = 5
    measurements: int = 15
    depths: tuple[int, ...] = (2, 3)
    widths: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    deeper: tuple[int, ...] = (4, 8)
    levels: tuple[float, ...] = (0.02, 0.0035)
    guesses: int = 4000
    enough: int = 200
    members: int = 100
    runs: int = 4
    moves: int = 6
    scale: float = 1e-3
    lr: float = 0.01
    steps: int = 800
    checked: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        deeper=(4, 5, 6, 7, 8, 9, 10),
        guesses=1_000_000,
        enough=500,
        members=2000,
        runs=8,
        moves=20,
        lr=1e-3,
        steps=20_000,
        checked=4000,
    ),
    "tiny": Settings(
        depths=(2,),
        widths=(5, 40),
        deeper=(4,),
        guesses=500,
        members=50,
        runs=2,
        moves=3,
        steps=30,
        checked=50,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 1.0, "paper": 90.0, "tiny": 0.02}


@dataclass(frozen=True)
class Task:
    """A matrix of rank one, what is measured of it, and what is not. All tensors are float64.

    Attributes:
        A: (measurements, size^2) measurement matrices, flattened, each of norm 1.
        y: (measurements,) measured values.
        B: (rest, size^2) an orthonormal basis of all matrices that are orthogonal to the measurement matrices.
        unmeasured: (rest,) inner products of the matrix with that basis.
    """

    A: Tensor
    y: Tensor
    B: Tensor
    unmeasured: Tensor


def task(settings: Settings, seed: int) -> Task:
    """Return the recovery problem of a seed."""
    size, count = settings.size, settings.measurements
    [A] = seeds.normals([(count, size * size)], seed, "measurements")
    A = A / A.norm(dim=1, keepdim=True)
    B = torch.linalg.qr(A.T, mode="complete").Q[:, count:].T.contiguous()
    W = targets.low_rank_matrix((size, size), 1, norm=1.0, seed=seed).reshape(-1)
    return Task(A, A @ W, B, B @ W)


def networks(settings: Settings) -> list[tuple[int, int]]:
    """Return the pairs (depth, width) that are run: all widths at some depths, and the least width at the others."""
    pairs = [(depth, width) for depth in settings.depths for width in settings.widths]
    return pairs + [(depth, settings.widths[0]) for depth in settings.deeper]


def run(settings: Settings) -> xr.Dataset:
    """Return errors and ranks of guesses and of descent for every network and seed, and checks of the sampler."""
    nets, tasks = networks(settings), [task(settings, seed) for seed in settings.seeds]
    shape = (len(PRIORS), len(nets), len(settings.seeds))
    guessed = {name: np.zeros(shape) for name in ("probability", "spread", "guess", "guess_rank")}
    for p, k, s in np.ndindex(shape):
        (depth, width), seed = nets[k], settings.seeds[s]
        prior = random_product((settings.size, settings.size), depth, width, normalized=PRIORS[p] == "normalized")
        found = accepted(settings, prior, tasks[s], settings.levels[p], seed)
        W = prior.matrices(found.draws).double()
        guessed["probability"][p, k, s], guessed["spread"][p, k, s] = found.probability, found.error / found.probability
        guessed["guess"][p, k, s] = float(unmeasured_error(W, tasks[s]).mean())
        guessed["guess_rank"][p, k, s] = float(measures.effective_rank(W).mean())
    descended = [descend(settings, depth, width, tasks) for depth, width in nets]
    dims = ("prior", "network", "seed")
    along = ("network", "start", "seed")
    checked = [check(settings, name) for name in CASES]
    return xr.Dataset(
        {name: (dims, values) for name, values in guessed.items()}
        | {name: (along, np.stack([one[name] for one in descended])) for name in descended[0]}
        | {
            "zero": ("seed", [float(one.unmeasured.square().mean()) for one in tasks]),
            "estimate": (("case", "check_run"), [found.estimates.numpy() for found in checked]),
            **{name: ("check_run", values) for name, values in independent_errors(settings).items()},
        },
        coords={
            "prior": list(PRIORS),
            "start": list(STARTS),
            "depth": ("network", [depth for depth, _ in nets]),
            "width": ("network", [width for _, width in nets]),
            "case": list(CASES),
            "seed": list(settings.seeds),
        },
    )


def accepted(settings: Settings, prior: RandomProduct, of: Task, level: float, seed: int) -> Guesses:
    """Return guesses of a prior whose mean squared error over the measurements is at most the level."""
    A, y = of.A.float(), of.y.float()
    return guess_and_check(
        lambda z: (prior.matrices(z).flatten(1) @ A.T - y).square().mean(1),
        prior.size,
        level,
        guesses=settings.guesses,
        enough=settings.enough,
        population=Population(settings.members, settings.runs, moves=settings.moves),
        seed=seeds.derive(seed, f"{prior}"),
        dtype=torch.float32,
    )


def unmeasured_error(W: Tensor, of: Task) -> Tensor:
    """Return the mean squared error of matrices (count, size, size) over what is not measured, (count,)."""
    return (W.flatten(1) @ of.B.T - of.unmeasured).square().mean(1)


def prior_error(size: int, prior: str, zero: xr.DataArray | float) -> xr.DataArray | float:
    """Return the expected error of a draw of the prior over what is not measured.

    All entries of W have mean zero and one variance, and are uncorrelated, because rotations of rows and columns do not
    change the distribution. The error is this variance, plus the error of the zero matrix.
    """
    return (1 / size if prior == "product" else 1 / size**2) + zero


def descend(settings: Settings, depth: int, width: int, tasks: list[Task]) -> dict[str, np.ndarray]:
    """Return errors and ranks after descent of factors of one depth and width, from both starts and for all seeds.

    The factors of all starts and seeds are trained side by side; no one influences another.
    """
    sizes = [settings.size, *[width] * (depth - 1), settings.size]
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    drawn = [seeds.normals(shapes, seed, f"initial factors {depth} {width}") for seed in settings.seeds]
    factors = []
    for j, (_, columns) in enumerate(shapes):
        one = torch.stack([factor[j] for factor in drawn]) / math.sqrt(columns)
        factors.append(torch.nn.Parameter(torch.cat([settings.scale * one, one])))
    both = [*tasks, *tasks]
    A, y = torch.stack([one.A for one in both]), torch.stack([one.y for one in both])

    def end() -> Tensor:
        W: Tensor = factors[0]
        for factor in factors[1:]:
            W = torch.bmm(factor, W)
        return W

    def fitted() -> Tensor:
        return (torch.bmm(A, end().flatten(1)[:, :, None])[:, :, 0] - y).square().mean(1)

    optimizer = GroupRMSprop(factors, lr=settings.lr, members=len(both), eps=SMALLEST)
    loop.train(lambda _: fitted().sum(), optimizer, steps=settings.steps)
    with torch.no_grad():
        W = end()
        error = torch.cat([unmeasured_error(W[k : k + 1], one) for k, one in enumerate(both)])
        found = {"fit": fitted(), "descent": error, "descent_rank": measures.effective_rank(W)}
    return {name: values.reshape(len(STARTS), len(tasks)).numpy() for name, values in found.items()}


def check(settings: Settings, name: str) -> Guesses:
    """Return the estimate of subset simulation in a case whose probability is known."""
    case = CASES[name]
    population = Population(settings.checked, runs=8)
    return guess_and_check(
        lambda z: case.losses(case.prior.matrices(z)),
        case.prior.size,
        case.level,
        guesses=0,
        population=population,
        seed=seeds.derive(settings.seeds[0], name),
    )


def independent_errors(settings: Settings) -> dict[str, np.ndarray]:
    """Return errors of accepted Gaussian matrices over what is not measured, the mean of each independent run.

    The measured entries of a Gaussian matrix say nothing about the others, so the expected error of accepted guesses
    is that of the prior. This is the limit of infinite width of every depth.
    """
    found = check(settings, "entries of a Gaussian matrix")
    rest = CASES["entries of a Gaussian matrix"].prior.matrices(found.draws).flatten(1)[:, COUNT:]
    return {"independent": rest.square().mean(1).reshape(len(found.estimates), -1).mean(1).numpy()}


def claims(record: xr.Dataset) -> list[Claim]:
    """Return checks of the sampler, and findings on width, depth, rank and descent."""
    settings = records.settings_of(record, Settings)
    return [*_exact(record, settings), *_width(record, settings), *_depth(record, settings)]


def _exact(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return the claims on cases whose answer is known."""
    far = f"in standard errors over {reduce.count(record.sizes['check_run'], 'run')} of {settings.checked} draws"
    found = [
        exactness(
            f"Probability that a guess is accepted, {name}: distance between the estimate of subset simulation and "
            f"the exact value {case.probability:.3g}, {far}. The bound is exceeded by chance once in 200",
            _deviation(record.estimate.sel(case=name).values, case.probability),
            at_most=4.0,
            source=sources.SUBSET,
        )
        for name, case in CASES.items()
    ]
    return [
        *found,
        exactness(
            "Mean square of the entries of an accepted Gaussian matrix that are not measured: distance between its "
            f"mean over accepted guesses and the exact value {1 / 5:g}, {far}",
            _deviation(record.independent.values, 1 / 5),
            at_most=4.0,
            source=sources.OWN_DERIVATION,
        ),
    ]


def _deviation(estimates: np.ndarray, exact: float) -> float:
    """Return the distance of the mean of independent estimates to the exact value, in standard errors of the mean."""
    error = float(np.std(estimates, ddof=1) / math.sqrt(len(estimates)))
    return abs(reduce.mean(estimates) - exact) / error


def _errors(record: xr.Dataset, name: str, prior: str | None = None, **at: int | str) -> xr.DataArray:
    """Return medians over the seeds of a variable at one prior, and at one depth or width, along the networks."""
    values = record[name] if prior is None else record[name].sel(prior=prior)
    if "start" in values.dims:
        values = values.sel(start=at.pop("start"))
    chosen = np.logical_and.reduce([record[key].values == value for key, value in at.items()])
    return values.isel(network=np.flatnonzero(chosen)).median("seed", skipna=False)


def _width(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on wide against narrow factorizations."""
    narrow, wide = settings.widths[0], settings.widths[-1]
    of = f"median of {reduce.count(record.seed)}"
    found = []
    for depth in settings.depths:
        guess = _errors(record, "guess", "product", depth=depth).values
        narrow_guess, wide_guess = guess[0], guess[len(settings.widths) - 1]
        found += [
            finding(
                f"Width harms guessing: error of accepted products of {depth} factors over what is not measured, "
                f"width {wide} divided by width {narrow}, {of} each",
                wide_guess / narrow_guess,
                at_least=1.4,
                source=sources.VOLUME,
            ),
            finding(
                f"Guessing wide factors says nothing about what is not measured: error of accepted products of {depth} "
                f"factors of width {wide} divided by the error of a draw that need not fit, {of}",
                _relative(record, settings, "product", depth, wide),
                within=(0.8, 1.15),
                source=sources.VOLUME,
            ),
        ]
    descent = [_errors(record, "descent", width=wide, depth=depth, start="small").values for depth in settings.depths]
    found.append(
        finding(
            f"Width does not harm descent from a small start: error over what is not measured at width {wide} divided "
            f"by the error of the zero matrix, {of}, largest of the depths",
            reduce.largest(np.concatenate(descent)) / reduce.median(record.zero),
            at_most=0.15,
            source=sources.VOLUME,
        )
    )
    return found


def _relative(record: xr.Dataset, settings: Settings, prior: str, depth: int, width: int) -> float:
    """Return the median over seeds of the error of guesses, divided by that of a draw of the prior."""
    chosen = np.flatnonzero((record.depth.values == depth) & (record.width.values == width))[:1]
    values = record.guess.sel(prior=prior).isel(network=chosen) / prior_error(settings.size, prior, record.zero)
    return reduce.median(values)


def _depth(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on deep against shallow factorizations."""
    narrow, wide = settings.widths[0], settings.widths[-1]
    first, last = settings.depths[0], max((*settings.depths, *settings.deeper))
    of = f"median of {reduce.count(record.seed)}"
    at = {
        (name, depth): float(_errors(record, name, "normalized", depth=depth, width=narrow).values[0])
        for name in ("guess", "guess_rank")
        for depth in (first, last)
    }
    last_wide = _errors(record, "guess", "normalized", depth=settings.depths[-1], width=wide).values[0]
    first_wide = _errors(record, "guess", "normalized", depth=first, width=wide).values[0]
    start = _errors(record, "descent", depth=first, width=wide, start="prior").values[0]
    return [
        finding(
            f"Depth helps guessing: error of accepted normalized products of width {narrow} over what is not "
            f"measured, {last} factors divided by {first}, {of} each",
            at["guess", last] / at["guess", first],
            at_most=0.5,
            source=sources.VOLUME,
        ),
        finding(
            f"Deep guesses have low rank: effective rank of accepted normalized products of width {narrow}, {last} "
            f"factors minus 1, divided by {first} factors minus 1, {of} each",
            (at["guess_rank", last] - 1) / (at["guess_rank", first] - 1),
            at_most=0.5,
            source=sources.VOLUME,
        ),
        finding(
            f"Depth hardly helps guessing at width {wide}: error of accepted normalized products over what is not "
            f"measured, {settings.depths[-1]} factors divided by {first}, {of} each",
            last_wide / first_wide,
            within=(0.75, 1.25),
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"The small start matters: error of descent that starts at a draw of the prior, {first} factors of width "
            f"{wide}, divided by the error of the zero matrix, {of}",
            start / reduce.median(record.zero),
            at_least=1.0,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of errors against width and depth, of ranks, and of the probability to guess right."""
    settings = records.settings_of(record, Settings)
    made, (widths, depths, ranks, chance) = drawing.figure(2, 2, width=4.6)
    for k, depth in enumerate(settings.depths):
        wide = np.flatnonzero(record.depth.values == depth)[: len(settings.widths)]
        guess = record.sel(prior="product").isel(network=wide)
        _band(widths, guess.width, guess.guess, f"guessing, {depth} factors", k)
        small = record.descent.sel(start="small").isel(network=wide)
        _band(widths, guess.width, small, f"descent, {depth} factors", k + 2)
        chance.plot(
            guess.width, guess.probability.median("seed"), marker="o", label=f"{depth} factors", **drawing.style(k)
        )
    level = float(np.median(prior_error(settings.size, "product", record.zero)))
    widths.axhline(level, label="a draw that need not fit", **drawing.THEORY)
    drawing.label(widths, "Width harms guessing, not descent", "width", "error on what is not measured")
    narrow = np.flatnonzero(record.width.values == settings.widths[0])
    deep = record.isel(network=narrow)
    _band(depths, deep.depth, deep.guess.sel(prior="normalized"), "guessing", 0)
    _band(depths, deep.depth, deep.descent.sel(start="small"), "descent", 2)
    depths.axhline(float(record.zero.median()), label="zero matrix", **drawing.THEORY)
    drawing.label(
        depths,
        f"Depth helps guessing (width {settings.widths[0]})",
        "number of factors",
        "error on what is not measured",
    )
    _band(ranks, deep.depth, deep.guess_rank.sel(prior="normalized"), "accepted guesses", 0)
    _band(ranks, deep.depth, deep.descent_rank.sel(start="small"), "descent", 2)
    drawing.label(ranks, "Deep guesses have low rank", "number of factors", "effective rank of the end matrix")
    drawing.label(chance, f"Few guesses fit (error {settings.levels[0]:g})", "width", "share of guesses that fit")
    chance.set_yscale("log")
    for axes in (widths, chance):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(settings.widths), [str(width) for width in settings.widths])
    for axes in (widths, depths):
        axes.set_ylim(0, 1.7 * axes.get_ylim()[1])  # space for the legend
    _note(widths, depths, ranks, chance)
    for axes in (widths, depths, ranks, chance):
        axes.legend(fontsize=8, loc="upper right")
    return made


def _note(widths: Axes, depths: Axes, ranks: Axes, chance: Axes) -> None:
    """Write into every panel what to see in it."""
    drawing.note(widths, "guessing: wider is worse", 0.03, "a draw that need not fit")
    drawing.note(widths, "descent: right at every width", 0.97, 0.01)
    drawing.note(depths, "deeper guesses: smaller error", 0.97, 0.45)
    drawing.note(ranks, "deeper guesses: lower rank", 0.97, 0.55)
    drawing.note(chance, "wider: fewer guesses fit", 0.03, 0.02)


def _band(axes: Axes, x: xr.DataArray, values: xr.DataArray, name: str, k: int) -> None:
    """Draw the median over seeds against widths or depths, and a band from the least to the largest seed."""
    along = values.transpose(x.dims[0], "seed")
    colour = drawing.COLOURS[k % drawing.FEW]
    axes.fill_between(x.values, along.min("seed"), along.max("seed"), color=colour, alpha=0.2, linewidth=0)
    axes.plot(x.values, along.median("seed"), marker="o", label=name, **drawing.style(k))


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words."""
    settings = records.settings_of(record, Settings)
    parts = []
    for depth in settings.depths:
        guess = _errors(record, "guess", "product", depth=depth).values[: len(settings.widths)]
        found = ", ".join(f"{value:.3f}" for value in guess)
        parts.append(f"of {depth} factors the error is {found}")
    deep = _errors(record, "guess", "normalized", width=settings.widths[0])
    by_depth = ", ".join(f"{int(d)}: {float(v):.3f}" for d, v in zip(deep.depth, deep, strict=True))
    return (
        f"Medians over seeds of the error over what is not measured. Guessing at widths "
        f"{', '.join(map(str, settings.widths))}: {'; '.join(parts)}. Guessing normalized products of width "
        f"{settings.widths[0]}, by the number of factors: {by_depth}. Descent from a small start has a median error of "
        f"{float(record.descent.sel(start='small').median()):.1e} over all networks and seeds."
    )
