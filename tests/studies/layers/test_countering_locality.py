"""What the study trains on, measures and claims, against planted records and the definitions."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens import studies
from ranklens.studies.layers import countering_locality as study


@pytest.fixture(scope="module")
def record():
    settings = dataclasses.replace(study.PRESETS["tiny"], seeds=(0, 1, 2), epochs=1, test=20)
    return studies.perform("countering_locality", settings)


def test_patches_are_the_two_images_and_test_pairs_are_others():
    settings = study.PRESETS["digits"]
    learnt, asked, boxes = study.examples(settings, 48, 0)
    assert boxes == ((0, 0, 8, 8), (0, 56, 8, 8))
    x = learnt.pictures(torch.arange(5))
    assert x.shape == (5, 1, 8, 64)
    assert float(x[..., 8:56].abs().max()) == 0
    assert (len(learnt), len(asked)) == (2000, 10_000)
    train, test = rl.data.images("digits").train, rl.data.images("digits").test
    again = rl.data.same_class(train, 2000, distance=48, canvas=(8, 64))
    assert torch.equal(x, again.canvases(torch.arange(5)))
    tiles = {tuple(t.tolist()) for t in test.images.flatten(1)}
    shown = asked.pictures(torch.arange(20))[:, 0, :, :8] * again.std + again.mean
    assert all(tuple(t.tolist()) in tiles for t in shown.flatten(1).round().to(torch.uint8))


def test_tiles_are_averages():
    part = rl.data.Labelled(torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8), torch.zeros(1, dtype=torch.long))
    assert study._tiles(part, 0) is part
    assert study._tiles(part, 2).images.tolist() == [[[14, 18], [46, 50]]]  # of 13.5, 17.5, ..., rounded to even


def test_the_network_is_the_one_that_is_named():
    settings = study.PRESETS["digits"]
    learnt, *_ = study.examples(dataclasses.replace(settings, train=4, test=4), 48, 0)
    model = study.network(settings, learnt, 0)
    kernels = [m for m in model if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in kernels] == [(16, 2), (32, 2), (64, 2), (64, 1), (64, 1), (64, 1)]
    assert (
        sum(p.numel() for p in study.network(study.PRESETS["paper"], learnt, 0).parameters()) == 11_177_025 - 2 * 3136
    )


def test_forms_are_held_to_their_formula():
    for rank, value in ((1, 1.0), (2, 2 / math.pi), (4, 0.4244), (8, 0.2910)):
        assert study.expected(rank) == pytest.approx(value, abs=1e-4)
        assert study.bilinear(rank, 2000) == pytest.approx(value, abs=0.02)
    assert study.exact() == pytest.approx([1, 1], abs=1e-12)


def test_without_the_penalty_a_factorization_is_learnt_and_with_it_not():
    found = study.trapped(dataclasses.replace(study.PRESETS["tiny"], trap_weights=(0.0, 0.1), trap_steps=480))
    left = found.trap_loss.isel(step=-1) / found.trap_loss.isel(step=0)
    assert float(left.sel(start="small start", trap=0.0)) < 0.01
    assert float(left.sel(start="small start", trap=0.1)) > 0.99


def test_claims_are_medians_of_paired_differences(record):
    planted = record.copy(deep=True)
    planted.test.loc[{"range": 16, "weight": 0.0}] = [0.5, 0.6, 0.7]
    planted.test.loc[{"range": 16, "weight": 1.0}] = [0.6, 0.65, 0.85]  # gains .1, .05, .15
    planted.test.loc[{"range": 0, "weight": 0.0}] = [0.9, 0.9, 0.9]
    planted.test.loc[{"range": 0, "weight": 1.0}] = [0.88, 0.86, 0.89]  # losses .02, .04, .01
    planted.share.loc[{"range": 16, "weight": 0.0}] = 0.2
    planted.share.loc[{"range": 16, "weight": 1.0}] = 0.5
    measured = {claim.statement.split(" (")[0]: claim.measured for claim in study.claims(planted)}
    assert measured["16 columns apart: test accuracy gained by the penalty, weight 1"] == pytest.approx(0.1)
    assert measured["0 columns apart: test accuracy lost by the penalty"] == pytest.approx(0.02)
    assert measured["test accuracy that range costs without it, 0 to 16 columns apart"] == pytest.approx(0.3)
    key = "16 columns apart: part of the logit's variance that couples both patches, with over without the penalty"
    assert measured[key] == pytest.approx(2.5)


def test_curves_end_at_what_is_reported(record):
    for name, curve in (("test", "test_curve"), ("train", "train_curve")):
        assert np.array_equal(record[name].values, record[curve].isel(epoch=-1).values)
    assert (record.epochs == 1).all()
    assert (record.share >= 0).all()
    assert (record.share <= 1).all()


def test_published_settings():
    paper, paths = study.PRESETS["paper"], study.PRESETS["pathfinder"]
    assert (paper.images, paper.canvas, paper.ranges) == ("cifar10", (224, 224), (0, 40, 80, 120, 160))
    assert (paper.weights, paper.train, paper.test) == ((0.0, 0.1, 1.0), 5000, 10_000)
    assert (paper.lr, paper.batch_size, paper.epochs, paper.stop, paper.every) == (0.01, 64, 150, 20, 1)
    assert (paths.canvas, paths.ranges, paths.weights) == ((150, 150), (3, 5, 7, 9), (0.0, 3.0, 9.0))
    assert (paths.train, paths.test, paths.patch, paths.network) == (10_000, 10_000, 2, "resnet18")
