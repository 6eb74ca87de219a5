"""Theorems about matrix completions in which fitting drives every norm to infinity."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.problems import Completion
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.convert import TensorLike, as_tensor
from ranklens.tensors.measures import rank_cutoff


@dataclass(frozen=True)
class Bounds2x2:
    """Bounds that hold for a 2 x 2 matrix W with det W > 0 and a given loss, from `bounds_2x2`.

    The loss is half the sum of the squared errors of w12 = 1, w21 = 1 and w22 = 0. The entry w11 is not observed.

    Attributes:
        w11: lower bound on |w11|; times the norm of e1 e1^T, it bounds every unitarily invariant norm of W from below.
        sigma2: upper bound on the smaller singular value, which is the distance of W to the matrices of rank one.
        effective_rank: upper bound on the effective rank.
    """

    w11: Tensor
    sigma2: Tensor
    effective_rank: Tensor


def bounds_2x2(loss: TensorLike) -> Bounds2x2:
    r"""Return bounds along any trajectory with det W > 0 on the problem w12 = w21 = 1, w22 = 0, w11 unobserved.

    With e = sqrt(2 loss) < 1: w12, w21 >= 1 - e and |w22| <= e, so w11 w22 > w12 w21 > 0 gives |w11| >= (1 - e)^2 / e.
    The segment from W to the solution with the same w11 has length e and crosses det = 0, so sigma_2 <= e. Then
    p = sigma_2 / (sigma_1 + sigma_2) <= e^2 / (1 - e)^2 (or 1/2) bounds the effective rank by exp of the binary
    entropy of p.

    Args:
        loss: positive losses, of any shape: half the sum of squares over the three observed entries.

    Returns:
        The bounds, of the shape of `loss` and in float64. For a loss of 1/2 or more they only state |w11| >= 0 and an
        effective rank of at most 2.

    Raises:
        ValueError: for a loss that is not positive.

    Source: Razin and Cohen (NeurIPS 2020), Theorem 1, with sharper constants.

    >>> import ranklens as rl
    >>> bounds = rl.theory.bounds_2x2(1e-4)
    >>> round(float(bounds.w11), 1), round(float(bounds.sigma2), 4), round(float(bounds.effective_rank), 4)
    (68.7, 0.0141, 1.002)
    """
    e = (2 * _positive(loss)).sqrt()
    inside = (1 - e).clamp_min(0)
    p = (e.square() / inside.square().where(inside > 0, e.square())).clamp_max(0.5)
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    return Bounds2x2(inside.square() / e, e, entropy.exp())


def unobserved_bound(loss: TensorLike, *, z: float = 1.0, z2: float = 1.0, eps: float = 0.0) -> Tensor:
    r"""Return a lower bound on |w11| for observed w12 = z, w21 = z2, w22 = eps, along a flow with z z2 det W > 0.

    With e = sqrt(2 loss) < min(|z|, |z2|): w12 and w21 keep the signs of z and z2 and are at least |z| - e and
    |z2| - e in size, |w22| <= |eps| + e, and w11 w22 z z2 > w12 w21 z z2 > 0 gives

        |w11| >= (|z| - e) (|z2| - e) / (|eps| + e),

    As the loss tends to zero, the bound tends to |z z2 / eps|, the value of |w11| in the only fitting matrix of rank
    one; for eps = 0 it tends to infinity.

    Args:
        loss: positive losses, of any shape: half the sum of squares over the three observed entries.
        z: observed value w12, not zero.
        z2: observed value w21, not zero.
        eps: observed value w22, of either sign.

    Returns:
        The bound, of the shape of `loss` and in float64; 0 where e is at least |z| or |z2|.

    Raises:
        ValueError: for a loss that is not positive, z z2 = 0, or observed values that are not finite.

    Source: Razin and Cohen (NeurIPS 2020), on perturbed observations.

    >>> import ranklens as rl
    >>> [round(float(rl.theory.unobserved_bound(1e-12, eps=eps)), 2) for eps in (0.5, 0.1, 0.05)]
    [2.0, 10.0, 20.0]
    """
    positive = _positive(loss)
    z, z2, eps = arguments.number("z", z), arguments.number("z2", z2), arguments.number("eps", eps)
    if not (math.isfinite(z * z2) and z * z2 != 0 and math.isfinite(eps)):
        raise ValueError(f"z = {z}, z2 = {z2}, eps = {eps}; z and z2 must differ from zero and all be finite")
    e = (2 * positive).sqrt()
    return (abs(z) - e).clamp_min(0) * (abs(z2) - e).clamp_min(0) / (abs(eps) + e)


@dataclass(frozen=True)
class SolutionDeterminant:
    """The determinant of the matrices that fit a problem, as a function of their one unobserved entry w.

    Attributes:
        constant: the determinant at w = 0.
        cofactor: the cofactor of the unobserved entry; the determinant is constant + w cofactor.
        drives_to_infinity: the sign, -1 or 1, of initial determinants from which fitting drives |w| and every norm to
            infinity; 0 if there is none, because solutions have determinants of both signs or a zero determinant.
    """

    constant: float
    cofactor: float
    drives_to_infinity: int


@checked
def solution_determinant(task: Completion) -> SolutionDeterminant:
    """Return the determinant of the solutions of a completion with one unobserved entry.

    The determinant is affine in that entry. If the cofactor of the entry vanishes, all solutions have the same
    determinant. Balanced flows of depth two or more keep the sign of their determinant. From the other sign, the loss
    can then tend to zero only along matrices without a limit; all their entries but the unobserved one are bounded by
    the loss, so that one tends to infinity.

    Args:
        task: a completion of a square matrix with exactly one unobserved entry.

    Returns:
        A `SolutionDeterminant`: the determinant as a function of the unobserved entry w, and the sign of initial
        determinants from which fitting drives |w| to infinity (0 if there is none).

    Raises:
        ValueError: for another number of unobserved entries, or a problem that is not about square matrices.

    Source: the recipe behind Razin and Cohen (NeurIPS 2020), Theorem 1 and its extension to d x d.

    >>> import ranklens as rl
    >>> rl.theory.solution_determinant(rl.Completion.counterexample(d=4)).drives_to_infinity
    1
    """
    if len(task.shape) != 2 or task.shape[0] != task.shape[1]:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; determinants are of square matrices")
    unobserved = torch.ones(task.shape, dtype=torch.bool)
    unobserved[tuple(task.indices.T)] = False
    if int(unobserved.sum()) != 1:
        raise ValueError(f"{int(unobserved.sum())} entries are unobserved; pass a problem with exactly one")
    W = torch.zeros(task.shape, dtype=torch.float64)
    W[tuple(task.indices.T)] = task.values
    row, column = unobserved.nonzero()[0].tolist()
    rest = W[[k for k in range(len(W)) if k != row]][:, [k for k in range(len(W)) if k != column]]
    s = torch.linalg.svdvals(rest)
    vanishes = len(rest) == 0 or bool(s[-1] <= rank_cutoff(rest.dtype, rest.shape) * s[0])
    cofactor = 0.0 if vanishes else (-1) ** (row + column) * float(torch.linalg.det(rest))
    constant = float(torch.linalg.det(W))
    excluded = -int(math.copysign(1, constant)) if vanishes and constant else 0
    return SolutionDeterminant(constant, cofactor, excluded)


def _positive(loss: TensorLike) -> Tensor:
    """Return losses in float64.

    Raises:
        ValueError: if one of them is not positive.
    """
    found = as_tensor("loss", loss, torch.float64)
    if not bool((found > 0).all()):
        raise ValueError(f"loss is {float(found.min())}; the bounds hold for positive losses")
    return found
