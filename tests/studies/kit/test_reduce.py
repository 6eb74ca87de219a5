"""Reductions agree with numpy on numbers, and give NaN wherever in the values a NaN is."""

import math

import numpy as np
import pytest
import xarray as xr

from ranklens.studies.kit import reduce

VALUES = np.array([[2.0, -1.0, 0.5], [4.0, 0.0, 1.0]])
REDUCTIONS = {
    reduce.largest: 4.0,
    reduce.least: -1.0,
    reduce.median: 0.75,
    reduce.mean: 6.5 / 6,
    lambda x: reduce.farthest(x, 1.0): 4.0,
    lambda x: reduce.share(x, lambda v: v >= 1): 0.5,
}


@pytest.mark.parametrize(("reduction", "expected"), REDUCTIONS.items())
def test_one_nan_anywhere_makes_the_result_nan(reduction, expected):
    assert reduction(VALUES) == pytest.approx(expected)
    assert reduction(xr.DataArray(VALUES)) == pytest.approx(expected)
    assert math.isnan(reduction([]))
    for place in np.ndindex(VALUES.shape):
        spoilt = VALUES.copy()
        spoilt[place] = np.nan
        assert math.isnan(reduction(spoilt))
        assert math.isnan(reduction(xr.DataArray(spoilt)))
        assert math.isnan(reduction(spoilt.reshape(-1).tolist()))
