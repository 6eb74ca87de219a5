"""Solutions of least nuclear norm, with their certificates: what deep factorizations are held against."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.problems import Completion, DenseSensing

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
    Z = torch.zeros(task.shape, dtype=torch.float64)
    Z[observed] = values

    def fitting(Z: Tensor) -> Tensor:
        X = Z.clone()
        X[observed] = values
        return X

    def shrunk(W: Tensor, threshold: float) -> Tensor:
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
        return (U * (s - threshold).clamp_min(0)) @ Vh

    def judged(X: Tensor, direction: Tensor) -> tuple[float, Tensor, float]:
        dual = _scaled(direction, torch.linalg.matrix_norm(direction, 2))
        return float(torch.linalg.svdvals(X).sum()), dual, float((dual * X).sum())

    return _split(Z, fitting, shrunk, judged, tolerance, steps)


@torch.no_grad()
def nuclear_norm_psd(task: DenseSensing, *, tolerance: float = 1e-7, steps: int = 100_000) -> NuclearNormCompletion:
    r"""The positive semidefinite matrix of least trace, which is its nuclear norm, among those that fit observations.

    The same splitting as for completion, with the projection to <A_i, X> = y_i in place of putting entries in, and
    eigenvalues that are lowered by t and cut at zero in place of soft singular values. At a fixed point (X - Z) / t =
    sum_i c_i A_i is at most the identity, so that tr X' >= <sum_i c_i A_i, X'> = sum_i c_i y_i for all X' that fit.

    Args:
        task: inner products with square operators, of which only symmetric parts matter.
        tolerance: stop when the relative gap, and the share of negative eigenvalues, are this small.
        steps: give up after so many; also where nothing positive semidefinite fits.

    Returns:
        The matrix, its trace, the dual (at most the identity, a combination of the operators) and the gap.

    Raises:
        TypeError: for another problem.
        ValueError: for operators that are not square, observations that contradict each other, or numbers out of range.

    Source: the problem of Gunasekar, Woodworth, Bhojanapalli, Neyshabur, Srebro (NeurIPS 2017).

    >>> import torch, ranklens as rl
    >>> operators = torch.diag_embed(torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64))
    >>> found = rl.nuclear_norm_psd(rl.DenseSensing(operators, torch.tensor([4.0])))
    >>> round(found.nuclear_norm, 6)  # all on the second axis, where an observation of 4 costs a trace of 2
    2.0
    """
    if not isinstance(task, DenseSensing):
        raise TypeError(f"the problem is a {type(task).__name__}; pass a rl.DenseSensing")
    if len(task.shape) != 2 or task.shape[0] != task.shape[1]:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; positive matrices are square")
    _check_numbers(tolerance, steps)
    A = task.operators.reshape(-1, *task.shape)
    M = ((A + A.mT) / 2).flatten(1)
    inverse = torch.linalg.pinv(M)
    Z = (inverse @ task.values).reshape(task.shape)
    missed = float((M @ Z.reshape(-1) - task.values).norm())
    if missed > 1e-8 * float(task.values.norm()):
        raise ValueError(f"no symmetric matrix fits: the observations contradict each other by {missed:g}")

    def fitting(Z: Tensor) -> Tensor:
        return Z - (inverse @ (M @ Z.reshape(-1) - task.values)).reshape(task.shape)

    def shrunk(W: Tensor, threshold: float) -> Tensor:
        s, V = torch.linalg.eigh(W)
        return (V * (s - threshold).clamp_min(0)) @ V.mT

    def judged(X: Tensor, direction: Tensor) -> tuple[float, Tensor, float]:
        s = torch.linalg.eigvalsh(X)
        dual = _scaled(direction, torch.linalg.eigvalsh(direction)[-1])
        positive = -float(s.clamp_max(0).sum()) <= tolerance * float(s.abs().sum())
        return float(s.sum()) if positive else math.inf, dual, float((dual * X).sum())

    return _split(Z, fitting, shrunk, judged, tolerance, steps)


def _split(
    start: Tensor,
    fitting: Callable[[Tensor], Tensor],
    shrunk: Callable[[Tensor, float], Tensor],
    judged: Callable[[Tensor, Tensor], tuple[float, Tensor, float]],
    tolerance: float,
    steps: int,
) -> NuclearNormCompletion:
    """Douglas-Rachford from a start that fits; `judged` gives the norm, the certificate and its lower bound."""
    if not bool(start.any()):
        return NuclearNormCompletion(start, 0.0, start.clone(), 0.0, 0.0, 0, True)
    Z, size = start, float(torch.linalg.matrix_norm(start, 2))
    threshold, turn = THRESHOLDS[0] * size, (0, PATIENCE)
    matrix, dual, norm, bound, gap, step = Z, Z, math.inf, -math.inf, math.inf, 0
    for step in range(steps + 1):
        X = fitting(Z)
        if step % CHECK == 0 or step == steps:
            here, certificate, low = judged(X, X - Z)
            matrix, norm = (X, here) if here < norm else (matrix, norm)
            dual, bound = (certificate, low) if low > bound else (dual, bound)
            gap = 1 - bound / norm if math.isfinite(norm) else math.inf
            if gap <= tolerance:
                break
        if step == turn[1]:  # (X - Z) / threshold is kept: it is the dual
            turn = (turn[0] + 1, step + PATIENCE * 2 ** ((turn[0] + 1) // len(THRESHOLDS)))
            before, threshold = threshold, THRESHOLDS[turn[0] % len(THRESHOLDS)] * size
            Z = X + threshold / before * (Z - X)
        Z = Z + RELAXATION * (shrunk(2 * X - Z, threshold) - X)
    return NuclearNormCompletion(matrix, norm, dual, bound, gap, step, gap <= tolerance)


def _scaled(direction: Tensor, size: Tensor) -> Tensor:
    """Divided by its size: of norm 1, or with a largest eigenvalue of 1."""
    return direction / size.where(size > 0, 1.0)


def _check(task: Completion, tolerance: float, steps: int) -> tuple[tuple[Tensor, ...], Tensor]:
    if not isinstance(task, Completion):
        raise TypeError(f"the problem is a {type(task).__name__}; pass a rl.Completion, whose entries are observed")
    if len(task.shape) != 2:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; the nuclear norm is that of a matrix")
    if len(task.indices.unique(dim=0)) < len(task.indices):
        raise ValueError("an entry is observed twice; make the problem with duplicates='mean'")
    _check_numbers(tolerance, steps)
    return tuple(task.indices.T), task.values


def _check_numbers(tolerance: float, steps: int) -> None:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; a relative gap lies between 0 and 1, such as 1e-7")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
