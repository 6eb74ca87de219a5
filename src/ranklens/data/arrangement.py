"""Where features belong on a tree: those that say much about each other close together, by minimal balanced cuts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ranklens.tensors.trees import ModeTree, Node

GAIN = 1e-12  # of all weights: a swap that lowers the cut by less is none


def correlations(values: Float[Tensor, "M N"]) -> Float64[Tensor, "N N"]:
    """The absolute correlation of all pairs of features over M rows; 0 for one that never changes, and on the diagonal.

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


def arrange(weights: Float[Tensor, "N N"], tree: ModeTree) -> Int64[Tensor, "N"]:
    r"""Which feature to put at every mode of a tree, so that little weight is cut between subtrees.

    The entanglement for a canonical partition is small where features on one side say little about those on the other.
    Finding the best arrangement is NP-hard, and correlations are a cheap stand-in for what features say: from the
    root on, features are split into parts of the sizes of the children so that

        sum of |correlation| over pairs in different parts

    is small, by a split along the graph's second eigenvector and swaps of pairs while one lowers the cut.

    Args:
        weights: symmetric and non-negative, such as `correlations`.
        tree: over the N features.

    Returns:
        features at modes: `features[:, arrange(...)]` is arranged.

    Raises:
        ValueError: for weights of another shape than the tree's, not symmetric, or negative.

    Source: Alexander, De La Vega, Razin, Cohen (NeurIPS 2023), the algorithm for feature arrangement; theirs cuts by
        METIS.

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
    """Give the modes of a node the features of a pool."""
    children = tree.children(node)
    if not children:
        features[list(node)] = pool
        return
    for child, part in zip(children, _parts(weights, [len(child) for child in children], pool), strict=True):
        _place(weights, tree, child, part, features)


def _parts(weights: Tensor, sizes: Sequence[int], pool: Tensor) -> list[Tensor]:
    """A pool in parts of given sizes: halves, and halves of these."""
    if len(sizes) == 1:
        return [pool]
    half = len(sizes) // 2
    first = _side(weights[pool][:, pool], sum(sizes[:half]))
    return _parts(weights, sizes[:half], pool[first]) + _parts(weights, sizes[half:], pool[~first])


def _side(weights: Tensor, size: int) -> Tensor:
    """Which features are on the first side of a small cut: along the second eigenvector, then swaps while one gains."""
    degrees = weights.sum(dim=0)
    _, vectors = torch.linalg.eigh(torch.diag(degrees) - weights)
    first = torch.zeros(len(weights), dtype=torch.bool)
    first[vectors[:, min(1, len(weights) - 1)].argsort(stable=True)[:size]] = True
    least = GAIN * float(degrees.sum())
    for _ in range(len(weights) ** 2):
        inside = weights @ first.double()
        moves = torch.where(first, degrees - 2 * inside, 2 * inside - degrees)  # what a feature gains by changing sides
        gains = moves[first][:, None] + moves[~first] - 2 * weights[first][:, ~first]
        if gains.numel() == 0 or not float(gains.max()) > least:
            break
        i, j = divmod(int(gains.argmax()), gains.shape[1])
        leaves, comes = first.nonzero()[i], (~first).nonzero()[j]
        first[leaves], first[comes] = False, True
    return first
