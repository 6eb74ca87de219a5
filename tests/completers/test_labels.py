"""Labels of many kinds and their numbers."""

import datetime

import numpy as np
import pandas as pd
import pytest

from ranklens.completers.labels import Labels, by_column

KINDS = {
    "text": (["b", "a", "c", "a"], "z"),
    "large integers": ([2**60 + 1, 2**60, 2**60 + 2, 2**60], 5),
    "tuples": ([(1, "x"), (0, "y"), (2, "z"), (0, "y")], (9, "q")),
    "dates": ([datetime.date(2020, 1, day) for day in (2, 1, 3, 1)], datetime.date(2021, 1, 1)),
    "mixed": ["bac", 7],
    "booleans": ([True, False, True, False], "neither"),
}
KINDS["mixed"] = ([1, "one", (1,), "one"], 2)


@pytest.mark.parametrize(("values", "other"), KINDS.values(), ids=KINDS)
def test_equal_labels_have_equal_numbers(values, other):
    column = pd.Series(np.empty(len(values), dtype=object))
    column[:] = values
    labels = Labels.of(column)
    codes = labels.codes(column)
    assert [labels.index[code] for code in codes] == values
    assert len(labels) == len(set(values))
    assert labels.codes(pd.Series([other], dtype=object)).tolist() == [len(labels)]


def test_labels_that_can_be_sorted_are():
    assert Labels.of(pd.Series([3.5, 1.0, 2.0])).index.tolist() == [1.0, 2.0, 3.5]
    days = pd.Series(pd.to_datetime(["2020-01-03", "2020-01-01"]))
    assert Labels.of(days).codes(days).tolist() == [1, 0]


def test_a_missing_label_is_a_label():
    column = pd.Series(["a", None, "b", None])
    assert Labels.of(column).codes(column).tolist() == [0, 2, 1, 2]


def test_categories_are_their_values():
    column = pd.Series(["b", "a"], dtype="category")
    assert Labels.of(column).codes(pd.Series(["a", "b"])).tolist() == [0, 1]


def test_more_labels():
    assert Labels.of(pd.Series(["a"]), pd.Index(["c", "a"])).index.tolist() == ["a", "c"]


def test_labels_that_are_not_hashable_are_refused():
    with pytest.raises(TypeError, match="column 'item' of X has labels that are not hashable"):
        Labels.of(pd.Series([[1], [2]], name="item"))


def test_columns_are_given_by_name_or_position():
    table = pd.DataFrame({"user": [1], "item": [2]})
    assert by_column(table, {"item": "a", 0: "b"}, "features") == {1: "a", 0: "b"}
    assert by_column(table, None, "features") == {}
    with pytest.raises(ValueError, match=r"smooth has the column 'day'; X has the columns \['user', 'item'\]"):
        by_column(table, {"day": 1.0}, "smooth")
