"""Evaluation of a network: planned once from labels and sizes, by cost, and then executed.

The whole end tensor is computed by contracting nodes pairwise. A batch of entries, or of inner products with rank-one
tensors, is computed in one of three ways. If the whole end tensor costs less than the batch, it is formed and read.
Else, if the nodes and bonds form a tree, the tree is *swept* from its leaves to a central bond, with one kernel call
per stack of equal nodes. Any other network is contracted pairwise, with the batch as one more index.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.log_product import log_product
from ranklens.tensors.paths import Path, find_path

# Label of the batch axis. A new object equals no label of a user.
BATCH = object()
# Smallest number of leaves at one bond whose product is computed from sums of logarithms.
LOG_FACTORS = 32
# Largest size of a mode for such a product, because it reads every index of a mode.
LOG_LEVELS = 16
# Largest number of entries of an end tensor that is formed in order to read a batch of entries from it.
WHOLE = 2**26
# Cost of looking up one number and multiplying it by another, in multiply-adds of a matrix product (measured).
LOOKUP = 6
# A subtree is tabulated if the batch has at least this many times more rows than its modes have index combinations.
PATTERNS = 4
# Batch size for which paths are planned. One plan serves all batches, because paths hardly depend on the batch size.
PLANNED_BATCH = 256


# ---------------------------------------------------------------------------------------------------------------------
# how nodes are stored


def sweep(layout: Layout) -> "Bond | None":
    """Return the plan by which a network that is a tree of nodes and bonds is swept, from its leaves to a central bond.

    Returns:
        The central bond as a `Bond`, whose `visits` hold all nodes and other bonds of the tree; None if the network has
        a cycle, separate parts, or no bonds. The plan is kept in `layout.plans`.
    """
    return layout.plan("sweep", lambda: _plan_sweep(layout))


def stacks_of(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Return which nodes are stored together in one Parameter, called a stack.

    Nodes of one stack are treated by one operation in the contraction from the leaves to a central bond, see `sweep`.
    They have equal shapes, are all trained or all frozen, are equally far from the central bond, and have equal
    subtrees on their sides away from it. If there is no such contraction, for example because the network has a cycle,
    every node is a stack by itself.

    Returns:
        One tuple of node positions per stack. The Parameter of a stack of two or more nodes has an additional first
        axis for them; the Parameter of a single node has the shape of the node.
    """
    return layout.plan("stacks", lambda: _stacks(layout))


def _stacks(layout: Layout) -> tuple[tuple[int, ...], ...]:
    swept = sweep(layout)
    if swept is None:
        return tuple((k,) for k in range(len(layout.nodes)))
    return tuple(sorted(visit.nodes for visit in _visits(swept)))


def unstack(layout: Layout, stacks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return all nodes, in the order of the equation, as views of the tensors in which they are stored.

    Args:
        layout: labels and sizes of the network.
        stacks: one tensor per element of `stacks_of(layout)`. A stack of several nodes has a leading axis over them.
    """
    nodes: list[Any] = [None] * len(layout.nodes)
    for positions, stack in zip(stacks_of(layout), stacks, strict=True):
        for k, node in zip(positions, (stack,) if len(positions) == 1 else stack.unbind(0), strict=True):
            nodes[k] = node
    return tuple(nodes)


def work(layout: Layout) -> int:
    """Return how many multiply-adds it takes to compute the whole end tensor, in the cheapest order that was found.

    For an end tensor of more than `WHOLE` (2^26) entries no order is searched. The number of its entries is returned
    instead, which is a lower bound.
    """
    entries = math.prod(layout.shape)
    return entries if entries > WHOLE else _path(layout, "tensor").work


def path_of_end_tensor(layout: Layout) -> Path:
    """Return the cheapest plan that was found to compute the whole end tensor by contracting two tensors at a time."""
    return _path(layout, "tensor")


# ---------------------------------------------------------------------------------------------------------------------
# pairwise contraction


def _path(layout: Layout, kind: str) -> Path:
    """Return a path, planned at the first call and kept.

    Args:
        layout: labels and sizes of the network.
        kind: "tensor" for the whole end tensor; "batch" for nodes whose modes were replaced by the batch axis;
            "vectors" for the end tensor times one vector per mode and row of the batch.
    """
    return layout.plan(kind, lambda: _find(layout, kind))


def _find(layout: Layout, kind: str) -> Path:
    inputs: Sequence[Sequence[Label]] = layout.nodes
    out: tuple[Label, ...] = layout.out
    if kind == "batch":
        inputs = [batch_labels(layout, k) for k in range(len(layout.nodes))]
        out = (BATCH,) if layout.out else ()
    elif kind == "vectors":
        inputs = [layout.out, *[(BATCH, label) for label in layout.out]]
        out = (BATCH,)
    return find_path(inputs, out, {**layout.sizes, BATCH: PLANNED_BATCH})


def look_up(layout: Layout, k: int, node: Tensor, indices: Tensor) -> Tensor:
    """Return the slices of a node at the mode indices of every entry, or the whole node if it has no modes.

    Args:
        layout: labels and sizes of the network.
        k: position of the node.
        node: its values.
        indices: (batch, order) mode indices.

    Returns:
        For a node with modes, a tensor (batch, *bonds): an axis over the entries, then the node's bonds in the order of
        its axes. For a node without modes, the node itself.
    """
    axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in layout.mode_labels]
    if not axes:
        return node
    return node.movedim(axes, tuple(range(len(axes))))[tuple(indices[:, n] for n in layout.modes[k])]


def batch_labels(layout: Layout, k: int) -> tuple[Label, ...]:
    """Return the labels of the axes of the tensor that `look_up` returns for node k.

    For a node with modes these are the label `BATCH`, then its bonds. For a node without modes they are its bonds.
    """
    labels = layout.nodes[k]
    bonds = tuple(label for label in labels if label not in layout.mode_labels)
    return bonds if len(bonds) == len(labels) else (BATCH, *bonds)


# ---------------------------------------------------------------------------------------------------------------------
# sweeping a network without cycles


@dataclass(frozen=True)
class Visit:
    """A stack of nodes that a sweep contracts in one operation.

    The bond above a node is the one towards the central bond of the sweep; its other bonds are below it. The
    contraction of all nodes on the far side of a bond is called its message. Each node is contracted with one message
    from every bond below it, and the result is its message to the bond above.

    Attributes:
        nodes: positions of the nodes in the network.
        up: axis of each node that meets the bond above.
        below: pairs (axis, the bonds at this axis, one per node).
        modes: one tuple per node: its own modes and the modes of all nodes below it, as positions in the shape of the
            end tensor. All tuples list modes of equal sizes in the same order.
    """

    nodes: tuple[int, ...]
    up: int
    below: tuple[tuple[int, "Bond"], ...]
    modes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Bond:
    """A group of bonds that a sweep treats in one operation, because equal subtrees hang below them.

    Attributes:
        labels: labels of the bonds.
        visits: stacks of the nodes directly below these bonds. The nodes of a stack are ordered in blocks of equal
            length: those of block i are below bond i.
    """

    labels: tuple[Label, ...]
    visits: tuple[Visit, ...]

    @property
    def modes(self) -> list[tuple[int, ...]]:
        """Return one tuple per bond of the group, in the order of `labels`: the modes of all nodes below the bond.

        The nodes below a bond are those on its side away from the central bond of the sweep. Below the central bond
        are all nodes. Modes are given as positions in the shape of the end tensor.
        """
        found: list[list[int]] = [[] for _ in self.labels]
        for visit in self.visits:
            each = len(visit.nodes) // len(self.labels)
            for k, modes in enumerate(visit.modes):
                found[k // each].extend(modes)
        return [tuple(modes) for modes in found]


def _plan_sweep(layout: Layout) -> Bond | None:
    """Return the plan of a sweep; None if there is no bond, or if nodes and bonds do not make up a tree."""
    edges = sum(len(layout.incidence[x]) for x in layout.bonds)
    if not layout.bonds or edges != len(layout.nodes) + len(layout.bonds) - 1:
        return None
    if not _is_connected(layout):  # as many edges as a tree, yet in pieces: there is a cycle
        return None
    return _plan_bonds(layout, (_centre(layout),), set(), {})


def _is_connected(layout: Layout) -> bool:
    """Return whether every node can be reached from every other along bonds."""
    bonds, seen, queue = set(layout.bonds), {0}, [0]
    for k in queue:
        for label in bonds.intersection(layout.nodes[k]):
            bonds.remove(label)
            new = [other for other, _ in layout.incidence[label] if other not in seen]
            seen.update(new)
            queue.extend(new)
    return len(seen) == len(layout.nodes)


def _centre(layout: Layout) -> Label:
    """Return the bond in the middle of the longest path through the tree, from which a sweep has the fewest levels."""

    def farthest(start: Label) -> list[Label]:
        came: dict[Label, Label] = {}
        queue = [start]
        for bond in queue:
            for k, _ in layout.incidence[bond]:
                for label in layout.nodes[k]:
                    if label != start and label not in came and label not in out:
                        came[label] = bond
                        queue.append(label)
        way = [queue[-1]]
        while way[-1] in came:
            way.append(came[way[-1]])
        return way

    out = set(layout.out)
    way = farthest(farthest(layout.bonds[0])[0])
    return way[len(way) // 2]


def _plan_bonds(layout: Layout, labels: tuple[Label, ...], seen: set[int], known: dict[Any, int]) -> Bond:
    """Return the plan for a group of equal bonds. Nodes below them that have equal subtrees make up one visit."""
    kinds: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for label in labels:
        for k, axis in layout.incidence[label]:
            if k not in seen:
                kinds[_kind(layout, k, axis, known)].append((k, axis))
    seen.update(k for meets in kinds.values() for k, _ in meets)
    return Bond(labels, tuple(_plan_visit(layout, meets, seen, known) for meets in kinds.values()))


def _plan_visit(layout: Layout, meets: list[tuple[int, int]], seen: set[int], known: dict[Any, int]) -> Visit:
    """Return the plan for a stack of nodes with equal subtrees, given as pairs (node, axis of the bond above)."""
    nodes, up = tuple(k for k, _ in meets), meets[0][1]
    down = [axis for axis, label in enumerate(layout.nodes[nodes[0]]) if axis != up and label not in layout.mode_labels]
    below = [(axis, _plan_bonds(layout, tuple(layout.nodes[k][axis] for k in nodes), seen, known)) for axis in down]
    modes = zip([layout.modes[k] for k in nodes], *[bond.modes for _, bond in below], strict=True)
    return Visit(nodes, up, tuple(below), tuple(tuple(n for part in parts for n in part) for parts in modes))


def _kind(layout: Layout, node: int, up: int, known: dict[Any, int]) -> int:
    """Return the identifier of the subtree below (node, axis). Nodes of equal identifiers share one kernel call."""
    if (node, up) not in known:
        below = tuple(
            tuple(sorted(_kind(layout, k, axis, known) for k, axis in layout.incidence[label] if k != node))
            for position, label in enumerate(layout.nodes[node])
            if position != up and label not in layout.mode_labels
        )
        modes = tuple(label in layout.mode_labels for label in layout.nodes[node])
        kind = (layout.shapes[node], up, modes, node in layout.frozen, below)
        known[node, up] = known.setdefault(kind, len(known))
    return known[node, up]


def _visits(bond: Bond) -> Iterator[Visit]:
    """Yield all visits below a group of bonds."""
    for visit in bond.visits:
        yield visit
        for _, below in visit.below:
            yield from _visits(below)


# ---------------------------------------------------------------------------------------------------------------------
# execution


def tensor(layout: Layout, nodes: Sequence[Tensor]) -> Tensor:
    """Return the end tensor of the nodes, which are given in the order of the equation."""
    return _path(layout, "tensor")(nodes)


def reads_whole(layout: Layout, batch: int) -> bool:
    """Return whether the whole end tensor takes no more operations than a batch of its entries computed one by one.

    Args:
        layout: labels and sizes of the network.
        batch: number of entries.

    Returns:
        True if it takes no more operations and the end tensor has at most `WHOLE` (2^26) entries.
    """
    return math.prod(layout.shape) <= WHOLE and work(layout) <= batch * _work_per_row(layout, entries=True)


def entries(layout: Layout, stacks: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Return entries of the end tensor, of shape (batch,).

    Args:
        layout: labels and sizes of the network.
        stacks: the nodes as they are stored, see `unstack`.
        indices: mode indices of shape (batch, number of modes), int64. If `reads_indicators` is true, so that all modes
            have size 2, the indices 0 and 1 may also be given as numbers of the dtype of the nodes. They are not
            checked.
    """
    if len(indices) == 0:
        return stacks[0].new_zeros(0)
    if reads_whole(layout, len(indices)):
        return tensor(layout, unstack(layout, stacks)).reshape(-1)[flatten(indices, layout.shape)]
    if sweep(layout) is not None:
        return _sweep(layout, stacks, _Rows(layout, indices))
    rows = [look_up(layout, k, node, indices) for k, node in enumerate(unstack(layout, stacks))]
    return _path(layout, "batch")(rows).expand(len(indices))


def reads_indicators(layout: Layout) -> bool:
    """Return whether `entries` computes with indices as zeros and ones of the network's dtype.

    This is so for a network of one bond that joins at least `LOG_FACTORS` (32) nodes, if each node has one mode, the
    nodes are in the order of the modes, and all modes have size 2. `entries` converts integers at every call. A caller
    that uses the same indices often converts them once, and passes zeros and ones of that dtype instead.
    """
    return layout.plan("reads indicators", lambda: _reads_indicators(layout))


def _reads_indicators(layout: Layout) -> bool:
    """Return what `reads_indicators` returns, from the plan of the sweep."""
    swept = sweep(layout)
    if swept is None or len(swept.visits) != 1 or len(swept.labels) != 1 or set(layout.shape) != {2}:
        return False
    visit = swept.visits[0]
    return visit.modes == _modes_in_order(layout) and not visit.below and len(visit.nodes) >= LOG_FACTORS


def _modes_in_order(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Return every mode for itself, in their order; a network may have hundreds, so the tuple is kept."""
    return layout.plan("modes in order", lambda: tuple((n,) for n in range(len(layout.shape))))


def _own_modes(layout: Layout, visit: "Visit") -> tuple[tuple[int, ...], ...]:
    """Return the modes of each node of a stack; the tuple is kept, because a stack may have hundreds of nodes."""
    return layout.plan(("modes", visit.nodes[0]), lambda: tuple(layout.modes[k] for k in visit.nodes))


def evaluate(layout: Layout, stacks: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """Return inner products of the end tensor with rank-one tensors, of shape (batch,).

    Args:
        layout: labels and sizes of the network.
        stacks: the nodes as they are stored, see `unstack`.
        vectors: one tensor (batch, d_n) for each mode n. Row b of all of them gives the factors of rank-one tensor b.
    """
    batch = len(vectors[0])
    if batch == 0:
        return stacks[0].new_zeros(0)
    whole = work(layout) + batch * 2 * math.prod(layout.shape)
    if math.prod(layout.shape) <= WHOLE and whole <= batch * _work_per_row(layout, entries=False):
        return _path(layout, "vectors")([tensor(layout, unstack(layout, stacks)), *vectors])
    if sweep(layout) is not None:
        return _sweep(layout, stacks, _Vectors(layout, vectors))
    rows = [_weigh(layout, k, node, vectors) for k, node in enumerate(unstack(layout, stacks))]
    return _path(layout, "batch")(rows).expand(batch)


def flatten(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the positions of entries in the end tensor flattened in row-major order, of shape (batch,).

    Args:
        indices: mode indices of shape (batch, number of modes).
        shape: sizes of the modes.
    """
    strides = [math.prod(shape[n + 1 :]) for n in range(len(shape))]
    return (indices * torch.tensor(strides, dtype=torch.long, device=indices.device)).sum(dim=1)


def _work_per_row(layout: Layout, *, entries: bool) -> float:
    """Return the multiply-adds per row of a batch that is not read from the whole end tensor.

    A node costs the number of its entries. If `entries` is true, a node whose modes are looked up costs only the
    entries that one row reads, times `LOOKUP`.
    """
    looked_up = [
        math.prod(layout.shape[n] for n in modes) / LOOKUP if entries and modes else 1 for modes in layout.modes
    ]
    if sweep(layout) is not None:
        return sum(math.prod(shape) / k for shape, k in zip(layout.shapes, looked_up, strict=True))
    weigh = 0 if entries else sum(math.prod(s) for s, modes in zip(layout.shapes, layout.modes, strict=True) if modes)
    return _path(layout, "batch").work / PLANNED_BATCH + weigh


class _Rows:
    """The leaves of a sweep that computes entries: every row of the batch looks up its slices of the leaves."""

    def __init__(self, layout: Layout, indices: Tensor) -> None:
        self.layout, self.indices = layout, indices

    def lookup(self, modes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the position that each row of the batch reads in groups of modes, of shape (batch, groups).

        A group is a tuple of modes; the position is row-major in their indices. All groups have modes of equal sizes.
        """
        if modes == _modes_in_order(self.layout):
            return self.indices
        columns = torch.tensor(modes, device=self.indices.device).T
        found = self.indices.index_select(1, columns[0]).long()
        for column, mode in zip(columns[1:], modes[0][1:], strict=True):
            found = found * self.layout.shape[mode] + self.indices.index_select(1, column)
        return found

    def leaf(self, visit: Visit, table: Tensor) -> Tensor:
        """Return what each row reads of a stack of leaves: from (nodes, positions, ...) to (batch, nodes, ...)."""
        return self.read(table, _own_modes(self.layout, visit))

    def read(self, table: Tensor, modes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return what each row reads at groups of modes: from (groups, positions, ...) to (batch, groups, ...)."""
        groups, levels, *rest = table.shape
        rows = self.lookup(modes) + levels * torch.arange(groups, device=table.device)
        flat = table.reshape(groups * levels, -1).index_select(0, rows.flatten())
        return flat.reshape(len(rows), groups, *rest)

    def patterns(self, visit: Visit) -> "_Rows | None":
        """Return all combinations of indices of the modes below a node, as rows; None if there are too many.

        There are too many if the batch has fewer than `PATTERNS` times as many rows.
        """
        sizes = [self.layout.shape[n] for n in visit.modes[0]]
        if not visit.below or not sizes or PATTERNS * math.prod(sizes) > len(self.indices):
            return None
        levels = torch.cartesian_prod(*[torch.arange(d, device=self.indices.device) for d in sizes])
        levels = levels.reshape(-1, len(sizes))
        rows = levels.new_zeros(len(levels), len(self.layout.shape))
        columns = torch.tensor(visit.modes, device=levels.device).flatten()
        rows[:, columns] = levels.repeat(1, len(visit.modes))
        return _Rows(self.layout, rows)

    def product(self, visit: Visit, table: Tensor, blocks: int) -> Tensor | None:
        """Return the product of the leaves at each bond, of shape (batch, blocks, size), by sums of logarithms.

        Returns:
            None if there are fewer than `LOG_FACTORS` leaves per bond, if a mode is larger than `LOG_LEVELS`, or if a
            leaf has several bonds.
        """
        nodes, levels, *rest = table.shape
        if nodes // blocks < LOG_FACTORS or levels > LOG_LEVELS or len(rest) != 1:
            return None
        rows = self.lookup(_own_modes(self.layout, visit))
        if blocks == 1:
            return log_product(table, rows).unsqueeze(1)
        rows = rows.reshape(-1, blocks, nodes // blocks)
        tables = table.reshape(blocks, nodes // blocks, levels, *rest)
        return torch.stack([log_product(tables[k], rows[:, k]) for k in range(blocks)], dim=1)


class _Vectors:
    """The leaves of a sweep that computes inner products: every leaf is contracted with the vectors of its modes."""

    def __init__(self, layout: Layout, vectors: Sequence[Tensor]) -> None:
        self.layout, self.vectors = layout, vectors

    def leaf(self, visit: Visit, table: Tensor) -> Tensor:
        """Return leaves contracted with the vectors: from (nodes, positions, ...) to (batch, nodes, ...)."""
        modes = [self.layout.modes[k] for k in visit.nodes]
        weights = torch.stack([self.vectors[row[0]] for row in modes], dim=1)
        for position in range(1, len(modes[0])):
            after = torch.stack([self.vectors[row[position]] for row in modes], dim=1)
            weights = (weights.unsqueeze(-1) * after.unsqueeze(-2)).flatten(2)
        return torch.einsum("znd,ndr->znr", weights, table.flatten(2)).reshape(
            len(weights), len(table), *table.shape[2:]
        )

    def product(self, visit: Visit, table: Tensor, blocks: int) -> Tensor | None:
        """Return None: products of leaves that are contracted with vectors are not taken by sums of logarithms."""
        return None

    def patterns(self, visit: Visit) -> None:
        """Return None: vectors differ from row to row, so a subtree is not tabulated."""


def _sweep(layout: Layout, stacks: Sequence[Tensor], leaves: _Rows | _Vectors) -> Tensor:
    """Return one number per row of the batch, by a sweep from the leaves to the central bond, which is summed."""
    root = sweep(layout)
    assert root is not None
    batch = len(leaves.indices) if isinstance(leaves, _Rows) else len(leaves.vectors[0])
    return _bond(layout, stacks, leaves, root).sum(dim=(1, 2)).expand(batch)


def _bond(layout: Layout, stacks: Sequence[Tensor], leaves: _Rows | _Vectors, bond: Bond) -> Tensor:
    """Return the product of the messages of all nodes below the bonds, of shape (batch, bonds, size).

    The batch axis has size 1 if the message does not depend on the row.
    """
    message = None
    for visit in bond.visits:
        sent = _visit(layout, stacks, leaves, visit, len(bond.labels))
        message = sent if message is None else message * sent
    assert message is not None
    return message


def _visit(layout: Layout, stacks: Sequence[Tensor], leaves: Any, visit: Visit, blocks: int) -> Tensor:
    """Return the messages of a stack: nodes contracted with modes and messages, and multiplied within each block."""
    stack = stacks[stacks_of(layout).index(visit.nodes)]
    stack = stack.unsqueeze(0) if len(visit.nodes) == 1 else stack
    modes = [axis for axis, label in enumerate(layout.nodes[visit.nodes[0]]) if label in layout.mode_labels]
    rest = [axis for axis in range(stack.ndim - 1) if axis not in modes]
    if modes:
        table = stack.permute(0, *[a + 1 for a in modes], *[a + 1 for a in rest]).flatten(1, len(modes))
        if not visit.below and (product := leaves.product(visit, table, blocks)) is not None:
            return product
    patterns = leaves.patterns(visit)
    reader = leaves if patterns is None else patterns
    message = reader.leaf(visit, table) if modes else stack.unsqueeze(0)
    for axis, below in visit.below:
        arriving = _bond(layout, stacks, reader, below)
        message = _apply(message, arriving, 2 + rest.index(axis))
        rest.remove(axis)
    if patterns is not None:
        message = leaves.read(message.transpose(0, 1), visit.modes)
    return _multiply(message.reshape(message.shape[0], blocks, -1, message.shape[-1]))


def _apply(message: Tensor, arriving: Tensor, axis: int) -> Tensor:
    """Return a message (batch, nodes, ...) with one axis summed against an arriving message (batch, nodes, size).

    Either batch axis may have size 1.
    """
    moved = message.movedim(axis, 2)
    if moved.shape[0] == 1:
        flat = torch.einsum("znr,nrs->zns", arriving, moved[0].flatten(2) if moved.ndim > 3 else _column(moved[0]))
    else:
        flat = (arriving.unsqueeze(2) @ (moved.flatten(3) if moved.ndim > 3 else moved.unsqueeze(-1))).squeeze(2)
    return flat.reshape(*flat.shape[:2], *moved.shape[3:])


def _column(vectors: Tensor) -> Tensor:
    """Return vectors (..., size) as matrices of one column, (..., size, 1)."""
    return vectors.unsqueeze(-1)


def _multiply(factors: Tensor) -> Tensor:
    """Return the product over axis 2.

    Up to 8 factors are multiplied one by one, because the gradient of that is correct at zeros at no extra cost.
    """
    if factors.shape[2] > 8:
        return factors.prod(dim=2)
    result, *others = factors.unbind(2)
    for other in others:
        result = result * other
    return result


def _weigh(layout: Layout, k: int, node: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """Return a node contracted with one vector per row for each of its modes, or the whole node if it has no modes."""
    axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in layout.mode_labels]
    if not axes:
        return node
    node = node.movedim(axes, tuple(range(len(axes)))).unsqueeze(0)
    for n in layout.modes[k]:
        node = (node * vectors[n].reshape(len(vectors[n]), -1, *[1] * (node.ndim - 2))).sum(dim=1)
    return node
