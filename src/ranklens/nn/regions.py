"""Parts of an input: boxes of pixels or masks, and random pairs of boxes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[int, int, int, int]  # top, left, height, width
Region = Sequence[int] | NDArray[Any] | Tensor  # a box, or a boolean mask that broadcasts to one input
Pair = tuple[Region, Region]
Sampler = Callable[[Sequence[int], torch.Generator], tuple[Box, Box]]


def mask(region: Region, shape: Sequence[int], name: str = "region") -> Tensor:
    """A region as a boolean tensor of the shape of one input.

    Raises:
        ValueError: for a box outside the picture or empty, or a mask that does not fit or holds nothing.
        TypeError: for a mask that is not boolean.
    """
    found = torch.zeros(tuple(shape), dtype=torch.bool)
    if isinstance(region, np.ndarray):
        region = torch.from_numpy(region)
    if isinstance(region, Tensor):
        if region.dtype != torch.bool:
            raise TypeError(f"{name} is a tensor of {region.dtype}; a mask is boolean, True inside")
        try:
            found |= region.cpu()
        except RuntimeError:
            raise ValueError(
                f"{name} is a mask of {tuple(region.shape)}, which does not broadcast to one input, {tuple(shape)}"
            ) from None
    else:
        if len(region) != 4 or len(shape) < 2:
            raise ValueError(f"{name} is {region}; give a box (top, left, height, width), or a mask of {tuple(shape)}")
        top, left, height, width = (index(edge) for edge in region)
        rows, columns = shape[-2:]
        if min(top, left, height - 1, width - 1, rows - top - height, columns - left - width) < 0:
            raise ValueError(
                f"{name} is the box {tuple(region)} (top, left, height, width), which is not within {rows} x {columns}"
            )
        found[..., top : top + height, left : left + width] = True
    if not bool(found.any()):
        raise ValueError(f"{name} is empty; a region has at least one element")
    return found


def masks(pair: Pair, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two disjoint regions as masks.

    Raises:
        ValueError: for what is no pair, or one that overlaps; and as `mask` does.
    """
    if len(pair) != 2:
        raise ValueError(f"patches has {len(pair)} members; give two regions, or a sampler such as rl.nn.PatchPairs")
    first, second = (mask(region, shape, name) for region, name in zip(pair, ("patch 0", "patch 1"), strict=True))
    if bool((first & second).any()):
        raise ValueError(f"patches {pair[0]} and {pair[1]} overlap; give two without a common element")
    return first, second


@dataclass(frozen=True)
class PatchPairs:
    """Draws pairs of equal boxes: the first uniformly among those that have a partner, the second among its partners.

    The distance of two boxes is the larger of the gaps between their rows and between their columns; boxes that touch
    have distance 0.

    Attributes:
        size: height and width, or one number for both.
        distance: the least that there is between the two.
        most: the most; None for any.
        adjacent: whether the second shares a side with the first.

    Raises:
        ValueError: for a size below one, distances that are negative or do not fit; when drawing, for a
            picture with no room.

    >>> import torch, ranklens as rl
    >>> pairs = rl.nn.PatchPairs(4, distance=20)
    >>> (top, left, *_), (other_top, other_left, *_) = pairs((3, 32, 32), torch.Generator().manual_seed(0))
    >>> max(abs(top - other_top), abs(left - other_left)) >= 24
    True
    """

    size: int | tuple[int, int]
    distance: int = 0
    most: int | None = None
    adjacent: bool = False

    def __post_init__(self) -> None:
        """Refuse what no picture has room for."""
        if not (hasattr(self.size, "__index__") or len(self.size) == 2):
            raise ValueError(f"size is {self.size}; give one number, or height and width")
        if min(self.height, self.width) < 1:
            raise ValueError(f"size is {self.size}; a patch has at least one pixel")
        if self.distance < 0 or (self.adjacent and self.distance):
            raise ValueError(f"distance is {self.distance}; it is at least 0, and 0 where patches are adjacent")
        if self.most is not None and (self.adjacent or self.most < self.distance):
            raise ValueError(
                f"most is {self.most}; it is at least distance, {self.distance}, and not for adjacent ones"
            )

    @property
    def height(self) -> int:
        """Of either box."""
        return index(self.size[0] if isinstance(self.size, tuple) else self.size)

    @property
    def width(self) -> int:
        """Of either box."""
        return index(self.size[1] if isinstance(self.size, tuple) else self.size)

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Box, Box]:
        """Two boxes within an input of `shape`, whose last axes are rows and columns."""
        down, across = shape[-2] - self.height + 1, shape[-1] - self.width + 1  # numbers of places
        top, left = torch.arange(max(down, 0))[:, None], torch.arange(max(across, 0))
        if self.adjacent:
            has = (torch.maximum(top, down - 1 - top) >= self.height) | (
                torch.maximum(left, across - 1 - left) >= self.width
            )
        else:  # the partners that are furthest off are in a corner
            far = torch.maximum(
                torch.maximum(top, down - 1 - top) - self.height, torch.maximum(left, across - 1 - left) - self.width
            )
            has = far >= self.distance
        if not bool(has.any()):
            raise ValueError(f"{self} has no room in a picture of {shape[-2]} x {shape[-1]}; make it smaller or nearer")
        first = self._one(has, generator)
        between = torch.maximum((top - first[0]).abs() - self.height, (left - first[1]).abs() - self.width)
        if self.adjacent:
            partners = (between == 0) & ((top == first[0]) | (left == first[1]))
        else:
            partners = between >= self.distance
            if self.most is not None:
                partners &= between <= self.most
        return first, self._one(partners, generator)

    def _one(self, allowed: Tensor, generator: torch.Generator) -> Box:
        places = allowed.nonzero()
        top, left = places[int(torch.randint(len(places), (), generator=generator))].tolist()
        return top, left, self.height, self.width
