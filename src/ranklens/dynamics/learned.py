"""The part of a network that is learned: some index values of every bond, and the entries of the nodes at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.tensors.layout import Label, Layout


@dataclass(frozen=True)
class Learned:
    """Index values of the bonds of a network that count as learned; all other index values are the rest.

    Attributes:
        layout: labels and sizes of the network.
        at: {bond: its learned index values, in the order in which they were learned}.

    >>> import ranklens as rl
    >>> net = rl.cp((3, 4, 5), rank=6)
    >>> learned = Learned(net.layout, {"r": (4, 1)})
    >>> [tuple(node.shape) for node in learned.part(net.nodes)]
    [(3, 2), (4, 2), (5, 2)]
    """

    layout: Layout
    at: Mapping[Label, tuple[int, ...]]

    @property
    def empty(self) -> bool:
        """Return whether no index value of any bond is learned."""
        return not any(self.at.values())

    def rest(self) -> "Learned":
        """Return the index values that are not learned, in increasing order."""
        sizes = self.layout.sizes
        return Learned(
            self.layout, {bond: tuple(r for r in range(sizes[bond]) if r not in at) for bond, at in self.at.items()}
        )

    def adding(self, new: Mapping[Label, int]) -> "Learned":
        """Return these index values, and one more at some bonds.

        Args:
            new: {bond: the index value that is learned next}.
        """
        return Learned(self.layout, {bond: (*at, new[bond]) if bond in new else at for bond, at in self.at.items()})

    def part(self, nodes: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of the nodes, restricted to the learned index values.

        Args:
            nodes: one tensor per node, of the sizes of the layout.
        """
        found = []
        for labels, node in zip(self.layout.nodes, nodes, strict=True):
            part = node.detach()
            for axis, label in enumerate(labels):
                if label in self.at:
                    part = part.index_select(axis, torch.tensor(self.at[label], dtype=torch.int64))
            found.append(part.clone())
        return found

    def placed(self, nodes: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """Return copies of the nodes whose learned entries are replaced.

        Args:
            nodes: one tensor per node, of the sizes of the layout.
            parts: the learned entries of every node, of the shapes that `part` returns.
        """
        found = []
        for labels, node, part in zip(self.layout.nodes, nodes, parts, strict=True):
            full = node.detach().clone()
            axes = [
                torch.tensor(self.at.get(label, range(size)), dtype=torch.int64)
                for label, size in zip(labels, full.shape, strict=True)
            ]
            full[torch.meshgrid(*axes, indexing="ij")] = part
            found.append(full)
        return found

    def mask(self) -> list[Tensor]:
        """Return, for every node, where all bond indices of an entry are learned: a tensor of True and False."""
        found = []
        for labels, shape in zip(self.layout.nodes, self.layout.shapes, strict=True):
            inside = torch.ones(shape, dtype=torch.bool)
            for axis, label in enumerate(labels):
                if label in self.at:
                    along = torch.zeros(shape[axis], dtype=torch.bool)
                    along[list(self.at[label])] = True
                    inside &= along.reshape([-1 if k == axis else 1 for k in range(len(shape))])
            found.append(inside)
        return found
