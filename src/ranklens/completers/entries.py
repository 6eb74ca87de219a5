"""Entries of a network at many positions; the inner factors of a deep matrix are multiplied first."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.completers.pattern import Pattern
from ranklens.tensors import contract
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

# Entries that are computed at a time where no gradient is needed, so that memory does not grow with their number.
CHUNK = 2**18


def outer_factors(net: TensorNetwork) -> tuple[Float[Tensor, "rows R"], Float[Tensor, "R columns"]]:
    """Return two factors, of shapes (rows, R) and (R, columns), whose product is the end matrix of a deep matrix.

    The inner factors are multiplied into the outer factor of the side that has fewer rows or columns, which costs
    least.
    """
    first, *inner, last = net.nodes
    if first.shape[0] <= last.shape[1]:
        for factor in inner:
            first = first @ factor
    else:
        for factor in reversed(inner):
            last = factor @ last
    return first, last


class EntriesAt:
    """Entries of networks of one shape at many positions, which are sorted once, for the networks of a training.

    They are computed a chunk at a time, to save memory.

    Args:
        indices: (m, N) positions: column n is the index in mode n. They are not checked.
    """

    def __init__(self, indices: Int[Tensor, "m order"]) -> None:
        self._parts = indices.split(CHUNK)
        self._patterns: list[Pattern] = []  # for deep matrices

    @torch.no_grad()
    def __call__(self, net: TensorNetwork) -> Float[Tensor, " m"]:
        """Return entries of a network's end tensor, of shape (m,), in float64, without gradients.

        Args:
            net: the network. All networks that are deep matrices must have one dtype.
        """
        if not len(self._parts[0]):
            return torch.zeros(0, dtype=torch.float64, device=self._parts[0].device)
        if not is_chain(net):
            return torch.cat([contract.entries(net.layout, net.stacks, part).double() for part in self._parts])
        left, right = outer_factors(net)
        if not self._patterns:
            shape = (left.shape[0], right.shape[1])
            self._patterns = [Pattern(part, shape, net.dtype) for part in self._parts]
        turned = right.T.contiguous()
        return torch.cat([pattern.entries(left, turned).double() for pattern in self._patterns])


def predict(net: TensorNetwork, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
    """Return entries of a network's end tensor, of shape (m,), in float64, without gradients.

    Args:
        net: the network.
        indices: (m, N) positions: column n is the index in mode n. They are not checked.
    """
    return EntriesAt(indices)(net)


@torch.no_grad()
def spectra(net: TensorNetwork) -> list[Tensor]:
    """Return the singular values of a deep matrix, or the component norms of every bond of another network.

    Returns:
        A list. For a deep matrix it has one vector, the singular values of the end matrix in descending order. For
        other networks it has one vector per bond, in the order of `net.bonds`: the bond's component norms in
        descending order.
    """
    if is_chain(net):
        left, right = outer_factors(net)
        return [product_svd(left.double(), right.T.double())[1]]
    return [net.component_norms(bond).sort(descending=True).values for bond in net.bonds]
