"""An expanded network whose chains of kernels are applied one kernel after the other, with activations in between.

`rl.nn.overparameterize(kind="expanded")` composes each chain to one kernel before the convolution. The slower form in
this file has equal outputs and gradients; a benchmark and a study compare the two.
"""

from torch import Tensor, nn

from ranklens.nn.composed import ComposedConv2d
from ranklens.nn.kernel_chain import KernelChain
from ranklens.nn.overparameterize import collapse


def kernels(layer: ComposedConv2d) -> nn.ParameterList:
    """Return the trainable kernels of an expanded Conv2d, each of shape (out, in, rows, columns).

    They are in the order in which they are applied to the input, and are the layer's own Parameters, not copies.

    Args:
        layer: a Conv2d whose weight is a chain of kernels, made by `rl.nn.overparameterize(kind="expanded")`.

    Raises:
        TypeError: for a layer whose weight is not a chain of kernels.
    """
    chain = layer.composition.network
    if not isinstance(chain, KernelChain):
        raise TypeError(
            f"the weight of the layer is a {type(chain).__name__}, not a chain of kernels; "
            "make the layer with rl.nn.overparameterize(kind='expanded')"
        )
    return chain.kernels


class LayerByLayer(nn.Module):
    """A convolution by a chain of kernels, computed as one convolution per kernel.

    All padding is applied before the first kernel. Padding between the kernels would change outputs near the border,
    because a convolution by the composed kernel pads its input only.

    Args:
        layer: an expanded Conv2d of stride 1 with a bias. Its kernels and its bias are copied.
    """

    def __init__(self, layer: ComposedConv2d) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([nn.Parameter(kernel.detach().clone()) for kernel in kernels(layer)])
        self.bias = nn.Parameter(layer.get_parameter("bias").detach().clone())
        self.padding = layer.padding

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the expanded layer, (batch, out channels, height, width).

        Args:
            x: images or activations, (batch, in channels, height, width).
        """
        *inner, last = self.kernels
        for k, kernel in enumerate(inner):
            x = nn.functional.conv2d(x, kernel, padding=self.padding if k == 0 else 0)
        return nn.functional.conv2d(x, last, self.bias)


def layer_by_layer(expanded: nn.Sequential) -> nn.Sequential:
    """Return a copy of an expanded network that applies its chains of kernels one kernel after the other.

    Args:
        expanded: a sequence of layers, in which every expanded Conv2d has stride 1 and a bias.

    Returns:
        A sequence of as many layers, with copies of all parameters: `LayerByLayer` for every expanded Conv2d, and the
        other layers as they are after `rl.nn.collapse`.

    >>> import torch
    >>> import ranklens as rl
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU())
    >>> expanded = rl.nn.overparameterize(net, kind="expanded")
    >>> x = torch.ones(1, 1, 5, 5)
    >>> torch.allclose(layer_by_layer(expanded)(x), expanded(x), atol=1e-6)
    True
    """
    layers = [
        LayerByLayer(layer) if isinstance(layer, ComposedConv2d) else other
        for layer, other in zip(expanded.children(), collapse(expanded).children(), strict=True)
    ]
    return nn.Sequential(*layers)
