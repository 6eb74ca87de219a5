"""Layers whose weight is computed from factors."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ranklens.nn.composition import Composition
from ranklens.tensors.network import TensorNetwork


def tensor_factored(model: nn.Module) -> Iterator[tuple[str, Composition, TensorNetwork]]:
    """Yield the compositions of a model whose weight is the end tensor of a tensor network.

    Args:
        model: a model; only layers made by `overparameterize` have compositions.

    Yields:
        The name of the layer ("" if the model itself is the layer), its composition, and the network. The three
        projections of a MultiheadAttention are named "compositions.0" to "compositions.2" within their layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Composition) and isinstance(module.network, TensorNetwork):
            yield name.removesuffix("composition").removesuffix("."), module, module.network


def check_values(name: str, weight: Tensor) -> None:
    """Refuse a weight that cannot be decomposed.

    Args:
        name: name of the layer, for the message.
        weight: the weight of the layer.

    Raises:
        ValueError: if the weight is on the meta device or has entries that are not finite.
    """
    if weight.is_meta or not bool(torch.isfinite(weight).all()):
        what = "on the meta device" if weight.is_meta else "not finite"
        raise ValueError(f"the weight of layer {name!r} is {what}; load a finite weight first, or leave the layer out")


class Composed:
    """Base of the layers whose weight is computed from factors.

    `rl.nn.overparameterize` makes such a layer from a plain one by changing the class of the layer. All attributes of
    the plain layer but its weight remain.

    Attributes:
        composition: the factors of the weight.
    """

    composition: Composition

    @property
    def weight(self) -> Tensor:
        """Return the weight of the layer, computed from the factors at most once per training step.

        It has the shape of the plain layer's weight and is differentiable in the factors.
        """
        return self.composition()


class ComposedLinear(Composed, nn.Linear):  # type: ignore[override]
    """A Linear layer whose weight is computed from factors.

    If the weight is a product of matrices, an input can also be multiplied by the matrices one after the other. The
    layer takes whichever way needs fewer multiply-adds for the number of rows in the input; see `by_chain`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the plain layer, by the product of the factors or by one factor after the other.

        Args:
            input: activations of shape (..., in_features).

        Returns:
            Activations of shape (..., out_features).
        """
        chain = self.composition.chain()
        if chain is None or not by_chain(input.numel() // max(input.shape[-1], 1), chain):
            return nn.functional.linear(input, self.weight, self.bias)
        return through(input, chain, self.bias)


def by_chain(rows: int, chain: list[Tensor]) -> bool:
    """Return whether multiplying an input by the factors one after the other is cheaper than by their product.

    For B rows, multiplying by the factors costs B times the number of their entries. Multiplying by the product costs
    the product itself and B times the number of its entries. All costs are multiply-adds of the forward pass.

    Args:
        rows: number B of rows of the input.
        chain: the factors, in the order in which they are applied.

    Returns:
        True if the factors one after the other are cheaper.
    """
    columns = chain[0].shape[1]
    apply_cost, compose_cost = sum(x.numel() for x in chain), sum(x.numel() * columns for x in chain[1:])
    return rows * apply_cost < compose_cost + rows * chain[-1].shape[0] * columns


def through(input: Tensor, factors: list[Tensor], bias: Tensor | None) -> Tensor:
    """Return an input multiplied by matrices one after the other, plus a bias.

    Args:
        input: activations, whose features are the last axis.
        factors: the matrices, in the order in which they are applied.
        bias: the bias, or None.

    Returns:
        Activations with as many features as the last matrix has rows.
    """
    for factor in factors[:-1]:
        input = nn.functional.linear(input, factor)
    return nn.functional.linear(input, factors[-1], bias)


class ComposedConv1d(Composed, nn.Conv1d):  # type: ignore[override]
    """A Conv1d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConv2d(Composed, nn.Conv2d):  # type: ignore[override]
    """A Conv2d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConv3d(Composed, nn.Conv3d):  # type: ignore[override]
    """A Conv3d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose1d(Composed, nn.ConvTranspose1d):  # type: ignore[override]
    """A ConvTranspose1d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose2d(Composed, nn.ConvTranspose2d):  # type: ignore[override]
    """A ConvTranspose2d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose3d(Composed, nn.ConvTranspose3d):  # type: ignore[override]
    """A ConvTranspose3d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedEmbedding(Composed, nn.Embedding):  # type: ignore[override]
    """An Embedding layer whose weight is computed from factors.

    The row of `padding_idx` changes in training, because it depends on factors that other rows use.
    """


class ComposedConv1D(Composed, nn.Module):
    """A `Conv1D` layer of transformers, a Linear layer with a weight of shape (in, out), that computes its weight.

    Attributes:
        nf: number of output features.
        plain_class: the class of the plain layer.
    """

    nf: int
    bias: nn.Parameter | None
    plain_class: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the plain layer, by the product of the factors or by one factor after the other.

        Args:
            input: activations of shape (..., in).

        Returns:
            Activations of shape (..., out).
        """
        chain = self.composition.chain()
        factors = [factor.T for factor in reversed(chain)] if chain is not None else []
        if not factors or not by_chain(input.numel() // max(input.shape[-1], 1), factors):
            factors = [self.weight.T]
        return through(input, factors, self.bias)


class ComposedMultiheadAttention(nn.MultiheadAttention):
    """A MultiheadAttention layer whose projections of query, key and value are computed from factors.

    Attributes:
        compositions: the factors of the three projections, in this order.
    """

    compositions: nn.ModuleList

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """Return the weights for query, key and value, concatenated to shape (3 `embed_dim`, `embed_dim`)."""
        return torch.cat([composition() for composition in self.compositions])


# For every layer type that can be factored, the type with a composed weight.
COMPOSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ComposedLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: ComposedLinear,
    nn.Conv1d: ComposedConv1d,
    nn.Conv2d: ComposedConv2d,
    nn.Conv3d: ComposedConv3d,
    nn.ConvTranspose1d: ComposedConvTranspose1d,
    nn.ConvTranspose2d: ComposedConvTranspose2d,
    nn.ConvTranspose3d: ComposedConvTranspose3d,
    nn.Embedding: ComposedEmbedding,
}
# The inverse of COMPOSED: for every composed layer type, the plain type.
PLAIN: dict[type[nn.Module], type[nn.Module]] = {composed: plain for plain, composed in reversed(COMPOSED.items())}
