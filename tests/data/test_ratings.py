"""Ratings are the entries of the file, numbered from 0, and the published ones where the data folder has them."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.data import install

ABSENT = install.state("ml-100k").startswith("not here")


def test_numbers_count_from_zero_and_the_shape_is_the_largest(monkeypatch):
    rows = np.array([[1.0, 3.0, 5.0, 881.0], [2.0, 1.0, 4.0, 880.0], [2.0, 7.0, 1.0, 882.0]])
    monkeypatch.setattr(install, "load", lambda _: [rows])
    found = rl.data.ratings("ml-100k")
    assert found.indices.tolist() == [[0, 2], [1, 0], [1, 6]]
    assert found.values.tolist() == [5.0, 4.0, 1.0]
    assert found.times.tolist() == [881, 880, 882]
    assert found.shape == (2, 7)
    assert len(found) == 3
    T = torch.zeros(found.shape, dtype=torch.float64)
    T[found.users, found.items] = found.values
    task = rl.Completion(found.indices, found.values, found.shape)
    assert float(task.loss(T)) == 0  # they are what a completion problem takes


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="name is 'nothing', and there are no such ratings; choose one of ml-100k"):
        rl.data.ratings("nothing")


@pytest.mark.skipif(ABSENT, reason="the data folder has no ml-100k: ranklens data fetch ml-100k")
def test_published_numbers_of_ratings():
    found = rl.data.ratings()
    assert found.shape == (943, 1682)
    assert len(found) == 100_000
    assert found.values.long().bincount().tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert len(found.indices.unique(dim=0)) == 100_000
    assert found.users.bincount().min() == 20
