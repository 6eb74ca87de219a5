"""Families of factorizations. Each function writes labels and shapes, and returns a TensorNetwork.

The entries of the nodes are drawn from the normal distribution N(0, std^2). Modes are labelled 0 .. N-1.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import torch

from ranklens import seeds
from ranklens.tensors import arguments
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.trees import ModeTree

# Largest number of parameters of a network whose width or rank is left at its default: 512 MiB in float64. The defaults
# never limit the rank, and would otherwise fill the memory for shapes of moderate size.
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
    """Return a deep matrix factorization: a matrix as a product of `depth` matrices, W = W_L ... W_1.

    This is a linear neural network whose first layer is W_1. `net.nodes[0]` is W_L.

    Args:
        shape: (rows, columns).
        depth: number L of factors, at least 1.
        width: size of all L - 1 bonds, or one size per bond from left to right. None takes min(shape), which never
            limits the rank.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network, with bonds "r1" .. "r{L-1}" from left to right. Sizes below one, and more than 2^26 parameters with
        the default width, raise a ValueError.

    Source: Razin and Cohen (NeurIPS 2020), section 2.

    >>> import ranklens as rl
    >>> net = rl.deep_matrix((3, 4), depth=3)
    >>> [tuple(node.shape) for node in net.nodes]
    [(3, 3), (3, 3), (3, 4)]
    """
    rows, columns = _sizes(shape, order=2)
    depth = arguments.count("depth", depth)
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
    """Return a CP factorization: a tensor as a sum of `rank` outer products of vectors.

    It is a shallow convolutional arithmetic circuit, and is also called tensor factorization.

    Args:
        shape: sizes of the N modes.
        rank: number of components. None takes the product of all sizes but the largest, which never limits the rank,
            because no tensor of this shape has a larger one.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network, with one bond "r" of order N. Node n has shape (size of mode n, rank). Sizes below one, and more
        than 2^26 parameters with the default rank, raise a ValueError.

    Raises:
        ValueError: if there are fewer than two modes.

    Source: Razin, Maman, Cohen (ICML 2021), section 3.

    >>> import ranklens as rl
    >>> rl.cp((16, 16, 16)).equation, rl.cp((16, 16, 16)).component_norms("r").shape
    ('ar,br,cr->abc', torch.Size([256]))
    """
    shape = _sizes(shape)
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has a single mode; components join at least two")
    size = math.prod(shape) // max(shape) if rank is None else arguments.count("rank", rank)
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
    """Return a hierarchical tensor factorization along a tree of modes: a deep convolutional arithmetic circuit.

    Every node of the tree has a matrix of weights (the root a vector). Every interior tree node v has a bond of size
    R_v, which joins the columns of its children's weights and the rows of its own weights. The order of this bond is
    the number of children plus one.

    Args:
        shape: sizes of the N modes.
        width: R_v for all interior tree nodes, or one per interior tree node as {modes below the node: width}. None
            takes widths that never limit the rank: the product of the largest ranks that the matricizations at the
            children and at the node itself can have, leaving out the largest of these ranks.
        tree: how modes are grouped. None is the binary tree that joins adjacent modes first.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network. A bond is labelled by its tree node: the sorted tuple of the modes below it. The nodes of the
        network are those of the leaves, then those of the interior tree nodes from the leaves upwards, the root last.
        If p is the parent of a tree node, the network's node has shape (size of mode n, R_p) for a leaf n, (R_v, R_p)
        for an interior tree node v, and (R_v,) for the root v. Sizes below one, a width for a tree node that does not
        exist, and more than 2^26 parameters with the default widths raise a ValueError.

    Raises:
        ValueError: if there are fewer than two modes, or the tree has other modes.

    Source: Razin, Maman, Cohen (ICML 2022), section 3.

    >>> import ranklens as rl
    >>> net = rl.hierarchical((8, 8, 8, 8), width=512)
    >>> net.bonds, net.order((0, 1, 2, 3))
    (((0, 1), (2, 3), (0, 1, 2, 3)), 3)
    """
    shape = _sizes(shape)
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has a single mode; a tree joins at least two")
    tree = ModeTree.adjacent(len(shape), 2) if tree is None else arguments.instance("tree", tree, ModeTree)
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
    """Return a tensor train: one node per mode, and one bond between the nodes of neighbouring modes.

    Args:
        shape: sizes of the N modes.
        rank: size of all N - 1 bonds, or one size per bond from left to right.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network, with bonds "r1" .. "r{N-1}" from left to right. The axes of a node are the bond on its left, its
        mode and the bond on its right; the first node has no bond on its left, and the last none on its right. Sizes
        below one raise a ValueError.

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
    """Return a tensor ring: a tensor train whose last node is joined to the first by one more bond.

    Args:
        shape: sizes of the N modes.
        rank: size of all N bonds, or one size per bond. The first one is the bond between the last node and the first.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network, with bonds "r0" .. "r{N-1}". The axes of node n are bond "r{n}", its mode and the next bond. Sizes
        below one raise a ValueError.

    Raises:
        ValueError: if there are fewer than two modes.

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
    """Return a Tucker factorization: a core tensor that is joined by one bond to the factor matrix of each mode.

    Args:
        shape: sizes of the N modes.
        rank: size of all N bonds, or one size per bond: the shape of the core.
        std: standard deviation of every entry of every node.
        seed: seed of the initial values.
        dtype: floating-point type of the nodes.
        device: device of the nodes; None is the CPU.

    Returns:
        The network, with bonds "r0" .. "r{N-1}". Node 0 is the core, of shape `rank`. Node n + 1 is the factor matrix
        of mode n, of shape (size of mode n, size of bond "r{n}"). Sizes below one raise a ValueError.

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
    """Return a network with random nodes.

    Args:
        labels: labels of every node. The modes are 0 .. order - 1.
        shapes: shape of every node.
        order: number of modes.
        std: standard deviation of the entries.
        seed: seed of the initial values.
        dtype: dtype of the nodes.
        device: device of the nodes.
        default: name of the argument that decided the sizes by its default, if one did.

    Raises:
        ValueError: if a default made too many parameters.
    """
    std, dtype = arguments.number("std", std, least=0), arguments.floating_dtype("dtype", dtype)
    device = arguments.device("device", device)
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
    """Return the width of every interior tree node.

    Raises:
        ValueError: if a mapping names a node that is not an interior one, or leaves one out.
    """
    if width is None:
        return {node: _spanning(tree, shape, node) for node in tree.interior}
    if not isinstance(width, Mapping):
        return dict.fromkeys(tree.interior, arguments.count("width", width))
    for node in width:
        if node not in tree.interior:
            raise ValueError(f"width is given for {node}, which is no interior node of the tree: {tree.interior}")
    for node in tree.interior:
        if node not in width:
            raise ValueError(f"width is missing for tree node {node}; give one for each of {tree.interior}")
    return {node: arguments.count(f"width of {node}", width[node]) for node in tree.interior}


def _spanning(tree: ModeTree, shape: Sequence[int], node: tuple[int, ...]) -> int:
    """Return a width of a tree node that never limits the rank.

    The bond carries a tensor whose modes are the children and the node itself, each of the size of the rank that the
    matricization there can have. Its CP rank is at most the product of these sizes but the largest.
    """
    total = math.prod(shape)

    def largest_rank(modes: tuple[int, ...]) -> int:
        size = math.prod(shape[n] for n in modes)
        return min(size, total // size)

    ranks = [largest_rank(child) for child in tree.children(node)] + [largest_rank(node)]
    return math.prod(ranks) // max(ranks)


def _sizes(shape: Sequence[int], order: int | None = None) -> tuple[int, ...]:
    """Return a shape as a tuple of positive integers.

    Raises:
        ValueError: if there are no modes, or not `order` modes.
    """
    shape = tuple(arguments.count(f"shape[{n}]", d) for n, d in enumerate(arguments.sequence("shape", shape)))
    if not shape or (order is not None and len(shape) != order):
        raise ValueError(f"shape {shape} has {len(shape)} modes; expected {order or 'at least one'}")
    return shape


def _per_bond(name: str, value: int | Sequence[int], count: int) -> list[int]:
    """Return one size per bond, from one size for all bonds or from a list.

    Raises:
        ValueError: if a list has not one size per bond.
    """
    if not isinstance(value, Sequence):
        return [arguments.count(name, value)] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} sizes for {count} bonds; give one for all, or one each")
    return [arguments.count(f"{name}[{k}]", size) for k, size in enumerate(value)]
