"""Gradient descent: one plain loop around any torch optimizer."""

import math
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ranklens.dynamics.record import Recorder, Track, numpy
from ranklens.progress import Report, reporter
from ranklens.seeds import stream
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork
from ranklens.threads import threads


@torch.enable_grad()
def gradient_descent(  # noqa: PLR0913  (what ends a run, what it records, how it steps)
    net: TensorNetwork,
    task: Any,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 10_000,
    until_loss: float = 5e-5,
    every: int = 25,
    batch_size: int | None = None,
    seed: int = 0,
    track: Track | None = None,
    resume: xr.Dataset | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    """Take optimizer steps on the loss of a network; leaves the network at its last state.

    The loss at a step is that of the parameters before the step. It is recorded, together with what is tracked,
    every `every` steps and at the end, and compared with `until_loss` at those steps (for mini-batches it is still
    the loss of the whole problem).

    Args:
        net: the network, of any floating-point dtype, on any device.
        task: a problem: anything with a differentiable `loss(net)`; with mini-batches also `subset(rows)` and `len`.
        optimizer: any torch optimizer over `net.parameters()` that needs no closure.
        steps: take this many at most (in all, when resuming).
        until_loss: stop when the recorded loss is this small.
        every: record at multiples of this.
        batch_size: observations per step, a new seeded shuffle in every epoch; None takes all.
        seed: of the shuffles.
        track: {name: function of the network}, evaluated under no_grad.
        resume: a record of an earlier descent: go on from its end with its optimizer state, bit by bit as if it had
            not been interrupted, and return both as one.
        progress: True for a line on the terminal, or a function that is given one; None is silent.

    Returns:
        A Dataset with coordinate `step`, variables `loss`, what was tracked, the final `state` and the optimizer's;
        attributes stopped ("loss", "steps", or "nan": it diverged, and record and network are those of the last
        recorded step), evaluations (of a gradient), seconds, solver, versions.

    Raises:
        ValueError: for sizes that make no sense, an optimizer of other parameters or of another kind than
            the record's.
        TypeError: for LBFGS, which needs a closure.

    Source: the experiments of Razin and Cohen (NeurIPS 2020) and Razin, Maman, Cohen (ICML 2021, 2022).

    >>> import ranklens as rl
    >>> target = rl.targets.low_rank_matrix((10, 10), rank=1)
    >>> task, net = rl.Completion.sample(target, observed=60), rl.deep_matrix((10, 10), depth=3, std=1e-2)
    >>> run = rl.gradient_descent(net, task, rl.optim.GroupRMSprop(net.parameters(), lr=1e-2), until_loss=1e-3)
    >>> run.attrs["stopped"], bool(rl.effective_rank(net.tensor().detach()) < 1.01)
    ('loss', True)
    """
    _check(net, optimizer, steps, every, batch_size)
    recorder = Recorder("step", track, resume)
    begun = 0
    if resume is not None:
        begun = int(resume.step[-1])
        if steps < begun:
            raise ValueError(f"steps is {steps}, and the record has {begun} already; steps count from the first")
        _restore(net, optimizer, resume)
    started = clock.perf_counter()
    step, stopped = begun, "steps"
    kept = _Kept(begun, [stack.detach().clone() for stack in net.stacks])
    batches = None if batch_size is None else _batches(task, batch_size, seed, begun)
    with threads(contract.work(net.layout)), reporter(progress) as report:
        for step in range(begun, steps + 1):
            recorded = step % every == 0 or step == steps or not (recorder.rows["step"] or resume is not None)
            loss = task.loss(net) if batches is None else next(batches).loss(net)
            value = _whole(net, task) if recorded and batches is not None else float(loss.detach())
            if not math.isfinite(value):
                stopped = "nan"
                break
            if recorded:
                recorder.add(step, value, net)
                kept = _Kept(step, [stack.detach().clone() for stack in net.stacks])
                report(f"loss {value:.2e} of {until_loss:.0e}, step {step} of {steps}")
                if value <= until_loss:
                    stopped = "loss"
                    break
            if step == steps:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    message = ""
    if stopped == "nan":
        message = f"the loss is not finite at step {step}; take a smaller lr"
        step = kept.step
        with torch.no_grad():
            for stack, parameters in zip(net.stacks, kept.stacks, strict=True):
                stack.copy_(parameters)
    if not recorder.rows["step"] and resume is None:  # not even the start is finite
        recorder.add(step, math.nan, net)
    attrs = {
        "stopped": stopped,
        "message": message,
        "evaluations": step + (0 if resume is None else int(resume.attrs["evaluations"]) - begun),
        "steps": step,
        "seconds": clock.perf_counter() - started + (0.0 if resume is None else float(resume.attrs["seconds"])),
        "solver": f"{type(optimizer).__name__} {_numbers(optimizer)}",
        "batch_size": 0 if batch_size is None else batch_size,
        "seed": seed,
        "until_loss": until_loss,
        "network": repr(net),
        "loss_function": getattr(getattr(task, "objective", None), "name", type(task).__name__),
    }
    states = {} if stopped == "nan" else _optimizer_state(optimizer)
    return recorder.finish({"state": _flat(net), **states}, attrs)


@dataclass(frozen=True)
class _Kept:
    """The parameters at the latest record: where a run that diverges is taken back to."""

    step: int
    stacks: list[Tensor]


def _whole(net: TensorNetwork, task: Any) -> float:
    with torch.no_grad():
        return float(task.loss(net))


def _batches(task: Any, size: int, seed: int, begun: int) -> Iterator[Any]:
    """One problem per step; a shuffle depends on the seed and the epoch only, so that any step can be resumed at."""
    per_epoch = math.ceil(len(task) / size)
    epoch, first = divmod(begun, per_epoch)
    while True:
        order = torch.randperm(len(task), generator=stream(seed, f"shuffle of epoch {epoch}"))
        for k in range(first, per_epoch):
            yield task.subset(order[k * size : (k + 1) * size])
        epoch, first = epoch + 1, 0


def _flat(net: TensorNetwork) -> NDArray[Any]:
    trained = [stack.detach().reshape(-1) for stack in net.stacks if stack.requires_grad]
    return numpy(torch.cat(trained))


def _restore(net: TensorNetwork, optimizer: torch.optim.Optimizer, record: xr.Dataset) -> None:
    before, now = str(record.attrs["solver"]).split(" ", maxsplit=1)[0], type(optimizer).__name__
    if before != now:
        raise ValueError(f"the record was made with {before}, and the optimizer is a {now}; go on with the same")
    state = torch.from_numpy(np.array(record["state"].values))
    trained = [stack for stack in net.stacks if stack.requires_grad]
    if len(state) != sum(stack.numel() for stack in trained):
        raise ValueError(f"the record's state has {len(state)} parameters, another number than this network")
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


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's tensors as variables ``optimizer|parameter|name``."""
    found = {}
    for k, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                found[f"optimizer|{k}|{key}"] = numpy(value) if isinstance(value, Tensor) else value
    return found


def _numbers(optimizer: torch.optim.Optimizer) -> str:
    group = optimizer.param_groups[0]
    shown = {key: value for key, value in group.items() if isinstance(value, (int, float)) and value not in (0, False)}
    return ", ".join(f"{key}={value:g}" for key, value in shown.items())


def _check(
    net: TensorNetwork, optimizer: torch.optim.Optimizer, steps: int, every: int, batch_size: int | None
) -> None:
    for name, value in {"steps": steps, "every": every, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("LBFGS needs a closure; take an optimizer whose step evaluates the loss once")
    own = {id(stack) for stack in net.stacks if stack.requires_grad}
    if not own & {id(p) for group in optimizer.param_groups for p in group["params"]}:
        raise ValueError("the optimizer has none of the network's parameters; make it with net.parameters()")
