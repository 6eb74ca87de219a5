"""Entries of a network at many positions; the inner factors of a deep matrix are multiplied first."""

from typing import Any

import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranklens.tensors import contract
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

# Entries that are computed at a time where no gradient is needed, so that memory does not grow with their number.
CHUNK = 2**18
# Rows of the factors that are looked up at a time: few enough to stay in the processor's cache.
ROWS = 4096
# Entries of a whole matrix product that cost as much as one entry that is looked up row by row (measured).
PER_ENTRY = 32


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


def entries(net: TensorNetwork, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
    """Return entries of a network's end tensor, of shape (m,), differentiable in its nodes.

    Args:
        net: the network. The inner factors of a deep matrix are multiplied once, not once per entry.
        indices: (m, N) positions: column n is the index in mode n. They are not checked.
    """
    if not is_chain(net):
        return contract.entries(net.layout, net.stacks, indices)
    left, right = outer_factors(net)
    return _ProductEntries.apply(left, right.T.contiguous(), indices)


class _ProductEntries(torch.autograd.Function):
    """Entries of left right^T at given positions, with gradients by sparse matrix products.

    Let G be the sparse matrix that holds the gradient of the loss by every entry. The gradients by the factors are
    G right and G^T left. Nothing of size entries x width is kept, and on a CPU the sparse products are several times
    faster than the scattered sum of autograd.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, indices: Tensor) -> Tensor:
        """Return the entries: from the whole product, or row by row, whichever costs less."""
        ctx.save_for_backward(left, right, indices)
        if len(left) * len(right) <= PER_ENTRY * len(indices):
            return (left @ right.T)[tuple(indices.T)]
        parts = [torch.einsum("zr,zr->z", left[part[:, 0]], right[part[:, 1]]) for part in indices.split(ROWS)]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients by the left and by the right factor."""
        left, right, indices = ctx.saved_tensors
        shape, gradient = (len(left), len(right)), gradients[0]
        if gradient.device.type == "cpu":
            i, j = indices.numpy().T
            G = sp.csr_matrix((gradient.numpy(), (i, j)), shape=shape)
            return torch.from_numpy(G @ right.numpy()), torch.from_numpy(G.T.tocsr() @ left.numpy()), None
        G = torch.sparse_coo_tensor(indices.T, gradient, shape)
        return G @ right, G.T @ left, None


@torch.no_grad()
def predict(net: TensorNetwork, indices: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
    """Return entries of a network's end tensor, of shape (m,), in float64, without gradients.

    They are computed a chunk at a time, to save memory.

    Args:
        net: the network.
        indices: (m, N) positions: column n is the index in mode n. They are not checked.
    """
    parts = [entries(net, part).double() for part in indices.split(CHUNK)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=indices.device)


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
