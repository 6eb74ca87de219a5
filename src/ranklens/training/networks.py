"""Small networks on labelled images, trained alike: what the studies of layers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ranklens import data, seeds

CHANNELS = (16, 32, 64)


@dataclass(frozen=True)
class Split:
    """Images of unit scale and their classes: learnt from, watched meanwhile, and asked in the end."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum, its step size falling to zero along a half cosine."""

    steps: int
    batch_size: int
    lr: float
    every: int


def split(images: str, train: int, validation: int, seed: int) -> Split:
    """Draw from a data set, as in `rl.data.images`; its test images are asked, all of them."""
    found = data.images(images)
    mean, std = found.train.images.float().mean(), found.train.images.float().std()

    def taken(part: Any, rows: Any) -> tuple[Tensor, Tensor]:
        pixels = (part.images[rows].float() - mean) / std
        return pixels[:, None] if pixels.ndim == 3 else pixels, part.labels[rows].long()

    order = torch.randperm(len(found.train.labels), generator=seeds.stream(seed, "images of networks"))
    return Split(
        taken(found.train, order[:train]),
        taken(found.train, order[train : train + validation]),
        taken(found.test, slice(None)),
    )


def cnn(side: int, colours: int, seed: int) -> nn.Sequential:
    """Three 3 x 3 convolutions of 16, 32 and 64 channels, pooled as far as there is a side, and a linear layer."""
    with seeds.initial_values(seed, "network"):
        layers: list[nn.Module] = []
        for into, out in zip((colours, *CHANNELS[:-1]), CHANNELS, strict=True):
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()]
            if side >= 4:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS[-1] * side**2, 10))


def fit(
    model: nn.Module, images: Split, schedule: Schedule, seed: int, watch: Callable[[int], None] | None = None
) -> None:
    """Train on the cross entropy, calling `watch` with the step before every `every`-th one and after the last."""
    optimizer = torch.optim.SGD(model.parameters(), lr=schedule.lr, momentum=0.9)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    drawn = seeds.stream(seed, "batches of images")
    x, y = images.train
    for step in range(schedule.steps):
        if watch is not None and step % schedule.every == 0:
            watch(step)
        rows = torch.randint(len(x), (schedule.batch_size,), generator=drawn)
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        falling.step()
    if watch is not None:
        watch(schedule.steps)


@torch.no_grad()
def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """The share of images whose class is found."""
    x, y = part
    found = torch.cat([model(rows).argmax(dim=1) for rows in x.split(2000)])
    return float((found == y).double().mean())
