"""Walks across a partition of a graph: how strongly a graph network of given depth can make its sides interact."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

Edges = ArrayLike


@dataclass(frozen=True)
class WalkBound:
    """Bounds of the separation rank of a product-pooling graph network over a partition, as powers of its width.

    Attributes:
        walks: the walk index of the partition, of walks one shorter than the network is deep.
        exponent: e in the bound: separation rank <= width^e. It counts the mixed values of the network, see
            `walk_bound`.
        published: the exponent of the published bound: 4 walks + 1 for the whole graph, 4 walks for one vertex.
    """

    walks: int
    exponent: int
    published: int


def check_edges(edges: Edges, vertices: int) -> NDArray[np.int64]:
    """Return the edges of an undirected graph as rows of two vertices.

    Args:
        edges: pairs of vertices, one row per edge.
        vertices: number of vertices, which are numbered from 0.

    Raises:
        TypeError: for vertices that are not integers.
        ValueError: for an array of another shape, a vertex that does not exist, a loop, or an edge that is given twice.

    >>> check_edges([(0, 1), (2, 1)], 3).tolist()
    [[0, 1], [2, 1]]
    """
    vertices = arguments.count("vertices", vertices)
    found = np.asarray(edges)
    if found.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"edges hold {found.dtype}; they must be pairs of integers")
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"edges have the shape {found.shape}; they must be rows of two vertices")
    if found.min() < 0 or found.max() >= vertices:
        raise ValueError(f"edges name vertices {found.min()} to {found.max()}; there are 0 to {vertices - 1}")
    if (found[:, 0] == found[:, 1]).any():
        loop = int(found[found[:, 0] == found[:, 1]][0, 0])
        raise ValueError(f"vertex {loop} has an edge to itself; leave it out, every vertex counts as its own neighbour")
    if len(np.unique(np.sort(found, axis=1), axis=0)) < len(found):
        raise ValueError("an edge is given twice; give each pair of neighbours once, in one of its two orders")
    return found.astype(np.int64)


def adjacency(edges: Edges, vertices: int) -> NDArray[np.int64]:
    """Return the matrix of neighbours of an undirected graph, in which every vertex is its own neighbour.

    Args:
        edges: pairs of vertices, one row per edge.
        vertices: number of vertices.

    >>> adjacency([(0, 1)], 3).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    pairs = check_edges(edges, vertices)
    found = np.eye(vertices, dtype=np.int64)
    found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = 1
    return found


@checked
def walk_index(edges: Edges, vertices: int, side: Collection[int], *, length: int, target: int | None = None) -> int:
    """Return the number of walks of a given length that start at the boundary of a partition.

    The boundary of a partition of the vertices into two sides are all vertices with a neighbour on the other side. A
    walk of length k is a sequence of k + 1 vertices, each a neighbour of the one before; every vertex is its own
    neighbour, so that a walk may stay. A graph network of depth L that predicts one value for a graph can model an
    interaction of the two sides whose strength, the logarithm of its separation rank, is in proportion to the walk
    index of length L - 1.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices.
        side: the vertices of one side.
        length: number of steps of a walk, from 0.
        target: count only walks that end at this vertex, as is right for a network that predicts a value for this
            vertex; None counts all walks.

    Returns:
        An exact whole number, of any size.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none, a vertex that does not exist, or a negative length.

    Source: Razin, Verbin, Cohen (NeurIPS 2023), definition of the walk index.

    >>> path = [(0, 1), (1, 2), (2, 3)]
    >>> walk_index(path, 4, [0, 1], length=1)  # 1 and 2 are the boundary, and have three neighbours each
    6
    >>> walk_index(path, 4, [0, 1], length=2, target=0)  # 1-0-0, 1-1-0 and 2-1-0
    3
    """
    near = adjacency(edges, vertices)
    inside = on_side(side, vertices)
    length = arguments.count("length", length, least=0)
    walks = boundary(near, inside).astype(object)
    for _ in range(length):
        walks = walks @ near.astype(object)
    return int(walks.sum() if target is None else walks[check_vertex("target", target, vertices)])


@checked
def walk_bound(
    edges: Edges, vertices: int, side: Collection[int], *, depth: int, target: int | None = None
) -> WalkBound:
    r"""Return bounds of the separation rank of a graph network that multiplies the values of neighbours.

    The network is h_i^(l) = product over neighbours j of i of W^(l) h_j^(l-1), entry by entry, from the features h^(0)
    of the vertices, with l = 1, ..., L. It returns a weighted sum of the entries of the product of all h_i^(L), or of
    h_t^(L) for a target vertex t. Every vertex is its own neighbour, and the width is the number of entries of h.

    A value h_i^(l) is *mixed* if it depends on features of both sides. Every entry of W h_j is a sum of `width` terms,
    so a mixed neighbour j multiplies the number of separable terms by the width times that of h_j, while the product
    over all other neighbours is one separable term. The logarithm of the number of terms, to the base width, therefore
    counts the mixed values below (l, i), once per way to reach them. One more factor is due to the last sum.

    Args:
        edges: pairs of vertices, one row per edge, each edge once.
        vertices: number of vertices.
        side: the vertices of one side.
        depth: number of layers L, at least 1.
        target: the vertex whose value is predicted; None for a prediction for the whole graph.

    Raises:
        TypeError: for edges that are not integers, or an argument of another type.
        ValueError: for edges that are none, a vertex that does not exist, or a depth below 1.

    Source: Razin, Verbin, Cohen (NeurIPS 2023), upper bound by the walk index; `exponent` is derived here.

    >>> walk_bound([(0, 1), (1, 2), (2, 3)], 4, [0, 1], depth=2)
    WalkBound(walks=6, exponent=7, published=25)
    """
    near = adjacency(edges, vertices)
    inside = on_side(side, vertices)
    depth = arguments.count("depth", depth)
    walks = walk_index(edges, vertices, side, length=depth - 1, target=target)
    mixed = np.zeros(vertices, dtype=bool)
    left, right = inside.copy(), ~inside
    terms = np.zeros(vertices, dtype=object)
    for _ in range(depth):
        terms = near.astype(object) @ np.where(mixed, 1 + terms, 0)
        left, right = (near @ left) > 0, (near @ right) > 0
        mixed = left & right
    if target is None:
        exponent = 1 + int(terms.sum()) if mixed.any() else int(left.any() and right.any())
        return WalkBound(walks, exponent, 4 * walks + 1)
    at = check_vertex("target", target, vertices)
    return WalkBound(walks, 1 + int(terms[at]) if mixed[at] else 0, 4 * walks)


def boundary(near: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which vertices have a neighbour on the other side.

    Args:
        near: the matrix that `adjacency` returns.
        inside: which vertices are on one side.
    """
    across = near * (inside[:, None] != inside)
    found: NDArray[np.bool_] = across.any(axis=1)
    return found


def on_side(side: Collection[int], vertices: int) -> NDArray[np.bool_]:
    """Return which vertices are on a side."""
    found = np.zeros(vertices, dtype=bool)
    for vertex in side:
        found[check_vertex("side", vertex, vertices)] = True
    return found


def check_vertex(name: str, vertex: int, vertices: int) -> int:
    """Return a vertex, after checking that it exists.

    Args:
        name: name of the argument, for the error.
        vertex: the vertex.
        vertices: number of vertices.

    Raises:
        ValueError: if there is no such vertex.
    """
    if not 0 <= vertex < vertices:
        raise ValueError(f"{name}: vertex {vertex} does not exist; the graph has vertices 0 to {vertices - 1}")
    return int(vertex)


def walk_indices(near: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return, for every vertex, the walks that end at it and start at the boundary between it and all others.

    Args:
        near: the matrix that `adjacency` returns.
        length: number of steps of a walk.

    Returns:
        (vertices,) whole numbers; 0 for a vertex without neighbours.
    """
    power = np.linalg.matrix_power(near, length)
    starts = near.astype(bool) & (near.sum(axis=1) > 1)[:, None]  # of a lonely vertex there are none
    return np.array([power[starts[t], t].sum() for t in range(len(near))], dtype=np.int64)
