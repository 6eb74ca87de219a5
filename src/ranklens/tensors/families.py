"""The families of the talk and their neighbours: each writes labels and shapes, and is a TensorNetwork.

All draw their nodes from N(0, std^2). Modes are labelled 0 .. N-1.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import torch

from ranklens import seeds
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.trees import ModeTree

LARGEST_DEFAULT = 2**26


def deep_matrix(
    shape: Sequence[int],
    depth: int = 2,
    width: int | Sequence[int] | None = None,
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A matrix as a product of `depth` matrices, W = W_L ... W_1; `nodes[0]` is W_L. A linear neural network.

    Args:
        shape: (rows, columns).
        depth: L >= 1, the number of factors.
        width: size(s) of the L - 1 bonds; None takes min(shape), so that rank is never limited.
        std: standard deviation of every entry of every factor.
        seed: of the initial values.
        dtype: floating-point type.
        device: where the nodes live.

    Returns:
        The network, with bonds "r1" .. "r{L-1}".

    Raises:
        ValueError: for sizes below one, or too many parameters by default.

    Source: Razin and Cohen (NeurIPS 2020), section 2.

    >>> import ranklens as rl
    >>> net = rl.deep_matrix((3, 4), depth=3)
    >>> [tuple(node.shape) for node in net.nodes]
    [(3, 3), (3, 3), (3, 4)]
    """
    rows, columns = _sizes(shape, order=2)
    depth = _positive("depth", depth)
    widths = _per_bond("width", min(rows, columns) if width is None else width, depth - 1)
    bonds = [f"r{k}" for k in range(1, depth)]
    path = [0, *bonds, 1]
    sizes = [rows, *widths, columns]
    labels = [(path[k], path[k + 1]) for k in range(depth)]
    shapes = [(sizes[k], sizes[k + 1]) for k in range(depth)]
    return _build(labels, shapes, 2, std, seed, dtype, device, default="width" if width is None else None)


def cp(
    shape: Sequence[int],
    rank: int | None = None,
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A sum of `rank` outer products (CP; the talk's tensor factorization): a shallow convolutional circuit.

    Args:
        shape: sizes of the N modes.
        rank: number of components; None takes the product of all sizes but the largest, which every tensor's rank
            is at most, so that rank is never limited.
        std: standard deviation of every entry.
        seed: of the initial values.
        dtype: floating-point type.
        device: where the nodes live.

    Returns:
        The network, with the one bond "r" of order N.

    Raises:
        ValueError: for sizes below one, or too many parameters by default.

    Source: Razin, Maman, Cohen (ICML 2021), section 3.

    >>> import ranklens as rl
    >>> rl.cp((16, 16, 16)).equation, rl.cp((16, 16, 16)).component_norms("r").shape
    ('ar,br,cr->abc', torch.Size([256]))
    """
    shape = _sizes(shape)
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has a single mode; components join at least two")
    size = math.prod(shape) // max(shape) if rank is None else _positive("rank", rank)
    labels = [(n, "r") for n in range(len(shape))]
    shapes = [(d, size) for d in shape]
    return _build(labels, shapes, len(shape), std, seed, dtype, device, default="rank" if rank is None else None)


def hierarchical(
    shape: Sequence[int],
    width: int | Mapping[tuple[int, ...], int] | None = None,
    tree: ModeTree | None = None,
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A hierarchical tensor factorization along a tree of modes: a deep convolutional circuit.

    Every interior tree node v has a bond of size R_v, which joins the weights of its children (by their columns) and
    its own (by their rows), so its order is the number of children plus one.

    Args:
        shape: sizes of the N modes.
        width: R_v for all interior tree nodes, or one per node as {modes of the node: width}; None takes at each
            node the product of what its children and itself can span (the smaller of the sizes below and elsewhere),
            but for the largest, so that rank is never limited.
        tree: how modes are grouped; None is binary, adjacent modes first.
        std: standard deviation of every entry.
        seed: of the initial values.
        dtype: floating-point type.
        device: where the nodes live.

    Returns:
        The network; a bond is labelled by its tree node, the sorted modes below it. Nodes: leaves, then interior
        tree nodes upwards, the root's weights last.

    Raises:
        ValueError: for sizes below one, a tree of other modes, a width for a tree node that does not exist, or too
            many parameters by default.

    Source: Razin, Maman, Cohen (ICML 2022), section 3.

    >>> import ranklens as rl
    >>> net = rl.hierarchical((8, 8, 8, 8), width=512)
    >>> net.bonds, net.order((0, 1, 2, 3))
    (((0, 1), (2, 3), (0, 1, 2, 3)), 3)
    """
    shape = _sizes(shape)
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has a single mode; a tree joins at least two")
    tree = ModeTree.adjacent(len(shape), 2) if tree is None else tree
    if tree.order != len(shape):
        raise ValueError(f"the tree has modes 0 to {tree.order - 1}, but shape {shape} has {len(shape)} modes")
    widths = _widths(tree, shape, width)
    labels: list[tuple[Hashable, ...]] = [(n, tree.parent((n,))) for n in range(len(shape))]
    shapes: list[tuple[int, ...]] = [(d, widths[tree.parent((n,))]) for n, d in enumerate(shape)]  # type: ignore[index]
    for node in tree.interior:
        parent = tree.parent(node)
        labels.append((node,) if parent is None else (node, parent))
        shapes.append((widths[node],) if parent is None else (widths[node], widths[parent]))
    return _build(labels, shapes, len(shape), std, seed, dtype, device, default="width" if width is None else None)


def tensor_train(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A tensor train: one node per mode, neighbours joined by bonds "r1" .. "r{N-1}" of size `rank` (one or N-1).

    Args and errors as for `cp`, but that `rank` has no default.

    >>> import ranklens as rl
    >>> rl.tensor_train((2, 3, 4), rank=5).equation
    'ad,dbe,ec->abc'
    """
    shape = _sizes(shape)
    ranks = _per_bond("rank", rank, len(shape) - 1)
    bonds: list[Hashable] = [f"r{n}" for n in range(1, len(shape))]
    labels = [(*bonds[max(n - 1, 0) : n], n, *bonds[n : n + 1]) for n in range(len(shape))]
    shapes = [(*ranks[max(n - 1, 0) : n], shape[n], *ranks[n : n + 1]) for n in range(len(shape))]
    return _build(labels, shapes, len(shape), std, seed, dtype, device)


def tensor_ring(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A tensor ring: a train whose ends are joined, by bonds "r0" .. "r{N-1}" of size `rank` (one or N).

    Args and errors as for `cp`, but that `rank` has no default; at least two modes.

    >>> import ranklens as rl
    >>> rl.tensor_ring((2, 3, 4), rank=5).equation
    'dae,ebf,fcd->abc'
    """
    shape = _sizes(shape)
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has a single mode; a ring joins at least two")
    count = len(shape)
    ranks = _per_bond("rank", rank, count)
    labels = [(f"r{n}", n, f"r{(n + 1) % count}") for n in range(count)]
    shapes = [(ranks[n], shape[n], ranks[(n + 1) % count]) for n in range(count)]
    return _build(labels, shapes, count, std, seed, dtype, device)


def tucker(
    shape: Sequence[int],
    rank: int | Sequence[int],
    *,
    std: float = 1e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> TensorNetwork:
    """A Tucker factorization: a core, joined to one factor per mode by bonds "r0" .. "r{N-1}" (one size or N).

    Args and errors as for `cp`, but that `rank` has no default. The core is node 0.

    >>> import ranklens as rl
    >>> rl.tucker((2, 3, 4), rank=(1, 2, 3)).equation
    'def,ad,be,cf->abc'
    """
    shape = _sizes(shape)
    ranks = _per_bond("rank", rank, len(shape))
    bonds = [f"r{n}" for n in range(len(shape))]
    labels: list[tuple[Hashable, ...]] = [tuple(bonds), *[(n, bonds[n]) for n in range(len(shape))]]
    shapes = [tuple(ranks), *[(shape[n], ranks[n]) for n in range(len(shape))]]
    return _build(labels, shapes, len(shape), std, seed, dtype, device)


def _build(
    labels: Sequence[Sequence[Hashable]],
    shapes: Sequence[tuple[int, ...]],
    order: int,
    std: float,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
    default: str | None = None,
) -> TensorNetwork:
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std is {std}; it must be a finite number, zero or more")
    size = sum(math.prod(shape) for shape in shapes)
    if default is not None and size > LARGEST_DEFAULT:
        raise ValueError(
            f"the default {default}, which never limits rank, would make {size:.3g} parameters, more than "
            f"{LARGEST_DEFAULT:.3g}; set {default}="
        )
    nodes = [(std * x).to(dtype=dtype, device=device) for x in seeds.normals(shapes, seed, "initial values")]
    return TensorNetwork((labels, range(order)), nodes)


def _widths(
    tree: ModeTree, shape: Sequence[int], width: int | Mapping[tuple[int, ...], int] | None
) -> dict[tuple[int, ...], int]:
    if width is None:
        return {node: _spanning(tree, shape, node) for node in tree.interior}
    if not isinstance(width, Mapping):
        return dict.fromkeys(tree.interior, _positive("width", width))
    for node in width:
        if node not in tree.interior:
            raise ValueError(f"width is given for {node}, which is no interior node of the tree: {tree.interior}")
    for node in tree.interior:
        if node not in width:
            raise ValueError(f"width is missing for tree node {node}; give one for each of {tree.interior}")
    return {node: _positive(f"width of {node}", width[node]) for node in tree.interior}


def _spanning(tree: ModeTree, shape: Sequence[int], node: tuple[int, ...]) -> int:
    total = math.prod(shape)

    def span(modes: tuple[int, ...]) -> int:
        size = math.prod(shape[n] for n in modes)
        return min(size, total // size)

    spans = [span(child) for child in tree.children(node)] + [span(node)]
    return math.prod(spans) // max(spans)


def _sizes(shape: Sequence[int], order: int | None = None) -> tuple[int, ...]:
    shape = tuple(int(_positive(f"size of mode {n}", d)) for n, d in enumerate(shape))
    if not shape or (order is not None and len(shape) != order):
        raise ValueError(f"shape {shape} has {len(shape)} modes; expected {order or 'at least one'}")
    return shape


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; it must be an integer")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return int(value)


def _per_bond(name: str, value: int | Sequence[int], count: int) -> list[int]:
    if not isinstance(value, Sequence):
        return [_positive(name, value)] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} sizes for {count} bonds; give one for all, or one each")
    return [_positive(f"{name}[{k}]", size) for k, size in enumerate(value)]
