"""Tables of every container against the plain array of the same numbers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from ranklens.completers.observed import Observed
from ranklens.completers.table import are_labels, are_positions, named, numbers, observed_entries, warn_of_empty

PLAIN = np.array([[1.0, np.nan, 0.0], [np.nan, 2.0, 1.0], [3.0, 5.0, 0.0]])
FRAME = pd.DataFrame(PLAIN, columns=["a", "b", "c"])
TABLES = {
    "floats": FRAME,
    "float32": FRAME.astype(np.float32),
    "objects with None": FRAME.astype(object).where(FRAME.notna(), None),
    "objects with NA": FRAME.astype(object).where(FRAME.notna(), pd.NA),
    "nullable integers": FRAME.astype("Int64"),
    "nullable floats": FRAME.astype("Float64"),
    "categories": FRAME.apply(lambda column: column.astype("category")),
    "a boolean column": FRAME.assign(c=[False, True, False]),
    "a nullable boolean column": FRAME.assign(c=pd.array([False, True, False], dtype="boolean")),
    "sparse with zeros": FRAME.astype(pd.SparseDtype(float, 0.0)),
    "sparse with holes": FRAME.astype(pd.SparseDtype(float, np.nan)),
    "sparse and dense": FRAME.astype({"c": pd.SparseDtype(float, 0.0)}),
    "numbers as text": FRAME.astype(object).assign(b=[None, "2", "5.0"]),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_frames_of_any_column_type(table):
    found = numbers(table)
    assert np.array_equal(found.to_numpy(), PLAIN, equal_nan=True)
    assert list(found.columns) == list(table.columns)


def test_a_frame_with_one_name_twice():
    twice = pd.DataFrame(PLAIN, columns=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"X has 2 columns of the name 'a'; give every column a name of its own"):
        numbers(twice)


def test_masked_entries_are_holes():
    masked = np.ma.masked_array(np.nan_to_num(PLAIN, nan=-99.0), mask=np.isnan(PLAIN))
    assert np.array_equal(numbers(masked), PLAIN, equal_nan=True)
    whole = np.ma.masked_array(np.array([[1, 2], [3, 4]]), mask=[[False, True], [False, False]])
    assert np.array_equal(numbers(whole), [[1.0, np.nan], [3.0, 4.0]], equal_nan=True)
    assert np.array_equal(numbers(np.ma.masked_array(np.ones((2, 2)))), np.ones((2, 2)))


def test_arrays_and_lists_of_objects():
    for hole in (None, pd.NA, np.nan):
        objects = np.where(np.isnan(PLAIN), hole, PLAIN.astype(object))
        assert np.array_equal(np.asarray(numbers(objects), dtype=float), PLAIN, equal_nan=True)
        assert np.array_equal(np.asarray(numbers(objects.tolist()), dtype=float), PLAIN, equal_nan=True)


@pytest.mark.parametrize(
    "column",
    [["x", "y", "z"], pd.to_datetime(["2020-01-01"] * 3), pd.to_timedelta([1, 2, 3]), [1j, 2j, 3j], [[1], 2, 3]],
)
def test_columns_without_numbers_are_named(column):
    with pytest.raises(ValueError, match=r"column 'city' of the frame has dtype .* no numbers.*pandas\.to_numeric"):
        numbers(pd.DataFrame({"a": [1.0, 2.0, 3.0], "city": column}))


def test_sparse_matrices_stay_as_they_are():
    X = sp.csr_matrix(np.eye(3))
    assert numbers(X) is X


def test_observed_entries_are_those_that_are_there():
    found = observed_entries(PLAIN)
    assert found.indices.tolist() == [[0, 0], [0, 2], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    assert found.values.tolist() == [1.0, 0.0, 2.0, 1.0, 3.0, 5.0, 0.0]
    with pytest.raises(ValueError, match="no observed entry"):
        observed_entries(np.full((2, 2), np.nan))


def test_positions_and_labels_are_told_from_rows():
    integers = np.array([[0, 1], [2, 3]])
    assert are_positions(integers)
    assert are_positions(pd.DataFrame(integers).astype("Int64"))
    assert not are_positions(integers.astype(float))
    assert not are_positions(pd.DataFrame({"a": [0, pd.NA], "b": [1, 2]}, dtype="Int64"))
    assert not are_positions(sp.csr_matrix(integers))
    assert are_labels([("user3", "item4")])
    assert are_labels(pd.DataFrame({"u": ["a"], "i": [3]}))
    assert are_labels(np.array([["a", "b"]]))
    assert not are_labels(integers)
    assert not are_labels([[None, 1.0], [2.0, 3.0]])
    assert not are_labels(np.array([[1.0, None]], dtype=object))


def test_empty_rows_and_columns_are_named():
    observed = Observed(torch.tensor([[0, 0], [2, 1]]), torch.ones(2).double(), (3, 3))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_empty(observed, None, pd.Index(["a", "b", "c"]))
    rows, columns = (str(warning.message) for warning in said)
    assert rows.startswith("1 row has no observed entry: 1;")
    assert columns.startswith("1 column has no observed entry: 'c';")
    assert named(np.arange(8), None) == "0, 1, 2, 3, 4 and 3 more"
