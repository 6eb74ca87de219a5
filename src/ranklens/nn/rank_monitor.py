"""Measurement of ranks during training, within a given share of the training time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from ranklens.nn.composed import tensor_factored
from ranklens.nn.spectrum import spectrum
from ranklens.nn.weight_matrices import weight_matrices
from ranklens.tensors import measures

# Modules in whose output of three axes the channels are the second axis, not the last.
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
# Largest number of samples from which the rank of an activation is measured. It bounds the cost of a measurement.
MOST_SAMPLES = 2048
MEASURES = ("effective_rank", "stable_rank", "frobenius", "at")


@dataclass(frozen=True)
class _PartRanks:
    """Measures of one weight or activation in the profile that began at `step`, measured at step `at`."""

    step: int
    part: str
    effective_rank: float
    stable_rank: float
    frobenius: float
    at: int


@dataclass(frozen=True)
class _BondNorms:
    """Component norms of one bond of a factored layer, in descending order, in the profile that began at `step`."""

    step: int
    bond: str
    norms: NDArray[np.float64]


class RankMonitor:
    r"""Record of the ranks of weights and activations, and of component norms, along a training loop.

    Call `step()` after every step of the optimizer. Every `every` steps a profile becomes due. Its parts, each a weight
    or an activation, are then measured at one part per training step, and only while measuring has taken less than
    `share` of the time since the monitor was made. A slow machine or a large network therefore makes profiles rarer; it
    does not slow down training by more than that share, apart from the part that is being measured.

    A part costs a Gram matrix of its smaller side in float64 and the eigenvalues of it. Their square roots are the
    singular values; those below about 1e-8 of the largest are inexact, which hardly changes effective and stable ranks.

    Args:
        model: the model that is trained. A factored weight counts as one weight, computed from its factors.
        every: number of training steps from one profile to the next, at least 1.
        share: largest share of the time since the monitor was made that measuring may take, above 0 and at most 1.
        activations: names of modules of the model whose outputs are measured too, minus their mean over samples. The
            channels are the features, all other axes are samples; channels are the second axis for convolutions, batch
            normalization and every output of four axes or more, and otherwise the last axis. If a module does not run
            before the next profile is due, its entry in the earlier profile is NaN.

    Attributes:
        steps: number of calls of `step()` so far.
        spent: seconds that measuring has taken so far.

    Raises:
        ValueError: if `every` is less than 1, `share` is not in (0, 1], or a module does not exist.

    In Lightning, call `step()` in a callback's `on_train_batch_end`; in a Hugging Face Trainer, in `on_step_end`.

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

    def __init__(
        self, model: nn.Module, *, every: int = 200, share: float = 0.02, activations: Sequence[str] = ()
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; give a number of steps, at least 1")
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; give a share of the time, above 0 and at most 1")
        modules = dict(model.named_modules())
        for name in activations:
            if name not in modules:
                raise ValueError(f"there is no module {name!r} in the model; give names from model.named_modules()")
        self.model, self.every, self.share = model, every, share
        self.steps, self.spent = 0, 0.0
        self._began = time.perf_counter()
        self._ranks: list[_PartRanks] = []
        self._norms: list[_BondNorms] = []
        self._due: Iterator[None] | None = None  # the profile in progress: every next() measures one part
        self._finishing = False
        self._wanted: set[str] = set()  # activations that the profile in progress still has to catch
        self._caught: dict[str, Tensor] = {}
        self._activations = tuple(activations)
        self._handles = [modules[name].register_forward_hook(self._catch(name)) for name in activations]

    def step(self) -> None:
        """Count a training step, and measure one part of the profile that is due if the time allows it."""
        self.steps += 1
        begun = time.perf_counter()
        if self._due is None and (self.steps - 1) % self.every == 0:
            self._due = self._profile(self.steps)
        if self._due is not None and self.spent <= self.share * (begun - self._began):
            try:
                next(self._due)
            except StopIteration:
                self._due = None
            self.spent += time.perf_counter() - begun

    def finish(self) -> None:
        """Measure now all remaining parts of the profile that is due, whatever share of the time that takes.

        The activations of a module that has not run since the profile became due are not measured: their entries in
        this profile are NaN.
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
            the step at which the part was measured; the ranks of a zero matrix are 0. For every bond of a layer
            factored as a tensor network it has component_norm over (step, bond, component): the norms of the bond's
            components in descending order, followed by NaN if another bond has more. A bond is named "layer:bond".
            An entry that was not measured is NaN, and a part that was never measured is absent. The attribute `steps`
            is the number of calls of `step()`, and `share` the share of the time since the monitor was made that
            measuring took.
        """
        elapsed = time.perf_counter() - self._began
        steps = sorted({row.step for row in self._ranks} | {row.step for row in self._norms})
        parts = list(dict.fromkeys(row.part for row in self._ranks))
        bonds = list(dict.fromkeys(row.bond for row in self._norms))
        tables = {name: np.full((len(steps), len(parts)), np.nan) for name in MEASURES}
        for row in self._ranks:
            for name in MEASURES:
                tables[name][steps.index(row.step), parts.index(row.part)] = getattr(row, name)
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
            attrs={"steps": self.steps, "share": self.spent / elapsed if elapsed > 0 else 0.0},
        )

    def close(self) -> None:
        """Remove the hooks of the monitor from the model. Activations are not measured afterwards."""
        for handle in self._handles:
            handle.remove()

    def _profile(self, step: int) -> Iterator[None]:
        """Measure the parts of the profile that became due at a step, and yield after each of them."""
        self._wanted = set(self._activations)
        self._caught.clear()
        for name, weight in weight_matrices(self.model):
            self._measure(step, name, weight)
            yield
        for layer, _, network in tensor_factored(self.model):
            for bond in network.bonds:
                norms = network.component_norms(bond).detach().sort(descending=True).values
                self._norms.append(_BondNorms(step, f"{layer}:{bond}".lstrip(":"), norms.double().cpu().numpy()))
        for name in self._activations:
            # Wait for a forward pass of the module until the step before the next profile is due.
            while name not in self._caught and not self._finishing and self.steps - step < max(self.every - 1, 2):
                yield
            if name in self._caught:
                values = self._caught.pop(name)
                self._measure(step, name, values - values.mean(dim=0))
                yield

    def _measure(self, step: int, part: str, matrix: Tensor) -> None:
        """Record the measures of a matrix for the profile that became due at a step."""
        singular = spectrum(matrix)
        effective_rank = float(measures.effective_rank_of(singular))
        stable_rank = float(measures.stable_rank_of(singular))
        frobenius = float(singular.square().sum().sqrt())
        self._ranks.append(_PartRanks(step, part, effective_rank, stable_rank, frobenius, at=self.steps))

    def _catch(self, name: str) -> Callable[[nn.Module, object, object], None]:
        """Return a forward hook that keeps samples of the next output of a module when a profile needs it."""

        def hook(module: nn.Module, _: object, output: object) -> None:
            if name in self._wanted and isinstance(output, Tensor):
                begun = time.perf_counter()
                self._wanted.discard(name)
                samples = output.detach()
                channels_first = samples.ndim > 3 or (samples.ndim == 3 and isinstance(module, CHANNELS_FIRST))
                samples = (samples.movedim(1, -1) if channels_first else samples).flatten(0, -2)
                self._caught[name] = samples[:: max(len(samples) // MOST_SAMPLES, 1)][:MOST_SAMPLES].clone()
                self.spent += time.perf_counter() - begun

        return hook
