"""Where the balanced law stops holding: by how much, from when on it means something, and what imbalance undoes."""

import math
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
from ranklens.problems import targets
from ranklens.studies.kit import laws, records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "When the law fails: imbalance bends it, and undoes what depends on it"
EXPLANATION = (
    "The law of component norms is exact for balanced starts; a component whose slices differ obeys it up to factors "
    "that its relative imbalance bounds, and that fall as the component grows. Where a singular value must become "
    "tiny, as in the 2 x 2 example at depth 2, imbalance takes over once it is larger, and the norms stop growing."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2021, Theorem 2; ICML 2022); Razin and Cohen (NeurIPS 2020) for the example; lambda-"
    "balance: Tarmoun, Franca, Haeffele, Vidal (ICML 2021)"
)


@dataclass(frozen=True)
class Settings:
    """Gaussian starts of CP and hierarchical networks; starts alpha I of the 2 x 2 with lambda-balanced factors."""

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
MINUTES = {"laptop": 0.4, "paper": 5.0, "tiny": 0.05}
FAMILIES = ("CP", "hierarchical")
COARSE = 1e-5  # rtol where bounds are checked, which are about states, however they were reached
EVERY = 10  # steps of the solver from one evaluation of the bounds to the next
SHARE = 0.1  # relative imbalance up to which the law is said to mean something
COUNTS = 1e-3  # rates below this share of the largest are rounding over rounding
ROUNDING = 1e-9  # relative room for the exact bounds
QUANTITIES = ("imbalance", "rate", "law", "outside")


def run(settings: Settings) -> xr.Dataset:
    """Rates, laws and bounds along flows of both families; the monitor of one; and the 2 x 2 by its imbalance."""
    return xr.merge([_along(settings), _monitor(settings), _example(settings)])


def network(settings: Settings, family: str, std: float, seed: int) -> TensorNetwork:
    """A Gaussian start: its slices differ by about as much as they are long."""
    if family == "CP":
        return families.cp(settings.sizes, settings.components, std=std, seed=seed)
    return families.hierarchical((settings.mode,) * settings.order, settings.width, std=std, seed=seed)


def task(settings: Settings, shape: tuple[int, ...], seed: int) -> problems.Completion:
    """Part of the entries of a tensor of CP rank `rank`, whose entries are of order one."""
    target = targets.cp(shape, settings.rank, seed=seed)
    return problems.Completion.sample(target, round(settings.share * target.numel()), seed=seed)


def _along(settings: Settings) -> xr.Dataset:
    """All components of all bonds at every tenth step of every flow, as one list of points per family."""
    points: list[list[NDArray[np.float64]]] = []
    for family in FAMILIES:
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
                found.append(record["all"].values[::EVERY])
        points.append([np.concatenate([part[:, k].reshape(-1) for part in found]) for k in range(len(QUANTITIES))])
    longest = max(len(values[0]) for values in points)
    padded = {
        name: np.stack([np.pad(v[k], (0, longest - len(v[k])), constant_values=np.nan) for v in points])
        for k, name in enumerate(QUANTITIES)
    }
    return xr.Dataset(
        {name: (("family", "point"), values) for name, values in padded.items()}, coords={"family": list(FAMILIES)}
    )


def _bounds(problem: problems.Completion, net: TensorNetwork) -> Tensor:
    """Relative imbalance, exact rate, balanced law, and how far outside its bounds the rate is, of all components."""
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
    """One component that grows from an unbalanced start: how far off its law is, and from when on it is not."""
    net = families.cp(settings.sizes, 1, std=min(settings.stds), seed=settings.seeds[0])
    target = targets.cp(settings.sizes, 1, seed=settings.seeds[0])
    problem = problems.Completion.sample(target, target.numel(), seed=settings.seeds[0])

    def off(net: TensorNetwork) -> Tensor:
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
    """The 2 x 2 at depth 2 from lambda-balanced starts: the open entry along the way, and the law of its rates."""
    problem, eye = problems.Completion.counterexample(), torch.eye(2, dtype=torch.float64)
    runs = []
    for imbalance in settings.imbalances:
        net = theory.lambda_balanced_(families.deep_matrix((2, 2), 2), settings.alpha * eye, imbalance)

        def law(net: TensorNetwork, imbalance: float = imbalance) -> Tensor:
            W = net.tensor()
            U, s, Vh = torch.linalg.svd(W)
            g = (U.T @ theory.end_gradient(net, problem) @ Vh.T).diagonal()
            return laws.law_error(-(imbalance**2 + 4 * s.square()).sqrt() * g, theory.singular_value_rate(net, problem))

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
        worst = float(record.lambda_error.values[::EVERY].max())
        kept = record[["loss", "hole", "smallest"]].rename(time="row")
        kept = kept.assign_coords(row=np.arange(kept.sizes["row"])).rename(loss="example_loss")
        runs.append(kept.assign(lambda_error=worst))
    return xr.concat(runs, dim="imbalance_lambda", join="outer").assign_coords(
        imbalance_lambda=list(settings.imbalances)
    )


def saturated(record: xr.Dataset) -> NDArray[np.float64]:
    """Where the open entry of the 2 x 2 stops, for every imbalance."""
    return np.array([hole[np.isfinite(hole)][-1] for hole in record.hole.values])


def ratios(record: xr.Dataset, family: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative imbalance, and exact rate over balanced law, of all points whose rate is more than rounding."""
    at = record.sel(family=family)
    found = np.isfinite(at.law.values) & (np.abs(at.law.values) > COUNTS * np.nanmax(np.abs(at.law.values)))
    found &= np.isfinite(at.imbalance.values)
    return at.imbalance.values[found], at.rate.values[found] / at.law.values[found]


def order(record: xr.Dataset, family: str) -> int:
    """K: the order of the tensor for CP, children and one for a binary tree."""
    return len(records.settings_of(record, Settings).sizes) if family == "CP" else 3


def claims(record: xr.Dataset) -> list[Claim]:
    """Bounds along all flows, the closed equation along all of the 2 x 2, and where imbalance makes norms stop."""
    outside = record.outside.values
    ends = saturated(record)
    late = record.monitor_time.values >= float(record.balanced_from)
    off = record.monitor_off.values
    return [
        Claim(
            "theorem",
            f"exact rates outside the bounds of the imbalance, relative (largest of {np.isfinite(outside).sum()} "
            "components and times)",
            float(np.nanmax(outside)),
            "<=",
            ROUNDING,
        ),
        Claim(
            "theorem",
            "rate over law, which by the inequality of means is never below 1 (least)",
            min(float(ratios(record, family)[1].min()) for family in FAMILIES),
            ">=",
            1 - ROUNDING,
        ),
        Claim(
            "theorem",
            "singular values of the 2 x 2: exact rate against sqrt(lambda^2 + 4 sigma^2) (worst, along all flows)",
            float(record.lambda_error.max()),
            "<=",
            1e-5,
        ),
        Claim(
            "theorem",
            "the monitored component: distance of rate over law from 1, once the monitor says balanced (largest)",
            float(off[late].max()) if late.any() else math.nan,
            "<=",
            (1 + SHARE) ** (order(record, "CP") - 1) - 1,
        ),
        Claim("finding", "and before (largest)", float(off[~late].max()) if (~late).any() else math.nan, ">=", 0.2),
        Claim(
            "finding",
            "rates far from the law: largest of law over rate and rate over law, all points",
            max(float(np.exp(np.abs(np.log(np.abs(ratios(record, f)[1]))).max())) for f in FAMILIES),
            ">=",
            1.5,
        ),
        Claim(
            "finding",
            f"the 2 x 2 with lambda = {float(record.imbalance_lambda.max()):g}: |w11| where it stops, which is nowhere "
            "if balanced",
            float(ends[np.argmax(record.imbalance_lambda.values)]),
            "<=",
            0.1,
        ),
        Claim(
            "finding",
            "where |w11| stops grows as lambda falls (least step from one lambda to the next)",
            float(np.diff(ends[np.argsort(-record.imbalance_lambda.values)]).min()),
            ">=",
            0.05,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Rate over law against imbalance, inside the proved envelope; the monitor; the 2 x 2 by its imbalance."""
    made, (deviation, monitor, example) = drawing.figure(3)
    for k, family in enumerate(FAMILIES):
        x, ratio = ratios(record, family)
        deviation.loglog(x, ratio, ".", markersize=3, alpha=0.5, color=drawing.COLOURS[k], label=family)
    x = np.geomspace(1e-4, max(10.0, float(np.nanmax(ratios(record, "CP")[0]))), 200)
    K = order(record, "CP")
    deviation.loglog(x, (1 + x) ** (K - 1), **drawing.THEORY, label=f"proved: between, K = {K}")
    deviation.loglog(x, np.ones_like(x), **drawing.THEORY)
    deviation.set_xlim(1e-4, x[-1])
    _draw_monitor(monitor, record)
    _draw_example(example, record)
    drawing.label(deviation, "Imbalance bends the law", "relative imbalance of the component", "rate / balanced law")
    drawing.label(monitor, "A component grows into its law", "time of the gradient flow", "relative size")
    drawing.label(example, "2 x 2, depth 2: imbalance stops |w11|", "loss, falling to the right", "|w11|")
    for axes in (deviation, monitor, example):
        axes.legend(fontsize=7, loc="upper left" if axes is not monitor else "upper right")
    return made


def _draw_monitor(axes: Axes, record: xr.Dataset) -> None:
    time = record.monitor_time
    axes.semilogy(time, record.monitor_imbalance, label="relative imbalance", **drawing.style(0))
    axes.semilogy(time, record.monitor_off, label="|rate / law - 1|", **drawing.style(1))
    axes.axvline(float(record.balanced_from), **drawing.THEORY, label=f"monitor: below {SHARE:g} from here on")
    axes.set_ylim(bottom=1e-6)


def _draw_example(axes: Axes, record: xr.Dataset) -> None:
    values = record.imbalance_lambda.values
    shown = values[:: -(-len(values) // 4)]
    for k, imbalance in enumerate(shown):
        at = record.sel(imbalance_lambda=imbalance)
        axes.loglog(at.example_loss, at.hole, label=f"lambda = {imbalance:g}", **drawing.style(k))
    loss = np.geomspace(0.3, 1e-6, 200)
    bound = theory.bounds_2x2(torch.from_numpy(loss)).w11
    axes.loglog(loss, bound, **drawing.THEORY, label="balanced: at least")
    axes.set_xlim(1.0, 1e-6)
    axes.set_ylim(5e-3, 1e3)


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    ends = ", ".join(
        f"{x:.2g} at lambda {v:g}" for x, v in zip(saturated(record), record.imbalance_lambda.values, strict=True)
    )
    return (
        f"Left: the rate of every component over the balanced law, between bounds that open with relative imbalance. "
        f"Middle: one component's imbalance falls as it grows, below {SHARE:g} at time "
        f"{float(record.balanced_from):.3g}, and with it the error of the law. Right: |w11| of the 2 x 2 stops at "
        f"{ends}."
    )
