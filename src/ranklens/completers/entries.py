"""Entries of a network at many indices, with the inner factors of a deep matrix multiplied first."""

import math
from collections.abc import Sequence
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from ranklens.tensors import contract
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd

CHUNK = 2**18  # entries at a time, where no gradient is needed
ROWS = 4096  # looked up at a time: what stays in the cache is fast
PER_ENTRY = 32  # entries of a whole product that cost what one that is looked up does


def outer_factors(net: TensorNetwork) -> tuple[Tensor, Tensor]:
    """Left (rows, R) and right (R, columns) factors of a chain: the inner ones go to the side with fewer rows."""
    first, *inner, last = net.nodes
    if first.shape[0] <= last.shape[1]:
        for factor in inner:
            first = first @ factor
    else:
        for factor in reversed(inner):
            last = factor @ last
    return first, last


def entries(net: TensorNetwork, indices: Tensor) -> Tensor:
    """Differentiable entries at checked indices; a chain costs its inner products once, not once per entry."""
    if not is_chain(net):
        return contract.entries(net.layout, net.stacks, indices)
    left, right = outer_factors(net)
    return _Pairs.apply(left, right.T.contiguous(), indices)


class _Pairs(torch.autograd.Function):
    """Entries of left right^T, with sparse matrices for gradients.

    With G the gradient by the entries, scattered into a sparse matrix, the gradients are G right and G^T left. That
    keeps nothing of size entries x width, and is several times faster on a CPU than the scattered sum of autograd.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, indices)
        if math.prod((len(left), len(right))) <= PER_ENTRY * len(indices):
            return (left @ right.T)[tuple(indices.T)]
        parts = [torch.einsum("zr,zr->z", left[part[:, 0]], right[part[:, 1]]) for part in indices.split(ROWS)]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, indices = ctx.saved_tensors
        shape, gradient = (len(left), len(right)), gradients[0]
        if gradient.device.type == "cpu":
            i, j = indices.numpy().T
            G = sp.csr_matrix((gradient.numpy(), (i, j)), shape=shape)
            return torch.from_numpy(G @ right.numpy()), torch.from_numpy(G.T.tocsr() @ left.numpy()), None
        G = torch.sparse_coo_tensor(indices.T, gradient, shape)
        return G @ right, G.T @ left, None


@torch.no_grad()
def predict(net: TensorNetwork, indices: Tensor) -> Tensor:
    """Entries in float64, a chunk at a time: memory does not grow with their number."""
    parts = [entries(net, part).double() for part in indices.split(CHUNK)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=indices.device)


@torch.no_grad()
def spectra(net: TensorNetwork) -> list[Tensor]:
    """What stands in a network, largest first: singular values of a chain, else component norms of every bond."""
    if is_chain(net):
        left, right = outer_factors(net)
        return [product_svd(left.double(), right.T.double())[1]]
    return [net.component_norms(bond).sort(descending=True).values for bond in net.bonds]


def as_network(equation: str, nodes: Sequence[Tensor]) -> TensorNetwork:
    """A float64 network of given nodes."""
    return TensorNetwork(equation, [node.double() for node in nodes])


def copied(net: TensorNetwork) -> TensorNetwork:
    """The same network with numbers of its own."""
    return TensorNetwork((net.layout.nodes, net.layout.out), [node.detach().clone() for node in net.nodes])
