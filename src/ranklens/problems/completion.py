"""Completion: some entries of a tensor are observed."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ranklens.problems.losses import AnyLoss
from ranklens.problems.problem import Observations
from ranklens.seeds import stream
from ranklens.tensors import contract
from ranklens.tensors.checks import check_indices
from ranklens.tensors.network import TensorNetwork


class Completion(Observations):
    """Some entries of a tensor are observed; the loss compares them with a network's.

    Args:
        indices: (m, N) integers, one row per observed entry.
        values: (m,) what was observed.
        shape: sizes of the N modes.
        target: the whole tensor, if known, for `error`.
        loss: "mse" | "half_sse" | "huber" | "l1" | a Loss | a callable (prediction, value) -> elementwise.
        duplicates: "error" refuses an entry observed twice with different values; "keep" lets it count as often as
            it is observed, "mean" replaces it by its mean.

    Raises:
        ValueError: for no observations, indices outside the shape, values that are not finite or conflict.
        TypeError: for indices that are not integers, values that are not numbers.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion(torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, 2.0]), (2, 2))
    >>> float(task.loss(torch.zeros(2, 2, dtype=torch.float64)))
    2.5
    """

    def __init__(
        self,
        indices: Tensor,
        values: Tensor,
        shape: Sequence[int],
        *,
        target: Tensor | None = None,
        loss: AnyLoss = "mse",
        duplicates: Literal["error", "keep", "mean"] = "error",
    ) -> None:
        super().__init__(values, shape, target, loss)
        if not self.shape:
            raise ValueError("shape is (), a single number; completion needs at least one mode")
        self.indices = check_indices(indices, self.shape)
        if len(self.indices) != len(self.values):
            raise ValueError(f"{len(self.indices)} indices and {len(self.values)} values; give one value per row")
        if duplicates not in ("error", "keep", "mean"):
            raise ValueError(f"duplicates is {duplicates!r}; choose 'error', 'keep' or 'mean'")
        if duplicates != "keep":
            self._merge(duplicates)
        small = math.prod(self.shape) < 2**62
        self.flat = contract.flatten(self.indices, self.shape) if small else self.indices

    def _merge(self, duplicates: str) -> None:
        rows, inverse, counts = self.indices.unique(dim=0, return_inverse=True, return_counts=True)
        if len(rows) == len(self.indices):
            return
        low = torch.full((len(rows),), math.inf, dtype=self.values.dtype, device=self.values.device).scatter_reduce(
            0, inverse, self.values, "amin"
        )
        high = torch.full_like(low, -math.inf).scatter_reduce(0, inverse, self.values, "amax")
        if duplicates == "error" and bool((low != high).any()):
            k = int((low != high).nonzero()[0])
            raise ValueError(
                f"entry {tuple(rows[k].tolist())} is observed {int(counts[k])} times with values from "
                f"{float(low[k]):g} to {float(high[k]):g}; choose duplicates='keep' or duplicates='mean'"
            )
        sums = torch.zeros_like(low).scatter_add(0, inverse, self.values)
        self.indices, self.values = rows, sums / counts if duplicates == "mean" else low

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        if isinstance(tensor, Tensor):
            return tensor.reshape(-1)[self._like("flat", tensor)]
        if contract.reads_whole(tensor.layout, len(self)):
            return tensor.tensor().reshape(-1)[self._like("flat", tensor.stacks[0])]
        return tensor.entries(self._like("indices", tensor.stacks[0]), check=False)

    def subset(self, rows: Tensor) -> "Completion":
        """The problem made of some of the observations, by row."""
        return Completion(
            self.indices[rows],
            self.values[rows],
            self.shape,
            target=self.target,
            loss=self.objective,
            duplicates="keep",
        )

    @classmethod
    def sample(
        cls, target: Tensor, observed: int, *, seed: int = 0, noise: float = 0.0, loss: AnyLoss = "mse"
    ) -> "Completion":
        """Observe `observed` different entries of a target, drawn uniformly, with Gaussian noise of a given std.

        Raises:
            ValueError: if more entries are asked for than there are, or none, or noise is negative.
        """
        if not 1 <= observed <= target.numel():
            raise ValueError(f"observed is {observed}; the target has {target.numel()} entries, take 1 to that many")
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise is {noise}; it is a standard deviation, zero or more")
        flat = torch.randperm(target.numel(), generator=stream(seed, "observed entries"))[:observed].sort().values
        indices = torch.stack(torch.unravel_index(flat, target.shape), dim=1)
        values = target.detach().double().cpu().reshape(-1)[flat]
        drawn = torch.randn(observed, generator=stream(seed, "noise"), dtype=torch.float64)
        return cls(indices, values + noise * drawn, tuple(target.shape), target=target, loss=loss)

    @classmethod
    def counterexample(
        cls, d: int = 2, z: float = 1.0, z2: float = 1.0, *, eps: float = 0.0, loss: AnyLoss = "half_sse"
    ) -> "Completion":
        """A d x d problem where fitting drives every norm to infinity: entry (0, 0) is unobserved.

        Observed are w01 = z, w10 = z2, w11 = eps, ones on the rest of the diagonal and zeros elsewhere. With eps = 0
        every solution has determinant -z z2, so a start of the other sign can fit only with |w00| -> infinity.

        Raises:
            ValueError: for d < 2, or z z2 = 0.

        Source: Razin and Cohen (NeurIPS 2020), equation (5), Theorem 1 and appendix on perturbations.
        """
        if d < 2:
            raise ValueError(f"d is {d}; the counterexample needs at least 2 rows")
        if z * z2 == 0 or not math.isfinite(z * z2 * (1 + eps)):
            raise ValueError(f"z = {z}, z2 = {z2}, eps = {eps}; z and z2 must differ from zero and all be finite")
        target = torch.eye(d, dtype=torch.float64)
        target[0, 1], target[1, 0], target[1, 1], target[0, 0] = z, z2, eps, 0.0
        indices = torch.cartesian_prod(torch.arange(d), torch.arange(d))[1:]
        return cls(indices, target.reshape(-1)[1:], (d, d), loss=loss)
