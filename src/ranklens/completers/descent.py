"""Descent from a small start, stopped by entries that are held out, and what stands on the way."""

import math
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ranklens.completers.entries import copied, entries, predict, spectra
from ranklens.completers.seen import Seen
from ranklens.dynamics.optim import GroupRMSprop
from ranklens.progress import reporter
from ranklens.seeds import stream
from ranklens.tensors import measures
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

WHOLE = 2**20  # up to so many entries a step takes them all
BATCH = 2**18  # beyond, so many
EVERY = 25  # steps from one look at the held-out entries to the next
MEMORY = 0.9  # of the squared gradient norm: plateaus are short, for the step follows the gradient's size at once
BETTER = 0.99  # of the held-out loss: less of a gain does not put off the end,
GAIN = 1e-3  # nor does less than this of the loss at the start: what follows refines better than a descent
FITTED = 1e-6  # of the loss at the start: there is nothing left to stand up
ESCAPED = 0.98  # of the loss at the start: above it, the small start's plateau has not been left
KEPT = 32  # values of every spectrum in the profile


@dataclass(frozen=True)
class Descended:
    """Where a descent was best on held-out entries, and where it ended.

    Attributes:
        best: the network at that point.
        last: the network at the end, which has fitted more: not always less well, once it is refined.
        step: of the best.
        held_out: mean squared error there.
        stopped: "held-out" | "fitted" | "steps" | "nan".
        profile: Dataset over `step` with train, held_out and spectra.
    """

    best: TensorNetwork
    last: TensorNetwork
    step: int
    held_out: float
    stopped: str
    profile: xr.Dataset


def descend(
    net: TensorNetwork,
    train: Seen,
    held_out: Seen,
    *,
    lr: float,
    steps: int,
    look_back: float,
    batch_size: int | None = None,
    seed: int = 0,
) -> Descended:
    r"""GroupRMSprop from where the network is.

    A small start is a plateau, and others follow it, one per component. On a plateau no loss moves, so patience in
    steps would end the run there. Two things prevent that: steps have an even length (the gradient is divided by its
    own norm, so a plateau is crossed in about as many steps however flat it is), and patience is in proportion to
    what came before: with s_0 the step at which the loss had left its start, and s* that of the best held-out loss,

        stop at s when   loss has left its start   and   s > look_back max(s*, s_0) + 4 EVERY.

    Args:
        net: a network of any floating-point dtype; values should be of order one.
        train: entries to fit.
        held_out: entries that decide when to stop.
        lr: distance moved per step.
        steps: at most.
        look_back: factor above.
        batch_size: entries per step; None takes all up to 2^20, else 2^18 in a new seeded order in every pass.
        seed: of the order.
    """
    size = batch_size or (len(train) if len(train) <= WHOLE else BATCH)
    optimizer = GroupRMSprop(net.parameters(), lr=lr, beta=MEMORY, eps=1e-30)
    batches = _batches(train, size, seed)
    rows: list[tuple[int, float, float, list[Tensor]]] = []
    best, best_state, left, stopped, total, count, step = math.inf, _state(net), None, "steps", 0.0, 0, 0
    best_step, last_gain, gained = 0, 0, math.inf
    started = clock.perf_counter()
    work = size * sum(math.prod(shape) / max(shape) for shape in net.layout.shapes)
    with threads(work), reporter(None) as report, torch.enable_grad():
        for step in range(steps + 1):
            batch = next(batches)
            loss = (entries(net, batch.indices) - batch.values.to(net.dtype)).square().mean()
            total, count = total + float(loss.detach()), count + 1
            if not math.isfinite(total):
                stopped = "nan"
                break
            if step % EVERY == 0 or step == steps:
                held = float((predict(net, held_out.indices) - held_out.values).square().mean())
                rows.append((step, total / count, held, [s[:KEPT].cpu() for s in spectra(net)]))
                if held < best:
                    best, best_step, best_state = held, step, _state(net)
                if held < min(BETTER * gained, gained - GAIN * rows[0][2]) or step == 0:
                    gained, last_gain = held, step
                if left is None and total / count < ESCAPED * rows[0][1]:
                    left = step
                seconds = clock.perf_counter() - started
                report(f"held-out rmse {math.sqrt(held):.4g}, step {step} of {steps}, {seconds:.0f} s")
                if left is not None and step > look_back * max(last_gain, left) + 4 * EVERY:
                    stopped = "held-out"
                    break
                if total / count < FITTED * rows[0][1]:
                    stopped = "fitted"
                    break
                total, count = 0.0, 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    last = copied(net)
    with torch.no_grad():
        for stack, kept in zip(net.stacks, best_state, strict=True):
            stack.copy_(kept)
    return Descended(copied(net), last, best_step, best, stopped, _profile(net, rows))


def _state(net: TensorNetwork) -> list[Tensor]:
    return [stack.detach().clone() for stack in net.stacks]


def _batches(train: Seen, size: int, seed: int) -> Iterator[Seen]:
    """All entries, or in every pass a new order of them cut into equal parts."""
    if size >= len(train):
        while True:
            yield train
    made = stream(seed, "order of mini-batches")
    while True:
        order = torch.randperm(len(train), generator=made)
        for k in range(len(train) // size):
            yield train.at(order[k * size : (k + 1) * size].to(train.values.device))


def _profile(net: TensorNetwork, rows: list[tuple[int, float, float, list[Tensor]]]) -> xr.Dataset:
    """What was seen along the way, as a record."""
    steps = [row[0] for row in rows]
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "train_loss": (("step",), np.array([row[1] for row in rows])),
        "held_out_loss": (("step",), np.array([row[2] for row in rows])),
    }
    for k in range(len(rows[0][3]) if rows else 0):
        name = "standing" if len(rows[0][3]) == 1 else f"standing_{k}"
        values = torch.stack([row[3][k] for row in rows]).double()
        data[name] = (("step", f"{name}_rank"), values.numpy())
        found = measures.effective_rank_of(values)
        data[f"effective_rank{name.removeprefix('standing')}"] = (("step",), found.numpy())
    return xr.Dataset(data, coords={"step": steps}, attrs={"network": repr(net)})
