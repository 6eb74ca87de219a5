"""Separation ranks of graph networks that multiply the values of neighbours, in exact arithmetic."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ranklens.nn.walk_index import Edges, adjacency, check_vertex, on_side
from ranklens.seeds import stream
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# The prime modulo which all numbers are computed: products of two numbers below it fit into 64 bits.
PRIME = 2**31 - 1


@checked
def graph_separation_rank(
    edges: Edges,
    vertices: int,
    side: Collection[int],
    *,
    depth: int,
    width: int,
    features: int = 2,
    target: int | None = None,
    points: int = 100,
    seed: int = 0,
) -> int:
    """Return the separation rank of a random product-pooling graph network over a partition, computed exactly.

    The network is that of `walk_bound`, with random weights. Its separation rank is the least number of products of a
    function of one side's features and a function of the other side's features that sum to it. Its values at all
    combinations of some points of one side and some points of the other form a matrix whose rank is at most the
    separation rank, and equals it if there are enough points in general position. All numbers are integers modulo a
    prime, so that no rounding error can change the rank. For a prime of this size and random points and weights, it is
    smaller than for real numbers with a probability of some millionths only, and never larger.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices.
        side: the vertices of one side.
        depth: number of layers, at least 1.
        width: number of entries of a hidden value.
        features: number of features of a vertex.
        target: the vertex whose value is predicted; None for a prediction for the whole graph.
        points: number of points of each side. A result of as many is only a lower bound of the rank.
        seed: seed of weights and points.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none, vertices that do not exist, or counts below 1.

    Source: Razin, Verbin, Cohen (NeurIPS 2023), the networks and their separation rank.

    >>> from ranklens.nn.walk_index import walk_bound
    >>> path, bound = [(0, 1), (1, 2)], walk_bound([(0, 1), (1, 2)], 3, [0], depth=1)
    >>> rank = graph_separation_rank(path, 3, [0], depth=1, width=2)
    >>> rank, rank <= 2**bound.exponent
    (2, True)
    """
    near = adjacency(edges, vertices)
    depth, width, features, points = (
        arguments.count(name, value)
        for name, value in (("depth", depth), ("width", width), ("features", features), ("points", points))
    )
    inside = on_side(side, vertices)
    if target is not None:
        check_vertex("target", target, vertices)
    draws = stream(seed, "product-pooling graph network")

    def drawn(*shape: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = torch.randint(1, PRIME, shape, generator=draws).numpy()
        return found

    weights = [drawn(width, features if layer == 0 else width) for layer in range(depth)]
    last, ours, theirs = drawn(width), drawn(points, vertices, features), drawn(points, vertices, features)
    both = np.where(inside[:, None], ours[:, None], theirs[None, :])
    hidden = _network(near, weights, both.reshape(-1, vertices, features))
    top = _product(hidden, range(vertices)) if target is None else hidden[:, target]
    return rank_modulo(_sum(top * last % PRIME).reshape(points, points))


def _network(near: NDArray[np.int64], weights: Sequence[NDArray[np.int64]], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the hidden values of all vertices in the last layer, modulo the prime.

    Args:
        near: the matrix of neighbours.
        weights: one matrix (entries, entries of the layer before) per layer.
        x: (batch, vertices, features) features.
    """
    for matrix in weights:
        sums = np.stack([_sum(x * row % PRIME) for row in matrix], axis=-1)
        x = np.stack([_product(sums, np.flatnonzero(row)) for row in near], axis=1)
    return x


def _sum(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum over the last axis modulo the prime."""
    found: NDArray[np.int64] = x.sum(axis=-1) % PRIME
    return found


def _product(x: NDArray[np.int64], rows: Sequence[int] | range | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the product of some vertices' values, entry by entry, modulo the prime."""
    found = np.ones_like(x[:, 0])
    for row in rows:
        found = found * x[:, row] % PRIME
    return found


def rank_modulo(matrix: NDArray[np.int64]) -> int:
    """Return the rank of a matrix of integers modulo the prime `PRIME`, by elimination.

    Args:
        matrix: a matrix of integers.

    >>> rank_modulo(np.array([[1, 2], [2, 4]])), rank_modulo(np.array([[1, 2], [2, 5]]))
    (1, 2)
    """
    left, rank = matrix % PRIME, 0
    for column in range(left.shape[1]):
        rows = np.flatnonzero(left[rank:, column])
        if not len(rows):
            continue
        pivot = rank + int(rows[0])
        left[[rank, pivot]] = left[[pivot, rank]]
        left[rank] = left[rank] * pow(int(left[rank, column]), -1, PRIME) % PRIME
        below = left[rank + 1 :]
        below -= below[:, column : column + 1] * left[rank] % PRIME
        below %= PRIME
        rank += 1
        if rank == len(left):
            break
    return rank
