"""Sensing: inner products of a tensor with given ones are observed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ranklens.problems.losses import AnyLoss
from ranklens.problems.problem import Observations
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork


class Sensing(Observations):
    """Inner products with rank-one tensors are observed: y_i = <W, x_i1 outer ... outer x_iN>.

    Args:
        vectors: (m, N, d), or N tensors (m, d_n).
        values: (m,) what was observed.
        target: the whole tensor, if known.
        loss: as for Completion.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.
    """

    def __init__(
        self,
        vectors: Tensor | Sequence[Tensor],
        values: Tensor,
        *,
        target: Tensor | None = None,
        loss: AnyLoss = "mse",
    ) -> None:
        parts = tuple(vectors.unbind(1)) if isinstance(vectors, Tensor) else tuple(vectors)
        for n, part in enumerate(parts):
            if part.ndim != 2 or len(part) != len(values) or not bool(torch.isfinite(part).all()):
                raise ValueError(
                    f"vectors of mode {n} have shape {tuple(part.shape)}, or entries that are not finite; "
                    f"expected ({len(values)}, d), finite"
                )
        super().__init__(values, [part.shape[1] for part in parts], target, loss)
        self.vectors = [part.detach() for part in parts]

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
        """The problem made of some of the observations, by row."""
        vectors = [part[rows] for part in self.vectors]
        return Sensing(vectors, self.values[rows], target=self.target, loss=self.objective)


class DenseSensing(Observations):
    """Inner products with whole tensors are observed: y_i = <A_i, W>.

    Args:
        operators: (m, *shape).
        values: (m,) what was observed.
        target: the whole tensor, if known.
        loss: as for Completion.

    Raises:
        ValueError: for operators that are not finite or do not fit the values.
    """

    def __init__(
        self, operators: Tensor, values: Tensor, *, target: Tensor | None = None, loss: AnyLoss = "mse"
    ) -> None:
        if operators.ndim < 2 or len(operators) != len(values) or not bool(torch.isfinite(operators).all()):
            raise ValueError(
                f"operators have shape {tuple(operators.shape)}, or entries that are not finite; "
                f"expected ({len(values)}, *shape), finite"
            )
        super().__init__(values, operators.shape[1:], target, loss)
        self.operators = operators.detach().flatten(1).double()

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        whole = tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor
        return self._like("operators", whole) @ whole.reshape(-1)

    def subset(self, rows: Tensor) -> "DenseSensing":
        """The problem made of some of the observations, by row."""
        operators = self.operators[rows].reshape(-1, *self.shape)
        return DenseSensing(operators, self.values[rows], target=self.target, loss=self.objective)
