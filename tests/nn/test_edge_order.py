"""Orders of removal against their definitions."""

import numpy as np
import pytest

from ranklens.nn.edge_order import random_order, resistance_order, resistances, walk_index_order
from ranklens.nn.walk_index import adjacency, walk_indices


def graph(seed, vertices):
    draw = np.random.default_rng(seed)
    edges = np.argwhere(np.triu(draw.random((vertices, vertices)) < draw.uniform(0.2, 0.8), 1))
    return draw.permutation(edges) if len(edges) else np.array([[0, 1]])


def defined(edges, vertices, length):
    """Remove, in every step, the first of the edges that leave the largest sorted walk indices."""
    near, left, order = adjacency(edges, vertices), list(range(len(edges))), []
    while left:

        def after(edge):
            less = near.copy()
            a, b = edges[edge]
            less[a, b] = less[b, a] = 0
            return sorted(walk_indices(less, length).tolist())

        best = max(left, key=after)
        left.remove(best)
        order.append(best)
        a, b = edges[best]
        near[a, b] = near[b, a] = 0
    return order


@pytest.mark.parametrize("seed", range(12))
def test_the_heap_of_degrees_gives_the_order_of_the_definition(seed):
    edges = graph(seed, 4 + seed % 5)
    assert walk_index_order(edges, 4 + seed % 5).tolist() == defined(edges, 4 + seed % 5, 1)


def test_longer_walks_are_counted():
    for seed in range(4):
        edges = graph(seed, 5)
        assert walk_index_order(edges, 5, length=2).tolist() == defined(edges, 5, 2)


def test_resistances_are_those_of_known_circuits(tolerance):
    ring = np.array([(k, (k + 1) % 5) for k in range(5)])
    np.testing.assert_allclose(resistances(ring, 5), 4 / 5, rtol=tolerance["rounding"])
    clique = np.argwhere(np.triu(np.ones((6, 6)), 1))
    np.testing.assert_allclose(resistances(clique, 6), 2 / 6, rtol=tolerance["rounding"])
    two_parts = np.array([(0, 1), (2, 3)])
    np.testing.assert_allclose(resistances(two_parts, 4), 1.0, rtol=tolerance["rounding"])


def test_all_orders_have_every_edge_once():
    edges = graph(3, 8)
    for order in (walk_index_order(edges, 8), resistance_order(edges, 8), random_order(edges, 8)):
        assert sorted(order.tolist()) == list(range(len(edges)))
    assert not np.array_equal(random_order(edges, 8, seed=0), random_order(edges, 8, seed=1))
    for order in (walk_index_order([], 3), resistance_order([], 3), random_order([], 3)):
        assert len(order) == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="length is 0"):
        walk_index_order([(0, 1)], 2, length=0)
    with pytest.raises(ValueError, match="twice"):
        random_order([(0, 1), (0, 1)], 2)
