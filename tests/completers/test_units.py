"""Units of columns: what they do to values, and that they change with the columns' own units only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ranklens.completers.fitted import FittedMatrix
from ranklens.completers.observed import Observed
from ranklens.completers.table import observed_entries
from ranklens.completers.units import Units, noise_of_columns


def table(offset=0.0, rows=40):
    made = np.random.default_rng(0)
    X = (made.standard_normal((rows, 6)) + offset) * 10.0 ** np.arange(6)
    X[made.random(X.shape) < 0.3] = np.nan
    return X


def test_columns_of_like_size_are_left_alone():
    X = table()[:, :2]
    units = Units.of(X)
    observed = observed_entries(X)
    assert units.are_one
    assert units.measured(observed) is observed


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_columns_are_standardized_if_their_means_are_far_from_zero(offset, tolerance):
    X = table(offset)
    measured = Units.of(X).measured(observed_entries(X))
    for column in range(6):
        own = measured.values.numpy()[measured.indices[:, 1].numpy() == column]
        assert own.std(ddof=1) == pytest.approx(1, rel=tolerance["rounding"])
        assert offset == 0.0 or abs(own.mean()) < tolerance["rounding"] * offset
    assert (Units.of(X).zero == 0).all() == (offset == 0.0)


@given(st.lists(st.floats(-30, 30), min_size=6, max_size=6), st.sampled_from([0.0, 100.0]))
def test_measured_values_do_not_depend_on_the_units_of_the_table(powers, offset):
    X = table(offset)
    unit = 10.0 ** np.array(powers)
    one, other = Units.of(X), Units.of(X * unit)
    if one.are_one or other.are_one:  # columns that have become of like size
        return
    assert np.allclose(other.size / unit, one.size, rtol=1e-6)
    assert np.allclose(other.zero / unit, one.zero, rtol=1e-6)


@pytest.mark.parametrize("entries", [1, 2, 4])
def test_a_column_with_few_entries_gets_the_unit_that_its_mean_suggests(entries):
    X = table(100.0)
    X[:, 3] = np.nan
    X[:entries, 3] = 1e5 + 1e3 * np.random.default_rng(1).standard_normal(entries)  # mean 100, spread 1, times 1000
    assert 300 < Units.of(X).size[3] < 3000


def test_the_noise_of_a_column_is_found_whatever_the_posterior_of_the_others():
    made = np.random.default_rng(0)
    left, right = made.standard_normal((200, 1)), made.standard_normal((5, 1))
    noise = np.array([0.1, 0.1, 0.1, 1.0, 0.1])
    X = left @ right.T + noise * made.standard_normal((200, 5))
    fit = FittedMatrix(left, right, 0.0, np.zeros(200), np.zeros(5), ridge=0, damping=np.inf, error=0.1, posterior=None)
    found = noise_of_columns(observed_entries(X), fit)
    assert np.median(found) == 1
    assert 6 < found[3] < 11  # ten times the others', shrunk towards their mean
    units = Units(np.zeros(5), np.ones(5)).times(found)
    entry = Observed(torch.tensor([[0, 3]]), torch.tensor([2.0]).double(), (1, 5))
    assert float(units.measured(entry).values) == 2.0 / found[3]


def test_a_column_with_a_component_of_its_own_does_not_seem_free_of_noise():
    made = np.random.default_rng(0)
    X = 0.1 * made.standard_normal((200, 5))
    right = np.eye(5)[:, [2]]  # the component is the third column, which is therefore fitted exactly
    fit = FittedMatrix(
        X[:, [2]], right, 0.0, np.zeros(200), np.zeros(5), ridge=0, damping=np.inf, error=0.1, posterior=None
    )
    assert (np.abs(noise_of_columns(observed_entries(X), fit) - 1) < 0.2).all()
