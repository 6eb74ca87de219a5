"""One law for three factorizations: the exponent 2 - 2/K is fitted to measured rates along trajectories."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.nn.circuits import circuit
from ranklens.problems import targets
from ranklens.studies.kit import reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, theorem
from ranklens.tensors import families, init, measures
from ranklens.tensors.network import TensorNetwork

TITLE = "Three factorizations, one law: d sigma / dt = K sigma^(2 - 2/K) gamma"
EXPLANATION = (
    "K is the depth of a matrix factorization, the order of a tensor factorization, or, in a hierarchical "
    "factorization, the number of children of a tree node plus one. The rate of every singular value or component norm "
    "sigma, measured along a trajectory and divided by its alignment gamma with the negative gradient, is a power of "
    "sigma: the fitted exponents are those of the theorems, which the rates alone do not show. Each factorization is a "
    "neural network (linear, shallow convolutional or deep convolutional), whose outputs are the entries of its end "
    "tensor."
)
SOURCE = "The talk's closing table; Arora et al. (NeurIPS 2019), Razin, Maman, Cohen (ICML 2021, 2022)"


@dataclass(frozen=True)
class Settings:
    """Small completion problems, from balanced initializations.

    Attributes:
        depth: depth of the matrix factorization.
        order: number of modes of the tensor factorization.
        samples: largest number of times of a trajectory at which rates are measured.
        rtol: relative tolerance of the solver.
        until_loss: training loss at which the trajectories end.
        seeds: seeds of targets, observed entries and initializations; one trajectory per factorization and seed.
    """

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
MINUTES = {"laptop": 0.1, "paper": 2.0, "tiny": 0.1}
# Relative distance in time of the points of a central difference to its middle.
NEAR = 1e-4
# Least |rate| * time / size of a component whose rate is measured: others are at rest, and a difference is rounding.
MOVING = 1e-2
KINDS = ("matrix", "tensor", "hierarchical")
# for each factorization, in words: the meaning of K, the size sigma, and the kind of end tensor
NAMED = {
    "matrix": ("its depth", "singular value", "matrix"),
    "tensor": ("its order", "component norm", "tensor"),
    "hierarchical": ("number of children of a tree node plus 1", "root component norm", "tensor"),
}
# The theorem that states the law of a factorization.
LAW = {
    "matrix": sources.SINGULAR_VALUE_LAW,
    "tensor": sources.COMPONENT_LAW,
    "hierarchical": sources.LOCAL_COMPONENT_LAW,
}


@dataclass(frozen=True)
class _Case:
    """A factorization, the problem it is fitted to, and the quantity whose law is tested.

    Attributes:
        net: the factorization.
        task: the problem.
        order: K, on which the law's exponent 2 - 2/K depends.
        size: returns the singular values or component norms of a network.
        alignment: returns the alignment gamma of each of them.
    """

    net: TensorNetwork
    task: problems.Completion
    order: int
    size: Callable[[TensorNetwork], Tensor]
    alignment: Callable[[TensorNetwork], Tensor]


def _matrix(settings: Settings, seed: int) -> _Case:
    """Return the case of a deep matrix factorization and its singular values."""
    target = targets.low_rank_matrix((8, 8), 2, norm=8.0, seed=seed)
    task = problems.Completion.sample(target, 40, seed=seed)
    net = families.deep_matrix((8, 8), settings.depth, std=0.1, seed=seed)

    def alignment(net: TensorNetwork) -> Tensor:
        """Return the negative gradient in the product, along each pair of its singular vectors."""
        U, _, Vh = torch.linalg.svd(net.tensor())
        return -torch.einsum("ir,ij,rj->r", U, theory.end_gradient(net, task), Vh)

    return _Case(net, task, settings.depth, lambda net: measures.singular_values(net.tensor()), alignment)


def _tensor(settings: Settings, seed: int) -> _Case:
    """Return the case of a CP factorization and its component norms."""
    shape = (5,) * settings.order
    target = targets.cp(shape, 2, norm=5.0 ** (settings.order / 2), seed=seed)
    task = problems.Completion.sample(target, 5**settings.order * 2 // 3, seed=seed)
    net = families.cp(shape, 6, std=0.1, seed=seed)
    return _component_case(net, task, "r")


def _hierarchical(settings: Settings, seed: int) -> _Case:
    """Return the case of a hierarchical factorization of order 4 and the component norms at its root."""
    target = targets.hierarchical((4,) * 4, 2, norm=16.0, seed=seed)
    task = problems.Completion.sample(target, 170, seed=seed)
    net = families.hierarchical((4,) * 4, 6, std=0.3, seed=seed)
    return _component_case(net, task, (0, 1, 2, 3))


def _component_case(net: TensorNetwork, task: problems.Completion, bond: Hashable) -> _Case:
    """Return the case of the component norms of one bond."""
    return _Case(
        net,
        task,
        net.order(bond),
        lambda net: net.component_norms(bond),
        lambda net: theory.alignment(net, task, bond),
    )


CASES = {"matrix": _matrix, "tensor": _tensor, "hierarchical": _hierarchical}


def run(settings: Settings) -> xr.Dataset:
    """Return sizes, measured rates and alignments of components along their trajectories."""
    parts = []
    for kind in KINDS:
        cases = [CASES[kind](settings, seed) for seed in settings.seeds]
        part = xr.concat([_points(case, settings) for case in cases], dim="point")
        part = part.assign_coords(point=np.arange(part.sizes["point"]))
        parts.append(part.assign(circuit=("seed", [_circuit_error(case.net) for case in cases])))
    record = xr.concat(parts, dim="kind", join="outer").assign_coords(kind=list(KINDS), seed=list(settings.seeds))
    record["K"] = ("kind", [CASES[kind](settings, 0).order for kind in KINDS])
    return record


def _points(case: _Case, settings: Settings) -> xr.Dataset:
    """Return sizes, rates and alignments along one trajectory, which is computed twice.

    The first pass finds times that are spread over the steps of the solver. The second pass, from the same initial
    values, records three neighbouring times at each of them, for central differences.
    """
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
    moving = np.abs(rate) * middle[:, None] > MOVING * size[:, 1]
    return xr.Dataset(
        {"size": ("point", size[:, 1][moving]), "rate": ("point", rate[moving]), "gamma": ("point", alignment[moving])}
    )


@torch.no_grad()
def _circuit_error(net: TensorNetwork) -> float:
    """Return how far the outputs of a factorization's neural network are from the entries of its end tensor.

    Every entry is compared with the output for the unit vectors of its indices. The largest absolute difference is
    divided by the largest entry.
    """
    W = net.tensor()
    indices = torch.cartesian_prod(*[torch.arange(size) for size in W.shape])
    units = nn.functional.one_hot(indices, max(W.shape)).to(W)
    return float((circuit(net)(units) - W.reshape(-1)).abs().max() / W.abs().max())


def exponent(size: NDArray[np.float64], rate: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and factor of |rate| = factor * size^slope, fitted by least squares to the logarithms.

    Args:
        size: (points,) positive sizes.
        rate: (points,) rates, none of them zero.
    """
    slope, offset = np.polyfit(np.log(size), np.log(np.abs(rate)), 1)
    return float(slope), float(np.exp(offset))


class _Points(NamedTuple):
    """Points along all trajectories of one factorization: K, and sizes, measured rates and alignments, each (n,)."""

    K: int
    size: NDArray[np.float64]
    rate: NDArray[np.float64]
    gamma: NDArray[np.float64]


def _of(record: xr.Dataset, kind: str) -> _Points:
    """Return the points of one factorization, without the padding and without alignments that are exactly zero."""
    part = record.sel(kind=kind)
    padding = np.isnan(part["size"].values) & np.isnan(part.rate.values) & np.isnan(part.gamma.values)
    there = ~padding & (part.gamma.values != 0)
    return _Points(int(part.K), part["size"].values[there], part.rate.values[there], part.gamma.values[there])


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: exponents and factors, every single rate with its sign, and the equivalence with networks."""
    laws = [claim for kind in KINDS for claim in _claims_of(kind, _of(record, kind))]
    same = exactness(
        "A deep matrix factorization is a linear network, a tensor factorization a shallow and a hierarchical one a "
        "deep convolutional arithmetic circuit: absolute difference between an entry of the end tensor and the output "
        "of the network for the unit vectors of its indices, divided by the largest entry, largest of all entries and "
        f"{reduce.count(record.circuit.size, 'trained factorization')}",
        reduce.largest(record.circuit),
        at_most=1e-12,
        source=sources.CIRCUITS,
    )
    return [*laws, same]


def _claims_of(kind: str, points: _Points) -> list[Claim]:
    """Return the claims on one factorization."""
    K, size, rate, gamma = points
    if np.isnan(points[1:]).any():
        slope = factor = raw = float("nan")
    else:
        slope, factor = exponent(size, rate / gamma)
        raw, _ = exponent(size, rate)
    ratio = rate / (K * size ** (2 - 2 / K) * gamma)
    what, quantity, end = NAMED[kind]
    return [
        theorem(
            f"{kind.capitalize()} factorization, K = {K} ({what}): the rate d sigma / dt of each {quantity} sigma, "
            f"divided by its alignment gamma (inner product of the negative gradient of the loss in the end {end} "
            f"with the part of the end {end} that has the size sigma, divided by sigma), is a power of sigma with "
            f"exponent 2 - 2/K = {2 - 2 / K:.4g}: absolute difference between the exponent fitted to {len(size)} "
            f"points of all trajectories and 2 - 2/K (the rate alone has the fitted exponent {raw:.2f})",
            abs(slope - (2 - 2 / K)),
            at_most=0.005,
            source=LAW[kind],
        ),
        theorem(
            f"{kind.capitalize()} factorization, K = {K} ({what}): the rate d sigma / dt of each {quantity} sigma, "
            f"divided by its alignment gamma with the negative gradient of the loss in the end {end}, is K sigma^(2 - "
            f"2/K): factor before the power of sigma, fitted together with the exponent to {len(size)} points of all "
            "trajectories, divided by K",
            factor / K,
            within=(0.98, 1.02),
            source=LAW[kind],
        ),
        theorem(
            f"{kind.capitalize()} factorization, K = {K} ({what}): each {quantity} sigma with alignment gamma changes "
            "at the rate d sigma / dt = K sigma^(2 - 2/K) gamma: absolute difference between 1 and the measured rate "
            f"divided by this law, 99% quantile of {len(size)} points of all trajectories",
            float(np.quantile(np.abs(ratio - 1), 0.99)),
            at_most=1e-2,
            source=LAW[kind],
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: rate over alignment against size, with the law, in one panel per factorization."""
    made, panels = drawing.figure(3)
    meanings = {"matrix": "depth", "tensor": "order", "hierarchical": "children + 1"}
    for kind, axes in zip(KINDS, panels, strict=True):
        K, size, rate, gamma = _of(record, kind)
        slope, _ = exponent(size, rate / gamma)
        axes.loglog(size, np.abs(rate), ".", color="#999999", markersize=3, label="rate as measured")
        axes.loglog(size, rate / gamma, "o", color=drawing.COLOURS[0], markersize=3, label="rate / alignment gamma")
        line = np.geomspace(size.min(), size.max(), 50)
        axes.loglog(line, K * line ** (2 - 2 / K), **drawing.THEORY, label=f"law: {K} sigma^(2 - 2/{K})")
        quantity = "singular value" if kind == "matrix" else "component norm"
        drawing.label(
            axes,
            f"{kind}: K = {meanings[kind]} = {K}\nfitted exponent {slope:.3f}",
            f"{quantity} sigma (log scale)",
            "rate (log scale)",
        )
        drawing.note(axes, "larger: faster, as the law says", 0.03, 0.9)
        axes.legend(fontsize=8, loc="lower right")
    return made


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    parts = []
    for kind in KINDS:
        K, size, rate, gamma = _of(record, kind)
        slope, _ = exponent(size, rate / gamma)
        parts.append(f"{kind}, K = {K}: fitted exponent {slope:.3f}, law {2 - 2 / K:.3f}")
    return (
        "Three panels of measured rates over alignment against size, in logarithmic axes. The points lie on the law's "
        f"straight line, while rates alone are scattered. {'; '.join(parts)}."
    )
