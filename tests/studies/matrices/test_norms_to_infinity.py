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
    run = records.rows(record.sel(start="balanced", depth=3), 0)
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


def test_factors_that_are_not_balanced_satisfy_the_bound_as_long_as_the_determinant_is_positive():
    """At loss 1e-2 the bound is (1 - e)^2 / e with e = sqrt(0.02), about 5.21; later rows have lost the sign."""
    e = math.sqrt(0.02)
    bound = (1 - e) ** 2 / e
    r = run([[1.0, 0.1]] * 3, [1.0, 1e-2, 1e-3]).assign(
        hole=("row", [0.1, 1.5 * bound, 2.0]), sign=("row", [1.0, 1.0, -1.0])
    )
    assert study._over_bound(r) == pytest.approx(1.5)
    assert math.isnan(study._over_bound(r.assign(sign=("row", [1.0, math.nan, -1.0]))))
    claims = study._unbalanced([(2, r), (3, r.assign(hole=("row", [0.1, 8.0, 30.0])))])
    assert [claim.measured for claim in claims] == pytest.approx([1.5, 2.0, 30.0])
    assert [claim.kind for claim in claims] == ["exactness", "finding", "finding"]
    assert len(study._unbalanced([(2, r)])) == 2


def test_the_figure_and_its_words_name_both_kinds_of_factors():
    record = studies.perform("norms_to_infinity", study.PRESETS["tiny"])
    assert [axes.get_title(loc="left") for axes in study.draw(record).axes][:2] == [
        "Balanced: |w11| grows without end",
        "Not balanced: depth 2 stops early",
    ]
    assert "not balanced, |w11| stops (depth 3" in study.alt(record)
