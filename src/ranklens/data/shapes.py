"""Generated images of one shape each, with seven degrees of freedom."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds
from ranklens.tensors.annotations import checked

# Smallest and largest radius of a shape, as a share of the image's side.
SMALLEST, LARGEST = 0.12, 0.28
# Smallest value of a colour channel of a shape, so that every shape differs from the black background.
DARKEST = 0.15
# Width of an edge, in pixels: the argument of the sigmoid changes by one over this distance.
EDGE = 0.5


@dataclass(frozen=True)
class Shapes:
    """Images and the seven numbers from which each was made.

    Attributes:
        images: (count, 3, side, side) colours, float32 from 0 to 1.
        factors: (count, 7) numbers from 0 to 1: three for the colour, one for the radius, two for the row and the
            column of the centre, and one for the kind. The kind is a disc if this number is below one half, and a
            square of equal area otherwise.
    """

    images: Float[Tensor, "count 3 side side"]
    factors: Float[Tensor, "count 7"]


@checked
def shapes(count: int, side: int = 32, *, seed: int = 0) -> Shapes:
    """Return images of one disc or square each, of random colour, size and place, on black.

    Every shape lies within the image. Each image is made from seven factors: three for the colour, one for the size,
    two for the place, one for disc or square. They are independent and uniform between 0 and 1, and are scaled to the
    allowed colours, sizes and places.

    Args:
        count: number of images.
        side: height and width of the images, in pixels.
        seed: seed of the factors.

    Returns:
        The images and their factors.

    Raises:
        ValueError: for a count below one or a side below eight.

    Source: after the synthetic set of Jing, Zbontar, LeCun (NeurIPS 2020), with the same degrees of freedom.

    >>> import ranklens as rl
    >>> found = rl.data.shapes(3, side=16)
    >>> found.images.shape, found.factors.shape
    (torch.Size([3, 3, 16, 16]), torch.Size([3, 7]))
    """
    if count < 1 or side < 8:
        raise ValueError(f"count is {count} and side {side}; make at least one image of 8 pixels a side")
    factors = torch.rand(count, 7, generator=seeds.stream(seed, "shapes"), dtype=torch.float64)
    colour = DARKEST + (1 - DARKEST) * factors[:, :3]
    radius = (SMALLEST + (LARGEST - SMALLEST) * factors[:, 3])[:, None, None]
    centre = radius[:, :, 0] + (1 - 2 * radius[:, :, 0]) * factors[:, 4:6]
    place = (torch.arange(side) + 0.5) / side
    down = (place - centre[:, :1]).abs()[:, :, None]
    across = (place - centre[:, 1:]).abs()[:, None, :]
    disc = (down.square() + across.square()).sqrt()
    square = torch.maximum(down, across) * 2 / torch.pi**0.5
    distance = disc.where((factors[:, 6] < 0.5)[:, None, None], square)
    inside = torch.sigmoid((radius - distance) * side / EDGE)
    images = colour[:, :, None, None] * inside[:, None]
    return Shapes(images.float(), factors.float())
