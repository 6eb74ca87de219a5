"""Tensor factorizations that predict a number from an image, one mode per pixel, and how they are trained."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ranklens.data import pixels
from ranklens.dynamics import descent
from ranklens.tensors import families, init, trees
from ranklens.tensors.network import TensorNetwork

CP, HIERARCHICAL = "CP", "hierarchical"
# Squared error, at labels 0 and 1, at which the error of a single test image is cut off: a product of hundreds of
# factors can be huge at one image and would decide the mean over all.
LARGEST_ERROR = 1.0
# Side of the images of every data set, in pixels.
SIDES = {"digits": 8, "mnist": 28, "fashion-mnist": 28}
# Largest number of training images: the digits are one set of 1797, of which at least one must be left for testing.
MOST_TRAIN = {"digits": 1796, "mnist": 60_000, "fashion-mnist": 60_000}


def check_images(images: str, train: int) -> None:
    """Refuse an unknown set of images, or more training images than it has.

    Args:
        images: name of the set.
        train: number of training images; 0 takes all of them.

    Raises:
        ValueError: if either is not possible.
    """
    if images not in SIDES:
        raise ValueError(f"images is {images!r}; choose one of {', '.join(SIDES)}")
    if not 0 <= train <= MOST_TRAIN[images]:
        raise ValueError(f"train is {train}; the {images} have 1 to {MOST_TRAIN[images]} training images, 0 takes all")


def power_of_two(side: int) -> int:
    """Return the least power of two that is at least `side`: the side to which images are padded for a quadtree.

    >>> power_of_two(8), power_of_two(28)
    (8, 32)
    """
    return 1 << (side - 1).bit_length()


@dataclass(frozen=True)
class Recipe:
    """How a predictor is built and trained.

    Attributes:
        family: "CP", or "hierarchical" along the quadtree of the pixels.
        side: side of the images, in pixels; a power of two for the hierarchical family.
        levels: number of values of a pixel, which is the size of every mode.
        steps: number of steps of Adam.
        lr: learning rate of Adam.
        std: standard deviation of the initial factors around their means.
        start: approximate initial prediction; 0 sets it to the number of components, with factors of mean 1.
        label: prediction wanted for images of the class; errors are divided by its square.
        batch_size: number of images per step; 0 takes all of them.
        decay: whether the learning rate falls linearly to zero.
        every: number of steps between two entries of the recorded training error.
        precision: "float32" or "float64".
    """

    family: str
    side: int
    levels: int
    steps: int
    lr: float
    std: float
    start: float = 0.1
    label: float = 1.0
    batch_size: int = 0
    decay: bool = False
    every: int = 20
    precision: str = "float64"

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of the factors."""
        return {"float32": torch.float32, "float64": torch.float64}[self.precision]


@dataclass(frozen=True)
class Errors:
    """Errors of a trained predictor, as if labels were 0 and 1.

    Attributes:
        train: (entries,) mean squared error over all training images, every `every` steps; NaN after an early stop.
        test: mean over the test images of the squared error, each cut off at `LARGEST_ERROR`.
        parameters: number of entries of all factors of the predictor.
    """

    train: NDArray[np.float64]
    test: float
    parameters: int


def network(recipe: Recipe, rank: int, seed: int) -> TensorNetwork:
    """Return an untrained predictor whose predictions are about one constant, `recipe.start`.

    A prediction is a product of hundreds of factors, so the factors must be near one. The constant should be near the
    mean of the labels: from predictions near one, the first steps take all products to zero, where they stay for long.
    Components with equal factors remain nearly equal for long, so the factors of CP are drawn around their means.

    Args:
        recipe: how the predictor is built.
        rank: number of components of CP, or width of all bonds of the hierarchical factorization.
        seed: seed of the initial factors.

    Returns:
        A network with one mode per pixel.
    """
    start = recipe.start or float(rank)
    shape = (recipe.levels,) * recipe.side**2
    if recipe.family == CP:
        each = (start / rank) ** (1 / len(shape))
        return init.normal_(families.cp(shape, rank, dtype=recipe.dtype), recipe.std, mean=each, seed=seed)
    tree = trees.ModeTree.square(recipe.side, 2)
    net = families.hierarchical(shape, rank, tree, std=recipe.std, seed=seed, dtype=recipe.dtype)
    with torch.no_grad():
        for k, node in enumerate(net.nodes):
            if k < len(shape):
                node.add_(1.0)
            else:
                node.add_(start / rank if node.ndim == 1 else torch.eye(rank, dtype=recipe.dtype))
    return net


def fit(recipe: Recipe, rank: int, images: pixels.PixelData, seed: int) -> Errors:
    """Return the errors of a predictor that is trained with Adam.

    Args:
        recipe: how the predictor is built and trained.
        rank: number of components of CP, or width of all bonds of the hierarchical factorization.
        images: training and test images of `recipe.side` squared pixels, with labels 0 or `recipe.label`.
        seed: seed of the initial factors and of the order of the batches.

    Returns:
        The training errors along the way and the test error at the end.
    """
    net = network(recipe, rank, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
    if recipe.decay:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / recipe.steps))
        optimizer.register_step_post_hook(lambda *_: schedule.step())
    record = descent.gradient_descent(
        net,
        images.train,
        optimizer,
        steps=recipe.steps,
        until_loss=0.0,
        every=recipe.every,
        batch_size=recipe.batch_size or None,
        seed=seed,
    )
    scale = recipe.label**2
    train = np.full(recipe.steps // recipe.every + 1, np.nan)
    train[: record.sizes["step"]] = record.loss.values / scale
    with torch.no_grad():
        test = (images.test.errors(net) / scale).nan_to_num(LARGEST_ERROR).clamp_max(LARGEST_ERROR).mean()
    return Errors(train, float(test), sum(p.numel() for p in net.parameters()))
