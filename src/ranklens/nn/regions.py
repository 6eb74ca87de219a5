"""Regions of an input, as boxes of pixels or as masks, and random pairs of boxes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ranklens.tensors.annotations import checked_class

# A box of the last two axes of an input: top, left, height, width, in pixels.
Box = tuple[int, int, int, int]
# A box, or a boolean mask that broadcasts to one input, True inside the region.
Region = Sequence[int] | NDArray[np.bool_] | Tensor
Pair = tuple[Region, Region]
# Draws two disjoint boxes, given the shape of one input and a random stream.
Sampler = Callable[[Sequence[int], torch.Generator], tuple[Box, Box]]


def mask(region: Region, shape: Sequence[int], name: str = "region") -> Tensor:
    """Return a region as a boolean tensor of the shape of one input, True inside the region.

    Args:
        region: a box (top, left, height, width) of the last two axes, or a boolean mask that broadcasts to one input.
        shape: shape of one input, without the batch.
        name: name of the region in error messages.

    Returns:
        A boolean tensor of shape `shape` on the CPU. A box is repeated over all axes before the last two.

    Raises:
        ValueError: for a box that is empty or not within the input, or a mask that does not broadcast or is empty.
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
    """Return two disjoint regions as boolean tensors of the shape of one input.

    Args:
        pair: two regions, each a box (top, left, height, width) of the last two axes, or a boolean mask that
            broadcasts to one input.
        shape: shape of one input, without the batch.

    Returns:
        The masks of the first and of the second region, each of shape `shape`, on the CPU, True inside the region.

    Raises:
        ValueError: for another number of regions, for regions that overlap, or for a region that does not fit.
    """
    if len(pair) != 2:
        raise ValueError(f"patches has {len(pair)} members; give two regions, or a sampler such as rl.nn.PatchPairs")
    first, second = (mask(region, shape, name) for region, name in zip(pair, ("patch 0", "patch 1"), strict=True))
    if bool((first & second).any()):
        raise ValueError(f"patches {pair[0]} and {pair[1]} overlap; give two without a common element")
    return first, second


@dataclass(frozen=True)
class EitherOrder:
    """A sampler of two given boxes, in one order or the other with equal chances.

    The locality penalty differentiates by the first region and exchanges the second, so that each of the two boxes has
    each of the two parts in half of the steps.

    Attributes:
        first: a box (top, left, height, width), in pixels.
        second: another box, disjoint from the first.

    >>> import torch
    >>> order, made = EitherOrder((0, 0, 8, 8), (0, 56, 8, 8)), torch.Generator().manual_seed(0)
    >>> sorted({order((1, 8, 64), made)[0] for _ in range(20)})
    [(0, 0, 8, 8), (0, 56, 8, 8)]
    """

    first: Box
    second: Box

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Box, Box]:
        """Return the two boxes in a random order.

        Args:
            shape: shape of one input; not used.
            generator: the random stream.
        """
        pair = (self.first, self.second)
        return pair if int(torch.randint(2, (), generator=generator)) == 0 else (self.second, self.first)


@checked_class
@dataclass(frozen=True)
class PatchPairs:
    """A sampler of two disjoint boxes of equal size, at a given distance from each other.

    The distance of two boxes is the larger of the gap between their rows and the gap between their columns, in pixels;
    boxes that touch have distance 0. The first box is drawn uniformly among all boxes with a partner at an allowed
    distance, and the second uniformly among the partners of the first.

    Call the sampler with the shape of one input, whose last two axes are rows and columns, and a `torch.Generator`. The
    result is a pair of boxes, each (top, left, height, width) in pixels.

    Attributes:
        size: height and width of a box in pixels, or one number for both.
        distance: smallest distance that is allowed, in pixels.
        most: largest distance that is allowed, in pixels; None sets no limit.
        adjacent: if True, the second box touches the first (distance 0) and has equal rows or equal columns.

    Raises:
        ValueError: for a size below 1, for a negative distance, for `most` below `distance`, or for `adjacent` together
            with a positive `distance` or with `most`.

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
        """Refuse sizes and distances that no pair of boxes can have.

        Raises:
            ValueError: as in the description of the class.
        """
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
        """Return the height of either box, in pixels."""
        return index(self.size[0] if isinstance(self.size, tuple) else self.size)

    @property
    def width(self) -> int:
        """Return the width of either box, in pixels."""
        return index(self.size[1] if isinstance(self.size, tuple) else self.size)

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Box, Box]:
        """Draw two boxes.

        Args:
            shape: shape of one input, whose last two axes are rows and columns.
            generator: the random stream.

        Returns:
            Two boxes (top, left, height, width), in pixels.

        Raises:
            ValueError: if the input has no room for two boxes at an allowed distance.
        """
        down, across = shape[-2] - self.height + 1, shape[-1] - self.width + 1  # number of tops and of lefts
        top, left = torch.arange(max(down, 0))[:, None], torch.arange(max(across, 0))
        gap_down = torch.maximum(top, down - 1 - top) - self.height  # to the farthest box above or below
        gap_across = torch.maximum(left, across - 1 - left) - self.width
        if self.adjacent:
            has_partner = (gap_down >= 0) | (gap_across >= 0)
        else:
            has_partner = torch.maximum(gap_down, gap_across) >= self.distance
        if not bool(has_partner.any()):
            raise ValueError(
                f"{self} has no room in an image of {shape[-2]} x {shape[-1]}; take smaller boxes or a smaller distance"
            )
        first = self._one_of(has_partner, generator)
        between = torch.maximum((top - first[0]).abs() - self.height, (left - first[1]).abs() - self.width)
        if self.adjacent:
            partners = (between == 0) & ((top == first[0]) | (left == first[1]))
        else:
            partners = between >= self.distance
            if self.most is not None:
                partners &= between <= self.most
        return first, self._one_of(partners, generator)

    def _one_of(self, allowed: Tensor, generator: torch.Generator) -> Box:
        """Return a box whose top left corner is drawn uniformly among the allowed ones, a mask over (tops, lefts)."""
        places = allowed.nonzero()
        top, left = places[int(torch.randint(len(places), (), generator=generator))].tolist()
        return top, left, self.height, self.width
