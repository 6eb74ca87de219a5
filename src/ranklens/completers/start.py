"""Networks for completion: a small, balanced, aligned deep matrix, and networks made wider or narrower on the way."""

import math

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ranklens.completers.entries import outer_factors, predict
from ranklens.completers.observed import Observed
from ranklens.seeds import normals
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.products import product_svd, set_balanced_

# Entries of a matrix up to which its singular vectors are computed from a dense copy; larger ones stay sparse.
DENSE = 2**20
# Iterations of the power method for larger matrices. The initialization needs the leading directions only roughly.
POWER = 4
# Spectral norm of the components that are added to a deep matrix, divided by sqrt(rows * columns).
FRESH = 1e-4


@torch.no_grad()
def aligned_(net: TensorNetwork, observed: Observed, scale: float, *, seed: int = 0) -> TensorNetwork:
    r"""Set a deep matrix to balanced factors of a small multiple of Y, the matrix of observed values, 0 elsewhere.

    At zero, the gradient of the squared error with respect to the end matrix is a negative multiple of Y. A flow from
    a vanishing initialization of a deep matrix therefore first grows along the leading singular vectors of Y, and this
    initialization is aligned with them. A random one would align in time as well, but in a matrix with 10^5 rows none
    of 16 random directions is close to a leading singular vector.

    Args:
        net: a deep matrix, changed in place. If its smallest width is below the rank of Y, only as many leading
            singular values of Y are used as the width allows.
        observed: the entries to fit, of order one.
        scale: spectral norm that the end matrix is to have, divided by sqrt(rows * columns).
        seed: seed of the power method, which large matrices need.

    Returns:
        The network.
    """
    width = min(net.layout.sizes[bond] for bond in net.bonds)
    U, s, V = leading(observed, width, seed=seed)
    largest = float(s[0])
    norm = scale * math.sqrt(observed.shape[0] * observed.shape[1])
    set_balanced_(net.nodes, U, s * (norm / largest if largest > 0 else 0.0), V)
    return net


@torch.no_grad()
def widened(net: TensorNetwork, observed: Observed, widest: int, *, seed: int = 0) -> TensorNetwork:
    r"""Return a deep matrix of twice the width, with new components along the leading directions of its residuals.

    The new components are balanced and as small as those of a new initialization, so the end matrix hardly changes.
    Their directions are those in which gradient flow grows next, among those that are orthogonal to the present
    components: a second component along the same direction would add no rank.

    Args:
        net: a deep matrix, which is not changed.
        observed: the entries to fit, of order one.
        widest: the width of the result, if that is less than twice the present one.
        seed: seed of the power method, which large matrices need.

    Returns:
        The wider deep matrix.
    """
    width = net.layout.sizes[net.bonds[0]]
    more = min(2 * width, widest) - width
    left, right = outer_factors(net)
    present = product_svd(left.double().cpu(), right.T.double().cpu())[::2]
    U, s, V = leading(observed.minus(predict(net, observed.indices)), more, seed=seed, without=present)
    share = FRESH * math.sqrt(math.prod(net.shape)) / max(float(s[0]), torch.finfo(s.dtype).tiny)
    shapes = [(left.shape[0], more), *[(more, more)] * (len(net.nodes) - 2), (more, right.shape[1])]
    fresh = [torch.zeros(shape, dtype=net.dtype, device=net.device) for shape in shapes]
    set_balanced_(fresh, *(part.to(left) for part in (U, s * share, V)))
    old_first, *old_inner, old_last = net.nodes
    first, *inner, last = fresh
    nodes = [
        torch.cat([old_first, first], dim=1),
        *[torch.block_diag(old, new) for old, new in zip(old_inner, inner, strict=True)],
        torch.cat([old_last, last]),
    ]
    return net.with_nodes(nodes)


@torch.no_grad()
def narrowed(net: TensorNetwork, width: int) -> TensorNetwork:
    """Return a network with a single bond without all but the largest components of the bond.

    Args:
        net: the network, which is not changed.
        width: number of components to keep; their order stays.
    """
    (bond,) = net.bonds
    kept = net.component_norms(bond).topk(width).indices.sort().values
    nodes = [node.detach() for node in net.nodes]
    for k, axis in net.layout.meets(bond):
        nodes[k] = nodes[k].index_select(axis, kept)
    return net.with_nodes(nodes)


def leading(
    observed: Observed, width: int, *, seed: int = 0, without: tuple[Tensor, ...] | None = None
) -> tuple[Float[Tensor, "rows R"], Float[Tensor, " R"], Float[Tensor, "columns R"]]:
    """Return the leading singular values and vectors of the matrix of observed values, with 0 elsewhere.

    Args:
        observed: entries of a matrix; repeated ones are added up, and values are multiplied by their weights.
        width: number of singular values, at most.
        seed: seed of the power method, which is used for matrices of more than 2^20 entries.
        without: orthonormal columns of length `rows` and others of length `columns`, from which the matrix is projected
            away on its left and on its right; None leaves it as it is.

    Returns:
        U, of shape (rows, R), s, of shape (R,) and in descending order, and V, of shape (columns, R). The columns of U
        and V are the singular vectors. R is `width`, or min(rows, columns) if that is smaller.
    """
    rows, columns = observed.shape
    i, j = observed.indices.cpu().numpy().T
    values = (observed.counts() * observed.values).cpu().numpy()
    matrix = sp.csr_matrix((values, (i, j)), shape=(rows, columns))
    left, right = (np.zeros((size, 0)) for size in (rows, columns)) if without is None else (x.numpy() for x in without)
    if rows * columns <= DENSE:
        dense = _without(right, _without(left, matrix.toarray()).T).T
        U, s, Vh = torch.linalg.svd(torch.from_numpy(dense), full_matrices=False)
        return U[:, :width], s[:width], Vh[:width].T
    transposed = matrix.T.tocsr()
    Q = _without(right, normals([(columns, width)], seed, "directions of a power iteration")[0].numpy())
    for _ in range(POWER):
        P = np.linalg.qr(_without(left, matrix @ Q))[0]
        Q = np.linalg.qr(_without(right, transposed @ P))[0]
    U, s, Wh = np.linalg.svd(_without(left, matrix @ Q), full_matrices=False)
    return torch.from_numpy(U), torch.from_numpy(s), torch.from_numpy(Q @ Wh.T)


def _without(directions: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the columns of a matrix less their projections on orthonormal directions."""
    return columns - directions @ (directions.T @ columns) if directions.size else columns
