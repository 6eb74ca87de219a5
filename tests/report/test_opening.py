import re

import numpy as np
import xarray as xr

from ranklens.report import opening


def record(sizes):
    """One run whose components have these final sizes and leave zero one after another."""
    count, rows = len(sizes), 60
    rise = np.clip((np.arange(rows)[:, None] - 20 * np.arange(count)) / 10, 0, 1)
    data = {
        "singular": (("seed", "row", "singular_0"), (rise * sizes)[None]),
        "loss": (("seed", "row"), np.linspace(1, 0, rows)[None]),
        "time": (("seed", "row"), np.arange(float(rows))[None]),
    }
    return xr.Dataset(data, coords={"seed": [0]})


def test_components_that_leave_zero_are_coloured_in_their_order():
    [found] = opening.curves({"matrix_dynamics": record([3.0, 2.0, 0.001])})
    assert (found.learned, found.rest) == (2, 1)
    lines = re.findall(r'<polyline points="([^"]+)" style="stroke: var\(--c-(\w+)\)', found.svg)
    assert [colour for _, colour in lines] == ["999999", "0072B2", "D55E00"]
    heights = [[float(point.split(",")[1]) for point in points.split()] for points, _ in lines]
    first = [next(k for k, y in enumerate(line) if y < opening.HEIGHT / 2) for line in heights[1:]]
    assert first[0] < first[1]
    assert min(heights[0]) > opening.HEIGHT - 3
    assert "2 singular values rise from zero one after another" in found.label


def test_records_that_are_missing_are_left_out():
    assert opening.curves({}) == []
    assert opening.curves({"depth": record([1.0])}) == []
