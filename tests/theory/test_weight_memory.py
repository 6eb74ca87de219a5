"""What weight decay forgets: the number of steps by its definition, and the bound on real steps of SGD."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl

# ln(1 - x) is -x up to a relative error of x / 2, here 5e-5.
SMALL_PRODUCT = 1e-3


@given(st.floats(1e-4, 0.9), st.floats(1e-6, 0.9))
def test_memory_is_the_first_step_at_which_the_share_is_left(decay, share):
    k = rl.theory.memory_steps(1.0, decay, share)
    assert (1 - decay) ** k <= share * (1 + 1e-9)
    assert (1 - decay) ** (k - 1) >= share * (1 - 1e-9)


def test_for_slow_decay_the_memory_is_the_inverse_of_rate_times_decay():
    assert rl.theory.memory_steps(0.01, 0.01) == pytest.approx(1e4, rel=SMALL_PRODUCT)
    assert rl.theory.memory_rank(3, 0.01, 0.01, tolerance=math.exp(-2), uses=5) == pytest.approx(
        30e4, rel=SMALL_PRODUCT
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_weights_of_sgd_are_as_close_to_low_rank_as_the_bound_says(batch):
    """Steps of torch's own SGD on a linear layer; with momentum, whose memory is longer, the bound need not hold."""
    generator = torch.Generator().manual_seed(0)
    W = torch.nn.Parameter(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.SGD([W], lr=0.5, weight_decay=0.6)
    norms = []
    for _ in range(30):
        x, y = torch.randn(2, batch, 12, generator=generator, dtype=torch.float64)
        norms.append(float(W.detach().norm()))
        optimizer.zero_grad()
        (x @ W.T - y).square().mean().backward()
        optimizer.step()
    tolerance = 0.7**3 * (1 + 1e-9)  # just above, so that rounding does not ask for a fourth step
    rank = rl.theory.memory_rank(batch, 0.5, 0.6, tolerance=tolerance)
    assert rank == 3 * batch
    distance = float(rl.distance_to_rank(W.detach(), rank))
    assert 0 < distance <= tolerance * norms[-3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rl.theory.memory_steps(0.0, 0.1), "lr is 0"),
        (lambda: rl.theory.memory_steps(2.0, 0.5), "must be below 1"),
        (lambda: rl.theory.memory_steps(0.1, -0.1), "weight_decay is -0.1"),
        (lambda: rl.theory.memory_steps(0.1, 0.1, 1.0), "tolerance is 1"),
        (lambda: rl.theory.memory_rank(0, 0.1, 0.1, tolerance=0.1), "batch_size is 0"),
        (lambda: rl.theory.memory_rank(1, 0.1, 0.1, tolerance=0.1, uses=0), "uses is 0"),
    ],
)
def test_numbers_outside_their_range_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
