"""A layout knows where its labels are, and makes each plan once."""

import cases
import pytest

from ranklens.tensors.layout import Layout

NODES, SHAPES, OUT = (("b", "r"), ("r", "s", "a"), ("s", "r")), ((2, 3), (3, 4, 5), (4, 3)), ("a", "b")


@pytest.fixture
def layout():
    return Layout(NODES, SHAPES, OUT)


def test_labels_sizes_and_modes(layout):
    assert layout.shape == (5, 2)
    assert layout.bonds == ("r", "s")
    assert layout.sizes == {"a": 5, "b": 2, "r": 3, "s": 4}
    assert layout.modes == ((1,), (0,), ())
    assert layout.mode_labels == {"a", "b"}
    assert layout.meets("r") == ((0, 1), (1, 0), (2, 1))
    for label in ("a", "z"):
        with pytest.raises(ValueError, match=f"'{label}' is not a bond of this network; its bonds are"):
            layout.meets(label)


def test_places_of_labels_in_any_network():
    for make in cases.NETWORKS.values():
        layout = make(1.0).layout
        for label, meets in layout.incidence.items():
            assert all(layout.nodes[k][axis] == label for k, axis in meets)
        assert sum(map(len, layout.incidence.values())) == sum(map(len, layout.nodes))


def test_a_plan_is_made_once_and_not_shared_with_the_frozen_layout(layout):
    made = []
    for _ in range(2):
        assert layout.plan("kind", lambda: made.append(1) or len(made)) == 1
    frozen = layout.freeze([1])
    assert frozen.frozen == {1}
    assert frozen.freeze([0]).frozen == {0, 1}
    assert layout.frozen == frozenset()
    assert frozen.plan("kind", lambda: 7) == 7


def test_sizes_are_at_least_one():
    with pytest.raises(ValueError, match=r"node 0 has shape \(2, 0\); every size must be at least 1"):
        Layout((("a", "r"), ("r", "b")), ((2, 0), (0, 4)), ("a", "b"))
