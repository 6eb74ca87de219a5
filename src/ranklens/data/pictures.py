"""Data sets of labelled images: MNIST, Fashion-MNIST and CIFAR-10 from the data folder, and scikit-learn's digits."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from ranklens.data import install
from ranklens.data.catalogue import Array
from ranklens.data.formats import CHANNELS, CLASSES, SIDE
from ranklens.tensors.annotations import checked, checked_class

DIGITS = "digits"
NAMES = (DIGITS, "mnist", "fashion-mnist", "cifar10")
# Number of training images among the 1,797 digits, which have no published split: about two thirds.
DIGITS_TRAIN = 1200
# Value of a white pixel, by data set.
WHITE = {DIGITS: 16, "mnist": 255, "fashion-mnist": 255, "cifar10": 255}


@checked_class
@dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        images: (n, height, width) grey levels, or (n, channels, height, width) levels of each colour. 0 is black;
            `Images.largest` is the level of white.
        labels: (n,) class of each image, counted from 0.

    Raises:
        ValueError: for different numbers of images and labels.
    """

    images: UInt8[Tensor, "n ..."]
    labels: Int64[Tensor, "as_many"]

    def __post_init__(self) -> None:
        """Refuse images without labels, or labels without images.

        Raises:
            ValueError: for different numbers of images and labels.
        """
        if len(self.images) != len(self.labels):
            raise ValueError(f"there are {len(self.images)} images and {len(self.labels)} labels; give one each")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@checked_class
@dataclass(frozen=True)
class Images:
    """A data set of images.

    Attributes:
        train: training images.
        test: test images.
        largest: value of a white pixel; black is 0.
    """

    train: Labelled
    test: Labelled
    largest: int


@checked
def images(name: str = DIGITS) -> Images:
    """Return a data set of labelled images from the data folder, after checking its content.

    Nothing is downloaded; `rl.data.fetch` does that. The digits need no file: they come with scikit-learn. The files of
    MNIST and Fashion-MNIST are compared with their published hashes. For CIFAR-10 only the hash of the archive is
    published. Its batches are checked for equal numbers of images per class, and compared with the hashes that `fetch`
    recorded when it unpacked the archive. A file that is missing is a FileNotFoundError, which names the command that
    fetches it.

    Args:
        name: "digits" (8 x 8 pixels, 1,200 training and 597 test images), "mnist" or "fashion-mnist" (28 x 28, 60,000
            and 10,000), or "cifar10" (3 x 32 x 32, 50,000 and 10,000).

    Returns:
        Training and test images with their labels, in the order of the files.

    Raises:
        ValueError: for an unknown name, or a file whose content is not the published one.

    Source: LeCun, Bottou, Bengio, Haffner (1998); Xiao, Rasul, Vollgraf (2017); Krizhevsky (2009); for the digits
        Alpaydin and Kaynak (1998).

    >>> import ranklens as rl
    >>> digits = rl.data.images("digits")
    >>> tuple(digits.train.images.shape), len(digits.test), digits.largest == int(digits.train.images.max())
    ((1200, 8, 8), 597, True)
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}, and there are no such images; choose one of {', '.join(NAMES)}")
    if name == DIGITS:
        loaded = load_digits()
        train, test = _split(loaded.images, loaded.target, DIGITS_TRAIN)
    elif name == "cifar10":
        train, test = _cifar(install.load(name))
    else:
        pixels, labels, test_pixels, test_labels = install.load(name)
        train, test = _labelled(pixels, labels), _labelled(test_pixels, test_labels)
    return Images(train, test, WHITE[name])


def _cifar(batches: list[Array]) -> tuple[Labelled, Labelled]:
    """Return training and test images from the rows of the batches, the last of which is the test set.

    Raises:
        ValueError: for classes with different numbers of images.
    """
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
    """Return the first `train` images, and all others."""
    return _labelled(pixels[:train], labels[:train]), _labelled(pixels[train:], labels[train:])


def _labelled(pixels: NDArray[np.generic], labels: NDArray[np.generic]) -> Labelled:
    """Return images and labels as tensors of the types that `Labelled` has."""
    return Labelled(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)))
