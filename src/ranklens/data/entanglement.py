"""The entanglement of a data set: how much its features on one side of a partition say about those on the other.

A data set of M rows of N features is a tensor, the mean over rows of a weight (the label) times the outer product of
the row's feature vectors. It has as many entries as a network of N modes, but its matricizations have rank M at most,
so their singular values come from M x M matrices.
"""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ranklens.tensors import measures
from ranklens.tensors.trees import ModeTree, Node

LARGEST = 2**26  # entries of a data tensor that is written out


def data_tensor(features: Float[Tensor, "M N D"], weights: Float[Tensor, "M"] | None = None) -> Float64[Tensor, "..."]:
    """The data tensor itself, for few features: sum_m weight_m x_m1 (outer) ... (outer) x_mN / M.

    Args:
        features: M rows of N features, each a vector of D numbers.
        weights: one per row, such as labels; None takes ones.

    Returns:
        D^N entries.

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


def entanglement(
    features: Float[Tensor, "M N D"], modes: Sequence[int], *, weights: Float[Tensor, "M"] | None = None
) -> Float64[Tensor, ""]:
    """The entanglement entropy of the data tensor for a partition of the features, exactly, without the tensor.

    With a_m and b_m the outer products of row m's vectors on either side, the matricization is sum_m w_m a_m b_m', and
    its squared singular values are the eigenvalues of F W B W F', where F'F = A, W = diag(w), and A and B are the Gram
    matrices of the a_m and b_m: entrywise products over features of M x M matrices of inner products. Vectors are first
    divided by their norms, whose logarithms go into the weights, so that nothing overflows, however many features.
    The cost is M^2 N D + M^3.

    Args:
        features: M rows of N features, each a vector of D numbers; take some hundred rows.
        modes: the features on one side.
        weights: one per row, such as labels; None takes ones.

    Returns:
        The entropy in nats, at most the log of the rank of the matricization: of M, and of the dimension of either
        side. 0 for the zero tensor.

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


def canonical_entanglement(
    features: Float[Tensor, "M N D"], tree: ModeTree, *, weights: Float[Tensor, "M"] | None = None
) -> dict[Node, Float64[Tensor, ""]]:
    """The entanglement of a data set for the canonical partitions of a tree: each of its nodes against all the rest.

    A hierarchical factorization of width R over the tree has no more than ln R for the node of its bond, so it can fit
    a data set only as far as these are low.

    Args:
        features: M rows of N features, each a vector of D numbers.
        tree: over the N features.
        weights: one per row, such as labels; None takes ones.

    Returns:
        {node: entropy in nats}, for all nodes but the root.

    Raises:
        ValueError: for a tree of another order, or as for `entanglement`.

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


def unreachable(
    features: Float[Tensor, "M N D"], tree: ModeTree, width: int, *, weights: Float[Tensor, "M"] | None = None
) -> Float64[Tensor, ""]:
    """The share of a data tensor's squared norm that no hierarchical factorization of a width reaches, at the least.

    The matricization of such a factorization for any node has rank R at most, so by Eckart and Young it is off by at
    least sum_{r > R} sigma_r^2, of the node where that is largest.

    Args:
        features: M rows of N features, each a vector of D numbers.
        tree: over the N features.
        width: R, of all bonds.
        weights: one per row, such as labels; None takes ones.

    Returns:
        A number from 0, where width R may suffice, to 1.

    Raises:
        ValueError: for a width below 1, or as for `canonical_entanglement`.

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
    """The singular values at every node but the root, largest first, up to a common factor."""
    features, weights = _check(features, weights)
    if tree.order != features.shape[1]:
        raise ValueError(f"the tree has {tree.order} modes, the rows {features.shape[1]} features")
    directions, scaled = _scaled(features, weights)
    outside = directions.new_ones(len(directions), len(directions))
    yield from _below(directions, scaled, tree, tree.root, outside)


def _below(
    directions: Tensor, weights: Tensor, tree: ModeTree, node: Node, outside: Tensor
) -> Iterator[tuple[Node, Tensor]]:
    """The spectra of all nodes below one, whose complement has the Gram matrix `outside`; depth first, for memory."""
    children = tree.children(node)
    for child in children:
        beside = [mode for other in children if other != child for mode in other]
        rest = outside * _gram(directions, beside)
        yield child, _squares(directions, weights, child, rest).sqrt().flip(0)
        yield from _below(directions, weights, tree, child, rest)


def _check(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
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
    """Feature vectors of norm one, and the weights times all the norms, up to a common factor."""
    largest = features.abs().amax(dim=2, keepdim=True)
    shrunk = features / largest.where(largest > 0, 1.0)  # whose squares neither under- nor overflow
    norms = shrunk.norm(dim=2, keepdim=True)
    logs = (norms[..., 0].log() + largest[..., 0].log()).sum(dim=1) + weights.abs().log()
    top = logs.max()
    size = (logs - top).exp() if bool(torch.isfinite(top)) else torch.zeros_like(weights)
    return shrunk / norms.where(norms > 0, 1.0), size * weights.sign()


def _gram(directions: Tensor, modes: Sequence[int]) -> Tensor:
    """Products over modes of the inner products of rows: between -1 and 1, so that they can only fade away."""
    found = directions.new_ones(len(directions), len(directions))
    for mode in modes:
        found *= directions[:, mode] @ directions[:, mode].T
    return found


def _squares(directions: Tensor, weights: Tensor, modes: Sequence[int], rest: Tensor) -> Tensor:
    """The squared singular values of a matricization, smallest first; what rounding leaves is zero."""
    side = _factor(directions, modes) * weights
    squares = torch.linalg.eigvalsh(side @ rest @ side.T)
    top = squares.max()
    return squares.where(squares > len(directions) * torch.finfo(squares.dtype).eps * top, 0.0)


def _factor(directions: Tensor, modes: Sequence[int]) -> Tensor:
    """F with F'F the Gram matrix of one side: its outer products themselves where these are short, else a root."""
    count, _, size = directions.shape
    if size ** len(modes) <= count:
        return reduce(lambda found, x: (found[:, :, None] * x[:, None]).flatten(1), directions[:, modes].unbind(1)).T
    values, vectors = torch.linalg.eigh(_gram(directions, modes))
    return values.clamp_min(0.0).sqrt()[:, None] * vectors.T
