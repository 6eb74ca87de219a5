"""Partial contractions of a network at given entries, with some bonds left open."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from ranklens.tensors.contract import BATCH, PLANNED_BATCH, batch_labels, look_up
from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.paths import Path, find_path


def environment(net: TensorNetwork, node: int, indices: Int[Tensor, "batch order"]) -> Float[Tensor, "batch *bonds"]:
    """Return the environment of a node at every entry: the contraction of all other nodes.

    An entry is linear in each node, because a node is used once. It equals the inner product of the environment with
    the slice of the node at the entry's mode indices, so the environment is also the derivative of the entry with
    respect to that slice.

    Args:
        net: the network.
        node: position of the node in `net.nodes`.
        indices: mode indices, one row per entry. They are not checked.

    Returns:
        A tensor (batch, *bonds): one row per entry, then the bonds of the node in the order of the node's axes.

    >>> import torch, ranklens as rl
    >>> from ranklens.tensors.environment import environment
    >>> net = rl.cp((3, 4, 5), rank=2, std=1.0)
    >>> around = environment(net, 0, torch.tensor([[2, 3, 4]]))
    >>> bool(torch.allclose(around[0] @ net.nodes[0][2], net.tensor()[2, 3, 4]))
    True
    """
    layout = net.layout
    bonds = [label for label in layout.nodes[node] if label not in layout.mode_labels]
    others = [k for k in range(len(layout.nodes)) if k != node]
    return open_entries(net, others, bonds, indices)


def component_entries(
    net: TensorNetwork, bond: Label, indices: Int[Tensor, "batch order"]
) -> Float[Tensor, "batch size"]:
    """Return the parts of entries that the components of a bond contribute. They sum to the entry of the network.

    Args:
        net: the network.
        bond: label of the bond.
        indices: mode indices, one row per entry. They are not checked.

    Returns:
        A tensor (batch, size of the bond): one row per entry and one column per component.

    >>> import torch, ranklens as rl
    >>> from ranklens.tensors.environment import component_entries
    >>> net, indices = rl.cp((3, 4, 5), rank=2, std=1.0), torch.tensor([[2, 3, 4], [0, 0, 0]])
    >>> bool(torch.allclose(component_entries(net, "r", indices).sum(dim=1), net.entries(indices)))
    True
    """
    return open_entries(net, range(len(net.layout.nodes)), [bond], indices)


def open_entries(
    net: TensorNetwork, nodes: Sequence[int], bonds: Sequence[Label], indices: Int[Tensor, "batch order"]
) -> Float[Tensor, "batch *bonds"]:
    """Contract some nodes of a network at every entry, and leave some bonds open.

    Args:
        net: the network.
        nodes: positions of the nodes that take part.
        bonds: labels of the bonds that are not summed. All other bonds of the chosen nodes are.
        indices: mode indices, one row per entry. They are not checked.

    Returns:
        A tensor (batch, *sizes of `bonds`): one row per entry, then the open bonds in the order of `bonds`.
    """
    layout, values = net.layout, net.nodes
    looked_up = [look_up(layout, k, values[k], indices) for k in nodes]
    path = layout.plan(("open", tuple(nodes), tuple(bonds)), lambda: _find(layout, nodes, bonds))
    found = path(looked_up)
    return found.expand(len(indices), *[layout.sizes[bond] for bond in bonds])


def _find(layout: Layout, nodes: Sequence[int], bonds: Sequence[Label]) -> Path:
    labels = [batch_labels(layout, k) for k in nodes]
    batch = (BATCH,) if any(BATCH in x for x in labels) else ()
    return find_path(labels, (*batch, *bonds), {**layout.sizes, BATCH: PLANNED_BATCH})
