import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from ranklens.sweeps.entry import DONE, Entry, File, stored_values
from ranklens.sweeps.identity import digest
from ranklens.sweeps.result import is_small, variables_of


def entry(record, **changes):
    given = {
        "key": "ab" * 32,
        "what": "f",
        "code": "c",
        "version": "1",
        "settings": {"a": 1, "shape": (2, (3, None)), "x": 0.1},
        "state": DONE,
        "stopped": "loss",
        "early": False,
        "seconds": 1.5,
        "variables": variables_of(record, digest, inside=is_small(record)),
        "record": File("a.nc", 3, "0"),
        "warned": ("w",),
    }
    return Entry(**(given | changes))


def test_an_entry_comes_back_from_json():
    record = xr.Dataset({"a": 1.5, "b": ("t", [1, 2])}, coords={"t": [0.0, np.nan]})
    made = entry(record)
    again = Entry.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert again.settings == made.settings
    assert again.variables["b"].dims == ("t",)
    assert again.variables["t"].coordinate


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=9))
def test_small_records_are_kept_bit_for_bit(values):
    record = xr.Dataset({"a": ("n", np.array(values)), "b": 3, "c": "text", "d": np.bool_(True)})
    assert is_small(record)
    again = Entry.from_json(entry(record).to_json()).variables
    for name in record.variables:
        stored = stored_values(again[name])
        assert stored.dtype == record[name].dtype
        np.testing.assert_array_equal(stored, record[name].values)


def test_the_error_is_the_last_line():
    made = entry(xr.Dataset(), failure="Traceback\n  File\nValueError: no\n")
    assert made.error() == "ValueError: no"
    assert entry(xr.Dataset()).error() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"settings": 1}', "[" * 100_000])
def test_texts_that_are_no_entries_are_refused(text):
    with pytest.raises(ValueError, match="it is no entry of a run"):
        Entry.from_json(text)


def test_entries_with_other_fields_are_refused():
    told = json.loads(entry(xr.Dataset()).to_json())
    with pytest.raises(ValueError, match="it is no entry"):
        Entry.from_json(json.dumps(told | {"more": 1}))
    del told["key"]
    with pytest.raises(ValueError, match="it is no entry"):
        Entry.from_json(json.dumps(told))
