"""How a network is evaluated: planned once from labels and sizes, by cost, then executed in a dull loop.

Three plans exist. `tensor` contracts the nodes pairwise. For batches of entries, or of rank-one tensors, a network
whose nodes and bonds form a tree is *swept* from its leaves to a central bond, one kernel call per stack of equal
nodes; any other network is contracted pairwise with the batch as one more index. Where the whole end tensor costs
less than the batch, it is formed and read off.
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

BATCH = object()  # the label of the batch axis: equal to no label of a user

LOG_FACTORS = 32  # from this many leaves at one bond on, their product is taken in the log domain
LOG_LEVELS = 16  # and only for modes this small, since the log domain reads every level of a mode
WHOLE = 2**26  # an end tensor of more entries is never formed in place of a batch
LOOKUP = 6  # multiply-adds of a matrix product that take as long as to look a number up and multiply it by another
PATTERNS = 4  # a subtree is tabulated where the batch has this many times more rows than there are readings of it
PLANNED_BATCH = 256  # paths depend so little on the batch that one is planned for all


# ---------------------------------------------------------------------------------------------------------------------
# how nodes are stored


def sweep(layout: Layout) -> "Bond | None":
    """The order in which a network without cycles is swept; None where there is a cycle, or nothing to sweep."""
    if "sweep" not in layout.plans:
        layout.plans["sweep"] = _plan_sweep(layout)
    found: Bond | None = layout.plans["sweep"]
    return found


def stacks_of(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Nodes that are stored together: of equal shape and role in the sweep."""
    if "stacks" not in layout.plans:
        swept = sweep(layout)
        alone = tuple((k,) for k in range(len(layout.nodes)))
        layout.plans["stacks"] = alone if swept is None else tuple(sorted(visit.nodes for visit in _visits(swept)))
    found: tuple[tuple[int, ...], ...] = layout.plans["stacks"]
    return found


def unstack(layout: Layout, stacks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The nodes as views of the stacks."""
    nodes: list[Any] = [None] * len(layout.nodes)
    for positions, stack in zip(stacks_of(layout), stacks, strict=True):
        for k, node in zip(positions, (stack,) if len(positions) == 1 else stack.unbind(0), strict=True):
            nodes[k] = node
    return tuple(nodes)


def work(layout: Layout) -> int:
    """Multiply-adds of the end tensor, by the best path found; at least one per entry where it is never formed."""
    entries = math.prod(layout.shape)
    return entries if entries > WHOLE else _path(layout, "tensor").work


def path_of_end_tensor(layout: Layout) -> Path:
    """The pairwise contraction of the whole end tensor that costs least."""
    return _path(layout, "tensor")


# ---------------------------------------------------------------------------------------------------------------------
# pairwise contraction


def _path(layout: Layout, kind: str) -> Path:
    """The cached path of a kind: 'tensor', 'batch' (modes replaced by the batch) or 'vectors' (tensor and vectors)."""
    if kind not in layout.plans:
        sizes = {**layout.sizes, BATCH: PLANNED_BATCH}
        inputs: Sequence[Sequence[Label]] = layout.nodes
        out: tuple[Label, ...] = layout.out
        if kind == "batch":
            modes = set(layout.out)
            inputs = [_behind_batch(labels, modes) for labels in layout.nodes]
            out = (BATCH,) if modes else ()
        elif kind == "vectors":
            inputs = [layout.out, *[(BATCH, label) for label in layout.out]]
            out = (BATCH,)
        layout.plans[kind] = find_path(inputs, out, sizes)
    found: Path = layout.plans[kind]
    return found


def _behind_batch(labels: Sequence[Label], modes: set[Label]) -> tuple[Label, ...]:
    rest = tuple(x for x in labels if x not in modes)
    return rest if len(rest) == len(labels) else (BATCH, *rest)


# ---------------------------------------------------------------------------------------------------------------------
# sweeping a network without cycles


@dataclass(frozen=True)
class Visit:
    """A stack of alike nodes, visited after the bonds below: each gets messages and sends one to its bond above."""

    nodes: tuple[int, ...]
    up: int
    below: tuple[tuple[int, "Bond"], ...]  # (axis, bonds met there), one bond per node
    modes: tuple[tuple[int, ...], ...]  # of every node and of all below it, sizes in the same order for each


@dataclass(frozen=True)
class Bond:
    """Alike bonds, one after the other; the i-th is fed by the i-th block of nodes of every visit."""

    labels: tuple[Label, ...]
    visits: tuple[Visit, ...]

    @property
    def modes(self) -> list[tuple[int, ...]]:
        """The modes below every bond."""
        found: list[list[int]] = [[] for _ in self.labels]
        for visit in self.visits:
            each = len(visit.nodes) // len(self.labels)
            for k, modes in enumerate(visit.modes):
                found[k // each].extend(modes)
        return [tuple(modes) for modes in found]


def _plan_sweep(layout: Layout) -> Bond | None:
    edges = sum(len(layout.incidence[x]) for x in layout.bonds)
    if not layout.bonds or edges != len(layout.nodes) + len(layout.bonds) - 1:
        return None
    if not _is_connected(layout):  # as many edges as a tree, yet in pieces: there is a cycle
        return None
    return _plan_bonds(layout, (_centre(layout),), set(), {})


def _is_connected(layout: Layout) -> bool:
    """Whether bonds lead from any node to every other."""
    bonds, seen, queue = set(layout.bonds), {0}, [0]
    for k in queue:
        for label in bonds.intersection(layout.nodes[k]):
            bonds.remove(label)
            new = [other for other, _ in layout.incidence[label] if other not in seen]
            seen.update(new)
            queue.extend(new)
    return len(seen) == len(layout.nodes)


def _centre(layout: Layout) -> Label:
    """The bond in the middle of the longest way through the tree, so that the sweep has the fewest levels."""

    def farthest(start: Label) -> list[Label]:
        came: dict[Label, Label | None] = {start: None}
        queue = [start]
        for bond in queue:
            for k, _ in layout.incidence[bond]:
                for label in layout.nodes[k]:
                    if label not in came and label not in out:
                        came[label] = bond
                        queue.append(label)
        way, at = [], queue[-1]
        while at is not None:
            way.append(at)
            at = came[at]
        return way

    out = set(layout.out)
    way = farthest(farthest(layout.bonds[0])[0])
    return way[len(way) // 2]


def _plan_bonds(layout: Layout, labels: tuple[Label, ...], seen: set[int], known: dict[Any, int]) -> Bond:
    """Plan alike bonds: nodes below them that are alike make one visit."""
    kinds: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for label in labels:
        for k, axis in layout.incidence[label]:
            if k not in seen:
                kinds[_kind(layout, k, axis, known)].append((k, axis))
    seen.update(k for meets in kinds.values() for k, _ in meets)
    return Bond(labels, tuple(_plan_visit(layout, meets, seen, known) for meets in kinds.values()))


def _plan_visit(layout: Layout, meets: list[tuple[int, int]], seen: set[int], known: dict[Any, int]) -> Visit:
    nodes, up = tuple(k for k, _ in meets), meets[0][1]
    down = [axis for axis, label in enumerate(layout.nodes[nodes[0]]) if axis != up and label not in layout.mode_labels]
    below = [(axis, _plan_bonds(layout, tuple(layout.nodes[k][axis] for k in nodes), seen, known)) for axis in down]
    modes = zip([layout.modes[k] for k in nodes], *[bond.modes for _, bond in below], strict=True)
    return Visit(nodes, up, tuple(below), tuple(tuple(n for part in parts for n in part) for parts in modes))


def _kind(layout: Layout, node: int, up: int, known: dict[Any, int]) -> int:
    """The number of what must agree for two nodes to be visited together: everything below them."""
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
    for visit in bond.visits:
        yield visit
        for _, below in visit.below:
            yield from _visits(below)


# ---------------------------------------------------------------------------------------------------------------------
# execution


def tensor(layout: Layout, nodes: Sequence[Tensor]) -> Tensor:
    """The end tensor."""
    return _path(layout, "tensor")(nodes)


def reads_whole(layout: Layout, batch: int) -> bool:
    """Whether a batch of entries is read off the whole end tensor, because that takes fewer operations."""
    return math.prod(layout.shape) <= WHOLE and work(layout) <= batch * _work_per_row(layout, entries=True)


def entries(layout: Layout, stacks: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Entries at checked int64 indices (batch, order)."""
    if len(indices) == 0:
        return stacks[0].new_zeros(0)
    if reads_whole(layout, len(indices)):
        return tensor(layout, unstack(layout, stacks)).reshape(-1)[flatten(indices, layout.shape)]
    if sweep(layout) is not None:
        return _sweep(layout, stacks, _Rows(layout, indices))
    rows = [_gather(layout, k, node, indices) for k, node in enumerate(unstack(layout, stacks))]
    return _path(layout, "batch")(rows).expand(len(indices))


def reads_indicators(layout: Layout) -> bool:
    """Return whether entries are products of very many leaves of two levels each, in the order of the modes.

    Such a product reads indices as zeros and ones of the network's dtype. A caller that reads the same indices often
    converts them once, and passes them to `entries` in place of integers.
    """
    swept = sweep(layout)
    if swept is None or len(swept.visits) != 1 or len(swept.labels) != 1 or set(layout.shape) != {2}:
        return False
    visit = swept.visits[0]
    in_order = visit.modes == tuple((n,) for n in range(len(layout.shape)))
    return in_order and not visit.below and len(visit.nodes) >= LOG_FACTORS


def evaluate(layout: Layout, stacks: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """Inner products with rank-one tensors, the n-th factors in vectors[n] (batch, d_n)."""
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
    """Row-major positions of mode indices (batch, order) in the flattened end tensor."""
    strides = [math.prod(shape[n + 1 :]) for n in range(len(shape))]
    return (indices * torch.tensor(strides, dtype=torch.long, device=indices.device)).sum(dim=1)


def _work_per_row(layout: Layout, *, entries: bool) -> float:
    """Multiply-adds per row of a batch: a node costs its entries, or where modes are only looked up what is read."""
    looked_up = [
        math.prod(layout.shape[n] for n in modes) / LOOKUP if entries and modes else 1 for modes in layout.modes
    ]
    if sweep(layout) is not None:
        return sum(math.prod(shape) / k for shape, k in zip(layout.shapes, looked_up, strict=True))
    weigh = 0 if entries else sum(math.prod(s) for s, modes in zip(layout.shapes, layout.modes, strict=True) if modes)
    return _path(layout, "batch").work / PLANNED_BATCH + weigh


class _Rows:
    """Reads entries: leaves look their rows up."""

    def __init__(self, layout: Layout, indices: Tensor) -> None:
        self.layout, self.indices = layout, indices

    def lookup(self, modes: Sequence[tuple[int, ...]]) -> Tensor:
        """The levels at groups of alike modes (batch, groups), in row-major order of a group's modes."""
        if modes == tuple((n,) for n in range(len(self.layout.shape))):  # every mode for itself, in their order
            return self.indices
        columns = torch.tensor(modes, device=self.indices.device).T
        found = self.indices.index_select(1, columns[0]).long()
        for column, mode in zip(columns[1:], modes[0][1:], strict=True):
            found = found * self.layout.shape[mode] + self.indices.index_select(1, column)
        return found

    def leaf(self, visit: Visit, table: Tensor) -> Tensor:
        """(nodes, levels, ...) -> (batch, nodes, ...)."""
        return self.read(table, tuple(self.layout.modes[k] for k in visit.nodes))

    def read(self, table: Tensor, modes: Sequence[tuple[int, ...]]) -> Tensor:
        """(groups, levels, ...) -> (batch, groups, ...): what every row reads at groups of alike modes."""
        groups, levels, *rest = table.shape
        rows = self.lookup(modes) + levels * torch.arange(groups, device=table.device)
        flat = table.reshape(groups * levels, -1).index_select(0, rows.flatten())
        return flat.reshape(len(rows), groups, *rest)

    def patterns(self, visit: Visit) -> "_Rows | None":
        """All that can be read below a node, one row each, where that is much less than the batch."""
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
        """Product of very many leaves per bond, (batch, blocks, size), where the log domain is the way to it."""
        nodes, levels, *rest = table.shape
        if nodes // blocks < LOG_FACTORS or levels > LOG_LEVELS or len(rest) != 1:
            return None
        rows = self.lookup(tuple(self.layout.modes[k] for k in visit.nodes)).reshape(-1, blocks, nodes // blocks)
        tables = table.reshape(blocks, nodes // blocks, levels, *rest)
        return torch.stack([log_product(tables[k], rows[:, k]) for k in range(blocks)], dim=1)


class _Vectors:
    """Evaluates on rank-one tensors: leaves are weighed by the vectors."""

    def __init__(self, layout: Layout, vectors: Sequence[Tensor]) -> None:
        self.layout, self.vectors = layout, vectors

    def leaf(self, visit: Visit, table: Tensor) -> Tensor:
        """(nodes, levels, ...) -> (batch, nodes, ...)."""
        modes = [self.layout.modes[k] for k in visit.nodes]
        weights = torch.stack([self.vectors[row[0]] for row in modes], dim=1)
        for position in range(1, len(modes[0])):
            after = torch.stack([self.vectors[row[position]] for row in modes], dim=1)
            weights = (weights.unsqueeze(-1) * after.unsqueeze(-2)).flatten(2)
        return torch.einsum("znd,ndr->znr", weights, table.flatten(2)).reshape(
            len(weights), len(table), *table.shape[2:]
        )

    def product(self, visit: Visit, table: Tensor, blocks: int) -> Tensor | None:
        """Never: the messages are wanted one by one."""
        return None

    def patterns(self, visit: Visit) -> None:
        """Never: vectors differ from row to row."""


def _sweep(layout: Layout, stacks: Sequence[Tensor], leaves: _Rows | _Vectors) -> Tensor:
    root = sweep(layout)
    assert root is not None
    batch = len(leaves.indices) if isinstance(leaves, _Rows) else len(leaves.vectors[0])
    return _bond(layout, stacks, leaves, root).sum(dim=(1, 2)).expand(batch)


def _bond(layout: Layout, stacks: Sequence[Tensor], leaves: _Rows | _Vectors, bond: Bond) -> Tensor:
    """Message (batch, bonds, size): the product of what the nodes below send. A batch of 1 stands for any batch."""
    message = None
    for visit in bond.visits:
        sent = _visit(layout, stacks, leaves, visit, len(bond.labels))
        message = sent if message is None else message * sent
    assert message is not None
    return message


def _visit(layout: Layout, stacks: Sequence[Tensor], leaves: Any, visit: Visit, blocks: int) -> Tensor:
    """What a stack sends: its nodes contracted with their modes and messages, multiplied within each of the blocks."""
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
    """Sum an axis of (batch, nodes, ...) against a message (batch, nodes, size); either batch may be 1."""
    moved = message.movedim(axis, 2)
    if moved.shape[0] == 1:
        flat = torch.einsum("znr,nrs->zns", arriving, moved[0].flatten(2) if moved.ndim > 3 else _column(moved[0]))
    else:
        flat = (arriving.unsqueeze(2) @ (moved.flatten(3) if moved.ndim > 3 else moved.unsqueeze(-1))).squeeze(2)
    return flat.reshape(*flat.shape[:2], *moved.shape[3:])


def _column(vectors: Tensor) -> Tensor:
    return vectors.unsqueeze(-1)


def _multiply(factors: Tensor) -> Tensor:
    """Product over axis 2; few factors are multiplied one by one, which has the right gradient at zeros for nothing."""
    if factors.shape[2] > 8:
        return factors.prod(dim=2)
    result, *others = factors.unbind(2)
    for other in others:
        result = result * other
    return result


def _gather(layout: Layout, k: int, node: Tensor, indices: Tensor) -> Tensor:
    axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in layout.mode_labels]
    if not axes:
        return node
    moved = node.movedim(axes, tuple(range(len(axes))))
    return moved[tuple(indices[:, n] for n in layout.modes[k])]


def _weigh(layout: Layout, k: int, node: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    axes = [axis for axis, label in enumerate(layout.nodes[k]) if label in layout.mode_labels]
    if not axes:
        return node
    node = node.movedim(axes, tuple(range(len(axes)))).unsqueeze(0)
    for n in layout.modes[k]:
        node = (node * vectors[n].reshape(len(vectors[n]), -1, *[1] * (node.ndim - 2))).sum(dim=1)
    return node
