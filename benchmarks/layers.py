"""Measure what factored layers cost: training steps of a small CNN, of a Linear and of a Conv2d, and of a RankMonitor.

    python benchmarks/layers.py [--rounds 7] [--out benchmarks/LAYERS.md]

All variants of a row are timed in turn within each round. Ratios are of medians over the rounds.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ranklens as rl
from ranklens.nn import composed
from ranklens.training import networks
from ranklens.training.layer_by_layer import LayerByLayer, layer_by_layer

OUT = Path(__file__).parent / "LAYERS.md"


def timed(variants: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, float]:
    """Return the median seconds per call of every variant; the variants are timed in turn.

    Args:
        variants: functions by name; each is called once before the first round.
        rounds: number of rounds.
        repeats: number of calls of each variant in a round.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for _ in range(rounds):
        for name, run in variants.items():
            begun = time.perf_counter()
            for _ in range(repeats):
                run()
            found[name].append((time.perf_counter() - begun) / repeats)
    return {name: statistics.median(values) for name, values in found.items()}


def rows(title: str, seconds: dict[str, float]) -> list[str]:
    """Return a table row per variant: title, name, milliseconds, and the ratio to the variant "plain"."""
    plain = seconds["plain"]
    return [f"| {title} | {name} | {1e3 * t:.2f} | {t / plain:.2f} |" for name, t in seconds.items()]


def step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a function that takes one step of SGD with momentum on the cross entropy."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def small_cnn(rounds: int) -> list[str]:
    """Return rows for a training step of a small CNN: plain, factored in several ways, and collapsed."""
    made = torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32, generator=made), torch.randint(10, (128,), generator=made)
    plain = networks.cnn(32, 3, seed=0)
    kernels = lambda name, layer: isinstance(layer, nn.Conv2d)  # noqa: E731
    deep = rl.nn.overparameterize(plain, kind="expanded", where=kernels)
    one_by_one = layer_by_layer(deep)
    assert torch.allclose(one_by_one(x), deep(x), atol=1e-4)
    last = torch.channels_last
    variants = {
        "plain": step(plain, x, y),
        "plain, channels last": step(copy.deepcopy(plain).to(memory_format=last), x.to(memory_format=last), y),
        "expanded, composed": step(deep, x, y),
        "expanded, composed, channels last": step(
            copy.deepcopy(deep).to(memory_format=last), x.to(memory_format=last), y
        ),
        "depth 3, composed": step(rl.nn.overparameterize(plain, where=kernels), x, y),
        "CP, composed": step(rl.nn.overparameterize(plain, kind="cp", where=kernels, width=64, init=0.1), x, y),
        "collapsed": step(rl.nn.collapse(deep), x, y),
        "expanded, layer by layer": step(one_by_one, x, y),
    }
    return rows("CNN, training step, batch 128", timed(variants, rounds, 3))


def linear(rounds: int) -> list[str]:
    """Return rows for a forward and a backward pass of Linear(1024, 1024), with a gradient in the input.

    A product of three matrices is applied as the library chooses, as a chain of three layers, and as one composed
    weight.
    """
    lines = []
    for batch in (1, 16, 128, 512, 8192):
        made = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 1024, generator=made).requires_grad_()
        plain = nn.Linear(1024, 1024)
        variants = {}
        for name, layer in (("plain", plain), ("depth 3", rl.nn.overparameterize(plain, depth=3))):
            variants[name] = _forward_and_backward(layer, x)
        deep = rl.nn.overparameterize(plain, depth=3)
        variants["depth 3, chain"] = _forced(deep, x, True)
        variants["depth 3, composed"] = _forced(deep, x, False)
        for name, kind in _tltorch(plain).items():
            variants[name] = _forward_and_backward(kind, x)
        lines += rows(f"Linear(1024, 1024), batch {batch}", timed(variants, rounds, 1 if batch > 512 else 3))
    return lines


def conv(rounds: int) -> list[str]:
    """Return rows for a forward and a backward pass of Conv2d(64, 64, 3) on 16 x 16 positions."""
    lines = []
    for batch in (1, 16, 128, 512):
        made = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 64, 16, 16, generator=made).requires_grad_()
        plain = nn.Conv2d(64, 64, 3, padding=1)
        variants = {"plain": _forward_and_backward(plain, x)}
        for name, options in (
            ("depth 3", {"depth": 3}),
            ("CP, width 64", {"kind": "cp", "width": 64, "init": 0.1}),
            ("expanded", {"kind": "expanded"}),
        ):
            deep = rl.nn.overparameterize(plain, **options)
            variants[name] = _forward_and_backward(deep, x)
            if name == "expanded":
                variants["expanded, layer by layer"] = _forward_and_backward(LayerByLayer(deep), x)
        variants["collapsed"] = _forward_and_backward(rl.nn.collapse(deep), x)
        for name, layer in _tltorch(plain).items():
            variants[name] = _forward_and_backward(layer, x)
        lines += rows(f"Conv2d(64, 64, 3), 16 x 16, batch {batch}", timed(variants, rounds, 1))
    return lines


def _forward_and_backward(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a function that runs a forward and a backward pass of the sum of the outputs."""

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).sum().backward()

    return run


def _forced(layer: nn.Module, x: Tensor, chain: bool) -> Callable[[], None]:
    """Return `_forward_and_backward` with the factors applied one by one (`chain`) or composed, whichever is faster."""
    plain = _forward_and_backward(layer, x)

    def run() -> None:
        chosen = composed.by_chain
        composed.by_chain = lambda rows, factors: chain
        try:
            plain()
        finally:
            composed.by_chain = chosen

    return run


def _tltorch(plain: nn.Module) -> dict[str, nn.Module]:
    """Return layers of tensorly-torch with a tenth of the parameters of a plain layer; none if it is not installed."""
    try:
        import tltorch
    except ImportError:
        return {}
    found = {}
    for way in ("factorized", "reconstructed"):
        settings: dict[str, Any] = {"rank": 0.1, "factorization": "cp", "implementation": way}
        if isinstance(plain, nn.Linear):
            made = tltorch.FactorizedLinear((32, 32), (32, 32), **settings)
        else:
            made = tltorch.FactorizedConv(64, 64, 3, order=2, padding=1, **settings)
        nn.init.normal_(made.weight.factors[0], std=0.1)
        found[f"tensorly-torch CP, {way}"] = made
    return found


def monitor(rounds: int) -> list[str]:
    """Return rows on the time that a RankMonitor takes in 600 training steps of the CNN, and on its accuracy."""
    made = torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32, generator=made), torch.randint(10, (128,), generator=made)
    model = networks.cnn(32, 3, seed=0)
    watch = rl.nn.RankMonitor(model, every=200, activations=("0", "3", "6"))
    run = step(model, x, y)
    for _ in range(600):
        run()
        watch.step()
    watch.finish()
    record = watch.record()
    exact = rl.nn.rank_profile(model)
    worst = max(
        abs(float(record.effective_rank[-1].sel(part=name)) / float(exact.effective_rank.sel(weight=name)) - 1)
        for name in exact.weight.values
    )
    share, profiles = record.attrs["share"], record.sizes["step"]
    return [
        f"| RankMonitor, 600 steps of the CNN | share of the time | {100 * share:.2f}% | {profiles} profiles |",
        f"| RankMonitor | effective rank against the exact one, largest relative difference | {worst:.1e} | |",
    ]


def main() -> None:
    """Run the chosen parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=("cnn", "linear", "conv", "monitor"))
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    parts = {"cnn": small_cnn, "linear": linear, "conv": conv, "monitor": monitor}
    lines = [
        f"Made by `python benchmarks/layers.py`, {chosen.threads} thread(s), torch {torch.__version__}.",
        "",
        "| measured | layer | milliseconds | over plain |",
        "|---|---|---:|---:|",
    ]
    for name, part in parts.items():
        if not chosen.only or name in chosen.only:
            found = part(chosen.rounds)
            print("\n".join(found), flush=True)
            lines += found
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
