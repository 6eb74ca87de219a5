"""Components of the observation graph against a search by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl


def reached(places, rows, columns):
    """Sets of rows and columns that hang together, by repeated union."""
    groups = [{("row", i)} for i in range(rows)] + [{("column", j)} for j in range(columns)]
    for i, j in places:
        a = next(g for g in groups if ("row", i) in g)
        b = next(g for g in groups if ("column", j) in g)
        if a is not b:
            groups.remove(b)
            a |= b
    return {frozenset(group) for group in groups}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=20, unique=True),
)
def test_components_are_what_can_be_reached(places):
    task = rl.Completion(torch.tensor(places), torch.ones(len(places)), (4, 5))
    labels = rl.theory.observation_components(task).tolist()
    names = [("row", i) for i in range(4)] + [("column", j) for j in range(5)]
    found = {frozenset(n for n, at in zip(names, labels, strict=True) if at == k) for k in set(labels)}
    assert found == reached(places, 4, 5)
    assert set(labels) == set(range(len(found)))


def test_tensors_are_refused():
    task = rl.Completion(torch.tensor([[0, 0, 0]]), torch.ones(1), (2, 2, 2))
    with pytest.raises(ValueError, match="rows and columns are those of a matrix"):
        rl.theory.observation_components(task)
