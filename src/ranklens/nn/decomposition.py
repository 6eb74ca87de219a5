"""Layers of a model that can be truncated to low rank, with the singular value decompositions of their weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from ranklens.nn.composed import check_values
from ranklens.nn.low_rank import LowRank, Truncatable, low_rank


@dataclass(frozen=True)
class DecomposedLayer:
    """A layer that can be truncated, and the singular value decomposition U diag(s) Vh of its weight as a matrix.

    The matrix has shape m x n: its rows are the first axis of the weight (the outputs), its columns all other axes.

    Attributes:
        name: the first name of the layer in the model.
        names: all names of the layer, if the model uses it in several places.
        module: the layer.
        U: left singular vectors as columns, of shape (m, min(m, n)), in float64.
        s: singular values in descending order, of shape (min(m, n),), in float64.
        Vh: right singular vectors as rows, of shape (min(m, n), n), in float64.
    """

    name: str
    names: tuple[str, ...]
    module: Truncatable
    U: Tensor
    s: Tensor
    Vh: Tensor

    @property
    def dense(self) -> int:
        """Return the number of entries of the weight."""
        return len(self.U) * self.Vh.shape[1]

    def cost(self, rank: int) -> int:
        """Return the number of entries in two factors of a rank, or in the weight itself if that is smaller.

        Args:
            rank: rank of the two factors, at least 1.

        Returns:
            The smaller of rank (m + n) and m n, for a weight of shape m x n as a matrix.
        """
        return min(rank * (len(self.U) + self.Vh.shape[1]), self.dense)

    def error(self, rank: int) -> float:
        """Return the relative Frobenius error of the weight truncated to a rank.

        Args:
            rank: number of singular values that are kept.

        Returns:
            The Euclidean norm of the singular values beyond the first `rank`, divided by the norm of all; 0 for a
            weight of zeros.
        """
        total = self.s.square().sum()
        return float((self.s[rank:].square().sum() / total).sqrt()) if float(total) > 0 else 0.0

    def truncated(self, rank: int) -> LowRank | None:
        """Return two layers with balanced weights in place of the layer truncated to a rank.

        Args:
            rank: number of singular values that are kept, at least 1.

        Returns:
            The two layers, or None if they would save no parameters.
        """
        if self.cost(rank) >= self.dense:
            return None
        root = self.s[:rank].sqrt()
        return low_rank(self.module, first=root[:, None] * self.Vh[:rank], last=self.U[:, :rank] * root)


def decomposed_layers(model: nn.Module) -> Iterator[DecomposedLayer]:
    """Yield the layers of a model that can be truncated, with the decompositions of their weights.

    These are the Linear, Conv1d, Conv2d and Conv3d layers, except layers with groups, layers that share their weight
    with another layer, layers inside a MultiheadAttention, and layers of a subclass of these types. A weight that is
    not finite is refused with a ValueError.

    Args:
        model: any model without factored layers.

    Yields:
        One `DecomposedLayer` per layer; a layer that the model uses in several places comes once.
    """
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for name, module in model.named_modules():
        if not isinstance(module, Truncatable) or type(module) not in get_args(Truncatable):
            continue
        if getattr(module, "groups", 1) != 1 or uses.get(id(module.weight), 0) != 1:
            continue
        if any(name.startswith(f"{outer}.".lstrip(".")) for outer in attention):
            continue
        check_values(name, module.weight)
        U, s, Vh = torch.linalg.svd(module.weight.detach().double().flatten(1), full_matrices=False)
        yield DecomposedLayer(name, tuple(names[id(module)]), module, U, s, Vh)
