"""Exact separation ranks against literal networks, and ranks modulo a prime."""

import numpy as np
import pytest

from ranklens.nn.product_graph import PRIME, _network, graph_separation_rank, rank_modulo
from ranklens.nn.walk_index import adjacency


def test_the_network_is_the_literal_one():
    edges = [(0, 1), (1, 2), (1, 3)]
    near, draw = adjacency(edges, 4), np.random.default_rng(0)
    weights = [draw.integers(1, PRIME, (3, 2)), draw.integers(1, PRIME, (3, 3))]
    x = draw.integers(1, PRIME, (2, 4, 2))
    found = _network(near, weights, x)
    for batch in range(2):
        h = [[int(v) for v in row] for row in x[batch]]
        for matrix in weights:
            sums = [[sum(int(w) * v for w, v in zip(row, vertex, strict=True)) for row in matrix] for vertex in h]
            h = [[1] * len(matrix) for _ in range(4)]
            for i in range(4):
                for j in np.flatnonzero(near[i]):
                    h[i] = [a * b % PRIME for a, b in zip(h[i], sums[j], strict=True)]
        assert found[batch].tolist() == h


def test_ranks_modulo_a_prime_are_those_of_products():
    draw = np.random.default_rng(1)
    for rank in range(5):
        A, B = draw.integers(0, 1000, (7, rank)), draw.integers(0, 1000, (rank, 6))
        assert rank_modulo(A @ B) == rank
    assert rank_modulo(np.eye(4, dtype=np.int64) * PRIME) == 0


def test_more_width_and_depth_never_lower_the_rank():
    star = [(0, 1), (0, 2), (0, 3)]
    ranks = [graph_separation_rank(star, 4, [0, 1], depth=2, width=width, points=40) for width in (1, 2, 3)]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1 < ranks[1]
    assert graph_separation_rank(star, 4, [0, 1], depth=1, width=2, points=40) < ranks[1]


def test_what_is_refused():
    with pytest.raises(ValueError, match="vertex 5"):
        graph_separation_rank([(0, 1)], 2, [5], depth=1, width=2)
    with pytest.raises(ValueError, match="width is 0"):
        graph_separation_rank([(0, 1)], 2, [0], depth=1, width=0)
