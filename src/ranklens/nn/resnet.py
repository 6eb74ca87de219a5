"""Residual networks (ResNets) of 18 and 34 layers."""

from torch import Tensor, nn

from ranklens import seeds
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# Number of residual blocks of each width, by the number of layers of the network, as published.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# Numbers of channels of the four groups of blocks, as published.
WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """A residual block: ReLU of the sum of its input and of two 3 x 3 convolutions of it, with batch-norm.

    Where the number of channels changes, or the stride is not 1, a 1 x 1 convolution with batch-norm maps the input to
    the shape of the output before they are added.

    Args:
        into: number of input channels.
        out: number of output channels.
        stride: stride of the first convolution.
    """

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = into == out and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block.

        Args:
            x: (batch, into, height, width) activations.

        Returns:
            (batch, out, height / stride, width / stride) activations, with sizes rounded up.
        """
        return nn.functional.relu(self.shortcut(x) + self.body(x))


@checked
def resnet(depth: int = 18, *, channels: int = 3, outputs: int = 1, seed: int = 0) -> nn.Sequential:
    """Return an untrained residual network for images of any size.

    Args:
        depth: number of layers with weights on the longest path, 18 or 34.
        channels: number of channels of the images.
        outputs: number of outputs of the last, linear layer.
        seed: seed of the initial values, which have their own random stream.

    Returns:
        A network that maps images (batch, channels, height, width) to (batch, outputs) numbers.

    Raises:
        ValueError: for a depth other than 18 or 34.

    Source: He, Zhang, Ren, Sun (CVPR 2016).

    >>> import ranklens as rl
    >>> sum(p.numel() for p in rl.nn.resnet(18).parameters())
    11177025
    """
    arguments.count("channels", channels)
    arguments.count("outputs", outputs)
    if depth not in BLOCKS:
        raise ValueError(f"depth is {depth}; there are residual networks of {' and '.join(map(str, BLOCKS))} layers")
    with seeds.initial_values(seed, "resnet"):
        layers: list[nn.Module] = [
            nn.Conv2d(channels, WIDTHS[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        into = WIDTHS[0]
        for width, count in zip(WIDTHS, BLOCKS[depth], strict=True):
            for k in range(count):
                layers.append(ResidualBlock(into, width, 2 if k == 0 and width > WIDTHS[0] else 1))
                into = width
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, outputs))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
