"""Runs of several seeds come out of a gathered record as they went in."""

import numpy as np
import xarray as xr

from ranklens.studies.kit import records

ATTRS = {
    "stopped": "loss",
    "evaluations": 1,
    "steps": 1,
    "seconds": 0.1,
    "solver": "s",
    "network": "n",
    "loss_function": "mse",
    "versions": "v",
}


def run(length, axis="time"):
    at = np.arange(length) * 0.5 if axis == "time" else np.arange(length)
    return xr.Dataset({"loss": (axis, 1.0 / (1 + at))}, coords={axis: at}, attrs=ATTRS)


def test_runs_come_back_without_the_padding_of_longer_ones():
    made = [run(3), run(5)]
    record = records.gather(made, [4, 7])
    for before, after in zip(made, records.runs(record), strict=True):
        assert after.loss.values.tolist() == before.loss.values.tolist()
        assert records.times(after).tolist() == before.time.values.tolist()
    assert records.last(record, "loss").tolist() == [run(3).loss.values[-1], run(5).loss.values[-1]]
    assert [int(r.seed) for r in records.runs(record)] == [4, 7]


def test_a_loss_that_is_nan_is_no_padding():
    """Only rows without a time or a step are padding: a NaN that was measured stays and spoils what is built on it."""
    for axis in ("time", "step"):
        made = [run(3, axis), run(5, axis)]
        made[0].loss[1] = made[0].loss[2] = np.nan
        first = records.rows(records.gather(made, [0, 1]), 0)
        assert first.sizes["row"] == 3
        assert np.isnan(first.loss.values).tolist() == [False, True, True]
