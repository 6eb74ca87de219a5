"""Mode trees: how the modes of a tensor are grouped by a hierarchical factorization. Frozen data, no numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Node = tuple[int, ...]
Nested = Any  # an int or a tuple of Nested; Python's type system cannot say so without ceremony


@dataclass(frozen=True)
class ModeTree:
    """A rooted tree over modes 0 .. N-1: the children of a node partition it, the leaves are single modes.

    A node is the sorted tuple of the modes below it, so ``(0, 1)`` is the node that joins modes 0 and 1.

    Attributes:
        children_of: pairs (interior node, its children), children before parents; the root comes last.

    >>> import ranklens as rl
    >>> tree = rl.ModeTree.nested(((0, 1), (2, (3, 4))))
    >>> tree.interior
    ((0, 1), (3, 4), (2, 3, 4), (0, 1, 2, 3, 4))
    >>> tree.parent((2,)), tree.height
    ((2, 3, 4), 3)
    """

    children_of: tuple[tuple[Node, tuple[Node, ...]], ...]

    @classmethod
    def nested(cls, groups: Nested) -> "ModeTree":
        """A tree from nested tuples of mode numbers, as in ``((0, 1), (2, (3, 4)))``.

        Raises:
            ValueError: for a group of fewer than two, or modes that are not 0 .. N-1, each once.
            TypeError: for anything that is neither an integer nor a tuple or list.
        """
        modes = sorted(_modes(groups))
        for expected, mode in enumerate(modes):
            if mode != expected:
                problem = f"mode {mode} appears twice" if mode < expected else f"mode {expected} is missing"
                raise ValueError(
                    f"{problem}: a tree over {len(modes)} leaves has modes 0 to {len(modes) - 1}, each once"
                )
        found: list[tuple[int, Node, tuple[Node, ...]]] = []
        _collect(groups, found)
        return cls(tuple((node, children) for _, node, children in sorted(found, key=lambda x: (x[0], x[1]))))

    @classmethod
    def adjacent(cls, n: int, pool: int = 2) -> "ModeTree":
        """Neighbouring modes first, `pool` at a time: the tree of a circuit with ordinary (local) pooling.

        The last group of a level may be short; a last group of one is passed up as it is.
        """
        return _levels(n, pool, lambda nodes: nodes)

    @classmethod
    def distant(cls, n: int, pool: int = 2) -> "ModeTree":
        """Opposite modes first: at every level the two halves are interleaved, then grouped `pool` at a time.

        A middle one goes last. This is the pooling that the papers call "half", which undoes locality.

        >>> import ranklens as rl
        >>> rl.ModeTree.distant(4, 2).interior
        ((0, 2), (1, 3), (0, 1, 2, 3))
        """
        return _levels(n, pool, _interleave)

    @classmethod
    def square(cls, side: int, pool: int = 2) -> "ModeTree":
        """Two-dimensional pooling of a side x side grid of modes in row-major order, by pool x pool patches.

        Patches at the lower and right edge may be smaller.

        >>> import ranklens as rl
        >>> rl.ModeTree.square(4, 2).interior[0]
        (0, 1, 4, 5)
        """
        _check("side", side)
        _check("pool", pool)
        grid: list[list[Nested]] = [[row * side + column for column in range(side)] for row in range(side)]
        while len(grid) > 1:
            steps = range(0, len(grid), pool)
            grid = [[_join([x for row in grid[i : i + pool] for x in row[j : j + pool]]) for j in steps] for i in steps]
        return cls.nested(grid[0][0])

    @property
    def order(self) -> int:
        """N, the number of modes."""
        return len(self.root)

    @property
    def root(self) -> Node:
        """The node of all modes."""
        return self.children_of[-1][0]

    @cached_property
    def interior(self) -> tuple[Node, ...]:
        """The nodes that have children; children come before parents."""
        return tuple(node for node, _ in self.children_of)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Leaves, then interior nodes, the root last."""
        return (*((n,) for n in range(self.order)), *self.interior)

    def children(self, node: Node) -> tuple[Node, ...]:
        """The nodes that partition a node; none for a leaf."""
        self._check_node(node)
        return self._children.get(node, ())

    def parent(self, node: Node) -> Node | None:
        """The node above; None for the root."""
        self._check_node(node)
        return self._parents.get(node)

    @cached_property
    def height(self) -> int:
        """Edges from the root to the deepest leaf: the number of pooling levels of the circuit."""
        heights: dict[Node, int] = {}
        for node, children in self.children_of:
            heights[node] = 1 + max(heights.get(child, 0) for child in children)
        return heights[self.root]

    @cached_property
    def _children(self) -> dict[Node, tuple[Node, ...]]:
        return dict(self.children_of)

    @cached_property
    def _parents(self) -> dict[Node, Node]:
        return {child: node for node, children in self.children_of for child in children}

    def _check_node(self, node: Node) -> None:
        if node not in self._children and not (len(node) == 1 and 0 <= node[0] < self.order):
            raise ValueError(f"{node} is no node of this tree; its interior nodes are {self.interior[:20]}")


def _modes(groups: Nested) -> list[int]:
    if isinstance(groups, int) and not isinstance(groups, bool):
        return [groups]
    if not isinstance(groups, (tuple, list)):
        raise TypeError(f"{groups!r} is neither a mode number nor a tuple of groups")
    if len(groups) < 2:
        raise ValueError(f"the group {groups!r} has {len(groups)} members; a node joins at least two")
    return [mode for group in groups for mode in _modes(group)]


def _collect(groups: Nested, found: list[tuple[int, Node, tuple[Node, ...]]]) -> tuple[int, Node]:
    """Append (height, node, children) of every interior node below and return (height, node) of this one."""
    if isinstance(groups, int):
        return 0, (groups,)
    below = [_collect(group, found) for group in groups]
    height = 1 + max(h for h, _ in below)
    node = tuple(sorted(mode for _, child in below for mode in child))
    found.append((height, node, tuple(child for _, child in below)))
    return height, node


def _levels(n: int, pool: int, order: Callable[[Sequence[Nested]], Sequence[Nested]]) -> ModeTree:
    _check("n", n)
    _check("pool", pool)
    nodes: Sequence[Nested] = list(range(n))
    while len(nodes) > 1:
        nodes = order(nodes)
        nodes = [_join(nodes[k : k + pool]) for k in range(0, len(nodes), pool)]
    return ModeTree.nested(nodes[0])


def _join(group: Sequence[Nested]) -> Nested:
    return group[0] if len(group) == 1 else tuple(group)


def _interleave(nodes: Sequence[Nested]) -> Sequence[Nested]:
    half = len(nodes) // 2
    pairs = [x for both in zip(nodes[:half], nodes[len(nodes) - half :], strict=True) for x in both]
    return [*pairs, *nodes[half : len(nodes) - half]]


def _check(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; it must be an integer")
    if value < 2:
        raise ValueError(f"{name} is {value}; a tree joins at least two modes at a time, so it must be at least 2")
