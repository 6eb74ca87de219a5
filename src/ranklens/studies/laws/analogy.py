"""The talk's table: three factorizations, one law. The exponent 2 - 2/K is fitted to trajectories, not assumed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.problems import targets
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, init, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Three factorizations, one law: d sigma / dt = K sigma^(2 - 2/K) gamma"
EXPLANATION = (
    "For a deep matrix K is the depth, for a tensor factorization its order, for a hierarchical one the number of "
    "children of a tree node plus one. The rate of every singular value or component norm, measured from a "
    "trajectory and divided by the separately evaluated alignment gamma, is a power of its size: the fitted exponents "
    "are those of the theorems, which the raw rates do not show."
)
SOURCE = "the talk's closing table; Arora et al. (NeurIPS 2019), Razin, Maman, Cohen (ICML 2021, 2022)"


@dataclass(frozen=True)
class Settings:
    """Small completions from balanced starts; `samples` points of each trajectory are differentiated."""

    depth: int = 4
    order: int = 3
    samples: int = 60
    rtol: float = 1e-9
    until_loss: float = 1e-3
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(samples=200, seeds=(0, 1, 2, 3, 4)),
    "tiny": Settings(samples=10, seeds=(0,)),
}
MINUTES = {"laptop": 0.4, "paper": 2.0, "tiny": 0.1}
NEAR = 1e-4  # relative distance in time of the two points of a difference
KINDS = ("matrix", "tensor", "hierarchical")


@dataclass(frozen=True)
class _Case:
    """A factorization on a problem: what is measured, the alignment that the law needs, and its order K."""

    net: TensorNetwork
    task: Any
    order: int
    size: Callable[[TensorNetwork], Tensor]
    alignment: Callable[[TensorNetwork], Tensor]


def _matrix(settings: Settings, seed: int) -> _Case:
    target = targets.low_rank_matrix((8, 8), 2, norm=8.0, seed=seed)
    task = problems.Completion.sample(target, 40, seed=seed)
    net = families.deep_matrix((8, 8), settings.depth, std=0.1, seed=seed)

    def alignment(net: TensorNetwork) -> Tensor:
        # the law's own factor: minus the gradient in the product, along its singular vectors
        U, _, Vh = torch.linalg.svd(net.tensor())
        return -torch.einsum("ir,ij,rj->r", U, theory.end_gradient(net, task), Vh)

    return _Case(net, task, settings.depth, lambda net: measures.singular_values(net.tensor()), alignment)


def _tensor(settings: Settings, seed: int) -> _Case:
    shape = (5,) * settings.order
    target = targets.cp(shape, 2, norm=5.0 ** (settings.order / 2), seed=seed)
    task = problems.Completion.sample(target, 5**settings.order * 2 // 3, seed=seed)
    net = families.cp(shape, 6, std=0.1, seed=seed)
    return _component_case(net, task, "r")


def _hierarchical(settings: Settings, seed: int) -> _Case:
    target = targets.hierarchical((4,) * 4, 2, norm=16.0, seed=seed)
    task = problems.Completion.sample(target, 170, seed=seed)
    net = families.hierarchical((4,) * 4, 6, std=0.3, seed=seed)
    return _component_case(net, task, (0, 1, 2, 3))


def _component_case(net: TensorNetwork, task: Any, bond: Hashable) -> _Case:
    return _Case(
        net,
        task,
        net.order(bond),
        lambda net: net.component_norms(bond),
        lambda net: theory.alignment(net, task, bond),
    )


CASES = {"matrix": _matrix, "tensor": _tensor, "hierarchical": _hierarchical}


def run(settings: Settings) -> xr.Dataset:
    """Sizes, their measured rates and alignments, at points along the trajectories of all three."""
    parts = []
    for kind in KINDS:
        found = [_points(CASES[kind](settings, seed), settings) for seed in settings.seeds]
        part = xr.concat(found, dim="point")
        parts.append(part.assign_coords(point=np.arange(part.sizes["point"])))
    record = xr.concat(parts, dim="kind", join="outer").assign_coords(kind=list(KINDS))
    record["K"] = ("kind", [CASES[kind](settings, 0).order for kind in KINDS])
    return record


def _points(case: _Case, settings: Settings) -> xr.Dataset:
    """Two passes: one to learn when things happen, one that records three neighbouring times at every sample."""
    start = [stack.detach().clone() for stack in init.balance_(case.net).stacks]
    scout = flow.gradient_flow(case.net, case.task, until_loss=settings.until_loss, until_evaluations=50_000)
    some = np.unique(np.linspace(1, scout.sizes["time"] - 2, settings.samples).astype(int))
    middle = scout.time.values[some]
    middle = middle[np.diff(middle, prepend=0.0) > 4 * NEAR * middle]
    with torch.no_grad():
        for stack, value in zip(case.net.stacks, start, strict=True):
            stack.copy_(value)
    times = np.stack([middle * (1 - NEAR), middle, middle * (1 + NEAR)], axis=1)
    record = flow.gradient_flow(
        case.net,
        case.task,
        until_loss=0.0,
        rtol=settings.rtol,
        times=times.reshape(-1),
        track={"size": case.size, "alignment": case.alignment},
    )
    size = record["size"].values[1:].reshape(*times.shape, -1)
    alignment = record.alignment.values[1:].reshape(*times.shape, -1)[:, 1]
    rate = (size[:, 2] - size[:, 0]) / (times[:, 2] - times[:, 0])[:, None]
    moving = np.abs(rate) * middle[:, None] > 1e-2 * size[:, 1]  # what rests has no rate to measure
    return xr.Dataset(
        {"size": ("point", size[:, 1][moving]), "rate": ("point", rate[moving]), "gamma": ("point", alignment[moving])}
    )


def exponent(size: NDArray[Any], rate: NDArray[Any]) -> tuple[float, float]:
    """Slope and factor of |rate| = factor size^slope, by least squares of logarithms."""
    slope, offset = np.polyfit(np.log(size), np.log(np.abs(rate)), 1)
    return float(slope), float(np.exp(offset))


def _of(record: xr.Dataset, kind: str) -> tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]:
    part = record.sel(kind=kind)
    there = np.isfinite(part["size"].values) & (part.gamma.values != 0)
    return int(part.K), part["size"].values[there], part.rate.values[there], part.gamma.values[there]


def claims(record: xr.Dataset) -> list[Claim]:
    """The fitted exponents and factors; and the rates themselves, with their signs."""
    found = []
    for kind in KINDS:
        K, size, rate, gamma = _of(record, kind)
        slope, factor = exponent(size, rate / gamma)
        raw, _ = exponent(size, rate)
        ratio = rate / (K * size ** (2 - 2 / K) * gamma)
        found += [
            Claim(
                "theorem",
                f"{kind}: fitted exponent against 2 - 2/K = {2 - 2 / K:.4g}, K = {K} (raw rates have {raw:.2f})",
                abs(slope - (2 - 2 / K)),
                "<=",
                0.005,
            ),
            Claim("theorem", f"{kind}: fitted factor over K = {K}", factor / K, "within", (0.98, 1.02)),
            Claim(
                "theorem",
                f"{kind}: measured rate over the law's at {len(size)} points (99% quantile of distance from 1)",
                float(np.quantile(np.abs(ratio - 1), 0.99)),
                "<=",
                1e-2,
            ),
        ]
    return found


def draw(record: xr.Dataset) -> Figure:
    """Rate over alignment against size, with the law drawn in."""
    made, panels = drawing.figure(3)
    titles = {"matrix": "depth", "tensor": "order", "hierarchical": "children + 1"}
    for kind, axes in zip(KINDS, panels, strict=True):
        K, size, rate, gamma = _of(record, kind)
        slope, _ = exponent(size, rate / gamma)
        axes.loglog(size, np.abs(rate), ".", color="#999999", markersize=3, label="rate alone")
        axes.loglog(size, rate / gamma, "o", color=drawing.COLOURS[0], markersize=3, label="rate / gamma")
        line = np.geomspace(size.min(), size.max(), 50)
        axes.loglog(line, K * line ** (2 - 2 / K), **drawing.THEORY, label=f"law: {K} sigma^(2 - 2/{K})")
        what = "singular value" if kind == "matrix" else "component norm"
        drawing.label(axes, f"{kind}: K = {titles[kind]} = {K}\nfitted exponent {slope:.3f}", f"{what} sigma", "rate")
        axes.legend(fontsize=8)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    parts = []
    for kind in KINDS:
        K, size, rate, gamma = _of(record, kind)
        slope, _ = exponent(size, rate / gamma)
        parts.append(f"{kind}, K = {K}: fitted exponent {slope:.3f}, law {2 - 2 / K:.3f}")
    return (
        "Three panels of measured rates divided by alignment against size, in logarithmic axes. The points lie on the "
        f"law's straight line, while rates alone are scattered. {'; '.join(parts)}."
    )
