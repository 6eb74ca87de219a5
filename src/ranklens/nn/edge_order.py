"""Orders in which edges of a graph are removed: by the walk index, by effective resistance, and at random."""

import heapq

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import pinvh

from ranklens.nn.walk_index import Edges, adjacency, check_edges, walk_indices
from ranklens.seeds import stream
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked


@checked
def walk_index_order(edges: Edges, vertices: int, *, length: int = 1) -> NDArray[np.int64]:
    """Return the order in which edges are removed so that the walk indices of single vertices stay large.

    For a vertex t, consider walks of a given length that end at t and start at the boundary between t and all other
    vertices: their number says how strongly a network that predicts a value for t can relate t to the rest. In every
    step the edge is removed whose removal leaves the largest walk indices: they are sorted in ascending order, and the
    first that differs decides. Of equals, the first edge is removed.

    For walks of length 1, the walk index of a vertex of degree d is d + 1, or 0 without an edge. The best edge is then
    the one whose smaller degree is largest, and among these the one whose larger degree is largest. Degrees only fall,
    so the edges wait in a heap, and one whose degrees have fallen is put back when it comes to the top. This takes
    O(edges log edges) steps for all edges together. Longer walks are counted anew for every edge in every step, which
    is for small graphs.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices.
        length: length of the walks; one less than the depth of the network.

    Returns:
        (edges,) positions of the edges, first the edge that is removed first.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none, or a length below 1.

    Source: Razin, Verbin, Cohen (NeurIPS 2023), algorithms of walk index sparsification; the heap is our own.

    >>> star_with_triangle = [(0, 1), (0, 2), (0, 3), (1, 2)]
    >>> walk_index_order(star_with_triangle, 4).tolist()  # the only edge of vertex 3 is kept longest
    [0, 1, 2, 3]
    """
    pairs = check_edges(edges, vertices)
    if arguments.count("length", length) > 1:
        return _by_definition(pairs, vertices, length)
    degree = np.bincount(pairs.reshape(-1), minlength=vertices).tolist()  # lists are read faster, one number at a time
    ends = pairs.tolist()

    def key(edge: int) -> tuple[int, int, int]:
        a, b = degree[ends[edge][0]], degree[ends[edge][1]]
        return (-a, -b, edge) if a < b else (-b, -a, edge)

    waiting = [key(edge) for edge in range(len(pairs))]
    heapq.heapify(waiting)
    order = []
    while waiting:
        *_, edge = top = heapq.heappop(waiting)
        now = key(edge)
        if top != now:
            heapq.heappush(waiting, now)
            continue
        order.append(edge)
        for vertex in ends[edge]:
            degree[vertex] -= 1
    return np.array(order, dtype=np.int64)


def _by_definition(pairs: NDArray[np.int64], vertices: int, length: int) -> NDArray[np.int64]:
    """Return the order of `walk_index_order`, with all walks counted for every edge in every step."""
    near, left, order = adjacency(pairs, vertices), list(range(len(pairs))), []
    while left:
        found = []
        for edge in left:
            a, b = pairs[edge]
            near[a, b] = near[b, a] = 0
            found.append((*sorted(walk_indices(near, length)), -edge))
            near[a, b] = near[b, a] = 1
        edge = -int(max(found)[-1])
        left.remove(edge)
        order.append(edge)
        a, b = pairs[edge]
        near[a, b] = near[b, a] = 0
    return np.array(order, dtype=np.int64)


@checked
def resistance_order(edges: Edges, vertices: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return a random order of removal in which edges of large effective resistance tend to stay.

    The effective resistance of an edge (i, j) is (e_i - e_j)^T L^+ (e_i - e_j) with the Laplacian L of the graph. It is
    the probability that the edge is in a random spanning tree. Sampling edges in proportion to it keeps the spectrum of
    the graph. Here edges are drawn one after another without replacement; those drawn last are removed first.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices. The pseudo-inverse of a matrix of this size is computed.
        seed: seed of the draws.

    Returns:
        (edges,) positions of the edges, first the edge that is removed first.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none.

    Source: Spielman and Srivastava (2011), sparsification by effective resistances.

    >>> path_and_clique = [(0, 1), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    >>> orders = [resistance_order(path_and_clique, 5, seed=seed).tolist() for seed in range(40)]
    >>> sum(order.index(0) for order in orders) / 40 > 3.5  # the bridge stays longer than the average edge
    True
    """
    pairs = check_edges(edges, vertices)
    if not len(pairs):
        return np.zeros(0, dtype=np.int64)
    exponential = -np.log(_uniform(len(pairs), seed, "order by resistance"))
    order: NDArray[np.int64] = np.argsort(-exponential / resistances(pairs, vertices), kind="stable")
    return order


def resistances(pairs: NDArray[np.int64], vertices: int) -> NDArray[np.float64]:
    """Return the effective resistance of every edge, between 0 and 1.

    Args:
        pairs: (edges, 2) pairs of vertices.
        vertices: number of vertices.
    """
    near = adjacency(pairs, vertices) - np.eye(vertices)
    inverse = pinvh(np.diag(near.sum(axis=1)) - near)
    a, b = pairs.T
    found: NDArray[np.float64] = inverse[a, a] + inverse[b, b] - 2 * inverse[a, b]
    return found


@checked
def random_order(edges: Edges, vertices: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the edges of a graph in a random order.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices.
        seed: seed of the order.

    Returns:
        (edges,) positions of the edges, first the edge that is removed first.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none.

    >>> sorted(random_order([(0, 1), (1, 2), (0, 2)], 3).tolist())
    [0, 1, 2]
    """
    found: NDArray[np.int64] = np.argsort(_uniform(len(check_edges(edges, vertices)), seed, "random order"))
    return found


def _uniform(count: int, seed: int, name: str) -> NDArray[np.float64]:
    """Return random numbers between 0 and 1, without 0.

    Args:
        count: how many.
        seed: seed of the stream.
        name: name of the stream.
    """
    drawn = torch.rand(count, generator=stream(seed, name), dtype=torch.float64)
    return 1.0 - drawn.numpy()
