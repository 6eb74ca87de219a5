"""The rank of every layer of a model that is cut, by one criterion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ranklens.nn.budget import choices, shared_ranks
from ranklens.nn.decomposition import CutLayer
from ranklens.nn.survey import Survey
from ranklens.tensors import arguments

# Relative squared error by which a rank may miss an energy. It absorbs rounding errors of the sum of squares, so that
# an energy of 1 does not keep components that are zero up to rounding.
SLACK = 1e-12


@dataclass(frozen=True)
class Criterion:
    """What decides the rank of every layer: an argument of `compress` by name, and its value."""

    name: str
    value: float

    def __post_init__(self) -> None:
        """Refuse a value that is out of range."""
        if self.name == "rank":
            if not (math.isfinite(self.value) and self.value >= 1):
                raise ValueError(f"rank is {self.value}; give a number of components, at least 1")
        elif not 0 <= self.value <= 1 or (self.value == 0 and self.name != "tolerance"):
            least = "at least" if self.name == "tolerance" else "above"
            raise ValueError(f"{self.name} is {self.value}; give a share {least} 0 and at most 1")


def criterion(given: Mapping[str, float | None]) -> Criterion:
    """Return the one criterion that was given.

    Args:
        given: the values by name, None for those that were not given.

    Returns:
        The criterion.

    Raises:
        ValueError: unless exactly one was given and is in its range.
    """
    chosen = [Criterion(name, arguments.number(name, value)) for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        names = ", ".join(found.name for found in chosen) or "none"
        raise ValueError(f"give exactly one of {', '.join(given)}; given are {names}")
    return chosen[0]


def layer_ranks(layers: Sequence[CutLayer], rule: Criterion) -> dict[str, int]:
    """Return the rank of every layer by a criterion that looks at each layer by itself.

    Args:
        layers: the layers.
        rule: any criterion but a budget.

    Returns:
        The ranks by the names of the layers, at least 1.
    """
    if rule.name == "rank":
        return {x.site.name: min(int(rule.value), x.site.largest) for x in layers}
    share = rule.value**2 if rule.name == "tolerance" else 1 - rule.value + SLACK
    return {x.site.name: max(int((x.errors() > share).sum()), 1) for x in layers}


def budgeted_ranks(
    model: nn.Module, layers: Sequence[CutLayer], share: float, weights: Sequence[float], found: Survey | None
) -> dict[str, int]:
    """Return the ranks with the least sum of weighted relative squared errors within a budget.

    Args:
        model: the plain model.
        layers: its layers that can be cut.
        share: share of the cost that may be kept.
        weights: factor of each layer's error.
        found: the survey, if the cost is in multiply-adds; None if it is in parameters.

    Returns:
        The ranks by the names of the layers.

    Raises:
        ValueError: if rank 1 everywhere costs more.
    """
    options, fixed = [], 0
    for layer, weight in zip(layers, weights, strict=True):
        errors = (weight * layer.errors()[1 : layer.site.largest + 1]).tolist()
        every = range(1, len(errors) + 1)
        if found is None:
            options.append(choices(errors, [layer.cost(r) for r in every], layer.site.dense))
        else:
            costs = [found.multiply_adds(layer.site.name, r) for r in every]
            options.append(choices(errors, costs, found.multiply_adds(layer.site.name, None)))
    if found is None:
        total = sum(p.numel() for p in model.parameters())
        fixed = total - sum(layer.site.dense for layer in layers)
    else:
        total = sum(found.multiply_adds(name, None) for name in found.sites)
        fixed = total - sum(found.multiply_adds(layer.site.name, None) for layer in layers)
    least = fixed + sum(min(x.costs) for x in options)
    if least > share * total:
        raise ValueError(
            f"budget is {share}; even rank 1 everywhere takes {least / total:.3f} of the "
            f"{'parameters' if found is None else 'multiply-adds'}, because only the layers that the table of "
            f"compress(rank=1) names without a reason are cut; give at least that"
        )
    taken = shared_ranks(options, math.floor(share * total) - fixed)
    return {x.site.name: o.ranks[k] for x, o, k in zip(layers, options, taken, strict=True)}
