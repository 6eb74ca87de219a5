"""A layer of low rank: two smaller layers that take the place of one."""

from typing import Any, TypedDict

import torch
from torch import Tensor, nn

Truncatable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class _Placement(TypedDict):
    dtype: torch.dtype
    device: torch.device


class LowRank(nn.Sequential):
    """Two layers, applied one after the other, that take the place of a single Linear or Conv layer.

    Some modules, such as PyTorch's transformer layers, read the weight, the bias or the sizes of the layers that they
    contain. Therefore this module has these attributes of the single layer.
    """

    def _ends(self) -> tuple[Any, Any]:
        """Return both layers, the first applied first."""
        return self[0], self[1]

    @property
    def weight(self) -> Tensor:
        """Return the weight of the single layer: the product of the two layers' weights as matrices.

        Returns:
            A tensor of shape (out, in) for a Linear layer, and (out, in, *kernel sizes) for a convolution. It is
            computed anew at each access.
        """
        first, last = self._ends()
        product: Tensor = last.weight.flatten(1) @ first.weight.flatten(1)
        return product.reshape(len(last.weight), *first.weight.shape[1:])

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


def low_rank(layer: Truncatable, first: Tensor, last: Tensor) -> LowRank:
    """Return two layers that compute what a layer would compute with the weight `last @ first`.

    The first layer has the kernel, stride, padding and dilation of a convolution, the second a kernel of size 1 and
    the bias.

    Args:
        layer: a Linear or Conv layer without groups. Its options, bias, dtype, device, training mode and
            `requires_grad` flags are taken over; its weight is not read.
        first: a matrix of shape (rank, entries of a row of the weight).
        last: a matrix of shape (outputs, rank).

    Returns:
        The two layers. No random numbers are drawn.
    """
    weight, bias = layer.weight, layer.bias
    placement: _Placement = {"dtype": weight.dtype, "device": weight.device}
    rank = len(first)
    before: Any
    after: Any
    if isinstance(layer, nn.Linear):
        before = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False, **placement)
        after = nn.utils.skip_init(nn.Linear, rank, layer.out_features, bias=bias is not None, **placement)
    else:
        kind, size = type(layer), layer.kernel_size
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        before = nn.utils.skip_init(kind, layer.in_channels, rank, size, bias=False, **options, **placement)
        after = nn.utils.skip_init(kind, rank, layer.out_channels, 1, bias=bias is not None, **placement)
    with torch.no_grad():
        before.weight.copy_(first.reshape(before.weight.shape))
        after.weight.copy_(last.reshape(after.weight.shape))
        if bias is not None:
            after.bias.copy_(bias)
    pair = LowRank(before, after).train(layer.training).requires_grad_(weight.requires_grad)
    if bias is not None:
        after.bias.requires_grad_(bias.requires_grad)
    return pair
