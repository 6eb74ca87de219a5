"""Streams repeat, differ by name and by seed, and leave the global generator alone (which conftest checks)."""

import numpy as np
import pytest
import torch

from ranklens import seeds

FIRST_SEED = 2_950_730_594_087_195_240  # derived from seed 0 and the name "initial values"


def test_a_stream_is_a_function_of_the_seed_and_of_the_name():
    draws = {
        (seed, name): torch.randn(4, generator=seeds.stream(seed, name)).tolist()
        for seed in (0, 1, -1, 2**70)
        for name in ("noise", "split")
    }
    assert len({tuple(numbers) for numbers in draws.values()}) == len(draws)
    for (seed, name), numbers in draws.items():
        assert torch.randn(4, generator=seeds.stream(seed, name)).tolist() == numbers


def test_seeds_of_different_pairs_are_63_bits_long_and_do_not_collide():
    found = {seeds.derive(seed, name) for seed in range(100) for name in ("a", "b", "1/a")}
    assert len(found) == 300
    assert all(0 <= seed < 2**63 for seed in found)


def test_the_seed_of_a_name_never_changes():
    """Records would not be reproducible if a new version drew other numbers."""
    assert seeds.derive(0, "initial values") == FIRST_SEED


def test_normals_draws_the_tensors_one_after_the_other():
    one, other = seeds.normals([(2, 3), (4,)], 0, "x")
    assert (one.shape, other.shape, one.dtype) == ((2, 3), (4,), torch.float64)
    assert torch.equal(seeds.normals([(2, 3)], 0, "x")[0], one)
    many = seeds.normals([(10_000,)], 0, "x")[0]
    # Bounds of five standard errors: 1 / 100 of the mean, 1 / sqrt(20,000) of the standard deviation.
    assert abs(float(many.mean())) < 0.05
    assert abs(float(many.std()) - 1) < 0.036


def test_modules_get_repeatable_initial_values_and_the_global_generator_its_state():
    before = torch.get_rng_state()
    weights = []
    for seed, name in [(0, "a"), (0, "a"), (0, "b"), (1, "a")]:
        with seeds.initial_values(seed, name):
            weights.append(torch.nn.Linear(3, 3).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    with pytest.raises(RuntimeError, match="inside"), seeds.initial_values(0, "a"):
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [True, 1.0, "3", None])
def test_a_seed_that_is_no_integer_is_refused(seed):
    check = seeds.check_seed.__wrapped__ if hasattr(seeds.check_seed, "__wrapped__") else seeds.check_seed
    with pytest.raises(TypeError, match="seed is"):
        check(seed)


def test_integers_of_numpy_are_seeds():
    check = seeds.check_seed.__wrapped__ if hasattr(seeds.check_seed, "__wrapped__") else seeds.check_seed
    assert type(check(np.int64(3))) is int
