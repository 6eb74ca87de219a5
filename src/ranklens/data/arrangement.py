"""Arrangement of features on a mode tree, correlated ones close together, by small balanced cuts of a graph."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ranklens.tensors.annotations import checked
from ranklens.tensors.trees import ModeTree, Node

# Smallest gain of a swap, as a share of the sum of all weights. Smaller gains may be rounding errors, and swapping for
# them would never end. Gains that differ by less count as equal. A weight of a smaller share counts as zero.
GAIN = 1e-12
# Number of decimals of the unit eigenvector that divides a part. Entries that agree in them count as equal, because
# rounding errors would decide which of them is larger.
DECIMALS = 9
# The golden ratio: the fractional parts of its multiples are spread evenly and follow no pattern of a graph.
GOLDEN = (1 + math.sqrt(5)) / 2


@checked
def correlations(values: Float[Tensor, "M N"]) -> Float64[Tensor, "N N"]:
    """Return the absolute correlation of every pair of features, over the rows of a data set.

    The correlation of a constant feature with any other is set to 0, and so is the diagonal.

    Args:
        values: M rows, at least two, of N features.

    Returns:
        A symmetric matrix of shape (N, N), of numbers from 0 to 1. Entry (i, j) is for features i and j.

    Raises:
        ValueError: for fewer than two rows, or numbers that are not finite.

    >>> import torch, ranklens as rl
    >>> x = torch.tensor([[0.0, 0.0, 7.0], [1.0, -2.0, 7.0], [2.0, -4.0, 7.0]])
    >>> [round(c, 6) for c in rl.data.correlations(x)[0].tolist()]
    [0.0, 1.0, 0.0]
    """
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"values have shape {tuple(values.shape)}; pass (rows, features) with at least two rows")
    if not bool(torch.isfinite(values).all()):
        row, column = (int(k) for k in (~torch.isfinite(values)).nonzero()[0])
        raise ValueError(
            f"feature {column} of row {row} is {float(values[row, column])}; correlations need finite numbers"
        )
    centred = values.double() - values.double().mean(dim=0)
    norms = centred.norm(dim=0)
    unit = centred / norms.where(norms > 0, 1.0)
    return (unit.T @ unit).abs().clamp_max(1.0).fill_diagonal_(0.0)


@checked
def arrange(weights: Float[Tensor, "N N"], tree: ModeTree) -> Int64[Tensor, "N"]:
    r"""Return the feature to put at each mode of a tree, so that strongly related features share a subtree.

    The entanglement of a data set for a canonical partition of the tree is small if the features on its two sides are
    nearly independent. The best arrangement is NP-hard to find, so this is a heuristic that replaces dependence by
    correlation. Starting at the root, the features of a node are divided among its children so that the cut,

        sum of the weights of all pairs of features in different parts,

    is small. To divide features in two, groups without weights between them are kept whole as far as the sizes of the
    parts allow, and one group is divided along the second eigenvector of its graph's Laplacian. Then pairs of features
    are swapped as long as a swap lowers the cut. Ties are decided by the order of the features, so that rounding errors
    in the weights do not change the result.

    Args:
        weights: symmetric and non-negative weights of pairs of features, such as `correlations`.
        tree: a mode tree over the N features.

    Returns:
        (N,) numbers of features: entry n is the feature to put at mode n. If `values` has one column per feature, then
        `values[:, arrange(weights, tree)]` has the columns in the order of the modes.

    Raises:
        ValueError: for weights of another size than the tree, not symmetric, or negative.

    Source: Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), the algorithm for feature arrangement, which computes
        cuts by METIS.

    >>> import torch, ranklens as rl
    >>> pairs = torch.zeros(4, 4)
    >>> pairs[0, 3] = pairs[3, 0] = pairs[1, 2] = pairs[2, 1] = 1.0  # 0 goes with 3, and 1 with 2
    >>> sorted(sorted(part) for part in rl.data.arrange(pairs, rl.ModeTree.adjacent(4)).reshape(2, 2).tolist())
    [[0, 3], [1, 2]]
    """
    if weights.shape != (tree.order, tree.order):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; the tree of {tree.order} modes needs one per pair"
        )
    weights = weights.double()
    if not bool((weights >= 0).all()) or not torch.allclose(weights, weights.T):
        raise ValueError("weights must be symmetric and not negative, such as the absolute values of correlations")
    features = torch.zeros(tree.order, dtype=torch.int64)
    _place(weights, tree, tree.root, torch.arange(tree.order), features)
    return features


def _place(weights: Tensor, tree: ModeTree, node: Node, pool: Tensor, features: Tensor) -> None:
    """Assign the features of a pool to the modes of a node, in place."""
    children = tree.children(node)
    if not children:
        features[list(node)] = pool
        return
    for child, part in zip(children, _parts(weights, [len(child) for child in children], pool), strict=True):
        _place(weights, tree, child, part, features)


def _parts(weights: Tensor, sizes: Sequence[int], pool: Tensor) -> list[Tensor]:
    """Return a pool of features in parts of the given sizes, by dividing it in two, and the halves again."""
    if len(sizes) == 1:
        return [pool]
    half = len(sizes) // 2
    first = _side(weights[pool][:, pool], sum(sizes[:half]))
    return _parts(weights, sizes[:half], pool[first]) + _parts(weights, sizes[half:], pool[~first])


def _side(weights: Tensor, size: int) -> Tensor:
    """Return which features are in the first of two parts, of the given size, so that the cut between them is small."""
    degrees = weights.sum(dim=0)
    least = GAIN * float(degrees.sum())
    first = _first_guess(weights, size, least)
    for _ in range(len(weights) ** 2):
        inside = weights @ first.double()
        moves = torch.where(
            first, degrees - 2 * inside, 2 * inside - degrees
        )  # change of the cut if a feature changes sides, negated
        gains = moves[first][:, None] + moves[~first] - 2 * weights[first][:, ~first]
        if gains.numel() == 0 or not float(gains.max()) > least:
            break
        i, j = divmod(int((gains / least).round().argmax()), gains.shape[1])
        out, into = first.nonzero()[i], (~first).nonzero()[j]
        first[out], first[into] = False, True
    return first


def _first_guess(weights: Tensor, size: int, least: float) -> Tensor:
    """Return which features start in the first of two parts: whole groups as far as they fit, and a share of one more.

    A group is a connected component of the graph of all weights larger than `least`. The largest group comes first,
    and of equally large groups the one with the first feature.
    """
    first = torch.zeros(len(weights), dtype=torch.bool)
    _, numbers = connected_components((weights > least).numpy(), directed=False)
    groups = [torch.from_numpy(numbers == k).nonzero()[:, 0] for k in range(numbers.max() + 1)]
    groups.sort(key=len, reverse=True)
    too_large = []
    for group in groups:
        if len(group) <= size - int(first.sum()):
            first[group] = True
        else:
            too_large.append(group)
    if too_large:
        group = too_large[0]
        first[group[_along(weights[group][:, group])[: size - int(first.sum())]]] = True
    return first


def _along(weights: Tensor) -> Tensor:
    """Return the nodes of a connected graph in ascending order of the second eigenvector of its Laplacian.

    An eigenvector is determined up to its sign, or, if its eigenvalue is multiple, up to a rotation. The eigenvector is
    therefore taken that is the projection of one fixed vector onto the eigenspace.
    """
    if len(weights) == 1:
        return torch.zeros(1, dtype=torch.int64)
    values, vectors = torch.linalg.eigh(torch.diag(weights.sum(dim=0)) - weights)
    space = vectors[:, 1:][:, values[1:] <= values[1] + GAIN * values[-1]]
    fixed = GOLDEN * torch.arange(len(weights), dtype=weights.dtype) % 1
    projected = space @ (space.T @ fixed)
    return (projected / projected.norm()).round(decimals=DECIMALS).argsort(stable=True)
