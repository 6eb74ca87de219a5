r"""Ranks of many layers that share one budget.

The ranks minimize the sum of the layers' errors among all ranks of at most their total cost. For a price p of one unit
of cost, each layer by itself takes the rank with the least error + p x cost. These ranks are optimal among all of the
same total cost or less, whatever the price (Everett 1963), and the cost falls with the price, so bisection finds the
price that meets the budget. What is left of the budget then goes to the layers that gain most for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Number of times that the interval of prices is halved: from 1 to 1e-60, far below any ratio of error to cost.
HALVINGS = 200


@dataclass(frozen=True)
class Choices:
    """The ways in which a layer can be cut, by increasing cost; the last one may be to leave it as it is.

    Attributes:
        ranks: rank of each choice.
        errors: error of each choice, not increasing.
        costs: cost of each choice, increasing.
    """

    ranks: Sequence[int]
    errors: Sequence[float]
    costs: Sequence[int]


def choices(errors: Sequence[float], cost: Sequence[int], dense: int) -> Choices:
    """Return the ways in which a layer can be cut: every rank that is cheaper than the layer, and the layer itself.

    Args:
        errors: error of every rank from 1 to the largest.
        cost: cost of every rank from 1 to the largest, increasing.
        dense: cost of the layer as it is, whose error is 0 and which is listed with the largest rank.

    Returns:
        The choices.
    """
    kept = [k for k, price in enumerate(cost) if price < dense]
    ranks = [*(k + 1 for k in kept), len(errors)]
    return Choices(ranks, [*(errors[k] for k in kept), 0.0], [*(cost[k] for k in kept), dense])


def shared_ranks(layers: Sequence[Choices], budget: int) -> list[int]:
    """Return the rank of every layer such that the costs stay within a budget and the sum of the errors is small.

    Args:
        layers: the choices of every layer.
        budget: largest sum of the costs of all layers.

    Returns:
        The position of the choice for every layer.

    Raises:
        ValueError: if even the cheapest choices cost more than the budget.

    >>> from ranklens.nn.budget import Choices, shared_ranks
    >>> steep = Choices(ranks=[1, 2, 3], errors=[0.5, 0.1, 0.0], costs=[10, 20, 30])
    >>> flat = Choices(ranks=[1, 2, 3], errors=[0.5, 0.45, 0.0], costs=[10, 20, 30])
    >>> shared_ranks([steep, flat], budget=30)
    [1, 0]
    """
    tables = [(np.asarray(x.errors, dtype=float), np.asarray(x.costs, dtype=float)) for x in layers]
    least = sum(float(costs[0]) for _, costs in tables)
    if least > budget:
        raise ValueError(f"the cheapest choices cost {least:.0f}, and the budget is {budget}")

    def at(price: float) -> list[int]:
        """Return each layer's choice at a price; of equal ones the cheapest, which comes first."""
        return [int(np.argmin(errors + price * costs)) for errors, costs in tables]

    def spent(taken: Sequence[int]) -> float:
        """Return the sum of the costs of choices."""
        return sum(float(costs[k]) for k, (_, costs) in zip(taken, tables, strict=True))

    if spent(at(0.0)) <= budget:
        return at(0.0)
    low, high = 0.0, 1.0
    while spent(at(high)) > budget:
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(at(middle)) <= budget else (middle, high)
    return _with_the_rest(at(high), tables, budget)


def _with_the_rest(taken: list[int], tables: Sequence[tuple[np.ndarray, np.ndarray]], budget: float) -> list[int]:
    """Return choices after what is left of a budget has been spent where it lowers the error most per unit of cost."""
    left = budget - sum(float(costs[k]) for k, (_, costs) in zip(taken, tables, strict=True))
    while True:
        best, gain = None, 0.0
        for j, (k, (errors, costs)) in enumerate(zip(taken, tables, strict=True)):
            further = costs[k + 1 :] - costs[k]
            fits = int(np.searchsorted(further, left, side="right"))
            if fits:
                ratio = (errors[k] - errors[k + 1 : k + 1 + fits]) / further[:fits]
                step = int(np.argmax(ratio))
                if ratio[step] > gain:
                    best, gain = (j, k + 1 + step), float(ratio[step])
        if best is None:
            return taken
        j, k = best
        left -= float(tables[j][1][k] - tables[j][1][taken[j]])
        taken[j] = k
