"""A second of damaged input for every reader; `make fuzz` goes on for ten minutes each."""

import fuzz
import pytest

QUICK = [name for name in fuzz.READERS if name not in ("netcdf", "checkpoint", "upload")]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("netcdf", "checkpoint", "upload"))]
)
def test_damaged_input_is_refused_or_read(name, tmp_path):
    seeds, read = fuzz.READERS[name](tmp_path)
    draw = fuzz.random.Random(1)
    for valid in seeds:
        read(valid)
    for _ in range(60):
        data = fuzz.damaged(seeds, draw)
        try:
            read(data)
        except fuzz.ALLOWED:
            continue
