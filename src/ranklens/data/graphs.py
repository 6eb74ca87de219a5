"""Generated graphs whose vertices are to be classified: their own features say little, those of neighbours say more."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor

from ranklens.seeds import derive
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# Largest standard deviation of the logarithm of the popularity: beyond it, popularities exceed the range of float64.
MOST_SPREAD = 100.0


@dataclass(frozen=True)
class VertexTask:
    """A graph with features and a class for every vertex.

    Attributes:
        features: (vertices, features) float32 features: the mean of the class, and noise.
        labels: (vertices,) classes.
        edges: (edges, 2) pairs of vertices, each edge once.
        train: row numbers of the vertices whose classes are for training.
        validation: row numbers of the vertices for choosing when to stop.
        test: row numbers of all other vertices.
    """

    features: Float32[Tensor, "vertices features"]
    labels: Int64[Tensor, " vertices"]
    edges: NDArray[np.int64]
    train: Int64[Tensor, " train"]
    validation: Int64[Tensor, " validation"]
    test: Int64[Tensor, " test"]


@checked
def vertex_task(
    vertices: int = 600,
    classes: int = 4,
    *,
    degree: float = 10.0,
    same: float = 0.85,
    spread: float = 1.0,
    features: int = 16,
    signal: float = 1.0,
    shares: tuple[float, float] = (0.5, 0.2),
    seed: int = 0,
) -> VertexTask:
    """Return a random graph of communities, with noisy features, in which degrees differ much.

    Every edge joins two vertices, each drawn in proportion to its popularity, a log-normal number; with probability
    `same` the second one is drawn from the class of the first. Features are the mean of the class, a Gaussian vector of
    norm `signal`, and standard normal noise. A vertex of high degree is easy to classify from its neighbours, and one
    of low degree depends on each of them.

    Args:
        vertices: number of vertices.
        classes: number of classes, which are equally frequent.
        degree: mean number of neighbours.
        same: share of edges whose second vertex is drawn from the class of the first.
        spread: standard deviation of the logarithm of the popularity, at most 100.
        features: number of features of a vertex.
        signal: norm of the mean of a class.
        shares: shares of the vertices for training and for validation; all others are for the test.
        seed: seed of everything.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for counts below 1, numbers that are no shares, or more edges than half of all pairs.

    >>> task = vertex_task(200, 4, seed=1)
    >>> len(task.edges), [len(rows) for rows in (task.train, task.validation, task.test)]
    (1000, [100, 40, 60])
    >>> agree = task.labels[task.edges[:, 0]] == task.labels[task.edges[:, 1]]
    >>> 0.8 < float(agree.float().mean()) < 0.95  # 85% by choice, and some of the others by chance
    True
    """
    vertices, classes = arguments.count("vertices", vertices, least=2), arguments.count("classes", classes)
    same = arguments.number("same", same, least=0, most=1)
    count = round(vertices * arguments.number("degree", degree, above=0) / 2)
    if count > vertices * (vertices - 1) // 4:
        raise ValueError(f"degree is {degree}; {count} edges are over half of all pairs of {vertices} vertices")
    if min(shares) <= 0 or sum(shares) >= 1:
        raise ValueError(f"shares is {shares}; give two positive shares whose sum is below 1")
    draw = default_rng(derive(seed, "vertex task"))
    labels = draw.permutation(np.arange(vertices) % classes)
    popularity = np.exp(arguments.number("spread", spread, least=0, most=MOST_SPREAD) * draw.normal(size=vertices))
    edges: dict[tuple[int, int], None] = {}
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    while len(edges) < count:
        for first in draw.choice(vertices, size=count, p=popularity / popularity.sum()):
            pool = members[labels[first]] if draw.random() < same else np.arange(vertices)
            second = int(draw.choice(pool, p=popularity[pool] / popularity[pool].sum()))
            if first != second and len(edges) < count:
                edges[min(int(first), second), max(int(first), second)] = None
    means = draw.normal(size=(classes, arguments.count("features", features)))
    means *= arguments.number("signal", signal, least=0) / np.linalg.norm(means, axis=1, keepdims=True)
    values = means[labels] + draw.normal(size=(vertices, features))
    order = torch.from_numpy(draw.permutation(vertices))
    first, second = (round(share * vertices) for share in (shares[0], sum(shares)))
    return VertexTask(
        torch.from_numpy(values).float(),
        torch.from_numpy(labels),
        np.array(list(edges), dtype=np.int64),
        order[:first],
        order[first:second],
        order[second:],
    )
