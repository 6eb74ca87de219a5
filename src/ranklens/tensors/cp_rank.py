"""The CP rank of a tensor, estimated by fits of alternating least squares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from ranklens.seeds import stream
from ranklens.tensors import arguments
from ranklens.tensors.checks import check_finite
from ranklens.tensors.convert import ArrayLike, as_floating

# Alternating least squares stops when a sweep lowers its error by less than this number times rtol, relative to the
# error. At this pace, 10,000 sweeps would lower the error by less than the fraction rtol of itself.
STALLED = 1e-4
# Random initializations of a single component that is fitted to a residual; the best of its fits is used.
RANK_ONE_STARTS = 3


@dataclass(frozen=True)
class CPRankEstimate:
    """The result of `cp_rank_estimate`.

    Attributes:
        rank: the smallest rank at which a fit has a relative error of at most `rtol`; 0 for a tensor of zeros. None if
            no rank up to the largest one tried has such a fit.
        error: relative error |T - fit| / |T| of the best fit at this rank, or at the largest rank tried if `rank` is
            None.
        errors: {rank tried: relative error of the best fit}.
        rtol: the relative error up to which a fit was accepted.
    """

    rank: int | None
    error: float
    errors: Mapping[int, float]
    rtol: float


def cp_rank_estimate(
    T: Shaped[Tensor, "..."] | ArrayLike,
    rtol: float = 1e-3,
    *,
    largest: int | None = None,
    starts: int = 4,
    sweeps: int = 500,
    seed: int = 0,
) -> CPRankEstimate:
    """Estimate the CP rank: the smallest number of components with which alternating least squares fits a tensor.

    The estimate may differ from the rank. The best fit is searched from several initializations and may not be found,
    and a tensor may be the limit of tensors of lower rank. The tolerance is relative, so rescaling a tensor does not
    change the estimate.

    Args:
        T: one floating-point tensor, of order two or more, with finite entries.
        rtol: relative error |T - fit| / |T| up to which a fit is accepted, between 0 and 1.
        largest: largest rank tried; ranks are tried from 1 upwards. None takes the product of all sizes but the
            largest, an upper bound of the rank.
        starts: number of initializations per rank: one extends the best fit of the rank before by a component that is
            fitted to its residual, the others are random.
        sweeps: largest number of sweeps per initialization. A sweep fits the factor matrix of each mode once, with the
            others fixed.
        seed: seed of the initializations.

    Returns:
        The estimate, with the error at every rank that was tried. Its `rank` is 0 for a tensor of zeros, and None if no
        rank up to the largest one tried has a fit within `rtol`.

    Raises:
        ValueError: if `rtol` is outside (0, 1), the order is below two, or a count is below one.

    >>> import ranklens as rl
    >>> rl.cp_rank_estimate(rl.targets.cp((5, 6, 7), rank=3)).rank
    3
    """
    T = as_floating("T", T)
    if T.ndim < 2:
        raise ValueError(f"T has shape {tuple(T.shape)}; the rank of a tensor needs two or more modes")
    if arguments.number("rtol", rtol) <= 0 or rtol >= 1:
        raise ValueError(f"rtol is {rtol}; a relative error lies between 0 and 1")
    for name, value in {"largest": largest, "starts": starts, "sweeps": sweeps}.items():
        if value is not None or name != "largest":
            arguments.count(name, value)
    T = check_finite("T", T).detach().double()
    if not bool(T.any()):
        return CPRankEstimate(0, 0.0, {0: 0.0}, rtol)
    T = T / T.abs().max()  # so that squares neither underflow nor overflow
    norm = float(T.norm())
    largest = math.prod(T.shape) // max(T.shape) if largest is None else largest
    generator, errors = stream(seed, "starts of cp_rank_estimate"), {}
    best = [T.new_zeros(d, 0) for d in T.shape]
    for rank in range(1, largest + 1):
        begins = [_extended(T / norm, best, sweeps, generator)]
        begins += [_random(T, rank, generator) for _ in range(starts - 1)]
        fits = [_als(T / norm, factors, rtol, sweeps) for factors in begins]
        errors[rank], best = min(fits, key=lambda fit: fit[0])
        if errors[rank] <= rtol:
            return CPRankEstimate(rank, errors[rank], errors, rtol)
    return CPRankEstimate(None, errors[largest], errors, rtol)


def _random(T: Tensor, rank: int, generator: torch.Generator) -> list[Tensor]:
    """Return random factors (d_n, rank) for a tensor."""
    return [torch.randn(d, rank, generator=generator, dtype=T.dtype).to(T.device) for d in T.shape]


def _extended(T: Tensor, factors: Sequence[Tensor], sweeps: int, generator: torch.Generator) -> list[Tensor]:
    """Return factors with one more component, fitted to what the others leave of a tensor.

    Random initializations of all components often end with two of them in the place of one, most of all where the
    components are orthogonal and of unlike norms. One component after the other avoids that.
    """
    left = T - (factors[0] @ _khatri_rao(factors[1:]).T).view(T.shape)
    norm = left.norm().clamp_min(torch.finfo(T.dtype).tiny)
    runs = [_als(left / norm, _random(T, 1, generator), 0.0, sweeps) for _ in range(RANK_ONE_STARTS)]
    _, fresh = min(runs, key=lambda run: run[0])
    first, *others = (torch.cat([factor, new], dim=1) for factor, new in zip(factors, fresh, strict=True))
    first[:, -1] *= norm
    return [first, *others]


def _als(T: Tensor, factors: list[Tensor], rtol: float, sweeps: int) -> tuple[float, list[Tensor]]:
    """Return the error and the factors of one run of alternating least squares on a tensor of norm one.

    Args:
        T: the tensor.
        factors: the initial factors; the first of them is not used.
        rtol: error at which the run ends.
        sweeps: largest number of sweeps.
    """
    factors = list(factors)
    unfolded = [T.movedim(n, 0).flatten(1) for n in range(T.ndim)]
    error = before = torch.finfo(T.dtype).max
    for _ in range(sweeps):
        for n in range(T.ndim):
            others = _khatri_rao([f for k, f in enumerate(factors) if k != n])
            factors[n] = torch.linalg.lstsq(others, unfolded[n].T, driver="gelsd").solution.T
            if n < T.ndim - 1:  # only the last factor carries the norms of the components
                factors[n] = factors[n] / factors[n].norm(dim=0).clamp_min(torch.finfo(T.dtype).tiny)
        error = float((unfolded[-1] - factors[-1] @ others.T).norm())
        if error <= rtol or before - error <= STALLED * rtol * before:
            break
        before = error
    return error, factors


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Return the column-wise Kronecker product of factors (d_n, rank), of shape (product of all d_n, rank)."""
    result = factors[0]
    for factor in factors[1:]:
        result = (result[:, None] * factor[None]).flatten(0, 1)
    return result
