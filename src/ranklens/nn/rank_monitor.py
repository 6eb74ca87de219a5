"""Ranks while a network trains, within a share of its time."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.composed import Composition
from ranklens.nn.rank_profile import weight_matrices
from ranklens.tensors import measures
from ranklens.tensors.network import TensorNetwork

CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)  # of what has three axes
MOST_ROWS = 2048  # of an activation, whose ranks come from so many samples or places at the most


class RankMonitor:
    r"""Effective and stable ranks of weights and activations, and norms of components, along a training loop.

    Call `step()` after every step of an optimizer. Every `every` steps a profile falls due; its parts, a weight or an
    activation each, are then measured one per step, and only while all measuring has taken less than `share` of the
    time since the monitor was made: a slow machine or a large network makes profiles rarer, not training slower. A part
    costs a Gram matrix in float64 and its eigenvalues, sigma^2, which for effective ranks are as good as singular
    values.

    Args:
        model: what is trained; composed weights count as one each.
        every: steps from one profile to the next.
        share: of the time, for measuring.
        activations: names of modules whose outputs are measured too; axes but the last, for convolutions, batch-norms
            and whatever has four axes all but the second, are samples. One that is not run before the next profile is
            due is left out of the last.

    Raises:
        ValueError: for an `every` below one, a share outside (0, 1], or a module that does not exist.

    In lightning, call `step()` in a callback's `on_train_batch_end`; in a Hugging Face Trainer in `on_step_end`.

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
            raise ValueError(f"every is {every}; it is a number of steps, at least 1")
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it is a share of the time, above 0 and at most 1")
        modules = dict(model.named_modules())
        for name in activations:
            if name not in modules:
                raise ValueError(f"there is no module {name!r} in the model; named_modules() has the names")
        self.model, self.every, self.share = model, every, share
        self.steps, self.spent, self.began = 0, 0.0, time.perf_counter()
        self._rows: list[tuple[int, str, dict[str, Any]]] = []
        self._due: Iterator[None] | None = None
        self._due_at = 0
        self._seen: dict[str, Tensor] = {}
        self._last = False
        self._wanted: set[str] = set()
        self._handles = [modules[name].register_forward_hook(self._catch(name)) for name in activations]
        self._activations = tuple(activations)

    def step(self) -> None:
        """One step of training is over."""
        self.steps += 1
        begun = time.perf_counter()
        if self._due is None and (self.steps - 1) % self.every == 0:
            self._due_at, self._due = self.steps, self._profile(self.steps)
        if self._due is not None and self.spent <= self.share * (begun - self.began):
            try:
                next(self._due)
            except StopIteration:
                self._due = None
            self.spent += time.perf_counter() - begun

    def finish(self) -> None:
        """Measure what is still due, whatever the time, but for activations of modules that have not been run since."""
        self._last = True
        for _ in self._due or ():
            pass
        self._due, self._last = None, False

    def record(self) -> xr.Dataset:
        """All profiles, over (step, part); what was not measured is NaN.

        Returns:
            A Dataset with effective_rank, stable_rank, frobenius and `at`, the very step at which each part was
            measured; for factored layers with component_norm over (step, bond, component); in its attributes the share
            of the time that measuring took.
        """
        steps = sorted({step for step, _, _ in self._rows})
        parts = list(dict.fromkeys(part for _, part, found in self._rows if "norms" not in found))
        bonds = list(dict.fromkeys(part for _, part, found in self._rows if "norms" in found))
        names = ("effective_rank", "stable_rank", "frobenius", "at")
        tables = {name: np.full((len(steps), len(parts)), np.nan) for name in names}
        most = max((len(found["norms"]) for _, _, found in self._rows if "norms" in found), default=0)
        norms = np.full((len(steps), len(bonds), most), np.nan)
        for step, part, found in self._rows:
            at = steps.index(step)
            if "norms" in found:
                norms[at, bonds.index(part), : len(found["norms"])] = found["norms"]
            else:
                for name in names:
                    tables[name][at, parts.index(part)] = found[name]
        elapsed = time.perf_counter() - self.began
        return xr.Dataset(
            {
                **{name: (("step", "part"), table) for name, table in tables.items()},
                "component_norm": (("step", "bond", "component"), norms),
            },
            coords={"step": steps, "part": parts, "bond": bonds},
            attrs={"steps": self.steps, "share": self.spent / elapsed if elapsed > 0 else 0.0},
        )

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _profile(self, step: int) -> Iterator[None]:
        self._wanted = set(self._activations)
        self._seen.clear()
        for name, weight in weight_matrices(self.model):
            self._measure(step, name, weight)
            yield
        for name, module in self.model.named_modules():
            if isinstance(module, Composition) and isinstance(module.network, TensorNetwork):
                for bond in module.network.bonds:
                    found = module.network.component_norms(bond).detach().sort(descending=True).values
                    owner = name.removesuffix(".composition").removesuffix("composition")
                    self._rows.append((step, f"{owner}:{bond}".lstrip(":"), {"norms": found.double().cpu().numpy()}))
        for name in self._activations:
            while name not in self._seen and not self._last and self.steps - step < max(self.every - 1, 2):  # a forward
                yield
            if name not in self._seen:
                continue
            values = self._seen.pop(name)
            self._measure(step, name, values - values.mean(dim=0))
            yield

    def _measure(self, step: int, name: str, matrix: Tensor) -> None:
        s = spectrum(matrix)
        found = {
            "effective_rank": float(measures.effective_rank_of(s)),
            "stable_rank": float(measures.stable_rank_of(s)),
            "frobenius": float(s.square().sum().sqrt()),
            "at": self.steps,
        }
        self._rows.append((step, name, found))

    def _catch(self, name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if name in self._wanted and isinstance(output, Tensor):
                begun = time.perf_counter()
                self._wanted.discard(name)
                rows = output.detach()
                channels = rows.ndim > 3 or (rows.ndim == 3 and isinstance(module, CHANNELS_FIRST))
                rows = (rows.movedim(1, -1) if channels else rows).flatten(0, -2)
                self._seen[name] = rows[:: max(len(rows) // MOST_ROWS, 1)][:MOST_ROWS].clone()
                self.spent += time.perf_counter() - begun

        return hook


def spectrum(matrix: Tensor) -> Tensor:
    """Singular values, in falling order, from the smaller Gram matrix in float64."""
    tall = matrix.detach().double()
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.T
    return torch.linalg.eigvalsh(tall.T @ tall).clamp_min(0).sqrt().flip(0)
