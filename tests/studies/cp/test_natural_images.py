"""Controls keep what they should, recipes are those of the family, and impossible settings are refused."""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr

from ranklens.data import pixels
from ranklens.studies.cp import natural_images as study

SETTINGS = study.PRESETS["laptop"]


def sixes(control):
    """The digits of the laptop's preset, sixes against all others, in float64."""
    drawn = pixels.draw(pixels.Selection("digits", levels=2, side=0, train=1200), control, 0)
    return pixels.against(drawn, 6, 1.0, torch.float64)


def test_random_controls_keep_what_they_should():
    true, noise, labels = (sixes(control) for control in study.DATA)
    assert len(true.train.labels) == 1200
    assert len(true.test.labels) == 597
    assert torch.equal(true.train.labels, noise.train.labels)
    assert not torch.equal(true.train.images, noise.train.images)
    assert torch.equal(true.train.images, labels.train.images)
    assert not torch.equal(true.train.labels, labels.train.labels)
    assert float(true.train.labels.sum()) == float(labels.train.labels.sum())
    assert float(true.train.labels.var(correction=0)) == pytest.approx(0.09, abs=0.01)


def test_recipes_are_those_of_the_family():
    settings = dataclasses.replace(SETTINGS, images="mnist", lr=0.1, hierarchical_lr=0.2, std=0.3, hierarchical_std=0.4)
    cp, tree = settings.recipe(study.CP), settings.recipe(study.HIERARCHICAL)
    assert (cp.side, cp.lr, cp.std) == (28, 0.1, 0.3)
    assert (tree.side, tree.lr, tree.std) == (32, 0.2, 0.4)
    assert dataclasses.replace(settings, side=14).recipe(study.HIERARCHICAL).side == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "letters"}, "images is 'letters'"),
        ({"side": 9}, "side is 9; the digits have a side of 8"),
        ({"levels": 1}, "levels is 1; a pixel has 2 to 256 values"),
        ({"classes": (11,)}, "a class is 11; classes are 0 to 9"),
        ({"train": 1797}, "train is 1797"),
        ({"steps": 50}, "steps is 50; it must be a multiple of every"),
        ({"precision": "float16"}, "precision is 'float16'"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_claims_average_over_classes_before_they_take_the_worst_seed():
    values = xr.DataArray(np.array([[0.0, 4.0], [1.0, 1.0]]), dims=("seed", "label"))
    most, least = study._largest("error", values, 1.5), study._least("error", values, 1.5)
    assert (most.measured, most.holds) == (2.0, False)
    assert (least.measured, least.holds) == (1.0, False)
    assert "mean of 2 classes" in most.statement
    assert not study._largest("error", values.where(values > 0), 9.0).holds


def test_published_errors_are_compared_for_the_published_question_only():
    assert study._as_published(study.PRESETS["paper"])
    assert not study._as_published(SETTINGS)
    assert not study._as_published(dataclasses.replace(study.PRESETS["paper"], levels=3))
