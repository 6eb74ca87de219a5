"""Time ranklens beside the best plain code and the papers' formulation, in one run, and write RESULTS.md: `make bench`.

Everything runs on one core, to which the process is pinned. Each row times its computations in turn, several times,
and takes medians. The headline ratio is to the fastest plain code. A row for the machine's limit counts only the
matrix products that the computation cannot do without, at the rate that this core reaches.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import baselines
import torch
from baselines import Baseline

import ranklens as rl
from ranklens.data.pixels import PixelCompletion
from ranklens.dynamics.record import versions
from ranklens.tensors import contract

SEED, TURNS = 0, 5
# Largest relative difference between the results of ranklens and of a baseline, by dtype: some rounding errors.
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}
RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Row:
    """One computation, timed.

    Attributes:
        what: what is computed.
        ours: median seconds of ranklens.
        plain: median seconds of the fastest plain code; None where nothing else computes this.
        plain_code: that code.
        papers: median seconds of the papers' formulation, if it was timed.
        limit: seconds of the matrix products alone at the core's rate.
    """

    what: str
    ours: float
    plain: float | None
    plain_code: str
    papers: float | None
    limit: float | None


def in_turn(calls: Mapping[str, Callable[[], object]], least: float = 0.3) -> dict[str, float]:
    """Return the median seconds per call of several functions, timed in turn so that all meet the same machine."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(TURNS):
        for name, call in calls.items():
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < least:
                call()
                count += 1
            found[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(times) for name, times in found.items()}


def network_cases(
    dtype: torch.dtype,
) -> Iterator[tuple[str, rl.TensorNetwork, Callable[..., list[Baseline]], Callable]]:
    """Yield the networks of the descent rows, with their plain losses and the papers' loss."""
    for n in (16, 64, 256):
        net = rl.deep_matrix((n, n), 3, std=0.1, dtype=dtype)
        yield f"matrix {n} x {n}, depth 3", net, baselines.matrix, baselines.matrix_masks
    yield "CP 16^3, 256 components", rl.cp((16,) * 3, 256, std=0.1, dtype=dtype), baselines.cp, baselines.cp_circuit
    net = rl.hierarchical((8,) * 4, 512, std=0.03, dtype=dtype)
    yield "hierarchical 8^4, width 512", net, baselines.tree, baselines.tree_circuit


def descent_rows(dtype: torch.dtype, rate: float) -> Iterator[Row]:
    """Yield rows for one step of `rl.gradient_descent` with SGD, loss and divergence check included."""
    for what, net, plain, papers in network_cases(dtype):
        target = torch.randn(net.shape, generator=torch.Generator().manual_seed(SEED))
        task = rl.Completion.sample(target, observed=min(2048, target.numel() // 2), seed=SEED)
        values = task.values.to(dtype)
        candidates = plain(net.nodes, task.indices, values)
        for candidate in candidates:
            off = abs(float(candidate.loss().detach() / task.loss(net).detach()) - 1)
            assert off < CLOSE[dtype], f"{what}: the losses differ by {off:.0e}"
        steps = max(100, int(1e9 / (1e6 + 6 * contract.work(net.layout))))  # a run costs some milliseconds at its start
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda: rl.gradient_descent(net, task, optimizer, steps=steps, every=steps, until_loss=0.0)  # noqa: B023
        }
        for candidate in candidates:
            calls[candidate.code] = lambda candidate=candidate: candidate.descend(steps)  # noqa: B023
        too_large = what.startswith("matrix 256")  # its masks would take 0.5 GB
        if not too_large:
            formulation = papers(net.nodes, task.indices, values)
            calls["papers"] = lambda: formulation.descend(2)  # noqa: B023
        times = in_turn(calls)
        code = min((c.code for c in candidates), key=times.__getitem__)
        yield Row(
            f"descent step, {what}, {str(dtype)[6:]}",
            times["ours"] / steps,
            times[code] / steps,
            code,
            None if too_large else times["papers"] / 2,
            3 * 2 * contract.work(net.layout) / rate,
        )


def flow_rows(rate: float) -> Iterator[Row]:
    """Yield rows for gradient flows in float64 at rtol 1e-6."""
    task = rl.Completion.counterexample()

    def two() -> None:
        net = rl.init.product_(rl.deep_matrix((2, 2), 3), 1e-3 * torch.eye(2, dtype=torch.float64))
        rl.gradient_flow(net, task, until_loss=1e-4)

    times = in_turn({"ours": two, "lsoda": lambda: baselines.counterexample_by_lsoda(3, 0.1, 1e-4)})
    yield Row("flow, 2 x 2 example, depth 3, to loss 1e-4", times["ours"], times["lsoda"], "scipy's LSODA", None, None)
    cases = [
        (
            "matrix 64 x 64, rank 5, depth 3",
            lambda: rl.deep_matrix((64, 64), 3),
            rl.targets.low_rank_matrix((64, 64), 5, norm=64.0),
        ),
        ("CP 16^3, rank 5, 256 components", lambda: rl.cp((16,) * 3, 256), rl.targets.cp((16,) * 3, 5)),
        (
            "hierarchical 8^4, rank 3, width 128",
            lambda: rl.hierarchical((8,) * 4, 128, std=1e-2),
            rl.targets.hierarchical((8,) * 4, 3),
        ),
    ]
    for what, make, target in cases:
        problem = rl.Completion.sample(target, observed=2048)
        evaluations = 0

        def run() -> None:
            nonlocal evaluations
            evaluations = rl.gradient_flow(make(), problem).attrs["evaluations"]  # noqa: B023

        seconds = in_turn({"ours": run})["ours"]
        limit = evaluations * 3 * 2 * contract.work(make().layout) / rate
        yield Row(f"flow, {what}, {evaluations:,} gradients", seconds, None, "", None, limit)


def ensemble_row(rate: float) -> Row:
    """Return the row of 256 descents side by side against one by one, both by ranklens."""
    members, steps = 256, 2000
    task = rl.Completion.sample(rl.targets.low_rank_matrix((16, 16), 2), observed=128)
    nets = [rl.deep_matrix((16, 16), 3, std=0.1, seed=seed) for seed in range(members)]
    ensemble = rl.stack(nets)
    together = torch.optim.SGD(ensemble.parameters(), lr=1e-3)
    alone = torch.optim.SGD(nets[0].parameters(), lr=1e-3)
    times = in_turn(
        {
            "ours": lambda: rl.gradient_descent(ensemble, task, together, steps=steps, every=steps, until_loss=0.0),
            "one": lambda: rl.gradient_descent(nets[0], task, alone, steps=steps, every=steps, until_loss=0.0),
        }
    )
    return Row(
        f"{members} descents of matrices 16 x 16, depth 3, {steps:,} steps, float64",
        times["ours"],
        members * times["one"],
        "`rl.gradient_descent` one by one (timed on one member)",
        None,
        members * steps * 3 * 2 * contract.work(nets[0].layout) / rate,
    )


def order_784_row(dtype: torch.dtype) -> Row:
    """Return the row of loss and gradient of CP of order 784 on a batch of 5,000 images of two grey levels."""
    made = torch.Generator().manual_seed(SEED)
    net = rl.init.normal_(rl.cp((2,) * 784, 15, dtype=dtype), std=1e-3, mean=1.0, seed=SEED)
    images = torch.randint(2, (5000, 784), generator=made, dtype=torch.uint8)
    task = PixelCompletion(images, torch.zeros(5000, dtype=dtype))
    table, rows = net.stacks[0].detach().clone().requires_grad_(), images.long()

    def ours() -> torch.Tensor:
        return torch.autograd.grad(task.loss(net), net.stacks)[0]

    def papers() -> torch.Tensor:
        return torch.autograd.grad(baselines.direct_product(table, rows).square().mean(), table)[0]

    difference = float((ours() - papers()).norm() / papers().norm())
    assert difference < CLOSE[dtype] * 10, f"gradients differ by {difference:.0e}"
    reads, logs = images.to(dtype), torch.randn(784, 16, dtype=dtype)
    upstream = torch.randn(5000, 16, dtype=dtype)

    def limit() -> None:
        torch.mm(reads, logs)
        torch.mm(upstream.T, reads)

    times = in_turn({"ours": ours, "papers": papers, "limit": limit}, least=0.6)
    return Row(
        f"CP of order 784, 15 components, batch 5,000, loss and gradient, {str(dtype)[6:]}",
        times["ours"],
        None,
        "",
        times["papers"],
        times["limit"],
    )


def table(rows: list[Row], rates: Mapping[str, float]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Benchmarks",
        "",
        "One core, to which the process is pinned; medians of five turns. **Ratio** is the time of the fastest plain",
        "code divided by the time of ranklens. The papers' formulation computes the same from dense one-hot inputs; it",
        "is no fair baseline, and is shown for scale. The limit counts the matrix products alone, at this core's rate.",
        f"Made by `make bench` on {platform.machine()}. {versions()}.",
        f"This core: {rates['float32'] / 1e9:.0f} GFLOP/s in float32, {rates['float64'] / 1e9:.0f} in float64, "
        f"{rates['copy'] / 1e9:.1f} GB/s copied (bytes read and written).",
        "",
        "| computation | ranklens | plain code | ratio | limit | ranklens / limit | papers' formulation | that code |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ratio = "" if row.plain is None else f"**{row.plain / row.ours:.3g}**"
        over = "" if row.limit is None else f"{row.ours / row.limit:.3g}"
        cells = [row.what, _time(row.ours), _time(row.plain), ratio, _time(row.limit), over, _time(row.papers)]
        lines.append(f"| {' | '.join(cells)} | {row.plain_code} |")
    return "\n".join([*lines, ""])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> None:
    """Time everything and write the page."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rates = {str(dtype)[6:]: baselines.gemm_rate(dtype) for dtype in (torch.float32, torch.float64)}
    rates["copy"] = baselines.copy_rate()
    rows: list[Row] = []
    for dtype in (torch.float32, torch.float64):
        rows += descent_rows(dtype, rates[str(dtype)[6:]])
    rows += flow_rows(rates["float64"])
    rows.append(ensemble_row(rates["float64"]))
    rows += [order_784_row(dtype) for dtype in (torch.float32, torch.float64)]
    page = table(rows, rates)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
