"""Frames of other libraries against the frame of pandas with the same columns."""

import numpy as np
import pandas as pd
import pytest

import ranklens as rl
from ranklens.completers.foreign import check_labelled, is_foreign, pandas_frame


class Column:
    """A column that numpy can read, as columns of polars are; integers beside holes are floats in numpy."""

    def __init__(self, entries):
        self.entries = entries

    def __array__(self, dtype=None, copy=None):
        if any(entry is None for entry in self.entries) and not any(isinstance(e, str) for e in self.entries):
            return np.array([np.nan if entry is None else float(entry) for entry in self.entries], dtype=dtype)
        kind = object if any(isinstance(entry, str) for entry in self.entries) else None
        return np.array(self.entries, dtype=dtype or kind)

    def to_list(self):
        return list(self.entries)


class Frame:
    """A frame as other libraries have them: named columns and no index. It cannot be exchanged without pyarrow."""

    def __init__(self, columns):
        self.by_name = {name: Column(list(entries)) for name, entries in columns.items()}
        self.columns = list(columns)
        self.shape = (len(next(iter(self.by_name.values())).entries), len(columns))

    def __getitem__(self, name):
        return self.by_name[name]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the columns would lose their types in one array")

    def __arrow_c_stream__(self, requested_schema=None):
        raise ImportError("pyarrow is not installed")


class Query:
    """A query that has not been run."""

    def collect_schema(self):
        return {}


class Arrow(Frame):
    """A table whose attribute `columns` has the columns and not their names."""

    def __init__(self, columns):
        super().__init__(columns)
        self.columns = list(self.by_name.values())


def frames():
    """Return a frame of another library, and the same one of pandas."""
    columns = {"a": [1, 2, None], "b": ["x", None, "y"], "c": [2**60 + 1, None, 3], "d": [0.5, 1.5, 2.5]}
    return Frame(columns), pd.DataFrame({name: pd.Series(entries, dtype=object) for name, entries in columns.items()})


def test_columns_keep_their_names_types_and_large_integers():
    foreign, own = frames()
    found = pandas_frame(foreign)
    assert list(found.columns) == list(own.columns)
    assert [found[name].dtype.kind for name in found] == ["f", "O", "O", "f"]
    assert found["c"].tolist()[0] == 2**60 + 1
    assert all((found[name].isna() == own[name].isna()).all() for name in own)


@pytest.mark.parametrize("thing", [pd.DataFrame({"a": [1]}), np.eye(2), [[1.0]], None, pd.Series([1.0])], ids=str)
def test_anything_else_is_returned_as_it_is(thing):
    assert pandas_frame(thing) is thing
    assert not is_foreign(thing)


def test_what_cannot_be_read_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"X is a .*Query, a query that has not been run; pass X\.collect\(\)"):
        pandas_frame(Query())
    with pytest.raises(TypeError, match=r"X is a .*Arrow, whose columns .*; pass X\.to_pandas\(\)"):
        pandas_frame(Arrow({"a": [1]}))


def test_features_without_labels_are_refused():
    foreign, own = frames()
    check_labelled(own, "row_features")
    check_labelled(None, "row_features")
    with pytest.raises(
        TypeError, match=r"row_features is a .*Frame, and its rows have no labels; pass a frame of pand"
    ):
        check_labelled(foreign, "row_features")
    with pytest.raises(TypeError, match=r"column_features is a .*Frame"):
        rl.MatrixCompleter().set_params(column_features=foreign).fit(np.eye(3))
    with pytest.raises(TypeError, match=r"features\['user'\] is a .*Frame"):
        rl.EntryRegressor().set_params(features={"user": foreign}).fit(pd.DataFrame({"user": [1], "film": [2]}), [1.0])


def matrix():
    """Return a matrix of rank 2 with holes as a dictionary of columns."""
    whole = rl.targets.low_rank_matrix((24, 16), rank=2).numpy()
    X = np.where(np.random.default_rng(0).random(whole.shape) < 0.7, whole, np.nan)
    return {f"c{k}": [None if np.isnan(entry) else float(entry) for entry in X[:, k]] for k in range(X.shape[1])}


def test_a_matrix_in_a_frame_of_another_library_is_completed_as_in_one_of_pandas():
    columns = matrix()
    foreign, own = Frame(columns), pd.DataFrame(columns, dtype=float)
    settings = {"depth": 2, "max_steps": 200, "posterior": 0}
    first, second = (rl.MatrixCompleter(**settings).fit(X) for X in (foreign, own))
    filled = first.transform(foreign)
    assert isinstance(filled, np.ndarray)
    assert np.array_equal(filled, second.transform(own).to_numpy())
    assert np.array_equal(first.predict(foreign), second.predict(own))
    assert first.score(foreign) == second.score(own)
    assert list(first.feature_names_in_) == list(columns)


def test_columns_of_a_long_table_are_found_by_name():
    made = np.random.default_rng(1)
    columns = {
        "user": (2**60 + made.integers(12, size=150)).tolist(),
        "film": [f"film {k}" for k in made.integers(9, size=150)],
        "hour": made.random(150).tolist(),
    }
    y = made.normal(size=150)
    settings = {"max_steps": 20, "posterior": 0, "time": "hour", "bins": 3}
    features = {"film": pd.DataFrame({"length": np.arange(9.0)}, index=[f"film {k}" for k in range(9)])}
    fits = [rl.EntryRegressor(features=features, **settings).fit(X, y) for X in (Frame(columns), pd.DataFrame(columns))]
    assert [labels.tolist() for labels in fits[0].labels_] == [labels.tolist() for labels in fits[1].labels_]
    assert len(fits[0].labels_[0]) == 12
    assert np.array_equal(fits[0].predict(Frame(columns)), fits[1].predict(pd.DataFrame(columns)))


def test_frames_of_polars():
    polars = pytest.importorskip("polars")
    found = pandas_frame(polars.DataFrame({"a": [2**60 + 1, None], "b": ["x", None], "c": [True, False]}))
    assert found["a"].tolist()[0] == 2**60 + 1
    assert found["b"].tolist()[0] == "x"
    assert found["c"].dtype.kind == "b"
    with pytest.raises(TypeError, match=r"X is a polars\.LazyFrame.*X\.collect\(\)"):
        pandas_frame(polars.LazyFrame({"a": [1]}))
