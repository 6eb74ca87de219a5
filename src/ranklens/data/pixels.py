"""Images as entries of a tensor, a mode per pixel and its levels the indices; and the same with either part random."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ranklens import data, seeds
from ranklens.tensors import contract
from ranklens.tensors.network import TensorNetwork

CONTROLS = ("true", "random images", "random labels")
ROWS = 4096  # entries that are evaluated together where no gradient is wanted


@dataclass(frozen=True)
class Labelled:
    """Images as entries of a tensor, to be fitted in the mean square: a problem for `gradient_descent`.

    Attributes:
        images: (n, pixels) levels.
        labels: (n,) what the entry should be.
    """

    images: UInt8[Tensor, "n pixels"]
    labels: Float[Tensor, "n"]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subset(self, rows: Tensor) -> "Labelled":
        """Some of the images."""
        return Labelled(self.images.index_select(0, rows), self.labels.index_select(0, rows))

    def errors(self, net: TensorNetwork) -> Float[Tensor, "n"]:
        """The squared error of every image."""
        size = len(self) if torch.is_grad_enabled() else ROWS
        found = [contract.entries(net.layout, net.stacks, part) for part in self.images.split(size)]
        return (torch.cat(found) - self.labels).square()

    def loss(self, net: TensorNetwork) -> Float[Tensor, ""]:
        """Their mean."""
        return self.errors(net).mean()


@dataclass(frozen=True)
class Images:
    """What is learnt from, and what is asked."""

    train: Labelled
    test: Labelled


@dataclass(frozen=True)
class Source:
    """Which images, and what of them: everything that a draw of training images depends on.

    Attributes:
        name: "digits", "mnist" or "fashion-mnist", as in `rl.data.images`.
        levels: of a pixel.
        side: to which images are averaged down; 0 leaves them as they are.
        train: how many are learnt from; 0 takes all. The digits have no test images of their own, the rest of them is.
    """

    name: str
    levels: int
    side: int
    train: int


def draw(source: Source, control: str, seed: int) -> tuple[data.Labelled, data.Labelled]:
    """Train and test images of levels, with their classes; random images keep the classes, random labels the images.

    Labels are permuted within train and test images each, so that every class stays as frequent as it is.
    """
    loaded = data.images(source.name)
    parts = [_levels(part, loaded.largest, source) for part in (loaded.train, loaded.test)]
    made = seeds.stream(seed, control)
    return tuple(_control(part, control, source.levels, made) for part in _split(parts, source, seed))  # type: ignore[return-value]


def against(parts: tuple[data.Labelled, data.Labelled], label: int, value: float, dtype: torch.dtype) -> Images:
    """One class against all others: `value` where an image is of the class, and 0 elsewhere."""
    made = [Labelled(part.images.flatten(1), value * (part.labels == label).to(dtype)) for part in parts]
    return Images(*made)


def pad(images: Images, side: int) -> Images:
    """The same images within black ones of side x side pixels, in the middle."""
    return Images(_pad(images.train, side), _pad(images.test, side))


def _pad(part: Labelled, side: int) -> Labelled:
    old = round(part.images.shape[1] ** 0.5)
    before = (side - old) // 2
    after = side - old - before
    grid = part.images.reshape(-1, old, old)
    return Labelled(functional.pad(grid, (before, after, before, after)).flatten(1), part.labels)


def _levels(part: data.Labelled, largest: int, source: Source) -> data.Labelled:
    grey = part.images.float() / largest
    if source.side:
        grey = functional.adaptive_avg_pool2d(grey, source.side)
    return data.Labelled((grey * (source.levels - 1)).round().to(torch.uint8), part.labels)


def _split(parts: list[data.Labelled], source: Source, seed: int) -> list[data.Labelled]:
    train, test = parts
    if source.name == "digits":
        train = data.Labelled(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    count = source.train or len(parts[0])
    order = torch.randperm(len(train), generator=seeds.stream(seed, f"split of the {source.name}"))
    if source.name == "digits":
        test = _rows(train, order[count:])
    return [_rows(train, order[:count]), test]


def _control(part: data.Labelled, control: str, levels: int, made: torch.Generator) -> data.Labelled:
    if control == "random images":
        return data.Labelled(torch.randint(levels, part.images.shape, generator=made, dtype=torch.uint8), part.labels)
    if control == "random labels":
        return data.Labelled(part.images, part.labels[torch.randperm(len(part), generator=made)])
    return part


def _rows(part: data.Labelled, rows: Tensor) -> data.Labelled:
    return data.Labelled(part.images[rows], part.labels[rows])
