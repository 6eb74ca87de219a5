"""The unobserved entry of the 2 x 2 example at its end, its law in time, and Schatten norms of recorded runs."""

import math

import numpy as np
import pytest
import xarray as xr

from ranklens import studies
from ranklens.studies.kit import records
from ranklens.studies.matrices import norms_to_infinity as study


def test_the_unobserved_entry_ends_at_that_of_the_theorem(tolerance):
    """At loss 1e-4 the bound and the measured entry agree to their first order: 1 / sqrt(2e-4) = 70.7."""
    record = studies.perform("norms_to_infinity", study.PRESETS["tiny"])
    run = records.rows(record.sel(depth=3), 0)
    assert float(run.loss[-1]) == pytest.approx(1e-4, rel=0.01 * tolerance["flow"])
    assert float(run.hole[-1]) == pytest.approx(70.7, rel=2 * tolerance["flow"])


def run(singular, loss):
    return xr.Dataset({"singular": (("row", "value"), np.array(singular)), "loss": ("row", np.array(loss))})


def test_schatten_norms_of_every_row(tolerance):
    rows = run([[3.0, 4.0], [1.0, 0.0]], [1.0, 0.5])
    assert study.schatten(rows, 2.0) == pytest.approx([5.0, 1.0], rel=tolerance["rounding"])
    assert study.schatten(rows, 1.0) == pytest.approx([7.0, 1.0], rel=tolerance["rounding"])
    assert study.schatten(rows, 0.5) == pytest.approx([(3**0.5 + 2) ** 2, 1.0], rel=tolerance["rounding"])
    assert study.schatten(rows, math.inf) == pytest.approx([4.0, 1.0], rel=tolerance["rounding"])
    assert np.isnan(study.schatten(run([[math.nan, 4.0]], [1.0]), 2.0)).all()


@pytest.mark.parametrize("depth", [3, 4])
def test_growth_is_one_on_the_law(depth, tolerance):
    """|w11| = ((2 depth + 2) t)^(depth / (2 depth + 2)) has the law's rate at all times."""
    time = np.linspace(1.0, 50.0, 20)
    hole = ((2 * depth + 2) * time) ** (depth / (2 * depth + 2))
    exact = xr.Dataset({"hole": ("row", hole), "time": ("row", time), "loss": ("row", 1e-3 / time)})
    assert study._growth(depth, exact) == pytest.approx(1.0, rel=tolerance["rounding"])
    assert math.isnan(study._growth(depth, exact.assign(loss=exact.loss + 1)))
