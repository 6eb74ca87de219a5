"""Time ranklens beside what a user would write, in one run, and write RESULTS.md: `make bench`."""

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import baselines
import torch

import ranklens as rl
from ranklens.dynamics.record import versions
from ranklens.tensors import contract
from ranklens.threads import threads

SEED = 0
CLOSE = 1e-4  # relative, in float32: two rows that differ by more do not compute the same
RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Row:
    """One comparison: medians in seconds, how often, and what the baseline computes."""

    what: str
    ours: float
    theirs: float
    baseline: str
    agree: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times ours is faster."""
        return self.theirs / self.ours


def paired(ours: Callable[[], object], theirs: Callable[[], object], *, least: float = 6.0) -> tuple[float, float]:
    """Medians over blocks of calls of two functions, in turns, so that both meet the same machine, each warm."""
    found: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    while time.perf_counter() - begun < least or len(found[0]) < 5:
        for function, times in zip((ours, theirs), found, strict=True):
            function()
            start, calls = time.perf_counter(), 0
            while calls < 2 or time.perf_counter() - start < 0.5:
                function()
                calls += 1
            times.append((time.perf_counter() - start) / calls)
    return statistics.median(found[0]), statistics.median(found[1])


def step(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> Callable[[], None]:
    """One optimizer step on a loss, with the talk's optimizer."""
    optimizer = rl.optim.GroupRMSprop(parameters, lr=1e-6)

    def take() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return take


def as_descent_runs(net: rl.TensorNetwork, take: Callable[[], None]) -> Callable[[], None]:
    """On as many threads as `gradient_descent` chooses."""

    def run() -> None:
        with threads(contract.work(net.layout)):
            take()

    return run


def descent_rows() -> list[Row]:
    """A descent step against dense one-hot inputs, float32, the same optimizer, from the same values."""
    cases = [
        ("matrix 64 x 64, depth 3", rl.deep_matrix((64, 64), 3, std=0.1, dtype=torch.float32)),
        ("CP 16^3, 256 components", rl.cp((16,) * 3, 256, std=0.1, dtype=torch.float32)),
        ("hierarchical 8^4, width 512", rl.hierarchical((8,) * 4, 512, std=0.03, dtype=torch.float32)),
    ]
    rows = []
    for what, net in cases:
        made = torch.Generator().manual_seed(SEED)
        target = torch.randn(net.shape, generator=made)
        task = rl.Completion.sample(target, observed=2048, seed=SEED)
        values, own = task.values.float(), [node.detach().clone() for node in net.nodes]
        if what.startswith("matrix"):
            masks = baselines.dense_masks(task.indices, net.shape, torch.float32)
            parts = [node.requires_grad_() for node in own]
            kind = "(masks (2048, 64, 64) * W).sum, W = W3 @ W2 @ W1"

            def theirs(parts: list = parts, masks: torch.Tensor = masks, values: torch.Tensor = values) -> torch.Tensor:
                return baselines.matrix_loss(parts, masks, values)

        else:
            inputs = baselines.one_hot(task.indices, net.shape, torch.float32)
            if what.startswith("CP"):
                parts = [node.requires_grad_() for node in own]
                loss_of, kind = baselines.cp_loss, "bnd,ndr->bnr over (2048, 3, 16), (3, 16, 256); product; sum"
            else:
                stacked = [torch.stack(own[:4]), torch.stack(own[4:6]), own[6]]
                parts = [node.requires_grad_() for node in stacked]
                loss_of = baselines.tree_loss
                kind = "bnd,ndr->bnr over (2048, 4, 8), (4, 8, 512); pool; (2048, 2, 512), (2, 512, 512); pool; @ root"

            def theirs(parts=parts, inputs=inputs, values=values, loss_of=loss_of) -> torch.Tensor:
                return loss_of(parts, inputs, values)

        def ours(net: rl.TensorNetwork = net, task: rl.Completion = task) -> torch.Tensor:
            return task.loss(net)

        with torch.no_grad():
            off = abs(float(ours()) / float(theirs()) - 1)
        assert off < CLOSE, f"{what}: the losses differ by {off:.0e}"
        agree = f"losses differ by {off:.0e}"
        a, b = paired(as_descent_runs(net, step(ours, list(net.parameters()))), step(theirs, parts))
        rows.append(Row(f"descent step, {what}, float32, 2,048 entries", a, b, kind, agree))
    return rows


def flow_row() -> Row:
    """Gradient flow to loss 1e-4 on the 2 x 2 against a plain loop, timed on 1% of the steps that it needs."""
    start, lr, depth = 0.1, 3e-3, 3
    net = rl.deep_matrix((2, 2), depth)
    task = rl.Completion.counterexample()

    def ours() -> float:
        rl.init.product_(net, start**depth * torch.eye(2, dtype=torch.float64))
        return float(rl.gradient_flow(net, task, until_loss=1e-4).time[-1])

    needed = round(ours() / lr)
    some = needed // 100
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        ours()
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    baselines.counterexample_descent(depth, start, lr, some)
    theirs = (time.perf_counter() - begun) * needed / some
    return Row(
        "gradient flow to loss 1e-4, 2 x 2, depth 3",
        statistics.median(times),
        theirs,
        f"autograd loop, step {lr:g}, {needed:,} steps",
        "time of the flow / step = steps of the loop",
        f"projected from {some:,} of them",
    )


def order_784_row(dtype: torch.dtype) -> Row:
    """CP of order 784, batch 5,000, 15 components, forward and gradient, against the direct product."""
    made = torch.Generator().manual_seed(SEED)
    net = rl.init.normal_(rl.cp((2,) * 784, 15, dtype=dtype), std=1e-3, mean=1.0, seed=SEED)
    rows = torch.randint(2, (5000, 784), generator=made)
    table = net.stacks[0].detach().clone().requires_grad_()

    def ours() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(net.entries(rows).square().mean(), net.stacks)
        return gradient

    def theirs() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(baselines.direct_product(table, rows).square().mean(), table)
        return gradient

    a, b = paired(ours, theirs, least=12.0)
    difference = float((ours() - theirs()).norm() / theirs().norm())
    assert difference < CLOSE
    return Row(
        f"CP of order 784, batch 5,000, 15 components, forward + gradient, {str(dtype).removeprefix('torch.')}",
        a,
        b,
        "table[n, rows] (5000, 784, 15).prod(1).sum(1)",
        f"gradients differ by {difference:.0e}",
    )


def table(rows: list[Row]) -> str:
    """The Markdown page."""
    lines = [
        "# Benchmarks",
        "",
        "Each row times ranklens and what a user would write instead (`baselines.py`) in one run: medians of blocks in",
        "turns, but for the plain loop of the flow's row, whose steps are timed in part and projected.",
        f"Made by `make bench` on {platform.machine()}, {torch.get_num_threads()} threads. {versions()}.",
        "",
        "| what | ranklens | baseline | ratio | the baseline | check |",
        "|---|---:|---:|---:|---|---|",
    ]
    for row in rows:
        kind = f"`{row.baseline}`{'; ' + row.note if row.note else ''}"
        lines.append(
            f"| {row.what} | {_time(row.ours)} | {_time(row.theirs)} | **{row.ratio:,.0f}x** | {kind} | {row.agree} |"
        )
    return "\n".join([*lines, ""])


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def main() -> None:
    rows = [*descent_rows(), flow_row(), order_784_row(torch.float64), order_784_row(torch.float32)]
    assert all(math.isfinite(row.ratio) for row in rows)
    page = table(rows)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
