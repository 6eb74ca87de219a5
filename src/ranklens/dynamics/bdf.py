"""Backward differentiation formulas of variable order and step length: the stiff solver of all flows."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from ranklens.dynamics.newton import Newton, Vector, blank, copy, functions_of, numbers

# Highest order. Formulas of order 6 are unstable for eigenvalues near the imaginary axis, those above 6 for all.
HIGHEST = 5
# Past states that a step reads at most: order + 1 to predict, one more to judge the next higher order.
KEPT = HIGHEST + 2
# Rows of memory for past states. When the newest reaches the first row, the kept ones move to the last rows.
ROWS = 2 * KEPT + 2
# The error of a step is multiplied by these before it decides the next length, at the present order and below it, and
# at the next higher order; so that few steps fail, and orders rise only where this pays.
CAUTION, CAUTION_ABOVE = 6.0, 10.0
# Step lengths and orders change only if the step becomes longer by this factor.
LONGER = 1.2
# Largest growth of a step: the first is short on purpose.
FIRST_GROWTH, GROWTH = 1e4, 10.0
# Steps between two comparisons of orders where the order stays.
COMPARED = 2
# Largest error of Newton's iteration, as a share of the error that the step may make by itself; and the same after so
# many steps of one length, because the error that keeps the length may be that of the iteration.
LOOSE, TIGHT, STEADY = 0.1, 0.01, 20
# Factor of the step length where Newton's iteration does not converge.
SHORTER = 0.25
# Largest and smallest factor of the step length where the error is too large, and its largest from the second time on.
RETRY, LEAST, AGAIN = 0.9, 0.1, 0.2
# Failures of one step by its error: after these the order falls, and after more of them no step is found.
LOWER_ORDER, ERRORS = 3, 20
# Failures of one step by Newton's iteration after which no step is found.
DIVERGENCES = 10
# Shortest step.
SHORTEST = 1e-300


class NoStepError(Exception):
    """No step was found, however short."""


class BDF:
    r"""Follows y' = f(y) by backward differentiation, step by step.

    A step of order q to t_n solves p'(t_n) = f(y_n), where the polynomial p passes through y_n and the q states before
    it. States are kept as they are, with the lengths of the steps between them: to predict y_n, to interpolate, and to
    estimate errors are sums of past states with weights of Lagrange's polynomials. So a change of length or order costs
    nothing, and a sum is one matrix product.

    With s_i = (t_n - t_{n-i}) / h, and e = y_n - (prediction from the q + 1 states before), the derivative of p is the
    predicted one plus e (1/s_1 + ... + 1/s_q) / h, and the error of a step is e / (s_{q+1} (1/s_1 + ... + 1/s_q)) up to
    higher powers of h. Lengths and orders are chosen so that its norm stays below 1 (see `Newton` for the norm).

    Args:
        vector: where a state is written before `rate` is called; at first, the initial state.
        rate: returns f at the state in `vector`, in memory that the next call may overwrite.
        rtol: relative error per step.
        atol: absolute error per step of every number, an array.
        time: the time of the initial state.
        first: length of the first step.

    Attributes:
        time: the time of the latest step.

    Source: Brown, Byrne, Hindmarsh, "VODE, a variable-coefficient ODE solver" (SIAM J. Sci. Stat. Comput. 1989), for
    the choice of lengths and orders.

    >>> import numpy as np
    >>> y = np.array([1.0])
    >>> solver = BDF(y, lambda: -y, rtol=1e-7, atol=np.array([1e-9]), time=0.0, first=1e-4)
    >>> while solver.time < 1.0:
    ...     solver.step()
    >>> bool(abs(solver.at(1.0)[0] - np.exp(-1)) < 1e-6)
    True
    """

    def __init__(
        self, vector: Vector, rate: Callable[[], Vector], rtol: float, atol: Vector, time: float, first: float
    ) -> None:
        self._xp = functions_of(vector)
        self.time, self._vector, self._rate = time, vector, rate
        self._newton = Newton(vector, rate, rtol, atol)
        self._past = blank(vector, ROWS)
        self._newest = ROWS - 2  # the row of the latest state; the older ones follow
        copy(vector, self._past[self._newest])
        self._order, self._wait, self._growth = 1, COMPARED, FIRST_GROWTH
        self._length, self._steady = first, 0
        self._restart()

    @property
    def state(self) -> Vector:
        """Return the state at `time`, in the memory of the solver."""
        return self._past[self._newest]

    def _restart(self) -> None:
        """Go on from the latest state alone, at order 1, along its velocity."""
        copy(self.state, self._vector)
        xp, before = self._xp, self._past[self._newest + 1]
        xp.multiply(self._rate(), -self._length, out=before)
        xp.add(before, self.state, out=before)
        self._lengths = [self._length]  # of the latest steps, the latest first
        self._order = self._used = 1

    def step(self) -> None:
        """Take one step.

        Raises:
            NoStepError: if no step is found; the state stays where it was.
        """
        if not self._newest:
            self._newest = ROWS - KEPT
            copy(self._past[:KEPT], self._past[self._newest :])
        self._newton.weigh(self.state)
        errors = divergences = 0
        while True:
            with np.errstate(over="ignore", invalid="ignore"):  # a step too long for its numbers is taken again
                error = self._attempt()
            if error is not None and error <= 1:
                break
            if error is None:
                divergences += 1
                self._length *= SHORTER
            else:
                errors += 1
                self._retry(error, errors)
            self._growth = 1.0
            if len(self._lengths) == 1:  # the state before the first is made up, one step before it
                self._restart()
            if divergences > DIVERGENCES or errors > ERRORS or self._length < SHORTEST:
                why = "Newton's iteration does not converge" if error is None else "its error is too large"
                raise NoStepError(f"the step of length {self._length:.3g}: {why}")
        self._newest -= 1
        self.time += self._length
        self._steady = self._steady + 1 if self._length == self._lengths[0] else 0
        self._lengths = [self._length, *self._lengths][:KEPT]
        self._used = self._order
        self._wait -= 1
        self._choose(error)

    def _attempt(self) -> float | None:
        """Write the state one step further to the row before the newest.

        Returns:
            The error of this step in the norm; None if Newton's iteration does not converge.
        """
        order, length = self._order, self._length
        s = _distances([length, *self._lengths[:order]], length)
        values = _weights(s)
        inverses = [1 / x for x in s]
        total = sum(inverses)
        slopes = [value * (total - x) / length for value, x in zip(values, inverses, strict=True)]
        first = self._newest
        predicted = self._xp.matmul(numbers([values, slopes], self.state), self._past[first : first + order + 1])
        leading = total - inverses[-1]
        out = self._past[first - 1]
        allowed = s[-1] * leading
        share = LOOSE if self._steady < STEADY else TIGHT
        size = self._newton.solve(predicted[0], predicted[1], length / leading, share * allowed, out)
        return None if size is None else size / allowed

    def _retry(self, error: float, errors: int) -> None:
        """Choose length and order after a step whose error is too large for the given number of times."""
        if errors <= LOWER_ORDER:
            factor = _growth(error, self._order, CAUTION)
            self._length *= min(max(factor, LEAST), RETRY if errors == 1 else AGAIN)
            return
        self._length *= LEAST
        if self._order > 1:
            self._order -= 1
            self._wait = self._order + 1
        else:
            self._restart()

    def _choose(self, error: float) -> None:
        """Choose length and order of the next step, after a step with this error."""
        growth, self._growth = self._growth, GROWTH
        if growth == 1.0:  # the step had failed before: leave the length for now
            self._wait = max(self._wait, COMPARED)
            return
        choices = [(_growth(error, self._order, CAUTION), self._order)]
        if self._wait <= 0:
            self._wait = COMPARED
            choices += self._other_orders()
        longer, order = max(choices)
        if longer < LONGER:
            return
        self._length *= min(longer, growth)
        if order != self._order:
            self._order, self._wait = order, order + 1

    def _other_orders(self) -> list[tuple[float, int]]:
        """Return (factor of the length, order) for the orders below and above the present one, where these exist."""
        order, s = self._order, _distances(self._lengths, self._lengths[0])
        found, orders = [], []
        if order > 1:
            orders.append((order - 1, CAUTION))
        if order < HIGHEST and len(s) >= order + 2:
            orders.append((order + 1, CAUTION_ABOVE))
        for other, caution in orders:
            # The state less its prediction at the other order, from other + 1 states before it.
            weights = numbers([1.0, *(-x for x in _weights(s[: other + 1]))], self.state)
            error = self._newton.norm(self._xp.matmul(weights, self._past[self._newest : self._newest + other + 2]))
            scale = s[other] * sum(1 / x for x in s[:other])
            found.append((_growth(error / scale, other, caution), other))
        return found

    def at(self, time: float) -> Vector:
        """Return the state at a time within the latest step, by the polynomial through the states of that step.

        Args:
            time: between the times before and after the latest step.
        """
        length = self._lengths[0]
        ahead = (time - self.time) / length
        nodes = [ahead, *(ahead + x for x in _distances(self._lengths[: self._used], length))]
        weights = [float(x == 0.0) for x in nodes] if 0.0 in nodes else _weights(nodes)
        return self._xp.matmul(numbers(weights, self.state), self._past[self._newest : self._newest + len(nodes)])


def _distances(lengths: Sequence[float], unit: float) -> list[float]:
    """Return the distances from the end of a step to the states before it, from the lengths of the steps."""
    return [distance / unit for distance in accumulate(lengths)]


def _weights(s: Sequence[float]) -> list[float]:
    """Return the weights w of values at the points -s_i with which the polynomial through them is sum_i w_i y_i at 0.

    They are w_i = product over j != i of s_j / (s_j - s_i).
    """
    found = [1.0] * len(s)
    for j, x in enumerate(s):
        for i in range(j):
            gap = x - s[i]
            found[i] *= x / gap
            found[j] *= -s[i] / gap
    return found


def _growth(error: float, order: int, caution: float) -> float:
    """Return the factor of the length at which the error, which grows as its power order + 1, would be 1 / caution."""
    return 1 / ((caution * error) ** (1 / (order + 1)) + 1e-6)
