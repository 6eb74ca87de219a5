"""Fewest parameters, the compression measure and claims of the study, on planted records."""

import math

import numpy as np
import pytest

from ranklens import studies
from ranklens.studies.layers import compressible_layers as study

# Accuracy of a few of 597 test images, whose two largest logits may be equal up to rounding.
ONE_IMAGE = 0.005


@pytest.fixture(scope="module")
def record():
    return studies.perform("compressible_layers", study.PRESETS["tiny"])


@pytest.fixture
def planted(record):
    """Both kinds lose accuracy with parameters; depth 3 needs a fifth of them for the accuracy of the plain network."""
    planted = record.copy(deep=True)
    count = len(study.ENERGIES)
    parameters = np.linspace(1700, 100, count)
    planted.parameters[:] = parameters
    planted.test.loc[{"kind": "plain"}], planted.test.loc[{"kind": "depth 3"}] = 0.9, 0.92
    planted.accuracy.loc[{"kind": "plain"}] = np.where(parameters >= 1500, 0.895, 0.5)
    planted.accuracy.loc[{"kind": "depth 3"}] = np.select([parameters >= 600, parameters >= 300], [0.915, 0.891], 0.5)
    planted.collapsed[:] = 1e-7
    return planted


def test_fewest_parameters_keep_the_accuracy_of_the_first_kind_or_of_their_own(planted):
    assert study.least(planted, "plain") == pytest.approx([1500])
    assert study.least(planted, "depth 3") == pytest.approx([300])
    assert study.measure(planted, "depth 3", 50) == pytest.approx([math.sqrt(600 / 50)])
    planted.accuracy.loc[{"kind": "plain"}] = 0.5
    assert study.least(planted, "plain").tolist() == [math.inf]
    assert "no number of parameters" in study.alt(planted)
    planted.accuracy[:] = 0.5
    assert math.isnan(study.claims(planted)[1].measured)  # no compression of either network keeps the accuracy


def test_claims_by_hand_and_with_nan(planted):
    claims = study.claims(planted)
    assert [claim.measured for claim in claims] == pytest.approx([1e-7, 5.0, 0.02, math.sqrt(600 / 1500)])
    assert all(claim.holds for claim in claims)
    for name, place, fails in (
        ("collapsed", {"kind": "plain"}, [0]),
        ("accuracy", {"kind": "depth 3", "energy": 0.5}, [1, 3]),
        ("test", {"kind": "depth 3"}, [2, 3]),
        ("test", {"kind": "plain"}, [1, 2, 3]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[place] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails


def test_nothing_is_cut_at_the_largest_energy(record):
    whole = record.sel(energy=1.0)
    assert (whole.parameters <= record.size).all()
    assert np.allclose(whole.accuracy, record.test, rtol=0, atol=ONE_IMAGE)
    assert (record.parameters.diff("energy") <= 0).all()
