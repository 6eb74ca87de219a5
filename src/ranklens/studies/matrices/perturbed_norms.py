"""Norms to infinity beyond the one example: perturbed observations, larger matrices, other starts, depth 2 in full."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from ranklens import drawing, problems, seeds, theory
from ranklens.dynamics import end_matrix
from ranklens.studies.kit import records, starts
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import measures

TITLE = "Norms to infinity: what happens near the example, in larger matrices, and from other starts"
EXPLANATION = (
    "An observation that is off by eps lets the unobserved entry stop at 1 / eps, where the one fitting matrix of rank "
    "one lies, except from starts that take its wrong sign and never fit; any matrix with one hole whose cofactor is "
    "zero behaves as the example does. From a negative determinant the entry stays small, which at depth 2 is all that "
    "minimizing a norm would ask for."
)
SOURCE = "Razin and Cohen (NeurIPS 2020), Theorem 1, its perturbations and its extension to d x d"


@dataclass(frozen=True)
class Settings:
    """Starts scale * I, with one sign changed for a negative determinant; Gaussian ones for the `seeds`."""

    depths: tuple[int, ...] = (3, 4)
    eps: tuple[float, ...] = (0.5, 0.1, 0.05, 0.01)
    branch_eps: float = 0.1
    sizes: tuple[int, ...] = (3, 4)
    scale: float = 1e-6
    std: float = 1e-3
    until_loss: float = 1e-11
    until_loss_hole: float = 1e-4
    until_loss_recipe: float = 1e-6
    until_time: float = 1e6
    rtol: float = 1e-7
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(eps=(0.5, 0.1, 0.05, 0.01, 0.001), seeds=tuple(range(20)), until_time=1e7),
    "tiny": Settings(
        depths=(3,),
        eps=(0.5,),
        sizes=(3,),
        seeds=(0,),
        until_loss=1e-6,
        until_loss_hole=1e-3,
        until_loss_recipe=1e-2,
        until_time=1e3,
        rtol=1e-7,
    ),
}
MINUTES = {"laptop": 0.5, "paper": 1.0, "tiny": 0.05}
RECIPE = 3  # size of the matrices drawn by the recipe


def run(settings: Settings) -> xr.Dataset:
    """One flow of the end matrix per case; cases are grouped by what they show."""
    cases, runs = [], []
    for case, make in _cases(settings):
        cases.append(case)
        runs.append(make())
    record = records.gather(runs, range(len(runs))).rename(seed="case")
    for name in cases[0]:
        record = record.assign_coords({name: ("case", [case[name] for case in cases])})
    return record


Case = dict[str, Any]


def _cases(settings: Settings) -> list[tuple[Case, Callable[[], xr.Dataset]]]:
    """Descriptions and what makes the runs: perturbed, random starts, larger, by the recipe, and at depth 2."""
    found = []

    def add(group: str, task: problems.Completion, start: Tensor, *, depth: int, eps: float = 0.0, **how: Any) -> None:
        bounds = {"until_loss": settings.until_loss_hole, "rtol": settings.rtol} | how
        case = {"group": group, "depth": depth, "eps": eps, "dimension": len(start), "start_sign": _sign(start)}
        found.append((case, lambda: _one(task, start, depth, bounds)))

    for depth in settings.depths:
        for eps in settings.eps:
            task = problems.Completion.counterexample(eps=eps)
            add("perturbed", task, _start(2, settings.scale, 1), depth=depth, eps=eps, until_loss=settings.until_loss)
    task = problems.Completion.counterexample(eps=settings.branch_eps)
    for seed in settings.seeds:
        start = starts.positive_determinant(3, settings.std, seed).tensor().detach()
        how = {"until_loss": 1e-8, "until_time": settings.until_time, "logarithmic": True}
        add("random start", task, start, depth=3, eps=settings.branch_eps, **how)
    for size in settings.sizes:
        for sign in (1, -1):
            add("larger", problems.Completion.counterexample(d=size), _start(size, settings.std, sign), depth=3)
    for seed in settings.seeds[:3]:
        task = recipe(RECIPE, seed)
        sign = theory.solution_determinant(task).drives_to_infinity
        add(
            "recipe",
            task,
            _start(RECIPE, settings.std, sign),
            depth=3,
            until_loss=settings.until_loss_recipe,
            logarithmic=True,
        )
    task = problems.Completion.counterexample()
    add("depth 2, logarithms", task, _start(2, settings.std, 1), depth=2, logarithmic=True)
    add("depth 2, entries", task, _start(2, settings.std, 1), depth=2)
    add("depth 2, negative", task, _start(2, settings.std, -1), depth=2)
    return found


def recipe(size: int, seed: int) -> problems.Completion:
    """A random matrix with one hole whose cofactor is zero: the block that the hole does not meet has a column less."""
    [W] = seeds.normals([(size, size)], seed, "matrix with a zero cofactor")
    W[1:, -1] = W[1:, 1:-1].sum(dim=1)
    indices = torch.cartesian_prod(torch.arange(size), torch.arange(size))[1:]
    return problems.Completion(indices, W.reshape(-1)[1:], (size, size), loss="half_sse")


def _start(size: int, scale: float, sign: int) -> Tensor:
    start = scale * torch.eye(size, dtype=torch.float64)
    start[1, 1] *= sign  # the entry of the observed 0: other signs would leave an observed 1 behind a saddle
    return start


def _sign(start: Tensor) -> int:
    return int(torch.linalg.slogdet(start).sign)


def _one(task: problems.Completion, start: Tensor, depth: int, how: dict[str, Any]) -> xr.Dataset:
    run = end_matrix.end_matrix_flow(
        start,
        task,
        depth=depth,
        track={
            "hole": lambda W: W[0, 0],
            "effective_rank": measures.effective_rank,
        },
        **how,
    )
    run["smallest"] = run.log_sigma[:, -1]
    return run.drop_vars("log_sigma")


def claims(record: xr.Dataset) -> list[Claim]:
    """The bound and its limit; the branch that never fits; the determinant; larger matrices; depth 2 in full."""
    settings = records.settings_of(record, Settings)
    perturbed, larger, recipes = (_runs(record, group) for group in ("perturbed", "larger", "recipe"))
    bounded = [*perturbed, *_runs(record, "depth 2, logarithms")]
    wrong = [r for r in _runs(record, "random start") if float(r.hole[-1]) < 0]
    [logs], [entries], [negative] = (_runs(record, f"depth 2, {x}") for x in ("logarithms", "entries", "negative"))
    diverging = [*(r for r in larger if int(r.start_sign) > 0), *recipes]
    return [
        Claim(
            "theorem",
            "|w11| over its lower bound (1 - e)^2 / (|eps| + e), e = sqrt(2 loss) (least, at all times)",
            min(_over_bound(r) for r in bounded),
            ">=",
            1 - settings.rtol,
        ),
        Claim(
            "theorem",
            "the determinant keeps the sign of its start, where float64 can tell (least product of the two signs)",
            min(float((r.sign * r.start_sign).min()) for r in [*perturbed[:1], *larger, *recipes, logs]),
            ">=",
            1,
        ),
        *_branch(wrong, settings),
        Claim(
            "finding",
            "|w11| at the end over its limit |z z' / eps| (farthest from 1)",
            max((abs(float(r.hole[-1])) * float(r.eps) for r in perturbed), key=lambda x: abs(x - 1)),
            "within",
            (0.998, 1.002),
        ),
        Claim(
            "finding",
            "one hole with a zero cofactor, 3 x 3 and more: while the loss falls to the last hundredth |w11| grows by "
            "this factor; 1 / sqrt(loss) by 10 (farthest from 10)",
            max((_growth(r) for r in diverging), key=lambda x: abs(x - 10)),
            "within",
            (9.0, 12.0),
        ),
        Claim(
            "finding",
            "effective rank there at the end, whose infimum is 1 although the infimal rank is d - 1 (largest, d x d)",
            max(float(r.effective_rank[-1]) for r in larger if int(r.start_sign) > 0),
            "<=",
            1.3,
        ),
        Claim(
            "finding",
            "from a negative determinant |w11| ends so much smaller (largest ratio to the positive start, d x d)",
            max(_ratio(larger, size) for size in settings.sizes),
            "<=",
            0.5,
        ),
        Claim(
            "finding",
            "depth 2: ln sigma_2 at the end over its law ln sigma_2(0) - w11^2 / 2",
            float(logs.smallest[-1]) / (math.log(settings.std) - float(logs.hole[-1]) ** 2 / 2),
            "within",
            (0.97, 1.03),
        ),
        Claim(
            "finding",
            "depth 2, negative determinant: |w11| at the end, where every norm is least at 0",
            abs(float(negative.hole[-1])),
            "<=",
            0.25,
        ),
        Claim(
            "finding",
            "depth 2 in the entries: rounding decides the sign of the determinant, and |w11| stops at this share",
            abs(float(entries.hole[-1]) / float(logs.hole[-1])),
            "<=",
            0.5,
        ),
    ]


def _branch(wrong: list[xr.Dataset], settings: Settings) -> list[Claim]:
    if not wrong:
        return []
    return [
        Claim(
            "theorem",
            f"{len(wrong)} of {len(settings.seeds)} random starts take the wrong sign of w11, where the loss stays "
            "above eps^2 / 2 (least loss over that)",
            min(float(r.loss[-1]) for r in wrong) / (settings.branch_eps**2 / 2),
            "within",
            (1.0, 1.5),
        ),
        Claim("finding", "and their |w11| at the end (least)", min(-float(r.hole[-1]) for r in wrong), ">=", 1000.0),
    ]


def _runs(record: xr.Dataset, group: str) -> list[xr.Dataset]:
    cases = [record.isel(case=k) for k in range(record.sizes["case"]) if str(record.group[k].item()) == group]
    return [case.isel(row=np.isfinite(case.loss.values)) for case in cases]


def _over_bound(run: xr.Dataset) -> float:
    bound = theory.unobserved_bound(torch.from_numpy(run.loss.values), eps=float(run.eps)).numpy()
    inside = bound > 0
    return float((np.abs(run.hole.values[inside]) / bound[inside]).min()) if inside.any() else math.nan


def _growth(run: xr.Dataset) -> float:
    early = int((run.loss.values <= 100 * run.loss.values[-1]).argmax())
    return abs(float(run.hole[-1]) / float(run.hole[early]))


def _ratio(runs: list[xr.Dataset], size: int) -> float:
    ends = {int(r.start_sign): abs(float(r.hole[-1])) for r in runs if int(r.dimension) == size}
    return ends[-1] / ends[1]


def draw(record: xr.Dataset) -> Figure:
    """The unobserved entry against the loss in every group."""
    settings = records.settings_of(record, Settings)
    made, (limits, branch, larger, two) = drawing.figure(2, 2)
    x = "loss, falling to the right"
    for k, r in enumerate(r for r in _runs(record, "perturbed") if int(r.depth) == settings.depths[0]):
        limits.loglog(r.loss, abs(r.hole), label=f"eps = {float(r.eps):g}", **drawing.style(k))
        limits.axhline(1 / float(r.eps), **drawing.THEORY, label="limit 1 / eps" if k == 0 else None)
    for r in _runs(record, "random start"):
        wrong = float(r.hole[-1]) < 0
        branch.loglog(r.loss, abs(r.hole), **drawing.style(int(wrong)), label="w11 < 0" if wrong else "w11 > 0")
    branch.axvline(settings.branch_eps**2 / 2, **drawing.THEORY, label="loss = eps^2 / 2")
    for r in _runs(record, "larger"):
        k, up = settings.sizes.index(int(r.dimension)), int(r.start_sign) > 0
        style = {"color": drawing.COLOURS[k], "linestyle": "-" if up else ":"}
        larger.loglog(
            r.loss, abs(r.hole), label=f"{int(r.dimension)} x {int(r.dimension)}, det {'>' if up else '<'} 0", **style
        )
    for k, r in enumerate(_runs(record, "recipe")):
        larger.loglog(r.loss, abs(r.hole), color="#999999", label="random, zero cofactor" if k == 0 else None)
    names = {
        "logarithms": "det > 0, ln sigma followed",
        "entries": "det > 0, entries in float64",
        "negative": "det < 0",
    }
    for k, (group, name) in enumerate(names.items()):
        [r] = _runs(record, f"depth 2, {group}")
        two.loglog(r.loss, abs(r.hole), label=name, **drawing.style(k))
    loss = np.geomspace(0.4, settings.until_loss_hole, 100)
    bound = theory.unobserved_bound(torch.from_numpy(loss))
    for axes in (larger, two):
        axes.loglog(loss, bound, **drawing.THEORY, label="proved for 2 x 2, det > 0")
    drawing.label(limits, f"Off by eps: it stops at 1 / eps (depth {settings.depths[0]})", x, "|w11|")
    drawing.label(branch, f"eps = {settings.branch_eps:g}: some starts never fit", x, "|w11|")
    drawing.label(larger, "Larger matrices (depth 3)", x, "|w11|")
    drawing.label(two, "Depth 2, in full", x, "|w11|")
    for axes, bottom in ((limits, 0.03), (branch, 0.03), (larger, 1e-3), (two, 1e-3)):
        axes.set_ylim(bottom=bottom)
        axes.invert_xaxis()
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), fontsize=7)
    return made


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    ends = "; ".join(
        f"eps {float(r.eps):g}, depth {int(r.depth)}: {abs(float(r.hole[-1])):.2f}" for r in _runs(record, "perturbed")
    )
    random = _runs(record, "random start")
    wrong = [r for r in random if float(r.hole[-1]) < 0]
    [logs], [entries] = (_runs(record, f"depth 2, {x}") for x in ("logarithms", "entries"))
    return (
        f"With the observation off by eps the open entry ends at 1 / eps ({ends}). Of {len(random)} random starts "
        f"{len(wrong)} take its wrong sign and stay above a loss of eps^2 / 2 while it grows. In larger matrices it "
        f"grows from one sign of the determinant and not from the other. At depth 2 it follows the bound to "
        f"{float(logs.hole[-1]):.1f}, where ln sigma_2 is {float(logs.smallest[-1]):.0f}; with the entries of float64 "
        f"it stops at {abs(float(entries.hole[-1])):.1f}."
    )
