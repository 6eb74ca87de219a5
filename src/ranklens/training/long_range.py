"""Same-class pairs and Pathfinder as training and test examples of a network, with the patches of the penalty."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ranklens import data, seeds
from ranklens.nn import PatchPairs
from ranklens.nn.regions import Box, Sampler
from ranklens.training.resumable import Examples


@dataclass(frozen=True)
class Task:
    """A question about images whose answer, yes or no, depends on parts of the image that are far apart.

    Attributes:
        train: training examples.
        test: test examples, other images than the training examples.
        patches: the two regions of the locality penalty, each a box (top, left, height, width) in pixels; or a sampler
            that draws two boxes. The penalty rewards a dependence of the network on both regions together.
    """

    train: Examples
    test: Examples
    patches: tuple[Box, Box] | Sampler


def same_class(
    images: str,
    distance: int,
    *,
    train: int,
    test: int,
    canvas: tuple[int, int] = (224, 224),
    tile: int = 0,
    classes: Sequence[int] = (),
    seed: int,
) -> Task:
    """Return the task of saying whether the two images on a canvas show the same class.

    The patches of the penalty are the places of the two images.

    Args:
        images: name of the data set: "digits", "mnist", "fashion-mnist" or "cifar10". Training pairs are made of its
            training images, test pairs of its test images.
        distance: number of columns between the two images.
        train: number of training pairs.
        test: number of test pairs.
        canvas: height and width of the canvas, in pixels.
        tile: side in pixels to which every image is averaged first; 0 leaves the images as they are.
        classes: classes of which the images are taken, at least two; none stands for all.
        seed: seed of the pairs.

    Returns:
        The task. Its images have shape (channels, *canvas), and its labels are 1 for equal classes and 0 otherwise.
    """
    loaded = data.images(images)
    of_train, of_test = (averaged(of_classes(part, classes), tile) for part in (loaded.train, loaded.test))
    pairs = data.same_class(of_train, train, distance=distance, canvas=canvas, seed=seed)
    test_seed = seeds.derive(seed, "pairs to ask")
    others = data.same_class(of_test, test, distance=distance, canvas=canvas, like=pairs, seed=test_seed)
    return Task(Examples(pairs.canvases, pairs.labels), Examples(others.canvases, others.labels), pairs.boxes)


def of_classes(part: data.Labelled, classes: Sequence[int]) -> data.Labelled:
    """Return the labelled images of some classes, or all of them if no class is given.

    Args:
        part: the images.
        classes: the classes.
    """
    if not classes:
        return part
    kept = torch.isin(part.labels, torch.tensor(list(classes)))
    return data.Labelled(part.images[kept], part.labels[kept])


def averaged(part: data.Labelled, side: int) -> data.Labelled:
    """Return labelled images averaged down to `side` x `side` pixels and rounded to integers.

    Each pixel is the mean over a block of pixels. Blocks overlap if `side` does not divide the height and the width.

    Args:
        part: the images.
        side: height and width of the result, in pixels; 0 leaves the images as they are.
    """
    if not side:
        return part
    pooled = nn.functional.adaptive_avg_pool2d(part.images.float(), side)
    return data.Labelled(pooled.round().to(torch.uint8), part.labels)


def pathfinder(length: int, *, train: int, test: int, side: int = 150, patch: int = 2, seed: int) -> Task:
    """Return the task of saying whether two markers lie on one dashed path.

    Images are shifted and scaled by one mean and one standard deviation, computed over the training images. The
    patches of the penalty are drawn anew for every batch.

    Args:
        length: number of dashes of each of the two long paths in an image.
        train: number of training images.
        test: number of test images.
        side: side of an image, in pixels.
        patch: side of the patches of the penalty, in pixels.
        seed: seed of the images.

    Returns:
        The task. Its images have shape (1, side, side), and its labels are 1 if both markers lie on one path, else 0.
    """
    train_images, test_images = (
        data.pathfinder(count, length, side, seed=seeds.derive(seed, name))
        for name, count in (("paths to learn from", train), ("paths to ask", test))
    )
    mean, std = train_images.images.float().mean(), train_images.images.float().std()
    made = [Examples(partial(_normalized, part.images, mean, std), part.labels) for part in (train_images, test_images)]
    return Task(made[0], made[1], PatchPairs(patch))


def _normalized(images: Tensor, mean: Tensor, std: Tensor, rows: Tensor) -> Tensor:
    """Return some images as (batch, 1, side, side), shifted by the mean and divided by the standard deviation."""
    return (images[rows].float()[:, None] - mean) / std
