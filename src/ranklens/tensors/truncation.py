"""Truncation: a smaller network, made of the components of largest norm."""

import copy
from collections.abc import Hashable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.network import TensorNetwork, check_network


@torch.no_grad()
def truncate(net: TensorNetwork, widths: Mapping[Hashable, int]) -> TensorNetwork:
    r"""Return a smaller network that keeps only the components of largest norm at some bonds.

    At a bond of which `widths[bond]` components are kept, the end tensor becomes

        W' = sum of the components C_r over r in S,    S = the widths[bond] values r of largest norm sigma_r.

    The components that are kept stay in their order. The end tensor is the sum of the components of any one bond, so
    leaving out components of norm zero does not change it. `rl.theory.pruning_bound` bounds the change in general.

    Args:
        net: the network, which is not changed. Anything but a network raises a TypeError. Nodes that are not finite
            raise a ValueError, because their components have no order.
        widths: {bond: number of components to keep}. Bonds that are not named keep all components. Norms are those in
            `net`, whatever is left out at other bonds, and of equal ones the first are kept. A label that is no bond
            and a number below one or above the size of the bond raise a ValueError; a number that is no integer raises
            a TypeError.

    Returns:
        A network of the same equation with smaller nodes: slices are left out, not zeroed. Frozen nodes stay frozen.

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
    check_finite(check_network("net", net))
    widths = arguments.mapping("widths", widths)
    nodes = [node.detach() for node in net.nodes]
    for bond, width in widths.items():
        stay = kept(net, bond, width)
        for k, axis in net.layout.meets(bond):
            nodes[k] = nodes[k].index_select(axis, stay)
    return net.with_nodes(nodes)


@torch.no_grad()
def kept(net: TensorNetwork, bond: Hashable, width: int) -> Int[Tensor, " width"]:
    """Return the positions of the components of largest norm at a bond, in increasing order.

    Args:
        net: the network.
        bond: label of the bond.
        width: number of components. Of components of equal norm the first are taken.

    Raises:
        TypeError: if `width` is not an integer.
        ValueError: if `width` is below one or above the size of the bond.
    """
    norms = log_norms(net, bond)
    width = arguments.count(f"the width of bond {bond!r}", width, least=-1)
    if not 1 <= width <= len(norms):
        raise ValueError(f"the width of bond {bond!r} is {width}; keep 1 to {len(norms)} of its components")
    return norms.sort(descending=True, stable=True).indices[:width].sort().values


@torch.no_grad()
def log_norms(net: TensorNetwork, bond: Hashable) -> Float[Tensor, " size"]:
    """Return the natural logarithms of the component norms of a bond, in float64.

    A component norm is the product of the norms of the component's slices, and may underflow or overflow at a bond of
    very many nodes. The logarithm of a zero norm is -inf.

    Args:
        net: the network.
        bond: label of the bond.
    """
    return copy.deepcopy(net).double().slice_norms(bond).log().sum(dim=0)


def check_finite(net: TensorNetwork) -> None:
    """Refuse a network with entries that are not finite, whose components cannot be ordered by their norms.

    Raises:
        ValueError: for such a network, naming the first such node.
    """
    if all(bool(torch.isfinite(stack).all()) for stack in net.stacks):
        return
    k = next(k for k, node in enumerate(net.nodes) if not bool(torch.isfinite(node).all()))
    raise ValueError(f"node {k} has entries that are not finite; its components cannot be ordered by their norms")
