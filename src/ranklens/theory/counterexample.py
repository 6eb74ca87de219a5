"""What is proved of the 2 x 2 completion whose norms all grow to infinity."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.problems import Completion
from ranklens.tensors.measures import rank_cutoff


@dataclass(frozen=True)
class Bounds2x2:
    """What det W > 0 proves about the 2 x 2 counterexample at a loss (half the sum of squares).

    Attributes:
        w11: |w11| is at least this; every unitarily invariant norm is at least that of e1 e1^T times this.
        sigma2: the smaller singular value, the distance to rank one, is at most this.
        effective_rank: is at most this.
    """

    w11: Tensor
    sigma2: Tensor
    effective_rank: Tensor


def bounds_2x2(loss: Float[Tensor, "*batch"] | float) -> Bounds2x2:
    r"""Bounds along any trajectory with det W > 0 on the 2 x 2 problem w12 = w21 = 1, w22 = 0, w11 unobserved.

    With e = sqrt(2 loss) < 1: w12, w21 >= 1 - e and |w22| <= e, so w11 w22 > w12 w21 > 0 gives |w11| >= (1 - e)^2 / e.
    The segment from W to the solution with the same w11 has length e and crosses det = 0, so sigma_2 <= e. Then
    p = sigma_2 / (sigma_1 + sigma_2) <= e^2 / (1 - e)^2 (or 1/2) bounds the effective rank by exp of the binary
    entropy of p.

    Args:
        loss: positive.

    Returns:
        The bounds, of the shape of `loss`; |w11| >= 0 and effective rank <= 2 are all there is to say for loss >= 1/2.

    Raises:
        ValueError: for a loss that is not positive.

    Source: Razin and Cohen (NeurIPS 2020), Theorem 1, with sharper constants.

    >>> import ranklens as rl
    >>> bounds = rl.theory.bounds_2x2(1e-4)
    >>> round(float(bounds.w11), 1), round(float(bounds.sigma2), 4), round(float(bounds.effective_rank), 4)
    (68.7, 0.0141, 1.002)
    """
    loss = torch.as_tensor(loss, dtype=torch.float64)
    if not bool((loss > 0).all()):
        raise ValueError(f"loss is {float(loss.min())}; the bounds are about positive losses")
    e = (2 * loss).sqrt()
    inside = (1 - e).clamp_min(0)
    p = (e.square() / inside.square().where(inside > 0, e.square())).clamp_max(0.5)
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    return Bounds2x2(inside.square() / e, e, entropy.exp())


def unobserved_bound(
    loss: Float[Tensor, "*batch"] | float, *, z: float = 1.0, z2: float = 1.0, eps: float = 0.0
) -> Float[Tensor, "*batch"]:
    r"""A lower bound on |w11| for the observations w12 = z, w21 = z2, w22 = eps, along a flow with z z2 det W > 0.

    With e = sqrt(2 loss) < min(|z|, |z2|): w12 and w21 keep the signs of z and z2 and are at least |z| - e and
    |z2| - e in size, |w22| <= |eps| + e, and w11 w22 z z2 > w12 w21 z z2 > 0 gives

        |w11| >= (|z| - e) (|z2| - e) / (|eps| + e),

    which tends to |z z2 / eps|, where the one fitting matrix of rank one lies, and to infinity for eps = 0.

    Args:
        loss: positive; half the sum of squares.
        z: observed in row 1, column 2.
        z2: observed in row 2, column 1.
        eps: observed in row 2, column 2.

    Returns:
        The bound, of the shape of `loss`; 0 where e is too large to say more.

    Raises:
        ValueError: for a loss that is not positive, or z z2 = 0.

    Source: Razin and Cohen (NeurIPS 2020), on perturbed observations.

    >>> import ranklens as rl
    >>> [round(float(rl.theory.unobserved_bound(1e-12, eps=eps)), 2) for eps in (0.5, 0.1, 0.05)]
    [2.0, 10.0, 20.0]
    """
    loss = torch.as_tensor(loss, dtype=torch.float64)
    if not bool((loss > 0).all()):
        raise ValueError(f"loss is {float(loss.min())}; the bound is about positive losses")
    if not (math.isfinite(z * z2) and z * z2 != 0 and math.isfinite(eps)):
        raise ValueError(f"z = {z}, z2 = {z2}, eps = {eps}; z and z2 must differ from zero and all be finite")
    e = (2 * loss).sqrt()
    return (abs(z) - e).clamp_min(0) * (abs(z2) - e).clamp_min(0) / (abs(eps) + e)


@dataclass(frozen=True)
class SolutionDeterminant:
    """The determinant of the matrices that fit a problem, as a function of their one unobserved entry w.

    Attributes:
        constant: the determinant where w = 0.
        cofactor: of the unobserved entry; the determinant is constant + w cofactor.
        drives_to_infinity: the sign of determinants from which fitting sends |w| to infinity, and with it every norm:
            -1 or 1; 0 where solutions have determinants of both signs, or zero.
    """

    constant: float
    cofactor: float
    drives_to_infinity: int


def solution_determinant(task: Completion) -> SolutionDeterminant:
    """When does one hole in a square matrix send every norm to infinity? Where its cofactor is zero.

    The determinant is affine in one entry. If its cofactor vanishes all solutions share one determinant; balanced flows
    of depth two or more keep the sign of theirs, so from the other sign the loss can fall to zero only along matrices
    that have no limit, and all but one entry of which are bounded by the loss.

    Args:
        task: a completion of a square matrix with exactly one unobserved entry.

    Returns:
        The determinant of its solutions.

    Raises:
        ValueError: for another number of holes, or what is not square.

    Source: the recipe behind Razin and Cohen (NeurIPS 2020), Theorem 1 and its extension to d x d.

    >>> import ranklens as rl
    >>> rl.theory.solution_determinant(rl.Completion.counterexample(d=4)).drives_to_infinity
    1
    """
    if len(task.shape) != 2 or task.shape[0] != task.shape[1]:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; determinants are of square matrices")
    seen = torch.zeros(task.shape, dtype=torch.bool)
    seen[tuple(task.indices.T)] = True
    if int((~seen).sum()) != 1:
        raise ValueError(f"{int((~seen).sum())} entries are unobserved; the recipe is about exactly one")
    W = torch.zeros(task.shape, dtype=torch.float64)
    W[tuple(task.indices.T)] = task.values
    row, column = (~seen).nonzero()[0].tolist()
    rest = W[[k for k in range(len(W)) if k != row]][:, [k for k in range(len(W)) if k != column]]
    s = torch.linalg.svdvals(rest)
    vanishes = len(rest) == 0 or bool(s[-1] <= rank_cutoff(rest.dtype, rest.shape) * s[0])
    cofactor = 0.0 if vanishes else (-1) ** (row + column) * float(torch.linalg.det(rest))
    constant = float(torch.linalg.det(W))
    excluded = -int(math.copysign(1, constant)) if vanishes and constant else 0
    return SolutionDeterminant(constant, cofactor, excluded)
