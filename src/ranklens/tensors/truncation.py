"""Truncation: a smaller network, made of the components that count."""

import copy
from collections.abc import Hashable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.tensors.network import TensorNetwork


@torch.no_grad()
def truncate(net: TensorNetwork, widths: Mapping[Hashable, int]) -> TensorNetwork:
    r"""A new, smaller network with only the components of largest norm at the bonds that are named.

        W' = sum of the components r in S,    S = the widths[bond] largest sigma_r of the bond, in their old order.

    The end tensor is the sum of the components of any one bond, so that a component of norm zero can go and nothing
    changes; what goes with the others is bounded by `rl.theory.pruning_bound`.

    Args:
        net: the network, which is not changed.
        widths: {bond: how many components stay}; bonds that are not named stay whole. All norms are those of `net`,
            and of equal ones the first stay.

    Returns:
        A network of the same equation, with smaller nodes (slices are left out, not zeroed); frozen nodes stay frozen.

    Raises:
        ValueError: for a label that is no bond, a width below one or above the bond's size, or nodes that are not
            finite, whose components have no order.
        TypeError: for a width that is no integer.

    Source: Razin, Maman, Cohen (ICML 2022), the pruning of local components in their section 5.

    >>> import torch, ranklens as rl
    >>> net = rl.init.balance_(rl.cp((3, 4, 5), rank=3, std=1.0))
    >>> with torch.no_grad():
    ...     for node in net.nodes:
    ...         node[:, 1] = 0.0  # the component in the middle is zero
    >>> small = rl.truncate(net, {"r": 2})
    >>> small.component_norms("r").shape, torch.equal(small.tensor(), net.tensor())
    (torch.Size([2]), True)
    """
    check_finite(net)
    nodes = [node.detach() for node in net.nodes]
    for bond, width in widths.items():
        stay = kept(net, bond, width)
        for k, axis in net.layout.meets(bond):
            nodes[k] = nodes[k].index_select(axis, stay)
    return TensorNetwork((net.layout.nodes, net.layout.out), nodes).freeze(*net.frozen)


@torch.no_grad()
def kept(net: TensorNetwork, bond: Hashable, width: int) -> Int[Tensor, " width"]:
    """Positions of the components that a truncation keeps: the largest, in increasing order of position."""
    norms = log_norms(net, bond)
    if isinstance(width, bool) or not hasattr(width, "__index__"):
        raise TypeError(f"the width of bond {bond!r} is {width!r}; it must be an integer")
    if not 1 <= width <= len(norms):
        raise ValueError(f"the width of bond {bond!r} is {width}; keep 1 to {len(norms)} of its components")
    return norms.sort(descending=True, stable=True).indices[: int(width)].sort().values


@torch.no_grad()
def log_norms(net: TensorNetwork, bond: Hashable) -> Float[Tensor, " size"]:
    """Log of the component norms in float64: those of a bond of very many nodes may underflow or overflow."""
    return copy.deepcopy(net).double().slice_norms(bond).log().sum(dim=0)


def check_finite(net: TensorNetwork) -> None:
    """Refuse networks whose components cannot be told by size, naming the node."""
    if all(bool(torch.isfinite(stack).all()) for stack in net.stacks):
        return
    k = next(k for k, node in enumerate(net.nodes) if not bool(torch.isfinite(node).all()))
    raise ValueError(f"node {k} has entries that are not finite; its components cannot be told by size")
