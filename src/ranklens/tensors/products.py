"""Factors of matrices: the singular value decomposition of a product, and balanced factors of a matrix."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def product_svd(
    left: Float[Tensor, "rows inner"], right: Float[Tensor, "columns inner"]
) -> tuple[Float[Tensor, "rows size"], Float[Tensor, " size"], Float[Tensor, "columns size"]]:
    """Compute the thin singular value decomposition of `left @ right.T` without forming the product.

    With thin QR decompositions left = Q_a R_a and right = Q_b R_b, the product is Q_a (R_a R_b^T) Q_b^T. The matrix in
    the middle is small, and its singular values are those of the product, because Q_a and Q_b have orthonormal columns.

    Args:
        left: the left factor.
        right: the transposed right factor, of the dtype of `left`.

    Returns:
        U (rows, size), s (size,) and V (columns, size) with left right^T = U diag(s) V^T and s in decreasing order,
        where size = min(rows, inner, columns).

    >>> import torch
    >>> from ranklens.tensors.products import product_svd
    >>> left, right = torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0], [2.0], [0.0]])
    >>> U, s, V = product_svd(left, right)
    >>> [round(float(x), 5) for x in s], bool(torch.allclose((U * s) @ V.T, left @ right.T))
    ([10.0], True)
    """
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right)
    U, s, Vh = torch.linalg.svd(R_left @ R_right.T, full_matrices=False)
    return Q_left @ U, s, Q_right @ Vh.T


@torch.no_grad()
def set_balanced_(
    nodes: Sequence[Float[Tensor, "_ _"]],
    U: Float[Tensor, "rows size"],
    s: Float[Tensor, " size"],
    V: Float[Tensor, "columns size"],
) -> None:
    """Set the factors of a deep matrix W_L ... W_1 to balanced factors of U diag(s) V^T, in place.

    The factors are W_L = U S^(1/L), W_l = S^(1/L) in between and W_1 = S^(1/L) V^T, with S = diag(s). They are
    balanced, W_(l+1)^T W_(l+1) = W_l W_l^T, because U and V have orthonormal columns. Where a bond is larger than the
    number of singular values, the factors are padded by zeros.

    Args:
        nodes: the L factors, W_L first. They are overwritten.
        U: left singular vectors, as columns.
        s: singular values, at most as many as the smallest bond between the factors.
        V: right singular vectors, as columns.

    >>> import torch
    >>> from ranklens.tensors.products import set_balanced_
    >>> nodes = [torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2)]
    >>> set_balanced_(nodes, torch.eye(2), torch.tensor([8.0, 1.0]), torch.eye(2))
    >>> (nodes[0] @ nodes[1] @ nodes[2]).round().tolist()
    [[8.0, 0.0], [0.0, 1.0]]
    """
    root = s ** (1 / len(nodes))
    factors = [U * root, *[root.diag()] * (len(nodes) - 2), (V * root).T] if len(nodes) > 1 else [(U * s) @ V.T]
    for node, factor in zip(nodes, factors, strict=True):
        node.zero_()
        node[: factor.shape[0], : factor.shape[1]] = factor


@torch.no_grad()
def nuclear_gap(left: Float[Tensor, "*batch rows inner"], right: Float[Tensor, "*batch columns inner"]) -> Tensor:
    r"""Return how far two factors are from the smallest factors of their product: (|A|^2 + |B|^2) / 2 - |A B^T|_*.

    The nuclear norm |W|_* is the least value of (|A|^2 + |B|^2) / 2 over all factors A, B with A B^T = W. The gap is
    therefore never negative, and it is zero if and only if A^T A = B^T B. Weight decay on two factors acts on their
    product like a penalty on the nuclear norm as far as the gap is closed.

    Args:
        left: the left factor A, or a batch of factors.
        right: the right factor B, before it is transposed.

    Returns:
        One number per product, of the shape of the batch.

    Source: Srebro, Rennie, Jaakkola (NeurIPS 2004) for the identity; Kobayashi, Akram, von Oswald (NeurIPS 2024) for
    products of attention weights.

    >>> import torch
    >>> from ranklens.tensors.products import nuclear_gap
    >>> A, B = torch.tensor([[2.0], [0.0]]), torch.tensor([[2.0], [0.0]])
    >>> float(nuclear_gap(A, B)), float(nuclear_gap(4 * A, B / 4))  # one product, balanced and unbalanced
    (0.0, 28.125)
    """
    squares = left.square().sum((-2, -1)) + right.square().sum((-2, -1))
    return squares / 2 - torch.linalg.svdvals(left @ right.mT).sum(-1)
