"""The flow of the end matrix itself: a closed equation for any real depth, with no factors to store."""

import math
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from ranklens.dynamics.checkpoint import UNFINISHED, viewed
from ranklens.dynamics.newton import Vector
from ranklens.dynamics.record import (
    Attributes,
    Cost,
    Outcome,
    Quantity,
    Recorder,
    is_early,
    run_attributes,
    warn_if_early,
)
from ranklens.dynamics.solver import (
    SOLVER,
    Bounds,
    Field,
    Floats,
    Run,
    default_errors,
    flow_bounds,
    local_error,
)
from ranklens.problems.problem import TensorProblem, check_smooth
from ranklens.progress import Report, reporter
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.convert import TensorLike, as_floating
from ranklens.tensors.measures import numerical_rank
from ranklens.threads import threads

MatrixTrack = Mapping[str, Callable[[Tensor], Quantity]]
# Smallest difference of the logarithms of neighbouring singular values at which a logarithmic run changes from the
# entries of W to (U, ln s, V): nearer values would turn their singular vectors too fast for the solver.
APART = 0.05
# Ratio of the smallest to the largest singular value below which the smallest counts as having reached zero.
SINGULAR = 1e-8


@torch.enable_grad()
@checked
def end_matrix_flow(  # noqa: PLR0913  (what ends a run, what it records, how exact it is)
    start: TensorLike,
    task: TensorProblem,
    *,
    depth: float,
    logarithmic: bool = False,
    until_loss: float = 5e-5,
    until_time: float = math.inf,
    until_evaluations: int | None = None,
    times: Sequence[float] | ArrayLike | None = None,
    rtol: float = 1e-6,
    atol: float | None = None,
    track: MatrixTrack | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    r"""Follow the end matrix of a balanced deep matrix of depth L under gradient flow; L may be any real, or infinite.

    With the singular value decomposition W = U S V^T (U and V square), G the gradient of the loss in W, and
    g = U^T G V, the flow is

        W' = -U (K o g) V^T,    K(s, s') = (s^2 - s'^2) / (s^(2/L) - s'^(2/L)),    K(s, s) = L s^(2 - 2/L).

    Here o is the entrywise product, and entry (i, j) of K is K(s_i, s_j). For whole L the flow is

        W' = -sum_(j=1)^L (W W^T)^((L-j)/L) G (W^T W)^((j-1)/L),

    the change that balanced factors give to their product, summed as a geometric series in the basis of W. Nothing in K
    needs L to be whole. As L grows, K / L tends to the logarithmic mean of s^2 and s'^2: depth `inf` uses that mean as
    its K, and its time is L times the time of a flow of depth L.

    Rank-deficient and rectangular matrices have zeros among s; there K(s, 0) = s^(2 - 2/L), and K(0, 0) = 0 (1 at
    L = 1). For 1 < L < 2 a singular value may reach zero in finite time, where the equation has no unique solution: the
    run stops.

    Args:
        start: (rows, columns) in float64, of any rank: a tensor, a numpy array or nested lists.
        task: a problem whose `loss(matrix)` is differentiable.
        depth: L, at least 1, or `math.inf`.
        logarithmic: True integrates (U, ln s, V) instead of W, once the singular values differ, so that a singular
            value as small as e^-10000 keeps its relative accuracy and det W its sign. It needs full rank and L >= 2.
            Where two singular values meet again, their vectors turn ever faster: there W is the better coordinate.
        until_loss: stop when the loss is this small. With 0 the flow goes on until it is at rest.
        until_time: stop at this time.
        until_evaluations: stop after this many evaluations of the gradient.
        times: record only at the start, at these increasing times and at the end; the run stops at the last of them
            at the latest. None records every step of the solver.
        rtol: relative tolerance, at most 0.1. Errors of a whole run fall in proportion to it.
        atol: absolute error per step of the entries of W (or of ln s, U and V); None takes about rtol / 2 times the
            initial size of each, or of a tenth of their root mean square if that is more.
        track: {name: function of the matrix that returns a number, tensor or array, always of one shape}; it is
            evaluated under no_grad at every recorded time.
        progress: True for a status line on the terminal; or a function that is called with that line; None for none.

    Returns:
        A Dataset with coordinate `time`. Along it are the `loss`, the tracked variables, the natural logarithms of the
        singular values `log_sigma` (time, min(rows, columns)), and the `sign` of the determinant (0 for a matrix that
        is not square or is singular). Its variable `matrix` (rows, columns) is the final matrix. Its attributes are
        those that `gradient_flow` lists, and "depth". "stopped" may also be "singular": a singular value reached
        zero up to rounding, at a depth between 1 and 2.

    Raises:
        TypeError: for a start that is not float64, or a task that is no problem.
        ValueError: for a depth below 1, a start that is no finite matrix, a logarithmic run of a singular matrix or
            of a depth below 2, a loss whose gradient is discontinuous, or bounds or tolerances outside their ranges.

    Warns:
        StoppedEarly: if the run ends by "evaluations", "singular", "nan", or (unless `until_loss` is 0) "stationary".

    Source: Arora, Cohen, Hazan (ICML 2018), Theorem 1; Arora, Cohen, Hu, Luo (NeurIPS 2019), Theorem 3 and Lemma 2.

    >>> import torch, ranklens as rl
    >>> task, start = rl.Completion.counterexample(), 1e-3 * torch.eye(2, dtype=torch.float64)
    >>> run = rl.end_matrix_flow(start, task, depth=2, logarithmic=True, until_loss=1e-4)
    >>> round(float(run.log_sigma[-1, 1])), int(run.sign[-1])  # e^-2529 underflows float64, yet det W > 0 is known
    (-2529, 1)
    >>> run = rl.end_matrix_flow(start, task, depth=2.5, until_loss=1e-3)
    >>> round(abs(float(run.matrix[0, 0])), 1)  # 1 / sqrt(2 loss), at a depth that no product of factors has
    22.3
    """
    check_smooth(task)
    depth = arguments.number("depth", depth, least=1, finite=False)
    W = _start_matrix(start, depth, logarithmic)
    recorder = Recorder("time", _tracked(track or {}))
    bounds = flow_bounds(until_loss, until_time, until_evaluations, times, rtol, atol)
    started = clock.perf_counter()

    def run_of(field: Field[_State], time: float, ending: Callable[[Floats], str]) -> Run[_State]:
        errors = default_errors(field.array, rtol) if atol is None else np.full(field.array.size, float(atol))
        return Run(field, recorder, local_error(rtol), errors, time, ending)

    def record(stopped: str, message: str = "") -> xr.Dataset:
        cost = Cost(run.field.evaluations, before + run.steps, clock.perf_counter() - started)
        outcome = Outcome(stopped, message, cost)
        attrs = _attributes(outcome, task, depth, until_loss, rtol)
        return recorder.result(outcome, {"matrix": run.field.subject.matrix}, attrs)

    before = 0
    with threads(W.numel() * min(W.shape)), reporter(progress) as told:
        report = viewed(told, lambda: record(UNFINISHED))
        run = run_of(_Matrix(W, task, depth), 0.0, _ending(W, depth, logarithmic))
        run.go(bounds, report)
        if run.stopped == "apart":
            rest = _rest(bounds, recorder, run.point.time)
            field = _Logarithmic(run.field.subject.matrix, task, depth, run.field.evaluations)
            before, run = run.steps, run_of(field, run.point.time, _never)
            run.go(rest, report, begins=False)
    warn_if_early(Outcome(run.stopped, run.message, Cost()), run.point.loss, until_loss)
    return record(run.stopped, run.message)


def _attributes(outcome: Outcome, task: TensorProblem, depth: float, until_loss: float, rtol: float) -> Attributes:
    """Return the attributes of the record of a run."""
    return run_attributes(
        outcome,
        task,
        network=f"the end matrix of depth {depth:g}",
        solver=SOLVER,
        until_loss=until_loss,
        early=is_early(outcome.stopped, until_loss),
        rtol=rtol,
        depth=float(depth),
    )


def _rest(bounds: Bounds, recorder: Recorder["_State"], time: float) -> Bounds:
    """Return the bounds of a run that goes on in logarithmic coordinates from a time.

    Where only given times are recorded, the row at the change of coordinates is dropped.
    """
    if bounds.times is None:
        return bounds
    recorder.drop()
    return replace(bounds, times=bounds.times[bounds.times > time])


def kernel(s: Float[Tensor, " a"], t: Float[Tensor, " b"], depth: float) -> Float[Tensor, "a b"]:
    r"""Return K(s, t) = (s^2 - t^2) / (s^(2/L) - t^(2/L)) for all pairs; it is symmetric, and L s^(2 - 2/L) at s = t.

    With r = ln(s / t) >= 0 it equals s^(2 - 2/L) (1 - e^(-2r)) / (1 - e^(-2r/L)). That form loses no digits where s is
    near t, and needs no special case for t = 0. For infinite depth the function returns the limit of K / L, which is
    s^2 (1 - e^(-2r)) / (2r).

    Args:
        s: (a,) values, zero or more.
        t: (b,) values, zero or more.
        depth: L >= 1, or infinite.

    Returns:
        (a, b), K of every value of `s` with every value of `t`.

    >>> import torch
    >>> s = torch.tensor([8.0, 1.0, 0.0], dtype=torch.float64)
    >>> kernel(s, s, depth=3.0).round(decimals=6).tolist()  # 3 s^(4/3) on the diagonal, 63 / 3 beside it
    [[48.0, 21.0, 16.0], [21.0, 3.0, 1.0], [16.0, 1.0, 0.0]]
    """
    high, low = torch.maximum(s[:, None], t), torch.minimum(s[:, None], t)
    ratio = -torch.log1p(-((high - low) / high.where(high > 0, 1.0)))
    share = -torch.expm1(-2 * ratio)
    if math.isinf(depth):
        return high.square() * (share / (2 * ratio).where(ratio > 0, 1.0)).where(ratio > 0, 1.0)
    parts = -torch.expm1(-2 * ratio / depth)
    return high.pow(2 - 2 / depth) * (share / parts.where(ratio > 0, 1.0)).where(ratio > 0, depth)


@dataclass(frozen=True)
class _State:
    """The state that a record is made from: W, the logarithms of its singular values, the sign of its determinant."""

    matrix: Tensor
    logs: Tensor
    sign: float


class _Matrix:
    """The right-hand side W' = -U (K o g) V^T, in the entries of W."""

    def __init__(self, start: Tensor, task: TensorProblem, depth: float) -> None:
        self.task, self.depth = task, depth
        self.W = start.detach().clone(memory_format=torch.contiguous_format)
        self.array: Floats = self.W.view(-1).numpy()
        self.vector: Vector = self.array
        self.evaluations, self.slope = 0, math.inf

    @property
    def subject(self) -> _State:
        """Return the present state."""
        return _State(self.W.clone(), torch.linalg.svdvals(self.W).log(), _sign(self.W))

    def rate(self) -> Floats:
        """Return the rate of every entry of W."""
        return self.velocity()

    def velocity(self) -> Floats:
        """Return the rate of every entry of W."""
        self.evaluations += 1
        G = _gradient(self.task, self.W)
        if not bool(torch.isfinite(G.sum() + self.W.sum())):
            self.slope = math.inf
            return np.full_like(self.array, math.nan)
        U, S, Vh = torch.linalg.svd(self.W)
        rows, columns = (torch.cat([S, S.new_zeros(n - len(S))]) for n in self.W.shape)
        moved = -U @ (kernel(rows, columns, self.depth) * (U.T @ G @ Vh.T)) @ Vh
        self.slope = float(moved.norm())
        return moved.reshape(-1).numpy()

    def loss_at(self, y: Floats) -> float:
        """Return the loss at a state, and stay there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.W))


class _Logarithmic:
    """The right-hand side in (U, ln s, V) for W = U S V^T, where every singular value keeps its relative accuracy.

    U^T W' V = -(K o g) gives U' = U Omega - (I - U U^T) G V S^(1 - 2/L), with

        Omega = -F o (g S + S g^T),   F_ij = 1 / (s_j^(2/L) - s_i^(2/L)),   (ln s_r)' = -L s_r^(1 - 2/L) g_rr.

    V' follows from U' with the transposes of G and g, and U and V exchanged. At infinite depth the second term of U'
    and V' vanishes in the limit.
    """

    def __init__(self, start: Tensor, task: TensorProblem, depth: float, evaluations: int) -> None:
        self.task, self.depth, self.evaluations, self.slope = task, depth, evaluations, math.inf
        U, S, Vh = torch.linalg.svd(start, full_matrices=False)
        flat = torch.cat([U.reshape(-1), S.log(), Vh.T.reshape(-1)])
        self.array: Floats = flat.numpy()
        self.vector: Vector = self.array
        split = flat.split([U.numel(), len(S), Vh.numel()])
        self._U, self._logs, self._V = split[0].view(U.shape), split[1], split[2].view(Vh.T.shape)

    @property
    def subject(self) -> _State:
        """Return the present state."""
        U, V = _nearest(self._U), _nearest(self._V)
        square = len(U) == len(V)
        return _State((U * self._logs.exp()) @ V.T, self._logs.clone(), _sign(U) * _sign(V) if square else 0.0)

    def rate(self) -> Floats:
        """Return the rates of U, ln s and V, flat."""
        return self.velocity()

    def velocity(self) -> Floats:
        """Return the rates of U, ln s and V, flat."""
        self.evaluations += 1
        if not np.isfinite(self.array).all():
            self.slope = math.inf
            return np.full_like(self.array, math.nan)
        U, V, logs = _nearest(self._U), _nearest(self._V), self._logs
        s = logs.exp()
        G = _gradient(self.task, (U * s) @ V.T)
        g = U.T @ G @ V
        slow = s if math.isinf(self.depth) else s ** (1 - 2 / self.depth)
        factor = 1.0 if math.isinf(self.depth) else self.depth
        F = self._inverse_differences()
        turns_u, turns_v = -F * (g * s + s[:, None] * g.T), -F * (s[:, None] * g + g.T * s)
        leaves = 0.0 if math.isinf(self.depth) else 1.0
        moved_u = U @ turns_u - leaves * ((G @ V) - U @ g) * slow
        moved_v = V @ turns_v - leaves * ((G.T @ U) - V @ g.T) * slow
        rates = torch.cat([moved_u.reshape(-1), -factor * slow * g.diagonal(), moved_v.reshape(-1)])
        self.slope = float(rates.norm())
        return rates.numpy()

    def _inverse_differences(self) -> Tensor:
        """Return F of all pairs, from ln s: a difference of powers of small singular values would lose its digits."""
        logs = self._logs
        ahead = logs - logs[:, None]
        if math.isinf(self.depth):
            difference = 2 * ahead
        else:
            high = torch.maximum(logs, logs[:, None])
            difference = -torch.expm1(-2 * ahead.abs() / self.depth) * (2 / self.depth * high).exp() * ahead.sign()
        return torch.where(difference != 0, 1 / difference.where(difference != 0, 1.0), 0.0)

    def loss_at(self, y: Floats) -> float:
        """Return the loss at a state, and stay there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.subject.matrix))


def _gradient(task: TensorProblem, W: Tensor) -> Tensor:
    free = W.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(free), free)
    return gradient


def _nearest(vectors: Tensor) -> Tensor:
    """Return the nearest matrix of orthonormal columns; the error of the solver makes columns lose orthonormality."""
    P, _, Qh = torch.linalg.svd(vectors, full_matrices=False)
    return P @ Qh


def _sign(W: Tensor) -> float:
    """Return the sign of the determinant, or 0 for a matrix that is not square."""
    return float(torch.linalg.slogdet(W).sign) if W.shape[0] == W.shape[1] else 0.0


def _ending(start: Tensor, depth: float, logarithmic: bool) -> Callable[[Floats], str]:
    """Return the further reason to stop: "apart" before logarithmic coordinates, "singular" at depths from 1 to 2."""
    shape, rank, sign = start.shape, int(numerical_rank(start)), _sign(start)

    def apart(y: Floats) -> str:
        logs = torch.linalg.svdvals(torch.from_numpy(y).view(shape)).log()
        return "apart" if bool((logs[:-1] - logs[1:] >= APART).all()) else ""

    def singular(y: Floats) -> str:
        W = torch.from_numpy(y).view(shape)
        s = torch.linalg.svdvals(W)
        return "singular" if float(s[rank - 1]) <= SINGULAR * float(s[0]) or _sign(W) * sign < 0 else ""

    if logarithmic:
        return apart
    return singular if 1 < depth < 2 and rank else _never


def _never(_: Floats) -> str:
    """Return no further reason to stop."""
    return ""


def _tracked(track: MatrixTrack) -> Mapping[str, Callable[[_State], Quantity]]:
    """Return the functions of a state that every record of an end matrix has, and those of the user.

    Raises:
        ValueError: if the user's functions have a name that the record has already.
    """
    own: dict[str, Callable[[_State], Quantity]] = {
        "log_sigma": lambda state: state.logs,
        "sign": lambda state: state.sign,
    }
    for name in arguments.mapping("track", track):
        if name in own or name == "matrix":
            raise ValueError(f"track names {name!r}, which every record of an end matrix has; choose another name")
    return own | {name: _of_matrix(function) for name, function in track.items()}


def _of_matrix(function: Callable[[Tensor], Quantity]) -> Callable[[_State], Quantity]:
    if not callable(function):
        raise TypeError(f"track has a {type(function).__name__}; pass a function of the matrix")
    return lambda state: function(state.matrix)


def _start_matrix(given: TensorLike, depth: float, logarithmic: bool) -> Float[Tensor, "rows columns"]:
    """Return the start as a tensor; refuse a start that has no flow of this depth and in these coordinates.

    Raises:
        TypeError: if it is not float64.
        ValueError: if it is no finite matrix, or depth and coordinates do not suit it.
    """
    start = as_floating("start", given)
    if start.dtype != torch.float64:
        raise TypeError(f"start is {start.dtype}; pass a float64 tensor: convert with .double()")
    if start.ndim != 2 or not start.numel() or not bool(torch.isfinite(start).all()):
        raise ValueError(f"start has shape {tuple(start.shape)}, or entries that are not finite; pass one whole matrix")
    if logarithmic and depth < 2:
        raise ValueError(f"depth is {depth}; below 2 singular values reach zero, so leave out logarithmic=True")
    if logarithmic and int(numerical_rank(start)) < min(start.shape):
        raise ValueError(
            f"start has rank {int(numerical_rank(start))} of {min(start.shape)}, and zero has no logarithm; take a "
            f"start of full rank, or leave out logarithmic=True"
        )
    return start
