"""Pairs of images on a large canvas, at a chosen distance, and whether both show the same class."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ranklens import seeds
from ranklens.data.pictures import Labelled
from ranklens.tensors.annotations import checked

# Part of a canvas: top, left, height, width, in pixels.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SameClass:
    """Pairs of images, which are put on canvases only when they are used, to save memory.

    Attributes:
        images: (n, channels, height, width) float32 images, from which `mean` was subtracted and which were then
            divided by `std`. The empty canvas is 0, so it has the mean colour.
        pairs: (count, 2) row numbers of the two images of each pair.
        labels: (count,) 1 if both images of a pair are of one class, else 0.
        boxes: the places of the two images on the canvas, each (top, left, height, width) in pixels.
        canvas: height and width of the canvas, in pixels.
        mean: (channels,) mean level of each channel that was subtracted.
        std: (channels,) standard deviation that each channel was divided by; 1 for a channel that is constant.
    """

    images: Float32[Tensor, "n channels height width"]
    pairs: Int64[Tensor, "count 2"]
    labels: Int64[Tensor, "count"]
    boxes: tuple[Box, Box]
    canvas: tuple[int, int]
    mean: Float32[Tensor, "channels"]
    std: Float32[Tensor, "channels"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.labels)

    def canvases(self, rows: Tensor | slice | int) -> Float32[Tensor, "batch channels rows columns"]:
        """Return some of the pairs, drawn on canvases that are 0 elsewhere.

        Args:
            rows: which pairs, in an index of the first axis of `pairs`: positions, a mask, a slice, or one position.

        Returns:
            A tensor of shape (number of pairs, channels, canvas height, canvas width). One position gives a batch of
            one.
        """
        pairs = self.pairs[rows].reshape(-1, 2)
        found = self.images.new_zeros(len(pairs), self.images.shape[1], *self.canvas)
        for k, (top, left, height, width) in enumerate(self.boxes):
            found[:, :, top : top + height, left : left + width] = self.images[pairs[:, k]]
        return found


@checked
def same_class(
    images: Labelled,
    count: int,
    *,
    distance: int,
    canvas: tuple[int, int] = (224, 224),
    like: SameClass | None = None,
    seed: int = 0,
) -> SameClass:
    """Return random pairs of images on canvases, where about half of the pairs are of the same class.

    The first image of a pair is drawn uniformly. The second is drawn uniformly among the images of its class, including
    itself, or among the images of all other classes, with equal chances for the two cases. The two images are side by
    side, with the middle between them in the middle of the canvas.

    Args:
        images: the images to draw from and their classes, such as `rl.data.images(name).train`.
        count: number of pairs.
        distance: number of columns between the two images; the published values are 0 to 160 for images of 32 x 32.
        canvas: height and width of the canvas, in pixels.
        like: for a test set, the pairs of the training set, whose mean and standard deviation are used to shift and
            scale the images. None takes the mean and the standard deviation, per channel, of all of `images`.
        seed: seed of the pairs.

    Returns:
        A `SameClass` of `count` pairs, with labels 1 for equal classes and 0 for different ones.

    Raises:
        ValueError: for fewer than one pair; for a negative distance; for a canvas that is too small; for images of one
            class only; or for another number of channels than in `like`.

    Source: Razin, Maman, Cohen (ICML 2022), there with images of CIFAR-10.

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
        raise ValueError(f"all images are of class {classes.tolist()}; pairs of different classes need two at least")
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
    """Return the first image of every pair, and whether the second is to be of its class."""
    first = torch.randint(len(images), (count,), generator=seeds.stream(seed, "first of a pair"))
    return first, torch.randint(2, (count,), generator=seeds.stream(seed, "same class"))


def _partners(images: Labelled, first: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return the second image of every pair, uniform among the images of the first one's class or among all others.

    In the order of the images by class, either set is a contiguous range, of which the second wraps around the end.
    """
    order = images.labels.argsort(stable=True)
    ordered = images.labels[order].contiguous()
    own = images.labels[first].contiguous()
    begin, end = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    same = labels == 1
    room = (end - begin).where(same, len(images) - (end - begin))
    share = torch.rand(len(first), generator=seeds.stream(seed, "second of a pair"), dtype=torch.float64)
    step = torch.minimum((share * room).long(), room - 1)
    return order[(begin + step).where(same, (end + step) % len(images))]
