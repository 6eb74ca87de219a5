"""Rank and norm measures: pure functions of matrices and tensors.

Tensors, numpy arrays and nested lists are accepted, of floating-point numbers that are finite. Matrices may have
leading batch dimensions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.checks import check_finite
from ranklens.tensors.convert import ArrayLike, as_floating, as_tensor
from ranklens.tensors.cp_rank import CPRankEstimate, cp_rank_estimate
from ranklens.tensors.trees import ModeTree, Node

__all__ = [
    "CPRankEstimate",
    "cp_rank_estimate",
    "distance_to_rank",
    "effective_rank",
    "effective_rank_of",
    "entanglement_entropy",
    "entropy",
    "hankel",
    "hankel_rank",
    "hierarchical_rank",
    "matricize",
    "nuclear_norm",
    "numerical_rank",
    "rank_cutoff",
    "schatten_norm",
    "singular_values",
    "stable_rank",
    "stable_rank_of",
]

Matrices: TypeAlias = Float[Tensor, "*batch rows columns"] | ArrayLike
Responses: TypeAlias = Float[Tensor, "*batch delays"] | ArrayLike
Tensors: TypeAlias = Shaped[Tensor, "..."] | ArrayLike

# Largest rank cut-off. In half precision, max(rows, columns) times the rounding error exceeds 1 for large matrices, and
# even the largest singular value would count as zero.
LARGEST_CUTOFF = 0.5


def __dir__() -> list[str]:
    return __all__


@checked
def rank_cutoff(dtype: torch.dtype, shape: Sequence[int]) -> float:
    """Return the relative size below which a singular value counts as zero: max(rows, columns) eps.

    Rounding alone perturbs the singular values of a matrix by about this much, relative to the largest one, so smaller
    singular values cannot be told from zero. The cut-off is at most 1/2, which matters for large matrices in half
    precision. Every rank in the package is decided by this function.

    Args:
        dtype: floating-point type of the matrix, with rounding error eps.
        shape: shape of the matrix, or of a batch of matrices.

    Raises:
        ValueError: for an empty shape.
    """
    if len(shape) == 0:
        raise ValueError(f"shape is {tuple(shape)}; it needs the number of columns at least")
    return min(max(shape[-2:]) * torch.finfo(dtype).eps, LARGEST_CUTOFF)


def singular_values(W: Matrices) -> Float[Tensor, "*batch size"]:
    """Return the singular values of a matrix, largest first.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns). A tensor that is not floating-point raises a
            TypeError. Fewer than two dimensions, no entries, or entries that are not finite raise a ValueError.

    Returns:
        min(rows, columns) numbers per matrix.

    >>> import ranklens as rl
    >>> rl.singular_values([[3.0, 0.0], [0.0, 4.0]]).tolist()
    [4.0, 3.0]
    """
    return torch.linalg.svdvals(_check_matrix(W))


def effective_rank(W: Matrices) -> Float[Tensor, "*batch"]:
    r"""Return the effective rank: the exponential of the entropy of the normalized singular values.

        exp(-sum_r p_r ln p_r),    p_r = s_r / sum s

    It is 0 for the zero matrix. Otherwise it lies between 1 (at rank one) and the rank, because the entropy of k
    outcomes is at most ln k. It equals the rank if all non-zero singular values are equal.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.

    Returns:
        One number per matrix.

    Source: Roy and Vetterli (EUSIPCO 2007).

    >>> import torch, ranklens as rl
    >>> [round(float(rl.effective_rank(x)), 6) for x in (torch.eye(5), torch.eye(1, 3), torch.zeros(2, 2))]
    [5.0, 1.0, 0.0]
    """
    return effective_rank_of(singular_values(W))


def stable_rank(W: Matrices) -> Float[Tensor, "*batch"]:
    """Return the stable rank |W|_F^2 / |W|_2^2: the squared Frobenius norm over the squared spectral norm.

    It lies between 1 and the rank, and is 0 for the zero matrix.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.

    Returns:
        One number per matrix.

    >>> import torch, ranklens as rl
    >>> float(rl.stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))))
    1.5
    """
    return stable_rank_of(singular_values(W))


@checked
def effective_rank_of(spectrum: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """Return the `effective_rank` of matrices from their singular values, one number per matrix.

    It is 0 where all singular values are zero.

    Args:
        spectrum: singular values along the last dimension, in any order.
    """
    return entropy(spectrum).exp().where(spectrum.sum(dim=-1) > 0, 0.0)


@checked
def stable_rank_of(spectrum: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """Return the `stable_rank` of matrices from their singular values, one number per matrix.

    It is 0 where all singular values are zero.

    Args:
        spectrum: singular values along the last dimension, the largest first.
    """
    top = spectrum[..., :1]
    return (spectrum / top.where(top > 0, 1.0)).square().sum(dim=-1)


@checked
def entropy(weights: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """Return the entropy -sum p ln p of normalized weights, p = weights / sum of the weights, in nats.

    The sums run over the last dimension, so the result has the shape of the other dimensions. It is 0 if all weights
    are zero, and without weights. Its gradient is finite where some weights are zero.

    Args:
        weights: numbers that are not negative, along the last dimension.
    """
    if weights.shape[-1] == 0:
        return weights.sum(dim=-1)
    top = weights.amax(dim=-1, keepdim=True)  # without this division the sum may overflow
    weights = weights / top.where(top > 0, 1.0)
    total = weights.sum(dim=-1, keepdim=True)
    p = weights / total.where(total > 0, 1.0)
    # `torch.special.entr` has an infinite gradient at zero. Subtracting from 0.0 avoids -0.0.
    return 0.0 - (p * p.where(p > 0, 1.0).log()).sum(dim=-1)


def numerical_rank(W: Matrices, rtol: float | None = None) -> Int[Tensor, "*batch"]:
    """Return the number of singular values that exceed `rtol` times the largest one.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.
        rtol: relative threshold, at least 0 and below 1 (or a ValueError is raised). None takes `rank_cutoff`, the
            level of rounding.

    Returns:
        One integer per matrix; 0 for the zero matrix.

    >>> import torch, ranklens as rl
    >>> W = torch.diag(torch.tensor([1.0, 0.1, 0.0]))
    >>> int(rl.numerical_rank(W)), int(rl.numerical_rank(W, rtol=0.5))
    (2, 1)
    """
    W = _check_matrix(W)
    s = singular_values(W)
    rtol = rank_cutoff(W.dtype, W.shape) if rtol is None else _check_rtol(rtol)
    return (s > rtol * s[..., :1]).sum(dim=-1)


def schatten_norm(W: Matrices, p: float) -> Float[Tensor, "*batch"]:
    """Return the Schatten norm (sum s^p)^(1/p): the p-norm of the singular values s.

    It is the nuclear norm for p = 1, the Frobenius norm for p = 2 and the spectral norm for p = infinity. For p < 1 it
    is a quasi-norm.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.
        p: exponent, positive or infinite.

    Returns:
        One number per matrix.

    Raises:
        ValueError: if `p` is not positive.

    >>> import torch, ranklens as rl
    >>> W = torch.diag(torch.tensor([3.0, 4.0]))
    >>> [round(float(rl.schatten_norm(W, p)), 6) for p in (1, 2, float("inf"))]
    [7.0, 5.0, 4.0]
    """
    p = arguments.number("p", p, above=0, finite=False)
    s = singular_values(W)
    top = s[..., :1]
    if math.isinf(p):
        return top[..., 0]
    # The largest singular value is divided out, because s^p underflows for large p long before the norm does.
    return top[..., 0] * (s / top.where(top > 0, 1.0)).pow(p).sum(dim=-1).pow(1 / p)


def nuclear_norm(W: Matrices) -> Float[Tensor, "*batch"]:
    """Return the nuclear norm: the sum of the singular values.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.

    Returns:
        One number per matrix.

    >>> import torch, ranklens as rl
    >>> float(rl.nuclear_norm(torch.diag(torch.tensor([3.0, 4.0]))))
    7.0
    """
    return singular_values(W).sum(dim=-1)


def distance_to_rank(W: Matrices, rank: int) -> Float[Tensor, "*batch"]:
    """Return the Frobenius distance to the nearest matrix of at most a given rank.

    It is the norm of the singular values beyond the first `rank` ones.

    Args:
        W: one matrix (rows, columns), or a batch (*batch, rows, columns), of finite floating-point numbers.
        rank: zero or more.

    Returns:
        One number per matrix.

    Raises:
        ValueError: if the rank is negative.

    Source: Eckart and Young (Psychometrika 1936).

    >>> import torch, ranklens as rl
    >>> round(float(rl.distance_to_rank(torch.diag(torch.tensor([9.0, 4.0, 3.0])), rank=1)), 5)
    5.0
    """
    rank = arguments.count("rank", rank, least=0)
    s = singular_values(W)
    top = s[..., :1]  # divided out, so that squares neither underflow nor overflow
    return top[..., 0] * (s / top.where(top > 0, 1.0))[..., rank:].norm(dim=-1)


def matricize(T: Tensors, modes: Sequence[int], order: int | None = None) -> Shaped[Tensor, "*batch rows columns"]:
    """Return a tensor as a matrix whose rows are indexed by some modes and whose columns by the others.

    Modes are taken in increasing order on both sides, in whatever order `modes` names them. Their indices are combined
    in row-major order: the last mode of a side varies fastest.

    Args:
        T: a tensor whose last `order` dimensions are its modes. The dimensions before these are a batch.
        modes: numbers of the modes that index the rows, 0 to order - 1. No modes give a single row, and all modes a
            single column.
        order: number of modes. None takes all dimensions.

    Returns:
        A tensor (*batch, rows, columns) of the dtype of T.

    Raises:
        ValueError: if a mode does not exist or appears twice, or the tensor has fewer dimensions than `order`.

    >>> import torch, ranklens as rl
    >>> rl.matricize(torch.zeros(2, 3, 5, 7), (0, 2)).shape
    torch.Size([10, 21])
    """
    T = as_tensor("T", T)
    order = T.ndim if order is None else arguments.count("order", order)
    if order > T.ndim:
        raise ValueError(f"order is {order}; T has {T.ndim} dimensions")
    modes = [arguments.count(f"modes[{k}]", mode, least=0) for k, mode in enumerate(arguments.sequence("modes", modes))]
    for mode in modes:
        if mode >= order:
            raise ValueError(f"mode {mode} does not exist; T, of order {order}, has modes 0 to {order - 1}")
    if len(set(modes)) < len(modes):
        raise ValueError(f"modes {tuple(modes)} repeat one; name every mode once")
    batch = T.ndim - order
    rows = sorted(modes)
    columns = [n for n in range(order) if n not in rows]
    moved = T.permute(*range(batch), *[batch + n for n in rows], *[batch + n for n in columns])
    sizes = T.shape[batch:]
    return moved.reshape(*T.shape[:batch], math.prod(sizes[n] for n in rows), math.prod(sizes[n] for n in columns))


def hierarchical_rank(T: Tensors, tree: ModeTree, rtol: float | None = None) -> Mapping[Node, Tensor]:
    """Return the hierarchical tensor rank: the rank of the matricization at every node of a mode tree but the root.

    Args:
        T: a floating-point tensor whose last `tree.order` dimensions are its modes. The dimensions before these are a
            batch.
        tree: the mode tree.
        rtol: singular values of at most this times the largest of a matricization count as zero. None takes
            `rank_cutoff`, the level of rounding.

    Returns:
        {tree node: rank}. Each rank is an integer tensor, of the shape of the batch.

    Raises:
        ValueError: if the tensor has fewer dimensions than the tree has modes.

    Source: Razin, Maman, Cohen (ICML 2022), definition 3; Grasedyck (SIMAX 2010).

    >>> import ranklens as rl
    >>> target = rl.targets.hierarchical((4, 4, 4, 4), rank=2)
    >>> {node: int(r) for node, r in rl.hierarchical_rank(target, rl.ModeTree.adjacent(4, 2)).items() if len(node) > 1}
    {(0, 1): 2, (2, 3): 2}
    """
    T, tree = as_floating("T", T), arguments.instance("tree", tree, ModeTree)
    if T.ndim < tree.order:
        raise ValueError(f"T has {T.ndim} dimensions, fewer than the tree's {tree.order} modes")
    return {node: numerical_rank(matricize(T, node, tree.order), rtol) for node in tree.nodes if node != tree.root}


def hankel(response: Responses, rows: int | None = None) -> Float[Tensor, "*batch rows columns"]:
    """Return the Hankel matrix H_ij = h_(i+j) of an impulse response h.

    Args:
        response: (*batch, delays) h_0, h_1, ...: floating-point numbers. To measure what a model remembers, without its
            immediate response h_0, pass ``h[..., 1:]``.
        rows: number of rows, from 1 to the number of delays. None takes half of the delays, rounded up, which makes
            the matrix as square as it can be and so shows the largest rank.

    Returns:
        A matrix (*batch, rows, delays - rows + 1).

    Raises:
        ValueError: if there is no delay, or there are more rows than delays.

    >>> import ranklens as rl
    >>> rl.measures.hankel([1.0, 2.0, 3.0, 4.0]).tolist()
    [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    """
    h = as_floating("response", response)
    delays = h.shape[-1] if h.ndim else 0
    if delays == 0:
        raise ValueError(f"response has shape {tuple(h.shape)}; pass (*batch, delays) with at least one delay")
    rows = (delays + 1) // 2 if rows is None else arguments.count("rows", rows)
    if rows > delays:
        raise ValueError(f"rows is {rows}; a response of {delays} delays makes at most {delays} rows")
    return h.unfold(-1, delays - rows + 1, 1)


def hankel_rank(response: Responses, rows: int | None = None, rtol: float | None = None) -> Int[Tensor, "*batch"]:
    """Return the rank of the Hankel matrix of an impulse response: the number of states that explain it.

    If the response is that of a linear state space model, the rank is at most its number of states. It equals the
    smallest number of states of any model with this response, if rows and columns are at least as many as that number.

    Args:
        response: (*batch, delays) impulse response h_0, h_1, ...: finite floating-point numbers.
        rows: number of rows of the matrix, from 1 to the number of delays; None takes half of the delays, rounded up.
        rtol: singular values of at most this times the largest count as zero. None takes `rank_cutoff`, the level of
            rounding. Choose the size of the noise, relative to the response, for a response that was measured.

    Returns:
        One integer per response.

    Source: Kronecker (1881); Ho and Kalman (1966) for the minimal model.

    >>> import torch, ranklens as rl
    >>> delay = torch.arange(12, dtype=torch.float64)
    >>> int(rl.measures.hankel_rank(0.5**delay + 2 * (-0.8)**delay))  # two states
    2
    """
    return numerical_rank(hankel(response, rows), rtol)


def entanglement_entropy(T: Tensors, modes: Sequence[int], order: int | None = None) -> Float[Tensor, "*batch"]:
    r"""Return the entanglement entropy of a tensor between some of its modes and the others, in nats.

        -sum_r q_r ln q_r,    q_r = s_r^2 / sum s^2

    Here s are the singular values of the matricization. The entropy is at most the log of its rank. (The effective rank
    uses s in place of s^2.)

    Args:
        T: a floating-point tensor whose last `order` dimensions are its modes. The dimensions before these are a batch.
        modes: numbers of the modes on one side of the partition, from 0 to order - 1, each once.
        order: number of modes. None takes all dimensions.

    Returns:
        One number per tensor of the batch; 0 for the zero tensor.

    Raises:
        ValueError: for a tensor without entries.

    Source: Levine, Yakira, Cohen, Shashua (ICLR 2018).

    >>> import math, torch, ranklens as rl
    >>> bell = torch.eye(2, dtype=torch.float64)  # two modes, maximally entangled
    >>> abs(float(rl.entanglement_entropy(bell, [0])) - math.log(2)) < 1e-12
    True
    """
    T = as_floating("T", T)
    if T.numel() == 0:
        raise ValueError(f"T has shape {tuple(T.shape)}; pass a tensor with at least one entry")
    s = singular_values(matricize(T, modes, order))
    top = s[..., :1]
    return entropy((s / top.where(top > 0, 1.0)).square())


def _check_rtol(rtol: float) -> float:
    """Return a relative threshold.

    Raises:
        ValueError: if the threshold is outside [0, 1).
    """
    if arguments.number("rtol", rtol) < 0 or rtol >= 1:
        raise ValueError(f"rtol is {rtol}; a relative threshold is at least 0 and below 1")
    return rtol


def _check_matrix(W: Matrices) -> Float[Tensor, "*batch rows columns"]:
    """Return a matrix or a batch of matrices as a floating-point tensor.

    Raises:
        ValueError: if there are fewer than two dimensions, or no rows or columns, or an entry is not finite.
    """
    W = as_floating("W", W)
    if W.ndim < 2 or 0 in W.shape[-2:]:
        raise ValueError(f"W has shape {tuple(W.shape)}; pass (*batch, rows, columns) with at least one of each")
    return check_finite("W", W)
