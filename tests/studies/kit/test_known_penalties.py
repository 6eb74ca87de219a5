"""The penalty that is measured for known functions is the one that is computed by hand."""

import math

import pytest

from ranklens.studies.kit import known_penalties

# Means over 2,000 samples of a number between 0 and 1 are known to about 0.007.
SAMPLED = 0.02
# Decimals of the values that are written out.
WRITTEN = 1e-4


def test_the_penalty_of_known_functions(tolerance):
    for rank, value in ((1, 1.0), (2, 2 / math.pi), (4, 0.4244), (8, 0.2910)):
        assert known_penalties.expected_penalty(rank) == pytest.approx(value, abs=WRITTEN)
        assert known_penalties.bilinear_penalty(rank, 2000) == pytest.approx(value, abs=SAMPLED)
    assert known_penalties.penalty_of_product() == pytest.approx(1, abs=tolerance["rounding"])
    assert known_penalties.penalty_of_sum() == pytest.approx(1, abs=tolerance["rounding"])
