"""Do two images show the same class? Side by side on a canvas, as far apart as is asked."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ranklens import seeds
from ranklens.data.pictures import Labelled

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SameClass:
    """Pairs of images, put together when they are asked for: a canvas is much larger than two images.

    Attributes:
        images: (n, channels, height, width), of mean 0 and standard deviation 1 in every channel, so that the empty
            canvas, 0, is of the mean colour.
        pairs: (count, 2) which images.
        labels: (count,) 1 where both are of one class.
        boxes: where the two are, as (top, left, height, width).
        canvas: height and width.
        mean: (channels,) of the images before.
        std: (channels,) likewise.
    """

    images: Float32[Tensor, "n channels height width"]
    pairs: Int64[Tensor, "count 2"]
    labels: Int64[Tensor, "count"]
    boxes: tuple[Box, Box]
    canvas: tuple[int, int]
    mean: Float32[Tensor, "channels"]
    std: Float32[Tensor, "channels"]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.labels)

    def canvases(self, rows: Tensor | slice | int) -> Float32[Tensor, "batch channels rows columns"]:
        """Some of the pairs on their canvases."""
        pairs = self.pairs[rows].reshape(-1, 2)
        found = self.images.new_zeros(len(pairs), self.images.shape[1], *self.canvas)
        for k, (top, left, height, width) in enumerate(self.boxes):
            found[:, :, top : top + height, left : left + width] = self.images[pairs[:, k]]
        return found


def same_class(
    images: Labelled,
    count: int,
    *,
    distance: int,
    canvas: tuple[int, int] = (224, 224),
    like: SameClass | None = None,
    seed: int = 0,
) -> SameClass:
    """Pairs of labelled images, one half of them of the same class, `distance` columns apart in the middle of a canvas.

    Args:
        images: what pairs are made of, and their classes; a part of `rl.data.images(name)`.
        count: of pairs.
        distance: columns between the two; published are 0 to 160 for images of 32 x 32.
        canvas: height and width.
        like: pairs to learn from, whose mean and standard deviation are used; None uses those of the images.
        seed: of the pairs.

    Returns:
        A `SameClass`; a pair of the same class may repeat an image.

    Raises:
        ValueError: for no pairs, a canvas without room, or images of one class only.

    Source: Razin, Maman, Cohen (ICML 2022), there of CIFAR-10.

    >>> import ranklens as rl
    >>> digits = rl.data.images("digits")
    >>> found = rl.data.same_class(digits.train, 100, distance=48, canvas=(8, 64))
    >>> found.canvases(slice(0, 3)).shape, found.boxes
    (torch.Size([3, 1, 8, 64]), ((0, 0, 8, 8), (0, 56, 8, 8)))
    """
    pixels = images.images.float()
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    height, width = pixels.shape[2:]
    if count < 1 or distance < 0:
        raise ValueError(f"count is {count} and distance {distance}; make one pair at least, 0 columns apart or more")
    if canvas[0] < height or canvas[1] < 2 * width + distance:
        raise ValueError(
            f"the canvas is {canvas[0]} x {canvas[1]}; two images of {height} x {width}, {distance} columns apart, "
            f"need {height} x {2 * width + distance}"
        )
    classes = images.labels.unique()
    if len(classes) < 2:
        raise ValueError(f"all images are of class {classes.tolist()}; pairs of unlike classes need two at least")
    if like is None:
        mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
        std = std.where(std > 0, 1.0)
    else:
        mean, std = like.mean, like.std
        if len(mean) != pixels.shape[1]:
            raise ValueError(f"the images have {pixels.shape[1]} channels, those of `like` {len(mean)}; give as many")
    top, left = (canvas[0] - height) // 2, (canvas[1] - 2 * width - distance) // 2
    first, labels = _firsts(images, count, seed)
    return SameClass(
        images=(pixels - mean[:, None, None]) / std[:, None, None],
        pairs=torch.stack([first, _partners(images, first, labels, seed)], dim=1),
        labels=labels,
        boxes=((top, left, height, width), (top, left + width + distance, height, width)),
        canvas=canvas,
        mean=mean,
        std=std,
    )


def _firsts(images: Labelled, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The first image of every pair, and whether the second shall be of its class."""
    first = torch.randint(len(images), (count,), generator=seeds.stream(seed, "first of a pair"))
    return first, torch.randint(2, (count,), generator=seeds.stream(seed, "same class"))


def _partners(images: Labelled, first: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Uniform among the images of the first's class, or among all others: both are runs of the order by class."""
    order = images.labels.argsort(stable=True)
    ordered = images.labels[order].contiguous()
    own = images.labels[first].contiguous()
    begin, end = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    same = labels == 1
    room = (end - begin).where(same, len(images) - (end - begin))
    share = torch.rand(len(first), generator=seeds.stream(seed, "second of a pair"), dtype=torch.float64)
    step = torch.minimum((share * room).long(), room - 1)
    return order[(begin + step).where(same, (end + step) % len(images))]
