"""Predictors start as a constant, and report the errors of their own predictions."""

import dataclasses

import pytest
import torch

from ranklens.data import pixels
from ranklens.studies.kit import predictors

RECIPE = predictors.Recipe("CP", side=2, levels=2, steps=30, lr=0.05, std=1e-3, every=10)
# Deviation from the constant that factors of standard deviation 1e-3 may cause in products of 4 to 64 of them.
NEAR = 0.1


def images(label=1.0, dtype=torch.float64):
    """All images of 2 x 2 black or white pixels; the class is what has a white first pixel."""
    every = torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 4)
    labels = label * (every[:, 0] == 1).to(dtype)
    return pixels.PixelData(
        pixels.PixelCompletion(every[::2], labels[::2]), pixels.PixelCompletion(every[1::2], labels[1::2])
    )


@pytest.mark.parametrize("family", [predictors.CP, predictors.HIERARCHICAL])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("start", [0.1, 0.0])
def test_predictions_start_near_the_constant(family, rank, start):
    recipe = dataclasses.replace(RECIPE, family=family, side=8, start=start)
    net = predictors.network(recipe, rank, 0)
    rows = torch.randint(2, (50, 64), generator=torch.Generator().manual_seed(0))
    constant = start or float(rank)
    assert float((net.entries(rows).detach() / constant - 1).abs().max()) < NEAR


def test_training_lowers_the_error_from_that_of_the_constant():
    errors = predictors.fit(RECIPE, 2, images(), 0)
    assert errors.train.shape == (4,)
    assert errors.train[0] == pytest.approx(((0.1 - 0) ** 2 + (0.1 - 1) ** 2) / 2, rel=NEAR)
    assert errors.train[-1] < 0.5 * errors.train[0]


def test_errors_are_as_if_labels_were_zero_and_one(tolerance):
    """Scaling labels and initial predictions by 2 leaves the relative errors before training unchanged."""
    recipe = dataclasses.replace(RECIPE, std=0.0, label=2.0, start=0.2)
    errors = predictors.fit(recipe, 1, images(label=2.0), 0)
    assert errors.train[0] == pytest.approx((0.1**2 + 0.9**2) / 2, rel=tolerance["rounding"])


def test_the_error_of_one_test_image_is_cut_off():
    """An initial prediction of 10 misses labels 0 and 1 by far; every test image then counts the cut-off."""
    recipe = dataclasses.replace(RECIPE, start=10.0, lr=0.0)
    assert predictors.fit(recipe, 1, images(), 0).test == predictors.LARGEST_ERROR


def test_a_decaying_rate_moves_less():
    """The mean of a rate that falls linearly to zero is half of it; so is the progress of small steps."""
    small = dataclasses.replace(RECIPE, lr=1e-4)
    slow = predictors.fit(dataclasses.replace(small, decay=True), 2, images(), 0).train
    plain = predictors.fit(small, 2, images(), 0).train
    assert slow[0] == plain[0]
    assert (slow[0] - slow[-1]) / (plain[0] - plain[-1]) == pytest.approx(0.5, rel=NEAR)


def test_batches_and_single_precision():
    recipe = dataclasses.replace(RECIPE, batch_size=4, precision="float32")
    assert recipe.dtype == torch.float32
    errors = predictors.fit(recipe, 2, images(dtype=torch.float32), 0)
    assert errors.train[-1] < errors.train[0]


def test_images_that_do_not_exist_are_refused():
    predictors.check_images("digits", 1796)
    with pytest.raises(ValueError, match="images is 'letters'; choose one of digits, mnist"):
        predictors.check_images("letters", 0)
    with pytest.raises(ValueError, match="train is 1797; the digits have 1 to 1796 training images"):
        predictors.check_images("digits", 1797)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9, 28])
def test_powers_of_two_are_the_least(side):
    found = predictors.power_of_two(side)
    assert found in (1, 2, 4, 8, 16, 32)
    assert found / 2 < side <= found
