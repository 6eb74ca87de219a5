"""The layout of a tensor network: its labels and sizes, on which the plan of a contraction depends."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

Label = Hashable
Plan = TypeVar("Plan")


@dataclass(frozen=True, eq=False)
class Layout:
    """The labels and sizes of a network, without the values of its nodes.

    Labels that are not those of a network raise a ValueError: an index repeated within a node, a bond that meets a
    single node, a mode in two nodes, an index of different sizes, or an index of the end tensor that no node has.

    Attributes:
        nodes: the labels of every node, one per axis.
        shapes: the shape of every node.
        out: the labels of the end tensor: the modes.
        frozen: positions of the nodes that are not trained. They are not stored together with trained nodes.
        plans: cache of everything that is planned for this layout, by kind. Use it through `plan`.
    """

    nodes: tuple[tuple[Label, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    out: tuple[Label, ...]
    frozen: frozenset[int] = frozenset()
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse labels that are not those of a network.

        Raises:
            ValueError: for such labels, with the reason.
        """
        if len(self.nodes) != len(self.shapes):
            raise ValueError(f"the equation has {len(self.nodes)} nodes, but {len(self.shapes)} tensors were given")
        for k, (labels, shape) in enumerate(zip(self.nodes, self.shapes, strict=True)):
            if len(labels) != len(shape):
                raise ValueError(f"node {k} has indices {labels}, but shape {shape}; give one index per axis")
            if len(set(labels)) < len(labels):
                twice = next(x for x in labels if labels.count(x) > 1)
                raise ValueError(f"index {twice!r} appears twice in node {k}; a trace is not a network of free nodes")
            if 0 in shape:
                raise ValueError(f"node {k} has shape {shape}; every size must be at least 1")
        if len(set(self.out)) < len(self.out):
            raise ValueError(f"the end tensor's indices {self.out} repeat one; name every mode once on the right")
        for label, meets in self.incidence.items():
            sizes = {self.shapes[k][axis] for k, axis in meets}
            if len(sizes) > 1:
                raise ValueError(f"index {label!r} has sizes {sorted(sizes)} in different nodes; make them equal")
            if label in self.mode_labels and len(meets) > 1:
                raise ValueError(
                    f"mode {label!r} is in nodes {[k for k, _ in meets]}; a mode may be in one node only: "
                    f"join the others to it through a bond"
                )
            if label not in self.mode_labels and len(meets) < 2:
                raise ValueError(f"bond {label!r} meets only node {meets[0][0]}; a summed index must join nodes")
        for label in self.out:
            if label not in self.incidence:
                raise ValueError(f"index {label!r} on the right is in no node")

    def freeze(self, nodes: Sequence[int]) -> "Layout":
        """Return this layout with more nodes frozen, and nothing planned.

        Args:
            nodes: positions of the nodes.
        """
        return Layout(self.nodes, self.shapes, self.out, self.frozen | set(nodes))

    def plan(self, kind: Hashable, make: Callable[[], Plan]) -> Plan:
        """Return the plan of a kind from `plans`; on the first call, make and store it.

        Args:
            kind: the key of the plan in `plans`.
            make: makes the plan. What it returns may depend only on this layout and on `kind`.
        """
        if kind not in self.plans:
            self.plans[kind] = make()
        found: Plan = self.plans[kind]
        return found

    @cached_property
    def incidence(self) -> dict[Label, tuple[tuple[int, int], ...]]:
        """Return {label: pairs (node, axis) at which it occurs, in the order of the nodes}, for modes and bonds."""
        found = defaultdict(list)
        for k, labels in enumerate(self.nodes):
            for axis, label in enumerate(labels):
                found[label].append((k, axis))
        return {label: tuple(meets) for label, meets in found.items()}

    @cached_property
    def sizes(self) -> dict[Label, int]:
        """Return {label: size of the axes that have it}, for modes and bonds."""
        return {label: self.shapes[meets[0][0]][meets[0][1]] for label, meets in self.incidence.items()}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the end tensor."""
        return tuple(self.sizes[label] for label in self.out)

    @cached_property
    def mode_labels(self) -> frozenset[Label]:
        """Return the labels of the end tensor as a set, in which a label is looked up fast."""
        return frozenset(self.out)

    @cached_property
    def bonds(self) -> tuple[Label, ...]:
        """Return the labels of the summed indices, in the order in which the nodes first mention them."""
        return tuple(label for label in self.incidence if label not in self.mode_labels)

    def meets(self, bond: Label) -> tuple[tuple[int, int], ...]:
        """Return the pairs (node, axis) at which a bond meets nodes, in the order of the nodes.

        Raises:
            ValueError: if the label is no bond.
        """
        if not isinstance(bond, Hashable) or bond not in self.sizes or bond in self.out:
            raise ValueError(f"bond {bond!r} is not a bond of this network; its bonds are {self.bonds}")
        return self.incidence[bond]

    @cached_property
    def modes(self) -> tuple[tuple[int, ...], ...]:
        """Return one tuple per node: its modes, in the order of its axes, as positions in the end tensor's shape."""
        place = {label: n for n, label in enumerate(self.out)}
        return tuple(tuple(place[x] for x in labels if x in place) for labels in self.nodes)
