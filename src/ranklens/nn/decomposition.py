"""Layers of a model that can be cut to low rank, and decompositions of their weights."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens.nn.composed import check_values
from ranklens.nn.layer_kinds import (
    Truncatable,
    layers_with_weights,
    matrices,
    owners,
    plain_form,
    why_not,
)
from ranklens.nn.low_rank import LowRank, low_rank
from ranklens.nn.output_cut import OutputCut


@dataclass(frozen=True)
class WeightCut:
    """The nearest matrices of every rank to the weight of a layer, one for each group (Eckart and Young).

    Attributes:
        weight: the weight as matrices, in float64.
        directions: the singular vectors of the smaller side as columns, the most important first.
        singular: the singular values in descending order.
    """

    weight: Float[Tensor, "groups outputs inputs"]
    directions: Float[Tensor, "groups side k"]
    singular: Float[Tensor, "groups k"]

    def factors(self, rank: int) -> tuple[Tensor, Tensor, None]:
        """Return the matrix of a rank as two factors with balanced norms.

        Args:
            rank: number of singular values that are kept.

        Returns:
            The factor that is applied first, of shape (groups, rank, inputs), the last one, of shape (groups, outputs,
            rank), and None, because the bias does not change.
        """
        basis, root = self.directions[..., :rank], self.singular[..., :rank].sqrt()[:, None, :]
        inverse = torch.where(root > 0, 1 / root, 0.0)
        if self.weight.shape[1] <= self.weight.shape[2]:
            return (basis.mT @ self.weight) * inverse.mT, basis * root, None
        return (basis * root).mT, (self.weight @ basis) * inverse, None

    def errors(self) -> Float[Tensor, " ranks"]:
        """Return the squared Frobenius error of every rank from 0 to the largest, summed over groups."""
        tails = self.singular.square().sum(0).flip(0).cumsum(0).flip(0)
        return torch.cat([tails, tails.new_zeros(1)])

    def total(self) -> float:
        """Return the squared Frobenius norm, summed over groups."""
        return float(self.singular.square().sum())


def weight_cut(weight: Float[Tensor, "groups outputs inputs"]) -> WeightCut:
    """Return the decomposition of matrices.

    Matrices in at most single precision are decomposed by the eigenvectors of the float64 Gram matrix of their smaller
    side, which is exact to the precision of their entries and several times faster than a singular value decomposition.

    Args:
        weight: one matrix for each group.

    Returns:
        The decomposition in float64.
    """
    matrix = weight.detach().double()
    turned = matrix if matrix.shape[1] > matrix.shape[2] else matrix.mT  # tall: a wide one takes four times as long
    if weight.dtype == torch.float64:
        _, singular, vectors = torch.linalg.svd(turned, full_matrices=False)
        return WeightCut(matrix, vectors.mT, singular)
    values, basis = torch.linalg.eigh(turned.mT @ turned)
    return WeightCut(matrix, basis.flip(-1), values.flip(-1).clamp(min=0).sqrt())


@dataclass(frozen=True)
class Site:
    """A layer of a model that can be cut.

    Attributes:
        name: the first name of the layer in the model.
        names: all names of the layer, if the model uses it in several places.
        module: the layer.
        form: the plain layer of torch that computes the same; the layer itself unless it is of a registered class.
    """

    name: str
    names: tuple[str, ...]
    module: nn.Module
    form: Truncatable

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of groups, and of outputs and inputs of each group's matrix."""
        groups, outputs, inputs = matrices(self.form).shape
        return groups, outputs, inputs

    @property
    def largest(self) -> int:
        """Return the largest rank that the shape allows."""
        return min(self.shape[1:])

    @property
    def dense(self) -> int:
        """Return the number of entries of the weight."""
        groups, outputs, inputs = self.shape
        return groups * outputs * inputs


@dataclass(frozen=True)
class CutLayer:
    """A layer, and the layers of every rank that may take its place.

    Attributes:
        site: the layer.
        cut: the factors of every rank.
    """

    site: Site
    cut: WeightCut | OutputCut = field(repr=False)

    def cost(self, rank: int) -> int:
        """Return the number of entries of two factors of a rank and of a bias that the layer does not have.

        Args:
            rank: rank of each group's two factors, at least 1.

        Returns:
            rank (m + n) for each group with a matrix of shape m x n, and m more if the cut needs a bias and the layer
            has none.
        """
        groups, outputs, inputs = self.site.shape
        added = groups * outputs if isinstance(self.cut, OutputCut) and self.site.form.bias is None else 0
        return groups * rank * (outputs + inputs) + added

    def saves(self, rank: int) -> bool:
        """Return whether the two layers of a rank have fewer parameters than the layer."""
        return self.cost(rank) < self.site.dense

    def errors(self) -> np.ndarray:
        """Return the relative squared error of every rank from 0 to the largest; 0 if there is nothing to compute."""
        found, total = self.cut.errors().cpu().numpy(), self.cut.total()
        return found / total if total > 0 else np.zeros_like(found)

    def pair(self, rank: int) -> LowRank | None:
        """Return two layers with balanced weights in place of the layer.

        Args:
            rank: rank of the two layers, at least 1.

        Returns:
            The two layers, or None if they would save no parameters.
        """
        if not self.saves(rank):
            return None
        first, last, bias = self.cut.factors(rank)
        return low_rank(self.site.form, first, last, bias, self.site.module)


@dataclass(frozen=True)
class KeptLayer:
    """A layer with weights that is not cut, and the reason.

    Attributes:
        name: the first name of the layer in the model.
        module: the layer.
        reason: why it is not cut.
    """

    name: str
    module: nn.Module
    reason: str

    @property
    def weights(self) -> list[Tensor]:
        """Return the layer's own Parameters that have two axes or more."""
        return [p for p in self.module._parameters.values() if p is not None and p.ndim >= 2]


def sites(model: nn.Module) -> tuple[list[Site], list[KeptLayer]]:
    """Return the layers of a model that can be cut, and all other layers with weights.

    Args:
        model: any model without factored layers.

    Returns:
        Both in the order of the model. A layer that the model uses in several places comes once.

    Raises:
        ValueError: if a weight that can be cut is not finite.
    """
    shared = owners(model)
    found: list[Site] = []
    kept: list[KeptLayer] = []
    for name, names, module in layers_with_weights(model):
        reason = why_not(module, shared, name)
        form = None if reason else plain_form(module)
        if form is None:
            kept.append(KeptLayer(name, module, reason))
        else:
            check_values(name, form.weight)
            found.append(Site(name, names, module, form))
    return found, kept


def by_weight(site: Site) -> CutLayer:
    """Return a layer with the cuts that are nearest to its weight."""
    return CutLayer(site, weight_cut(matrices(site.form)))


def counted(layer: KeptLayer) -> Site | None:
    """Return a layer that is not cut as one whose multiply-adds can be counted; None if its kind is not known."""
    form = plain_form(layer.module) if layer.module._parameters.get("weight") is not None else None
    return None if form is None else Site(layer.name, (layer.name,), layer.module, form)
