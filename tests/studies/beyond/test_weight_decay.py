"""The study's parts: slopes and their intervals, random updates, and the bound along real training."""

import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.beyond import weight_decay as study

# Chance of a matrix of 400 rows; and a network of float32 after its layers were scaled.
CHANCE, FLOAT32 = 0.1, 1e-3

SETTINGS = study.PRESETS["tiny"]


def test_a_slope_is_that_of_a_power_and_its_interval_covers_it():
    x = np.geomspace(1, 100, 9)
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=9))
    found = study.slope(x, 3 * x**0.4 * noise)
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.2
    exact = study.slope(x, 3 * x**0.4)
    assert (exact.low, exact.value, exact.high) == pytest.approx((0.4, 0.4, 0.4))
    assert math.isnan(study.slope(x[:2], x[:2]).value)
    assert math.isnan(study.slope(x, np.where(x > 50, np.nan, x)).low)


def test_random_updates_have_the_rank_of_their_memory_and_then_of_the_width():
    assert study.random_updates(400, 1 / 8, 0) == pytest.approx(8 * math.e, rel=CHANCE)
    assert 0.7 * 16 < study.random_updates(16, 1e-3, 0) <= 16


def test_the_largest_share_of_the_bound_is_found_over_all_numbers_of_updates():
    """A diagonal weight: distances from rank r are known."""
    W = torch.nn.Parameter(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])))
    norms = [[10.0], [8.0], [6.0], [5.0]]
    distances = {1: 14**0.5, 2: 5**0.5, 3: 1.0}
    wanted = max(distances[k] / (0.5**k * norms[-1 - k][0]) for k in (1, 2, 3))
    assert study._share_of_bound([W], norms, 1, 0.5) == pytest.approx(wanted)
    assert study._share_of_bound([W], norms, 3, 0.5) == pytest.approx(1 / (0.5 * 6))


def test_layers_do_not_change_with_their_scale():
    net, x = study.network(8, 0), torch.randn(5, study.PIXELS, generator=torch.Generator().manual_seed(0))
    before = net(x)
    with torch.no_grad():
        for k in range(study.LAYERS):
            net.get_parameter(f"{3 * k}.weight").mul_(7.0)
    torch.testing.assert_close(net(x), before, rtol=FLOAT32, atol=FLOAT32)


def test_the_monitor_reads_the_square_layers():
    made = study.train(SETTINGS, 2, 0.2, 0.5, 0)
    assert 1 <= made["rank"] <= SETTINGS.width
    assert 0 < made["share_of_bound"] <= 1
    assert math.isnan(study.train(SETTINGS, 2, 0.2, 0.0, 0, steps=3)["share_of_bound"])
    again = study.train(SETTINGS, 2, 0.2, 0.5, 0)
    assert again == made


def test_the_memory_of_the_bound_is_that_of_the_theory():
    for p in study.noise_products(SETTINGS):
        assert (1 - p) ** rl.theory.memory_steps(1.0, p, 1e-6) <= 1e-6
