"""Limits of the balanced law: its error by imbalance, when it is accurate, and an example that imbalance undoes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.dynamics.record import ignoring_early_stops
from ranklens.problems import targets
from ranklens.studies.kit import laws, records, reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "When the law fails: imbalance bends it, and undoes what depends on it"
EXPLANATION = (
    "The law of component norms is exact for balanced initializations; a component whose slices have different norms "
    "obeys it up to factors that its relative imbalance bounds, and these fall to 1 as the component grows. Where a "
    "singular value must become tiny, as in the 2 x 2 example at depth 2, it becomes smaller than the imbalance, and "
    "then the norms stop growing."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2021, Theorem 2; ICML 2022); Razin and Cohen (NeurIPS 2020) for the example; lambda-"
    "balance: Tarmoun, Franca, Haeffele, Vidal (ICML 2021)"
)


@dataclass(frozen=True)
class Settings:
    """Flows of CP and of hierarchical factorizations from Gaussian factors, and of the 2 x 2 example at depth 2.

    Attributes:
        sizes: sizes of the modes of the CP factorization.
        rank: CP rank of the targets.
        components: number of components of the CP factorization.
        order: number of modes of the hierarchical factorization.
        mode: size of every mode of the hierarchical factorization.
        width: width of every bond of the hierarchical factorization.
        share: share of the entries that are observed.
        stds: standard deviations of the initial entries of the factors.
        until_loss: training loss at which the flows of factorizations end.
        alpha: the initial product of the 2 x 2 example is alpha * I.
        imbalances: values of lambda for the example: its factors W2 W1 begin with W2^T W2 - W1 W1^T = lambda I.
        tight_loss: training loss at which the flows of the example end.
        until_evaluations: number of gradient evaluations at which flows of factorizations end at the latest.
        rtol: relative tolerance of the solver for the single component and for the example.
        seeds: seeds of targets, observed entries and initializations.
    """

    sizes: tuple[int, ...] = (4, 4, 4)
    rank: int = 2
    components: int = 6
    order: int = 4
    mode: int = 3
    width: int = 3
    share: float = 0.7
    stds: tuple[float, ...] = (0.1, 0.5)
    until_loss: float = 1e-4
    alpha: float = 1e-3
    imbalances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    tight_loss: float = 1e-13
    until_evaluations: int = 4000
    rtol: float = 1e-8
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        sizes=(8, 8, 8), components=20, mode=4, width=8, stds=(0.05, 0.1, 0.5, 1.0), until_evaluations=20_000
    ),
    "tiny": Settings(
        sizes=(2, 3, 3),
        components=2,
        mode=2,
        width=2,
        stds=(0.1,),
        imbalances=(1e-1, 1e-2),
        until_evaluations=200,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 0.15, "paper": 5.0, "tiny": 0.05}
FAMILIES = ("CP", "hierarchical")
# Relative tolerance of the solver where bounds are checked: the bounds hold at any state, however it was reached.
COARSE = 1e-5
# Rows of a record from one evaluation of the bounds to the next.
EVERY = 10
# Relative imbalance up to which the balanced law is taken as accurate.
SHARE = 0.1
# Rates below this share of the largest rate are left out of ratios: they are quotients of rounding errors.
COUNTS = 1e-3
# Relative rounding error that bounds may be violated by.
ROUNDING = 1e-9
# Variables per component and time: relative imbalance, exact rate, balanced law, relative excess over the bounds.
QUANTITIES = ("imbalance", "rate", "law", "outside")


def run(settings: Settings) -> xr.Dataset:
    """Return the record of flows of both families, of a single component, and of the 2 x 2 example by its imbalance."""
    return xr.merge([_along(settings), _monitor(settings), _example(settings)])


def network(settings: Settings, family: str, std: float, seed: int) -> TensorNetwork:
    """Return a network with Gaussian factors, whose slice norms differ by about as much as they are long.

    Args:
        settings: sizes of the network.
        family: "CP" or "hierarchical".
        std: standard deviation of the entries of the factors.
        seed: seed of the entries.
    """
    if family == "CP":
        return families.cp(settings.sizes, settings.components, std=std, seed=seed)
    return families.hierarchical((settings.mode,) * settings.order, settings.width, std=std, seed=seed)


def task(settings: Settings, shape: tuple[int, ...], seed: int) -> problems.Completion:
    """Return the completion of a random tensor of CP rank `settings.rank` and of the given shape."""
    target = targets.cp(shape, settings.rank, seed=seed)
    return problems.Completion.sample(target, round(settings.share * target.numel()), seed=seed)


@ignoring_early_stops()
def _along(settings: Settings) -> xr.Dataset:
    """Return the quantities of all components of all bonds at every tenth row of every flow, one list per family.

    The shorter list is padded with NaN at its end.
    """
    lists = [_points(settings, family) for family in FAMILIES]
    longest = max(len(points) for points in lists)
    padded = np.stack([np.pad(p, ((0, longest - len(p)), (0, 0)), constant_values=np.nan) for p in lists])
    return xr.Dataset(
        {name: (("family", "point"), padded[..., k]) for k, name in enumerate(QUANTITIES)},
        coords={"family": list(FAMILIES)},
    )


def _points(settings: Settings, family: str) -> NDArray[np.float64]:
    """Return the quantities of all components at every tenth row of all flows of one family."""
    found = []
    for std in settings.stds:
        for seed in settings.seeds:
            net = network(settings, family, std, seed)
            problem = task(settings, net.shape, seed)
            record = flow.gradient_flow(
                net,
                problem,
                until_loss=settings.until_loss,
                until_evaluations=settings.until_evaluations,
                rtol=COARSE,
                track={"all": laws.Sometimes(EVERY, partial(_bounds, problem))},
            )
            found.append(record["all"].values[::EVERY].swapaxes(1, 2).reshape(-1, len(QUANTITIES)))
    return np.concatenate(found)


def _bounds(problem: problems.Completion, net: TensorNetwork) -> Tensor:
    """Return the quantities of all components of all bonds, as a matrix (quantities, components).

    The last quantity is the excess of the rate over its upper bound, or of its lower bound over the rate, whichever is
    larger, relative to the larger bound. It is negative where the rate is within its bounds.
    """
    columns = []
    for bond in net.bonds:
        bounds, order = theory.sandwich(net, problem, bond), net.order(bond)
        law = order * net.component_norms(bond) ** (2 - 2 / order) * theory.alignment(net, problem, bond)
        outside = torch.maximum(bounds.lower - bounds.rate, bounds.rate - bounds.upper)
        scale = torch.maximum(bounds.lower.abs(), bounds.upper.abs())
        relative = outside / scale.where(scale > 0, 1.0)
        columns.append(torch.stack([theory.relative_imbalance(net, bond), bounds.rate, law, relative]))
    return torch.cat(columns, dim=1)


def _monitor(settings: Settings) -> xr.Dataset:
    """Return imbalance and error of the law along the flow of a single component with Gaussian factors.

    `balanced_from` is the time from which on its relative imbalance stays below `SHARE`.
    """
    net = families.cp(settings.sizes, 1, std=min(settings.stds), seed=settings.seeds[0])
    target = targets.cp(settings.sizes, 1, seed=settings.seeds[0])
    problem = problems.Completion.sample(target, target.numel(), seed=settings.seeds[0])

    def off(net: TensorNetwork) -> Tensor:
        """Return the distance of exact rate over balanced law from 1."""
        order = net.order("r")
        law = order * net.component_norms("r") ** (2 - 2 / order) * theory.alignment(net, problem, "r")
        return (theory.component_rate(net, problem, "r") / law - 1).abs()[0]

    record = flow.gradient_flow(
        net,
        problem,
        until_loss=settings.until_loss,
        rtol=settings.rtol,
        track={"ratio": lambda net: theory.relative_imbalance(net, "r"), "off": off},
    )
    return xr.Dataset(
        {
            "monitor_imbalance": ("step", record.ratio.values[:, 0]),
            "monitor_off": ("step", record.off.values),
            "monitor_time": ("step", record.time.values),
            "balanced_from": theory.balanced_from(record, "ratio", SHARE),
        }
    )


def _example(settings: Settings) -> xr.Dataset:
    """Return |w11| and the error of the law of rates along the 2 x 2 example at depth 2, from lambda-balanced factors.

    The law is d sigma / dt = sqrt(lambda^2 + 4 sigma^2) <-gradient, u v^T> for a singular value sigma with singular
    vectors u, v.
    """
    problem, eye = problems.Completion.counterexample(), torch.eye(2, dtype=torch.float64)
    runs = []
    for imbalance in settings.imbalances:
        net = theory.lambda_balanced_(families.deep_matrix((2, 2), 2), settings.alpha * eye, imbalance)

        def law(net: TensorNetwork, imbalance: float = imbalance) -> Tensor:
            """Return the largest relative error of the law over both singular values."""
            W = net.tensor()
            U, s, Vh = torch.linalg.svd(W)
            slopes = -U.T @ theory.end_gradient(net, problem) @ Vh.T
            repeated = bool(s[0] - s[1] <= measures.rank_cutoff(s.dtype, W.shape) * s[0])  # as at the start
            along = torch.linalg.eigvalsh((slopes + slopes.T) / 2).flip(0) if repeated else slopes.diagonal()
            predicted = (imbalance**2 + 4 * s.square()).sqrt() * along
            return laws.law_error(predicted, theory.singular_value_rate(net, problem))

        record = flow.gradient_flow(
            net,
            problem,
            until_loss=settings.tight_loss,
            rtol=settings.rtol,
            track={
                "hole": lambda net: net.tensor()[0, 0].abs(),
                "smallest": lambda net: measures.singular_values(net.tensor())[-1],
                "lambda_error": laws.Sometimes(EVERY, law),
            },
        )
        worst = reduce.largest(record.lambda_error.values[::EVERY])
        kept = record[["loss", "hole", "smallest"]].rename(time="row")
        kept = kept.assign_coords(row=np.arange(kept.sizes["row"])).rename(loss="example_loss")
        runs.append(kept.assign(lambda_error=worst))
    return xr.concat(runs, dim="imbalance_lambda", join="outer").assign_coords(
        imbalance_lambda=list(settings.imbalances)
    )


def saturated(record: xr.Dataset) -> NDArray[np.float64]:
    """Return the last |w11| of the 2 x 2 example for every imbalance."""
    padding = (record.example_loss.isnull() & record.hole.isnull() & record.smallest.isnull()).values
    return np.array([hole[~blank][-1] for hole, blank in zip(record.hole.values, padding, strict=True)])


def ratios(record: xr.Dataset, family: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return relative imbalance, and exact rate over balanced law, of all points whose law is more than rounding.

    Points with an infinite imbalance, which a slice of norm zero has, are left out. NaN is not left out.

    Args:
        record: a record of this study.
        family: "CP" or "hierarchical".

    Returns:
        Two arrays with one number per point.
    """
    at = points(record, family)
    size = np.abs(at.law.values)
    kept = ~(size <= COUNTS * np.nanmax(size)) & ~np.isinf(at.imbalance.values) | np.isnan(at.rate.values)
    return at.imbalance.values[kept], at.rate.values[kept] / at.law.values[kept]


def points(record: xr.Dataset, family: str) -> xr.Dataset:
    """Return the points of a family without the padding at their end, where all quantities are NaN."""
    at = record[list(QUANTITIES)].sel(family=family)
    measured = ~np.isnan(np.stack([at[name].values for name in QUANTITIES])).all(axis=0)
    return at.isel(point=slice(0, int(measured.nonzero()[0].max()) + 1))


def order(record: xr.Dataset, family: str) -> int:
    """Return the order K of the bonds: the number of modes for CP, the number of children plus 1 for a binary tree."""
    return len(records.settings_of(record, Settings).sizes) if family == "CP" else 3


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: bounds along all flows, the single component, and the 2 x 2 example by its imbalance."""
    return [*_bounded(record), *_single(record), *_bent(record), *_stopping(record)]


def _bounded(record: xr.Dataset) -> list[Claim]:
    """Return the claims that hold at every evaluated state of all flows."""
    outside = np.concatenate([points(record, family).outside.values for family in FAMILIES])
    return [
        exactness(
            "The exact rate d sigma / dt of a component norm sigma at a bond of order K, with alignment gamma and "
            "relative imbalance x (largest minus smallest squared slice norm of the component, divided by "
            "sigma^(2/K)), lies between 1 / (1 + x) and (1 + x)^(K - 1) times the balanced law K sigma^(2 - 2/K) "
            "gamma: amount by which the rate is outside these bounds, divided by the larger absolute bound (negative "
            f"inside), largest of {len(outside)} components and times of all flows",
            reduce.largest(outside),
            at_most=ROUNDING,
            source=sources.UNBALANCED_LAW,
        ),
        exactness(
            "Imbalance never slows a component: exact rate d sigma / dt of a component norm sigma divided by the "
            "balanced law K sigma^(2 - 2/K) gamma, with order K of the bond and alignment gamma, least of all "
            f"components and times where the law is more than {COUNTS:g} of its largest value. The ratio is at least "
            "1, because a sum of inverse squared slice norms with a given product is least if they are equal",
            reduce.least([reduce.least(ratios(record, family)[1]) for family in FAMILIES]),
            at_least=1 - ROUNDING,
            source=sources.OWN_DERIVATION,
        ),
        theorem(
            "2 x 2 example at depth 2 from factors with W2^T W2 - W1 W1^T = lambda I: a singular value sigma of W2 "
            "W1 changes at the rate d sigma / dt = sqrt(lambda^2 + 4 sigma^2) u^T (-G) v, where u and v are its "
            "singular vectors and G is the gradient of the loss in W2 W1: difference between the exact rate and this "
            f"law divided by the exact rate, largest along {reduce.count(record.lambda_error, 'flow')}, one for each "
            "lambda",
            reduce.largest(record.lambda_error),
            at_most=1e-5,
            source=sources.LAMBDA_BALANCE,
        ),
    ]


def _single(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the single component, before and after its relative imbalance has fallen below `SHARE`."""
    time, off = record.monitor_time.values, record.monitor_off.values
    late, early = time >= float(record.balanced_from), time < float(record.balanced_from)
    return [
        exactness(
            "CP factorization with one component: the balanced law d sigma / dt = K sigma^(2 - 2/K) gamma of its "
            "norm sigma, with order K and alignment gamma, is accurate once the relative imbalance x (largest minus "
            f"smallest squared slice norm, divided by sigma^(2/K)) stays below {SHARE:g}: absolute difference between "
            "1 and the exact rate divided by the law, largest of all times from then on, one flow. The bound is (1 + "
            f"x)^(K - 1) - 1 at x = {SHARE:g}",
            reduce.largest(off[late]),
            at_most=(1 + SHARE) ** (order(record, "CP") - 1) - 1,
            source=sources.UNBALANCED_LAW,
        ),
        finding(
            "CP factorization with one component: the balanced law d sigma / dt = K sigma^(2 - 2/K) gamma of its "
            "norm sigma, with order K and alignment gamma, is not accurate before the relative imbalance (largest "
            f"minus smallest squared slice norm, divided by sigma^(2/K)) stays below {SHARE:g}: absolute difference "
            "between 1 and the exact rate divided by the law, largest of all times until then, one flow",
            reduce.largest(off[early]),
            at_least=0.2,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _bent(record: xr.Dataset) -> list[Claim]:
    """Return the claim that some rates are far from the balanced law."""
    away = [reduce.largest(np.exp(np.abs(np.log(np.abs(ratios(record, f)[1]))))) for f in FAMILIES]
    return [
        finding(
            "Some rates are far from the balanced law: exact rate d sigma / dt of a component norm sigma divided by "
            "the balanced law K sigma^(2 - 2/K) gamma, with order K of the bond and alignment gamma, or the inverse "
            "of this ratio if that is larger, largest of all components and times where the law is more than "
            f"{COUNTS:g} of its largest value",
            reduce.largest(away),
            at_least=1.5,
            source=sources.OWN_EXPERIMENT,
        )
    ]


def _stopping(record: xr.Dataset) -> list[Claim]:
    """Return the claims on where |w11| of the 2 x 2 example stops."""
    imbalances, ends = record.imbalance_lambda.values, saturated(record)
    return [
        finding(
            "2 x 2 example at depth 2 from factors with W2^T W2 - W1 W1^T = lambda I, lambda = "
            f"{float(imbalances.max()):g}: the unobserved entry w11 of W2 W1 stops early, while |w11| grows without "
            "bound from balanced factors (lambda = 0): |w11| at the end, one flow",
            float(ends[np.argmax(imbalances)]),
            at_most=0.1,
            source=sources.OWN_EXPERIMENT,
        ),
        finding(
            "2 x 2 example at depth 2 from factors with W2^T W2 - W1 W1^T = lambda I: the smaller lambda, the larger "
            "the absolute value |w11| of the unobserved entry at which the flow stops: increase of the final |w11| "
            f"from one lambda to the next smaller one, least of {len(ends) - 1} pairs",
            reduce.least(np.diff(ends[np.argsort(-imbalances)])),
            at_least=0.05,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: rate over law with the proved bounds, the single component, and the 2 x 2 example."""
    made, (deviation, monitor, example) = drawing.figure(3)
    for k, family in enumerate(FAMILIES):
        x, ratio = ratios(record, family)
        deviation.loglog(x, ratio, ".", markersize=3, alpha=0.5, color=drawing.COLOURS[k], label=family)
    x = np.geomspace(1e-4, max(10.0, float(np.nanmax(ratios(record, "CP")[0]))), 200)
    K = order(record, "CP")
    deviation.loglog(x, (1 + x) ** (K - 1), **drawing.THEORY, label=f"proved: in between, K = {K}")
    deviation.loglog(x, np.ones_like(x), **drawing.THEORY)
    deviation.set_xlim(1e-4, x[-1])
    _draw_monitor(monitor, record)
    _draw_example(example, record)
    drawing.label(
        deviation,
        "Imbalance bends the law",
        "relative imbalance of the component",
        "rate / rate of the balanced law",
    )
    drawing.label(
        monitor,
        "A growing component approaches its law",
        "time of the gradient flow",
        "imbalance, and error of the law",
    )
    drawing.label(
        example, "2 x 2, depth 2: imbalance stops |w11|", "loss, falling to the right", "size of the unobserved entry"
    )
    drawing.note(deviation, "balanced: the law holds", 0.03, 0.1)
    drawing.note(deviation, "unbalanced (right):\nfaster than the law", 0.03, 0.5)
    drawing.note(monitor, "as the component grows,\nthe law comes to hold", 0.03, 0.1)
    drawing.note(example, "balanced: grows on", 0.7, "balanced: at least")
    drawing.note(example, "unbalanced: stops", 0.97, 0.2)
    for axes in (deviation, monitor, example):
        axes.legend(fontsize=7, loc="upper left" if axes is not monitor else "upper right")
    return made


def _draw_monitor(axes: Axes, record: xr.Dataset) -> None:
    """Draw relative imbalance and error of the law of the single component against time."""
    time = record.monitor_time
    axes.semilogy(time, record.monitor_imbalance, label="relative imbalance", **drawing.style(0))
    axes.semilogy(time, record.monitor_off, label="|rate / law - 1|", **drawing.style(1))
    axes.axvline(float(record.balanced_from), **drawing.THEORY, label=f"imbalance below {SHARE:g} from here on")
    axes.set_ylim(1e-6, 1e3)  # space for the legend


def _draw_example(axes: Axes, record: xr.Dataset) -> None:
    """Draw |w11| of the 2 x 2 example against the loss for some imbalances, with the bound of balanced factors."""
    values = record.imbalance_lambda.values
    shown = values[:: -(-len(values) // 4)]
    for k, imbalance in enumerate(shown):
        at = record.sel(imbalance_lambda=imbalance)
        axes.loglog(at.example_loss, at.hole, label=f"imbalance {imbalance:g}", **drawing.style(k))
    loss = np.geomspace(0.3, 1e-6, 200)
    bound = theory.bounds_2x2(torch.from_numpy(loss)).w11
    axes.loglog(loss, bound, **drawing.THEORY, label="balanced: at least")
    axes.set_xlim(1.0, 1e-6)
    axes.set_ylim(5e-3, 1e5)  # space for the legend


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    ends = ", ".join(
        f"{x:.2g} at lambda {v:g}" for x, v in zip(saturated(record), record.imbalance_lambda.values, strict=True)
    )
    return (
        f"Left: the exact rate of every component over the balanced law, between bounds that open with the relative "
        f"imbalance. Middle: the relative imbalance of a single component falls as it grows, below {SHARE:g} at time "
        f"{float(record.balanced_from):.3g}, and with it the error of the law. Right: |w11| of the 2 x 2 example stops "
        f"at {ends}."
    )
