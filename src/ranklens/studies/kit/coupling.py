"""How strongly a trained network couples distant parts of an image, beside an untrained network."""

from dataclasses import dataclass

import torch
import xarray as xr
from torch import Tensor, nn

from ranklens import nn as layers
from ranklens.nn.regions import Box
from ranklens.training import resumable
from ranklens.training.resumable import Examples

# Number of test images on which coupling is measured.
IMAGES = 500
# Pairs of patches per distance, and images per patch, of a profile: 1,024 evaluations of a network per distance.
PAIRS, TEMPLATES = 4, 16


@dataclass(frozen=True)
class Networks:
    """A trained network, and an untrained one of its architecture.

    Attributes:
        trained: maps images to (batch, 1) logits.
        untrained: the untrained network.
    """

    trained: nn.Module
    untrained: nn.Module


def of_images(networks: Networks, test: Examples, boxes: tuple[Box, Box]) -> dict[str, float]:
    """Return how strongly a network's logit depends on the two images of a pair jointly, over some test pairs.

    Args:
        networks: the trained and the untrained network.
        test: test pairs.
        boxes: the places of the two images.

    Returns:
        "share" of the logit's variance that depends on both images jointly and "random_share" of the untrained
        network; "interaction", the size of the joint part over the logit's standard deviation; and "effective_rank" of
        the logit as a matrix, first images by second images.
    """
    x = test.pictures(torch.arange(min(IMAGES, len(test))))
    found, random = (
        layers.separation_rank(model, x, boxes[0], against=boxes[1], batch_size=64)
        for model in (networks.trained, networks.untrained)
    )
    spread = float(resumable.outputs(networks.trained, test).std())
    return {
        "share": float(found.share),
        "interaction": float(found.interaction) / spread if spread > 0 else 0.0,
        "effective_rank": float(found.effective_rank),
        "random_share": float(random.share),
    }


def of_patches(networks: Networks, test: Examples, seed: int) -> dict[str, float]:
    """Return how strongly a network's logit depends jointly on two patches that are a third of the side apart.

    Args:
        networks: the trained and the untrained network.
        test: test images, whose rows are as many as their columns.
        seed: seed of the places of the patches.

    Returns:
        The numbers of `of_images`, for patches with an eighth of the side of an image.
    """
    x = test.pictures(torch.arange(min(IMAGES, len(test))))
    side = x.shape[-2]
    profile = layers.locality_profile(
        networks.trained,
        x,
        size=side // 8,
        distances=[side // 3],
        seed=seed,
        control=networks.untrained,
        batch_size=64,
    )
    trained, random = (profile.sel(network=name).isel(distance=0) for name in ("trained", "random"))
    values = {name: float(trained[name]) for name in ("share", "interaction", "effective_rank")}
    return {**values, "random_share": float(random.share)}


def filled(test: Examples, box: Box) -> Tensor:
    """Return canvases filled with images of test pairs, side by side, instead of two images far apart.

    Every image is the first one of a pair. As many fit side by side as the canvas has room for, in rows and columns
    that contain the place of the first image.

    Args:
        test: test pairs.
        box: the place of the first image.

    Returns:
        (canvases, channels, rows, columns) images, as many as `IMAGES` images fill.
    """
    top, left, height, width = box
    pairs = test.pictures(torch.arange(min(IMAGES, len(test))))
    images = pairs[:, :, top : top + height, left : left + width]
    places = [
        (row, column)
        for row in range(top % height, pairs.shape[-2] - height + 1, height)
        for column in range(left % width, pairs.shape[-1] - width + 1, width)
    ]
    count = max(len(images) // len(places), 2)
    found = pairs.new_zeros(count, *pairs.shape[1:])
    for k, (row, column) in enumerate(places):
        rows = torch.arange(count) * len(places) + k
        found[:, :, row : row + height, column : column + width] = images[rows % len(images)]
    return found


def profile(networks: Networks, images: Tensor, size: tuple[int, int], seed: int) -> xr.DataArray:
    """Return the share of the logit's variance that two patches carry jointly, by their distance.

    Args:
        networks: the trained and the untrained network.
        images: images that have content everywhere.
        size: height and width of the patches, in pixels.
        seed: seed of the places of the patches, and of the images that fill them.

    Returns:
        An array over (`distance`, `network`), as `rl.nn.locality_profile` has it.
    """
    made = layers.locality_profile(
        networks.trained, images, size=size, pairs=PAIRS, templates=TEMPLATES, seed=seed, control=networks.untrained
    )
    return made.share
