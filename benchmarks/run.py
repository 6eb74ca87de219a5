"""Time ranklens and the baselines that a user would write, in one run, and write RESULTS.md: `make bench`."""

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
# Largest relative difference between the results of ranklens and of a baseline: some float32 rounding errors.
CLOSE = 1e-4
RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Row:
    """One comparison of ranklens with a baseline.

    Attributes:
        what: what is computed.
        ours: median seconds of ranklens.
        theirs: median seconds of the baseline.
        baseline: what the baseline computes, as code.
        agree: how the results agree.
        note: a restriction of the comparison.
    """

    what: str
    ours: float
    theirs: float
    baseline: str
    agree: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """Seconds of the baseline over seconds of ranklens."""
        return self.theirs / self.ours


def paired(ours: Callable[[], object], theirs: Callable[[], object], *, least: float = 6.0) -> tuple[float, float]:
    """Return the median seconds per call of two functions, timed in turn so that both run under equal load.

    Args:
        ours: the first function.
        theirs: the second function.
        least: seconds for which the timing continues at least.
    """
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
    """Return a function that takes one step of GroupRMSprop on a loss."""
    optimizer = rl.optim.GroupRMSprop(parameters, lr=1e-6)

    def take() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return take


def as_descent_runs(net: rl.TensorNetwork, take: Callable[[], None]) -> Callable[[], None]:
    """Return the function run on as many threads as `gradient_descent` would choose for the network."""

    def run() -> None:
        with threads(contract.work(net.layout)):
            take()

    return run


@dataclass(frozen=True)
class Baseline:
    """A loss in plain PyTorch, its parameters, and the loss as code."""

    loss: Callable[[], torch.Tensor]
    parameters: list[torch.Tensor]
    code: str


def matrix_baseline(net: rl.TensorNetwork, task: rl.Completion) -> Baseline:
    """Return the loss of a deep matrix factorization from dense masks."""
    masks, values = baselines.dense_masks(task.indices, net.shape, torch.float32), task.values.float()
    parts = [node.detach().clone().requires_grad_() for node in net.nodes]
    code = "(masks (2048, 64, 64) * W).sum, W = W3 @ W2 @ W1"
    return Baseline(lambda: baselines.matrix_loss(parts, masks, values), parts, code)


def cp_baseline(net: rl.TensorNetwork, task: rl.Completion) -> Baseline:
    """Return the loss of a CP factorization from one-hot inputs."""
    inputs, values = baselines.one_hot(task.indices, net.shape, torch.float32), task.values.float()
    parts = [node.detach().clone().requires_grad_() for node in net.nodes]
    code = "bnd,ndr->bnr over (2048, 3, 16), (3, 16, 256); product; sum"
    return Baseline(lambda: baselines.cp_loss(parts, inputs, values), parts, code)


def tree_baseline(net: rl.TensorNetwork, task: rl.Completion) -> Baseline:
    """Return the loss of a hierarchical factorization of four modes from one-hot inputs."""
    inputs, values = baselines.one_hot(task.indices, net.shape, torch.float32), task.values.float()
    own = [node.detach().clone() for node in net.nodes]
    parts = [node.requires_grad_() for node in (torch.stack(own[:4]), torch.stack(own[4:6]), own[6])]
    code = "bnd,ndr->bnr over (2048, 4, 8), (4, 8, 512); pool; (2048, 2, 512), (2, 512, 512); pool; @ root"
    return Baseline(lambda: baselines.tree_loss(parts, inputs, values), parts, code)


def descent_rows() -> list[Row]:
    """Return rows for an optimizer step in float32, from equal values, against dense one-hot inputs."""
    cases = [
        ("matrix 64 x 64, depth 3", rl.deep_matrix((64, 64), 3, std=0.1, dtype=torch.float32), matrix_baseline),
        ("CP 16^3, 256 components", rl.cp((16,) * 3, 256, std=0.1, dtype=torch.float32), cp_baseline),
        (
            "hierarchical 8^4, width 512",
            rl.hierarchical((8,) * 4, 512, std=0.03, dtype=torch.float32),
            tree_baseline,
        ),
    ]
    rows = []
    for what, net, make in cases:
        target = torch.randn(net.shape, generator=torch.Generator().manual_seed(SEED))
        task = rl.Completion.sample(target, observed=2048, seed=SEED)
        baseline = make(net, task)

        def ours(net: rl.TensorNetwork = net, task: rl.Completion = task) -> torch.Tensor:
            return task.loss(net)

        with torch.no_grad():
            off = abs(float(ours()) / float(baseline.loss()) - 1)
        assert off < CLOSE, f"{what}: the losses differ by {off:.0e}"
        a, b = paired(
            as_descent_runs(net, step(ours, list(net.parameters()))), step(baseline.loss, baseline.parameters)
        )
        title = f"descent step, {what}, float32, 2,048 entries"
        rows.append(Row(title, a, b, baseline.code, f"losses differ by {off:.0e}"))
    return rows


def flow_row() -> Row:
    """Return a row for gradient flow to loss 1e-4 against a plain loop, of which 1% of the steps are timed."""
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
    """Return a row for the gradient of a CP factorization of order 784 against a direct product."""
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
    """Return the Markdown page."""
    lines = [
        "# Benchmarks",
        "",
        "Each row times ranklens and what a user would write instead (`baselines.py`) in one run, in turn; times are",
        "medians. Of the plain loop in the row of the flow, a part of the steps is timed and the total is projected.",
        f"Made by `make bench` on {platform.machine()}, {torch.get_num_threads()} threads. {versions()}.",
        "",
        "| computation | ranklens | baseline | ratio | baseline as code | check |",
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
    """Run all comparisons and write the page."""
    rows = [*descent_rows(), flow_row(), order_784_row(torch.float64), order_784_row(torch.float32)]
    assert all(math.isfinite(row.ratio) for row in rows)
    page = table(rows)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
