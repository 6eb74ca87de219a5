"""Descent of a network on observed entries from a small initialization, stopped by held-out entries."""

import math
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ranklens.completers.entries import entries, predict, spectra
from ranklens.completers.observed import Observed
from ranklens.dynamics.optim import GroupRMSprop
from ranklens.progress import reporter
from ranklens.seeds import stream
from ranklens.tensors import measures
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads

# Number of entries up to which a step takes all of them.
WHOLE = 2**20
# Entries per step for larger data.
BATCH = 2**18
# Steps between two evaluations of the held-out loss.
EVERY = 25
# Decay of the optimizer's average of the squared gradient norm. A short memory lets the step size follow the gradient
# at once when a plateau ends.
MEMORY = 0.9
# Added to the gradient norm: small enough for the tiny gradients of a plateau.
EPS = 1e-30
# An improvement of the held-out loss resets patience only if it is at least 1% of the loss ...
BETTER = 0.99
# ... and at least this share of the initial held-out loss. The polish refines further than a descent would.
GAIN = 1e-3
# Training loss, relative to the initial one, at which the data count as fitted and the descent ends.
FITTED = 1e-6
# Training loss, relative to the initial one, above which the plateau of the initialization has not been left.
ESCAPED = 0.98
# Evaluations that the descent waits for at least, after the plateau, whatever its patience.
LEAST_WAIT = 4
# Values of every spectrum that the profile records.
RECORDED = 32


@dataclass(frozen=True)
class Descended:
    """The result of a descent.

    Attributes:
        best: the network at the step of least held-out loss.
        last: the network at the end. It fits the training entries better, and after a polish it may also predict
            better.
        step: the step of least held-out loss; 0 if no loss was finite.
        held_out: the held-out mean squared error at that step; infinite if no loss was finite.
        stopped: "held-out" if the held-out loss no longer improved, "fitted" if the training loss vanished, "steps" if
            the number of steps was reached, "nan" if the loss was not finite.
        profile: a Dataset over `step`, with one row per evaluation. Its variables are `train_loss` (mean squared error
            of the training entries, averaged over the steps since the row before), `held_out_loss` (mean squared
            error of the held-out entries), `standing` over (step, standing_rank), and `effective_rank`. For a deep
            matrix `standing` has the singular values of the end matrix in descending order; for other networks the
            component norms of a bond in descending order. With several bonds, `standing_0`, `standing_1` and so on
            are for the bonds in the order of `net.bonds`, and so is `effective_rank_0`.
    """

    best: TensorNetwork
    last: TensorNetwork
    step: int
    held_out: float
    stopped: str
    profile: xr.Dataset


@dataclass(frozen=True)
class Evaluation:
    """Losses of a descent, evaluated at a step.

    Attributes:
        step: the step.
        train_loss: mean squared error of the training entries, averaged over the steps since the last evaluation.
        held_out_loss: mean squared error of the held-out entries.
    """

    step: int
    train_loss: float
    held_out_loss: float


@dataclass
class StoppingRule:
    r"""The rule that ends a descent.

    A small initialization is a plateau, and further plateaus follow, one per component. On a plateau no loss changes,
    so a patience counted in steps would end the run there. The patience is therefore proportional to what came before.
    Let s_0 be the step at which the training loss had left its initial plateau, and s* the step at which the held-out
    loss last improved by enough. The descent stops at step s when

        the plateau has been left   and   s > patience * max(s*, s_0) + 4 EVERY.

    Attributes:
        patience: the factor above.
        first: the evaluation at step 0.
        improved: the last evaluation at which the held-out loss improved by enough.
        escape: the step s_0, or None before the plateau is left.
    """

    patience: float
    first: Evaluation | None = None
    improved: Evaluation | None = None
    escape: int | None = None

    def reason(self, now: Evaluation) -> str | None:
        """Return why the descent should stop after an evaluation: "held-out" or "fitted"; None if it should go on.

        Args:
            now: the evaluation; successive calls get the evaluations in the order of their steps.
        """
        if self.first is None or self.improved is None:
            self.first = self.improved = now
        least = self.improved.held_out_loss
        if now.held_out_loss < min(BETTER * least, least - GAIN * self.first.held_out_loss):
            self.improved = now
        if self.escape is None and now.train_loss < ESCAPED * self.first.train_loss:
            self.escape = now.step
        if self.escape is not None:
            waited_for = max(self.improved.step, self.escape)
            if now.step > self.patience * waited_for + LEAST_WAIT * EVERY:
                return "held-out"
        return "fitted" if now.train_loss < FITTED * self.first.train_loss else None


@dataclass
class _Trace:
    """What a descent remembers along the way.

    Attributes:
        best: the evaluation of least held-out loss, or None before the first.
        values: the parameters there.
        evaluations: all evaluations.
        spectra: the largest values of the network's spectra, at every evaluation.
    """

    best: Evaluation | None
    values: list[Tensor]
    evaluations: list[Evaluation] = field(default_factory=list)
    spectra: list[list[Tensor]] = field(default_factory=list)

    def add(self, now: Evaluation, net: TensorNetwork) -> None:
        """Take note of an evaluation of a network."""
        self.evaluations.append(now)
        self.spectra.append([spectrum[:RECORDED].cpu() for spectrum in spectra(net)])
        if now.held_out_loss < (math.inf if self.best is None else self.best.held_out_loss):
            self.best, self.values = now, _values(net)

    def profile(self, net: TensorNetwork) -> xr.Dataset:
        """Return the evaluations and the spectra as a Dataset over the steps."""
        data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            "train_loss": (("step",), np.array([now.train_loss for now in self.evaluations])),
            "held_out_loss": (("step",), np.array([now.held_out_loss for now in self.evaluations])),
        }
        by_bond = list(zip(*self.spectra, strict=True))
        for k, steps in enumerate(by_bond):
            suffix = "" if len(by_bond) == 1 else f"_{k}"
            values = torch.stack(steps).double()
            data[f"standing{suffix}"] = (("step", f"standing{suffix}_rank"), values.numpy())
            data[f"effective_rank{suffix}"] = (("step",), measures.effective_rank_of(values).numpy())
        steps_of_rows = [now.step for now in self.evaluations]
        return xr.Dataset(data, coords={"step": steps_of_rows}, attrs={"network": repr(net)})


def descend(
    net: TensorNetwork,
    train: Observed,
    held_out: Observed,
    *,
    lr: float,
    steps: int,
    patience: float,
    batch_size: int | None = None,
    seed: int = 0,
) -> Descended:
    r"""Fit a network to entries by GroupRMSprop, from its present values, until `StoppingRule` or `steps` ends it.

    The optimizer divides the gradient by its own norm, so every step has about the same length. A plateau is then
    crossed in about as many steps however flat it is.

    Args:
        net: a network of any floating-point dtype, left at the step of least held-out loss.
        train: entries to fit. Values should be of order one.
        held_out: entries whose loss decides when to stop.
        lr: length of a step.
        steps: number of steps, at most.
        patience: number by which `StoppingRule` multiplies the step of the last improvement, to get the step at which
            it ends the descent.
        batch_size: entries per step. None takes all of up to 2^20 entries, and 2^18 of more.
        seed: seed of the order of mini-batches, which is drawn anew for every pass over the entries.

    Returns:
        The networks at the best and at the last step, and the course of the descent.
    """
    size = batch_size or (len(train) if len(train) <= WHOLE else BATCH)
    optimizer = GroupRMSprop(net.parameters(), lr=lr, beta=MEMORY, eps=EPS)
    batches = _batches(train, size, seed)
    rule, trace = StoppingRule(patience), _Trace(None, _values(net))
    stopped: str | None = None
    losses: list[float] = []
    started = clock.perf_counter()
    work = size * sum(math.prod(shape) / max(shape) for shape in net.layout.shapes)
    with threads(work), reporter(None) as report, torch.enable_grad():
        for step in range(steps + 1):
            batch = next(batches)
            loss = (entries(net, batch.indices) - batch.values.to(net.dtype)).square().mean()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                stopped = "nan"
            elif step % EVERY == 0 or step == steps:
                now = Evaluation(step, sum(losses) / len(losses), _loss(net, held_out))
                losses.clear()
                trace.add(now, net)
                stopped = rule.reason(now)
                seconds = clock.perf_counter() - started
                report(f"held-out rmse {math.sqrt(now.held_out_loss):.4g}, step {step} of {steps}, {seconds:.0f} s")
            if stopped or step == steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _result(net, trace, stopped or "steps")


def _result(net: TensorNetwork, trace: _Trace, stopped: str) -> Descended:
    """Return the result of a descent that ended at the network's present values; the network gets its best ones."""
    last = net.with_nodes(net.nodes)
    with torch.no_grad():
        for stack, kept in zip(net.stacks, trace.values, strict=True):
            stack.copy_(kept)
    best = trace.best
    return Descended(
        best=net.with_nodes(net.nodes),
        last=last,
        step=0 if best is None else best.step,
        held_out=math.inf if best is None else best.held_out_loss,
        stopped=stopped,
        profile=trace.profile(net),
    )


def _values(net: TensorNetwork) -> list[Tensor]:
    """Return a copy of the parameters of a network."""
    return [stack.detach().clone() for stack in net.stacks]


def _loss(net: TensorNetwork, observed: Observed) -> float:
    """Return the mean squared error of a network at observed entries."""
    return observed.minus(predict(net, observed.indices)).mean_square()


def _batches(train: Observed, size: int, seed: int) -> Iterator[Observed]:
    """Cut the entries into mini-batches without end, in a new random order for every pass over them.

    Args:
        train: the entries.
        size: entries per batch. All entries make one batch, in their own order, if there are no more of them.
        seed: seed of the orders.

    Yields:
        One mini-batch after the other.
    """
    if size >= len(train):
        while True:
            yield train
    generator = stream(seed, "order of mini-batches")
    while True:
        order = torch.randperm(len(train), generator=generator)
        for k in range(len(train) // size):
            yield train.take(order[k * size : (k + 1) * size].to(train.values.device))
