"""Descent of a network on observed entries from a small initialization, stopped by held-out entries."""

import math
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import nn

from ranklens.completers.candidates import number_grown
from ranklens.completers.entries import EntriesAt, spectra
from ranklens.completers.factors import is_factored
from ranklens.completers.gradient import Gradient, squared_error
from ranklens.completers.observed import Observed
from ranklens.completers.start import narrowed, widened
from ranklens.completers.stopping import OVERFITTED, WAIT, Evaluation, StoppingRule
from ranklens.progress import reporter
from ranklens.seeds import stream
from ranklens.tensors import measures
from ranklens.tensors.init import is_chain
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
# Values of every spectrum that the profile records.
RECORDED = 32
# Components that a deep matrix has at the beginning. It gets more as soon as half of them have grown, because the
# components that have not grown cost time and hardly change the product.
FIRST_WIDTH = 32
# Training loss, relative to the initial one, below which a bond may be widened. Before, all components are of about one
# size, and too many count as grown.
SPREAD = 0.9
# Components that a CP factorization keeps, in units of those that have grown, but at least `FIRST_WIDTH`. A random
# start needs many, of which a few are close to a direction of growth; what grows later is among the largest.
KEPT = 4


@dataclass(frozen=True)
class Descended:
    """The result of a descent.

    Attributes:
        best: the network at the step of least held-out loss.
        last: the network at the end. It fits the training entries better, and after a polish it may also predict
            better.
        step: the step of least held-out loss; 0 if no loss was finite.
        held_out: the held-out mean squared error at that step; infinite if no loss was finite.
        stopped: "worse", "settled", "held-out" or "fitted", as `StoppingRule` explains; "steps" if the number of steps
            was reached, "nan" if the loss was not finite.
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


@dataclass
class _Trace:
    """The evaluations of a descent so far, and the best network among them.

    Attributes:
        net: the network at the evaluation of least held-out loss, or at the beginning.
        best: the evaluation of least held-out loss, or None before the first.
        evaluations: all evaluations.
    """

    net: TensorNetwork
    best: Evaluation | None = None
    evaluations: list[Evaluation] = field(default_factory=list)

    def add(self, now: Evaluation, net: TensorNetwork) -> None:
        """Take note of an evaluation of a network."""
        self.evaluations.append(now)
        if now.held_out_loss < (math.inf if self.best is None else self.best.held_out_loss):
            self.best, self.net = now, _copy(net)

    def needs_width(self, net: TensorNetwork, widest: int) -> bool:
        """Return whether more than half of a narrow bond has grown while the held-out loss was still falling."""
        width, now = net.layout.sizes[net.bonds[0]], self.evaluations[-1]
        if width >= widest or self.best is None or now.step > self.best.step + WAIT:
            return False
        if now.train_loss > SPREAD * self.evaluations[0].train_loss:
            return False
        (standing,) = now.spectra
        return number_grown(standing) > width // 2

    def width_to_keep(self, net: TensorNetwork) -> int:
        """Return the number of components to keep of a CP factorization, or 0 if it is to stay as wide as it is."""
        if is_chain(net) or not is_factored(net):
            return 0
        (standing,) = self.evaluations[-1].spectra
        kept = max(KEPT * number_grown(standing), FIRST_WIDTH)
        return kept if 2 * kept <= len(standing) else 0

    def profile(self, net: TensorNetwork) -> xr.Dataset:
        """Return the evaluations and the spectra as a Dataset over the steps."""
        data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            "train_loss": (("step",), np.array([now.train_loss for now in self.evaluations])),
            "held_out_loss": (("step",), np.array([now.held_out_loss for now in self.evaluations])),
        }
        recorded = [[spectrum[:RECORDED].cpu() for spectrum in now.spectra] for now in self.evaluations]
        by_bond = list(zip(*recorded, strict=True))
        for k, steps in enumerate(by_bond):
            suffix = "" if len(by_bond) == 1 else f"_{k}"
            values = nn.utils.rnn.pad_sequence(list(steps), batch_first=True).double()  # a bond may have been widened
            data[f"standing{suffix}"] = (("step", f"standing{suffix}_rank"), values.numpy())
            data[f"effective_rank{suffix}"] = (("step",), measures.effective_rank_of(values).numpy())
        steps_of_rows = [now.step for now in self.evaluations]
        return xr.Dataset(data, coords={"step": steps_of_rows}, attrs={"network": repr(net)})


@dataclass
class _Trained:
    """A network in training, with the gradient of its loss.

    The steps are those of `GroupRMSprop`. They are taken here because the first optimizer of torch that a process makes
    imports a compiler, which takes longer than most fits, and with the running mean as a number of Python, because a
    torch operation on one number takes longer than the arithmetic.

    Attributes:
        net: the network.
        gradient: the mean squared error of the training entries.
        square: running mean of the squared norm of the gradient, with the decay rate `MEMORY`, from zero.
        steps: number of steps so far.
    """

    net: TensorNetwork
    gradient: Gradient
    square: float = 0.0
    steps: int = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take a step of about the length `lr` along the gradient that was evaluated last."""
        squared = sum(float(part.norm()) ** 2 for part in self.gradient.parts)
        self.square += (1 - MEMORY) * (squared - self.square)
        self.steps += 1
        norm = math.sqrt(self.square / (1 - MEMORY**self.steps)) + EPS
        for stack, part in zip(self.net.stacks, self.gradient.parts, strict=True):
            stack.sub_(part, alpha=lr / norm)


def descend(
    net: TensorNetwork,
    train: Observed,
    held_out: Observed,
    *,
    lr: float,
    steps: int,
    patience: float,
    batch_size: int | None = None,
    widest: int = 0,
    seed: int = 0,
) -> Descended:
    r"""Fit a network to entries by steps of `GroupRMSprop`, from its present values, until `StoppingRule` ends it.

    Every gradient is divided by its own norm, so every step has about the same length. A plateau is then
    crossed in about as many steps however flat it is.

    Args:
        net: a network of any floating-point dtype. It is not changed.
        train: entries to fit. Values should be of order one.
        held_out: entries whose loss decides when to stop.
        lr: length of a step.
        steps: number of steps, at most.
        patience: number by which `StoppingRule` multiplies the step of the last improvement, to get the step at which
            it ends the descent.
        batch_size: entries per step. None takes all of up to 2^20 entries, and 2^18 of more.
        widest: size up to which the bonds of a deep matrix are doubled, each time that half of its components have
            grown. At most the present size, or 0, leaves them as they are.
        seed: seed of the order of mini-batches, which is drawn anew for every pass over the entries.

    Returns:
        The networks at the best and at the last step, and the course of the descent.
    """
    size = batch_size or (len(train) if len(train) <= WHOLE else BATCH)
    if size < len(train):  # neighbours in the memory are then no neighbours in the tensor
        shuffled = torch.randperm(len(train), generator=stream(seed, "order of the entries"))
        train = train.take(shuffled.to(train.values.device))
    batches = _batches(len(train), size, seed)
    net, at_held_out = _copy(net), EntriesAt(held_out.indices)
    trained = _Trained(net, squared_error(net, train))
    rule = StoppingRule(patience, OVERFITTED if is_chain(net) else math.inf)
    trace = _Trace(trained.net)
    stopped: str | None = None
    losses: list[float] = []
    started = clock.perf_counter()
    work = size * sum(math.prod(shape) / max(shape) for shape in net.layout.shapes)
    with threads(work), reporter(None) as report:
        for step in range(steps + 1):
            rows = next(batches)
            losses.append(float(trained.gradient(rows)))
            if not math.isfinite(losses[-1]):
                stopped = "nan"
            elif step % EVERY == 0 or step == steps:
                error = held_out.minus(at_held_out(trained.net)).mean_square()
                now = Evaluation(step, sum(losses) / len(losses), error, spectra(trained.net))
                losses.clear()
                trace.add(now, trained.net)
                stopped = rule.reason(now)
                seconds = clock.perf_counter() - started
                report(f"held-out rmse {math.sqrt(now.held_out_loss):.4g}, step {step} of {steps}, {seconds:.0f} s")
            if stopped or step == steps:
                break
            resized = trained.net
            if step % EVERY == 0 and widest and trace.needs_width(resized, widest):
                resized = widened(resized, train, widest, seed=seed)
            elif step % EVERY == 0 and (kept := trace.width_to_keep(resized)):
                resized = narrowed(resized, kept)
            if resized is not trained.net:
                trained = replace(trained, net=resized, gradient=squared_error(resized, train))
                trained.gradient(rows)
            trained.step(lr)
    return _result(trained.net, trace, stopped or "steps")


def _result(net: TensorNetwork, trace: _Trace, stopped: str) -> Descended:
    """Return the result of a descent that ended at the network's present values."""
    best = trace.best
    return Descended(
        best=trace.net,
        last=net,
        step=0 if best is None else best.step,
        held_out=math.inf if best is None else best.held_out_loss,
        stopped=stopped,
        profile=trace.profile(net),
    )


def _copy(net: TensorNetwork) -> TensorNetwork:
    """Return a network of the same values in memory of its own."""
    return net.with_nodes([node.detach().clone() for node in net.nodes])


def _batches(count: int, size: int, seed: int) -> Iterator[slice | None]:
    """Cut observations into mini-batches without end, in a new random order for every pass over them.

    The mini-batches are the same in every pass, so that what is computed from their positions is computed once: to
    sort them takes longer than a gradient. The observations should be in random order.

    Args:
        count: number of observations.
        size: observations per batch, at most. If there are no more than that, all make one batch.
        seed: seed of the orders.

    Yields:
        The observations of one mini-batch after the other; None for a batch of all observations.
    """
    if size >= count:
        while True:
            yield None
    generator, number = stream(seed, "order of mini-batches"), math.ceil(count / size)
    edges = [k * count // number for k in range(number + 1)]
    while True:
        for k in torch.randperm(number, generator=generator).tolist():
            yield slice(edges[k], edges[k + 1])
