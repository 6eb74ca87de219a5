import pytest
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl


@given(st.integers(2, 40), st.integers(2, 6), st.sampled_from(["adjacent", "distant"]))
def test_children_partition_their_parent(n, pool, pattern):
    tree = getattr(rl.ModeTree, pattern)(n, pool)
    assert tree.root == tuple(range(n))
    for node in tree.interior:
        below = sorted(mode for child in tree.children(node) for mode in child)
        assert tuple(below) == node
        assert 2 <= len(tree.children(node)) <= pool
        assert all(tree.parent(child) == node for child in tree.children(node))
    assert len(tree.nodes) == n + len(tree.interior)


def test_patterns():
    assert rl.ModeTree.adjacent(5, 2).interior == ((0, 1), (2, 3), (0, 1, 2, 3), (0, 1, 2, 3, 4))
    assert rl.ModeTree.distant(8, 2).interior[:4] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert rl.ModeTree.distant(5, 2).interior[:2] == ((0, 3), (1, 4))
    square = rl.ModeTree.square(8, 2)
    assert square.interior[0] == (0, 1, 8, 9)
    assert {len(square.children(node)) for node in square.interior} == {4}
    assert square.height == 3
    assert rl.ModeTree.square(3, 2).children(tuple(range(9)))[-1] == (8,)
    assert rl.ModeTree.adjacent(1024, 2).height == 10


def test_nested_is_the_tree_it_says():
    tree = rl.ModeTree.nested(((3, 1), (0, 2, 4)))
    assert tree.children(tree.root) == ((1, 3), (0, 2, 4))
    assert tree.parent(tree.root) is None
    assert tree.children((0,)) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.ModeTree.nested(((0, 1), (1, 2))), "mode 1 appears twice"),
        (lambda: rl.ModeTree.nested(((0, 1), (2, 4))), "mode 3 is missing"),
        (lambda: rl.ModeTree.nested(((0,), 1)), "has 1 members"),
        (lambda: rl.ModeTree.adjacent(4, 1), "pool is 1"),
        (lambda: rl.ModeTree.distant(1), "n is 1"),
        (lambda: rl.ModeTree.square(4, 0), "pool is 0"),
        (lambda: rl.ModeTree.adjacent(4).children((0, 2)), "is none of this tree"),
    ],
)
def test_bad_trees(make, message):
    with pytest.raises(ValueError, match=message):
        make()
