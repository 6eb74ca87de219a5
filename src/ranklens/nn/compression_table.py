"""The table of a compression: one row for every layer with weights, what became of it, and why."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.decomposition import CutLayer, KeptLayer, WeightCut
from ranklens.nn.layer_kinds import matrices
from ranklens.nn.survey import Survey

# What is added to the reason for a layer that is not cut in a sequential compression.
FITTED = "; its weight is fitted to the new inputs"


@dataclass(frozen=True)
class Row:
    """One row of the table; the fields are its variables."""

    shape: str
    rank: int
    rank_kept: int
    parameters: int
    parameters_kept: int
    error: float
    reason: str


def table(
    layers: Sequence[CutLayer], kept: Sequence[KeptLayer], ranks: Mapping[str, int], fitted: Collection[str] = ()
) -> xr.Dataset:
    """Return the variables that need no data, over `layer`.

    Args:
        layers: the layers that can be cut.
        kept: the others.
        ranks: the rank of each layer that can be cut.
        fitted: names of the layers that were fitted and not cut.

    Returns:
        The table, with the layers that can be cut first.
    """
    rows = {x.site.name: _row(x, ranks[x.site.name], x.site.name in fitted) for x in layers}
    rows |= {x.name: _kept_row(x) for x in kept}
    columns = {name: [asdict(row)[name] for row in rows.values()] for name in Row.__dataclass_fields__}
    data = {name: ("layer", np.array(values)) for name, values in columns.items()}
    return xr.Dataset(data, coords={"layer": list(rows)})


def _row(layer: CutLayer, rank: int, fitted: bool) -> Row:
    """Return the row of a layer that can be cut."""
    cut = layer.saves(rank)
    reason = "" if cut else f"two layers of rank {rank} would not have fewer parameters" + FITTED * fitted
    return Row(
        shape=_shape(layer.site.module.get_parameter("weight")),
        rank=layer.site.largest,
        rank_kept=rank if cut else layer.site.largest,
        parameters=layer.site.dense,
        parameters_kept=layer.cost(rank) if cut else layer.site.dense,
        error=_weight_error(layer, layer.site.largest if fitted else rank) if cut or fitted else 0.0,
        reason=reason,
    )


def _weight_error(layer: CutLayer, rank: int) -> float:
    """Return the relative Frobenius error of the weight."""
    if isinstance(layer.cut, WeightCut):
        return math.sqrt(layer.errors()[rank])
    first, last, _ = layer.cut.factors(rank)
    return relative_error(last @ first, matrices(layer.site.form).detach().double())


def _kept_row(layer: KeptLayer) -> Row:
    """Return the row of a layer that cannot be cut; its rank is the largest of all its weights."""
    weights = layer.weights
    entries = sum(w.numel() for w in weights)
    rank = max((min(len(w), w.numel() // max(len(w), 1)) for w in weights), default=0)
    return Row(", ".join(map(_shape, weights)), rank, rank, entries, entries, 0.0, layer.reason)


def _shape(weight: Tensor) -> str:
    """Return a shape as text."""
    return " x ".join(map(str, weight.shape))


def with_survey(
    found: xr.Dataset, layers: Sequence[CutLayer], ranks: Mapping[str, int], seen: Survey, errors: Mapping[str, float]
) -> xr.Dataset:
    """Return a table with the variables that data give.

    Args:
        found: the table.
        layers: the layers that can be cut.
        ranks: the rank of each of them.
        seen: the survey of the plain model.
        errors: relative error of each layer's output; 0 for layers that are not named.

    Returns:
        The table with multiply_adds, multiply_adds_kept and output_error.
    """
    cut = {x.site.name: ranks[x.site.name] for x in layers if x.saves(ranks[x.site.name])}
    names = [str(name) for name in found.layer.values]
    columns = {
        "multiply_adds": np.array([seen.multiply_adds(name, None) for name in names], dtype=np.int64),
        "multiply_adds_kept": np.array([seen.multiply_adds(name, cut.get(name)) for name in names], dtype=np.int64),
        "output_error": np.array([errors.get(name, 0.0) for name in names]),
    }
    return found.assign({name: ("layer", values) for name, values in columns.items()})


def output_errors(layers: Sequence[CutLayer], ranks: Mapping[str, int], fitted: Collection[str]) -> dict[str, float]:
    """Return the relative error in Frobenius norm of the outputs of layers that are cut by outputs.

    Args:
        layers: the layers.
        ranks: the rank of each of them.
        fitted: names of the layers that were fitted and not cut.

    Returns:
        The errors by the names of the layers that were cut or fitted.
    """
    found = {}
    for layer in layers:
        dense = layer.site.name in fitted
        rank = layer.site.largest if dense else ranks[layer.site.name]
        if (dense or layer.saves(rank)) and not isinstance(layer.cut, WeightCut):
            power = float(layer.cut.power.sum())
            found[layer.site.name] = math.sqrt(float(layer.cut.errors()[rank]) / power) if power > 0 else 0.0
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the error of a tensor in Frobenius norm, relative to what was expected; 0 if that is zero."""
    size = float(expected.norm())
    return float((found - expected).norm()) / size if size > 0 else 0.0


def parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model; those that modules share count once."""
    return sum(p.numel() for p in model.parameters())
