"""Rank and norm measures: pure functions of matrices and tensors, torch in, torch out.

Matrices may have leading batch dimensions. All accept float32 and float64; NaN and infinite entries are refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ranklens.seeds import stream
from ranklens.tensors.trees import ModeTree, Node


def rank_cutoff(dtype: torch.dtype, shape: Sequence[int]) -> float:
    """The one rank cut-off: singular values below this times the largest count as zero, max(rows, columns) eps.

    Rounding alone perturbs the singular values of a matrix by about that much, so nothing smaller can be told from
    zero. Of large matrices in half precision, for which this says nothing, it is one half.
    """
    return min(max(shape[-2:]) * torch.finfo(dtype).eps, 0.5)


def singular_values(W: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch size"]:
    """Singular values, largest first.

    Args:
        W: one matrix or a batch.

    Returns:
        min(rows, columns) numbers per matrix.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for fewer than two dimensions, no entries, or entries that are not finite.
    """
    return torch.linalg.svdvals(_check_matrix(W))


def effective_rank(W: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    r"""Exp of the entropy of the normalized singular values: exp(-sum_r p_r ln p_r), p_r = s_r / sum s.

    It is 0 for the zero matrix, and otherwise between 1 (rank one) and the rank, which it equals when all non-zero
    singular values are equal, because the entropy of k outcomes is at most ln k.

    Args, errors: as for `singular_values`.

    Source: Roy and Vetterli (EUSIPCO 2007).

    >>> import torch, ranklens as rl
    >>> [round(float(rl.effective_rank(x)), 6) for x in (torch.eye(5), torch.eye(1, 3), torch.zeros(2, 2))]
    [5.0, 1.0, 0.0]
    """
    return effective_rank_of(singular_values(W))


def stable_rank(W: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """|W|_F^2 / |W|_2^2, between 1 and the rank; 0 for the zero matrix.

    Args, errors: as for `singular_values`.

    >>> import torch, ranklens as rl
    >>> float(rl.stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))))
    1.5
    """
    return stable_rank_of(singular_values(W))


def effective_rank_of(spectrum: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """The `effective_rank` of matrices whose singular values are known."""
    return entropy(spectrum).exp().where(spectrum.sum(dim=-1) > 0, 0.0)


def stable_rank_of(spectrum: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """The `stable_rank`, likewise; the largest value first."""
    top = spectrum[..., :1]
    return (spectrum / top.where(top > 0, 1.0)).square().sum(dim=-1)


def entropy(weights: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """-sum p ln p of weights that are not negative, divided by their sum; 0 for zeros."""
    top = weights.amax(dim=-1, keepdim=True)  # or the sum may overflow
    weights = weights / top.where(top > 0, 1.0)
    total = weights.sum(dim=-1, keepdim=True)
    p = weights / total.where(total > 0, 1.0)
    return 0.0 - (p * p.where(p > 0, 1.0).log()).sum(dim=-1)  # with a gradient at zeros, which entr has not


def numerical_rank(W: Float[Tensor, "*batch rows columns"], rtol: float | None = None) -> Int[Tensor, "*batch"]:
    """How many singular values exceed rtol times the largest.

    Args:
        W: one matrix or a batch.
        rtol: relative threshold; None takes `rank_cutoff`, the level of rounding.

    Returns:
        Integers; 0 for the zero matrix.

    Raises:
        ValueError: for an rtol outside [0, 1), or as for `singular_values`.
    """
    s = singular_values(W)
    rtol = rank_cutoff(W.dtype, W.shape) if rtol is None else _check_rtol(rtol)
    return (s > rtol * s[..., :1]).sum(dim=-1)


def schatten_norm(W: Float[Tensor, "*batch rows columns"], p: float) -> Float[Tensor, "*batch"]:
    """(sum s^p)^(1/p), the p-norm of the singular values; a quasi-norm for p < 1, the spectral norm for p = inf.

    Args:
        W: one matrix or a batch.
        p: positive, or infinite.

    Returns:
        One number per matrix.

    Raises:
        ValueError: for a p that is not positive, or as for `singular_values`.

    >>> import torch, ranklens as rl
    >>> W = torch.diag(torch.tensor([3.0, 4.0]))
    >>> [round(float(rl.schatten_norm(W, p)), 6) for p in (1, 2, float("inf"))]
    [7.0, 5.0, 4.0]
    """
    if not p > 0:
        raise ValueError(f"p is {p}; a Schatten norm needs p > 0, or infinity")
    s = singular_values(W)
    top = s[..., :1]
    if math.isinf(p):
        return top[..., 0]
    # relative to the largest, since s^p underflows for large p long before the norm does
    return top[..., 0] * (s / top.where(top > 0, 1.0)).pow(p).sum(dim=-1).pow(1 / p)


def nuclear_norm(W: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """The sum of the singular values. Args, errors: as for `singular_values`."""
    return singular_values(W).sum(dim=-1)


def distance_to_rank(W: Float[Tensor, "*batch rows columns"], rank: int) -> Float[Tensor, "*batch"]:
    """Frobenius distance to the nearest matrix of at most this rank: the norm of the singular values beyond it.

    Args:
        W: one matrix or a batch.
        rank: zero or more.

    Returns:
        One number per matrix.

    Raises:
        ValueError: for a negative rank, or as for `singular_values`.

    Source: Eckart and Young (Psychometrika 1936).

    >>> import torch, ranklens as rl
    >>> round(float(rl.distance_to_rank(torch.diag(torch.tensor([9.0, 4.0, 3.0])), rank=1)), 5)
    5.0
    """
    if rank < 0:
        raise ValueError(f"rank is {rank}; it must be zero or more")
    s = singular_values(W)
    top = s[..., :1]  # whose multiples have squares that neither under- nor overflow
    return top[..., 0] * (s / top.where(top > 0, 1.0))[..., rank:].norm(dim=-1)


def matricize(T: Shaped[Tensor, "..."], modes: Sequence[int], order: int | None = None) -> Shaped[Tensor, "..."]:
    """The tensor as a matrix: rows are the given modes, columns the others, both in increasing order.

    Args:
        T: a tensor whose last `order` dimensions are its modes; those before are a batch.
        modes: mode numbers, 0 to order - 1; none or all of them give a single row or column.
        order: number of modes; None takes all dimensions.

    Returns:
        (*batch, rows, columns).

    Raises:
        ValueError: for a mode that does not exist or appears twice, or an order that does not fit.

    >>> import torch, ranklens as rl
    >>> rl.matricize(torch.zeros(2, 3, 5, 7), (0, 2)).shape
    torch.Size([10, 21])
    """
    order = T.ndim if order is None else order
    if not 1 <= order <= T.ndim:
        raise ValueError(f"order is {order}; the tensor has {T.ndim} dimensions")
    for mode in modes:
        if not 0 <= mode < order:
            raise ValueError(f"mode {mode} does not exist; a tensor of order {order} has modes 0 to {order - 1}")
    if len(set(modes)) < len(modes):
        raise ValueError(f"modes {tuple(modes)} repeat one; name every mode once")
    batch = T.ndim - order
    rows = sorted(modes)
    columns = [n for n in range(order) if n not in rows]
    moved = T.permute(*range(batch), *[batch + n for n in rows], *[batch + n for n in columns])
    sizes = T.shape[batch:]
    return moved.reshape(*T.shape[:batch], math.prod(sizes[n] for n in rows), math.prod(sizes[n] for n in columns))


def hierarchical_rank(T: Float[Tensor, "..."], tree: ModeTree, rtol: float | None = None) -> Mapping[Node, Tensor]:
    """The hierarchical tensor rank: the rank of the matricization at every node of a mode tree but the root.

    Args:
        T: a tensor whose last `tree.order` dimensions are its modes.
        tree: the mode tree.
        rtol: relative threshold, as for `numerical_rank`.

    Returns:
        {tree node: rank}; a batch gives a batch of ranks.

    Raises:
        ValueError: for a tensor of lower order than the tree.

    Source: Razin, Maman, Cohen (ICML 2022), definition 3; Grasedyck (SIMAX 2010).

    >>> import ranklens as rl
    >>> target = rl.targets.hierarchical((4, 4, 4, 4), rank=2)
    >>> {node: int(r) for node, r in rl.hierarchical_rank(target, rl.ModeTree.adjacent(4, 2)).items() if len(node) > 1}
    {(0, 1): 2, (2, 3): 2}
    """
    if T.ndim < tree.order:
        raise ValueError(f"the tensor has {T.ndim} dimensions, fewer than the tree's {tree.order} modes")
    return {node: numerical_rank(matricize(T, node, tree.order), rtol) for node in tree.nodes if node != tree.root}


def entanglement_entropy(T: Float[Tensor, "..."], modes: Sequence[int], order: int | None = None) -> Tensor:
    r"""-sum q ln q with q = s^2 / sum s^2, s the singular values of the matricization; in nats.

    It is at most the log of the rank of the matricization. (Effective rank uses s, this uses s^2.)

    Args:
        T: a tensor whose last `order` dimensions are its modes.
        modes: one side of the partition.
        order: number of modes; None takes all dimensions.

    Returns:
        One number per tensor; 0 for the zero tensor.

    Raises:
        ValueError: as for `matricize` and `singular_values`.

    Source: Levine, Yakira, Cohen, Shashua (ICLR 2018).

    >>> import math, torch, ranklens as rl
    >>> bell = torch.eye(2, dtype=torch.float64)  # two modes, maximally entangled
    >>> abs(float(rl.entanglement_entropy(bell, [0])) - math.log(2)) < 1e-12
    True
    """
    s = singular_values(matricize(T, modes, order))
    top = s[..., :1]
    return entropy((s / top.where(top > 0, 1.0)).square())


@dataclass(frozen=True)
class CPRankEstimate:
    """What `cp_rank_estimate` found.

    Attributes:
        rank: the smallest rank that fits within rtol; None if none up to the largest tried does.
        error: relative error |T - fit| / |T| of the best fit at that rank (at the largest tried, if rank is None).
        errors: {rank tried: best relative error}.
        rtol: the tolerance asked for.
    """

    rank: int | None
    error: float
    errors: Mapping[int, float]
    rtol: float


def cp_rank_estimate(
    T: Float[Tensor, "..."],
    rtol: float = 1e-3,
    *,
    largest: int | None = None,
    starts: int = 4,
    sweeps: int = 500,
    seed: int = 0,
) -> CPRankEstimate:
    """The smallest number of components with which alternating least squares fits a tensor within rtol.

    An estimate, not the rank: the best fit is searched from several random starts, and a tensor may be a limit of
    tensors of lower rank. The tolerance is relative, so that rescaling a tensor does not change the answer.

    Args:
        T: one tensor, of order two or more.
        rtol: relative error |T - fit| / |T| at which a fit counts.
        largest: largest rank tried; None takes the product of all sizes but the largest.
        starts: random starts per rank.
        sweeps: sweeps of alternating least squares per start.
        seed: of the starts.

    Returns:
        The estimate with its errors.

    Raises:
        ValueError: for an rtol outside (0, 1), order below two, counts below one, or entries that are not finite.

    >>> import ranklens as rl
    >>> rl.cp_rank_estimate(rl.targets.cp((5, 6, 7), rank=3)).rank
    3
    """
    if T.ndim < 2:
        raise ValueError(f"the tensor has shape {tuple(T.shape)}; the rank of a tensor needs two or more modes")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol}; a relative error lies between 0 and 1")
    for name, value in {"largest": largest, "starts": starts, "sweeps": sweeps}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    T = _check_finite(T).detach().double()
    if not bool(T.any()):
        return CPRankEstimate(0, 0.0, {0: 0.0}, rtol)
    T = T / T.abs().max()  # whose squares neither under- nor overflow
    norm = float(T.norm())
    largest = math.prod(T.shape) // max(T.shape) if largest is None else largest
    generator, errors = stream(seed, "starts of cp_rank_estimate"), {}
    for rank in range(1, largest + 1):
        errors[rank] = min(_als(T / norm, rank, rtol, sweeps, generator) for _ in range(starts))
        if errors[rank] <= rtol:
            return CPRankEstimate(rank, errors[rank], errors, rtol)
    return CPRankEstimate(None, errors[largest], errors, rtol)


def _als(T: Tensor, rank: int, rtol: float, sweeps: int, generator: torch.Generator) -> float:
    """Relative error of one run of alternating least squares on a tensor of norm one."""
    factors = [torch.randn(d, rank, generator=generator, dtype=T.dtype).to(T.device) for d in T.shape]
    unfolded = [matricize(T, [n]) for n in range(T.ndim)]
    error = before = 1e300
    for _ in range(sweeps):
        for n in range(T.ndim):
            others = _khatri_rao([f for k, f in enumerate(factors) if k != n])
            factors[n] = torch.linalg.lstsq(others, unfolded[n].T, driver="gelsd").solution.T
            if n < T.ndim - 1:  # the last factor carries the scale
                factors[n] = factors[n] / factors[n].norm(dim=0).clamp_min(torch.finfo(T.dtype).tiny)
        error = float((unfolded[-1] - factors[-1] @ others.T).norm())
        if error <= rtol or before - error <= 1e-4 * rtol * before:
            return error
        before = error
    return error


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = (result[:, None] * factor[None]).flatten(0, 1)
    return result


def _check_rtol(rtol: float) -> float:
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol is {rtol}; a relative threshold is at least 0 and below 1")
    return rtol


def _check_matrix(W: Tensor) -> Tensor:
    if isinstance(W, Tensor) and (W.ndim < 2 or 0 in W.shape[-2:]):
        raise ValueError(f"W has shape {tuple(W.shape)}; pass (*batch, rows, columns) with at least one of each")
    return _check_finite(W)


def _check_finite(W: Tensor) -> Tensor:
    if not isinstance(W, Tensor) or not W.dtype.is_floating_point:
        kind = W.dtype if isinstance(W, Tensor) else type(W).__name__
        raise TypeError(f"the input is {kind}; pass a float32 or float64 tensor: convert with .double()")
    if not bool(torch.isfinite(W).all()):
        where = tuple(int(x) for x in (~torch.isfinite(W)).nonzero()[0])
        raise ValueError(f"entry {where} is {float(W[where])}; rank and norms need finite entries")
    return W
