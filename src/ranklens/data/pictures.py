"""Images with labels: MNIST, Fashion-MNIST and CIFAR-10 from the data folder; the digits, which are always there."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from ranklens.data import install
from ranklens.data.formats import CHANNELS, CLASSES, SIDE

DIGITS = "digits"
NAMES = (DIGITS, "mnist", "fashion-mnist", "cifar10")
DIGITS_TRAIN = 1200  # of the 1,797
PIXELS = {DIGITS: 16, "mnist": 255, "fashion-mnist": 255, "cifar10": 255}  # the largest value


@dataclass(frozen=True)
class Labelled:
    """Images and what they show.

    Attributes:
        images: (n, height, width), or (n, 3, height, width) in colour.
        labels: (n,) classes, 0 to 9.
    """

    images: UInt8[Tensor, "n ..."]
    labels: Int64[Tensor, "as_many"]

    def __post_init__(self) -> None:
        """Refuse images without labels, or labels without images."""
        if len(self.images) != len(self.labels):
            raise ValueError(f"there are {len(self.images)} images and {len(self.labels)} labels; give one each")

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A data set of images.

    Attributes:
        train: what is learnt from.
        test: what is asked.
        largest: the value of a white pixel; 0 is black.
    """

    train: Labelled
    test: Labelled
    largest: int


def images(name: str = DIGITS) -> Images:
    """A data set of labelled images, checked by its content. The network is not used: `fetch` fetches.

    Args:
        name: "digits" (8 x 8, 1,200 and 597 images, in the order of scikit-learn, with which they come), "mnist" or
            "fashion-mnist" (28 x 28, 60,000 and 10,000), or "cifar10" (3 x 32 x 32, 50,000 and 10,000). IDX files are
            held to published hashes. For CIFAR-10 only the hash of the archive is published, so its batches are held
            to the numbers of images and classes, and to the hashes that `fetch` notes when it unpacks that archive.

    Returns:
        Images and labels, in the order of the files.

    Raises:
        ValueError: for a name that is none, or files that are damaged or foreign.
        FileNotFoundError: if the data folder has them not; it names the command and the folder.

    Source: LeCun, Bottou, Bengio, Haffner (1998); Xiao, Rasul, Vollgraf (2017); Krizhevsky (2009); for the digits
        Alpaydin and Kaynak (1998).

    >>> import ranklens as rl
    >>> digits = rl.data.images("digits")
    >>> tuple(digits.train.images.shape), len(digits.test), digits.largest == int(digits.train.images.max())
    ((1200, 8, 8), 597, True)
    """
    if name not in NAMES:
        raise ValueError(f"there are no images called {name!r}; choose one of {', '.join(NAMES)}")
    if name == DIGITS:
        loaded = load_digits()
        train, test = _split(loaded.images, loaded.target, DIGITS_TRAIN)
    elif name == "cifar10":
        train, test = _cifar(install.load(name))
    else:
        pixels, labels, asked, answers = install.load(name)
        train, test = _labelled(pixels, labels), _labelled(asked, answers)
    return Images(train, test, PIXELS[name])


def _cifar(batches: list[NDArray[np.uint8]]) -> tuple[Labelled, Labelled]:
    rows = np.concatenate(batches)
    train = len(rows) - len(batches[-1])
    for part, found in (("train", rows[:train, 0]), ("test", rows[train:, 0])):
        counts = np.bincount(found, minlength=CLASSES)
        if (counts != len(found) // CLASSES).any():
            raise ValueError(
                f"cifar10: the classes have {counts.tolist()} {part} images, not equally many; a batch is damaged or "
                f"foreign, `ranklens data fetch cifar10` after removing them replaces them"
            )
    return _split(rows[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE), rows[:, 0], train)


def _split(pixels: NDArray[np.generic], labels: NDArray[np.generic], train: int) -> tuple[Labelled, Labelled]:
    return _labelled(pixels[:train], labels[:train]), _labelled(pixels[train:], labels[train:])


def _labelled(pixels: NDArray[np.generic], labels: NDArray[np.generic]) -> Labelled:
    return Labelled(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)))
