"""The factors of networks that have one per mode: products of matrices and CP factorizations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.completers.entries import outer_factors
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd


def is_factored(net: TensorNetwork) -> bool:
    """Return whether a network is a product of matrices or a CP factorization, which has one factor per mode."""
    one_bond = len(net.bonds) == 1 and all(len(modes) == 1 for modes in net.layout.modes)
    return is_chain(net) or (one_bond and len(net.nodes) == len(net.shape))


@torch.no_grad()
def factors_of(net: TensorNetwork) -> list[Float[Tensor, "_ R"]]:
    """Return one factor per mode of a product of matrices or a CP factorization, with components of equal norms.

    Args:
        net: the network.
    """
    if is_chain(net):
        left, right = outer_factors(net)
        U, s, V = product_svd(left.double().cpu(), right.T.double().cpu())
        return [U * s.sqrt(), V * s.sqrt()]
    factors: list[Tensor] = [torch.empty(0)] * len(net.shape)
    for node, modes, labels in zip(net.nodes, net.layout.modes, net.layout.nodes, strict=True):
        axis = labels.index(net.layout.out[modes[0]])
        factors[modes[0]] = node.detach().double().cpu().movedim(axis, 0)
    norms = torch.stack([factor.norm(dim=0).clamp_min(1e-300) for factor in factors])
    size = norms.log().mean(dim=0).exp()
    return [factor / norm * size for factor, norm in zip(factors, norms, strict=True)]


@torch.no_grad()
def set_factors_(net: TensorNetwork, factors: Sequence[Float[Tensor, "_ R"]]) -> None:
    """Write factors into a product of two matrices or a CP factorization.

    Args:
        net: a network with one node per mode, whose bond has as many components as the factors.
        factors: one factor per mode.
    """
    for node, modes, labels in zip(net.nodes, net.layout.modes, net.layout.nodes, strict=True):
        axis = labels.index(net.layout.out[modes[0]])
        node.movedim(axis, 0).copy_(factors[modes[0]])


def has_one_node_per_mode(net: TensorNetwork) -> bool:
    """Return whether a network is a product of two matrices or a CP factorization, with one node for every mode."""
    return is_factored(net) and len(net.nodes) == len(net.shape)
