"""Einsum strings are read and written without loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranklens.tensors.equation import parse, write

LABELS = st.lists(st.one_of(st.integers(), st.sampled_from("abcxyzABC"), st.just("ab"), st.just((0, 1))), max_size=3)


@given(nodes=st.lists(LABELS, min_size=1, max_size=4))
def test_what_is_written_has_equal_letters_where_labels_are_equal(nodes):
    out = list(dict.fromkeys(label for node in nodes for label in node))[::-1]
    labels, right = parse(write(nodes, out))
    assert [len(node) for node in labels] == [len(node) for node in nodes]
    names = dict(zip(out, right, strict=True))
    assert len(set(right)) == len(out)
    assert labels == [tuple(names[label] for label in node) for node in nodes]
    assert all(names[x] == x for x in out if isinstance(x, str) and len(x) == 1)


def test_spaces_are_ignored_and_a_scalar_has_nothing_on_the_right():
    assert parse(" a b , b -> a ") == ([("a", "b"), ("b",)], ("a",))
    assert parse("a,a->") == ([("a",), ("a",)], ())


@pytest.mark.parametrize("equation", ["ab,bc", "a->b->c"])
def test_an_equation_needs_one_arrow(equation):
    with pytest.raises(ValueError, match="exactly one '->'"):
        parse(equation)
