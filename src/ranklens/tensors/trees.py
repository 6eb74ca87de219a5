"""Mode trees: how a hierarchical factorization groups the modes of a tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

Node = tuple[int, ...]
# An int, or a sequence of Nested. The type checker of the tests cannot check a type that contains itself.
Nested: TypeAlias = int | Sequence[Any]


@dataclass(frozen=True)
class ModeTree:
    """A rooted tree whose leaves are the modes 0 .. N-1 of a tensor.

    A node is written as the sorted tuple of the modes below it: ``(0, 1)`` is the node that joins modes 0 and 1. The
    children of a node partition its modes, and the root has all modes.

    Attributes:
        children_of: pairs (interior node, its children). Children come before their parents, and the root is last.

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
        """Return the tree of nested tuples of mode numbers, such as ``((0, 1), (2, (3, 4)))``.

        Args:
            groups: a group is a mode number, or a tuple or list of two or more groups, which one node joins. Anything
                else raises a TypeError.

        Raises:
            ValueError: if the modes are not 0 .. N-1, each once, or a group has fewer than two members.

        >>> import ranklens as rl
        >>> rl.ModeTree.nested(((0, 2), 1)).interior
        ((0, 2), (0, 1, 2))
        """
        if isinstance(groups, tuple | list) and not groups:
            raise ValueError(f"groups is {groups!r}; it must have two members or more")
        modes = sorted(_modes(groups))
        for expected, mode in enumerate(modes):
            if mode != expected:
                problem = f"mode {mode} appears twice" if mode < expected else f"mode {expected} is missing"
                raise ValueError(
                    f"{problem} in groups: a tree over {len(modes)} leaves has modes 0 to {len(modes) - 1}, each once"
                )
        found: list[tuple[int, Node, tuple[Node, ...]]] = []
        _collect(groups, found)
        return cls(tuple((node, children) for _, node, children in sorted(found, key=lambda x: (x[0], x[1]))))

    @classmethod
    def adjacent(cls, n: int, pool: int = 2) -> "ModeTree":
        """Return the tree that joins neighbouring modes first, as a circuit with ordinary (local) pooling does.

        Args:
            n: number of modes.
            pool: number of nodes that are joined at a time. The last group of a level may be smaller. If it is a single
                node, the node is passed up to the next level as it is.

        >>> import ranklens as rl
        >>> rl.ModeTree.adjacent(4, 2).interior
        ((0, 1), (2, 3), (0, 1, 2, 3))
        """
        return _levels(n, pool, lambda nodes: nodes)

    @classmethod
    def distant(cls, n: int, pool: int = 2) -> "ModeTree":
        """Return the tree that joins modes from opposite halves first, as a circuit without local pooling does.

        At every level the two halves of the nodes are interleaved, and then joined `pool` at a time. If the number of
        nodes is odd, the one in the middle goes last.

        Args:
            n: number of modes.
            pool: number of nodes that are joined at a time. The last group of a level may be smaller. If it is a single
                node, the node is passed up to the next level as it is.

        >>> import ranklens as rl
        >>> rl.ModeTree.distant(4, 2).interior
        ((0, 2), (1, 3), (0, 1, 2, 3))
        """
        return _levels(n, pool, _interleave)

    @classmethod
    def square(cls, side: int, pool: int = 2) -> "ModeTree":
        """Return the tree of two-dimensional pooling, for modes on a square grid in row-major order.

        Args:
            side: number of rows and of columns of the grid.
            pool: number of rows and of columns of the patches that are joined into one node, level by level. Patches at
                the lower and at the right edge may be smaller.

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
        """Return the number N of modes."""
        return len(self.root)

    @property
    def root(self) -> Node:
        """Return the root: the node of all modes."""
        return self.children_of[-1][0]

    @cached_property
    def interior(self) -> tuple[Node, ...]:
        """Return the nodes that have children. Children come before their parents."""
        return tuple(node for node, _ in self.children_of)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes: the leaves, then the interior nodes with the root last."""
        return (*((n,) for n in range(self.order)), *self.interior)

    @checked
    def children(self, node: Node) -> tuple[Node, ...]:
        """Return the children of a node, which partition it. A leaf has none."""
        self._check_node(node)
        return self._children.get(tuple(node), ())

    @checked
    def parent(self, node: Node) -> Node | None:
        """Return the parent of a node, or None for the root."""
        self._check_node(node)
        return self._parents.get(tuple(node))

    @cached_property
    def height(self) -> int:
        """Return the number of edges from the root to the deepest leaf: the pooling levels of the circuit."""
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
        """Refuse a tuple that is not a node of this tree.

        Raises:
            ValueError: for such a tuple.
        """
        if tuple(node) not in self._children and not (len(node) == 1 and 0 <= node[0] < self.order):
            raise ValueError(f"node is {node}, which is none of this tree; its interior nodes are {self.interior[:20]}")


def _modes(groups: Nested) -> list[int]:
    """Return all mode numbers in nested groups, in their order.

    Raises:
        TypeError: if a group is neither a mode number nor a tuple or list.
        ValueError: if a group has fewer than two members.
    """
    if isinstance(groups, int) and not isinstance(groups, bool):
        return [groups]
    if not isinstance(groups, (tuple, list)):
        raise TypeError(f"{groups!r} is neither a mode number nor a tuple of groups")
    if len(groups) < 2:
        raise ValueError(f"the group {groups!r} has {len(groups)} members; a node joins at least two")
    return [mode for group in groups for mode in _modes(group)]


def _collect(groups: Nested, found: list[tuple[int, Node, tuple[Node, ...]]]) -> tuple[int, Node]:
    """Return the height and the node of a group, and note the same and the children of every group within it.

    Args:
        groups: a mode number, of height 0, or a group.
        found: the list to which (height, node, children) of every interior node is appended.
    """
    if isinstance(groups, int):
        return 0, (groups,)
    below = [_collect(group, found) for group in groups]
    height = 1 + max(h for h, _ in below)
    node = tuple(sorted(mode for _, child in below for mode in child))
    found.append((height, node, tuple(child for _, child in below)))
    return height, node


def _levels(n: int, pool: int, order: Callable[[Sequence[Nested]], Sequence[Nested]]) -> ModeTree:
    """Return the tree that joins `pool` nodes at a time, level by level, after putting each level into an order."""
    _check("n", n)
    _check("pool", pool)
    nodes: Sequence[Nested] = list(range(n))
    while len(nodes) > 1:
        nodes = order(nodes)
        nodes = [_join(nodes[k : k + pool]) for k in range(0, len(nodes), pool)]
    return ModeTree.nested(nodes[0])


def _join(group: Sequence[Nested]) -> Nested:
    """Return a group, or its only member."""
    return group[0] if len(group) == 1 else tuple(group)


def _interleave(nodes: Sequence[Nested]) -> Sequence[Nested]:
    """Return the nodes, taken in turn from the first and from the last half; one in the middle goes last."""
    half = len(nodes) // 2
    pairs = [x for both in zip(nodes[:half], nodes[len(nodes) - half :], strict=True) for x in both]
    return [*pairs, *nodes[half : len(nodes) - half]]


def _check(name: str, value: int) -> None:
    """Refuse a number that is not an integer of at least 2.

    Raises:
        TypeError: if the value is not an integer.
        ValueError: if the value is below 2.
    """
    if arguments.count(name, value) < 2:
        raise ValueError(f"{name} is {value}; a tree joins at least two modes at a time, so it must be at least 2")
