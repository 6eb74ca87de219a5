"""Graph networks: the walk index of a partition bounds how its sides interact, and says which edges can be removed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ranklens import data, drawing
from ranklens.data.graphs import VertexTask, vertex_task
from ranklens.nn.edge_order import random_order, resistance_order, walk_index_order
from ranklens.nn.product_graph import graph_separation_rank
from ranklens.nn.walk_index import adjacency, walk_bound
from ranklens.seeds import derive, stream
from ranklens.studies.kit import reduce, sources
from ranklens.studies.kit.claim import Claim, exactness, finding, theorem
from ranklens.training.loop import train

TITLE = "The rank of a graph network over a partition is bounded by walks, and these say which edges to keep"
EXPLANATION = (
    "The separation rank of a graph network over a partition of the vertices measures how strongly it can make the two "
    "sides interact. For networks that multiply the values of neighbours it is bounded by the number of walks from the "
    "boundary of the partition. Removing the edges that lower the fewest walks keeps the accuracy of a usual graph "
    "network longer than removing edges at random or by effective resistance."
)
SOURCE = "Razin, Verbin, Cohen (NeurIPS 2023), theorems, experiment with pairs of images, and edge removal"


@dataclass(frozen=True)
class Settings:
    """Random small graphs for the bound, a generated task on vertices, and pairs of digits on two cliques.

    Attributes:
        graphs: number of random graphs on which the bound is checked.
        largest: largest number of vertices of these graphs.
        points: number of points of each side that the separation rank is computed from.
        vertices: number of vertices of the generated task.
        ratios: shares of edges that are kept, from 1 downwards.
        hidden: width of the graph network of the generated task.
        steps: steps of training on the generated task.
        pairs: number of pairs of digits for training, and for the test.
        few: shares of edges that are kept in the experiment with pairs, with both images mixed; none by default.
        width: width of the graph network for pairs.
        pair_steps: steps of training on pairs.
        rate: learning rate of Adam on the generated task.
        pair_rate: learning rate of Adam on pairs.
        seeds: seeds of the repetitions: of the task, of random orders and of initial weights.
    """

    graphs: int = 200
    largest: int = 6
    points: int = 60
    vertices: int = 600
    ratios: tuple[float, ...] = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    hidden: int = 32
    steps: int = 100
    pairs: int = 1000
    few: tuple[float, ...] = ()
    width: int = 16
    pair_steps: int = 100
    rate: float = 0.01
    pair_rate: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "laptop": Settings(),
    "paper": Settings(
        vertices=2700,
        hidden=64,
        steps=1000,
        pairs=10_000,
        few=(0.3, 0.1),
        pair_steps=10_000,
        rate=0.005,
        pair_rate=0.005,
    ),
    "tiny": Settings(
        graphs=12,
        largest=4,
        points=20,
        vertices=60,
        ratios=(1.0, 0.5, 0.0),
        hidden=8,
        steps=5,
        pairs=20,
        few=(0.5,),
        width=4,
        pair_steps=3,
        seeds=(0,),
    ),
}
MINUTES = {"laptop": 1.0, "paper": 60.0, "tiny": 0.03}
# Orders in which edges are removed.
ORDERS = ("walks", "resistance", "random")
# Arrangements of two images on two cliques of vertices that one edge joins.
ARRANGEMENTS = ("apart", "mixed")
# Vertices per image: squares of 2 x 2 pixels of an image of 8 x 8.
PATCHES = 16
# Difference of training accuracies from which on one arrangement counts as better.
DIFFERENT = 0.02
# Layers of the graph networks.
DEPTH = 3
# Weight decay of the networks, and steps from one look at the validation set to the next.
DECAY, LOOK = 1e-3, 10
# Share of the accuracy with all edges that counts as kept.
KEPT = 0.95
# Largest number of vertices on which the order by the heap is compared with the definition.
SMALL = 9


def run(settings: Settings) -> xr.Dataset:
    """Return the bound on random graphs, the order of removal against its definition, and accuracies by edges kept."""
    parts = [_bounds(settings)]
    repeated = [xr.merge([_vertices(settings, seed), _pairs(settings, seed), _orders(seed)]) for seed in settings.seeds]
    parts.append(xr.concat(repeated, dim="seed").assign_coords(seed=list(settings.seeds)))
    return xr.merge(parts)


def random_graph(largest: int, seed: int) -> tuple[NDArray[np.int64], int, list[int]]:
    """Return a random graph with at least one edge, its number of vertices, and one side of a random partition.

    Args:
        largest: largest number of vertices; there are at least 3.
        seed: seed of the graph.
    """
    draw = default_rng(derive(seed, "random graph"))
    vertices = int(draw.integers(3, largest + 1))
    pairs = np.argwhere(np.triu(draw.random((vertices, vertices)) < draw.uniform(0.3, 0.9), 1))
    pairs = pairs if len(pairs) else np.array([[0, 1]])
    size = int(draw.integers(1, vertices))
    return pairs, vertices, sorted(draw.permutation(vertices)[:size].tolist())


def _bounds(settings: Settings) -> xr.Dataset:
    """Return the separation rank and its bound, as logarithms to the base of the width, for every random graph.

    `used` and `used_published` are the logarithm of the rank divided by the exponent of a bound. For an exponent of 0
    they are 1 plus the logarithm, which must be 0.
    """
    rows = []
    for graph in range(settings.graphs):
        edges, vertices, side = random_graph(settings.largest, graph)
        depth, width, target = 1 + graph % 3, 2 + graph // 3 % 2, None if graph % 2 else side[0]
        bound = walk_bound(edges, vertices, side, depth=depth, target=target)
        rank = graph_separation_rank(
            edges, vertices, side, depth=depth, width=width, target=target, points=settings.points, seed=graph
        )
        log_rank = math.log(rank, width)
        used = [log_rank / most if most else 1 + log_rank for most in (bound.exponent, bound.published)]
        rows.append((log_rank, bound.exponent, *used, rank < settings.points))
    names = ("log_rank", "exponent", "used", "used_published", "reached")
    columns = dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))
    reached = columns.pop("reached").astype(np.int64)  # whether the points suffice, which is no measurement
    return xr.Dataset({"reached": ("graph", reached)} | {name: ("graph", column) for name, column in columns.items()})


def _orders(seed: int) -> xr.Dataset:
    """Return the share of positions at which the order by the heap differs from the order by counting all walks."""
    edges, vertices, _ = random_graph(SMALL, derive(seed, "order"))
    near, left, literal = adjacency(edges, vertices), list(range(len(edges))), []
    while left:
        found = []
        for edge in left:
            degrees = near.sum(axis=1) - 1
            degrees[edges[edge]] -= 1
            found.append((*sorted(d + 1 if d > 0 else 0 for d in degrees), -edge))
        best = -int(max(found)[-1])
        a, b = edges[best]
        near[a, b] = near[b, a] = 0
        left.remove(best)
        literal.append(best)
    return xr.Dataset({"order_off": float((walk_index_order(edges, vertices) != np.array(literal)).mean())})


def removed(edges: NDArray[np.int64], vertices: int, seed: int) -> Mapping[str, NDArray[np.int64]]:
    """Return the positions of the edges in each of the orders of removal.

    Args:
        edges: pairs of vertices.
        vertices: number of vertices.
        seed: seed of the random orders.
    """
    return {
        "walks": walk_index_order(edges, vertices),
        "resistance": resistance_order(edges, vertices, seed=seed),
        "random": random_order(edges, vertices, seed=seed),
    }


def left_after(edges: NDArray[np.int64], order: NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """Return the edges that are left when only a share of them is kept.

    Args:
        edges: pairs of vertices.
        order: positions of the edges, first the one that is removed first.
        ratio: the share that is kept.
    """
    return edges[np.sort(order[len(edges) - round(ratio * len(edges)) :])]


def _vertices(settings: Settings, seed: int) -> xr.Dataset:
    """Return the test accuracy on the generated task by order and share of edges kept, and the shares at 95% of it."""
    task = vertex_task(settings.vertices, seed=seed)
    orders = removed(task.edges, settings.vertices, seed)
    graphs = [left_after(task.edges, orders[name], ratio) for name in ORDERS for ratio in settings.ratios]
    different = {graph.tobytes(): graph for graph in graphs}  # all orders begin with all edges, and end with none
    found = dict(zip(different, _classify(settings, task, list(different.values()), seed), strict=True))
    accuracy = np.array([found[graph.tobytes()] for graph in graphs]).reshape(len(ORDERS), -1)
    return xr.Dataset(
        {
            "accuracy": (("order", "ratio"), accuracy),
            "needed": ("order", np.array([needed(settings.ratios, row) for row in accuracy])),
        },
        coords={"order": list(ORDERS), "ratio": list(settings.ratios)},
    )


def needed(ratios: tuple[float, ...], accuracy: NDArray[np.float64]) -> float:
    """Return the least share of edges down to which an accuracy stays above 95% of the accuracy with all edges.

    Args:
        ratios: shares of edges, from 1 downwards.
        accuracy: the accuracy at each. Between two shares it is interpolated.

    >>> round(needed((1.0, 0.5, 0.0), np.array([1.0, 1.0, 0.9])), 3)
    0.25
    """
    if np.isnan(accuracy).any():
        return math.nan
    goal = KEPT * accuracy[0]
    below = np.flatnonzero(accuracy < goal)
    if not len(below):
        return float(ratios[-1])
    k = int(below[0])
    part = (accuracy[k - 1] - goal) / (accuracy[k - 1] - accuracy[k])
    return float(ratios[k - 1] + part * (ratios[k] - ratios[k - 1]))


def spread(edges: NDArray[np.int64], vertices: int) -> Tensor:
    """Return the matrix D^(-1/2) (A + I) D^(-1/2) of a graph convolution, with the degrees D of A + I.

    Args:
        edges: pairs of vertices.
        vertices: number of vertices.
    """
    near = torch.from_numpy(adjacency(edges, vertices)).float()
    scale = near.sum(dim=1).rsqrt()
    return scale[:, None] * near * scale


def _classify(settings: Settings, task: VertexTask, graphs: list[NDArray[np.int64]], seed: int) -> NDArray[np.float64]:
    """Return the test accuracy of a graph convolutional network on every graph; all networks are trained at once.

    Each network has three layers, normalized between them, and weights of its own; all begin with equal weights. The
    test accuracy is taken where the validation accuracy is highest.
    """
    near = _together(graphs, settings.vertices)
    many, classes = len(graphs), int(task.labels.max()) + 1
    sizes = [task.features.shape[1], settings.hidden, settings.hidden, classes]
    weights = _weights(sizes, many, seed)
    best, test = torch.full((many,), -1.0), torch.zeros(many)

    def output() -> Tensor:
        h = task.features.expand(many, -1, -1)
        for k, weight in enumerate(weights):
            h = torch.sparse.mm(near, (h @ weight).flatten(0, 1)).unflatten(0, (many, -1))
            if k < DEPTH - 1:
                h = torch.relu(functional.layer_norm(h, h.shape[-1:]))
        return h

    def loss(_: object) -> Tensor:
        rows = output()[:, task.train].flatten(0, 1)
        return functional.cross_entropy(rows, task.labels[task.train].repeat(many)) * many

    def look(_: int) -> None:
        nonlocal best, test
        with torch.no_grad():
            right = (output().argmax(dim=-1) == task.labels).float()
        now = right[:, task.validation].mean(dim=1)
        test = torch.where(now > best, right[:, task.test].mean(dim=1), test)
        best = torch.maximum(best, now)

    optimizer = torch.optim.Adam(weights, lr=settings.rate, weight_decay=DECAY)
    train(loss, optimizer, steps=settings.steps, watch=look, every=LOOK)
    return test.double().numpy()


def _together(graphs: list[NDArray[np.int64]], vertices: int) -> Tensor:
    """Return the graph convolutions of several graphs of equally many vertices as one sparse matrix of blocks."""
    places, values = [], []
    for k, edges in enumerate(graphs):
        block = spread(edges, vertices).to_sparse()
        places.append(block.indices() + k * vertices)
        values.append(block.values())
    size = (len(graphs) * vertices,) * 2
    return torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(values), size, check_invariants=True).coalesce()


def _weights(sizes: list[int], many: int, seed: int) -> list[Tensor]:
    """Return initial weights of several networks, which are equal: one tensor (networks, in, out) per layer."""
    draws = stream(seed, "weights of graph networks")
    return [
        (torch.randn(1, a, b, generator=draws) * math.sqrt(2 / (a + b))).repeat(many, 1, 1).requires_grad_()
        for a, b in pairwise(sizes)
    ]


def cliques() -> NDArray[np.int64]:
    """Return the edges of two cliques of `PATCHES` vertices, which one edge joins."""
    first = np.array(np.triu_indices(PATCHES, 1)).T
    return np.concatenate([first, first + PATCHES, [[0, PATCHES]]])


def side_of(arrangement: str) -> list[int]:
    """Return the vertices that show the first image.

    Args:
        arrangement: "apart", each image on a clique of its own; "mixed", half of each image on each clique.
    """
    if arrangement == "apart":
        return list(range(PATCHES))
    return [*range(0, PATCHES, 2), *range(PATCHES + 1, 2 * PATCHES, 2)]


def _pairs(settings: Settings, seed: int) -> xr.Dataset:
    """Return accuracies on pairs of digits by arrangement, and for the mixed one with few edges by order."""
    edges, vertices = cliques(), 2 * PATCHES
    orders = removed(edges, vertices, seed)
    less = [left_after(edges, orders[name], ratio) for name in ORDERS for ratio in settings.few]
    graphs = torch.stack([spread(kept, vertices) for kept in [edges, edges, *less]])
    arranged = [*ARRANGEMENTS, *(ARRANGEMENTS[1] for _ in less)]
    digits = data.images("digits")
    fit, test = (
        data.same_class(part, settings.pairs, distance=0, canvas=(8, 16), like=None, seed=derive(seed, name))
        for part, name in ((digits.train, "train"), (digits.test, "test"))
    )
    found = _compare(
        settings, graphs, [_placed(pairs, arranged) for pairs in (fit, test)], (fit.labels, test.labels), seed
    )
    walks = [walk_bound(edges, vertices, side_of(name), depth=DEPTH).walks for name in ARRANGEMENTS]
    shape = (len(ORDERS), len(settings.few))
    return xr.Dataset(
        {
            "pair_train": ("arrangement", found[0, :2]),
            "pair_test": ("arrangement", found[1, :2]),
            "few_train": (("order", "few"), found[0, 2:].reshape(shape)),
            "pair_walks": ("arrangement", np.array(walks)),
        },
        coords={"arrangement": list(ARRANGEMENTS), "order": list(ORDERS), "few": list(settings.few)},
    )


def _placed(pairs: data.SameClass, arranged: list[str]) -> Tensor:
    """Return the patches of both images on the vertices: (arrangements, pairs, vertices, pixels of a patch)."""
    images = pairs.images[:, 0].unflatten(2, (4, 2)).unflatten(1, (4, 2)).transpose(2, 3).reshape(-1, PATCHES, 4)
    first, second = images[pairs.pairs[:, 0]], images[pairs.pairs[:, 1]]
    found = []
    for name in arranged:
        side = side_of(name)
        x = torch.empty(len(pairs), 2 * PATCHES, 4)
        x[:, side] = first
        x[:, [k for k in range(2 * PATCHES) if k not in side]] = second
        found.append(x)
    return torch.stack(found)


def _compare(
    settings: Settings, graphs: Tensor, x: list[Tensor], labels: tuple[Tensor, Tensor], seed: int
) -> NDArray[np.float64]:
    """Return (2, networks) accuracies on training and test pairs of graph networks that say whether classes are equal.

    Args:
        settings: width, steps and learning rate.
        graphs: (networks, vertices, vertices) graph convolutions.
        x: features for training and for the test, each (networks, pairs, vertices, features).
        labels: whether the classes are equal.
        seed: seed of the initial weights.
    """
    many = len(graphs)
    weights = _weights([x[0].shape[-1], *[settings.width] * DEPTH, 1], many, seed)

    def output(values: Tensor) -> Tensor:
        h = values
        for weight in weights[:-1]:
            h = graphs[:, None] @ (h @ weight[:, None])
            h = torch.relu(functional.layer_norm(h, h.shape[-1:]))
        return (h.mean(dim=2) @ weights[-1]).squeeze(-1)

    def loss(_: object) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output(x[0]), labels[0].float().expand(many, -1)) * many

    train(loss, torch.optim.Adam(weights, lr=settings.pair_rate), steps=settings.pair_steps)
    with torch.no_grad():
        right = [
            ((output(values) > 0) == (wanted == 1)).double().mean(1) for values, wanted in zip(x, labels, strict=True)
        ]
    return torch.stack(right).numpy()


def claims(record: xr.Dataset) -> list[Claim]:
    """Return the claims: the bounds, the order, the edges kept on the generated task, and the pairs of images."""
    return [*_theory(record), *_kept(record), *_images(record)]


def _theory(record: xr.Dataset) -> list[Claim]:
    """Return the claims on the bounds of the separation rank and on the order of removal."""
    graphs = reduce.count(record.sizes["graph"], "random graph")
    reached = record.reached.values == 1
    return [
        theorem(
            "The separation rank of a product-pooling graph network is at most its width to the power 4 w + 1 (4 w for "
            "a single vertex), with the walk index w of the partition for walks one shorter than the depth: logarithm "
            f"of the rank to the base of the width, computed exactly, divided by this exponent, largest of {graphs}",
            reduce.largest(record.used_published),
            at_most=1 + 1e-9,
            source=sources.WALK_INDEX,
        ),
        theorem(
            "It is also at most the width to the power of the number of mixed values, counted once per way to reach "
            f"them: logarithm of the rank divided by this number, largest of {graphs}",
            reduce.largest(record.used),
            at_most=1 + 1e-9,
            source=sources.OWN_DERIVATION,
        ),
        exactness(
            "The order of removal by a heap of degrees is the order by its definition, for which the walks of all "
            f"vertices are counted without each edge in each step: share of positions that differ, largest of "
            f"{reduce.count(record.seed, 'graph')}",
            reduce.largest(record.order_off),
            at_most=0.0,
            source=sources.WALK_INDEX,
        ),
        finding(
            "The number of mixed values says how large the rank is: correlation between it and the logarithm of the "
            f"rank, over the {int(reached.sum())} graphs whose rank is below the number of points that it is computed "
            "from",
            _correlation(record.log_rank.values[reached], record.exponent.values[reached]),
            at_least=0.7,
            source=sources.OWN_EXPERIMENT,
        ),
    ]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the correlation of two lists of numbers; NaN if one is constant or contains NaN."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _kept(record: xr.Dataset) -> list[Claim]:
    """Return the findings on the share of edges that 95% of the accuracy needs."""
    many = reduce.count(record.seed, "repetition")
    shares = {name: record.needed.sel(order=name).values for name in ORDERS}
    return [
        finding(
            "Generated task on vertices: a graph network keeps 95% of its accuracy with fewer edges if they are "
            f"removed by the walk index than {words}: difference between the shares of edges needed, median of {many}",
            reduce.median(shares[other] - shares["walks"]),
            at_least=bound,
            source=sources.WALK_INDEX,
        )
        for other, words, bound in (("random", "at random", 0.2), ("resistance", "by effective resistance", 0.05))
    ]


def _images(record: xr.Dataset) -> list[Claim]:
    """Return the findings on pairs of images."""
    many = reduce.count(record.seed, "repetition")
    apart, mixed = (record.pair_train.sel(arrangement=name).values for name in ARRANGEMENTS)
    found = [
        finding(
            "Pairs of digits on two cliques joined by one edge: a graph network fits whether both are of one class "
            "better if half of each image is on each clique, a partition of large walk index, than if each image has "
            f"a clique of its own: difference in training accuracy, median of {many}",
            reduce.median(mixed - apart),
            at_least=DIFFERENT,
            source=sources.WALK_INDEX,
        )
    ]
    if record.sizes["few"]:
        few = record.few_train.mean("few", skipna=False)
        found.append(
            finding(
                "With few of the edges of the mixed cliques, removal by the walk index keeps more training accuracy "
                f"than removal at random: difference, mean over shares of edges, median of {many}",
                reduce.median(few.sel(order="walks").values - few.sel(order="random").values),
                at_least=0.0,
                source=sources.OWN_EXPERIMENT,
            )
        )
    return found


def draw(record: xr.Dataset) -> Figure:
    """Return the figure: ranks and their bound, accuracy by edges kept, and training accuracy on pairs of images."""
    made, (bound, kept, pairs) = drawing.figure(3)
    _draw_bound(bound, record)
    for k, name in enumerate(ORDERS):
        values = record.accuracy.sel(order=name)
        kept.plot(
            record.ratio,
            values.median("seed"),
            label=f"removed by {name}" if name != "random" else "removed at random",
            **drawing.style(k),
        )
        kept.fill_between(record.ratio, values.min("seed"), values.max("seed"), color=drawing.COLOURS[k], alpha=0.15)
    kept.legend(fontsize=8, loc="lower right")
    drawing.label(kept, "Vertices: edges removed", "share of the edges that is kept", "test accuracy")
    drawing.note(kept, "by walks: few edges suffice", 0.97, 0.32)
    walks = record.pair_walks.isel(seed=0).values
    for k, name in enumerate(ARRANGEMENTS):
        values = record.pair_train.sel(arrangement=name).values
        pairs.bar(k, np.median(values), width=0.6, color=drawing.COLOURS[k])
        pairs.plot(np.full(len(values), k), values, ".", color="#000000")
    pairs.set_xticks([0, 1], [f"{name}:\n{count:,.0f} walks" for name, count in zip(ARRANGEMENTS, walks, strict=True)])
    pairs.set_ylim(0.5, 1.0)
    drawing.label(pairs, "Pairs of digits", "the two images on two cliques", "training accuracy")
    if abs(float(record.pair_train.median("seed").diff("arrangement").item())) < DIFFERENT:
        drawing.note(pairs, "hardly any difference", 0.5, 0.6)
    return made


def _draw_bound(axes: Axes, record: xr.Dataset) -> None:
    """Draw the logarithms of the ranks of all random graphs against the exponents of their bounds."""
    reached = record.reached.values == 1
    axes.plot(record.exponent[reached], record.log_rank[reached], ".", color=drawing.COLOURS[0], label="rank")
    axes.plot(
        record.exponent[~reached],
        record.log_rank[~reached],
        "^",
        markersize=4,
        color=drawing.COLOURS[1],
        label="at least this",
    )
    end = float(record.exponent.max())
    top = 1.15 * float(record.log_rank.max()) + 0.5
    axes.plot([0, top], [0, top], **drawing.THEORY, label="bound")
    axes.set_xlim(-0.5, min(end, 4 * top) + 1)
    axes.set_ylim(-0.3, top)
    drawing.note(axes, "every rank: below the bound", 0.98, 0.88)
    axes.legend(fontsize=8, loc="lower right")
    drawing.label(
        axes, "Rank and its bound", "exponent of the bound: mixed values", "log(separation rank) / log(width)"
    )


def alt(record: xr.Dataset) -> str:
    """Return a description of the figure in words."""
    shares = "; ".join(f"{name}: {float(record.needed.sel(order=name).median()):.0%}" for name in ORDERS)
    apart, mixed = (float(record.pair_train.sel(arrangement=name).median()) for name in ARRANGEMENTS)
    return (
        "Left: the logarithms of all separation ranks lie on or below the line of the bound. Middle: test accuracy "
        "stays longest if edges are removed by the walk index; the shares of edges that 95% of the accuracy needs are "
        f"{shares}. Right: training accuracy on pairs of digits is {apart:.0%} with each image on a clique of its own, "
        f"{mixed:.0%} with both images mixed."
    )
