"""The flow of the end matrix itself: a closed equation for any depth, whole or not, with no factors to store."""

import math
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ranklens.dynamics.record import Recorder
from ranklens.dynamics.solver import KRYLOV, Run, check_bounds, check_times, default_errors, local_error
from ranklens.progress import Report, reporter
from ranklens.tensors.measures import numerical_rank
from ranklens.threads import threads

MatrixTrack = Mapping[str, Callable[[Tensor], Any]]
APART = 0.05  # ln of the ratio of neighbouring singular values from which on the vectors of each can be followed
SINGULAR = 1e-8  # of the largest: what a singular value has fallen to when it is said to have reached zero


@torch.enable_grad()
def end_matrix_flow(  # noqa: PLR0913  (what ends a run, what it records, how exact it is)
    start: Float[Tensor, "rows columns"],
    task: Any,
    *,
    depth: float,
    logarithmic: bool = False,
    until_loss: float = 5e-5,
    until_time: float = math.inf,
    until_evaluations: int | None = None,
    times: Sequence[float] | NDArray[Any] | None = None,
    rtol: float = 1e-6,
    atol: float | None = None,
    track: MatrixTrack | None = None,
    progress: bool | Report | None = None,
) -> xr.Dataset:
    r"""Follow the end matrix of a balanced deep matrix of depth L under gradient flow; L may be any real, or infinite.

    With W = U S V^T (full U, V), G the gradient of the loss in W and g = U^T G V,

        W' = -U (K o g) V^T,    K(s, s') = (s^2 - s'^2) / (s^(2/L) - s'^(2/L)),    K(s, s) = L s^(2 - 2/L).

    For whole L it is W' = -sum_j (W W^T)^((L-j)/L) G (W^T W)^((j-1)/L), what balanced factors do to their product,
    summed as a geometric series in the basis of W; nothing in K needs L to be whole. As L grows K / L becomes the
    logarithmic mean of s^2 and s'^2: for depth `inf` that is the kernel, and time is L times that of the factors.

    Rank-deficient and rectangular matrices have zeros among s; there K(s, 0) = s^(2 - 2/L), and K(0, 0) = 0 (1 at
    L = 1). For 1 < L < 2 a singular value may reach zero in finite time, where the equation has no unique solution: the
    run stops.

    Args:
        start: (rows, columns), float64; any rank.
        task: a problem: anything with a differentiable `loss(matrix)`.
        depth: L, at least 1, or `math.inf`.
        logarithmic: True integrates (U, ln s, V) instead of W, once its singular values differ, so that a singular
            value as small as e^-10000 keeps its size and det W its sign; for full rank and L >= 2. Where two singular
            values meet again their vectors turn ever faster: there W itself is the better coordinate.
        until_loss: stop when the loss is this small.
        until_time: stop at this time.
        until_evaluations: stop after this many evaluations of the gradient.
        times: record at these increasing times, at the start and at the end; None records every step of the solver.
        rtol: relative error, as for `gradient_flow`.
        atol: absolute local error of the entries (of ln s, U and V); None takes rtol times the start's size.
        track: {name: function of the matrix}, evaluated under no_grad.
        progress: as for `gradient_flow`.

    Returns:
        A Dataset as that of `gradient_flow`, with `log_sigma` (time, min(rows, columns)), `sign` (of the determinant;
        0 for what is not square or is singular) and the final `matrix`; stopped may also be "singular".

    Raises:
        ValueError: for a depth below 1, a start that is no finite matrix, a logarithmic run of what is singular or
            less than two deep, or bounds that make no sense.
        TypeError: for a start that is not float64.

    Source: Arora, Cohen, Hazan (ICML 2018), Theorem 1; Arora, Cohen, Hu, Luo (NeurIPS 2019), Theorem 3 and Lemma 2.

    >>> import torch, ranklens as rl
    >>> task, start = rl.Completion.counterexample(), 1e-3 * torch.eye(2, dtype=torch.float64)
    >>> run = rl.end_matrix_flow(start, task, depth=2, logarithmic=True, until_loss=1e-4)
    >>> round(float(run.log_sigma[-1, 1])), int(run.sign[-1])  # e^-2529: no float64 holds it, and det W > 0 still
    (-2529, 1)
    >>> run = rl.end_matrix_flow(start, task, depth=2.5, until_loss=1e-3)
    >>> round(abs(float(run.matrix[0, 0])), 1)  # 1 / sqrt(2 loss), at a depth that no product of factors has
    22.3
    """
    _check(start, task, depth, logarithmic)
    check_bounds(until_loss, until_time, until_evaluations, rtol, atol)
    wanted = check_times(times, 0.0)
    until_time = min(until_time, wanted[-1]) if wanted is not None else until_time
    begun = clock.perf_counter()

    def errors() -> NDArray[Any]:
        return default_errors(field.array, rtol) if atol is None else np.full(field.array.size, atol)

    recorder = Recorder("time", _tracked(track or {}))
    with threads(start.numel() * min(start.shape)), reporter(progress) as report:
        field: _Matrix | _Logarithmic = _Matrix(start, task, depth)
        run = Run(field, recorder, local_error(rtol), errors(), 0.0, _ending(start, depth, logarithmic))
        run.go(until_loss, until_time, until_evaluations, wanted, report)
        steps = run.steps
        if run.stopped == "apart":
            if wanted is not None:
                recorder.drop()
                wanted = wanted[wanted > run.time]
            field = _Logarithmic(field.subject.matrix, task, depth, field.evaluations)
            run = Run(field, recorder, local_error(rtol), errors(), run.time)
            run.go(until_loss, until_time, until_evaluations, wanted, report, begins=False)
            steps += run.steps
    attrs = {
        "stopped": run.stopped,
        "message": run.message,
        "evaluations": field.evaluations,
        "steps": steps,
        "seconds": clock.perf_counter() - begun,
        "solver": f"SUNDIALS CVODE, BDF, GMRES({KRYLOV})",
        "rtol": rtol,
        "until_loss": until_loss,
        "depth": float(depth),
        "network": f"the end matrix of depth {depth:g}",
        "loss_function": getattr(getattr(task, "objective", None), "name", type(task).__name__),
    }
    return recorder.finish({"matrix": field.subject.matrix}, attrs)


def kernel(s: Float[Tensor, " a"], t: Float[Tensor, " b"], depth: float) -> Float[Tensor, "a b"]:
    r"""K(s, t) = (s^2 - t^2) / (s^(2/L) - t^(2/L)) for all pairs: symmetric, and L s^(2 - 2/L) where they are equal.

    With r = ln(s / t) >= 0 it is s^(2 - 2/L) (1 - e^(-2r)) / (1 - e^(-2r/L)), which loses no digit where s is near t
    and needs no case for t = 0. For infinite depth it is K / L in the limit, s^2 (1 - e^(-2r)) / (2r).

    Args:
        s: values, zero or more.
        t: values, zero or more.
        depth: L >= 1, or infinite.

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
    """What a record is told of: the matrix, its singular values as logarithms, the sign of its determinant."""

    matrix: Tensor
    logs: Tensor
    sign: float


class _Matrix:
    """W' = -U (K o g) V^T in the entries of W."""

    def __init__(self, start: Tensor, task: Any, depth: float) -> None:
        self.task, self.depth = task, depth
        self.W = start.detach().clone()
        self.array: NDArray[Any] = self.W.view(-1).numpy()
        self.evaluations, self.slope = 0, math.inf

    @property
    def subject(self) -> _State:
        """The present state."""
        return _State(self.W.clone(), torch.linalg.svdvals(self.W).log(), _sign(self.W))

    def __call__(self, _: float, y: NDArray[Any], yp: NDArray[Any]) -> None:
        np.copyto(self.array, y)
        np.copyto(yp, self.velocity())

    def velocity(self) -> NDArray[Any]:
        """The rate of every entry."""
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

    def loss_at(self, y: NDArray[Any]) -> float:
        """Go to a state and evaluate the loss there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.W))


class _Logarithmic:
    """(U, ln s, V) for W = U S V^T: every singular value keeps its own relative accuracy.

    From U^T W' V = -(K o g) and U' = U Omega + what leaves the range of U,

        Omega = -F o (g S + S g^T),   F_ij = 1 / (s_j^(2/L) - s_i^(2/L)),   (ln s_r)' = -L s_r^(1 - 2/L) g_rr,

    the same for V with g^T, and -(I - U U^T) G V S^(1 - 2/L) out of the range.
    """

    def __init__(self, start: Tensor, task: Any, depth: float, evaluations: int) -> None:
        self.task, self.depth, self.evaluations, self.slope = task, depth, evaluations, math.inf
        U, S, Vh = torch.linalg.svd(start, full_matrices=False)
        flat = torch.cat([U.reshape(-1), S.log(), Vh.T.reshape(-1)])
        self.array: NDArray[Any] = flat.numpy()
        split = flat.split([U.numel(), len(S), Vh.numel()])
        self._U, self._logs, self._V = split[0].view(U.shape), split[1], split[2].view(Vh.T.shape)

    @property
    def subject(self) -> _State:
        """The present state."""
        U, V = _nearest(self._U), _nearest(self._V)
        square = len(U) == len(V)
        return _State((U * self._logs.exp()) @ V.T, self._logs.clone(), _sign(U) * _sign(V) if square else 0.0)

    def __call__(self, _: float, y: NDArray[Any], yp: NDArray[Any]) -> None:
        np.copyto(self.array, y)
        np.copyto(yp, self.velocity())

    def velocity(self) -> NDArray[Any]:
        """The rates of U, ln s and V."""
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
        """F of all pairs, from the logarithms, so that no power of a small value is subtracted from another."""
        logs = self._logs
        ahead = logs - logs[:, None]
        if math.isinf(self.depth):
            difference = 2 * ahead
        else:
            high = torch.maximum(logs, logs[:, None])
            difference = -torch.expm1(-2 * ahead.abs() / self.depth) * (2 / self.depth * high).exp() * ahead.sign()
        return torch.where(difference != 0, 1 / difference.where(difference != 0, 1.0), 0.0)

    def loss_at(self, y: NDArray[Any]) -> float:
        """Go to a state and evaluate the loss there."""
        np.copyto(self.array, y)
        with torch.no_grad():
            return float(self.task.loss(self.subject.matrix))


def _gradient(task: Any, W: Tensor) -> Tensor:
    free = W.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(free), free)
    return gradient


def _nearest(vectors: Tensor) -> Tensor:
    """The nearest orthonormal columns: the solver's own error would leave them."""
    P, _, Qh = torch.linalg.svd(vectors, full_matrices=False)
    return P @ Qh


def _sign(W: Tensor) -> float:
    return float(torch.linalg.slogdet(W).sign) if W.shape[0] == W.shape[1] else 0.0


def _ending(start: Tensor, depth: float, logarithmic: bool) -> Callable[[NDArray[Any]], str]:
    """What else may end a run: values that came apart, or one that reached zero."""
    shape, rank, sign = start.shape, int(numerical_rank(start)), _sign(start)

    def apart(y: NDArray[Any]) -> str:
        logs = torch.linalg.svdvals(torch.from_numpy(y).view(shape)).log()
        return "apart" if bool((logs[:-1] - logs[1:] >= APART).all()) else ""

    def singular(y: NDArray[Any]) -> str:
        W = torch.from_numpy(y).view(shape)
        s = torch.linalg.svdvals(W)
        return "singular" if float(s[rank - 1]) <= SINGULAR * float(s[0]) or _sign(W) * sign < 0 else ""

    if logarithmic:
        return apart
    return singular if 1 < depth < 2 and rank else lambda _: ""


def _tracked(track: MatrixTrack) -> Mapping[str, Callable[[_State], Any]]:
    own: dict[str, Callable[[_State], Any]] = {"log_sigma": lambda state: state.logs, "sign": lambda state: state.sign}
    for name in track:
        if name in own or name == "matrix":
            raise ValueError(f"track names {name!r}, which every record of an end matrix has; choose another name")
    return own | {name: _of_matrix(function) for name, function in track.items()}


def _of_matrix(function: Callable[[Tensor], Any]) -> Callable[[_State], Any]:
    if not callable(function):
        raise TypeError(f"track has a {type(function).__name__}; pass a function of the matrix")
    return lambda state: function(state.matrix)


def _check(start: Tensor, task: Any, depth: float, logarithmic: bool) -> None:
    if not isinstance(start, Tensor) or start.dtype != torch.float64:
        kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise TypeError(f"start is {kind}; pass a float64 tensor: convert with .double()")
    if start.ndim != 2 or not start.numel() or not bool(torch.isfinite(start).all()):
        raise ValueError(f"start has shape {tuple(start.shape)}, or entries that are not finite; pass one whole matrix")
    if not depth >= 1:
        raise ValueError(f"depth is {depth}; the equation holds for real depths of at least 1, and for math.inf")
    objective = getattr(task, "objective", None)
    if objective is not None and not objective.smooth:
        raise ValueError(f"the loss {objective.name!r} has a discontinuous gradient; use rl.losses.huber(delta)")
    if logarithmic and depth < 2:
        raise ValueError(f"depth is {depth}; below 2 singular values reach zero, so leave out logarithmic=True")
    if logarithmic and int(numerical_rank(start)) < min(start.shape):
        raise ValueError(
            f"start has rank {int(numerical_rank(start))} of {min(start.shape)}, and zero has no logarithm; take a "
            f"start of full rank, or leave out logarithmic=True"
        )
