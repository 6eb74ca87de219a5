"""A 2 x 2 completion where fitting drives every norm to infinity and the effective rank to its infimum."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing, problems, theory
from ranklens.dynamics import flow
from ranklens.studies.kit import records, starts
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import measures

TITLE = "Rank, not norms: all norms grow to infinity while the rank is minimized"
EXPLANATION = (
    "Three entries of a 2 x 2 matrix are observed, and every matrix that fits them has a determinant of -1; gradient "
    "flow of a deep factorization cannot change the sign of its determinant, so from a positive one it can only fit by "
    "sending the unobserved entry, and with it every norm and quasi-norm, to infinity. What it minimizes on the way is "
    "the effective rank, which falls to 1, and the distance to matrices of rank one, which falls to 0."
)
SOURCE = "Razin and Cohen (NeurIPS 2020), Theorem 1 and figure 1, with sharper bounds and the exact growth"


@dataclass(frozen=True)
class Settings:
    """Balanced starts whose product is Gaussian with a positive determinant.

    At depth 2 the smaller singular value falls as exp(-w^2 / 2) and is soon smaller than any error, after which the
    sign of the determinant is left to chance: there the flow is more exact and ends earlier.
    """

    depths: tuple[int, ...] = (2, 3, 4)
    std: float = 1e-3
    until_loss: float = 1e-4
    until_loss_depth_2: float = 2e-2
    rtol_depth_2: float = 1e-10
    rtol: float = 1e-6
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(std=1e-6),
    "tiny": Settings(depths=(3,), seeds=(0,)),
}
MINUTES = {"laptop": 0.2, "paper": 0.2, "tiny": 0.05}
NORMS = {0.25: "p = 1/4", 0.5: "p = 1/2", 1.0: "nuclear", 2.0: "Frobenius", math.inf: "spectral"}
LEAST_NUCLEAR = 2.0  # nuclear norm of the fitting matrix with a 0 in the hole, which has the least


def run(settings: Settings) -> xr.Dataset:
    """One flow per depth and seed, with the matrix, its singular values and the sign of its determinant."""
    parts = []
    for depth in settings.depths:
        runs = [_one(settings, depth, seed) for seed in settings.seeds]
        parts.append(records.gather(runs, settings.seeds))
    attrs = parts[0].attrs
    record = xr.concat(parts, dim="depth", join="outer").assign_coords(depth=list(settings.depths))
    record.attrs = attrs
    return record


def _one(settings: Settings, depth: int, seed: int) -> xr.Dataset:
    return flow.gradient_flow(
        starts.positive_determinant(depth, settings.std, seed),
        problems.Completion.counterexample(),
        until_loss=settings.until_loss_depth_2 if depth == 2 else settings.until_loss,
        rtol=settings.rtol_depth_2 if depth == 2 else settings.rtol,
        track={
            "hole": lambda net: net.tensor()[0, 0].abs(),
            "singular": lambda net: measures.singular_values(net.tensor()),
            "effective_rank": lambda net: measures.effective_rank(net.tensor()),
            # of the product it would be lost in rounding
            "sign": lambda net: torch.stack([torch.linalg.slogdet(node).sign for node in net.nodes]).prod(),
        },
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """The proved bounds at every recorded time, and the growth that follows from them."""
    settings = records.settings_of(record, Settings)
    runs = _runs(record)
    proved = [(r, theory.bounds_2x2(torch.from_numpy(r.loss.values))) for _, r in runs]
    deep = [(depth, r) for depth, r in runs if depth > 2]
    found = [
        Claim(
            "theorem", "the determinant stays positive (least sign)", min(float(r.sign.min()) for _, r in runs), ">=", 1
        ),
        Claim(
            "theorem",
            "|w11| over its lower bound (1 - e)^2 / e, e = sqrt(2 loss) (least, at all times of all runs)",
            min(float((r.hole.values / b.w11.clamp_min(1e-300).numpy()).min()) for r, b in proved),
            ">=",
            1.0,
        ),
        Claim(
            "theorem",
            "every Schatten norm over the same bound, p from 1/4 to infinity (least, at all times of all runs and p)",
            min(float((schatten(r, p) / b.w11.clamp_min(1e-300).numpy()).min()) for r, b in proved for p in NORMS),
            ">=",
            1.0,
        ),
        Claim(
            "theorem",
            "distance to rank one over its upper bound sqrt(2 loss) (largest)",
            max(float((r.singular.values[:, 1] / b.sigma2.numpy()).max()) for r, b in proved),
            "<=",
            1.0,
        ),
        Claim(
            "theorem",
            "effective rank over its upper bound (largest)",
            max(float((r.effective_rank.values / b.effective_rank.numpy()).max()) for r, b in proved),
            "<=",
            1.0,
        ),
    ]
    if deep:
        found += [
            Claim(
                "finding",
                "depth 3 and more: 2 loss w11^2 at the end (farthest from 1)",
                max((float(2 * r.loss[-1] * r.hole[-1] ** 2) for _, r in deep), key=lambda x: abs(x - 1)),
                "within",
                (0.99, 1.01),
            ),
            Claim(
                "finding",
                "depth 3 and more: growth of |w11|^(2 + 2/depth) in time after loss 1e-2, over the law's 2 depth + 2 "
                "(farthest from 1)",
                max((_growth(depth, r) for depth, r in deep), key=lambda x: abs(x - 1)),
                "within",
                (0.98, 1.02),
            ),
            Claim(
                "finding",
                f"depth 3 and more: nuclear norm at loss {settings.until_loss:g} over that of the least fitting one",
                min(float(r.singular[-1].sum()) / LEAST_NUCLEAR for _, r in deep),
                ">=",
                0.99 / (2 * settings.until_loss) ** 0.5 / LEAST_NUCLEAR,
            ),
        ]
    return found


def schatten(run: xr.Dataset, p: float) -> NDArray[np.float64]:
    """The Schatten norm of every row, a quasi-norm for p < 1."""
    return measures.schatten_norm(torch.diag_embed(torch.from_numpy(run.singular.values)), p).numpy()


def _runs(record: xr.Dataset) -> list[tuple[int, xr.Dataset]]:
    return [
        (int(depth), records.rows(record.sel(depth=depth), int(seed)))
        for depth in record.depth.values
        for seed in record.seed.values
    ]


def _growth(depth: int, run: xr.Dataset) -> float:
    late = run.isel(row=run.loss.values <= 1e-2)
    power = late.hole.values ** (2 + 2 / depth)
    return float((power[-1] - power[0]) / (late.time.values[-1] - late.time.values[0]) / (2 * depth + 2))


def draw(record: xr.Dataset) -> Figure:
    """Everything against the loss, which falls from left to right; and the growth in time."""
    made, (hole, norms, rank, law) = drawing.figure(2, 2)
    seed = int(record.seed.values[0])
    runs = [(int(depth), records.rows(record.sel(depth=depth), seed)) for depth in record.depth.values]
    for k, (depth, r) in enumerate(runs):
        style = drawing.style(k)
        hole.loglog(r.loss, r.hole, label=f"depth {depth}", **style)
        law.loglog(r.time, r.hole, label=f"depth {depth}", **style)
        late = r.isel(row=r.loss.values <= 1e-1)
        x0, t0 = float(late.hole[0]), float(late.time[0])
        at = late.time.values
        power = x0 ** (2 + 2 / depth) + (2 * depth + 2) * (at - t0)
        name = "law: ((2L + 2) t)^(L / (2L + 2))" if k == 0 else None
        law.loglog(at, power ** (depth / (2 * depth + 2)), **drawing.THEORY, label=name)
    loss = _losses(runs)
    proved = theory.bounds_2x2(torch.from_numpy(loss))
    hole.loglog(loss, proved.w11, **drawing.THEORY, label="proved: at least")
    _, deepest = runs[-1]
    s = deepest.singular.values
    for k, (p, name) in enumerate(NORMS.items()):
        norms.loglog(deepest.loss, schatten(deepest, p), label=name, **drawing.style(k))
    norms.loglog(loss, proved.w11, **drawing.THEORY, label="proved: at least")
    rank.loglog(deepest.loss, deepest.effective_rank - 1, color=drawing.COLOURS[0], label="effective rank - 1")
    rank.loglog(loss, proved.effective_rank - 1, **drawing.THEORY, label="proved: at most")
    rank.loglog(deepest.loss, s[:, 1], color=drawing.COLOURS[1], linestyle="-.", label="distance to rank one")
    rank.loglog(loss, proved.sigma2, color="#000000", linestyle=":", linewidth=1.3, label="proved: at most")
    depth = runs[-1][0]
    drawing.label(hole, f"The unobserved entry (seed {seed})", "loss, falling to the right", "|w11|")
    drawing.label(norms, f"Every norm grows (depth {depth})", "loss, falling to the right", "norm")
    drawing.label(rank, f"The rank is minimized (depth {depth})", "loss, falling to the right", "above its infimum")
    drawing.label(law, "Growth in time, and its law", "time of the gradient flow", "|w11|")
    for axes in (hole, norms, rank):
        axes.set_xlim(1.0, float(loss.min()))
    for axes in (hole, norms, law):
        axes.set_ylim(bottom=0.05)
    law.set_xlim(left=1.0)
    for axes in (hole, norms, rank, law):
        axes.legend(fontsize=7)
    return made


def _losses(runs: list[tuple[int, xr.Dataset]]) -> NDArray[np.float64]:
    least = min(float(r.loss.min()) for _, r in runs)
    return np.geomspace(0.45, least, 200)


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    runs = [(depth, r) for depth, r in _runs(record) if int(r.seed) == int(record.seed.values[0])]
    _, last = runs[-1]
    ends = "; ".join(f"depth {d}: {float(r.hole[-1]):.1f} at loss {float(r.loss[-1]):.0e}" for d, r in runs)
    return (
        f"As the loss falls, the unobserved entry grows without bound along the proved lower bound ({ends}); all "
        f"Schatten norms and quasi-norms grow with it; effective rank falls to {float(last.effective_rank[-1]):.4f} "
        f"and the distance to rank one to {float(last.singular[-1, 1]):.1e}, both below their proved upper bounds; in "
        f"time the entry follows its power law."
    )
