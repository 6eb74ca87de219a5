"""Sensing: fit a tensor to inner products with given tensors, of rank one or of any rank."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ranklens.problems.losses import AnyLoss
from ranklens.problems.problem import Observations, check_values
from ranklens.tensors import contract
from ranklens.tensors.convert import TensorLike, as_tensor
from ranklens.tensors.network import TensorNetwork


class Sensing(Observations):
    """The problem of fitting a tensor W to inner products with rank-one tensors: y_i = <W, x_i1 outer ... outer x_iN>.

    Args:
        vectors: a tensor or numpy array (m, N, d), or a list of N tensors, arrays or nested lists (m, d_n), one per
            mode: row i of the n-th holds x_in.
        values: (m,) observed values y_i: a tensor, a numpy array or a list.
        target: the whole tensor, or None if it is not known; `error` needs it.
        loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error), a
            `rl.losses.Loss`, or a callable (predictions, values) -> one number per observation, of which the mean is
            taken.

    Attributes:
        vectors: list of N tensors (m, d_n), one per mode.

    Raises:
        TypeError: for vectors or values that are not real numbers.
        ValueError: for shapes that do not fit, or numbers that are not finite.

    >>> import torch, ranklens as rl
    >>> task = rl.Sensing([[[1.0, 2.0]], [[3.0, 0.0]]], [5.0])  # one observation of a 2 x 2 matrix: (1, 2) W (3, 0)^T
    >>> task.predict(torch.tensor([[1.0, 7.0], [2.0, 7.0]], dtype=torch.float64)).tolist()
    [15.0]
    """

    def __init__(
        self,
        vectors: TensorLike | Sequence[TensorLike],
        values: TensorLike,
        *,
        target: TensorLike | None = None,
        loss: AnyLoss = "mse",
    ) -> None:
        parts = _per_mode(vectors)
        count = len(check_values(values))
        for n, part in enumerate(parts):
            if part.ndim != 2 or len(part) != count or not bool(torch.isfinite(part).all()):
                raise ValueError(
                    f"vectors of mode {n} have shape {tuple(part.shape)}, or entries that are not finite; "
                    f"expected ({count}, d), finite"
                )
        super().__init__(values, [part.shape[1] for part in parts], target, loss)
        self.vectors = parts

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        like = tensor if isinstance(tensor, Tensor) else tensor.stacks[0]
        vectors = [part.to(like) for part in self.vectors]
        if isinstance(tensor, TensorNetwork):
            return contract.evaluate(tensor.layout, tensor.stacks, vectors)
        result = tensor.unsqueeze(0)
        for part in vectors:
            result = torch.einsum("zi...,zi->z...", result.expand(len(part), *result.shape[1:]), part)
        return result

    def subset(self, rows: Tensor) -> "Sensing":
        """Return the problem made of some of the observations, with their target and loss unchanged.

        Args:
            rows: integer positions of the observations to keep, in the order wanted.
        """
        vectors = [part[rows] for part in self.vectors]
        return Sensing(vectors, self.values[rows], target=self.target, loss=self.objective)


class DenseSensing(Observations):
    """The problem of fitting a tensor W to inner products with given tensors of its shape: y_i = <A_i, W>.

    Args:
        operators: (m, *shape) tensors A_i: a tensor, a numpy array or nested lists.
        values: (m,) observed values y_i: a tensor, a numpy array or a list.
        target: the whole tensor, or None if it is not known; `error` needs it.
        loss: "mse" (mean squared error), "half_sse" (half the sum of squares), "huber", "l1" (mean absolute error), a
            `rl.losses.Loss`, or a callable (predictions, values) -> one number per observation, of which the mean is
            taken.

    Attributes:
        operators: (m, number of entries of W) float64, the tensors A_i flattened in row-major order.

    Raises:
        TypeError: for operators or values that are not real numbers.
        ValueError: for operators that are not finite or do not fit the values.

    >>> import torch, ranklens as rl
    >>> task = rl.DenseSensing([[[1.0, 0.0], [0.0, 1.0]]], [5.0])  # one observation of a 2 x 2 matrix: its trace
    >>> task.predict(torch.tensor([[1.0, 7.0], [7.0, 2.0]], dtype=torch.float64)).tolist()
    [3.0]
    """

    def __init__(
        self, operators: TensorLike, values: TensorLike, *, target: TensorLike | None = None, loss: AnyLoss = "mse"
    ) -> None:
        tensors, count = as_tensor("operators", operators), len(check_values(values))
        if tensors.ndim < 2 or len(tensors) != count or not bool(torch.isfinite(tensors).all()):
            raise ValueError(
                f"operators have shape {tuple(tensors.shape)}, or entries that are not finite; "
                f"expected ({count}, *shape), finite"
            )
        super().__init__(values, tensors.shape[1:], target, loss)
        self.operators = tensors.detach().flatten(1).double()

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        whole = tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor
        return self._like("operators", whole) @ whole.reshape(-1)

    def subset(self, rows: Tensor) -> "DenseSensing":
        """Return the problem made of some of the observations, with their target and loss unchanged.

        Args:
            rows: integer positions of the observations to keep, in the order wanted.
        """
        operators = self.operators[rows].reshape(-1, *self.shape)
        return DenseSensing(operators, self.values[rows], target=self.target, loss=self.objective)


def _per_mode(vectors: TensorLike | Sequence[TensorLike]) -> list[Tensor]:
    """Return one tensor of vectors per mode, detached from the computation that made them.

    Raises:
        ValueError: if a single array has not three dimensions.
    """
    if isinstance(vectors, Sequence) and not isinstance(vectors, str | bytes):
        parts = cast(Sequence[TensorLike], vectors)
        return [as_tensor(f"vectors of mode {n}", part).detach() for n, part in enumerate(parts)]
    whole = as_tensor("vectors", vectors).detach()
    if whole.ndim != 3:
        raise ValueError(f"vectors have shape {tuple(whole.shape)}; pass (m, N, d), or a list of N arrays (m, d_n)")
    return list(whole.unbind(1))
