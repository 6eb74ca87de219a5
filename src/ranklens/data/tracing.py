"""A solver of Pathfinder that knows how ink is spread and nothing of how pictures are made."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

INK = 0.4  # of the brightest pixel: what is above is drawn on


def trace(
    images: UInt8[Tensor, "count side side"], *, radius: float = 1.5, reach: float = 3.2
) -> Int64[Tensor, "count"]:
    """Follow the dashes from one marker and see whether the other is met; from the pixels alone.

    Markers are the two places with most ink within their radius. Pixels with ink are joined if they are no farther
    apart than `reach`, and the answer is whether the markers are joined.

    Args:
        images: pictures, black 0.
        radius: of a marker, in pixels.
        reach: over which a gap is crossed, in pixels; above the gaps of a path by 1.7, below the distance of two paths.

    Returns:
        1 where the markers are on one path, else 0.

    Raises:
        ValueError: for a picture without ink.

    >>> import torch, ranklens as rl
    >>> image = torch.zeros(1, 24, 24, dtype=torch.uint8)
    >>> image[0, 10, 4:20] = image[0, 18, 4:20] = 255
    >>> image[0, 9:12, 3:6] = image[0, 9:12, 18:21] = 255  # both markers on the upper line
    >>> int(rl.data.trace(image))
    1
    >>> image[0, 9, 18:21] = image[0, 11, 18:21] = 0
    >>> image[0, 17:20, 18:21] = 255  # one on the lower
    >>> int(rl.data.trace(image))
    0
    """
    return torch.tensor([_joined(image, radius, reach) for image in images.numpy()], dtype=torch.int64)


def _joined(image: NDArray[np.uint8], radius: float, reach: float) -> int:
    light = image / max(int(image.max()), 1)
    points = np.argwhere(light > INK)
    if len(points) == 0:
        raise ValueError("there is a picture without ink; pass pictures of paths on black")
    at = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(at[:, None], at[None, :]), 0, 1)
    filled = ndimage.convolve(light, disc, mode="constant")
    first = np.unravel_index(filled.argmax(), filled.shape)
    rows, columns = np.indices(image.shape)
    filled[np.hypot(rows - first[0], columns - first[1]) < 2 * radius + 1] = 0
    second = np.unravel_index(filled.argmax(), filled.shape)
    tree = cKDTree(points)
    pairs = tree.query_pairs(reach, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    _, part = connected_components(graph, directed=False)
    nearest = tree.query([first, second])[1]
    return int(part[nearest[0]] == part[nearest[1]])
