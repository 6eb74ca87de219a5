"""The completion of least nuclear norm, with its certificate: what deep factorizations are held against."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.problems import Completion

RELAXATION = 1.8  # of the Douglas-Rachford step; anything below 2 converges, and more than 1 is faster
CHECK = 10  # iterations from one look at the certificate to the next
THRESHOLDS = (0.1, 0.02, 0.5)  # of the spectral norm of what is observed: no one is fast on every problem, so in turn
PATIENCE = 500  # steps with each threshold in the first round, twice as many in every later one


@dataclass(frozen=True)
class NuclearNormCompletion:
    """A completion of least nuclear norm, and the proof that none has less.

    Attributes:
        matrix: fits every observation exactly.
        nuclear_norm: of the matrix.
        dual: a matrix Y of spectral norm at most 1 that is zero wherever nothing is observed. Every X that fits has
            |X|_* >= <Y, X> = <Y, matrix>, the same number for all.
        lower_bound: <Y, matrix>: no completion has less.
        gap: 1 - lower_bound / nuclear_norm.
        steps: of the iteration.
        converged: whether the gap reached the tolerance.
    """

    matrix: Tensor
    nuclear_norm: float
    dual: Tensor
    lower_bound: float
    gap: float
    steps: int
    converged: bool


@torch.no_grad()
def nuclear_norm_completion(
    task: Completion, *, tolerance: float = 1e-7, steps: int = 100_000
) -> NuclearNormCompletion:
    r"""The matrix of least nuclear norm among those that have the observed entries.

    Douglas-Rachford splitting of |X|_* and the constraint, with thresholds t:

        X = Z with the observed entries put in,    Y = soft(2 X - Z, t),    Z <- Z + a (Y - X),

    soft shrinking singular values by t. At a fixed point X = Y, and (X - Z) / t is a subgradient of the nuclear norm
    at X that vanishes off the observed entries: the certificate. On the way it is scaled to spectral norm 1, so that
    <dual, X> is a true lower bound at every step, and the gap is known, not guessed.

    Args:
        task: a completion of a matrix; its loss plays no part.
        tolerance: stop when the relative gap between nuclear norm and lower bound is this small.
        steps: give up after so many.

    Returns:
        The matrix, its norm, the dual certificate and the gap.

    Raises:
        ValueError: for tensors of other order, an entry observed twice, or numbers out of range.

    Source: Candes and Recht (FoCM 2009) for the certificate; Lions and Mercier (SINUM 1979) for the splitting.

    >>> import ranklens as rl
    >>> found = rl.nuclear_norm_completion(rl.Completion.counterexample())
    >>> round(found.nuclear_norm, 6), bool(found.matrix[0, 0].abs() < 1e-6)  # least at 0, where gradient flow never is
    (2.0, True)
    """
    observed, values = _check(task, tolerance, steps)
    rows, columns = task.shape
    if not bool(values.any()):
        zero = torch.zeros(rows, columns, dtype=torch.float64)
        return NuclearNormCompletion(zero, 0.0, zero.clone(), 0.0, 0.0, 0, True)
    Z = torch.zeros(rows, columns, dtype=torch.float64)
    Z[observed] = values
    size = float(torch.linalg.matrix_norm(Z, 2))
    threshold, turn = THRESHOLDS[0] * size, (0, PATIENCE)
    matrix, dual, norm, bound, gap, step = Z, Z, math.inf, -math.inf, math.inf, 0
    for step in range(steps + 1):
        X = Z.clone()
        X[observed] = values
        if step % CHECK == 0 or step == steps:
            here, certificate = float(torch.linalg.svdvals(X).sum()), _dual(X - Z)
            low = float((certificate * X).sum())
            matrix, norm = (X, here) if here < norm else (matrix, norm)
            dual, bound = (certificate, low) if low > bound else (dual, bound)
            gap = 1 - bound / norm
            if gap <= tolerance:
                break
        if step == turn[1]:  # (X - Z) / threshold is kept: it is the dual
            turn = (turn[0] + 1, step + PATIENCE * 2 ** ((turn[0] + 1) // len(THRESHOLDS)))
            before, threshold = threshold, THRESHOLDS[turn[0] % len(THRESHOLDS)] * size
            Z = X + threshold / before * (Z - X)
        U, s, Vh = torch.linalg.svd(2 * X - Z, full_matrices=False)
        Z += RELAXATION * ((U * (s - threshold).clamp_min(0)) @ Vh - X)
    return NuclearNormCompletion(matrix, norm, dual, bound, gap, step, gap <= tolerance)


def _dual(direction: Tensor) -> Tensor:
    """Scaled to spectral norm 1."""
    size = torch.linalg.matrix_norm(direction, 2)
    return direction / size.where(size > 0, 1.0)


def _check(task: Completion, tolerance: float, steps: int) -> tuple[tuple[Tensor, ...], Tensor]:
    if not isinstance(task, Completion):
        raise TypeError(f"the problem is a {type(task).__name__}; pass a rl.Completion, whose entries are observed")
    if len(task.shape) != 2:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; the nuclear norm is that of a matrix")
    if len(task.indices.unique(dim=0)) < len(task.indices):
        raise ValueError("an entry is observed twice; make the problem with duplicates='mean'")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; a relative gap lies between 0 and 1, such as 1e-7")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    return tuple(task.indices.T), task.values
