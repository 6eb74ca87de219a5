"""Least squares for factors and biases together: one linear system per row, in which the bias is one more unknown."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ranklens.completers.biases import Biases
from ranklens.completers.equations import entries_of
from ranklens.completers.factors import factors_of, set_factors_
from ranklens.completers.observed import Observed
from ranklens.tensors.network import TensorNetwork

# Share of the sum of squared targets below which the sum of squared residuals, which is computed as a difference from
# it, has lost so many digits to rounding that it does not say whether a sweep has improved the fit.
ROUNDING = 1e-10


@torch.no_grad()
def fit_jointly_(
    net: TensorNetwork, observed: Observed, biases: Biases, *, ridge: float, sweeps: int, converged: float
) -> Biases:
    """Fit the factors of a matrix or CP tensor and the biases, by least squares for one mode at a time.

    Fitting factors and biases in turn converges slowly where a factor is nearly constant, because the one then has to
    undo what the other did. Here both are the unknowns of one linear system per row.

    The damping of the biases is the ratio of the variance of what they do not explain to their own variance. It is
    multiplied by the mean square that network and biases leave, so that data without noise are fitted exactly.

    Args:
        net: a product of two matrices or a CP factorization; its nodes are overwritten.
        observed: the entries to fit, in units of the root mean square of what biases alone leave.
        biases: the biases to begin with.
        ridge: weight of the sum of squared factors.
        sweeps: number of times that every mode is fitted, at most.
        converged: relative change of the mean squared residual over a sweep that ends the fit.

    Returns:
        The biases. Their damping is unchanged.
    """
    rows = [
        torch.cat([factor, bias[:, None]], dim=1) for factor, bias in zip(factors_of(net), biases.modes, strict=True)
    ]
    less = observed.minus(torch.full_like(observed.values, biases.mean))
    entries = entries_of(less, biases=True)
    count = float(observed.counts().sum())
    penalty = torch.full((rows[0].shape[1],), ridge, dtype=torch.float64)
    before = _squared(less, rows)
    for _ in range(sweeps):
        penalty[-1] = biases.damping * min(1.0, before)
        squared = energy = 0.0
        for n in range(len(rows)):
            squared = energy = entries.energy(n, rows)
            for made in list(entries.equations(n, rows)):
                rows[n][made.low : made.high] = found = made.solve(penalty)
                squared += made.change(found)
        after = squared / count if squared > ROUNDING * energy else _squared(less, rows)
        if after >= before * (1 - converged):
            break
        before = after
    set_factors_(net, [mode[:, :-1] for mode in rows])
    return replace(biases, modes=tuple(mode[:, -1].clone() for mode in rows))


def _squared(observed: Observed, rows: Sequence[Tensor]) -> float:
    """Return the mean square that a network and biases leave.

    Args:
        observed: the entries, without the mean.
        rows: for every mode its factor, and its bias as one more column.
    """
    product = torch.ones(len(observed), rows[0].shape[1] - 1, dtype=torch.float64)
    biases = torch.zeros(len(observed), dtype=torch.float64)
    for mode, own in zip(rows, observed.indices.T, strict=True):
        product *= mode[own, :-1]
        biases += mode[own, -1]
    return observed.minus(product.sum(dim=1) + biases).mean_square()
