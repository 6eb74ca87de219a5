"""Biases of labels within periods, against means by hand and planted moods."""

import numpy as np
import pandas as pd
import pytest
import torch

import ranklens as rl
from ranklens.completers.observed import Observed
from ranklens.completers.periods import fit_periods, times_of


def moody(rows=3000, *, mood=1.0, seed=0):
    """Ratings of 12 items by 10 people, who change their mood from week to week."""
    made = np.random.default_rng(seed)
    person, item, time = made.integers(10, size=rows), made.integers(12, size=rows), made.random(rows) * 8
    moods, quality = mood * made.standard_normal((10, 8)), made.standard_normal(12)
    y = 3 + quality[item] + moods[person, time.astype(int)] + 0.2 * made.standard_normal(rows)
    return pd.DataFrame({"person": person, "item": item, "time": time}), y


def entries(table, y):
    return Observed(torch.tensor(table[["person", "item"]].to_numpy()), torch.tensor(y), (10, 12))


def test_moods_are_found_where_they_are_and_only_there():
    table, y = moody()
    periods, rest = fit_periods(entries(table, y), table.time.to_numpy(), 8, seed=0)
    people, items = periods.modes
    assert np.isfinite(people.damping)
    assert len(people.pairs) == 80
    assert np.abs(items.values).max() < 0.2 * np.abs(people.values).max()
    assert np.std(rest.values.numpy()) < 0.8 * np.std(y)


def test_constant_biases_need_no_periods():
    table, y = moody(mood=0.0)
    periods, rest = fit_periods(entries(table, y), table.time.to_numpy(), 8, seed=0)
    assert not periods.at(rest.indices, table.time.to_numpy()).any()
    assert np.array_equal(rest.values.numpy(), y)


def test_the_rest_is_as_noisy_as_new_observations_are():
    """What is subtracted from an observation was not fitted to it."""
    table, y = moody(6000)
    old, new = table[:3000], table[3000:]
    periods, rest = fit_periods(entries(old, y[:3000]), old.time.to_numpy(), 40, seed=0)
    both = entries(new, y[3000:])
    left = both.minus(periods.at(both.indices, new.time.to_numpy()))

    def noise(observed):
        return (
            rl.EntryRegressor(posterior=0, max_steps=1)
            .fit(observed.indices.numpy(), observed.values.numpy())
            .rmse_["biases"]
        )

    assert noise(rest) == pytest.approx(noise(left), rel=0.1)


def test_pairs_that_did_not_occur_have_no_bias():
    table, y = moody(50)
    periods, _ = fit_periods(entries(table, y), table.time.to_numpy(), 8, seed=0)
    assert float(periods.at(torch.tensor([[11, 13]]), np.array([3.0]))) == 0.0


@pytest.mark.parametrize("form", ["numbers", "datetimes", "text", "middle"])
def test_a_regressor_with_a_column_of_times(form):
    table, y = moody()
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(table.time, unit="D")
    if form != "numbers":
        table["time"] = days.astype(str) if form == "text" else days
    if form == "middle":
        table = table[["person", "time", "item"]]
    settings = {"posterior": 0, "max_steps": 50}
    without = rl.EntryRegressor(**settings).fit(table[["person", "item"]][:2500], y[:2500])
    made = rl.EntryRegressor(**settings, time="time", bins=8).fit(table[:2500], y[:2500])
    error = np.sqrt(np.mean((made.predict(table[2500:]) - y[2500:]) ** 2))
    assert error < 0.5 * np.sqrt(np.mean((without.predict(table[["person", "item"]][2500:]) - y[2500:]) ** 2))
    assert [list(labels) for labels in made.labels_] == [list(range(10)), list(range(12))]
    assert len(made.recommend(99, 2)) == 2


def test_positions_of_columns_do_not_count_the_time():
    table, y = moody(300)
    ages = pd.DataFrame({"age": np.arange(12.0)})
    moved = table[["person", "time", "item"]]
    settings = {"time": 1, "posterior": 10, "implicit": False, "max_steps": 50}
    by_place = rl.EntryRegressor(**settings, features={2: ages}).fit(moved, y)
    by_name = rl.EntryRegressor(**settings, features={"item": ages}).fit(moved, y)
    assert np.array_equal(by_place.predict(moved), by_name.predict(moved))
    array = rl.EntryRegressor(**settings, features={2: ages}).fit(moved.to_numpy(), y)
    assert np.allclose(array.predict(moved.to_numpy()), by_name.predict(moved))


def test_what_is_refused():
    table, y = moody(60)
    with pytest.raises(ValueError, match="time has the column 'week'; X has the columns"):
        rl.EntryRegressor(time="week").fit(table, y)
    with pytest.raises(ValueError, match="smooth has the column of the time, 'time'"):
        rl.EntryRegressor(time="time", smooth={"time": 1.0}).fit(table, y)
    with pytest.raises(ValueError, match="X has only the column of the time"):
        rl.EntryRegressor(time="time").fit(table[["time"]], y)
    with pytest.raises(ValueError, match="bins is 0; it must be at least 1"):
        rl.EntryRegressor(time="time", bins=0).fit(table, y)
    with pytest.raises(ValueError, match="the column 'time' is nan in row 4; leave out rows without a time"):
        rl.EntryRegressor(time="time").fit(table.assign(time=table.time.where(table.index != 4)), y)
    with pytest.raises(TypeError, match="the column 'time' has values that are no times"):
        rl.EntryRegressor(time="time").fit(table.assign(time="soon"), y)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["1970-01-01 00:00:02"]),
        pd.Series([pd.Timestamp(2, unit="s")]),
        pd.Series([pd.Timestamp(2, unit="s", tz="UTC")]),
        pd.Series([2]),
        pd.Series([2], dtype="Int64"),
        pd.Series([2.0], dtype=object),
    ],
    ids=["text", "datetime", "with time zone", "integer", "nullable", "object"],
)
def test_times_are_numbers(column):
    assert times_of(column, "time").tolist() == [2.0]


def test_periods_of_the_calendar_are_times():
    months = pd.Series(pd.period_range("2026-01", periods=3, freq="M"))
    assert np.diff(times_of(months, "month")).tolist() == [31 * 86400.0, 28 * 86400.0]
