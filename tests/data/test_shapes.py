"""Generated shapes are what their factors say."""

import pytest
import torch

import ranklens as rl

# Edges are soft over half a pixel: centres of mass are exact to a sixth of a pixel of 32, the colours of the smallest
# shapes to 2%, and areas to 8%.
PLACE, COLOUR, AREA = 5e-3, 0.02, 0.08


def test_shapes_are_what_their_factors_say():
    found = rl.data.shapes(200, side=32, seed=3)
    assert found.images.dtype == torch.float32
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
    weight = found.images.double().sum(dim=1)
    place = (torch.arange(32).double() + 0.5) / 32
    mass = weight.sum(dim=(1, 2))
    radius = 0.12 + 0.16 * found.factors[:, 3].double()
    down = (weight.sum(dim=2) @ place) / mass
    assert torch.allclose(down, radius + (1 - 2 * radius) * found.factors[:, 4].double(), atol=PLACE)
    across = (weight.sum(dim=1) @ place) / mass
    assert torch.allclose(across, radius + (1 - 2 * radius) * found.factors[:, 5].double(), atol=PLACE)
    colours = found.images.amax(dim=(2, 3)).double()
    assert torch.allclose(colours, 0.15 + 0.85 * found.factors[:, :3].double(), atol=COLOUR)
    area = mass / colours.sum(dim=1) / 32**2
    assert torch.allclose(area, torch.pi * radius.square(), rtol=AREA)  # of either kind


def test_the_kind_is_seen_in_the_corners():
    found = rl.data.shapes(400, side=32, seed=1)
    disc = found.factors[:, 6] < 0.5
    inside = found.images.sum(dim=1) > 0.5 * found.images.sum(dim=1).amax(dim=(1, 2), keepdim=True)
    height, width = inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)
    filled = inside.sum(dim=(1, 2)) / (height * width)  # pi / 4 of its box for a disc
    assert float(filled[disc].mean()) < 0.85
    assert float(filled[~disc].mean()) > 0.95


def test_shapes_are_seeded():
    assert torch.equal(rl.data.shapes(3, 16, seed=1).images, rl.data.shapes(3, 16, seed=1).images)
    assert not torch.equal(rl.data.shapes(3, 16, seed=1).images, rl.data.shapes(3, 16, seed=2).images)


@pytest.mark.parametrize(("count", "side"), [(0, 16), (3, 4)])
def test_what_cannot_be_drawn(count, side):
    with pytest.raises(ValueError, match=f"count is {count} and side {side}"):
        rl.data.shapes(count, side)
