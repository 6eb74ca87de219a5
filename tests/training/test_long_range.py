"""Training and test examples of both tasks, against the data sets that they are made of."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens import seeds
from ranklens.training import long_range

# Images are shifted and scaled in float32, so that means of a few thousand pixels are known to seven digits.
FLOAT32_MEAN = 1e-5


def test_patches_are_the_two_images_and_test_pairs_are_of_test_images():
    task = long_range.same_class("digits", 48, train=2000, test=10_000, canvas=(8, 64), seed=0)
    assert task.patches == ((0, 0, 8, 8), (0, 56, 8, 8))
    x = task.train.pictures(torch.arange(5))
    assert x.shape == (5, 1, 8, 64)
    assert float(x[..., 8:56].abs().max()) == 0
    assert (len(task.train), len(task.test)) == (2000, 10_000)
    train, test = rl.data.images("digits").train, rl.data.images("digits").test
    again = rl.data.same_class(train, 2000, distance=48, canvas=(8, 64))
    assert torch.equal(x, again.canvases(torch.arange(5)))
    tiles = {tuple(t.tolist()) for t in test.images.flatten(1)}
    shown = task.test.pictures(torch.arange(20))[:, 0, :, :8] * again.std + again.mean
    assert all(tuple(t.tolist()) in tiles for t in shown.flatten(1).round().to(torch.uint8))


def test_tiles_are_averages():
    part = rl.data.Labelled(torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8), torch.zeros(1, dtype=torch.long))
    assert long_range.averaged(part, 0) is part
    assert long_range.averaged(part, 2).images.tolist() == [[[14, 18], [46, 50]]]  # 13.5, 17.5, ... rounded to even
    task = long_range.same_class("digits", 4, train=3, test=3, canvas=(4, 16), tile=4, seed=0)
    assert task.patches == ((0, 2, 4, 4), (0, 10, 4, 4))


def test_pathfinder_images_are_standardized_by_the_training_images():
    task = long_range.pathfinder(5, train=30, test=20, side=32, patch=2, seed=3)
    x, y = task.train.pictures(torch.arange(30)), task.test.pictures(torch.arange(20))
    assert x.shape == (30, 1, 32, 32)
    assert float(x.mean()) == pytest.approx(0, abs=FLOAT32_MEAN)
    assert float(x.std()) == pytest.approx(1, abs=FLOAT32_MEAN)
    assert float(y.mean()) != pytest.approx(0, abs=FLOAT32_MEAN)
    assert np.allclose(float(x.min()), float(y.min()), rtol=0, atol=FLOAT32_MEAN)  # one black, one scale
    answers = torch.cat([task.train.labels, task.test.labels])
    assert set(answers.tolist()) == {0, 1}
    shapes = [(b[2:], b[0] + 2 <= 32) for b in task.patches((1, 32, 32), seeds.stream(0, "patches of a test"))]
    assert shapes == [((2, 2), True)] * 2


def test_test_images_are_other_images_and_depend_on_the_seed():
    a, b = (long_range.pathfinder(3, train=5, test=5, side=32, seed=seed) for seed in (0, 1))
    rows = torch.arange(5)
    found = [part.pictures(rows) > 0 for task in (a, b) for part in (task.train, task.test)]
    assert all(not torch.equal(x, y) for k, x in enumerate(found) for y in found[k + 1 :])


def test_classes_can_be_chosen():
    """Pairs of two classes of digits contain no image of another class."""
    digits = rl.data.images("digits")
    kept = long_range.of_classes(digits.train, (3, 5))
    assert set(kept.labels.tolist()) == {3, 5}
    assert torch.equal(kept.images, digits.train.images[(digits.train.labels == 3) | (digits.train.labels == 5)])
    assert long_range.of_classes(digits.train, ()) is digits.train
    task = long_range.same_class("digits", 16, train=50, test=20, canvas=(8, 32), classes=(3, 5), seed=0)
    assert task.train.pictures(torch.arange(50)).shape == (50, 1, 8, 32)
