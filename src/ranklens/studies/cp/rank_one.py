"""A tensor factorization that starts small follows a trajectory of rank one."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ranklens import drawing, problems, seeds, theory
from ranklens.dynamics import flow
from ranklens.problems import losses
from ranklens.studies.kit import laws, records
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork

TITLE = "From a small start a tensor factorization follows a trajectory of rank one"
EXPLANATION = (
    "If one component leads, longer than the others by the factor of the theorem, it escapes from zero alone: the "
    "smaller the start alpha, the less of the others has grown, and their share of the solution falls like alpha^N, N "
    "the order. The whole tensor then stays beside the flow of a single component, all the way to the target."
)
SOURCE = "Razin, Maman, Cohen (ICML 2021), the theorem on balanced rank-one trajectories"


@dataclass(frozen=True)
class Settings:
    """Completion with a Huber loss whose threshold is below all observed sizes; starts alpha * a, balanced."""

    size: int = 4
    order: int = 3
    components: int = 4
    observed: int = 40
    threshold: float = 0.1
    lead: float = 1.05
    alphas: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003)
    until_loss: float = 1e-8
    compared: int = 2
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(alphas=(0.1, 0.03, 0.01, 0.003, 0.001), seeds=tuple(range(10))),
    "tiny": Settings(alphas=(0.03, 0.01), seeds=(0,)),
}
MINUTES = {"laptop": 0.7, "paper": 1.5, "tiny": 0.05}
EVERY = 5  # steps of the solver from one comparison with the rank-one flow to the next
SMALL = 0.03  # starts from which on the theorem's limit is fitted


def run(settings: Settings) -> xr.Dataset:
    """For every start and seed: the final components, what is recovered, and the distance to one component's flow."""
    parts = [xr.concat([_one(settings, a, s) for s in settings.seeds], dim="seed") for a in settings.alphas]
    record = xr.concat(parts, dim="alpha")
    return record.assign_coords(alpha=list(settings.alphas), seed=list(settings.seeds))


def target(settings: Settings, seed: int) -> Tensor:
    """A tensor of rank one, all of whose entries are larger than the threshold: vectors of entries above 1/2."""
    shapes = [(settings.size,)] * settings.order
    vectors = [x.sign() * (0.5 + x.abs()) for x in seeds.normals(shapes, seed, "rank-one target")]
    found = vectors[0]
    for vector in vectors[1:]:
        found = found[..., None] * vector
    return found


def start(settings: Settings, task: problems.Completion, seed: int) -> TensorNetwork:
    """Components of unit vectors; the one that points best leads, by `lead` times what the theorem asks for."""
    net = families.cp((settings.size,) * settings.order, settings.components, std=1.0, seed=seed)
    with torch.no_grad():
        for node in net.nodes:
            node.div_(node.norm(dim=0))
        leader = _leader(net, task)
        factor = theory.leading_factor(net, task)[leader]
        for node in net.nodes:
            node[:, leader] *= settings.lead * factor
    return net


def _leader(net: TensorNetwork, task: problems.Completion) -> int:
    return int(theory.leading_factor(net, task).argmin())


def _one(settings: Settings, alpha: float, seed: int) -> xr.Dataset:
    task = problems.Completion.sample(
        target(settings, seed), settings.observed, seed=seed, loss=losses.huber(settings.threshold)
    )
    net = start(settings, task, seed)
    leader = _leader(net, task)
    with torch.no_grad():
        for node in net.nodes:
            node.mul_(alpha)
        alone = TensorNetwork((net.layout.nodes, net.layout.out), [node[:, [leader]].clone() for node in net.nodes])
    whole = _flow(net, task, settings, None)
    apart = np.nan
    if seed in settings.seeds[: settings.compared]:
        rows = [0, *range(1, whole.sizes["time"], EVERY)]
        one = _flow(alone, task, settings, whole.time.values[rows[1:]])
        both = min(len(rows), one.sizes["time"])
        away = whole.end.values[rows[:both]] - one.end.values[:both]
        apart = float(np.sqrt((away**2).reshape(both, -1).sum(axis=1)).max())
    size = float(task.target.norm())  # type: ignore[union-attr]
    return xr.Dataset(
        {
            "component": ("value", -np.sort(-whole.component.values[-1])),
            "leads": float(whole.component.values[-1].argmax() == leader),
            "error": float(task.error(net)),
            "apart": apart / size,
            "drift": float(whole.imbalance[::EVERY].max())
            / float(whole.component.values[-1].max()) ** (2 / settings.order),
            "least_value": float(task.values.abs().min()),
        }
    )


def _flow(
    net: TensorNetwork, task: problems.Completion, settings: Settings, times: NDArray[np.float64] | None
) -> xr.Dataset:
    return flow.gradient_flow(
        net,
        task,
        until_loss=settings.until_loss if times is None else 0.0,
        times=times,
        rtol=settings.rtol,
        track={
            "component": lambda net: net.component_norms("r"),
            "end": lambda net: net.tensor(),
            "imbalance": laws.Sometimes(EVERY, lambda net: net.imbalance()),
        },
    )


def ratios(record: xr.Dataset) -> NDArray[np.float64]:
    """The second component over the first, (alpha, seed)."""
    return np.asarray(record.component.values[..., 1] / record.component.values[..., 0])


def slope(record: xr.Dataset) -> float:
    """Of ln(second / first) against ln alpha, medians over the seeds, small starts."""
    small = record.alpha.values <= SMALL
    return float(np.polyfit(np.log(record.alpha.values[small]), np.log(np.median(ratios(record), axis=1)[small]), 1)[0])


def claims(record: xr.Dataset) -> list[Claim]:
    """Balance is kept; the share of the others falls like alpha^N; the trajectory is that of one component."""
    settings = records.settings_of(record, Settings)
    small = record.sel(alpha=record.alpha[record.alpha <= SMALL])
    smallest = record.sel(alpha=min(settings.alphas))
    return [
        Claim(
            "theorem",
            f"components stay balanced (largest imbalance of all runs over the largest squared slice norm, rtol "
            f"{settings.rtol:g})",
            float(record.drift.max()),
            "<=",
            1000 * settings.rtol,
        ),
        Claim(
            "finding",
            f"slope of ln(second / first component) against ln alpha, alpha <= {SMALL:g} (medians of the seeds): the "
            f"order {settings.order}",
            slope(record),
            "within",
            (settings.order - 0.3, settings.order + 0.3),
        ),
        Claim("finding", "share of small starts where the leader leads", float(small.leads.mean()), ">=", 1.0),
        Claim(
            "finding",
            "smallest start: distance to the flow of the leader alone, over |target| (largest, all times)",
            float(smallest.apart.max()),
            "<=",
            1e-2,
        ),
        Claim(
            "finding",
            "smallest start: error over all entries (median of the seeds)",
            float(smallest.error.median()),
            "<=",
            1e-3,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Shares and distances against alpha, each beside alpha^N."""
    settings = records.settings_of(record, Settings)
    made, (share, apart) = drawing.figure(2)
    alpha = record.alpha.values
    for axes, values in ((share, ratios(record)), (apart, record.apart.values)):
        for k in np.flatnonzero(np.isfinite(values[-1])).tolist():
            axes.loglog(
                alpha, values[:, k], marker="o", markersize=4, label=f"seed {settings.seeds[k]}", **drawing.style(k)
            )
    law = np.median(ratios(record)[-1]) * (alpha / alpha[-1]) ** settings.order
    share.loglog(alpha, law, **drawing.THEORY, label=f"slope {settings.order}, the order")
    apart.axhline(1e3 * settings.rtol, **drawing.THEORY, label="1000 times the rtol of the solver")
    for axes in (share, apart):
        axes.legend(fontsize=8)
    drawing.label(
        share, "The other components vanish like alpha^N", "scale alpha of the start", "second / first component"
    )
    drawing.label(
        apart, "The trajectory is that of one component", "scale alpha of the start", "largest distance / |target|"
    )
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    middle = ", ".join(
        f"{x:.0e} at {a:g}" for x, a in zip(np.median(ratios(record), axis=1), record.alpha.values, strict=True)
    )
    away = ", ".join(f"{x:.0e}" for x in record.apart.median(dim="seed").values)
    return (
        f"Left: the second component over the first falls with the start, medians {middle}, a slope of "
        f"{slope(record):.2f} for small starts. Right: the distance to the flow of the leading component alone: {away}."
    )
