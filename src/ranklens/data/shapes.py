"""Generated pictures of one shape each, with seven degrees of freedom."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds

SMALLEST, LARGEST = 0.12, 0.28  # radius, as a share of the side
DARKEST = 0.15  # of a colour's channels, so that every shape is seen
EDGE = 0.5  # pixels over which an edge rises by a factor e


@dataclass(frozen=True)
class Shapes:
    """Pictures and what they were made from.

    Attributes:
        images: (count, 3, side, side), float32 from 0 to 1.
        factors: (count, 7) from 0 to 1: three of colour, radius, two of the centre, and the kind, a disc below one half
            and else a square of the same area.
    """

    images: Float[Tensor, "count 3 side side"]
    factors: Float[Tensor, "count 7"]


def shapes(count: int, side: int = 32, *, seed: int = 0) -> Shapes:
    """Discs and squares of any colour, size and place on black, whole within the picture; seven degrees of freedom.

    Args:
        count: of pictures.
        side: in pixels.
        seed: of the factors, which are uniform and independent.

    Raises:
        ValueError: for a count below one or a side below eight.

    Source: after the synthetic set of Jing, Zbontar, LeCun (NeurIPS 2020), with the same degrees of freedom.

    >>> import ranklens as rl
    >>> found = rl.data.shapes(3, side=16)
    >>> found.images.shape, found.factors.shape
    (torch.Size([3, 3, 16, 16]), torch.Size([3, 7]))
    """
    if count < 1 or side < 8:
        raise ValueError(f"count is {count} and side {side}; make at least one picture of 8 pixels a side")
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
