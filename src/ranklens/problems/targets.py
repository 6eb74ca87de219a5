"""Random tensors of low rank, as ground truths of recovery problems."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.seeds import derive
from ranklens.tensors import arguments, families
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.trees import ModeTree

__all__ = ["cp", "hierarchical", "low_rank_matrix"]


def __dir__() -> list[str]:
    return __all__


def low_rank_matrix(
    shape: Sequence[int], rank: int, norm: float | None = None, *, seed: int = 0
) -> Float[Tensor, "rows columns"]:
    """Return U V^T with standard normal U and V of `rank` columns, rescaled to Frobenius norm `norm`.

    Args:
        shape: (rows, columns).
        rank: rank of the matrix.
        norm: Frobenius norm; None takes sqrt(number of entries), so that entries are of order one.
        seed: seed of U and V.

    Returns:
        A float64 matrix of shape `shape`.

    >>> import ranklens as rl
    >>> W = rl.targets.low_rank_matrix((20, 30), rank=3)
    >>> int(rl.numerical_rank(W)), round(float(W.norm()) ** 2)
    (3, 600)
    """
    net = families.deep_matrix(shape, 2, arguments.count("rank", rank), std=1.0, seed=derive(seed, "low-rank matrix"))
    return _rescaled(net, norm)


def cp(shape: Sequence[int], rank: int, norm: float | None = None, *, seed: int = 0) -> Tensor:
    """Return a sum of outer products of standard normal vectors, rescaled to Frobenius norm `norm`.

    Args:
        shape: sizes of the modes.
        rank: number of outer products.
        norm: Frobenius norm; None takes sqrt(number of entries), so that entries are of order one.
        seed: seed of the vectors.

    Returns:
        A float64 tensor of shape `shape` and of CP rank at most `rank`.

    >>> import ranklens as rl
    >>> int(rl.numerical_rank(rl.matricize(rl.targets.cp((6, 7, 8), rank=2), (0,))))
    2
    """
    return _rescaled(families.cp(shape, rank, std=1.0, seed=derive(seed, "CP target")), norm)


def hierarchical(
    shape: Sequence[int],
    rank: int | Mapping[tuple[int, ...], int],
    norm: float | None = None,
    *,
    tree: ModeTree | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the end tensor of a random hierarchical factorization, rescaled to Frobenius norm `norm`.

    Leaf and interior nodes have random orthonormal columns where they are tall enough, and the root has standard normal
    weights. The hierarchical rank along the tree is then `rank`, as far as the sizes of the modes allow, and clearly
    so: at the children of the root, the singular values of the matricizations are the weights of the root. With
    normal weights in all nodes, the fifth singular value of the example below would be about 300 times smaller than
    the first.

    Args:
        shape: sizes of the modes.
        rank: width of every interior tree node, or {modes of a tree node: its width}.
        norm: Frobenius norm; None takes sqrt(number of entries), so that entries are of order one.
        tree: the mode tree; None is the binary tree that joins adjacent modes first.
        seed: seed of the nodes.

    Returns:
        A float64 tensor of shape `shape`.

    >>> import ranklens as rl
    >>> s = rl.singular_values(rl.matricize(rl.targets.hierarchical((8,) * 4, rank=5, norm=64.0), (0, 1)))
    >>> bool(s[4] > s[0] / 200), bool(s[5] < 1e-12 * s[0])
    (True, True)
    """
    with arguments.renamed("width", "rank"):
        net = families.hierarchical(shape, rank, tree, std=1.0, seed=derive(seed, "hierarchical target"))
    with torch.no_grad():
        for node in net.nodes:
            if node.ndim == 2 and node.shape[0] >= node.shape[1]:
                Q, R = torch.linalg.qr(node)
                node.copy_(Q * R.diagonal().sign())
    return _rescaled(net, norm)


def _rescaled(net: TensorNetwork, norm: float | None) -> Tensor:
    """Return the end tensor of a network, rescaled to a Frobenius norm.

    Raises:
        ValueError: if the norm is negative or not finite.
    """
    with torch.no_grad():
        target = net.tensor()
    norm = math.sqrt(target.numel()) if norm is None else arguments.number("norm", norm, least=0)
    return target * (norm / target.norm())
