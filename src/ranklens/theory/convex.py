"""Solutions of least nuclear norm with certificates, the convex baseline of deep factorizations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.problems import Completion, DenseSensing
from ranklens.tensors import arguments

# Relaxation factor of the Douglas-Rachford step: it converges for all factors below 2, and faster above 1.
RELAXATION = 1.8
# Number of steps between two computations of the certificate.
CHECK = 10
# Thresholds of the soft thresholding, relative to the spectral norm of the observed matrix. None of them is fast on
# every problem, so they take turns.
THRESHOLDS = (0.1, 0.02, 0.5)
# Number of steps with each threshold in the first round; every later round takes twice as many as the one before.
PATIENCE = 500


@dataclass(frozen=True)
class NuclearNormCompletion:
    """A solution of least nuclear norm, and a lower bound that proves how close to the least it is.

    Attributes:
        matrix: the solution; it fits every observation exactly, up to rounding.
        nuclear_norm: the nuclear norm of `matrix`; infinite if `nuclear_norm_psd` found no positive semidefinite
            matrix.
        dual: the certificate Y. For a completion it is a matrix of spectral norm at most 1 that is zero at unobserved
            entries, so every X that fits has |X|_* >= <Y, X> = <Y, matrix>. For `nuclear_norm_psd` it is a combination
            of the operators with eigenvalues of at most 1.
        lower_bound: <Y, matrix>; no solution has a smaller nuclear norm.
        gap: the relative gap 1 - lower_bound / nuclear_norm; 0 if `matrix` is zero, infinite if the norm is infinite.
        steps: number of steps of the iteration.
        converged: whether the gap is at most the tolerance.
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
    r"""Return the matrix of least nuclear norm among those with the observed entries.

    The method is Douglas-Rachford splitting of |X|_* and the constraint, with a threshold t and a relaxation factor a:

        X = Z with the observed entries put in,    Y = soft(2 X - Z, t),    Z <- Z + a (Y - X),

    where soft lowers all singular values by t and cuts them at zero. At a fixed point X = Y, and (X - Z) / t is a
    subgradient of the nuclear norm at X that vanishes at unobserved entries: the certificate. Before the fixed point
    it is scaled to spectral norm 1, so that <dual, X> is a lower bound at every step, and the gap is exact.

    Args:
        task: a completion of a matrix; its loss is not used.
        tolerance: stop when the relative gap between nuclear norm and lower bound is this small.
        steps: stop after this many steps, even if the gap is larger; `converged` is then False.

    Returns:
        The matrix, its nuclear norm, the certificate, the lower bound and the gap, as a `NuclearNormCompletion`.

    Raises:
        TypeError: for another kind of problem.
        ValueError: for a tensor that is no matrix, an entry that is observed twice, or numbers out of range.

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
    r"""Return the positive semidefinite matrix of least trace (its nuclear norm) among those that fit the observations.

    The method is Douglas-Rachford splitting with a threshold t and a relaxation factor a,

        X = projection of Z to <A_i, X> = y_i for all i,    Y = soft(2 X - Z, t),    Z <- Z + a (Y - X),

    where soft lowers all eigenvalues by t and cuts them at zero. At a fixed point, (X - Z) / t = sum_i c_i A_i has
    eigenvalues of at most 1, so that tr X' >= <sum_i c_i A_i, X'> = sum_i c_i y_i for every positive semidefinite X'
    that fits.

    Args:
        task: inner products with square operators A_i; only the symmetric parts of the operators matter.
        tolerance: stop when the relative gap, and the share of negative eigenvalues in the norm, are this small.
        steps: stop after this many steps, also if no positive semidefinite matrix fits; `converged` is then False.

    Returns:
        The matrix, its trace, the certificate, the lower bound and the gap, as a `NuclearNormCompletion`.

    Raises:
        TypeError: for another kind of problem.
        ValueError: for operators that are not square, observations that contradict each other, or numbers out of range.

    Source: the problem of Gunasekar, Woodworth, Bhojanapalli, Neyshabur, Srebro (NeurIPS 2017).

    >>> import torch, ranklens as rl
    >>> operators = torch.diag_embed(torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64))
    >>> found = rl.nuclear_norm_psd(rl.DenseSensing(operators, torch.tensor([4.0])))
    >>> round(found.nuclear_norm, 6)  # all on the second axis, where an observation of 4 costs a trace of 2
    2.0
    """
    if not isinstance(task, DenseSensing):
        raise TypeError(f"task is a {type(task).__name__}; pass a rl.DenseSensing")
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
    """Return the solution found by Douglas-Rachford splitting.

    Args:
        start: a matrix that fits the observations.
        fitting: the projection to matrices that fit.
        shrunk: the soft thresholding of a matrix, by a given threshold.
        judged: from a matrix and (X - Z) to the nuclear norm, the certificate and its lower bound.
        tolerance: stop when the relative gap between nuclear norm and lower bound is this small.
        steps: stop after this many steps.
    """
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
        if step == turn[1]:  # Z changes so that the dual (X - Z) / threshold does not
            turn = (turn[0] + 1, step + PATIENCE * 2 ** ((turn[0] + 1) // len(THRESHOLDS)))
            before, threshold = threshold, THRESHOLDS[turn[0] % len(THRESHOLDS)] * size
            Z = X + threshold / before * (Z - X)
        Z = Z + RELAXATION * (shrunk(2 * X - Z, threshold) - X)
    return NuclearNormCompletion(matrix, norm, dual, bound, gap, step, gap <= tolerance)


def _scaled(direction: Tensor, size: Tensor) -> Tensor:
    """Return a direction divided by its size, or unchanged if its size is not positive."""
    return direction / size.where(size > 0, 1.0)


def _check(task: Completion, tolerance: float, steps: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the observed positions and values of a completion of a matrix.

    Raises:
        TypeError: for another kind of problem.
        ValueError: for a tensor that is no matrix, or an entry that is observed twice.
    """
    if not isinstance(task, Completion):
        raise TypeError(f"task is a {type(task).__name__}; pass a rl.Completion, whose entries are observed")
    if len(task.shape) != 2:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; the nuclear norm is that of a matrix")
    if len(task.indices.unique(dim=0)) < len(task.indices):
        raise ValueError("an entry is observed twice; make the problem with duplicates='mean'")
    _check_numbers(tolerance, steps)
    return tuple(task.indices.T), task.values


def _check_numbers(tolerance: float, steps: int) -> None:
    """Refuse numbers out of range.

    Raises:
        ValueError: for such numbers.
    """
    if arguments.number("tolerance", tolerance) <= 0 or tolerance >= 1:
        raise ValueError(f"tolerance is {tolerance}; a relative gap lies between 0 and 1, such as 1e-7")
    arguments.count("steps", steps)
