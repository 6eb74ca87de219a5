"""Completion: fit a tensor to some of its entries."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ranklens.problems.losses import AnyLoss
from ranklens.problems.problem import Observations
from ranklens.seeds import stream
from ranklens.tensors import arguments, contract
from ranklens.tensors.annotations import checked
from ranklens.tensors.checks import check_indices
from ranklens.tensors.convert import TensorLike, as_tensor
from ranklens.tensors.network import TensorNetwork


class Completion(Observations):
    """The problem of fitting a tensor to some of its entries; the loss compares these entries with those of a network.

    Args:
        indices: (m, N) integers, one row per observed entry: a tensor, a numpy array or nested lists.
        values: (m,) observed values: a tensor, a numpy array or a list.
        shape: sizes of the N modes.
        target: the whole tensor, or None if it is not known; `error` needs it.
        loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error), a
            `rl.losses.Loss`, or a callable (predictions, values) -> one number per observation, of which the mean is
            taken.
        duplicates: an entry that is observed more than once is refused if its values differ ("error"), kept as often as
            it is observed ("keep"), or replaced by the mean of its values ("mean").

    Attributes:
        indices: (m, N) int64 mode indices of the observations. If repeated entries were merged, the rows are sorted
            and m is the number of distinct entries; `values` has the same length and order.

    Raises:
        ValueError: for no observations, indices outside the shape, or values that are not finite or conflict.
        TypeError: for indices that are not integers, or values that are not real numbers.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion([[0, 1], [1, 0]], [1.0, 2.0], (2, 2))
    >>> float(task.loss(torch.zeros(2, 2, dtype=torch.float64)))  # the mean of 1^2 and 2^2
    2.5
    """

    @checked
    def __init__(
        self,
        indices: TensorLike,
        values: TensorLike,
        shape: Sequence[int],
        *,
        target: TensorLike | None = None,
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
        """Replace entries that are observed more than once by one observation each, or refuse them.

        Raises:
            ValueError: if `duplicates` is "error" and the values of an entry differ.
        """
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

    @checked
    def subset(self, rows: Tensor) -> "Completion":
        """Return the problem made of some of the observations, with their target and loss unchanged.

        Args:
            rows: integer positions of the observations to keep, in the order wanted.

        Raises:
            TypeError: if the rows are not integers.
        """
        if rows.dtype.is_floating_point or rows.dtype.is_complex:
            raise TypeError(f"rows are {rows.dtype}; positions are integers: convert with .long()")
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
        cls, target: TensorLike, observed: int, *, seed: int = 0, noise: float = 0.0, loss: AnyLoss = "mse"
    ) -> "Completion":
        """Return the completion of a known tensor from random entries: distinct ones, drawn uniformly.

        Args:
            target: the whole tensor.
            observed: number of observed entries, from 1 to all.
            seed: seed of the choice of entries and of the noise.
            noise: standard deviation of Gaussian noise on the observed values.
            loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error),
                a `rl.losses.Loss`, or a callable (predictions, values) -> one number per observation, of which the mean
                is taken.

        Raises:
            TypeError: if the target is not made of real numbers, or `observed` is no integer.
            ValueError: if the target is a single number, `observed` is out of range, or `noise` is negative or not
                finite.

        >>> import numpy as np, ranklens as rl
        >>> len(rl.Completion.sample(np.eye(4), observed=6))
        6
        """
        target = as_tensor("target", target)
        observed, noise = arguments.count("observed", observed), arguments.number("noise", noise, least=0)
        if target.ndim == 0:
            raise ValueError("target is a single number; pass a tensor with at least one axis")
        if observed > target.numel():
            raise ValueError(f"observed is {observed}; the target has {target.numel()} entries, take 1 to that many")
        flat = torch.randperm(target.numel(), generator=stream(seed, "observed entries"))[:observed].sort().values
        places = np.unravel_index(flat.numpy(), tuple(target.shape))  # torch's own imports sympy, in half a second
        indices = torch.from_numpy(np.stack(places, axis=1))
        values = target.detach().double().cpu().reshape(-1)[flat]
        drawn = torch.randn(observed, generator=stream(seed, "noise"), dtype=torch.float64)
        return cls(indices, values + noise * drawn, tuple(target.shape), target=target, loss=loss)

    @classmethod
    def counterexample(
        cls, d: int = 2, z: float = 1.0, z2: float = 1.0, *, eps: float = 0.0, loss: AnyLoss = "half_sse"
    ) -> "Completion":
        """Return the d x d completion in which fitting drives every norm to infinity; entry (0, 0) is unobserved.

        The observed values are w01 = z, w10 = z2 and w11 = eps, ones on the rest of the diagonal, and zeros elsewhere.
        With eps = 0 the determinant of every solution has the sign of -z z2. The flow of a balanced deep matrix keeps
        the sign of its determinant, so from the other sign the loss can tend to zero only with |w00| -> infinity.

        Args:
            d: number of rows and columns, at least 2.
            z: value of entry (0, 1), not zero.
            z2: value of entry (1, 0), not zero.
            eps: value of entry (1, 1); 0 is the example itself, other values perturb it.
            loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error),
                a `rl.losses.Loss`, or a callable (predictions, values) -> one number per observation, of which the mean
                is taken.

        Raises:
            ValueError: for d < 2, z z2 = 0, or values that are not finite.

        Source: Razin and Cohen (NeurIPS 2020), equation (5), Theorem 1 and appendix on perturbations.

        >>> import ranklens as rl
        >>> task = rl.Completion.counterexample(z=3.0)
        >>> task.indices.tolist(), task.values.tolist()
        ([[0, 1], [1, 0], [1, 1]], [3.0, 1.0, 0.0])
        """
        d = arguments.count("d", d, least=2)
        z, z2, eps = arguments.number("z", z), arguments.number("z2", z2), arguments.number("eps", eps)
        if z * z2 == 0 or not math.isfinite(z * z2 * (1 + eps)):
            raise ValueError(f"z = {z}, z2 = {z2}, eps = {eps}; z and z2 must differ from zero and all be finite")
        target = torch.eye(d, dtype=torch.float64)
        target[0, 1], target[1, 0], target[1, 1], target[0, 0] = z, z2, eps, 0.0
        indices = torch.cartesian_prod(torch.arange(d), torch.arange(d))[1:]
        return cls(indices, target.reshape(-1)[1:], (d, d), loss=loss)
