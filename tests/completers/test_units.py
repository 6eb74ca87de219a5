"""Units of columns: what they do to values, and that they change with the columns' own units only."""

import numpy as np
import pytest
import torch

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
    assert units.are_plain
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


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_units_go_with_the_columns(seed, offset, tolerance):
    """Columns in other units, one of them constant and one with few entries, have measured values as before."""
    X = table(offset)
    X[3:, 2], X[:, 4] = np.nan, 5e4
    unit = 10.0 ** np.random.default_rng(seed).uniform(-30, 30, 6)
    one, other = (Units.of(part).measured(observed_entries(part)) for part in (X, X * unit))
    assert np.allclose(one.values, other.values, rtol=tolerance["difference"], atol=tolerance["difference"])


def test_only_means_that_are_far_are_subtracted():
    """In units of the spread: 3 in uneven columns, 100 in even ones."""
    X = table() + 1000.0 * (np.arange(6) == 3) * 10.0 ** np.arange(6)
    assert (Units.of(X).zero != 0).tolist() == [False, False, False, True, False, False]
    even = table() / 10.0 ** np.arange(6) + np.array([0.0, 3.5, 50.0, 1e9, 0.0, 0.0])
    assert (Units.of(even).zero != 0).tolist() == [False, False, False, True, False, False]
    assert (Units.of(even).size == 1).all()


@pytest.mark.parametrize("entries", [1, 2, 4])
def test_a_column_with_few_entries_among_centred_ones_is_not_scaled_down(entries):
    X = table()
    X -= np.nanmean(X, axis=0)
    X[:, 3] = np.nan
    X[:entries, 3] = 1e3 * np.array([1.0, -2.0, 0.5, 1.5])[:entries]
    assert 100 < Units.of(X).size[3] < 5000


@pytest.mark.parametrize("rows", [40, 4000])
def test_a_constant_column_has_a_unit_of_the_size_of_its_value(rows):
    X = table(1.5, rows)
    X[:, 3] = 700.0
    assert (Units.of(X).zero == 0).all()
    assert 0.1 < 700.0 / Units.of(X).size[3] < 10


def test_a_column_without_entries_has_the_median_size_and_mean():
    X = table(100.0)
    X[:, 3] = np.nan
    units = Units.of(X)
    others = np.delete(units.size, 3)
    assert others.min() <= units.size[3] <= others.max()
    assert 50 < units.zero[3] / units.size[3] < 200


def test_what_is_measured_can_be_restored(tolerance):
    X = table(100.0)
    units, observed = Units.of(X), observed_entries(X)
    measured, columns = units.measured(observed), observed.indices[:, 1].numpy()
    found = units.restored(measured.values.numpy(), columns)
    assert np.allclose(found, observed.values.numpy(), rtol=tolerance["rounding"])
    assert np.allclose(units.restored((X - units.zero) / units.size), X, rtol=tolerance["rounding"], equal_nan=True)


@pytest.mark.parametrize("entries", [1, 2, 4])
def test_a_column_with_few_entries_gets_the_unit_that_its_mean_suggests(entries):
    X = table(100.0)
    X[:, 3] = np.nan
    X[:entries, 3] = 1e5 + 1e3 * np.random.default_rng(1).standard_normal(entries)  # mean 100, spread 1, times 1000
    assert 300 < Units.of(X).size[3] < 3000


def test_the_noise_of_every_column_is_found():
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
