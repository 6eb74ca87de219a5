"""The small start of a matrix: along the gradient at zero, where the flow from a vanishing start first turns."""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.seen import Seen
from ranklens.seeds import normals
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import set_balanced_

DENSE = 2**20  # entries of a matrix up to which its singular vectors are those of a dense one
POWER = 4  # iterations beyond


@torch.no_grad()
def aligned_(net: TensorNetwork, seen: Seen, scale: float, *, seed: int = 0) -> TensorNetwork:
    r"""Set a deep matrix to balanced factors of a small multiple of what is seen, holes as zeros: W_0 = scale Y / |Y|.

    At zero the gradient of the squared error is a multiple of Y, so a flow from a vanishing start of a deep
    matrix first grows along Y's leading singular vectors: the start stands where that phase leads. A random one would
    also get there, but of 16 random directions among 10^5 none points anywhere near.

    Args:
        net: a deep matrix; narrower than Y it gets Y's leading singular triples.
        seen: entries, of order one.
        scale: spectral norm of the start in units of sqrt(rows columns).
        seed: of the power iteration, for large matrices.

    Returns:
        The network.
    """
    width = min(net.layout.sizes[bond] for bond in net.bonds)
    U, s, V = leading(seen, width, seed=seed)
    top = float(s[0])
    size = scale * float(np.sqrt(seen.shape[0] * seen.shape[1]))
    set_balanced_(net.nodes, U, s * (size / top if top > 0 else 0.0), V)
    return net


def leading(seen: Seen, width: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The `width` leading singular triples U, s, V of what is seen, holes as zeros."""
    rows, columns = seen.shape
    i, j = seen.indices.cpu().numpy().T
    matrix = sp.csr_matrix((seen.values.cpu().numpy(), (i, j)), shape=(rows, columns))
    if rows * columns <= DENSE:
        U, s, Vh = torch.linalg.svd(torch.from_numpy(matrix.toarray()), full_matrices=False)
        return U[:, :width], s[:width], Vh[:width].T
    transposed = matrix.T.tocsr()
    Q: NDArray[np.float64] = normals([(columns, width)], seed, "directions of a power iteration")[0].numpy()
    for _ in range(POWER):
        Q = np.linalg.qr(transposed @ np.linalg.qr(matrix @ Q)[0])[0]
    U, s, Wh = np.linalg.svd(matrix @ Q, full_matrices=False)
    return torch.from_numpy(U), torch.from_numpy(s), torch.from_numpy(Q @ Wh.T)
