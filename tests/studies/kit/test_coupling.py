"""Coupling inside networks: canvases filled with images, and profiles of networks whose coupling is known."""

import pytest
import torch
from torch import nn

from ranklens import seeds
from ranklens.studies.kit import coupling
from ranklens.training.resumable import Examples


class Products(nn.Module):
    """The mean over columns of x[column] * x[column + gap]: coupling at that gap alone."""

    def __init__(self, gap):
        super().__init__()
        self.gap, self.scale = gap, nn.Parameter(torch.ones(()))

    def forward(self, x):
        left, right = x[..., : -self.gap], x[..., self.gap :]
        return self.scale * (left * right).mean(dim=(1, 2, 3))[:, None]


class Sums(Products):
    def forward(self, x):
        return self.scale * x.mean(dim=(1, 2, 3))[:, None]


def pairs(count, canvas, box):
    """Pairs whose k-th first image has all pixels k + 1, and whose second image is not needed."""
    x = torch.zeros(count, 1, *canvas)
    top, left, height, width = box
    x[:, :, top : top + height, left : left + width] = torch.arange(1.0, count + 1)[:, None, None, None]
    return Examples(lambda rows: x[rows], torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize(
    ("canvas", "box", "places"),
    [((2, 8), (0, 0, 2, 2), 4), ((4, 9), (1, 1, 2, 2), 4), ((4, 8), (0, 0, 2, 2), 8)],
    ids=["a row", "a margin", "two rows"],
)
def test_canvases_are_filled_with_all_first_images_once(canvas, box, places):
    found = coupling.filled(pairs(16, canvas, box), box)
    assert found.shape == (16 // places, 1, *canvas)
    values, counts = found.unique(return_counts=True)
    images = values[values > 0]
    assert images.tolist() == list(range(1, 16 + 1))
    assert (counts[values > 0] == box[2] * box[3]).all()


def test_two_canvases_are_made_of_fewer_images_than_they_have_room_for():
    found = coupling.filled(pairs(3, (2, 8), (0, 0, 2, 2)), (0, 0, 2, 2))
    assert found[:, 0, 0, ::2].tolist() == [[1, 2, 3, 1], [2, 3, 1, 2]]


def test_a_profile_shows_the_distance_that_a_network_couples():
    x = torch.randn(64, 1, 2, 16, generator=seeds.stream(0, "images of a test"))
    networks = coupling.Networks(Products(8), Sums(8))
    found = coupling.profile(networks, x, (2, 2), seed=0)
    assert found.distance.values.tolist() == [0, 2, 4, 6, 8, 10, 12]
    trained, untrained = found.sel(network="trained"), found.sel(network="random")
    assert float(trained.sel(distance=6)) > 0.3  # patches of width 2 at distance 6 have columns 8 apart
    assert float(trained.sel(distance=[0, 2, 12]).max()) == 0
    assert float(untrained.max()) == 0
