"""The real data where the data folder has them, and the digits, which are always there."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import ranklens as rl
from ranklens.data import install

# Means are published to four digits.
PUBLISHED = 1e-4


def has(name):
    absent = install.state(name).startswith("not here")
    return pytest.mark.skipif(absent, reason=f"the data folder has no {name}: ranklens data fetch {name}")


def test_the_digits_are_those_of_scikit_learn():
    digits, loaded = rl.data.images(), load_digits()
    assert np.array_equal(torch.cat([digits.train.images, digits.test.images]), loaded.images)
    assert np.array_equal(torch.cat([digits.train.labels, digits.test.labels]), loaded.target)
    assert digits.largest == loaded.images.max()
    assert digits.train.images.dtype == torch.uint8


def test_images_need_labels():
    with pytest.raises(ValueError, match="there are 2 images and 3 labels"):
        rl.data.Labelled(torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", [pytest.param(name, marks=has(name)) for name in ("mnist", "fashion-mnist")])
def test_published_numbers_of_images(name):
    """Numbers of images, classes and mean grey value, as published."""
    found = rl.data.images(name)
    assert tuple(found.train.images.shape) == (60_000, 28, 28)
    assert tuple(found.test.images.shape) == (10_000, 28, 28)
    mean = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]
    assert float(found.train.images.double().mean()) / 255 == pytest.approx(mean, abs=PUBLISHED)
    if name == "fashion-mnist":
        assert found.train.labels.bincount().tolist() == [6000] * 10
    else:
        assert found.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@has("cifar10")
def test_published_numbers_of_photographs():
    found = rl.data.images("cifar10")
    assert found.train.labels.bincount().tolist() == [5000] * 10
    assert found.test.labels.bincount().tolist() == [1000] * 10
