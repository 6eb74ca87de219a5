"""The agreement tensor by its definition."""

import itertools

import pytest

from ranklens.studies.kit.agreement import agreement


@pytest.mark.parametrize("modes", list(itertools.combinations(range(4), 2)))
def test_entries_are_one_at_equal_indices_minus_the_mean(modes, tolerance):
    size = 3
    T = agreement(size, modes)
    for at in itertools.product(range(size), repeat=4):
        expected = float(at[modes[0]] == at[modes[1]]) - 1 / size
        assert float(T[at]) == pytest.approx(expected, rel=tolerance["rounding"])
