"""Walks counted one by one, and the bounds of the separation rank on random graphs."""

import itertools

import numpy as np
import pytest

from ranklens.nn.product_graph import graph_separation_rank
from ranklens.nn.walk_index import adjacency, check_edges, walk_bound, walk_index, walk_indices


def graph(seed, vertices=5):
    draw = np.random.default_rng(seed)
    edges = np.argwhere(np.triu(draw.random((vertices, vertices)) < 0.5, 1))
    side = draw.permutation(vertices)[: draw.integers(1, vertices)].tolist()
    return edges if len(edges) else np.array([[0, 1]]), side


def counted(edges, vertices, side, length, target=None):
    near = {v: {v} for v in range(vertices)}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    starts = [v for v in range(vertices) if any((v in side) != (w in side) for w in near[v])]
    return sum(
        all(b in near[a] for a, b in itertools.pairwise(walk)) and (target is None or walk[-1] == target)
        for walk in itertools.product(range(vertices), repeat=length + 1)
        if walk[0] in starts
    )


@pytest.mark.parametrize("length", [0, 1, 3])
def test_walks_are_those_that_one_can_list(length):
    for seed in range(6):
        edges, side = graph(seed)
        assert walk_index(edges, 5, side, length=length) == counted(edges, 5, side, length)
        assert walk_index(edges, 5, side, length=length, target=2) == counted(edges, 5, side, length, 2)


def test_single_vertices_are_partitions_of_their_own():
    for seed in range(6):
        edges, _ = graph(seed)
        found = walk_indices(adjacency(edges, 5), 2)
        assert found.tolist() == [walk_index(edges, 5, [t], length=2, target=t) for t in range(5)]


def test_numbers_of_walks_do_not_overflow():
    clique = list(itertools.combinations(range(10), 2))
    assert walk_index(clique, 10, [0], length=40) == 10**41


@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ranks_are_within_the_bounds(depth, target):
    for seed in range(8):
        edges, side = graph(seed, 4)
        bound = walk_bound(edges, 4, side, depth=depth, target=target)
        assert bound.exponent <= bound.published
        rank = graph_separation_rank(edges, 4, side, depth=depth, width=2, target=target, points=30, seed=seed)
        assert rank <= 2**bound.exponent


def test_sides_without_an_edge_between_them_do_not_interact():
    bound = walk_bound([(0, 1), (2, 3)], 4, [0, 1], depth=3, target=0)
    assert (bound.walks, bound.exponent) == (0, 0)
    assert graph_separation_rank([(0, 1), (2, 3)], 4, [0, 1], depth=3, width=3, target=0) == 1


def test_what_is_refused():
    for edges, message in [([(0, 0)], "edge to itself"), ([(0, 1), (1, 0)], "twice"), ([(0, 9)], "there are 0 to 2")]:
        with pytest.raises(ValueError, match=message):
            check_edges(edges, 3)
    with pytest.raises(ValueError, match="rows of two"):
        check_edges([(0, 1, 2)], 3)
    with pytest.raises(TypeError, match="pairs of integers"):
        check_edges([(0.0, 1.0)], 3)
    with pytest.raises(ValueError, match="vertex 7"):
        walk_index([(0, 1)], 3, [7], length=1)
    with pytest.raises(ValueError, match="length is -1"):
        walk_index([(0, 1)], 3, [0], length=-1)
    assert len(check_edges([], 3)) == 0
