"""Pairs show what their labels say, where their boxes say, and the same ones everywhere."""

import hashlib

import pytest
import torch

import ranklens as rl
from ranklens.data.pictures import Labelled

# Float32 levels up to 255, scaled down and up again.
LEVEL = 1e-3
# The mean of thousands of float32 numbers of standard deviation 1.
MEAN = 1e-5


def some(count=60, classes=4, colours=None):
    shape = (count, 6, 5) if colours is None else (count, colours, 6, 5)
    pixels = torch.arange(count * 30 * (colours or 1), dtype=torch.int64).reshape(shape) * 37 % 251
    return Labelled(pixels.to(torch.uint8), torch.arange(count) * 7 % classes)


@pytest.mark.parametrize("colours", [None, 3])
@pytest.mark.parametrize("distance", [0, 3, 10])
def test_pairs_are_what_they_say(distance, colours):
    images = some(colours=colours)
    found = rl.data.same_class(images, 500, distance=distance, canvas=(8, 20))
    assert len(found) == 500
    same = images.labels[found.pairs[:, 0]] == images.labels[found.pairs[:, 1]]
    assert torch.equal(same.long(), found.labels)
    assert 0.4 < float(found.labels.double().mean()) < 0.6
    canvases = found.canvases(torch.tensor([3, 4]))
    assert canvases.shape == (2, colours or 1, 8, 20)
    (top, left, height, width), (_, second, *_) = found.boxes
    assert second - left - width == distance
    assert abs(left - (20 - second - width)) <= 1
    assert top == 1
    for k, row in enumerate((3, 4)):
        for at, column in enumerate((left, second)):
            shown = canvases[k, :, top : top + height, column : column + width]
            raw = images.images[found.pairs[row, at]].float().reshape(shown.shape)
            assert torch.allclose(shown * found.std[:, None, None] + found.mean[:, None, None], raw, atol=LEVEL)
    empty = canvases.clone()
    for column in (left, second):
        empty[..., top : top + height, column : column + width] = 0
    assert float(empty.abs().max()) == 0
    assert float(found.images.mean().abs()) < MEAN  # so that the empty canvas is of the mean colour


def test_partners_are_drawn_evenly():
    images = some(count=8, classes=2)
    found = rl.data.same_class(images, 8000, distance=0, canvas=(6, 10))
    counts = torch.zeros(8, 8)
    for i, j in found.pairs.tolist():
        counts[i, j] += 1
    assert float(counts.min()) > 80  # of 125; an image may meet itself
    assert float(counts.max()) < 180


def test_what_is_asked_is_scaled_like_what_is_learnt_from():
    digits = rl.data.images("digits")
    train = rl.data.same_class(digits.train, 10, distance=4, canvas=(8, 20))
    test = rl.data.same_class(digits.test, 10, distance=4, canvas=(8, 20), like=train)
    assert torch.equal(test.mean, train.mean)
    assert torch.equal(test.std, train.std)


def test_channels_must_agree_and_one_pair_is_a_batch_of_one():
    grey = rl.data.same_class(some(), 3, distance=0, canvas=(8, 20))
    assert grey.canvases(2).shape == (1, 1, 8, 20)
    with pytest.raises(ValueError, match="the images have 3 channels, those of `like` 1"):
        rl.data.same_class(some(colours=3), 3, distance=0, canvas=(8, 20), like=grey)


def test_published_distances_fit():
    images = Labelled(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    for distance in (0, 40, 80, 120, 160):
        found = rl.data.same_class(images, 2, distance=distance)
        assert found.canvases(slice(None)).shape == (2, 3, 224, 224)
    assert [box[1] for box in found.boxes] == [0, 192]


def test_pairs_are_the_same_anywhere():
    found = rl.data.same_class(some(), 200, distance=3, canvas=(8, 20), seed=7)
    digest = hashlib.sha256(found.pairs.numpy().tobytes() + found.labels.numpy().tobytes()).hexdigest()
    assert digest == HASH


HASH = "97dbc58c15c6695be9297b03f667d354019dc81a4a22f4ea150318154cf820c3"


def test_bad_input_is_named():
    for change, message in (
        ({"count": 0}, "count is 0"),
        ({"distance": -1}, "distance -1"),
        ({"canvas": (5, 30)}, r"the canvas is 5 x 30; two images of 6 x 5, 0 columns apart, need 6 x 10"),
        ({"canvas": (6, 9)}, "the canvas is 6 x 9"),
        ({"images": some(classes=1)}, r"all images are of class \[0\]"),
    ):
        arguments = {"images": some(), "count": 3, "distance": 0, "canvas": (8, 20), **change}
        with pytest.raises(ValueError, match=message):
            rl.data.same_class(arguments.pop("images"), arguments.pop("count"), **arguments)
