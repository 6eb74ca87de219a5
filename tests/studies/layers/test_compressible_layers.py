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
    planted.collapsed[:], planted.bound_used[:] = 1e-7, 0.5
    return planted


def test_fewest_parameters_keep_the_accuracy_of_the_first_kind_or_of_their_own(planted):
    assert study.least(planted, "plain") == pytest.approx([1500])
    assert study.least(planted, "depth 3") == pytest.approx([300])
    assert study.measure(planted, "depth 3", 50) == pytest.approx([math.sqrt(600 / 50)])
    planted.accuracy.loc[{"kind": "plain"}] = 0.5
    assert study.least(planted, "plain").tolist() == [math.inf]
    assert "no number of parameters" in study.alt(planted)
    planted.accuracy[:] = 0.5
    assert math.isnan(study.claims(planted)[2].measured)  # no compression of either network keeps the accuracy


def test_claims_by_hand_and_with_nan(planted):
    claims = study.claims(planted)
    assert [claim.measured for claim in claims] == pytest.approx([1e-7, 0.5, 5.0, 0.02, math.sqrt(600 / 1500)])
    assert all(claim.holds for claim in claims)
    for name, place, fails in (
        ("collapsed", {"kind": "plain"}, [0]),
        ("bound_used", {"kind": "depth 3", "layer": "3"}, [1]),
        ("accuracy", {"kind": "depth 3", "energy": 0.5}, [2, 4]),
        ("test", {"kind": "depth 3"}, [3, 4]),
        ("test", {"kind": "plain"}, [2, 3, 4]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[place] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails


def test_nothing_is_cut_at_the_largest_energy(record):
    whole = record.sel(energy=1.0)
    assert (whole.parameters <= record.size).all()
    assert np.allclose(whole.accuracy, record.test, rtol=0, atol=ONE_IMAGE)
    assert (record.parameters.diff("energy") <= 0).all()


@pytest.fixture(scope="module")
def of_text():
    kinds = ("plain", "CP, small start", "hierarchical, small start")
    return studies.perform("compressible_layers", study.Settings("text", 60, 0, kinds, steps=4, seeds=(0,)))


@pytest.mark.slow
def test_tensor_kinds_are_pruned_by_the_bound(of_text):
    for kind in study.TENSORS:
        if kind in of_text.kind:
            pruned, cut = (of_text[name].sel(kind=kind) for name in ("pruned_parameters", "parameters"))
            assert bool((pruned.diff("energy") <= 0).all())
            assert not np.allclose(pruned, cut)
            assert float(pruned.max()) <= of_text.size
            accuracy = of_text.pruned_accuracy.sel(kind=kind)
            assert bool(((accuracy > 0) & (accuracy < 1)).all())
    plain = of_text.sel(kind="plain")
    assert np.array_equal(plain.pruned_parameters, plain.parameters)


@pytest.mark.slow
def test_each_tensor_kind_has_a_claim_on_its_components(of_text):
    claims = {claim.statement: claim for claim in study.claims(of_text)}
    found = [claim for statement, claim in claims.items() if statement.startswith("Share of its components")]
    shares = of_text.share.mean("layer").isel(seed=0)
    assert [claim.measured for claim in found] == pytest.approx(
        [float(shares.sel(kind=kind) / shares.sel(kind="plain")) for kind in of_text.kind.values[1:]]
    )
    assert of_text.layer.size == 4
    assert bool((of_text.cushion > 0).all())
    assert bool((of_text.bound_used <= 1).all())
