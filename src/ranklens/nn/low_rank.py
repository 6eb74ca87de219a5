"""A layer of low rank: two smaller layers that take the place of one."""

from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens.nn.layer_kinds import Truncatable, as_weight, groups, is_conv_transpose, is_transposed, matrices


class _Placement(TypedDict):
    dtype: torch.dtype
    device: torch.device


class LowRank(nn.Sequential):
    """Two layers, applied one after the other, that take the place of a single Linear or Conv layer.

    Some modules, such as PyTorch's transformer layers, read the weight, the bias or the sizes of the layers that they
    contain. Therefore this module has these attributes of the single layer.

    Attributes:
        transposed: whether the single layer stores its weight with shape (in, out), as `Conv1D` of transformers does.
    """

    transposed: bool = False

    @classmethod
    def of(cls, first: nn.Module, last: nn.Module, layer: nn.Module) -> "LowRank":
        """Return two layers in the place of a layer, with its training mode and `requires_grad` flags.

        Args:
            first: the layer that is applied first.
            last: the layer that is applied last.
            layer: the single layer.

        Returns:
            The two layers.
        """
        pair = cls(first, last).train(layer.training)
        pair.transposed = is_transposed(layer)
        weight, bias = (layer._parameters.get(name) for name in ("weight", "bias"))
        pair.requires_grad_(weight is None or weight.requires_grad)
        if bias is not None:
            last.bias.requires_grad_(bias.requires_grad)
        return pair

    def forward(self, input: Tensor, *options: object, **named: object) -> Tensor:
        """Return the output of the second layer on that of the first.

        Args:
            input: the input of the single layer.
            *options: what else the single layer takes, such as the `output_size` of a transposed convolution.
            **named: the same by name.

        Returns:
            The output of the single layer.
        """
        first, last = self._ends()
        output: Tensor = last(first(input, *options, **named))
        return output

    def _ends(self) -> tuple[Any, Any]:
        """Return both layers, the first applied first."""
        return self[0], self[1]

    @property
    def weight(self) -> Tensor:
        """Return the weight of the single layer: the product of the two layers' weights as matrices.

        Returns:
            A tensor of the shape that the weight of the single layer has. It is computed anew at each access.
        """
        first, last = self._ends()
        product = as_weight(first, matrices(last) @ matrices(first))
        return product.T if self.transposed else product

    @property
    def bias(self) -> Tensor | None:
        """Return the bias of the single layer, which is the bias of the second layer; None without a bias."""
        bias: Tensor | None = self._ends()[1].bias
        return bias

    @property
    def in_features(self) -> int:
        """Return the number of input features of a Linear layer; a Conv layer raises an AttributeError."""
        return int(self._ends()[0].in_features)

    @property
    def out_features(self) -> int:
        """Return the number of output features of a Linear layer; a Conv layer raises an AttributeError."""
        return int(self._ends()[1].out_features)

    @property
    def in_channels(self) -> int:
        """Return the number of input channels of a Conv layer; a Linear layer raises an AttributeError."""
        return int(self._ends()[0].in_channels)

    @property
    def out_channels(self) -> int:
        """Return the number of output channels of a Conv layer; a Linear layer raises an AttributeError."""
        return int(self._ends()[1].out_channels)


def low_rank(
    layer: Truncatable,
    first: Float[Tensor, "*groups rank inputs"],
    last: Float[Tensor, "*groups outputs rank"],
    bias: Tensor | None = None,
    module: nn.Module | None = None,
) -> LowRank:
    """Return two layers that compute what a layer would compute with the weight `last @ first`.

    The first layer has the kernel, stride, padding and dilation of a convolution, the second a kernel of size 1 and
    the bias. A convolution with groups becomes two convolutions with as many groups.

    Args:
        layer: a Linear, Conv or ConvTranspose layer. Its options, dtype, device, training mode and `requires_grad`
            flags are taken over; its weight is not read.
        first: the matrix of each group that is applied first, in the order of `layer_kinds.matrices`; without an axis
            of groups, that of the only group.
        last: the matrix of each group that is applied last.
        bias: the bias, one entry for each output; None takes over the layer's own bias, if it has one.
        module: the module whose place they take, if it is of another class than `layer`, which computes the same.

    Returns:
        The two layers. No random numbers are drawn.
    """
    value = layer.bias if bias is None else bias.flatten()
    first, last = (x if x.ndim == 3 else x[None] for x in (first, last))
    pair = LowRank.of(*empty_pair(layer, first.shape[1], value is not None), layer if module is None else module)
    before, after = pair._ends()
    with torch.no_grad():
        before.weight.copy_(as_weight(layer, first))
        after.weight.copy_(as_weight(after, last))
        if value is not None:
            after.bias.copy_(value)
    return pair


def empty_pair(layer: Truncatable, rank: int, bias: bool) -> tuple[nn.Module, nn.Module]:
    """Return the two layers of a rank, with weights that are not set.

    Args:
        layer: the layer whose place they take.
        rank: rank of each group's matrix.
        bias: whether the second layer has a bias.

    Returns:
        The layer that is applied first, and the last one.
    """
    placement: _Placement = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    make: Any = nn.utils.skip_init
    if isinstance(layer, nn.Linear):
        before = make(nn.Linear, layer.in_features, rank, bias=False, **placement)
        return before, make(nn.Linear, rank, layer.out_features, bias=bias, **placement)
    count, names = groups(layer), ("stride", "padding", "dilation", "padding_mode", "groups")
    options = {name: getattr(layer, name) for name in names}
    if is_conv_transpose(layer):
        options["output_padding"] = layer.output_padding
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(layer.kernel_size) - 1]
    before = make(type(layer), layer.in_channels, count * rank, layer.kernel_size, bias=False, **options, **placement)
    return before, make(plain, count * rank, layer.out_channels, 1, groups=count, bias=bias, **placement)
