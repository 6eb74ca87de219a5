"""A solver of Pathfinder that sees only pixels and knows nothing of how the images were generated."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# Share of the brightest pixel above which a pixel counts as ink, so that the faint edges of dashes join no paths.
INK = 0.4


@checked
def trace(
    images: UInt8[Tensor, "count side side"], *, radius: float = 1.5, reach: float = 3.2
) -> Int64[Tensor, "count"]:
    """Return whether the two markers of each image are joined by a dashed path, from the pixels alone.

    The markers are the two places with most ink within a disc of the given radius. Pixels with ink are joined if their
    distance is at most `reach`, and paths are the connected components of these pixels.

    Args:
        images: grey images, black 0.
        radius: radius of a marker, in pixels.
        reach: largest distance that is bridged, in pixels: the gap between two dashes of a path plus 1.7. It must be
            smaller than the distance of two paths.

    Returns:
        (count,) 1 where both markers are on one path, else 0.

    Raises:
        ValueError: for an image without ink.

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
    for name, length in {"radius": radius, "reach": reach}.items():
        arguments.number(name, length, above=0, most=max(images.shape))
    if not bool(images.flatten(1).any(dim=1).all()):
        raise ValueError("there is an image without ink; pass images of paths on black")
    return torch.tensor([_joined(image, radius, reach) for image in images.numpy()], dtype=torch.int64)


def _joined(image: NDArray[np.uint8], radius: float, reach: float) -> int:
    """Return 1 if both markers of an image are on one path, else 0."""
    light = image / int(image.max())
    points = np.argwhere(light > INK)
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
