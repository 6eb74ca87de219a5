"""The implicit equation of one step of a stiff solver, solved by Newton's iteration without a matrix.

Vectors are numpy arrays or torch tensors; `numpy` and `torch` give the functions used here the same names.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float64] | Tensor

# Directions per linear solve.
DIRECTIONS = 16
# Length of a direction along which the Jacobian is measured, as a share of the error that a step may make. Along stiff
# directions the change of the Jacobian counts at longer ones, rounding at much shorter ones.
PROBE = 0.1
# Iterations of Newton's method per step. A step that needs more of them is taken again with a shorter length.
ITERATIONS = 3
# Largest residual of a linear solve, as a share of the error that the iteration may leave.
LINEAR = 0.05
# Factor by which the estimate of the contraction grows from one step to the next, so that it is measured again.
FORGET = 1.5
# Least factor by which the estimate of the contraction falls from one iteration to the next.
FALL = 0.3
# Growth of the correction from one iteration to the next at which the iteration counts as divergent.
DIVERGENT = 2.0
# Share of a new direction that must be independent of the earlier ones, else the solution is exact already.
INDEPENDENT = 1e-12


def functions_of(vector: Vector) -> ModuleType:
    """Return the module, numpy or torch, whose functions take this vector."""
    return torch if isinstance(vector, Tensor) else np


def blank(vector: Vector, rows: int) -> Vector:
    """Return zeros of shape (rows, n) of the kind, and on the device, of a vector of n numbers."""
    if isinstance(vector, Tensor):
        return vector.new_zeros(rows, len(vector))
    return np.zeros((rows, len(vector)))


def copy(source: Vector, to: Vector) -> None:
    """Write the numbers of a vector to another vector, which may be of another kind or on another device."""
    if isinstance(to, Tensor):
        to.copy_(torch.as_tensor(source))
    else:
        np.copyto(to, source)


def numbers(values: Sequence[float] | Sequence[Sequence[float]], vector: Vector) -> Vector:
    """Return a list of numbers, or several lists, as an array or tensor of the kind of a vector."""
    found = np.array(values)
    return torch.from_numpy(found).to(vector) if isinstance(vector, Tensor) else found


class LeastSquares:
    """Minimizes |size e_0 - H x| over x for an upper Hessenberg matrix H that grows column by column.

    Every column is made triangular by plane rotations as soon as it comes, so the residual is known at once.

    Args:
        size: the first entry of the right-hand side, whose other entries are zero.

    Attributes:
        residual: the smallest |size e_0 - H x| with the columns so far.

    >>> problem = LeastSquares(2.0)
    >>> problem.add([1.0], 1.0)
    >>> round(problem.residual, 3), [round(x, 3) for x in problem.solution()]  # x = 1 leaves (1, -1)
    (1.414, [1.0])
    """

    def __init__(self, size: float) -> None:
        self.residual = size
        self._columns: list[list[float]] = []
        self._rotations: list[tuple[float, float]] = []
        self._right: list[float] = []
        self._last = size

    def add(self, column: list[float], below: float) -> None:
        """Add a column.

        Args:
            column: its entries down to the diagonal, which are overwritten.
            below: its entry below the diagonal.
        """
        for i, (c, s) in enumerate(self._rotations):
            column[i], column[i + 1] = c * column[i] + s * column[i + 1], c * column[i + 1] - s * column[i]
        length = math.hypot(column[-1], below)
        c, s = (column[-1] / length, below / length) if length else (1.0, 0.0)
        column[-1] = length
        self._columns.append(column)
        self._rotations.append((c, s))
        self._right.append(c * self._last)
        self._last *= -s
        self.residual = abs(self._last)

    def solution(self) -> list[float]:
        """Return the minimizer x; an entry is infinite where the matrix is singular."""
        x = list(self._right)
        for i in range(len(x) - 1, -1, -1):
            column = self._columns[i]
            x[i] = x[i] / column[i] if column[i] else math.inf
            for k in range(i):
                x[k] -= column[k] * x[i]
        return x


class Newton:
    r"""Solves y = p + gamma (f(y) - v) for y, the equation of an implicit step.

    Every iteration solves (I - gamma J) x = r for the correction x, with the Jacobian J of f at the present y. GMRES
    does that in the norm |x|, the root mean square of x_i / (rtol |y_i| + atol_i): the solver allows errors of norm 1.
    It needs only products J v, which are differences f(y + v) - f(y) for directions v of norm 1.

    Args:
        vector: where the state is written before `rate` is called.
        rate: returns f at the state in `vector`, in memory that the next call may overwrite.
        rtol: relative error that a step may make.
        atol: absolute error per number that a step may make, a vector.
    """

    def __init__(self, vector: Vector, rate: Callable[[], Vector], rtol: float, atol: Vector) -> None:
        self.vector, self.rate = vector, rate
        self._xp = functions_of(vector)
        root = PROBE * math.sqrt(len(vector))  # lengths are in units of a direction, and sums of squares mean squares
        self._rtol, self._atol = rtol * root, atol * root
        # Row 0 is the latest difference J v, and the rows after it are the directions, orthonormal in the norm.
        self._basis = blank(vector, DIRECTIONS + 1)
        self._here, self._squares, self._spare, self._moved = blank(vector, 4)
        self._contraction = 1.0

    def weigh(self, y: Vector) -> None:
        """Take the weights of the norm from a state."""
        xp, weights = self._xp, self._squares
        xp.abs(y, out=weights)
        xp.multiply(weights, self._rtol, out=weights)
        xp.add(weights, self._atol, out=weights)
        xp.reciprocal(weights, out=weights)
        xp.multiply(weights, weights, out=weights)

    def norm(self, x: Vector) -> float:
        """Return the root mean square of x_i / (rtol |y_i| + atol_i)."""
        return PROBE * self._length(x)

    def _length(self, x: Vector) -> float:
        """Return the norm of x in units of the norm of a direction."""
        self._xp.multiply(x, self._squares, out=self._spare)
        return math.sqrt(float(self._xp.dot(x, self._spare)))

    def solve(self, predicted: Vector, slope: Vector, gamma: float, allowed: float, out: Vector) -> float | None:
        """Solve for y, and write it to `out`.

        Args:
            predicted: p, where the iteration starts.
            slope: v.
            gamma: a positive number.
            allowed: largest error of y in the norm.
            out: a vector for y.

        Returns:
            The norm |y - p|; None if the iteration does not converge.
        """
        xp, tolerance, contraction, before = self._xp, allowed / PROBE, self._contraction, 0.0
        self._contraction = 1.0  # unless the iteration converges
        for iteration in range(ITERATIONS):
            here = out if iteration else predicted
            size = self._residual(here, predicted, slope, gamma)
            if not math.isfinite(size):
                return None
            solved = self._correction(here, gamma, size, LINEAR * tolerance, not iteration)
            if solved is None:
                return None
            coefficients, left = solved
            xp.matmul(self._basis[1 : len(coefficients) + 1].T, numbers(coefficients, here), out=self._spare)
            xp.add(here, self._spare, out=out)
            correction = math.hypot(*coefficients)
            if iteration:
                contraction = max(FALL * contraction, correction / before)
            if correction * min(1.0, contraction) <= tolerance and left <= LINEAR * tolerance:
                self._contraction = min(1.0, FORGET * contraction)
                moved = self._length(xp.subtract(out, predicted, out=self._moved)) if iteration else correction
                return PROBE * moved
            if iteration and correction > DIVERGENT * before:
                return None
            before = correction
        return None

    def _residual(self, here: Vector, predicted: Vector, slope: Vector, gamma: float) -> float:
        """Write the residual r, divided by its length, to the first direction, and return the length."""
        xp, first = self._xp, self._basis[1]
        copy(here, self.vector)
        copy(self.rate(), self._here)
        xp.subtract(self._here, slope, out=first)
        if here is not predicted:
            xp.subtract(here, predicted, out=self._spare)
            xp.multiply(self._spare, 1 / gamma, out=self._spare)
            xp.subtract(first, self._spare, out=first)
        size = gamma * self._length(first)
        if 0 < size < math.inf:
            xp.multiply(first, gamma / size, out=first)
        return size

    def _correction(
        self, here: Vector, gamma: float, size: float, tolerance: float, inexact: bool
    ) -> tuple[list[float], float] | None:
        """Solve (I - gamma J) x = r.

        Args:
            here: the state at which J is the Jacobian of f.
            gamma: factor of J.
            size: length of r, whose direction is the first one.
            tolerance: largest length of the residual of this linear system.
            inexact: whether any solution that makes the residual smaller will do if none is good enough.

        Returns:
            x as coefficients of the directions, and the length of the residual; None if there is no solution.
        """
        if size <= tolerance:
            return [size], size
        xp, basis, problem = self._xp, self._basis, LeastSquares(size)
        for j in range(1, DIRECTIONS + 1):
            xp.add(here, basis[j], out=self.vector)
            xp.subtract(self.rate(), self._here, out=basis[0])
            xp.multiply(basis[0], self._squares, out=self._spare)
            square, *along = xp.matmul(basis[: j + 1], self._spare).tolist()
            along = [gamma * share for share in along]
            total = gamma * gamma * square
            if not math.isfinite(total):
                return None
            below = math.sqrt(max(total - math.hypot(*along) ** 2, 0.0))
            column = [-share for share in along]
            column[-1] += 1.0
            problem.add(column, below)
            if problem.residual <= tolerance or below <= INDEPENDENT * math.sqrt(total) or j == DIRECTIONS:
                break
            # (I - gamma J) v_j less its parts along v_1, ..., v_j is sum_i along_i v_i - gamma J v_j.
            weights = numbers([-gamma / below, *(share / below for share in along)], here)
            xp.matmul(basis[: j + 1].T, weights, out=basis[j + 1])
        if problem.residual > tolerance and not (inexact and problem.residual < size):
            return None
        return problem.solution(), problem.residual
