"""Ground truths of low rank, drawn from a seed and rescaled."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.seeds import derive
from ranklens.tensors import families
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.trees import ModeTree

__all__ = ["cp", "hierarchical", "low_rank_matrix"]


def __dir__() -> list[str]:
    return __all__


def low_rank_matrix(
    shape: Sequence[int], rank: int, norm: float | None = None, *, seed: int = 0
) -> Float[Tensor, "rows columns"]:
    """U V^T with standard normal U, V of width `rank`, rescaled to Frobenius norm `norm`.

    Args:
        shape: (rows, columns).
        rank: of the result.
        norm: Frobenius norm; None takes sqrt(number of entries), so that entries are of order one.
        seed: of the draw.

    Returns:
        A float64 matrix.

    >>> import ranklens as rl
    >>> W = rl.targets.low_rank_matrix((20, 30), rank=3)
    >>> int(rl.numerical_rank(W)), round(float(W.norm()) ** 2)
    (3, 600)
    """
    net = families.deep_matrix(shape, 2, rank, std=1.0, seed=derive(seed, "low-rank matrix"))
    return _rescaled(net, norm)


def cp(shape: Sequence[int], rank: int, norm: float | None = None, *, seed: int = 0) -> Tensor:
    """A sum of `rank` outer products of standard normal vectors, rescaled; arguments as for `low_rank_matrix`."""
    return _rescaled(families.cp(shape, rank, std=1.0, seed=derive(seed, "CP target")), norm)


def hierarchical(
    shape: Sequence[int],
    rank: int | Mapping[tuple[int, ...], int],
    norm: float | None = None,
    *,
    tree: ModeTree | None = None,
    seed: int = 0,
) -> Tensor:
    """A hierarchical factorization with widths `rank`, rescaled: random orthonormal columns, a normal root.

    Its hierarchical rank along the tree is `rank` (one for all interior tree nodes, or a mapping), as far as sizes
    allow, and not nearly less: with orthonormal columns below, the singular values of the matricizations at the root's
    children are the root's weights. Products of normal weights would have a fifth singular value some 300 times
    smaller than the first. Other arguments as for `low_rank_matrix`.

    >>> import ranklens as rl
    >>> s = rl.singular_values(rl.matricize(rl.targets.hierarchical((8,) * 4, rank=5, norm=64.0), (0, 1)))
    >>> bool(s[4] > s[0] / 200), bool(s[5] < 1e-12 * s[0])
    (True, True)
    """
    net = families.hierarchical(shape, rank, tree, std=1.0, seed=derive(seed, "hierarchical target"))
    with torch.no_grad():
        for node in net.nodes:
            if node.ndim == 2 and node.shape[0] >= node.shape[1]:
                Q, R = torch.linalg.qr(node)
                node.copy_(Q * R.diagonal().sign())
    return _rescaled(net, norm)


def _rescaled(net: TensorNetwork, norm: float | None) -> Tensor:
    with torch.no_grad():
        target = net.tensor()
    norm = math.sqrt(target.numel()) if norm is None else norm
    if not (math.isfinite(norm) and norm >= 0):
        raise ValueError(f"norm is {norm}; it must be a finite number, zero or more")
    return target * (norm / target.norm())
