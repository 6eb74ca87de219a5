"""Attention: the rank of the products of query by key and of output by value, and of their factors, along training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing, seeds
from ranklens.dynamics.descent import gradient_descent
from ranklens.dynamics.optim import GroupRMSprop
from ranklens.problems import Completion
from ranklens.studies.kit import modular_addition, onsets, records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding
from ranklens.tensors import families, measures
from ranklens.tensors.products import nuclear_gap
from ranklens.training import loop

TITLE = "Attention trained from a small start has products of low rank, but does not learn them one at a time"
EXPLANATION = (
    "A layer of attention learns to look up a value by its name in a list. From a small start the singular values of "
    "its products of weights leave zero one after another, and the products end at lower rank than from the usual "
    "start, but a component does not wait until the one before is learned. Weight decay leaves one head in use and a "
    "rank that does not depend on the start."
)
SOURCE = (
    "Boix-Adsera, Littwin, Abbe, Bengio, Susskind (NeurIPS 2023): gradual rank increase; "
    "Kobayashi, Akram, von Oswald (NeurIPS 2024): weight decay and products of attention weights"
)

# The weights of a head, each of shape (size of a head, size of the model), and the two products of a pair of them.
WEIGHTS = ("query", "key", "value", "output")
PRODUCTS = {"QK": ("query", "key"), "OV": ("output", "value")}
# Initial weights: near zero, or with the usual standard deviation, which keeps the size of what a layer computes.
STARTS = ("small", "usual")
# Decay rates of the averages of AdamW, as in published experiments on modular addition.
BETAS = (0.9, 0.98)
# Accuracy on the test set from which a task counts as learned there.
RIGHT = 0.9
# Share of the singular values of all heads above which a head counts as in use.
LIVE = 0.01


@dataclass(frozen=True)
class Settings:
    """One layer of attention that answers with the value that follows a name in a list of pairs.

    A position of the list holds a name and a value, as indicators; the last position holds the name that is asked for.
    The answer of the layer is the sum over heads of W_O^T W_V times the attended positions, of which the part of the
    values is taken as logits. Names and values have frequencies in proportion to k^-power, so that some are needed
    more often than others.

    If there is a modulus, the layer is instead part of a network that learns to add two numbers, as
    `kit.modular_addition` describes, with AdamW and all pairs of the training set in every step.

    Attributes:
        symbols: number of names, and number of values.
        pairs: number of pairs in a list, with different names.
        examples: number of lists; all are used in every step.
        power: exponent of the frequencies.
        heads: number of heads.
        head_size: rows of every weight of a head; with `symbols` it does not limit the products that are needed.
        small: factor of the usual initial weights for the small start.
        decays: weights of half the squared norm of all weights, added to the loss; the first is 0. With a modulus the
            weight decay of AdamW: per step the share lr times decay of every parameter.
        lr: learning rate, about the distance that the weights move per step.
        steps: number of steps.
        every: number of steps between rows of the record.
        components: number of the largest singular values of a product whose onsets are compared.
        fitted: training loss at which the task counts as learned; onsets are taken up to it.
        modulus: number of different numbers that are added; 0 for lists of pairs.
        width: size of an embedding, with a modulus.
        hidden: number of hidden units, with a modulus.
        share: share of the pairs of numbers in the training set, with a modulus.
        early: with a modulus, number of steps up to which there are ten times as many rows.
        seeds: seeds of lists and initial weights.
    """

    symbols: int = 6
    pairs: int = 4
    examples: int = 128
    power: float = 1.0
    heads: int = 2
    head_size: int = 6
    small: float = 0.01
    decays: tuple[float, ...] = (0.0, 0.003)
    lr: float = 0.02
    steps: int = 2000
    every: int = 20
    components: int = 3
    fitted: float = 0.05
    modulus: int = 0
    width: int = 32
    hidden: int = 64
    share: float = 0.7
    early: int = 200
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "modular": Settings(modulus=23, head_size=16, decays=(0.0, 1.0), lr=0.01, steps=1500),
    "paper": Settings(
        symbols=12, pairs=6, examples=1024, heads=4, head_size=12, lr=0.01, steps=8000, every=40, seeds=tuple(range(10))
    ),
    "tiny": Settings(symbols=4, pairs=2, examples=32, head_size=4, lr=0.05, steps=60, every=3, seeds=(0,)),
}
MINUTES = {"laptop": 0.6, "modular": 0.8, "paper": 120.0, "tiny": 0.02}


@dataclass(frozen=True)
class Lists:
    """Lists of pairs, and what is asked and answered.

    Attributes:
        positions: (examples, pairs, 2 symbols) float32 indicators of names, then of values.
        asked: (examples, 2 symbols) indicators of the name that is asked for; zero in the part of the values.
        answer: (examples,) int64 values that follow it.
    """

    positions: Tensor
    asked: Tensor
    answer: Tensor


def lists(settings: Settings, seed: int) -> Lists:
    """Return the lists of a seed."""
    count, n, drawn = settings.examples, settings.symbols, seeds.stream(seed, "lists of pairs")
    frequency = torch.arange(1, n + 1, dtype=torch.float64).pow(-settings.power).expand(count, n)
    names = torch.multinomial(frequency, settings.pairs, generator=drawn)
    values = torch.multinomial(frequency, settings.pairs, replacement=True, generator=drawn)
    place, row = torch.randint(settings.pairs, (count,), generator=drawn), torch.arange(count)
    one_hot = nn.functional.one_hot
    asked = nn.functional.pad(one_hot(names[row, place], n), (0, n))
    return Lists(torch.cat([one_hot(names, n), one_hot(values, n)], dim=2).float(), asked.float(), values[row, place])


def initial_weights(settings: Settings, start: str, seed: int) -> list[Tensor]:
    """Return the initial weights of a start, four tensors (heads, size of a head, 2 symbols) in the order of WEIGHTS.

    The normal numbers of both starts are equal.
    """
    shape = (settings.heads, settings.head_size, 2 * settings.symbols)
    factor = (settings.small if start == "small" else 1.0) / math.sqrt(2 * settings.symbols)
    return [(factor * value).float() for value in seeds.normals([shape] * len(WEIGHTS), seed, "attention")]


def products(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the products W_Q^T W_K and W_O^T W_V, (..., 2 symbols, 2 symbols)."""
    return {name: weights[a].mT @ weights[b] for name, (a, b) in PRODUCTS.items()}


def logits(weights: Mapping[str, Tensor], positions: Tensor, asked: Tensor) -> Tensor:
    """Return the logits of several layers, each on examples of its own.

    Args:
        weights: {name of WEIGHTS: (layers, heads, size of a head, model)}.
        positions: (layers, examples, pairs, model).
        asked: (layers, examples, model).

    Returns:
        (layers, examples, symbols).
    """
    made = products(weights)
    wanted = torch.einsum("mbd,mhde->mbhe", asked, made["QK"])
    attention = torch.softmax(wanted @ positions.mT, dim=-1)
    seen = attention @ positions
    answer = torch.einsum("mbhe,mhde->mbd", seen, made["OV"])
    return answer[..., answer.shape[-1] // 2 :]


def run(settings: Settings) -> xr.Dataset:
    """Return loss, accuracy, singular values of products and factors, and nuclear gaps along training.

    All starts, weight decays and seeds are trained side by side, each as if it were alone. With a modulus there is the
    accuracy on the test set too.
    """
    if settings.modulus:
        return _run_modular(settings)
    shape = (len(STARTS), len(settings.decays), len(settings.seeds))
    places = list(np.ndindex(shape))
    made = [lists(settings, seed) for seed in settings.seeds]
    positions = torch.stack([made[s].positions for _, _, s in places])
    asked = torch.stack([made[s].asked for _, _, s in places])
    answer = torch.stack([made[s].answer for _, _, s in places])
    drawn = [initial_weights(settings, STARTS[i], settings.seeds[s]) for i, _, s in places]
    weights = {name: nn.Parameter(torch.stack([one[k] for one in drawn])) for k, name in enumerate(WEIGHTS)}
    decay = torch.tensor([settings.decays[d] for _, d, _ in places])
    rows: list[dict[str, Tensor]] = []

    def fit() -> tuple[Tensor, Tensor]:
        found = logits(weights, positions, asked)
        losses = nn.functional.cross_entropy(found.flatten(0, 1), answer.flatten(), reduction="none")
        return losses.reshape(answer.shape).mean(1), (found.argmax(-1) == answer).float().mean(1)

    def loss(_: loop.Rows) -> Tensor:
        squares = torch.stack([weight.square().flatten(1).sum(1) for weight in weights.values()]).sum(0)
        return (fit()[0] + decay * squares / 2).sum()

    @torch.no_grad()
    def watch(step: int) -> None:
        found, accuracy = fit()
        rows.append({"step": torch.tensor(step), "loss": found, "accuracy": accuracy} | spectra(weights))

    optimizer = GroupRMSprop(list(weights.values()), lr=settings.lr, members=len(places), eps=1e-12)
    loop.train(loss, optimizer, steps=settings.steps, watch=watch, every=settings.every)
    return _dataset(settings, shape, rows)


def _run_modular(settings: Settings) -> xr.Dataset:
    """Return what `run` returns, for networks that learn to add."""
    by_decay = [_train_modular(settings, decay) for decay in settings.decays]
    networks = (len(STARTS), len(settings.seeds))
    rows = []
    for at in zip(*by_decay, strict=True):
        joined = {"step": at[0]["step"]}
        for name in at[0].keys() - {"step"}:
            joined[name] = torch.stack([row[name].unflatten(0, networks) for row in at], dim=1).flatten(0, 2)
        rows.append(joined)
    return _dataset(settings, (len(STARTS), len(settings.decays), len(settings.seeds)), rows)


def _train_modular(settings: Settings, decay: float) -> list[dict[str, Tensor]]:
    """Return the rows of networks of all starts and seeds that learn to add, with one weight decay."""
    sizes = modular_addition.Sizes(
        settings.modulus, settings.width, settings.heads, settings.head_size, settings.hidden
    )
    places = [(start, seed) for start in STARTS for seed in settings.seeds]
    drawn = [modular_addition.initial(sizes, settings.small if start == "small" else 1.0, s) for start, s in places]
    parameters = {name: nn.Parameter(torch.stack([one[name] for one in drawn])) for name in drawn[0]}
    sets = [modular_addition.divided(settings.modulus, settings.share, seed) for _, seed in places]
    known, new = (torch.stack([pairs[k] for pairs in sets]) for k in (0, 1))
    rows: list[dict[str, Tensor]] = []

    def loss(_: loop.Rows) -> Tensor:
        return modular_addition.fit(parameters, known)[0].sum()

    @torch.no_grad()
    def watch(step: int) -> None:
        if step > settings.early and step % settings.every and step != settings.steps:
            return
        found, accuracy = modular_addition.fit(parameters, known)
        row = {"step": torch.tensor(step), "loss": found, "accuracy": accuracy}
        row["test_accuracy"] = modular_addition.fit(parameters, new)[1]
        rows.append(row | spectra({name: parameters[name] for name in WEIGHTS}))

    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, betas=BETAS, weight_decay=decay)
    loop.train(loss, optimizer, steps=settings.steps, watch=watch, every=max(1, settings.every // 10))
    return rows


def spectra(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return singular values of products and weights, and the gaps of the products over half the squares of factors.

    All singular values are in decreasing order, (layers, heads, size of a head). Products have no more, because their
    rank is at most the size of a head.
    """
    size = next(iter(weights.values())).shape[-2]
    found = {name: torch.linalg.svdvals(W.double())[..., :size] for name, W in products(weights).items()}
    found |= {name: torch.linalg.svdvals(W.double()) for name, W in weights.items()}
    for name, (a, b) in PRODUCTS.items():
        left, right = weights[a].double().mT, weights[b].double().mT
        squares = (left.square().sum((-2, -1)) + right.square().sum((-2, -1))) / 2
        found[f"{name}_gap"] = nuclear_gap(left, right).sum(-1) / squares.sum(-1)
    return found


def _dataset(settings: Settings, shape: tuple[int, ...], rows: list[dict[str, Tensor]]) -> xr.Dataset:
    """Return the record of rows that were watched, and of the factorization that is the control."""
    dims = ("start", "decay", "seed", "row")
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name in rows[0]:
        if name == "step":
            continue
        values = torch.stack([row[name] for row in rows], dim=1).numpy().astype(np.float64)
        extra = ("head", "component") if values.ndim > 2 else ()
        found[name] = ((*dims, *extra), values.reshape(*shape, *values.shape[1:]))
    control = [factorization(settings, seed) for seed in settings.seeds]
    return xr.Dataset(
        found | {"waits": ("seed", control), "step": ("row", [float(row["step"]) for row in rows])},
        coords={"start": list(STARTS), "decay": list(settings.decays), "seed": list(settings.seeds)},
    )


def factorization(settings: Settings, seed: int) -> float:
    """Return how many components of a matrix factorization wait for the one before, by the criterion of the study.

    The factorization fits a fully observed matrix with singular values 1, 1/2, 1/4, ..., with the optimizer of the
    study and from factors of standard deviation 1e-4.
    """
    count, size = settings.components, settings.symbols
    Q = torch.linalg.qr(seeds.normals([(size, size)], seed, "control")[0]).Q
    target = Q[:, :count] @ torch.diag(0.5 ** torch.arange(count, dtype=torch.float64)) @ Q[:, :count].T
    net = families.deep_matrix((size, size), 2, size, std=1e-4, seed=seed)
    done = gradient_descent(
        net,
        Completion.sample(target, observed=size * size, seed=seed),
        GroupRMSprop(net.parameters(), lr=5e-3, eps=1e-12),
        steps=800,
        every=5,
        track={"singular": lambda at: measures.singular_values(at.tensor())},
    )
    return onsets.increments(done.step.values.astype(np.float64), done["singular"].values, count)


def effective_rank(record: xr.Dataset, name: str) -> xr.DataArray:
    """Return the effective rank of a product or weight of all heads together, as one block-diagonal matrix.

    Its singular values are those of all heads, so that a head whose weights have decayed to zero counts nothing.
    """
    share = record[name] / record[name].sum(("head", "component"), skipna=False)
    positive = share.where((share > 0) | share.isnull(), 1.0)
    entropy = -(share * xr.apply_ufunc(np.log, positive)).sum(("head", "component"), skipna=False)
    return xr.apply_ufunc(np.exp, entropy)


def factor_rank(record: xr.Dataset, name: str) -> xr.DataArray:
    """Return the geometric mean of the effective ranks of the two factors of a product."""
    first, second = (effective_rank(record, factor) for factor in PRODUCTS[name])
    return (first * second) ** 0.5


def until_fitted(run: xr.Dataset, settings: Settings) -> xr.Dataset:
    """Return the rows of one run up to the first whose training loss counts as learned; all if there is none."""
    below = np.flatnonzero(run.loss.values <= settings.fitted)
    return run.isel(row=slice(int(below[0]) + 1 if len(below) else None))


def learning(record: xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return how components of a product are learned, for every start, decay, seed and head.

    Returns:
        The number of components that take off only after the one before is nearly learned, of `components` - 1; and
        the time between the first and the last take-off, as a share of the time until the task is learned.
    """
    settings = records.settings_of(record, Settings)
    dims = ("start", "decay", "seed", "head")
    waits = xr.full_like(record[name].isel(row=0, component=0, drop=True).transpose(*dims), np.nan)
    spans = waits.copy()
    for place in np.ndindex(*(record.sizes[dim] for dim in dims)):
        at = dict(zip(dims, place, strict=True))
        run = until_fitted(record.isel({dim: k for dim, k in at.items() if dim != "head"}), settings)
        sizes, step = run[name].isel(head=at["head"]).values, run.step.values
        if np.isnan(sizes).any() or np.isnan(run.loss.values).any() or step[-1] == 0:
            continue  # a run that was not measured, or had nothing to learn
        waits[place] = onsets.increments(step, sizes, settings.components)
        on = onsets.onsets(step, sizes, settings.components).on
        spans[place] = (on.max() - on.min()) / step[-1]
    return waits, spans


def claims(record: xr.Dataset) -> list[Claim]:
    """Return an identity of the gaps, and findings on onsets, ranks and weight decay."""
    settings = records.settings_of(record, Settings)
    if settings.modulus:
        return [*_identities(record), *_adding_onsets(record, settings), *_adding(record, settings)]
    return [*_identities(record), *_onsets(record, settings), *_ranks(record, settings)]


def _identities(record: xr.Dataset) -> list[Claim]:
    """Return the claim that gaps are those of the singular values, and not negative."""
    errors = []
    for name, factors in PRODUCTS.items():
        first, second = ((record[factor] ** 2).sum(("head", "component"), skipna=False) for factor in factors)
        gap = 1 - record[name].sum(("head", "component"), skipna=False) / ((first + second) / 2)
        errors += [abs(gap - record[f"{name}_gap"]).values, -record[f"{name}_gap"].values]
    return [
        exactness(
            "Nuclear norms of products are at most half the squared norms of their factors: relative gap, by which it "
            "may be negative or differ from the gap of the recorded singular values, largest of all rows",
            reduce.largest(np.concatenate([error.reshape(-1) for error in errors])),
            at_most=1e-6,
            source=sources.NUCLEAR_GAP,
        )
    ]


def _onsets(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on whether components are learned one at a time."""
    most = settings.components - 1
    plain = record.sel(decay=[0.0])
    found = {name: learning(plain, name) for name in PRODUCTS}
    runs = reduce.count(record.seed)
    small = np.concatenate([waits.sel(start="small").values.reshape(-1) for waits, _ in found.values()])
    return [
        finding(
            f"Control: components of a matrix factorization wait for the one before, of {most} that can, {runs}, least",
            reduce.least(record.waits),
            at_least=float(most),
            source=sources.ONE_AT_A_TIME,
        ),
        finding(
            f"Attention does not learn one at a time: components of its products that wait for the one before, of "
            f"{most} that can, small start without weight decay, mean over heads, products and {runs}",
            reduce.mean(small),
            at_most=0.25 * most,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"Components of W_O^T W_V leave zero one after another from the small start: time between the first and "
            f"the last of the {settings.components} largest, over the time until the task is learned, median over "
            f"heads and {runs}",
            reduce.median(found["OV"][1].sel(start="small")),
            at_least=0.2,
            source=sources.GRADUAL_RANK,
        ),
        finding(
            f"From the usual start no component leaves zero later than the others: time between the first and the "
            f"last, over the time until the task is learned, largest over heads, products and {runs}",
            reduce.largest(np.stack([spans.sel(start="usual").values for _, spans in found.values()])),
            at_most=0.05,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _ranks(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on effective ranks at the end of training."""
    last, decay = record.isel(row=-1), settings.decays[-1]
    product = effective_rank(last, "QK")
    live = np.stack([live_heads(last, name).sel(decay=decay).values for name in PRODUCTS])
    found = []
    for name in PRODUCTS:
        found += [*_lowered(record, settings, name), *_relative_falls(record, settings, name)]
    return [
        *found,
        finding(
            "Weight decay forgets the start: effective rank of QK of all heads after training with weight decay, small "
            f"start divided by usual start, farthest from 1 of {reduce.count(record.seed)}",
            reduce.farthest(product.sel(start="small", decay=decay) / product.sel(start="usual", decay=decay), 1.0),
            within=(0.95, 1.05),
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "A small start reaches a lower rank than weight decay: effective rank of QK of all heads after training, "
            f"small start with weight decay divided by small start without, median of {reduce.count(record.seed)}",
            reduce.median(product.sel(start="small", decay=decay) / product.sel(start="small", decay=0.0)),
            at_least=1.1,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"Weight decay leaves one head: heads with more than {LIVE:.0%} of the sum of the singular values of a "
            f"product, of {settings.heads}, largest over products, starts and {reduce.count(record.seed)}",
            reduce.largest(live),
            at_most=1.0,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            f"The task is learned: accuracy after training, least over starts, weight decays and "
            f"{reduce.count(record.seed)}",
            reduce.least(last.accuracy),
            at_least=0.95,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _lowered(record: xr.Dataset, settings: Settings, name: str, task: str = "") -> list[Claim]:
    """Return findings on whether a small start, and weight decay, lower the rank of a product.

    Args:
        record: the record.
        settings: its settings.
        name: name of the product.
        task: words before each statement.
    """
    (a, b), decay = PRODUCTS[name], settings.decays[-1]
    product, runs = effective_rank(record.isel(row=-1), name), f"median of {reduce.count(record.seed)}"
    return [
        finding(
            f"{task}A small start lowers the rank of products: effective rank of {name} (the weights of {a} and {b}) "
            f"of all heads after training without weight decay, small start divided by usual start, {runs}",
            reduce.median(product.sel(decay=0.0, start="small") / product.sel(decay=0.0, start="usual")),
            at_most=0.85,
            source=sources.GRADUAL_RANK,
        ),
        finding(
            f"{task}Weight decay lowers the rank from the usual start: effective rank of {name} of all heads after "
            f"training, with weight decay {decay:g} divided by without, {runs}",
            reduce.median(product.sel(start="usual", decay=decay) / product.sel(start="usual", decay=0.0)),
            at_most=0.8,
            source=sources.ATTENTION_DECAY,
        ),
    ]


def _adding_onsets(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on whether a network that learns to add learns components of its products one at a time.

    The bounds on modular addition are from the seeds 100 to 102: components of OV took off within 4% of the time, and
    no component waited.
    """
    most, runs = settings.components - 1, reduce.count(record.seed)
    found = {name: learning(record.sel(decay=[0.0]), name) for name in PRODUCTS}
    waits = np.concatenate([waits.sel(start="small").values.reshape(-1) for waits, _ in found.values()])
    return [
        finding(
            f"Modular addition: attention does not learn one at a time: components of its products that wait for the "
            f"one before, of {most} that can, small start without weight decay, mean over heads, products and {runs}",
            reduce.mean(waits),
            at_most=0.25 * most,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "Modular addition, with AdamW: components of W_O^T W_V leave zero together, also from the small start: "
            f"time between the first and the last of the {settings.components} largest, over the time until the task "
            f"is learned, median over heads and {runs}",
            reduce.median(found["OV"][1].sel(start="small")),
            at_most=0.1,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _adding(record: xr.Dataset, settings: Settings) -> list[Claim]:
    """Return findings on ranks and on the accuracy of networks that learn to add, with bounds from seeds 100 to 102.

    On these seeds the accuracy on new pairs was at least 0.98 with weight decay and at most 0.14 without, 0.9 was
    reached after 2.8 to 13 times as many steps as the training loss needed, effective ranks of QK with weight decay
    were 0.1 of those without, those from the small start 1.04 to 1.12 times those from the usual one, and weight decay
    acted on products 3.4 and 2.4 times as much as on their factors at first, and 1.18 and 1.44 times at the end.
    """
    last, decay, runs = record.isel(row=-1), settings.decays[-1], reduce.count(record.seed)
    product = effective_rank(last, "QK")
    found = [
        finding(
            f"Modular addition: weight decay makes the network right on pairs that it never saw: accuracy on the test "
            f"set with weight decay {decay:g}, least over starts and {runs}",
            reduce.least(last.test_accuracy.sel(decay=decay)),
            at_least=0.9,
            source=sources.GROKKING,
        ),
        finding(
            "Without weight decay the network learns the training set by heart: accuracy on the test set, largest over "
            f"starts and {runs}",
            reduce.largest(last.test_accuracy.sel(decay=0.0)),
            at_most=0.5,
            source=sources.GROKKING,
        ),
        finding(
            f"The test set is learned later than the training set: steps until its accuracy is {RIGHT:g}, divided by "
            f"steps until the training loss is {settings.fitted:g}, with weight decay, median over starts and {runs}",
            reduce.median(delays(record)),
            at_least=2.0,
            source=sources.GROKKING,
        ),
        finding(
            "Meanwhile the rank falls: effective rank of QK of all heads after training, divided by that when the "
            f"training loss is {settings.fitted:g}, usual start, weight decay {decay:g}, median of {runs}",
            reduce.median(product.sel(start="usual", decay=decay) / fitted_rank(record, "QK", "usual", decay)),
            at_most=0.5,
            source=sources.ATTENTION_DECAY,
        ),
        finding(
            "Weight decay forgets the start: effective rank of QK of all heads after training with weight decay, small "
            f"start divided by usual start, farthest from 1 of {runs}",
            reduce.farthest(product.sel(start="small", decay=decay) / product.sel(start="usual", decay=decay), 1.0),
            within=(0.8, 1.25),
            source=sources.OWN_EXPERIMENT,
        ),
    ]
    return [*found, *(claim for name in PRODUCTS for claim in _adding_product(record, settings, name))]


def _adding_product(record: xr.Dataset, settings: Settings, name: str) -> list[Claim]:
    """Return findings on the rank of one product of networks that learn to add."""
    early, late = relative_falls(record, name)
    return [
        *_lowered(record, settings, name, "Modular addition. "),
        finding(
            f"When the training set is just learned, weight decay acts on products more: logarithm of the effective "
            f"rank of {name} without weight decay divided by with, over that of its two weights, usual start, ratio of "
            f"the medians of {reduce.count(record.seed)}",
            early,
            at_least=1.1,
            source=sources.ATTENTION_DECAY,
        ),
        finding(
            f"At the end too: logarithm of the effective rank of {name} without weight decay divided by with, over "
            f"that of its two weights, usual start, ratio of the medians of {reduce.count(record.seed)}",
            late,
            at_least=1.0,
            source=sources.ATTENTION_DECAY,
        ),
    ]


def delays(record: xr.Dataset) -> np.ndarray:
    """Return the steps until the test set is learned, divided by those until the training set is, with weight decay.

    Returns:
        One number per start and seed; infinite if the test set is never learned.
    """
    settings = records.settings_of(record, Settings)
    found = []
    for start in record.start.values:
        for seed in record.seed.values:
            run = record.sel(start=start, decay=settings.decays[-1], seed=seed)
            right = np.flatnonzero(run.test_accuracy.values >= RIGHT)
            steps = float(run.step[right[0]]) if len(right) else float("inf")
            found.append(steps / float(until_fitted(run, settings).step[-1]))
    return np.array(found)


def fitted_rank(record: xr.Dataset, name: str, start: str, decay: float) -> xr.DataArray:
    """Return the effective rank of a product when the training set is just learned, for every seed."""
    settings = records.settings_of(record, Settings)
    runs = [record.sel(start=start, decay=decay, seed=seed) for seed in record.seed.values]
    return xr.concat([effective_rank(until_fitted(run, settings).isel(row=-1), name) for run in runs], dim="seed")


def live_heads(record: xr.Dataset, name: str) -> xr.DataArray:
    """Return the number of heads that hold more than the share LIVE of the singular values of a product."""
    share = record[name].sum("component", skipna=False) / record[name].sum(("head", "component"), skipna=False)
    return (share > LIVE).where(share.notnull()).sum("head", skipna=False)


def _relative_falls(record: xr.Dataset, settings: Settings, name: str) -> list[Claim]:
    """Return findings on weight decay's effect on the rank of a product over that on its factors, early and late."""
    early, late = relative_falls(record, name)
    runs = f"{reduce.count(record.seed)}"
    effect = (
        f"effect on the rank of {name} over the effect on the rank of its two weights, usual start. The effect is the "
        f"logarithm of the effective rank without weight decay divided by with; of weights the geometric mean counts. "
        f"Ratio of the medians of {runs}"
    )
    return [
        finding(
            f"When the task is just learned (training loss {settings.fitted:g}), weight decay acts on products more: "
            f"{effect}",
            early,
            at_least=1.1,
            source=sources.ATTENTION_DECAY,
        ),
        finding(
            f"At the end of training weight decay acts on products no more than on their weights: {effect}",
            late,
            at_most=1.1,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def relative_falls(record: xr.Dataset, name: str) -> tuple[float, float]:
    """Return weight decay's effect on the rank of a product over that on its factors, from the usual start.

    Returns:
        The ratio when the run with weight decay has just learned the task, and the ratio at the end of training.
    """
    settings = records.settings_of(record, Settings)
    usual = record.sel(start="usual")
    loss = usual.loss.sel(decay=settings.decays[-1])
    learned = [until_fitted(usual.isel(seed=s).sel(decay=settings.decays[-1]), settings) for s in range(len(loss.seed))]
    found = []
    for rows in ([run.sizes["row"] - 1 for run in learned], [-1] * len(learned)):
        falls = []
        for of in (effective_rank, factor_rank):
            rank = of(usual, name)
            ratio = rank.sel(decay=0.0) / rank.sel(decay=settings.decays[-1])
            fall = np.log(ratio.transpose("seed", "row").values)
            at_rows = [fall[s, row] for s, row in enumerate(rows)]
            falls.append(reduce.median(at_rows + 0 * loss.transpose("seed", "row").values.sum(1)))
        found.append(falls[0] / falls[1] if falls[1] else float("nan"))
    return found[0], found[1]


def draw(record: xr.Dataset) -> Figure:
    """Return a figure of singular values along training, of effective ranks, and of weight decay's effect."""
    settings = records.settings_of(record, Settings)
    made, (values, scores, ranks, decayed) = drawing.figure(2, 2, width=4.6)
    run = record.sel(start="small", decay=0.0).isel(seed=0, head=0)
    for axes, name in ((values, "OV"), (scores, "QK")):
        if settings.modulus and name == "QK":
            _draw_new_pairs(axes, record, settings)
            continue
        names = [f"singular value {k + 1}" for k in range(settings.components)]
        shown = until_fitted(run, settings)
        drawing.lines(axes, shown.step, shown[name].values, names, rest="all others")
        title = "all together" if settings.modulus else "gradual, but not one at a time"
        drawing.label(axes, f"{name}: {title}", "step", "singular value (small start, head 1)")
        drawing.note(axes, "no waiting one by one:\nthey grow together", 0.03, 0.45)
        axes.legend(fontsize=8, loc="upper left")
    for k, (start, decay) in enumerate((s, d) for s in STARTS for d in (settings.decays[0], settings.decays[-1])):
        rank = effective_rank(record, "QK").sel(start=start, decay=decay)
        if k in (0, 3):  # bands of all four would hide each other
            ranks.fill_between(record.step, rank.min("seed"), rank.max("seed"), color=drawing.COLOURS[k], alpha=0.2)
        ranks.plot(record.step, rank.median("seed"), label=f"{start} start, decay {decay:g}", **drawing.style(k))
    ranks.set_ylim(0, 2.0 * float(effective_rank(record, "QK").max()))
    drawing.label(ranks, "QK: a small start gives lower rank", "step", "effective rank of all heads")
    final = effective_rank(record.isel(row=-1), "QK")
    for k, (start, decay) in enumerate((s, d) for s in STARTS for d in (settings.decays[0], settings.decays[-1])):
        at = final.sel(start=start, decay=decay)
        factors = factor_rank(record.isel(row=-1), "QK").sel(start=start, decay=decay)
        decayed.plot([k - 0.12] * len(at), at, "o", color=drawing.COLOURS[0], label=None if k else "product")
        decayed.plot([k + 0.12] * len(at), factors, "s", color=drawing.COLOURS[1], label=None if k else "its weights")
    decayed.set_xticks(range(4), ["small", "small\nand decay", "usual", "usual\nand decay"])
    decayed.set_ylim(0, 1.35 * float(factor_rank(record.isel(row=-1), "QK").max()))
    decayed.legend(fontsize=8, loc="upper left")
    drawing.label(decayed, "Decay forgets the start", "start (a dot per seed)", "effective rank of QK at the end")
    if not settings.modulus:
        drawing.note(ranks, "small start: low rank", 0.97, -0.01)
        drawing.note(decayed, "with decay: one rank from both", 0.97, 0.03)
    drawing.note(ranks, "usual start: high rank, until decay acts", 0.97, 0.5)
    ranks.legend(fontsize=8, loc="upper right")
    return made


def _draw_new_pairs(axes: Axes, record: xr.Dataset, settings: Settings) -> None:
    """Draw the accuracy on pairs of numbers that were not trained on, usual start, with and without weight decay."""
    for k, decay in enumerate((settings.decays[0], settings.decays[-1])):
        accuracy = record.test_accuracy.sel(start="usual", decay=decay)
        axes.fill_between(
            record.step, accuracy.min("seed"), accuracy.max("seed"), color=drawing.COLOURS[2 + k], alpha=0.2
        )
        axes.plot(record.step, accuracy.median("seed"), label=f"usual start, decay {decay:g}", **drawing.style(2 + k))
    axes.set_ylim(0, 1.35)
    axes.legend(fontsize=8, loc="upper left")
    drawing.label(axes, "With decay, new pairs are added right", "step", "accuracy on new pairs")


def alt(record: xr.Dataset) -> str:
    """Return the figure's content in words, with the effective ranks of every seed."""
    last, settings = record.isel(row=-1), records.settings_of(record, Settings)
    parts = []
    for start in STARTS:
        for decay in (settings.decays[0], settings.decays[-1]):
            rank = effective_rank(last, "QK").sel(start=start, decay=decay)
            parts.append(f"{start} start, decay {decay:g}: {', '.join(f'{float(x):.1f}' for x in rank)}")
    waits = learning(record.sel(decay=[0.0]), "OV")[0].sel(start="small")
    return (
        f"Effective rank of QK of all heads after training, seed by seed. {'; '.join(parts)}. Components of OV that "
        f"wait for the one before, small start without decay, mean over heads and seeds: {float(waits.mean()):.2f} of "
        f"{settings.components - 1}."
    )
