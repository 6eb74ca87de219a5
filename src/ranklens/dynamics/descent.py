"""Gradient descent: a plain loop around any torch optimizer."""

import math
import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ranklens.dynamics.checkpoint import UNFINISHED, Checkpoint
from ranklens.dynamics.ensemble import descend_together
from ranklens.dynamics.gradient import LossGradient
from ranklens.dynamics.record import (
    Cost,
    Outcome,
    Recorder,
    Track,
    is_early,
    numpy,
    run_attributes,
    warn_if_early,
)
from ranklens.problems.problem import BatchedProblem, Problem, check_problem
from ranklens.progress import Report, reporter
from ranklens.seeds import stream
from ranklens.tensors import arguments, contract
from ranklens.tensors.annotations import checked
from ranklens.tensors.ensemble import Ensemble
from ranklens.tensors.network import TensorNetwork, check_network
from ranklens.threads import threads

# Loss at which a descent stops by default: the default of `gradient_flow`.
SMALL_LOSS = 5e-5


@torch.enable_grad()
@checked
def gradient_descent(  # noqa: PLR0913  (what ends a run, what it records, how it steps)
    net: TensorNetwork | Ensemble,
    task: Problem | BatchedProblem | Sequence[Problem],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 10_000,
    until_loss: float | None = None,
    every: int = 25,
    batch_size: int | None = None,
    seed: int = 0,
    track: Track | None = None,
    resume: xr.Dataset | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    """Take optimizer steps on the loss of a network; the network is left at its last state.

    Row t of the record belongs to the parameters after t steps. Rows are recorded at every multiple of `every` and at
    the end, and only there is the loss compared with `until_loss`. With mini-batches the recorded loss is still that
    of the whole problem.

    Args:
        net: the network, of any floating-point dtype, on any device; or networks side by side from `rl.stack`, which
            are descended together, faster than one by one, each stopped by itself.
        task: a problem: an object with a differentiable `loss(net)`; for mini-batches it also has `subset(rows)` and
            a length. For an ensemble one problem for all members, or a list of one per member.
        optimizer: a torch optimizer over `net.parameters()` whose step needs no closure.
        steps: take at most this many steps; a resumed run counts those before it.
        until_loss: stop when the recorded loss is this small; None for 5e-5, without a warning if it is not reached.
        every: record at the multiples of this many steps.
        batch_size: number of observations per step, from a new seeded shuffle in every epoch; None takes all.
        seed: seed of the shuffles.
        track: {name: function of the network that returns a number, tensor or array, always of one shape}; it is
            evaluated under no_grad in every recorded row.
        resume: the record of an earlier descent: go on from its last state with the state of its optimizer, bit by
            bit as if it had not been interrupted, and return both as one.
        progress: True for a status line on the terminal; or a function that is called with that line; None for none.

    Returns:
        A Dataset with coordinate `step`, variables `loss` and the tracked ones along it, `state` (all trained
        parameters at the end, as one vector) and the state of the optimizer. Its attributes are "stopped", "message"
        (details of "stopped"), "evaluations" (of a gradient), "steps", "seconds", "solver" (the optimizer),
        "batch_size" (0 for all), "seed", "until_loss", "early" (1 after a warning `StoppedEarly` or an interrupt, else
        0), "network", "loss_function" and "versions". "stopped" is "loss", "steps", or "nan": the descent diverged, and
        network and record end at the last recorded row before that. The record of an ensemble has a dimension `member`;
        rows after the end of a member hold NaN, and `stopped` and `steps` are variables, one per member.

        Ctrl-C raises a KeyboardInterrupt whose attribute `record` holds the record up to the last row.

    Raises:
        TypeError: for a task that is no problem, something that is no optimizer, LBFGS (which needs a closure), or
            counts that are no integers.
        ValueError: for counts below one, an optimizer of other parameters or of another kind than the record's, or
            fewer steps than the resumed record has.

    Warns:
        StoppedEarly: if the descent ends by "nan", or by "steps" although a positive `until_loss` was passed.

    Source: the experiments of Razin and Cohen (NeurIPS 2020) and of Razin, Maman, Cohen (ICML 2021, 2022).

    >>> import ranklens as rl
    >>> target = rl.targets.low_rank_matrix((10, 10), rank=1)
    >>> task, net = rl.Completion.sample(target, observed=60), rl.deep_matrix((10, 10), depth=3, std=1e-2)
    >>> run = rl.gradient_descent(net, task, rl.optim.GroupRMSprop(net.parameters(), lr=1e-2), until_loss=1e-3)
    >>> run.attrs["stopped"], bool(rl.effective_rank(net.tensor().detach()) < 1.01)
    ('loss', True)
    """
    until_loss = None if until_loss is None else arguments.number("until_loss", until_loss, finite=False)
    small, goal = (SMALL_LOSS, 0.0) if until_loss is None else (until_loss, until_loss)
    if isinstance(net, Ensemble):
        if batch_size is not None or resume is not None:
            raise ValueError(
                "an ensemble takes all observations in every step, from its start: leave out batch_size "
                "and resume, or descend its networks one by one"
            )
        arguments.count("steps", steps)
        arguments.count("every", every)
        return descend_together(
            net,
            task,
            optimizer,
            steps=steps,
            small=small,
            goal=goal,
            every=every,
            track=track,
            progress=progress,
        )
    if isinstance(task, Sequence):
        raise TypeError("task is a list; one network has one problem, and rl.stack makes networks that have several")
    check_problem(task)
    _check(net, optimizer, steps, every, batch_size)
    checkpoint, started = Checkpoint(net, resume, "step", track), clock.perf_counter()
    if checkpoint.finished is not None:
        _restore(net, optimizer, checkpoint.finished)
        return checkpoint.finished
    resume = checkpoint.resume
    recorder, before = Recorder("step", track, resume), Cost.of(resume)
    first = int(recorder.start)
    if resume is not None:
        if steps < first:
            raise ValueError(f"steps is {steps}, and the record has {first} already; steps count from the first")
        _restore(net, optimizer, resume)
    batches = None if batch_size is None else _batches(_batched(task), batch_size, seed, first)
    descent = _Descent(net, task, optimizer, recorder, first, steps, every, small)

    def record(stopped: str, message: str = "") -> xr.Dataset:
        step, seconds = descent.kept.step, before.seconds + clock.perf_counter() - started
        outcome = Outcome(stopped, message, Cost(before.evaluations + step - first, step, seconds))
        attrs = run_attributes(
            outcome,
            task,
            network=repr(net),
            solver=f"{type(optimizer).__name__} {_numbers(optimizer)}",
            until_loss=small,
            early=is_early(stopped, goal),
            batch_size=0 if batch_size is None else batch_size,
            seed=seed,
        )
        optimizer_state = {} if stopped in ("nan", "interrupted") else _optimizer_state(optimizer)
        return recorder.result(outcome, {"state": _flat(net), **optimizer_state}, attrs, step)

    with threads(contract.work(net.layout)), reporter(progress) as report:
        stopped, message = descent.go(batches, checkpoint.watch(report, lambda: record(UNFINISHED)))
    warn_if_early(Outcome(stopped, message, Cost()), descent.kept.loss, goal)
    return checkpoint.end(record(stopped, message))


@dataclass(frozen=True)
class _Kept:
    """The parameters in the latest recorded row: a descent that diverges goes back to them."""

    step: int
    loss: float
    stacks: list[Tensor]


class _Descent:
    """The loop of one descent, from its first step to the last."""

    def __init__(
        self,
        net: TensorNetwork,
        task: Problem | BatchedProblem,
        optimizer: torch.optim.Optimizer,
        recorder: Recorder[TensorNetwork],
        first: int,
        steps: int,
        every: int,
        until_loss: float,
    ) -> None:
        self.net, self.task, self.optimizer, self.recorder = net, task, optimizer, recorder
        self.first, self.steps, self.every, self.until_loss = first, steps, every, until_loss
        self.gradient = LossGradient(net, task)
        self.on_cpu = net.device.type == "cpu"  # elsewhere reading the loss of every step would wait for the device
        self.kept = self._keep(first, math.nan)

    def go(self, batches: Iterator[Tensor] | None, report: Report) -> tuple[str, str]:
        """Run the loop until it ends or Ctrl-C is pressed.

        Returns:
            Why it stopped: the reason in one word, and its details.
        """
        try:
            return self._go(batches, report)
        except KeyboardInterrupt:  # possibly amid a step of the optimizer, so the latest row is the last whole state
            self._go_back()
            return "interrupted", f"interrupted from the keyboard; the state is that of step {self.kept.step}"

    def _go(self, batches: Iterator[Tensor] | None, report: Report) -> tuple[str, str]:
        value = 0.0  # the latest loss that was read
        for step in range(self.first, self.steps + 1):
            rows = None if batches is None else next(batches)
            recorded = self._is_recorded(step)
            if not self.gradient.is_current:
                self.gradient = LossGradient(self.net, self.task)
            if recorded and (rows is not None or step == self.steps):
                value = float(self.gradient.loss())
            if step < self.steps:
                loss = self._differentiate(rows)
                if rows is None and (recorded or self.on_cpu):
                    value = float(loss)
            if not math.isfinite(value):
                self._go_back()
                return "nan", f"the loss is not finite at step {step}; take a smaller lr"
            if recorded:
                self.recorder.add(step, value, self.net)
                self.kept = self._keep(step, value)
                report(f"loss {value:.2e} of {self.until_loss:.0e}, step {step} of {self.steps}")
                if value <= self.until_loss:
                    return "loss", ""
            if step < self.steps:
                self.optimizer.step()
        return "steps", ""

    def _differentiate(self, rows: Tensor | None) -> Tensor:
        """Write the gradient at the present parameters to their `grad`, and return the loss without a graph."""
        if not self.gradient.is_planned(rows):  # a problem may have parameters of its own, which autograd reaches
            self.optimizer.zero_grad()
            loss = self.gradient.loss_with_graph(rows)
            loss.backward()
            return loss.detach()
        loss = self.gradient(rows)
        for stack, part in zip(self.gradient.trained, self.gradient.parts, strict=True):
            if stack.grad is not part:
                stack.grad = part
        return loss

    def _is_recorded(self, step: int) -> bool:
        """Return whether a step gets a row: multiples of `every`, the last, and the first step of a new run."""
        begins = self.recorder.before is None and not len(self.recorder)
        return step % self.every == 0 or step == self.steps or begins

    def _keep(self, step: int, loss: float) -> _Kept:
        return _Kept(step, loss, [stack.detach().clone() for stack in self.net.stacks])

    def _go_back(self) -> None:
        """Give the network the parameters of the latest row, and record a row if there is none at all."""
        with torch.no_grad():
            for stack, parameters in zip(self.net.stacks, self.kept.stacks, strict=True):
                stack.copy_(parameters)
        if self.recorder.before is None and not len(self.recorder):
            self.recorder.add(self.kept.step, math.nan, self.net)


def _batched(task: Problem | BatchedProblem) -> BatchedProblem:
    if not isinstance(task, BatchedProblem):
        raise TypeError(
            f"task is a {type(task).__name__} without subset(rows) and len(); mini-batches need both: leave out "
            f"batch_size, or add them"
        )
    return task


def _batches(task: BatchedProblem, size: int, seed: int, first: int) -> Iterator[Tensor]:
    """Yield the rows of the observations of one step after the other, from step `first` on.

    A shuffle depends only on the seed and the epoch, so that a run can resume at any step.
    """
    per_epoch = math.ceil(len(task) / size)
    epoch, position = divmod(first, per_epoch)
    while True:
        order = torch.randperm(len(task), generator=stream(seed, f"shuffle of epoch {epoch}"))
        for k in range(position, per_epoch):
            yield order[k * size : (k + 1) * size]
        epoch, position = epoch + 1, 0


def _flat(net: TensorNetwork) -> NDArray[np.generic]:
    return numpy(torch.cat([stack.detach().reshape(-1) for stack in net.stacks if stack.requires_grad]))


def _restore(net: TensorNetwork, optimizer: torch.optim.Optimizer, record: xr.Dataset) -> None:
    """Give the network and the optimizer the final states of a record."""
    before, now = str(record.attrs["solver"]).split(" ", maxsplit=1)[0], type(optimizer).__name__
    if before != now:
        raise ValueError(f"the record was made with {before}, and the optimizer is a {now}; go on with the same")
    state = torch.from_numpy(np.array(record["state"].values))
    trained = [stack for stack in net.stacks if stack.requires_grad]
    count = sum(stack.numel() for stack in trained)
    if len(state) != count:
        raise ValueError(f"the record's state has {len(state)} parameters, this network {count}; resume its own")
    with torch.no_grad():
        for stack, part in zip(trained, state.split([stack.numel() for stack in trained]), strict=True):
            stack.copy_(part.view_as(stack))
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name in record.variables:
        kind, _, rest = str(name).partition("|")
        if kind == "optimizer":
            k, _, key = rest.partition("|")
            whole["state"].setdefault(int(k), {})[key] = torch.from_numpy(np.array(record[name].values))
    optimizer.load_state_dict(whole)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, ArrayLike]:
    """Return the optimizer's tensors as variables named ``optimizer|parameter|name``."""
    found: dict[str, ArrayLike] = {}
    for k, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                found[f"optimizer|{k}|{key}"] = numpy(value) if isinstance(value, Tensor) else value
    return found


def _numbers(optimizer: torch.optim.Optimizer) -> str:
    """Return the numeric settings of the optimizer's first group that are not zero, as text."""
    group = optimizer.param_groups[0]
    shown = {key: value for key, value in group.items() if isinstance(value, (int, float)) and value not in (0, False)}
    return ", ".join(f"{key}={value:g}" for key, value in shown.items())


def _check(
    net: TensorNetwork, optimizer: torch.optim.Optimizer, steps: int, every: int, batch_size: int | None
) -> None:
    for name, value in {"steps": steps, "every": every, "batch_size": batch_size}.items():
        if value is not None or name != "batch_size":
            arguments.count(name, value)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("LBFGS needs a closure; take an optimizer whose step evaluates the loss once")
    own = {id(stack) for stack in check_network("net", net).stacks if stack.requires_grad}
    if not own & {id(p) for group in optimizer.param_groups for p in group["params"]}:
        raise ValueError("the optimizer has none of the network's parameters; make it with net.parameters()")
