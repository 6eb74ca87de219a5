"""Closed forms of probabilities, against plain guesses at levels that are reached often."""

import pytest
import torch

from ranklens.studies.kit.known_chances import CASES

# Relative error of a share of ten thousand draws, at shares from a tenth.
DRAWN = 0.1


@pytest.mark.parametrize("name", CASES)
def test_exact_probabilities_by_plain_guessing(name):
    """At levels that are reached often the closed forms can be compared with plain guesses."""
    case = CASES[name]
    z = torch.randn(10_000, case.prior.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = case.losses(case.prior.matrices(z))
    for share in (0.1, 0.3, 0.8):
        assert case.chance(float(losses.quantile(share))) == pytest.approx(share, rel=DRAWN)
    assert 0 < case.probability < 1e-3
