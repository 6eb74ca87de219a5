"""The entanglement of a data set for a partition of its features: how strongly the two sides depend on each other.

A data set of M rows of N features, each a vector of D numbers, defines a tensor with N modes: the mean over rows of a
weight, such as the label, times the outer product of the row's feature vectors. The tensor has D^N entries, but its
matricizations have rank M at most, and their singular values are computed from M x M matrices.
"""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ranklens.tensors import measures
from ranklens.tensors.annotations import checked
from ranklens.tensors.trees import ModeTree, Node

# Largest number of entries of a data tensor that is formed: half a GiB of float64 numbers.
LARGEST = 2**26


@checked
def data_tensor(features: Float[Tensor, "M N D"], weights: Float[Tensor, "M"] | None = None) -> Float64[Tensor, "..."]:
    """Compute the data tensor: (1 / M) sum over rows m of w_m x_m1 (outer) ... (outer) x_mN.

    Here w_m is the weight of row m, and x_mn is the vector of its feature n. The tensor has D^N entries, so N must be
    small.

    Args:
        features: M rows of N features, each a vector of D numbers.
        weights: one number per row, such as its label; None takes ones.

    Returns:
        A float64 tensor with N modes of size D; mode n belongs to feature n.

    Raises:
        ValueError: for more than 2^26 entries, no rows, or numbers that are not finite.

    Source: Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), definition of the data tensor.
    """
    features, weights = _check(features, weights)
    count, modes, size = features.shape
    if size**modes > LARGEST:
        raise ValueError(
            f"{modes} features of {size} numbers make a tensor of {size}^{modes} entries; use entanglement"
        )
    rows = reduce(lambda found, x: (found[:, :, None] * x[:, None]).flatten(1), features.unbind(1))
    return (weights @ rows / count).reshape((size,) * modes)


@checked
def entanglement(
    features: Float[Tensor, "M N D"], modes: Sequence[int], *, weights: Float[Tensor, "M"] | None = None
) -> Float64[Tensor, ""]:
    """Compute the entanglement entropy of the data tensor for a partition of the features, without the tensor.

    Let a_m and b_m be the outer products of the vectors of row m on either side of the partition, and w_m its weight.
    The matricization is then sum_m w_m a_m b_m', divided by M. Its squared singular values are, up to a common factor,
    the eigenvalues of F W B W F', where W = diag(w), A and B are the Gram matrices of the a_m and the b_m, and F'F = A.
    A and B are entrywise products over features of M x M matrices of inner products. Vectors are first divided by their
    norms, and logarithms of norms are added to those of the weights, so that nothing overflows for many features. The
    result is exact up to rounding, at a cost of M^2 N D + M^3.

    Args:
        features: M rows of N features, each a vector of D numbers. It is meant for a few hundred rows.
        modes: numbers of the features on one side of the partition.
        weights: one number per row, such as its label; None takes ones.

    Returns:
        A scalar: the entropy, in nats, of the squared singular values of the data tensor's matricization, divided by
        their sum; 0 for the zero tensor. It is at most the logarithm of the rank of the matricization, and so of M
        and of the dimension of either side.

    Raises:
        ValueError: for modes that do not exist, repeat, or leave one side empty; no rows; numbers that are not finite.

    Source: Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), appendix on computing it.

    >>> import math, torch, ranklens as rl
    >>> bits = torch.tensor([[0, 0, 1], [1, 1, 1]])  # the first two always agree, the third says nothing
    >>> one_hot = torch.nn.functional.one_hot(bits).double()
    >>> together, alone = (float(rl.data.entanglement(one_hot, [mode])) for mode in (0, 2))
    >>> abs(together - math.log(2)) < 1e-12, abs(alone) < 1e-12
    (True, True)
    """
    directions, scaled = _scaled(*_check(features, weights))
    count = features.shape[1]
    for mode in modes:
        if not 0 <= mode < count:
            raise ValueError(f"mode {mode} does not exist; there are {count} features, 0 to {count - 1}")
    if len(set(modes)) < len(modes) or not 0 < len(modes) < count:
        raise ValueError(f"modes {tuple(modes)} must name some of the {count} features, each once, and not all")
    others = [mode for mode in range(count) if mode not in set(modes)]
    return measures.entropy(_squares(directions, scaled, modes, _gram(directions, others)))


@checked
def canonical_entanglement(
    features: Float[Tensor, "M N D"], tree: ModeTree, *, weights: Float[Tensor, "M"] | None = None
) -> dict[Node, Float64[Tensor, ""]]:
    """Compute the entanglement of a data set for each canonical partition of a tree: a node against all other features.

    The entanglement is the entanglement entropy of the data tensor, (1 / M) sum over rows of the weight times the outer
    product of the row's vectors, for the matricization with the node's features as rows. A hierarchical factorization
    of width R over the tree has an entanglement of at most ln R for each node. It can therefore fit a data set well
    only if the entanglement of the data set is low for all nodes.

    Args:
        features: M rows of N features, each a vector of D numbers.
        tree: a mode tree over the N features.
        weights: one number per row, such as its label; None takes ones.

    Returns:
        {node: entropy in nats, a scalar} for all tree nodes except the root, the leaves included. A node is the tuple
        of its features.

    Source: Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), theorems 1 and 2.

    >>> import torch, ranklens as rl
    >>> bits = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0]])  # 0 with 1, 2 with 3
    >>> one_hot = torch.nn.functional.one_hot(bits).double()
    >>> for tree in (rl.ModeTree.adjacent(4), rl.ModeTree.distant(4)):
    ...     found = rl.data.canonical_entanglement(one_hot, tree)
    ...     print({node: round(float(x), 3) for node, x in found.items() if len(node) == 2})
    {(0, 1): 0.0, (2, 3): 0.0}
    {(0, 2): 1.386, (1, 3): 1.386}
    """
    return {node: measures.entropy(spectrum.square()) for node, spectrum in _spectra(features, tree, weights)}


@checked
def unreachable(
    features: Float[Tensor, "M N D"], tree: ModeTree, width: int, *, weights: Float[Tensor, "M"] | None = None
) -> Float64[Tensor, ""]:
    """Compute a lower bound of the relative squared error of every hierarchical factorization of a given width.

    The error is the squared Frobenius distance of the end tensor to the data tensor (see `data_tensor`), divided by the
    squared norm of the data tensor. The matricization of such a factorization for any node of the tree has rank at most
    R, the width. By the theorem of Eckart and Young its squared distance to the data tensor is at least sum_{r > R}
    sigma_r^2, where sigma_r are the singular values of the data tensor's matricization in falling order. The bound is
    the largest of these sums over the nodes, divided by the squared norm of the data tensor.

    Args:
        features: M rows of N features, each a vector of D numbers.
        tree: a mode tree over the N features.
        width: size R of all bonds, at least 1.
        weights: one number per row, such as its label; None takes ones.

    Returns:
        A scalar from 0 to 1: the bound. If it is 0, a factorization of this width may equal the data tensor.

    Raises:
        ValueError: for a width below 1, a tree over another number of features, or features that are not finite.

    >>> import torch, ranklens as rl
    >>> bits = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0]])  # 0 with 1, 2 with 3
    >>> one_hot = torch.nn.functional.one_hot(bits).double()
    >>> for tree in (rl.ModeTree.adjacent(4), rl.ModeTree.distant(4)):
    ...     print([round(float(rl.data.unreachable(one_hot, tree, width)), 3) for width in (1, 2, 4)])
    [0.5, 0.0, 0.0]
    [0.75, 0.5, 0.0]
    """
    if width < 1:
        raise ValueError(f"width is {width}; it must be at least 1")
    tails = [
        spectrum[width:].square().sum() / spectrum.square().sum() for _, spectrum in _spectra(features, tree, weights)
    ]
    return torch.stack(tails).nan_to_num(0.0).max()


def _spectra(features: Tensor, tree: ModeTree, weights: Tensor | None) -> Iterator[tuple[Node, Tensor]]:
    """Yield every node but the root with the singular values of its matricization, in falling order.

    The singular values are those of the data tensor up to a common factor.

    Yields:
        A node, and its (M,) or fewer singular values.

    Raises:
        ValueError: for a tree over another number of features.
    """
    features, weights = _check(features, weights)
    if tree.order != features.shape[1]:
        raise ValueError(f"the tree has {tree.order} modes, the rows {features.shape[1]} features")
    directions, scaled = _scaled(features, weights)
    outside = directions.new_ones(len(directions), len(directions))
    yield from _below(directions, scaled, tree, tree.root, outside)


def _below(
    directions: Tensor, weights: Tensor, tree: ModeTree, node: Node, outside: Tensor
) -> Iterator[tuple[Node, Tensor]]:
    """Yield the nodes below a node with their singular values, depth first, to keep few Gram matrices in memory.

    `outside` is the Gram matrix of the features that are not in the node.

    Yields:
        A node, and its singular values.
    """
    children = tree.children(node)
    for child in children:
        beside = [mode for other in children if other != child for mode in other]
        rest = outside * _gram(directions, beside)
        yield child, _squares(directions, weights, child, rest).sqrt().flip(0)
        yield from _below(directions, weights, tree, child, rest)


def _check(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return features and weights in float64, ones for weights that are None, after checking shapes and numbers.

    Raises:
        ValueError: for features or weights of another shape, or numbers that are not finite.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; pass (rows, features, numbers), none of them zero"
        )
    weights = features.new_ones(len(features)) if weights is None else weights
    if weights.shape != (len(features),):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; pass one for each of the {len(features)} rows")
    for name, x in {"features": features, "weights": weights}.items():
        if not bool(torch.isfinite(x).all()):
            where = tuple(int(k) for k in (~torch.isfinite(x)).nonzero()[0])
            raise ValueError(f"{name} have {float(x[where])} at {where}; entanglement needs finite numbers")
    return features.detach().double(), weights.detach().double()


def _scaled(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return feature vectors of norm one, and the weights times all the norms, up to a common factor."""
    largest = features.abs().amax(dim=2, keepdim=True)
    shrunk = features / largest.where(largest > 0, 1.0)  # their squares neither underflow nor overflow
    norms = shrunk.norm(dim=2, keepdim=True)
    logs = (norms[..., 0].log() + largest[..., 0].log()).sum(dim=1) + weights.abs().log()
    top = logs.max()
    size = (logs - top).exp() if bool(torch.isfinite(top)) else torch.zeros_like(weights)
    return shrunk / norms.where(norms > 0, 1.0), size * weights.sign()


def _gram(directions: Tensor, modes: Sequence[int]) -> Tensor:
    """Return the products over modes of the inner products of all pairs of rows, which are between -1 and 1."""
    found = directions.new_ones(len(directions), len(directions))
    for mode in modes:
        found *= directions[:, mode] @ directions[:, mode].T
    return found


def _squares(directions: Tensor, weights: Tensor, modes: Sequence[int], rest: Tensor) -> Tensor:
    """Return the squared singular values of a matricization, smallest first, with rounding errors set to zero."""
    side = _factor(directions, modes) * weights
    squares = torch.linalg.eigvalsh(side @ rest @ side.T)
    top = squares.max()
    return squares.where(squares > len(directions) * torch.finfo(squares.dtype).eps * top, 0.0)


def _factor(directions: Tensor, modes: Sequence[int]) -> Tensor:
    """Return F with F'F = A, the Gram matrix of one side: the outer products if they are short, else a root of A."""
    count, _, size = directions.shape
    if size ** len(modes) <= count:
        return reduce(lambda found, x: (found[:, :, None] * x[:, None]).flatten(1), directions[:, modes].unbind(1)).T
    values, vectors = torch.linalg.eigh(_gram(directions, modes))
    return values.clamp_min(0.0).sqrt()[:, None] * vectors.T
