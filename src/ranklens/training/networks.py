"""Small convolutional networks that classify images, and the training data for them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ranklens import data, seeds
from ranklens.training import loop

# Output channels of the three convolutions: small enough to train on a laptop in a minute.
CHANNELS = (16, 32, 64)
# Output channels and stride of the six convolutions of `strided_cnn`.
STRIDED = ((16, 2), (32, 2), (64, 2), (64, 1), (64, 1), (64, 1))
# Output channels of each convolution of `column_cnn`: enough to fit a few hundred pairs of images, and few enough that
# a step with the locality penalty takes 30 ms.
COLUMN_CHANNELS = 32
# Momentum of SGD: the usual value.
MOMENTUM = 0.9
# Largest Euclidean norm of a gradient; longer gradients are scaled down to it.
CLIP = 5.0
# Number of images that are classified together when accuracy is measured: bounds the memory for activations.
AT_ONCE = 2000


@dataclass(frozen=True)
class ImageSplit:
    """Images and their classes, for training, for validation during training, and for the final test.

    Each of `train`, `validation` and `test` is a pair: float32 images of shape (n, channels, height, width), and int64
    classes of shape (n,). All are shifted and scaled by the mean and standard deviation, over all pixels and channels,
    of the data set's whole training set, before images are selected from it.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train with SGD and momentum.

    Attributes:
        steps: number of steps.
        batch_size: number of images per step.
        lr: initial learning rate; it falls to zero along half a period of a cosine.
        every: number of steps from one call of the function `watch`, which `fit` is given, to the next.
    """

    steps: int
    batch_size: int
    lr: float
    every: int


def split(images: str, train: int, validation: int, seed: int) -> ImageSplit:
    """Return random training and validation images of a data set, and all of its test images.

    Args:
        images: name of the data set: "digits", "mnist", "fashion-mnist" or "cifar10".
        train: number of training images.
        validation: number of validation images, drawn from the remaining images of the training set.
        seed: seed of the selection.
    """
    loaded = data.images(images)
    mean, std = loaded.train.images.float().mean(), loaded.train.images.float().std()

    def part(source: data.Labelled, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        pixels = (source.images[rows].float() - mean) / std
        return pixels[:, None] if pixels.ndim == 3 else pixels, source.labels[rows].long()

    order = torch.randperm(len(loaded.train.labels), generator=seeds.stream(seed, "images of networks"))
    return ImageSplit(
        part(loaded.train, order[:train]),
        part(loaded.train, order[train : train + validation]),
        part(loaded.test, slice(None)),
    )


def cnn(side: int, colours: int, seed: int) -> nn.Sequential:
    """Return an untrained classifier of ten classes: three 3 x 3 convolutions with ReLU, and one linear layer.

    A 2 x 2 max-pooling follows each convolution, as long as the images are at least 4 pixels wide. The network maps
    images (batch, colours, side, side) to (batch, 10) logits.

    Args:
        side: height and width of the images, in pixels.
        colours: number of channels of the images.
        seed: seed of the initial values.
    """
    with seeds.initial_values(seed, "network"):
        layers: list[nn.Module] = []
        for into, out in zip((colours, *CHANNELS[:-1]), CHANNELS, strict=True):
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()]
            if side >= 4:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS[-1] * side**2, 10))


def strided_cnn(channels: int, seed: int) -> nn.Sequential:
    """Return an untrained network with one logit per image: six convolutions with batch-norm, pooling, a linear layer.

    The first three convolutions have stride 2. The pooling is a mean over all positions, so that images may have any
    size. The network maps images (batch, channels, height, width) to (batch, 1) logits.

    Args:
        channels: number of channels of the images.
        seed: seed of the initial values.

    >>> import torch
    >>> strided_cnn(3, seed=0)(torch.zeros(2, 3, 8, 64)).shape
    torch.Size([2, 1])
    """
    with seeds.initial_values(seed, "network"):
        layers: list[nn.Module] = []
        for out, stride in STRIDED:
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


def column_cnn(channels: int, rows: int, seed: int) -> nn.Sequential:
    """Return an untrained network with one logit per image whose convolutions run along the columns only.

    The network is `strided_cnn` in one dimension: the rows of an image are channels, six convolutions of width 3 with
    batch-norm have the strides of `strided_cnn`, and a mean over all positions and a linear layer follow. It takes
    about half of the time of `strided_cnn`. The network maps images (batch, channels, rows, width) to (batch, 1)
    logits; the width is arbitrary.

    Args:
        channels: number of channels of the images.
        rows: height of the images, in pixels.
        seed: seed of the initial values.

    >>> import torch
    >>> column_cnn(1, 8, seed=0)(torch.zeros(2, 1, 8, 64)).shape
    torch.Size([2, 1])
    """
    with seeds.initial_values(seed, "network"):
        layers: list[nn.Module] = [nn.Flatten(1, 2)]
        into = channels * rows
        for _, stride in STRIDED:
            convolution = nn.Conv1d(into, COLUMN_CHANNELS, 3, stride, 1)
            layers += [convolution, nn.BatchNorm1d(COLUMN_CHANNELS), nn.ReLU()]
            into = COLUMN_CHANNELS
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(into, 1))


def with_dropout(model: nn.Sequential, share: float) -> nn.Sequential:
    """Return a network whose last layer gets its inputs through dropout; without dropout, the network itself.

    Args:
        model: the network; its layers are shared with the result.
        share: share of the inputs of the last layer that are set to zero in training; 0 for no dropout.
    """
    return nn.Sequential(*list(model)[:-1], nn.Dropout(share), model[-1]) if share else model


def fit(
    model: nn.Module, images: ImageSplit, schedule: Schedule, seed: int, watch: Callable[[int], None] | None = None
) -> int:
    """Train a classifier, in place, on the cross entropy of the training images.

    Args:
        model: maps images to one logit per class.
        images: the data; only its training images are used.
        schedule: how long and how fast to train.
        seed: seed of the batches.
        watch: is called with the number of steps taken: before the first step, after every `schedule.every`-th, and
            after the last one. None calls nothing.

    Returns:
        The number of steps taken; fewer than in the schedule if the loss became infinite or NaN.
    """
    x, y = images.train
    optimizer = torch.optim.SGD(model.parameters(), lr=schedule.lr, momentum=MOMENTUM)
    return loop.train(
        lambda rows: nn.functional.cross_entropy(model(x[rows]), y[rows]),
        optimizer,
        steps=schedule.steps,
        batches=loop.random_rows(len(x), schedule.batch_size, seeds.stream(seed, "batches of images")),
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps),
        clip=CLIP,
        watch=watch,
        every=schedule.every,
    )


@torch.no_grad()
def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Return the share of images whose largest logit is that of their class, between 0 and 1.

    The mode of the model is left as it is: call `model.eval()` first if it has dropout or batch-norm.

    Args:
        model: maps images to one logit per class.
        part: a pair of images (n, channels, height, width) and int64 classes (n,), such as `ImageSplit.test`.
    """
    x, y = part
    predicted = torch.cat([model(rows).argmax(dim=1) for rows in x.split(AT_ONCE)])
    return float((predicted == y).double().mean())
