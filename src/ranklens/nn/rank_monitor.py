"""Measurement of ranks during training, within a given share of the training time."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from ranklens.nn.activation_rows import (
    ActivationRows,
    activation_rank,
    effective_rank,
    gathered,
    is_first,
    processes,
    tensor_in,
)
from ranklens.nn.composed import tensor_factored
from ranklens.nn.factorable import bare_name
from ranklens.nn.spectrum import spectrum
from ranklens.nn.weight_matrices import weight_matrices
from ranklens.tensors import arguments, measures
from ranklens.tensors.annotations import checked

# Default number of rows of an activation that are kept over forward passes.
QUEUE = 2048
# Share of the time for measuring that may go into keeping rows, so that the queue is filled also while a costly part
# uses up the time.
CATCHING = 0.5
# The place of no part: the profile waits for rows.
WAITING = -1
# Variables of the record over (step, part); `at` is the step at which a part was measured.
MEASURES = (
    "effective_rank",
    "stable_rank",
    "frobenius",
    "effective_rank_of_rows",
    "rankme",
    "rows",
    "update_effective_rank",
    "update_stable_rank",
    "update_frobenius",
    "at",
)
# A function that is given the latest measures by name, and the step.
Log = Callable[[Mapping[str, float], int], object]


@dataclass(frozen=True)
class _PartRanks:
    """Measures of one weight or activation in the profile that began at `step`, by name; others are NaN."""

    step: int
    part: str
    found: Mapping[str, float]


@dataclass(frozen=True)
class _BondNorms:
    """Component norms of one bond of a factored layer, in descending order, in the profile that began at `step`."""

    step: int
    bond: str
    norms: NDArray[np.float64]


class RankMonitor:
    r"""Record of the ranks of weights and activations, and of component norms, along a training loop.

    Call `step()` after every step of the optimizer. Every `every` steps a profile becomes due. Its parts, each a weight
    or an activation, are then measured at one part per training step, and only if measuring then takes less than
    `share` of the time since the monitor was made, as expected from what each part cost in the profile before. A slow
    machine or a large network makes profiles rarer; it does not slow down training by more than that share.

    An activation of one forward pass of b samples has rank b - 1 at most. Its rank is therefore measured from a queue
    of rows, which every forward pass adds to; a profile waits until the queue is full, but not longer than until the
    next profile is due. The rank is corrected for the number of rows, which should be at least four times the number of
    channels; see `activation_rank`. Rows that were added before later steps belong to slightly different weights. In
    distributed training every process must call `step()` equally often; all queues are then measured together.

    A weight or an activation with entries that are not finite is recorded as NaN, and the training goes on.
    `rl.nn.callbacks` has callbacks for Lightning and for the Trainer of Hugging Face.

    Args:
        model: the model that is trained. A factored weight counts as one weight, computed from its factors.
        every: number of training steps from one profile to the next, at least 1.
        share: largest share of the time since the monitor was made that measuring may take, above 0; 1 sets no limit.
        activations: names of modules whose outputs are measured too, with or without what wrappers put before them. The
            channels are the features, all other axes are samples; channels are the second axis for convolutions, batch
            normalization and every output of four axes or more, and otherwise the last axis. If a module has not run
            before the next profile is due, its entry in the earlier profile is NaN.
        queue: number of rows of an activation that are kept, over all processes; at least 2. A forward pass adds an
            eighth of the queue at most, so that the rows come from several batches.
        updates: whether to measure also the rank of the change of every weight since the last profile, for which a copy
            of every weight is kept.
        log: a function that is called with the dictionary of `latest()` and the step after each profile, such as the
            `log` method of a tracker; in distributed training in the first process only.

    Attributes:
        steps: number of calls of `step()` so far.
        spent: seconds that measuring has taken so far.

    Raises:
        ValueError: if `every` is less than 1, `queue` less than 2, `share` is not in (0, 1], or a module does not
            exist.

    Source: Garrido, Balestriero, Najman, LeCun (ICML 2023) for RankMe.

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     model, x = rl.nn.overparameterize(torch.nn.Linear(8, 8), init=0.01), torch.randn(64, 8)
    >>> monitor, optimizer = rl.nn.RankMonitor(model, every=100, share=1.0), torch.optim.SGD(model.parameters(), lr=0.3)
    >>> for _ in range(2000):
    ...     optimizer.zero_grad()
    ...     (model(x) - x[:, :1]).square().mean().backward()  # every output is to be the first input: rank 1
    ...     optimizer.step()
    ...     monitor.step()
    >>> ranks = monitor.record().effective_rank.sel(part="weight")
    >>> bool(ranks[0] > 2), bool(ranks[-1] < 1.2)
    (True, True)
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 200,
        share: float = 0.02,
        activations: str | Sequence[str] = (),
        queue: int = QUEUE,
        updates: bool = False,
        log: Log | None = None,
    ) -> None:
        activations = (activations,) if isinstance(activations, str) else tuple(activations)
        whole = dict(model.named_modules())
        modules = {bare_name(model, name): module for name, module in whole.items()} | whole
        _check(every, share, queue, activations, modules)
        self.model, self.every, self.share, self.log = model, every, share, log
        self.steps, self.spent, self._catching = 0, 0.0, 0.0
        self._began = time.perf_counter()
        self._ranks: list[_PartRanks] = []
        self._norms: list[_BondNorms] = []
        self._not_finite: dict[str, int] = {}  # the first step at which a part had entries that were not finite
        self._before: dict[str, Tensor] | None = {} if updates else None
        self._due: Iterator[int] | None = None  # the profile in progress: every next() measures one part
        self._place = WAITING  # the place in a profile of the part that is measured next
        self._costs: dict[int, float] = {}  # seconds that the part at a place of a profile took last
        self._finishing = False
        size = max(queue // processes(), 2)
        self._queues = {name: ActivationRows(size) for name in activations}
        self._gathered: dict[str, Tensor] = {}
        self._handles = [modules[name].register_forward_hook(self._catch(name)) for name in activations]

    def step(self) -> None:
        """Count a training step, and measure one part of the profile that is due if the time allows it."""
        self.steps += 1
        begun = time.perf_counter()
        # Processes measure at different times, so they exchange rows at a step that depends on nothing else.
        if processes() > 1 and self._queues and self.steps % self.every == self._gathering:
            self._gathered = gathered(self._queues)
            self.spent += time.perf_counter() - begun
        if self._due is None and (self.steps - 1) % self.every == 0:
            self._due = self._profile(self.steps)
            self._place = next(self._due)
        expected = self.spent + self._costs.get(self._place, 0.0)
        if self._due is not None and (self.share == 1 or expected <= self.share * (begun - self._began)):
            place, begun = self._place, time.perf_counter()
            try:
                self._place = next(self._due)
            except StopIteration:
                self._due = None
            seconds = time.perf_counter() - begun
            self.spent += seconds
            self._costs[place] = seconds if place != WAITING else 0.0

    def finish(self) -> None:
        """Measure now all remaining parts of the profile that is due, whatever share of the time that takes.

        The activations of a module that has not run are not measured: their entries in this profile are NaN.
        """
        self._finishing = True
        for _ in self._due or ():
            pass
        self._due, self._finishing = None, False

    def record(self) -> xr.Dataset:
        """Return all profiles so far.

        Returns:
            A Dataset over `step` (the step at which a profile became due) and `part` (parameters and modules by name).
            Its variables over (step, part) are effective_rank, stable_rank, frobenius (the Frobenius norm), and `at`,
            the step at which the part was measured; the ranks of a zero matrix are 0. For activations, from whose rows
            the mean is taken off, effective_rank is corrected for the number of rows, and there are also
            effective_rank_of_rows (the effective rank without the correction), rankme (RankMe as published, with the
            mean) and rows (the number of rows that all these measures rest on); see `activation_rank`. For weights, if
            `updates` was given, there are also update_effective_rank, update_stable_rank and update_frobenius, of the
            change since the profile before. For every bond of a layer factored as a tensor network, component_norm over
            (step, bond, component) has the norms of the bond's components in descending order, followed by NaN if
            another bond has more. A bond is named "layer:bond".
            An entry that was not measured is NaN, and a part that was never measured is absent. The attribute `steps`
            is the number of calls of `step()`, `share` the share of the time since the monitor was made that
            measuring took, and `not_finite` a dictionary of the parts that had entries that were not finite, with the
            step at which this was first seen.
        """
        elapsed = time.perf_counter() - self._began
        steps = sorted({row.step for row in self._ranks} | {row.step for row in self._norms})
        parts = list(dict.fromkeys(row.part for row in self._ranks))
        bonds = list(dict.fromkeys(row.bond for row in self._norms))
        tables = {name: np.full((len(steps), len(parts)), np.nan) for name in MEASURES}
        for row in self._ranks:
            for name in MEASURES:
                tables[name][steps.index(row.step), parts.index(row.part)] = row.found.get(name, math.nan)
        most = max((len(row.norms) for row in self._norms), default=0)
        norms = np.full((len(steps), len(bonds), most), np.nan)
        for found in self._norms:
            norms[steps.index(found.step), bonds.index(found.bond), : len(found.norms)] = found.norms
        return xr.Dataset(
            {
                **{name: (("step", "part"), table) for name, table in tables.items()},
                "component_norm": (("step", "bond", "component"), norms),
            },
            coords={"step": steps, "part": parts, "bond": bonds},
            attrs={
                "steps": self.steps,
                "share": self.spent / elapsed if elapsed > 0 else 0.0,
                "not_finite": dict(self._not_finite),
            },
        )

    def latest(self) -> dict[str, float]:
        """Return the latest measures as a flat dictionary, as loggers take it.

        Returns:
            {"part/measure": value} for every part that was measured, from its latest profile. The values are NaN for a
            part with entries that are not finite; measures that were not taken are absent.

        >>> import torch, ranklens as rl
        >>> monitor = rl.nn.RankMonitor(torch.nn.Linear(3, 2, bias=False), share=1.0)
        >>> monitor.step()
        >>> list(monitor.latest())
        ['weight/effective_rank', 'weight/stable_rank', 'weight/frobenius', 'weight/at']
        """
        found = {row.part: row.found for row in self._ranks}
        return {f"{part}/{name}": value for part, measured in found.items() for name, value in measured.items()}

    def close(self) -> None:
        """Remove the hooks of the monitor from the model. Activations are not measured afterwards."""
        for handle in self._handles:
            handle.remove()

    @property
    def _gathering(self) -> int:
        """Return the remainder of the step, divided by `every`, at which processes exchange the rows of activations."""
        return max(self._last - len(self._queues), 1) % self.every

    @property
    def _last(self) -> int:
        """Return how many steps after it became due a profile waits for rows at most.

        Activations are then measured one per two steps, before the next profile is due.
        """
        return max(self.every - 1 - 2 * len(self._queues), min(2, self.every))

    def _profile(self, step: int) -> Iterator[int]:
        """Measure the parts of the profile that became due at a step, and yield the place of each before."""
        place = 0
        yield place
        for name, weight in weight_matrices(self.model):
            self._measure(step, name, weight)
            place += 1
            yield place
        for layer, _, network in tensor_factored(self.model):
            for bond in network.bonds:
                norms = network.component_norms(bond).detach().sort(descending=True).values
                self._norms.append(_BondNorms(step, f"{layer}:{bond}".lstrip(":"), norms.double().cpu().numpy()))
        for name, queue in self._queues.items():
            alone, waited = processes() == 1, False
            while not (self._finishing or (alone and len(queue) == queue.size) or self.steps - step >= self._last):
                waited = True
                yield WAITING
            if waited:
                yield place
            rows = queue.rows() if alone else self._gathered.get(name, queue.rows())
            if len(rows) > 1:
                self._note(step, name, vars(activation_rank(rows)))
                place += 1
                yield place
        if self.log is not None and is_first():
            self.log(self.latest(), self.steps)

    def _measure(self, step: int, part: str, matrix: Tensor) -> None:
        """Record the measures of a weight for the profile that became due at a step."""
        singular = spectrum(matrix)
        found = _ranks(singular)
        if self._before is not None:
            before = self._before.get(part)
            if before is not None and before.shape == matrix.shape:
                change = _ranks(spectrum(matrix - before.to(matrix.device)))
                found |= {f"update_{name}": value for name, value in change.items()}
            self._before[part] = matrix.clone()
        self._note(step, part, found)

    def _note(self, step: int, part: str, found: Mapping[str, float]) -> None:
        """Record measures by name, and whether the part is not finite."""
        if math.isnan(found["frobenius"]):
            self._not_finite.setdefault(part, self.steps)
        self._ranks.append(_PartRanks(step, part, {**found, "at": self.steps}))

    def _catch(self, name: str) -> Callable[[nn.Module, object, object], None]:
        """Return a forward hook that puts rows of the output of a module into its queue, if the time allows it."""

        def hook(module: nn.Module, _: object, output: object) -> None:
            begun, found = time.perf_counter(), tensor_in(output)
            in_time = self.share == 1 or self._catching <= CATCHING * self.share * (begun - self._began)
            if found is not None and in_time:
                self._queues[name].add(found, module)
                seconds = time.perf_counter() - begun
                self._catching += seconds
                self.spent += seconds

        return hook


def _ranks(singular: Tensor) -> dict[str, float]:
    """Return the measures of singular values by name; all NaN if these are."""
    return {
        "effective_rank": effective_rank(singular),
        "stable_rank": float(measures.stable_rank_of(singular)),
        "frobenius": float(singular.square().sum().sqrt()),
    }


def _check(every: int, share: float, queue: int, activations: Sequence[str], modules: Mapping[str, nn.Module]) -> None:
    """Refuse arguments of a monitor that are out of range.

    Raises:
        ValueError: if one is.
    """
    arguments.count("every", every)
    arguments.count("queue", queue, least=2)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; give a share of the time, above 0 and at most 1")
    for name in activations:
        if name not in modules:
            raise ValueError(f"activations has {name!r}, no name of a module; give names from model.named_modules()")
