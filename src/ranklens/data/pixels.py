"""Images as indices of tensor entries: one mode per pixel, its grey level as the index, and a value to predict.

Two controls replace the images, or their labels, by random ones.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ranklens import data, seeds
from ranklens.tensors import contract, log_product
from ranklens.tensors.network import TensorNetwork

CONTROLS = ("true", "random images", "random labels")
# Number of entries that are evaluated together where no gradient is needed: bounds the memory for intermediates.
AT_ONCE = 4096


@dataclass(frozen=True)
class PixelCompletion:
    """The problem of fitting entries of a tensor that are indexed by the pixels of images, in the mean square.

    It is a `rl.problems.BatchedProblem`, for `rl.gradient_descent`.

    Attributes:
        images: (n, pixels) grey levels. The level of pixel k of an image is its index in mode k of the tensor.
        labels: (n,) value that the tensor's entry at each image should have.
    """

    images: UInt8[Tensor, "n pixels"]
    labels: Float[Tensor, "n"]
    _indicators: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def subset(self, rows: Tensor) -> "PixelCompletion":
        """Return the problem made of some of the images.

        Args:
            rows: (k,) row numbers in `images`, in any order and possibly repeated.
        """
        rows = rows.to(self.labels.device)
        return PixelCompletion(self.images.index_select(0, rows), self.labels.index_select(0, rows))

    def errors(self, net: TensorNetwork) -> Float[Tensor, "n"]:
        """Return the squared difference between the end tensor's entry and the label, (n,) numbers, one per image.

        Indices are not checked: levels of images are within the modes of a network made for them.

        Args:
            net: a network with one mode per pixel, whose size is the number of grey levels.
        """
        size = len(self) if torch.is_grad_enabled() else AT_ONCE
        found = [net.entries(part, check=False) for part in self._read_by(net).split(size)]
        return (torch.cat(found) - self.labels).square()

    def _read_by(self, net: TensorNetwork) -> Tensor:
        """Return the images as the network reads them fastest: as zeros and ones of its dtype, made once, if it can."""
        if self.images.numel() > log_product.KEPT or not contract.reads_indicators(net.layout):
            return self.images
        key = (net.dtype, net.device)
        if key not in self._indicators:
            self._indicators[key] = self.images.to(dtype=net.dtype, device=net.device)
        return self._indicators[key]

    def loss(self, net: TensorNetwork) -> Float[Tensor, ""]:
        """Return the mean, over images, of the squared difference between the end tensor's entry and the label.

        Args:
            net: a network with one mode per pixel, whose size is the number of grey levels.
        """
        return self.errors(net).mean()


@dataclass(frozen=True)
class PixelData:
    """Training and test images, as two problems: a network is fitted to the first and tested on the second.

    Attributes:
        train: problem of the training images.
        test: problem of the test images.
    """

    train: PixelCompletion
    test: PixelCompletion


@dataclass(frozen=True)
class Selection:
    """Which images of a data set are used, and at which resolution.

    Attributes:
        name: "digits" (8 x 8 pixels), "mnist" or "fashion-mnist" (both 28 x 28).
        levels: number of grey levels of a pixel, 2 to 256.
        side: height and width, in pixels, to which images are averaged down; 0 leaves them as they are.
        train: number of training images; 0 takes as many as the data set has. The training images of "digits" are drawn
            from all of its images, and the others are the test images; other sets keep their test images.
    """

    name: str
    levels: int
    side: int
    train: int


def draw(selection: Selection, control: str, seed: int) -> tuple[data.Labelled, data.Labelled]:
    """Return training and test images with few grey levels and their classes, as they are or with a part made random.

    With control "random images", every pixel is replaced by a uniformly random level and the classes are kept. With
    "random labels", the images are kept and their classes are permuted, within the training and the test images
    separately, so that the frequency of every class is kept. With "true" nothing is replaced.

    Args:
        selection: which images, and at which resolution.
        control: "true", "random images" or "random labels".
        seed: seed of the selection and of the random parts.

    Returns:
        Training images and test images. Each has grey levels from 0 to `selection.levels` - 1, of shape
        (n, side, side), and classes from 0 to 9.
    """
    loaded = data.images(selection.name)
    train, test = (_levels(part, loaded.largest, selection) for part in (loaded.train, loaded.test))
    train, test = _split(train, test, selection, seed)
    generator = seeds.stream(seed, control)  # one stream: first for the training images, then for the test images
    return (
        _control(train, control, selection.levels, generator),
        _control(test, control, selection.levels, generator),
    )


def against(parts: tuple[data.Labelled, data.Labelled], label: int, value: float, dtype: torch.dtype) -> PixelData:
    """Return the problems of telling one class from all others, on training and on test images.

    Args:
        parts: training and test images with their classes, as from `draw`.
        label: the class.
        value: value of the entries of images of this class; the entries of all other images are 0.
        dtype: dtype of these values.

    Returns:
        The two problems; the images are flattened to (n, pixels), row by row.
    """
    train, test = (PixelCompletion(part.images.flatten(1), value * (part.labels == label).to(dtype)) for part in parts)
    return PixelData(train, test)


def pad(images: PixelData, side: int) -> PixelData:
    """Return problems whose images are the given ones in the middle of a black square; the labels are unchanged.

    Args:
        images: problems of square images.
        side: height and width of the padded images, in pixels. If the border has an odd width in total, it is one
            pixel wider below and on the right.
    """
    return PixelData(_pad(images.train, side), _pad(images.test, side))


def _pad(part: PixelCompletion, side: int) -> PixelCompletion:
    """Return square images in the middle of black ones."""
    old = round(part.images.shape[1] ** 0.5)
    before = (side - old) // 2
    after = side - old - before
    grid = part.images.reshape(-1, old, old)
    return PixelCompletion(functional.pad(grid, (before, after, before, after)).flatten(1), part.labels)


def _levels(part: data.Labelled, largest: int, selection: Selection) -> data.Labelled:
    """Return images averaged down to the selected side and rounded to the selected number of levels."""
    grey = part.images.float() / largest
    if selection.side:
        grey = functional.adaptive_avg_pool2d(grey, selection.side)
    return data.Labelled((grey * (selection.levels - 1)).round().to(torch.uint8), part.labels)


def _split(
    train: data.Labelled, test: data.Labelled, selection: Selection, seed: int
) -> tuple[data.Labelled, data.Labelled]:
    """Return the selected number of training images, drawn at random, and the test images."""
    count = selection.train or len(train)
    if selection.name == "digits":
        train = data.Labelled(torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels]))
    order = torch.randperm(len(train), generator=seeds.stream(seed, f"split of the {selection.name}"))
    if selection.name == "digits":
        test = _rows(train, order[count:])
    return _rows(train, order[:count]), test


def _control(part: data.Labelled, control: str, levels: int, generator: torch.Generator) -> data.Labelled:
    """Return images whose levels or labels are random, as the control says."""
    if control == "random images":
        drawn = torch.randint(levels, part.images.shape, generator=generator, dtype=torch.uint8)
        return data.Labelled(drawn, part.labels)
    if control == "random labels":
        return data.Labelled(part.images, part.labels[torch.randperm(len(part), generator=generator)])
    return part


def _rows(part: data.Labelled, rows: Tensor) -> data.Labelled:
    """Return some of the images and their labels."""
    return data.Labelled(part.images[rows], part.labels[rows])
