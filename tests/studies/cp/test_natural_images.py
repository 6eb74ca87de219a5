"""Controls keep what they should, recipes are those of the family, and impossible settings are refused."""

import dataclasses
import json

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
    most, least = study._largest("error", values, 1.5, ""), study._least("error", values, 1.5, "")
    assert (most.measured, most.holds) == (2.0, False)
    assert (least.measured, least.holds) == (1.0, False)
    assert "mean of 2 classes" in most.statement
    assert not study._largest("error", values.where(values > 0), 9.0, "").holds


def test_published_errors_are_compared_for_the_published_question_only():
    assert study._as_published(study.PRESETS["paper"])
    assert not study._as_published(SETTINGS)
    assert not study._as_published(dataclasses.replace(study.PRESETS["paper"], levels=3))


def test_bounds_are_the_published_errors_at_the_same_load():
    settings = dataclasses.replace(study.PRESETS["paper"], ranks=(1, 5, 10, 15))
    assert study._curves(settings, "true")[0] == pytest.approx(np.array([0.023, 0.008, 0.0035, 0.0025]) / 0.09)
    assert study._curves(SETTINGS, "true")[1] == pytest.approx(np.array([0.024, 0.022, 0.027, 0.029]) / 0.09)
    record = planted(settings)
    for claim in study.claims(record):
        if "with as many parameters per image, which are 0.013" in claim.statement:
            known = 0.089 if "random images" in claim.statement else 0.088
            assert claim.bound == round(known / 0.09, 3)
            assert "it fell by 0.000" in claim.statement


def test_errors_of_ten_classes_are_printed_beside_published_ones():
    settings = study.PRESETS["paper-ten"]
    first = next(claim for claim in study.claims(planted(settings)) if "Published after" in claim.statement)
    assert first.measured == pytest.approx(0.025)
    assert "0.023, difference +0.0020, standard deviation over classes 0.0029" in first.statement
    assert first.bound == pytest.approx(1.3 * 0.023)
    whole = dataclasses.replace(settings, steps=120_000, every=60_000)
    assert next(c for c in study.claims(planted(whole)) if "Published after" in c.statement).bound == 0.024


def planted(settings):
    """A record in which errors on true data are 0.025 in the mean, and 0.0205 to 0.0295 by class; on controls 0.08."""
    classes = len(settings.classes)
    steps = range(0, settings.steps + 1, settings.every)
    spread = 0.001 * (np.arange(classes) - (classes - 1) / 2)
    errors = np.full((1, 3, len(settings.ranks), classes, 1), 0.08)
    errors[:, 0] = (0.025 + spread)[:, None]
    dims = ("family", "data", "rank", "label", "seed")
    of_labels = (("label", "seed"), np.full((classes, 1), 0.09))
    return xr.Dataset(
        {
            "train": ((*dims, "step"), np.repeat(errors[..., None], len(steps), axis=-1)),
            "test": (dims, errors),
            "variance": of_labels,
            "test_variance": of_labels,
            "parameters": (("family", "rank"), np.array([[1568 * rank for rank in settings.ranks]])),
        },
        coords={
            "family": [study.CP],
            "data": list(study.DATA),
            "rank": list(settings.ranks),
            "label": list(settings.classes),
            "seed": [0],
            "step": list(steps),
        },
        attrs={"settings": json.dumps(dataclasses.asdict(settings))},
    )
