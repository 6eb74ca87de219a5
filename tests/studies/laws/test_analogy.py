"""Exponents of power laws are fitted exactly, and each factorization has the order that its law needs."""

import math

import numpy as np
import pytest

from ranklens.studies.laws import analogy as study

SETTINGS = study.PRESETS["tiny"]


def test_fitted_exponents_are_those_of_a_power_law(tolerance):
    size = np.geomspace(1e-6, 1, 50)
    slope, factor = study.exponent(size, 3 * size**1.4)
    assert slope == pytest.approx(1.4, rel=tolerance["rounding"])
    assert factor == pytest.approx(3.0, rel=tolerance["rounding"])


def points(K, gamma=0.7, exponent=None):
    size = np.geomspace(1e-3, 1, 30)
    rate = K * size ** (2 - 2 / K if exponent is None else exponent) * gamma
    return study._Points(K, size, rate, np.full(30, gamma))


@pytest.mark.parametrize("K", [3, 4])
def test_points_on_the_law_hold_and_points_on_another_power_do_not(K):
    assert all(claim.holds for claim in study._claims_of("tensor", points(K)))
    exponent, _, single = study._claims_of("tensor", points(K, exponent=2 - 2 / (K + 1)))
    assert not exponent.holds
    assert not single.holds


def test_a_sign_or_a_value_that_is_not_a_number_fails():
    K, size, rate, gamma = points(3)
    assert not any(claim.holds for claim in study._claims_of("tensor", study._Points(K, size, -rate, gamma))[2:])
    rate[7] = math.nan
    assert not any(claim.holds for claim in study._claims_of("tensor", study._Points(K, size, rate, gamma)))


@pytest.mark.parametrize(("kind", "K"), [("matrix", SETTINGS.depth), ("tensor", SETTINGS.order), ("hierarchical", 3)])
def test_orders_are_depth_order_and_children_plus_one(kind, K):
    case = study.CASES[kind](SETTINGS, 0)
    assert case.order == K
    assert case.size(case.net).shape == case.alignment(case.net).shape


@pytest.mark.parametrize("kind", study.KINDS)
def test_networks_of_the_factorizations_compute_the_entries_and_another_network_does_not(kind, tolerance, monkeypatch):
    net = study.CASES[kind](SETTINGS, 0).net
    assert study._circuit_error(net) < tolerance["rounding"]
    other = study.CASES[kind](SETTINGS, 1).net
    monkeypatch.setattr(study, "circuit", lambda _: other.evaluate)
    assert study._circuit_error(net) > 0.1
