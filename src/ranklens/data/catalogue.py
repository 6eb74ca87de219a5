"""The data sets that can be fetched: their files, the hashes of their content, and the addresses they are fetched from.

Hashes are those of the unpacked content, because mirrors compress the same content differently.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ranklens.data import formats

Array = NDArray[np.uint8] | NDArray[np.float64]


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
        name: name of the unpacked file.
        read: function from the bytes of the unpacked file to an array. It raises a ValueError that says what is wrong
            with the bytes.
        sha256: SHA-256 hash of the bytes, or of the array; None if no hash is published.
        hashed: whether `sha256` is the hash of the "bytes" or of the "array".
        forms: names that the file may have in the data folder. An empty tuple stands for two names: the file's own
            name, and that name with ".gz". Files that end in ".gz" are unpacked when they are read.
    """

    name: str
    read: Callable[[bytes], Array]
    sha256: str | None
    hashed: Literal["bytes", "array"] = "bytes"
    forms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that the file may have in the data folder: `forms`, or its name and its name with ".gz"."""
        return self.forms or (self.name, f"{self.name}.gz")


@dataclass(frozen=True)
class Archive:
    """An archive in which several files are published.

    Attributes:
        name: name of the archive, ending in ".zip" or ".tar.gz".
        folder: folder of the files within the archive.
        md5: published MD5 hash of the archive; None if the files have hashes of their own.
    """

    name: str
    folder: str
    md5: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched.

    Attributes:
        title: one line about the data set.
        files: its files, in the order in which they are read.
        homes: addresses of the folders from which it can be downloaded: as one ".gz" per file, or as the archive.
        folders: folders, below the data folder, in which the files are looked for; fetched files go to the first.
        archive: the archive in which the files are published; None if they are published one by one.
    """

    title: str
    files: tuple[File, ...]
    homes: tuple[str, ...]
    folders: tuple[str, ...]
    archive: Archive | None = None


def _idx(*hashes: str) -> tuple[File, ...]:
    """Return the four IDX files of a data set in the form of MNIST, from their SHA-256 hashes."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(File(name, formats.idx, sha256) for name, sha256 in zip(names, hashes, strict=True))


SOURCES = {
    "mnist": Source(
        "MNIST: 70,000 handwritten digits, 28 x 28, grey",
        _idx(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        ("mnist", "MNIST/raw"),
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST: 70,000 pieces of clothing, 28 x 28, grey",
        _idx(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        ("fashion-mnist", "FashionMNIST/raw"),
    ),
    "cifar10": Source(
        "CIFAR-10, binary version: 60,000 photographs of ten classes, 32 x 32, in colour",
        tuple(
            File(name, formats.cifar, None)  # no hash of the unpacked batches is published, only the archive's
            for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
        ),
        ("https://www.cs.toronto.edu/~kriz/",),
        ("cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
        Archive("cifar-10-binary.tar.gz", "cifar-10-batches-bin", md5="c32a1d4ab5d03f1284b67883e8d87530"),
    ),
    "ml-100k": Source(
        "MovieLens-100k: 100,000 ratings of 1,682 films by 943 users, 1 to 5",
        (
            File(
                "u.data",
                formats.movielens,
                "17980b52ed04c5a2335514b8c5985259348c71d4e5983b2b9f6fd0f81c2d837f",
                "array",
                ("u.data", "u.data.gz", "ml-100k.inter", "ml-100k.inter.gz"),
            ),
        ),
        ("https://files.grouplens.org/datasets/movielens/",),
        ("ml-100k",),
        Archive("ml-100k.zip", "ml-100k"),
    ),
}


def source(name: str) -> Source:
    """Return the data set of a name.

    Args:
        name: one of the keys of `SOURCES`.

    Returns:
        The description of the data set: its files, and where they can be downloaded. Nothing is read.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in SOURCES:
        raise ValueError(
            f"name is {name!r}, and there is no such data set to fetch; choose one of {', '.join(SOURCES)}"
        )
    return SOURCES[name]
