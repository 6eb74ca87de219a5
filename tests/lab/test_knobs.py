import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranklens.lab.knobs import BOUNDS, MOST_ENTRIES, PRESETS, Knobs, check, parse, query


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_within_all_bounds_and_survive_the_address(name):
    title, knobs = PRESETS[name]
    assert title
    assert check(knobs) == knobs
    assert parse(dict(part.split("=") for part in query(knobs).split("&") if part)) == knobs
    for knob, bounds in BOUNDS.items():
        assert bounds.least <= asdict(knobs)[knob] <= bounds.most


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"size": "1000"}, "size is 1000; it must be a whole number from 2 to 64"),
        ({"size": "2.5"}, "a whole number"),
        ({"size": "nan"}, "a whole number"),
        ({"start": "inf"}, "start is inf; it must be a number from"),
        ({"start": "small"}, "start is 'small'; it must be a number"),
        ({"family": "<script>"}, "family is '<script>'; it must be one of matrix"),
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs'"),
        ({"family": "cp", "depth": "2.5"}, "only a deep matrix"),
        ({"depth": "2.5", "optimizer": "adam"}, "a fraction has a balanced flow only"),
        ({"family": "train", "depth": "1"}, "order is 1"),
        ({"family": "cp", "depth": "6", "size": "64"}, f"more than {MOST_ENTRIES}"),
        ({"family": "einsum", "einsum": "a" * 50}, "the einsum has 50 characters"),
    ],
)
def test_what_is_out_of_bounds_is_named(given_, message):
    with pytest.raises(ValueError, match=message):
        parse(given_)


def test_unknown_names_are_ignored():
    assert parse({"compare": "depth", "utm_source": "x"}) == Knobs()


@given(st.dictionaries(st.sampled_from([*asdict(Knobs())]), st.text(max_size=8) | st.floats().map(str), max_size=4))
def test_nonsense_gives_knobs_or_a_message(texts):
    try:
        found = parse(texts)
    except ValueError:
        return
    assert check(found) == found
    assert all(math.isfinite(value) for value in asdict(found).values() if not isinstance(value, str))


def test_the_address_names_only_what_was_turned():
    assert query(Knobs()) == ""
    assert query(replace(Knobs(), seed=3, start=0.01)) == "start=0.01&seed=3"


def test_an_einsum_has_no_depth_that_could_be_wrong():
    """A depth of 2.5 that is left over from a deep matrix would be refused, and its knob is not shown."""
    assert not parse({"family": "einsum", "depth": "2.5"}).is_fraction
    assert parse({"depth": "2.5"}).is_fraction
