"""Gradient descent of many networks of one layout at once, each with its own start, problem, step size and end."""

import time as clock
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ranklens.dynamics.ensemble_gradient import Batch, EnsembleGradient, descend_
from ranklens.dynamics.optim import GroupRMSprop, SignDescent, Spectral
from ranklens.dynamics.record import (
    Cost,
    Interrupted,
    Outcome,
    StoppedEarly,
    Track,
    array_of,
    is_early,
    run_attributes,
    versions,
)
from ranklens.problems.problem import Problem, check_problem
from ranklens.progress import Report, reporter
from ranklens.tensors import contract
from ranklens.tensors.ensemble import MEMBER, Ensemble
from ranklens.threads import threads

# Optimizers that change every entry by that entry's own gradient alone, or treat the matrices of a batch separately.
SEPARATE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    SignDescent,
    Spectral,
)


def descend_together(
    ensemble: Ensemble,
    tasks: Problem | Sequence[Problem],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    small: float,
    goal: float,
    every: int,
    track: Track | None,
    progress: bool | Report | None,
) -> xr.Dataset:
    """Take optimizer steps on all members of an ensemble, and stop each member by itself.

    All members share every matrix product, as batches of it. Members that have ended keep the parameters of their last
    recorded row while the others go on.

    Args:
        ensemble: the networks, from `rl.stack`.
        tasks: one problem for all members, or one per member.
        optimizer: an optimizer over `ensemble.parameters()` that treats members separately.
        steps: take at most this many steps.
        small: a member stops when its recorded loss is this small.
        goal: the loss that every member is to reach; 0 if there is none, and then taking all steps is not early.
        every: record at the multiples of this many steps.
        track: {name: function of one network that returns a number, tensor or array, always of one shape}, evaluated
            for every member in every recorded row.
        progress: True for a status line on the terminal; or a function that is called with that line; None for none.

    Returns:
        A Dataset with coordinates `step` and `member`; `loss` and the tracked variables along both, NaN after a member
        has ended; `stopped` ("loss", "steps" or "nan") and `steps` per member; and `state`, the trained parameters of
        each member at its end, of shape (members, parameters).

    Raises:
        TypeError: for a task that is no problem.
        ValueError: for another number of tasks than members, or an optimizer that would couple members.
        Interrupted: at an interrupt from the keyboard; the exception carries the record.
    """
    problems = _problems(tasks, len(ensemble))
    _check_optimizer(optimizer, ensemble)
    started = clock.perf_counter()
    descent = _Together(ensemble, problems, optimizer, track or {}, small)
    work = len(ensemble) * contract.work(ensemble.layout)
    with torch.no_grad(), threads(work), reporter(progress) as report:
        interrupted = descent.go(steps, every, report)
    reasons = sorted(set(descent.stopped))
    outcome = Outcome(
        reasons[0] if len(reasons) == 1 else "mixed",
        ", ".join(f"{descent.stopped.count(reason)} by {reason!r}" for reason in reasons),
        Cost(int(descent.taken.max()) * len(ensemble), int(descent.taken.max()), clock.perf_counter() - started),
    )
    settings = {"batch_size": 0, "members": len(ensemble)}
    solver, network = type(optimizer).__name__, repr(ensemble)
    record = descent.record()
    missed = [k for k, reason in enumerate(descent.stopped) if is_early(reason, goal)]
    attrs = run_attributes(
        outcome,
        problems[0],
        network=network,
        solver=solver,
        until_loss=small,
        early=bool(missed),
        **settings,
    )
    record.attrs = {**attrs, "versions": versions()}
    if interrupted:
        raise Interrupted(record)
    if missed:
        warnings.warn(
            f"{len(missed)} of {len(ensemble)} members stopped before their goal "
            f"({outcome.message}): members {', '.join(map(str, missed[:10]))}{', ...' if len(missed) > 10 else ''}",
            StoppedEarly,
            stacklevel=5,
        )
    return record


class _Together:
    """The loop of one descent of an ensemble."""

    def __init__(
        self,
        ensemble: Ensemble,
        tasks: Sequence[Problem],
        optimizer: torch.optim.Optimizer,
        track: Track,
        goal: float,
    ) -> None:
        self.ensemble, self.optimizer, self.track, self.goal = ensemble, optimizer, track, goal
        self.trained = [stack for stack in ensemble.stacks if stack.requires_grad]
        self.gradient = EnsembleGradient(ensemble, tasks)
        self.stopped = [""] * len(ensemble)
        self.taken = np.zeros(len(ensemble), dtype=np.int64)
        self.at: list[int] = []
        self.losses: list[NDArray[np.float64]] = []
        self.tracked: dict[str, list[NDArray[np.float64]]] = {name: [] for name in track}
        self.kept = [stack.detach().clone() for stack in ensemble.stacks]  # parameters of the latest recorded rows
        self.factors = ensemble.step_sizes.clone()

    def go(self, steps: int, every: int, report: Report) -> bool:
        """Run the loop; return whether it was interrupted from the keyboard."""
        try:
            step = 0
            while True:
                self._record(step, self.gradient.losses().double().cpu().numpy(), last=step == steps)
                waiting = self.stopped.count("")
                report(f"step {step} of {steps}, {waiting} of {len(self.ensemble)} members go on")
                if not waiting:
                    return False
                following = min(step - step % every + every, steps)
                self._advance(following - step)
                step = following
        except KeyboardInterrupt:
            self._go_back([k for k, reason in enumerate(self.stopped) if not reason])
            self.stopped = [reason or "interrupted" for reason in self.stopped]
            return True

    def _advance(self, count: int) -> None:
        """Take steps, the first of them along the gradient that was evaluated last.

        Steps of plain gradient descent are taken for one group of members after the other, so that the numbers of a
        group stay in the cache during all of them.
        """
        rates = _plain_rates(self.optimizer, self.trained)
        if rates is None:
            for k in range(count):
                if k:
                    self.gradient.evaluate()
                self._step()
            return
        for group in self.gradient.groups:
            factors = self.factors[group.members]
            if not factors.any():
                continue
            given = None if bool((factors == 1).all()) else factors
            descend_(group.pairs, rates, given)
            for _ in range(count - 1):
                if given is None and isinstance(group, Batch):
                    group.descend(rates)
                else:
                    group.evaluate()
                    descend_(group.pairs, rates, given)

    def _step(self) -> None:
        """Let the optimizer take a step, scaled for every member; members that have ended stay where they are."""
        if bool((self.factors == 1).all()):
            self.optimizer.step()
            return
        before = [stack.detach().clone() for stack in self.trained]
        self.optimizer.step()
        for stack, old in zip(self.trained, before, strict=True):
            factor = self.factors.view(-1, *[1] * (stack.ndim - 1))
            stack.copy_(torch.where(factor > 0, torch.lerp(old, stack, factor), old))

    def _record(self, step: int, losses: NDArray[np.float64], last: bool) -> None:
        """Record one row of every member that goes on, and end those that have reached their goal or diverged."""
        running = np.array([not reason for reason in self.stopped])
        diverged = running & ~np.isfinite(losses)
        self._go_back(np.flatnonzero(diverged).tolist())
        keeps = running & ~diverged
        if keeps.any():
            mask = torch.from_numpy(keeps).to(self.kept[0].device)
            for kept, stack in zip(self.kept, self.ensemble.stacks, strict=True):
                kept.copy_(torch.where(mask.view(-1, *[1] * (stack.ndim - 1)), stack, kept))
        self.at.append(step)
        self.losses.append(np.where(keeps, losses, np.nan))
        members = self.ensemble.members if self.track else ()
        for name, function in self.track.items():
            values = [np.asarray(array_of(name, function(net)), dtype=np.float64) for net in members]
            shape = (-1, *[1] * values[0].ndim)
            self.tracked[name].append(np.where(keeps.reshape(shape), np.stack(values), np.nan))
        self.taken[keeps] = step
        for k in np.flatnonzero(running):
            if diverged[k]:
                self.stopped[k] = "nan"
            elif losses[k] <= self.goal:
                self.stopped[k] = "loss"
            elif last:
                self.stopped[k] = "steps"
        ended = torch.tensor([bool(reason) for reason in self.stopped], device=self.factors.device)
        self.factors = self.factors.where(~ended, 0.0)

    def _go_back(self, members: list[int]) -> None:
        """Give some members the parameters of their latest recorded row."""
        if members:
            for kept, stack in zip(self.kept, self.ensemble.stacks, strict=True):
                stack[members] = kept[members]

    def record(self) -> xr.Dataset:
        """Return all rows, the reasons and the final parameters."""
        variables: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}
        variables["loss"] = (("step", MEMBER), np.stack(self.losses))
        for name, rows in self.tracked.items():
            values = np.stack(rows)
            variables[name] = (("step", MEMBER, *[f"{name}_{k}" for k in range(values.ndim - 2)]), values)
        state = torch.cat([stack.detach().flatten(1) for stack in self.trained], dim=1)
        found = xr.Dataset(variables, coords={"step": self.at, MEMBER: np.arange(len(self.ensemble))})
        found["stopped"] = (MEMBER, np.array(self.stopped))
        found["steps"] = (MEMBER, self.taken)
        found["state"] = ((MEMBER, "state_0"), array_of("state", state))
        return found


def _problems(tasks: Problem | Sequence[Problem], members: int) -> list[Problem]:
    found: list[Problem] = list(tasks) if isinstance(tasks, Sequence) else [tasks] * members
    if len(found) != members:
        raise ValueError(f"{len(found)} tasks were given for {members} members; give one for all, or one per member")
    for task in found:
        check_problem(task)
    return found


def _check_optimizer(optimizer: torch.optim.Optimizer, ensemble: Ensemble) -> None:
    own = {id(stack) for stack in ensemble.stacks if stack.requires_grad}
    if not own & {id(p) for group in optimizer.param_groups for p in group["params"]}:
        raise ValueError("the optimizer has none of the ensemble's parameters; make it with ensemble.parameters()")
    if isinstance(optimizer, GroupRMSprop):
        if optimizer.members != len(ensemble):
            raise ValueError(
                f"this GroupRMSprop divides the steps of all members by one norm; make it with members={len(ensemble)}"
            )
    elif not isinstance(optimizer, SEPARATE):
        raise ValueError(
            f"a {type(optimizer).__name__} may couple the members of an ensemble; take one of "
            f"{', '.join(kind.__name__ for kind in SEPARATE)} or GroupRMSprop(members=...), or descend one by one"
        )


def _plain_rates(optimizer: torch.optim.Optimizer, trained: Sequence[Tensor]) -> list[float] | None:
    """Return the learning rate of every trained tensor if the optimizer is plain gradient descent; None otherwise."""
    if type(optimizer) is not torch.optim.SGD or optimizer._optimizer_step_pre_hooks:
        return None
    if optimizer._optimizer_step_post_hooks:
        return None
    rates: dict[int, float] = {}
    for group in optimizer.param_groups:
        if group["momentum"] or group["weight_decay"] or group["maximize"] or not isinstance(group["lr"], float | int):
            return None
        rates.update((id(p), float(group["lr"])) for p in group["params"])
    return [rates.get(id(stack), 0.0) for stack in trained]
