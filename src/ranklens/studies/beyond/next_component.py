"""The next component, predicted on every plateau: by the gradient alone, and by the initial values."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing, problems
from ranklens.dynamics import flow, greedy, plateau
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems import targets
from ranklens.studies.kit import reduce, sources
from ranklens.studies.kit.claim import Claim, finding, theorem
from ranklens.tensors import families, init
from ranklens.tensors.network import TensorNetwork

TITLE = "What a factorization learns next can be predicted on every plateau"
EXPLANATION = (
    "Gradient flow from a tiny initialization waits on plateaus, and learns one component between two of them. On a "
    "plateau the component along which the loss falls fastest is known: a singular pair, or the best component of rank "
    "one, of minus the gradient. This study predicts all plateaus before the flow is run, from that component alone "
    "and from the growth of the initial values, and compares both predictions with the flow."
)
SOURCE = "Li, Luo, Lyu (ICLR 2021) for matrices; own experiment for tensors, trees and times"

FAMILIES = ("matrix, depth 2", "matrix, depth 3", "CP", "hierarchical")


@dataclass(frozen=True)
class Settings:
    """Completion problems, one per kind of factorization and seed, from tiny balanced initial values.

    Attributes:
        families: kinds of factorizations, from `FAMILIES`.
        stds: standard deviation of the initial entries of the factors, one per kind. Small values make plateaus
            distinct: at depth 2 they overlap by the logarithm of this value, elsewhere by a power of it.
        size: number of rows and of columns of the matrices.
        rank: rank of the matrices, and CP rank of the tensors.
        mode: size of every mode of the tensors of three modes.
        components: number of components of the CP factorization.
        branch: size of every mode of the tensors of four modes.
        local: hierarchical rank of the tensors of four modes.
        width: width of every bond of the hierarchical factorization.
        share: share of the entries that are observed.
        most: largest number of components that are predicted.
        until_share: the flow and the prediction end at this share of the loss of the zero tensor.
        tied: singular values of a square matrix, of which the two largest are equal.
        tied_std: standard deviation of the initial entries of the three factors of this matrix.
        usual: standard deviation of an initialization of usual size, from which there are no plateaus to predict.
        starts: number of initial directions of each search for the largest rate.
        until_evaluations: number of gradient evaluations at which a flow ends at the latest.
        rtol: relative tolerance of the flow.
        seeds: seeds of targets, observed entries and initial values.
    """

    families: tuple[str, ...] = ("matrix, depth 2", "matrix, depth 3", "CP", "hierarchical")
    stds: tuple[float, ...] = (1e-14, 1e-4, 1e-4, 3e-3)
    size: int = 10
    rank: int = 3
    mode: int = 5
    components: int = 20
    branch: int = 4
    local: int = 2
    width: int = 8
    share: float = 0.8
    most: int = 4
    until_share: float = 1e-3
    tied: tuple[float, ...] = (2.0, 2.0, 1.0, 0.0, 0.0, 0.0)
    tied_std: float = 1e-5
    usual: float = 0.3
    starts: int = 5
    until_evaluations: int = 20_000
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(size=20, mode=8, components=60, branch=6, local=3, width=16, most=6, until_evaluations=60_000),
    "tiny": Settings(
        families=("CP",),
        stds=(1e-2,),
        rank=1,
        mode=2,
        components=2,
        most=1,
        until_share=0.2,
        tied=(2.0, 2.0),
        tied_std=1e-2,
        rtol=1e-4,
        starts=2,
        until_evaluations=400,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 1.0, "paper": 5.0, "tiny": 0.05}
# A flow passes a predicted plateau if its end tensor comes this near, as a share of the norm of the predicted one.
NEAR = 0.2
# A flow ends when its loss is above the last predicted plateau by this share.
PASSED = 1e-3
# Relative difference of two losses of a plateau up to which they count as equal.
EQUAL = 0.05
# Rows of the curves that are kept for the figure.
ROWS = 400


def run(settings: Settings) -> xr.Dataset:
    """Return how the predictions and the flow agree, for every kind of factorization and every seed."""
    compared = [
        xr.concat([_compare(settings, kind, seed) for seed in settings.seeds], dim="seed", join="outer")
        for kind in settings.families
    ]
    merged = xr.concat(compared, dim="family", join="outer").assign_coords(family=list(settings.families))
    ties = xr.concat([_tie(settings, seed) for seed in settings.seeds], dim="seed")
    return xr.merge([merged, ties]).assign_coords(seed=list(settings.seeds))


def problem(
    settings: Settings, kind: str, seed: int, std: float | None = None
) -> tuple[TensorNetwork, problems.Completion]:
    """Return a balanced network of one kind at its initial values, and the problem of one seed.

    Args:
        settings: sizes of network and target.
        kind: one of `FAMILIES`.
        seed: seed of the target, the observed entries and the initial values.
        std: standard deviation of the initial entries; None takes the one of the settings.
    """
    std = settings.stds[settings.families.index(kind)] if std is None else std
    if kind.startswith("matrix"):
        shape: tuple[int, ...] = (settings.size,) * 2
        target = targets.low_rank_matrix(shape, settings.rank, seed=seed)
        net = families.deep_matrix(shape, int(kind[-1]), std=std, seed=seed)
    elif kind == "CP":
        shape = (settings.mode,) * 3
        target = targets.cp(shape, settings.rank, seed=seed)
        net = families.cp(shape, settings.components, std=std, seed=seed)
    else:
        shape = (settings.branch,) * 4
        target = targets.hierarchical(shape, settings.local, seed=seed)
        net = families.hierarchical(shape, settings.width, std=std, seed=seed)
    init.balance_(net)
    return net, problems.Completion.sample(target, round(settings.share * target.numel()), seed=seed)


@ignoring_early_stops()
def _flow(settings: Settings, net: TensorNetwork, task: problems.Completion, floor: float) -> xr.Dataset:
    """Return the gradient flow of a network, which is changed, with its end tensor at every row."""
    return flow.gradient_flow(
        net,
        task,
        until_loss=floor,
        until_evaluations=settings.until_evaluations,
        rtol=settings.rtol,
        track={"tensor": lambda net: net.tensor()},
    )


def _floor(settings: Settings, task: problems.Completion) -> float:
    """Return the loss at which flow and prediction end: a share of the loss of the zero tensor."""
    return settings.until_share * float(task.loss(torch.zeros(task.shape, dtype=torch.float64)))


@lru_cache(maxsize=64)
def _by_gradient(settings: Settings, kind: str, seed: int) -> xr.Dataset:
    """Return the prediction by the largest rate, which depends on the problem only, and is asked for twice."""
    net, task = problem(settings, kind, seed)
    floor = _floor(settings, task)
    return greedy.greedy_learning(net, task, by="rate", most=settings.most, until_loss=floor, starts=settings.starts)


def _compare(settings: Settings, kind: str, seed: int) -> xr.Dataset:
    """Return how far the flow of one run is from the two predictions.

    The variables `order_start` and `order_rate` are those of `in_order`, `distance_start` is that of `farthest`.
    `time_off` is the largest relative difference between predicted and measured times, and `wait_off` that between
    predicted and measured times since the component before.

    Losses of plateaus are compared in two ways. `rest_off` is the largest relative difference between the loss of a
    plateau of the flow and the nearest predicted stationary point, with the components learned so far at rest and all
    others zero. A flow from infinitesimal initial values passes these points. A flow from finite ones does not: where
    two components overlap, as they do at depth 2, where the logarithm of the initial values separates them, the flow
    moves slowest at another loss, because the first component still lacks something and the second has gained
    something. The prediction knows both, so `path_off` compares with the plateaus of the predicted loss for the
    initial values that the flow has (`path_loss` of `greedy_learning`). The same rule, `dynamics.plateau.plateaus`,
    finds them in both losses. `paired_off` in addition asks for as many plateaus as are predicted, and compares them
    one by one. `rests` is the number of plateaus of the flow between its first and its last component.
    """
    net, task = problem(settings, kind, seed)
    floor = _floor(settings, task)
    start = greedy.greedy_learning(net, task, most=settings.most, until_loss=floor)
    rate = _by_gradient(settings, kind, seed)
    found = _flow(settings, net, task, max(floor, (1 + PASSED) * float(start.loss[-1])))
    measured = times(found, start)
    waits = np.diff(measured, prepend=0.0)
    rows = plateau.plateaus(found)
    before_last = found.loss.values[rows[found.time.values[rows] < measured[-1]]]
    flow_losses, path_losses = plateau_losses(found, measured), plateau_losses(path_of(start), start.time.values)
    curve = _thinned(found, float(measured[0]))
    path = _thinned(path_of(start), float(start.time[0]))
    return xr.Dataset(
        {
            "order_start": in_order(found, start),
            "order_rate": in_order(found, rate),
            "distance_start": farthest(found, start),
            "rest_off": farthest_loss(before_last, start.loss.values),
            "path_off": farthest_loss(flow_losses, path_losses),
            "paired_off": paired(flow_losses, path_losses),
            "rests": float(len(flow_losses)),
            "time_off": float(np.abs(start.time.values / measured - 1).max()),
            "wait_off": float(np.abs(np.diff(start.time.values, prepend=0.0) / waits - 1).max()),
            "predicted_time": ("component", start.time.values),
            "measured_time": ("component", measured),
            "curve_time": ("row", curve[0]),
            "curve_loss": ("row", curve[1]),
            "path_time": ("row", path[0]),
            "path_loss": ("row", path[1]),
            "stair_loss": ("learned", start.loss.values),
        },
        coords={"component": start.component.values, "learned": start.learned.values},
    )


def _thinned(found: xr.Dataset, began: float) -> NDArray[np.float64]:
    """Return times since a moment, and losses, at `ROWS` rows of a flow, with NaN at the end if it has fewer."""
    rows = np.unique(np.linspace(0, found.sizes["time"] - 1, ROWS).round().astype(int))
    padded = np.full((2, ROWS), np.nan)
    padded[:, : len(rows)] = found.time.values[rows] - began, found.loss.values[rows]
    return padded


def path_of(predicted: xr.Dataset) -> xr.Dataset:
    """Return the predicted loss along a flow from the initial values, with the names of a recorded flow.

    Args:
        predicted: what `greedy_learning` returned.
    """
    return xr.Dataset({"loss": ("time", predicted.path_loss.values)}, {"time": predicted.path_time.values})


def plateau_losses(found: xr.Dataset, components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses of the plateaus of a flow between its first and its last component.

    Args:
        found: a flow, or a predicted one.
        components: times of the components.
    """
    rows = plateau.plateaus(found)
    at = found.time.values[rows]
    return found.loss.values[rows[(at > components[0]) & (at < components[-1])]]


def farthest_loss(losses: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the largest relative difference between a loss and the nearest predicted one.

    Returns:
        The difference; 0 if there is no loss to compare, and infinity if there is one, but none is predicted.
    """
    if not len(losses):
        return 0.0
    return float(np.abs(losses[:, None] / predicted - 1).min(axis=1, initial=np.inf).max())


def paired(losses: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the largest relative difference between losses and predicted ones, one by one; infinity if one has none.

    >>> paired(np.array([1.0, 0.5]), np.array([1.0, 0.4])), paired(np.array([1.0, 0.5]), np.array([1.0]))
    (0.25, inf)
    """
    if len(losses) != len(predicted):
        return float("inf")
    return float(np.abs(losses / predicted - 1).max(initial=0.0))


def times(found: xr.Dataset, predicted: xr.Dataset) -> NDArray[np.float64]:
    """Return the times at which the loss of a flow is midway between predicted plateaus, one per component."""
    losses = predicted.loss.values
    return np.array(
        [
            plateau.midway(found.time.values, found.loss.values, float(high), float(low))
            for high, low in pairwise(losses)
        ]
    )


def in_order(found: xr.Dataset, predicted: xr.Dataset) -> float:
    """Return 1 if a flow learns the predicted components in the predicted order, else 0.

    The flow is divided at the times in the middle between two neighbouring ones of `times`. The change of its end
    tensor in each part must have a larger cosine with the change predicted for this part than with any other. Unlike
    `farthest`, this does not ask whether the flow comes to rest between two components. A flow whose loss does not fall
    as far as predicted does not learn all components.

    Args:
        found: a flow with its end tensor.
        predicted: what `greedy_learning` returned.
    """
    middle = times(found, predicted)
    if np.isnan(middle).any():
        return 0.0
    path = found.tensor.values.reshape(found.sizes["time"], -1)
    cuts = [0.0, *((middle[1:] + middle[:-1]) / 2), float(found.time[-1])]
    states = np.array([[np.interp(cut, found.time.values, entry) for entry in path.T] for cut in cuts])
    changes = np.diff(states, axis=0)
    wanted = np.diff(predicted.tensor.values.reshape(predicted.sizes["learned"], -1), axis=0)
    cosines = changes @ wanted.T / np.linalg.norm(wanted, axis=1)
    return float((cosines.argmax(axis=1) == np.arange(len(wanted))).all())


def farthest(found: xr.Dataset, predicted: xr.Dataset) -> float:
    """Return how near a flow comes to the predicted plateau that it misses most, in the predicted order.

    For every predicted plateau, the least relative distance of the end tensor of the flow is taken over the rows after
    the one at which the flow was nearest to the plateau before.

    Args:
        found: a flow with its end tensor.
        predicted: what `greedy_learning` returned.
    """
    path = found.tensor.values.reshape(found.sizes["time"], -1)
    row, worst = 0, 0.0
    for target in predicted.tensor.values.reshape(predicted.sizes["learned"], -1)[1:]:
        away = np.linalg.norm(path[row:] - target, axis=1) / np.linalg.norm(target)
        row += int(away.argmin())
        worst = max(worst, float(away.min()))
    return worst


def _tie(settings: Settings, seed: int) -> xr.Dataset:
    """Return how the predictions fare where the theory of the gradient says nothing, or does not apply.

    `tied_start` and `tied_rate` are distances from the predicted plateaus for a matrix with two equal singular values,
    `usual_start` is that for a matrix factorization of usual initial size. `tail_off` is the largest relative
    difference between predicted losses of a fully observed matrix and the sums of squares that they must equal.
    """
    size = len(settings.tied)
    [basis] = [torch.linalg.qr(x).Q for x in [targets.low_rank_matrix((size, size), size, seed=seed)]]
    tied = basis @ torch.diag(torch.tensor(settings.tied, dtype=torch.float64)) @ basis.flip(0).T
    net = init.balance_(families.deep_matrix((size, size), 3, std=settings.tied_std, seed=seed))
    task = problems.Completion.sample(tied, size * size, seed=seed)
    last = 1e-4 * min(x for x in settings.tied if x > 0) ** 2 / size**2
    start = greedy.greedy_learning(net, task, until_loss=last)
    rate = greedy.greedy_learning(net, task, by="rate", until_loss=last)
    found = _flow(settings, net, task, last)
    tail = np.cumsum(np.square(settings.tied)[::-1])[::-1] / size**2
    off = max(float(np.abs(x.loss.values[:2] / tail[:2] - 1).max()) for x in (start, rate))
    large, other = problem(settings, settings.families[0], seed, settings.usual)
    guess = _by_gradient(settings, settings.families[0], seed)
    usual = _flow(settings, large, other, _floor(settings, other))
    return xr.Dataset(
        {
            "tied_start": farthest(found, start),
            "tied_rate": farthest(found, rate),
            "usual_rate": farthest(usual, guess),
            "tail_off": off,
        }
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: predicted losses in closed form, order, losses and times, and where predictions fail."""
    runs = reduce.count(record.order_start.size, "run")
    right = record.order_start.values != 0  # NaN stays, and makes the result NaN
    return [
        theorem(
            "Fully observed matrix with singular values s_1 >= s_2 >= ...: the predicted loss after k components "
            "is the sum of the squares of the other singular values, divided by the number of entries: relative "
            f"difference, largest for k = 0 and 1, both predictions and {reduce.count(record.seed)}",
            reduce.largest(record.tail_off),
            at_most=1e-3,
            source=sources.BEST_APPROXIMATION,
        ),
        finding(
            "By the growth of the initial values, the right components are predicted in the right order: share of "
            f"{runs} in which the change of the end tensor from one component to the next is most similar, by its "
            "cosine, to the change that is predicted there",
            reduce.share(record.order_start, lambda x: x == 1),
            at_least=0.9,
            source=sources.GREEDY,
        ),
        *_by_rate(record),
        *_losses(record, runs),
        finding(
            "The times are predicted: relative difference between the predicted and the measured time since the start "
            "at which the loss is midway between two plateaus, largest of all components of the "
            f"{reduce.count(int(right.sum()), 'run')} whose order is predicted",
            reduce.largest(record.time_off.values[right]),
            at_most=0.2,
            source=sources.OWN_EXPERIMENT,
        ),
        *_waits(record),
        *_limits(record),
    ]


def _losses(record: xr.Dataset, runs: str) -> list[Claim]:
    """Return the findings on losses of plateaus: for the initial values of the flow, and for infinitesimal ones.

    The claim on infinitesimal initial values was the first; it failed on these seeds (0.875), and stays. The prediction
    for finite ones was chosen on the seeds 100 to 119, where it holds in 80 of 80 runs, one by one in 76 of 80, and the
    first claim in 78 of 80. The bounds are those of the first claim.
    """
    none = reduce.share(record.rests, lambda x: x == 0)
    return [
        finding(
            f"The losses of the plateaus are predicted, for the initial values that the flow has: share of {runs} in "
            f"which every plateau of the flow between its first and its last component has a loss within {EQUAL:.0%} "
            f"of a plateau of the predicted loss (share of runs without such a plateau: {none:.3g})",
            reduce.share(record.path_off, lambda x: x <= EQUAL),
            at_least=0.9,
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "These plateaus are predicted one by one: share of "
            f"{runs} in which the flow has as many plateaus between its first and its last component as predicted, "
            f"with losses within {EQUAL:.0%}",
            reduce.share(record.paired_off, lambda x: x <= EQUAL),
            at_least=0.9,
            source=sources.OWN_DERIVATION,
        ),
        finding(
            "The losses of the plateaus are those for infinitesimal initial values, from which every component comes "
            f"to rest before the next: share of {runs} in which every plateau of the flow before its last component "
            f"has a loss within {EQUAL:.0%} of the loss at one of these stationary points",
            reduce.share(record.rest_off, lambda x: x <= EQUAL),
            at_least=0.9,
            source=sources.GREEDY,
        ),
    ]


def _waits(record: xr.Dataset) -> list[Claim]:
    """Return the findings on the time from each component to the next."""
    found = []
    for noun, flat in [("matrices and CP", True), ("hierarchical factorizations", False)]:
        here = np.array([(name != FAMILIES[3]) == flat for name in record.family.values])
        if here.any():
            waits = record.wait_off.values[here]
            found.append(
                finding(
                    f"For {noun}, the waits are predicted: share of {reduce.count(waits.size, 'run')} in which the "
                    "time from each component to the next, from one loss midway between two plateaus to the next, "
                    "differs from the predicted one by at most 20%",
                    reduce.share(waits, lambda x: x <= 0.2),
                    at_least=0.8,
                    source=sources.OWN_EXPERIMENT,
                )
            )
    return found


def _by_rate(record: xr.Dataset) -> list[Claim]:
    """Return the findings on the prediction by the largest rate: for matrices, and for tensors and trees."""
    found = []
    for noun, here, source in [
        ("matrices", [name.startswith("matrix") for name in record.family.values], sources.GREEDY),
        ("tensors and trees", [not name.startswith("matrix") for name in record.family.values], sources.OWN_EXPERIMENT),
    ]:
        if not any(here):
            continue
        orders = record.order_rate.values[np.array(here)]
        found.append(
            finding(
                f"For {noun}, the gradient alone predicts the right components in the right order, as those of the "
                f"largest rate: share of {reduce.count(orders.size, 'run')} in which the change of the end tensor from "
                "one component to the next is most similar, by its cosine, to the change that is predicted there",
                reduce.share(orders, lambda x: x == 1),
                at_least=0.9,
                source=source,
            )
        )
    return found


def _limits(record: xr.Dataset) -> list[Claim]:
    """Return the findings on ties and on an initialization of usual size."""
    many = reduce.count(record.seed)
    return [
        finding(
            "If the two largest singular values of a fully observed matrix are equal, the gradient does not say what "
            "is learned first, but the initial values do: distance between the flow and the plateau predicted by the "
            f"initial values that it misses most, divided by the norm of its end tensor, median of {many}",
            reduce.median(record.tied_start),
            at_most=NEAR,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "With these equal singular values, the direction predicted by the gradient alone is one of many: share of "
            f"{many} whose flow passes all plateaus predicted by the largest rate, within {NEAR:.0%}",
            reduce.share(record.tied_rate, lambda x: x <= NEAR),
            at_most=0.2,
            source=sources.OWN_DERIVATION,
        ),
        finding(
            f"From an initialization of usual size there are no plateaus to predict: share of {many} whose flow "
            f"passes all plateaus predicted by the largest rate, within {NEAR:.0%}",
            reduce.share(record.usual_rate, lambda x: x <= NEAR),
            at_most=0.2,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: staircases of the first seed, predicted and measured times, and how often predictions hold."""
    kinds = [str(name) for name in record.family.values]
    shown = [*kinds[:1], *kinds[-2:]] if len(kinds) > 2 else kinds
    made, panels = drawing.figure(len(shown) + 1 if len(shown) < 3 else 2, 1 if len(shown) < 3 else 2)
    for axes, kind in zip(panels, shown, strict=False):
        _draw_stairs(axes, record.sel(family=kind).isel(seed=0), kind)
    _draw_shares(panels[len(shown)], record, kinds)
    return made


def _draw_stairs(axes: Axes, run: xr.Dataset, kind: str) -> None:
    """Draw the loss of one flow, the predicted staircase and the predicted loss, from the first escape on."""
    kept = np.isfinite(run.measured_time.values)
    measured, predicted = run.measured_time.values[kept], run.predicted_time.values[kept]
    since = predicted - predicted[0]
    end = 1.25 * max(float(measured[-1] - measured[0]), float(since[-1]), 1e-12)
    began = -0.15 * end
    losses = run.stair_loss.values[: len(predicted) + 1]
    axes.plot(run.curve_time, run.curve_loss, label="gradient flow", **drawing.style(0))
    axes.step(
        [began, *since, end], [*losses, losses[-1]], where="post", label="predicted, tiny start", **drawing.THEORY
    )
    axes.plot(run.path_time, run.path_loss, label="predicted, this start", **drawing.style(1))
    axes.set_xlim(began, end)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.locator_params(axis="x", nbins=6)
    axes.legend(fontsize=8)
    drawing.label(axes, f"{kind[0].upper()}{kind[1:]}", "time since the first component", "training loss")
    drawing.note(axes, "falls as predicted", 0.97, 0.6)


def _draw_shares(axes: Axes, record: xr.Dataset, kinds: list[str]) -> None:
    """Draw, for every kind of factorization, the share of runs whose plateaus are passed in the predicted order."""
    at = np.arange(len(kinds))
    for k, (name, variable) in enumerate([("initial values", "order_start"), ("largest rate", "order_rate")]):
        shares = [reduce.share(record[variable].sel(family=kind), lambda x: x == 1) for kind in kinds]
        axes.bar(at + 0.4 * k - 0.2, shares, width=0.38, color=drawing.COLOURS[k], label=f"by {name}")
    axes.set_xticks(at, [kind.replace(", ", ",\n") for kind in kinds], fontsize=8)
    axes.set_ylim(0, 1.35)
    axes.legend(fontsize=8, ncols=2, loc="upper center")
    drawing.label(axes, "Order of components predicted", "kind of factorization", "share of runs predicted right")


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    shares = [
        f"{kind}: {reduce.share(record.order_start.sel(family=kind), lambda x: x == 1):.0%} by the initial "
        f"values, {reduce.share(record.order_rate.sel(family=kind), lambda x: x == 1):.0%} by the largest rate"
        for kind in record.family.values
    ]
    return (
        "The training loss of each kind of factorization falls in steps. A dashed staircase, predicted for "
        "infinitesimal initial values, follows it, and a dashed curve, predicted for the initial values of the flow, "
        "lies on it also at depth 2, where the steps are rounded. Share of runs whose order of components is "
        f"predicted: {'; '.join(shares)}."
    )
