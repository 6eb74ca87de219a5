"""Differences, the choice of a step and claims of the study, against the definitions and planted records."""

import math

import pytest
import torch
import xarray as xr
from torch import nn

import ranklens as rl
from ranklens import seeds, studies
from ranklens.studies.layers import expandnets as study
from ranklens.training import networks


@pytest.fixture(scope="module")
def record():
    return studies.perform("expandnets", study.PRESETS["tiny"])


def test_differences_vanish_but_for_rounding_and_notice_another_kernel(tolerance, monkeypatch):
    deep = rl.nn.overparameterize(networks.cnn(8, 1, seed=0).double(), kind="expanded", where=study._is_convolution)
    x = torch.randn(3, 1, 8, 8, generator=seeds.stream(0, "images of a test"), dtype=torch.float64)
    assert max(study.differences(deep, x)) < tolerance["rounding"]
    assert all(p.grad is None or not p.grad.any() for p in deep.parameters())
    true = study.layer_by_layer

    def disturbed(net):
        slow = true(net)
        with torch.no_grad():
            slow[0].kernels[1].mul_(1.01)
        return slow

    monkeypatch.setattr(study, "layer_by_layer", disturbed)
    assert min(study.differences(deep, x)) > 1e-3


@pytest.mark.usefixtures("initial_values")
def test_only_convolutions_are_expanded():
    assert study._is_convolution("0", nn.Conv2d(1, 1, 3))
    assert not study._is_convolution("0", nn.Linear(1, 1))


def test_accuracies_are_measured_at_the_listed_steps(record):
    assert record.step.values.tolist() == [0, 5, 10]
    assert bool(record.test.notnull().all())
    assert bool((record.duration > 0).all())


def test_claims_by_hand_and_with_nan(record):
    planted = xr.concat([record.assign_coords(seed=[k]) for k in range(3)], dim="seed").transpose("way", "seed", ...)
    planted = planted.transpose(..., "step")
    planted.attrs = record.attrs
    planted.validation[:] = [[[0.1, 0.9, 0.8]] * 3, [[0.1, 0.2, 0.3]] * 3]
    planted.test[:] = [
        [[0.0, 0.7, 0.1], [0.0, 0.6, 0.2], [0.0, 0.5, 0.3]],
        [[0.0, 0.0, 0.8], [0.0, 0.0, 0.8], [0.0, 0.0, 0.8]],
    ]
    planted.duration.loc[{"timed": "composed"}] = [1.0, 2.0, 30.0]
    planted.duration.loc[{"timed": "layer by layer"}] = [5.0, 6.0, 7.0]
    planted.difference[:] = [1e-7, 1e-6, 1e-8]
    planted.gradient[:] = [1e-5, 1e-6, 1e-8]
    claims = study.claims(planted)
    assert [claim.measured for claim in claims] == pytest.approx([1e-6, 1e-5, 0.6, 0.2, 3.0])
    assert all(claim.holds for claim in claims)
    for name, place, fails in (
        ("difference", {"seed": 2}, [0]),
        ("gradient", {"seed": 2}, [1]),
        ("test", {"way": "plain", "seed": 0, "step": 10}, [2]),
        ("validation", {"way": "plain", "seed": 0, "step": 0}, [3]),
        ("duration", {"timed": "composed", "seed": 0}, [4]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[place] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails
