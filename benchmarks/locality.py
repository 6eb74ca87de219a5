"""Measure the cost of the locality penalty, the bias of its cheaper forms, and the speed and labels of Pathfinder.

    python benchmarks/locality.py [--rounds 5] [--images 10000] [--threads 2] [--out benchmarks/LOCALITY.md]

All variants of a training step are timed in turn within each round. Ratios are of medians over the rounds.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from layers import timed
from torch import Tensor, nn

import ranklens as rl
from ranklens.training import long_range, networks

OUT = Path(__file__).parent / "LOCALITY.md"
# Weight of the penalty; its value does not change the cost.
WEIGHT = 1.0
Term = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def step(model: nn.Module, x: Tensor, y: Tensor, term: Term | None, due: Callable[[], bool]) -> Callable[[], None]:
    """Return a function that takes one step of SGD with momentum.

    Args:
        model: maps images to one logit each.
        x: images.
        y: labels, 0 or 1.
        term: is added to the loss, and is given the model, the images, the labels and the logits of the loss.
        due: whether this step needs the gradient in the images.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        inputs = x.detach().requires_grad_(due())
        output = model(inputs)
        loss = nn.functional.binary_cross_entropy_with_logits(output[:, 0], y)
        if term is not None:
            loss = loss + term(model, inputs, y, output)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def costs(name: str, make: Callable[[], nn.Module], side: int, batch: int, rounds: int) -> list[str]:
    """Return table rows for a training step without the penalty, and with each form of the penalty."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, side, side, generator=made)
    y = torch.randint(2, (batch,), generator=made).float()
    boxes = ((0, 0, 8, 8), (side - 8, side - 8, 8, 8))
    lazy = rl.nn.LocalityPenalty(boxes, weight=WEIGHT, every=8)

    def penalty(**how: object) -> Term:
        return lambda model, x, y, output: WEIGHT * rl.nn.locality_penalty(model, x, patches=boxes, **how)  # type: ignore[arg-type]

    never, always = (lambda: False), (lambda: True)
    variants = {
        "plain": step(make(), x, y, None, never),
        "every step, the loss's forward shared": step(
            make(),
            x,
            y,
            lambda model, x, y, output: rl.nn.locality_penalty(model, x, patches=boxes, output=output),
            always,
        ),
        "every step, a forward of its own": step(make(), x, y, penalty(), never),
        "every step, both forwards concatenated": step(make(), x, y, penalty(concatenated=True), never),
        "every step, a quarter of the batch": step(make(), x, y, penalty(fraction=0.25), never),
        "every 8th step, shared": step(
            make(), x, y, lambda model, x, y, output: lazy(model, x, output=output), lambda: lazy.due
        ),
    }
    seconds = timed(variants, rounds, 8)  # the penalty at every 8th step is evaluated once
    return [f"| {name} | {form} | {1e3 * t:.1f} | {t / seconds['plain']:.2f} |" for form, t in seconds.items()]


def biases(batches: int) -> list[str]:
    """Return table rows for the mean penalty of each form and its mean gradient relative to the full form."""
    task = long_range.same_class("digits", 48, train=2000, test=10, canvas=(8, 64), seed=0)
    model = networks.strided_cnn(1, seed=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    forms: dict[str, dict[str, object]] = {
        "whole batch": {},
        "concatenated": {"concatenated": True},
        "a quarter of the batch": {"fraction": 0.25},
    }
    values = dict.fromkeys(forms, 0.0)
    gradients = {form: [torch.zeros_like(p) for p in parameters] for form in forms}
    for k in range(batches):
        rows = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(k))[:64]
        x = task.train.pictures(rows)
        for form, how in forms.items():
            found = rl.nn.locality_penalty(model, x, patches=task.patches, **how)  # type: ignore[arg-type]
            values[form] += float(found.detach()) / batches
            parts = torch.autograd.grad(found, parameters, allow_unused=True, materialize_grads=True)
            gradients[form] = [total + part for total, part in zip(gradients[form], parts, strict=True)]
    flat = {form: torch.cat([g.flatten() for g in parts]) for form, parts in gradients.items()}
    whole = flat["whole batch"]
    return [
        f"| {form} | {values[form]:.4f} | {float(flat[form] @ whole / (flat[form].norm() * whole.norm())):.3f} | "
        f"{float(flat[form].norm() / whole.norm()):.2f} |"
        for form in forms
    ]


def speed_of_pathfinder(count: int) -> list[str]:
    """Return table rows for images per second, images given up, and labels that the solver disagrees with."""
    found = []
    for side, lengths in ((64, (3, 5, 7, 9)), (150, (3, 5, 7, 9))):
        for length in lengths:
            begun = time.perf_counter()
            made = rl.data.pathfinder(count, length, side, seed=1)
            seconds = time.perf_counter() - begun
            wrong = int((rl.data.trace(made.images) != made.labels).sum())
            found.append(f"| {side} | {length} | {count / seconds:,.0f} | {made.rejected:.1%} | {wrong} of {count:,} |")
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Run all measurements and write the page."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--rounds", type=int, default=5)
    read.add_argument("--images", type=int, default=10_000)
    read.add_argument("--threads", type=int, default=2)
    read.add_argument("--out", type=Path, default=OUT)
    options = read.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# The locality penalty, measured",
        "",
        f"`python benchmarks/locality.py --rounds {options.rounds}`, {options.threads} threads, {platform.machine()}, "
        f"torch {torch.__version__}. Variants are timed in turn, medians; the ratio is to the plain step.",
        "",
        "| network | step | ms | ratio |",
        "|---|---|---:|---:|",
        *costs("CNN of six layers, 32 x 32, batch 64", lambda: networks.strided_cnn(3, seed=0), 32, 64, options.rounds),
        *costs("ResNet-18, 64 x 64, batch 32", lambda: rl.nn.resnet(18), 64, 32, options.rounds),
        "",
        "Forms of the penalty over 50 batches of pairs, before training, batch-norm in training mode: mean "
        "of the penalty, and cosine and norm of the mean gradient relative to the whole batch.",
        "",
        "| form | penalty | cosine | norm |",
        "|---|---:|---:|---:|",
        *biases(50),
        "",
        "Pathfinder on one thread; the solver is given the pixels only.",
        "",
        "| side | dashes | images per second | begun and given up | labels that the solver disagrees with |",
        "|---:|---:|---:|---:|---:|",
    ]
    torch.set_num_threads(1)
    lines += speed_of_pathfinder(options.images)
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
