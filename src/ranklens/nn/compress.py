"""Truncation of the weights of a model to low rank, where two smaller layers need fewer parameters than one."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.decomposition import DecomposedLayer, decomposed_layers
from ranklens.nn.overparameterize import M, collapse
from ranklens.nn.rank_profile import least_rank, least_without

# Number of times that the interval of energies is halved to meet a budget. It leaves an interval of width 1e-12, which
# is `rank_profile.ENERGY_SLACK`.
HALVINGS = 40
# Shares of the squared norm at which `pareto` compresses a model, unless others are given.
ENERGIES = (1.0, 0.999, 0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Compression(Generic[M]):
    """A smaller model, and a table of what changed in its layers.

    Attributes:
        model: the smaller model, a copy.
        table: a Dataset over `layer`; `compress` and `prune` say which variables it has.
    """

    model: M
    table: xr.Dataset


@dataclass(frozen=True)
class _Criterion:
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


@dataclass(frozen=True)
class _Outputs:
    """Outputs of the plain model on a batch.

    Attributes:
        positions: by layer, the number of output vectors that the layer computed, over samples and places.
        errors: by layer, the relative error of the truncated layer's output on the inputs that reach the layer.
        whole: the output of the model.
    """

    positions: dict[str, int]
    errors: dict[str, float]
    whole: Tensor


def compress(
    model: M,
    *,
    energy: float | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    budget: float | None = None,
    batch: object = None,
) -> Compression[M]:
    r"""Return a copy of a model whose weights are truncated to low rank, where that saves parameters.

    A weight W of shape m x n truncated to rank r is stored as two layers with r (m + n) parameters instead of m n. Its
    error in Frobenius norm is sqrt(sum_{k > r} sigma_k^2), the least of any matrix of rank r (Eckart and Young). A
    layer for which r (m + n) is not less than m n stays as it is. A convolution becomes a convolution with r output
    channels and the same kernel size, followed by one with kernel size 1.

    Give exactly one of energy, rank, tolerance and budget.

    Args:
        model: any model; it is not changed. Factored layers are made plain first, by `collapse`. Linear, Conv1d, Conv2d
            and Conv3d layers are truncated, except layers with groups, layers that share their weight with another
            layer, and layers inside a MultiheadAttention. Hooks of a truncated layer are not copied.
        energy: share of the squared Frobenius norm of every weight that is kept, above 0 and at most 1. Every weight
            gets the least rank that keeps this share.
        rank: number of singular values that are kept of every weight, at least 1. A weight with fewer keeps all.
        tolerance: largest relative Frobenius error of every weight, from 0 to 1. Every weight gets the least rank
            whose error does not exceed it.
        budget: share of all parameters of the plain model that the smaller model may have, above 0 and at most 1. All
            weights are truncated at one energy, the largest that meets this budget.
        batch: an input of the model, or a tuple of its positional arguments. If it is given, the plain and the
            compressed model are run on it in evaluation mode, and their outputs, which must be tensors, are compared.

    Returns:
        A `Compression` with the smaller model. Its table is a Dataset over `layer`, by name, with one row for every
        layer that may be truncated, also if it stays as it is. Its variables are shape (the weight's, as text), rank
        (the largest that the shape allows), rank_kept (equal to rank for a layer that stays as it is), parameters and
        parameters_kept (entries of the weight, and of the two weights in its place), and error (the relative
        Frobenius error of the weight). With a batch it also has multiply_adds and multiply_adds_kept (for the whole
        batch) and output_error (relative Frobenius error of the layer's output on its inputs in the plain model; the
        largest if the layer runs several times). The attributes model_parameters and model_parameters_kept count all
        parameters of the plain and of the smaller model; with a batch, the attribute output_error is the relative
        Frobenius error of the model's output. Relative errors are 0 where the plain weight or output is zero.

    Raises:
        ValueError: unless exactly one of the four is given and is in its range; if even rank 1 everywhere exceeds the
            budget; or if a weight is not finite.

    >>> import torch, ranklens as rl
    >>> layer = torch.nn.Linear(20, 20, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.outer(torch.arange(1.0, 21.0), torch.ones(20)))
    >>> small = rl.nn.compress(layer, energy=0.99)
    >>> sum(p.numel() for p in small.model.parameters()), int(small.table.rank_kept[0])
    (40, 1)
    """
    given = {"energy": energy, "rank": rank, "tolerance": tolerance, "budget": budget}
    chosen = [_Criterion(name, float(value)) for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        names = ", ".join(criterion.name for criterion in chosen) or "none"
        raise ValueError(f"give exactly one of {', '.join(given)}; given are {names}")
    plain = collapse(model)
    return _compressed(plain, list(decomposed_layers(plain)), chosen[0], batch)


def _compressed(plain: M, layers: list[DecomposedLayer], criterion: _Criterion, batch: object) -> Compression[M]:
    """Return a compressed copy of a plain model, whose decomposed layers are given so that several calls share them."""
    total = sum(p.numel() for p in plain.parameters())
    ranks = _ranks(layers, criterion, total)
    small = copy.deepcopy(plain)
    for layer, kept in zip(layers, ranks, strict=True):
        pair = layer.truncated(kept)
        if pair is not None:
            for name in layer.names:
                small = _with_part(small, name, pair)
    table = _table(layers, ranks)
    table.attrs["model_parameters"] = total
    table.attrs["model_parameters_kept"] = sum(p.numel() for p in small.parameters())
    if batch is not None:
        arguments = batch if isinstance(batch, tuple) else (batch,)
        outputs = _outputs(plain, layers, ranks, arguments)
        table = _with_outputs(table, outputs)
        table.attrs["output_error"] = _relative_error(_output(small, arguments), outputs.whole)
    return Compression(small, table)


def pareto(
    model: nn.Module,
    score: Callable[[nn.Module], float] | None = None,
    *,
    energies: Sequence[float] = ENERGIES,
    batch: object = None,
) -> xr.Dataset:
    """Compress a model at several energies, and return the size and the quality of every result.

    Every weight is decomposed once for all energies.

    Args:
        model: any model; it is not changed. `compress` says which of its layers are truncated.
        score: a function of a model that returns a number, such as its accuracy on held-out data. It is called for
            every compressed model and for the plain model.
        energies: shares of the squared Frobenius norm of every weight that are kept, above 0 and at most 1.
        batch: an input of the model, or a tuple of its positional arguments. The outputs of the plain model and of
            every compressed model on it are compared, in evaluation mode. None compares no outputs.

    Returns:
        A Dataset over `energy`, in the order of `energies`, with the variables parameters (number of all parameters
        of the compressed model), output_error (error of the compressed model's output in Frobenius norm, divided by
        the norm of the plain model's output; present only if `batch` is given) and score (of the compressed model;
        present only if `score` is given). The attribute parameters is the number of parameters of the plain model,
        and score_plain its score.

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     layer, x = torch.nn.Linear(30, 30), torch.randn(8, 30)
    >>> found = rl.nn.pareto(layer, batch=x, energies=(1.0, 0.5, 0.2))
    >>> bool((found.parameters.diff("energy") <= 0).all()), bool((found.output_error.diff("energy") >= 0).all())
    (True, True)
    """
    criteria = [_Criterion("energy", float(energy)) for energy in energies]
    plain = collapse(model)
    layers = list(decomposed_layers(plain))
    found = [_compressed(plain, layers, criterion, batch) for criterion in criteria]
    columns: dict[str, list[float]] = {"parameters": [c.table.attrs["model_parameters_kept"] for c in found]}
    attrs: dict[str, float] = {"parameters": sum(p.numel() for p in plain.parameters())}
    if batch is not None:
        columns["output_error"] = [c.table.attrs["output_error"] for c in found]
    if score is not None:
        columns["score"] = [float(score(c.model)) for c in found]
        attrs["score_plain"] = float(score(plain))
    data = {name: ("energy", np.array(values)) for name, values in columns.items()}
    return xr.Dataset(data, coords={"energy": list(energies)}, attrs=attrs)


def _ranks(layers: list[DecomposedLayer], criterion: _Criterion, total: int) -> list[int]:
    """Return the rank to which each layer is to be truncated, at least 1; `total` is the model's parameter count."""
    value = criterion.value
    if criterion.name == "rank":
        return [min(int(value), len(layer.s)) for layer in layers]
    if criterion.name == "tolerance":
        return [max(least_without(layer.s, value**2), 1) for layer in layers]
    energy = value if criterion.name == "energy" else _largest_energy(layers, value, total)
    return [max(least_rank(layer.s, energy), 1) for layer in layers]


def _largest_energy(layers: list[DecomposedLayer], budget: float, total: int) -> float:
    """Return the largest energy at which the model keeps at most a share `budget` of its `total` parameters."""

    def size(energy: float) -> int:
        """Return the number of parameters of the model compressed at an energy."""
        kept = [max(least_rank(layer.s, energy), 1) for layer in layers]
        return total - sum(layer.dense - layer.cost(r) for layer, r in zip(layers, kept, strict=True))

    if size(0.0) > budget * total:
        raise ValueError(
            f"budget is {budget}; even rank 1 everywhere takes {size(0.0) / total:.3f} of the parameters, because "
            f"only Linear and ungrouped Conv layers are cut; give at least that"
        )
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= budget * total else (low, middle)
    return low


def _table(layers: list[DecomposedLayer], ranks: list[int]) -> xr.Dataset:
    """Return the variables over `layer` that need no batch."""
    costs = [layer.cost(rank) for layer, rank in zip(layers, ranks, strict=True)]
    kept = [r if cost < x.dense else len(x.s) for x, r, cost in zip(layers, ranks, costs, strict=True)]
    columns = {
        "shape": [" x ".join(map(str, layer.module.weight.shape)) for layer in layers],
        "rank": [len(layer.s) for layer in layers],
        "rank_kept": kept,
        "parameters": [layer.dense for layer in layers],
        "parameters_kept": costs,
        "error": [layer.error(rank) for layer, rank in zip(layers, kept, strict=True)],
    }
    data = {name: ("layer", np.array(values)) for name, values in columns.items()}
    return xr.Dataset(data, coords={"layer": [layer.name for layer in layers]})


def _with_outputs(table: xr.Dataset, outputs: _Outputs) -> xr.Dataset:
    """Return the table with the variables that a batch gives."""
    positions = np.array([outputs.positions[name] for name in table.layer.values])
    columns = {
        "multiply_adds": positions * table.parameters.values,
        "multiply_adds_kept": positions * table.parameters_kept.values,
        "output_error": np.array([outputs.errors[name] for name in table.layer.values]),
    }
    return table.assign({name: ("layer", values) for name, values in columns.items()})


def _outputs(
    model: nn.Module, layers: list[DecomposedLayer], ranks: list[int], arguments: tuple[object, ...]
) -> _Outputs:
    """Run a model once; for a layer that runs several times, add up the positions and take the largest error."""
    positions = dict.fromkeys((layer.name for layer in layers), 0)
    errors = dict.fromkeys((layer.name for layer in layers), 0.0)

    def watch(
        layer: DecomposedLayer, rank: int
    ) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], Tensor], None]:
        pair = layer.truncated(rank)

        def hook(_: nn.Module, inputs: tuple[object, ...], named: dict[str, object], output: Tensor) -> None:
            positions[layer.name] += output.numel() // len(layer.U)
            if pair is not None:
                error = _relative_error(pair(*inputs, *named.values()), output)
                errors[layer.name] = max(errors[layer.name], error)

        return hook

    pairs = zip(layers, ranks, strict=True)
    handles = [x.module.register_forward_hook(watch(x, rank), with_kwargs=True) for x, rank in pairs]
    try:
        return _Outputs(positions, errors, _output(model, arguments))
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _output(model: nn.Module, arguments: tuple[object, ...]) -> Tensor:
    """Return the output of a model in evaluation mode, and restore the mode of every module."""
    modes = {module: module.training for module in model.modules()}
    found = model.eval()(*arguments)
    for module, training in modes.items():
        module.training = training
    if not isinstance(found, Tensor):
        raise TypeError(
            f"the model gives a {type(found).__name__}, and only tensors can be compared; wrap the model so that it "
            f"returns a tensor, or leave out batch="
        )
    return found


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the error of a tensor in Frobenius norm, relative to what was expected; 0 if that is zero."""
    size = float(expected.norm())
    return float((found - expected).norm()) / size if size > 0 else 0.0


def _with_part(model: M, name: str, part: nn.Module) -> M:
    """Return the model with the module of this name replaced; if the name is empty, the part itself."""
    if not name:
        return part  # type: ignore[return-value]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, part)
    return model
