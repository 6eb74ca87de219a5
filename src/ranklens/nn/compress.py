"""Weights cut to the rank that they have, where that saves anything."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.overparameterize import collapse
from ranklens.nn.rank_profile import least_rank

M = TypeVar("M", bound=nn.Module)
LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HALVINGS = 40  # of the interval of energies, to meet a budget


@dataclass(frozen=True)
class Compression(Generic[M]):
    """A smaller model, and what became of its layers.

    Attributes:
        model: the copy.
        table: Dataset over `layer`: rank (that the shape allows), rank_kept, parameters, parameters_kept, and error,
            the relative Frobenius error of the weight; the attributes model_parameters and model_parameters_kept
            count the whole model.
    """

    model: M
    table: xr.Dataset


@dataclass(frozen=True)
class _Layer:
    """A layer that could be cut."""

    name: str
    module: Any
    U: Tensor
    s: Tensor
    Vh: Tensor

    @property
    def dense(self) -> int:
        return len(self.U) * self.Vh.shape[1]

    def cost(self, rank: int) -> int:
        """Parameters of two factors, or of the weight itself, if that is no more."""
        return min(rank * (len(self.U) + self.Vh.shape[1]), self.dense)

    def error(self, rank: int) -> float:
        total = self.s.square().sum()
        return float((self.s[rank:].square().sum() / total).sqrt()) if float(total) > 0 else 0.0


def compress(
    model: M,
    *,
    energy: float | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    budget: float | None = None,
) -> Compression[M]:
    r"""A copy of a model with its weights truncated to low rank, as two smaller layers each, where that saves any.

    W (m x n) cut to rank r costs r (m + n) instead of m n, and is off by sqrt(sum_{k > r} sigma_k^2), the least that
    any matrix of rank r is (Eckart and Young). A layer for which r (m + n) is no less stays what it is. A convolution
    becomes one with r channels and its kernel, followed by one of size 1.

    Args:
        model: any; composed layers are collapsed first. Linear and Conv layers are cut, without groups and without
            weights that others share; those within attention are left.
        energy: keep the least rank that holds this share of the squared norm, or
        rank: so many components of every layer, or
        tolerance: the least rank with this relative Frobenius error of every weight, or
        budget: the largest energy, the same for all, with this share of the model's parameters.

    Returns:
        A `Compression`: the smaller model and a table.

    Raises:
        ValueError: unless exactly one of the four is given and makes sense, or if no rank meets the budget.

    >>> import torch, ranklens as rl
    >>> layer = torch.nn.Linear(20, 20, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.outer(torch.arange(1.0, 21.0), torch.ones(20)))
    >>> small = rl.nn.compress(layer, energy=0.99)
    >>> sum(p.numel() for p in small.model.parameters()), int(small.table.rank_kept[0])
    (40, 1)
    """
    given = {"energy": energy, "rank": rank, "tolerance": tolerance, "budget": budget}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise ValueError(f"give exactly one of {', '.join(given)}; given are {', '.join(chosen) or 'none'}")
    [(name, value)] = chosen.items()
    least = 1 if name == "rank" else 0
    if (
        not math.isfinite(value)
        or value < least
        or (name != "rank" and value > 1)
        or (name != "tolerance" and value == 0)
    ):
        raise ValueError(f"{name} is {value}; it must be {'at least 1' if name == 'rank' else 'a share, at most 1'}")
    plain = collapse(model)
    layers = list(_layers(plain))
    total = sum(p.numel() for p in plain.parameters())
    ranks = _ranks(layers, name, float(value), total)
    table = _table(layers, ranks, total)
    for layer, kept in zip(layers, ranks, strict=True):
        if layer.cost(kept) < layer.dense:
            plain = _replaced(plain, layer.name, _factored(layer, kept))
    return Compression(plain, table)


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """What can be cut, with its singular values."""
    held: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            held[id(parameter)] = held.get(id(parameter), 0) + 1
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for name, module in model.named_modules():
        if type(module) not in LAYERS or getattr(module, "groups", 1) != 1 or held.get(id(module.weight), 0) != 1:
            continue
        if any(name.startswith(f"{outer}.".lstrip(".")) for outer in attention):
            continue
        W = module.weight.detach().double().flatten(1)
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
        yield _Layer(name, module, U, s, Vh)


def _ranks(layers: list[_Layer], name: str, value: float, total: int) -> list[int]:
    if name == "rank":
        return [min(int(value), len(layer.s)) for layer in layers]
    if name in ("energy", "tolerance"):
        energy = value if name == "energy" else 1 - value**2
        return [max(least_rank(layer.s, energy), 1) for layer in layers]

    def size(energy: float) -> int:
        kept = [max(least_rank(layer.s, energy), 1) for layer in layers]
        return total - sum(layer.dense - layer.cost(r) for layer, r in zip(layers, kept, strict=True))

    if size(0.0) > value * total:
        raise ValueError(f"budget is {value}; even rank 1 everywhere takes {size(0.0) / total:.3f} of the parameters")
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= value * total else (low, middle)
    return [max(least_rank(layer.s, low), 1) for layer in layers]


def _table(layers: list[_Layer], ranks: list[int], total: int) -> xr.Dataset:
    cut = [layer.cost(r) < layer.dense for layer, r in zip(layers, ranks, strict=True)]
    costs = [layer.cost(r) for layer, r in zip(layers, ranks, strict=True)]
    kept = [r if c else len(layer.s) for layer, r, c in zip(layers, ranks, cut, strict=True)]
    columns = {
        "rank": [len(layer.s) for layer in layers],
        "rank_kept": kept,
        "parameters": [layer.dense for layer in layers],
        "parameters_kept": costs,
        "error": [layer.error(r) for layer, r in zip(layers, kept, strict=True)],
    }
    saved = sum(layer.dense for layer in layers) - sum(costs)
    return xr.Dataset(
        {name: ("layer", np.array(values)) for name, values in columns.items()},
        coords={"layer": [layer.name for layer in layers]},
        attrs={"model_parameters": total, "model_parameters_kept": total - saved},
    )


def _factored(layer: _Layer, rank: int) -> nn.Sequential:
    """Two layers of the same function, with balanced weights."""
    module, root = layer.module, layer.s[:rank].sqrt()
    weight = module.weight
    last, first = layer.U[:, :rank] * root, root[:, None] * layer.Vh[:rank]
    where: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
    has_bias = module.bias is not None
    if isinstance(module, nn.Linear):
        before: Any = nn.utils.skip_init(nn.Linear, module.in_features, rank, bias=False, **where)
        after: Any = nn.utils.skip_init(nn.Linear, rank, module.out_features, bias=has_bias, **where)
    else:
        kind: Any = type(module)
        shape = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        before = nn.utils.skip_init(kind, module.in_channels, rank, module.kernel_size, bias=False, **shape, **where)
        after = nn.utils.skip_init(kind, rank, module.out_channels, 1, bias=has_bias, **where)
    with torch.no_grad():
        before.weight.copy_(first.reshape(before.weight.shape))
        after.weight.copy_(last.reshape(after.weight.shape))
        if has_bias:
            after.bias.copy_(module.bias)
    pair = nn.Sequential(before, after).train(module.training)
    for parameter in pair.parameters():
        parameter.requires_grad_(weight.requires_grad)
    return pair


def _replaced(model: Any, name: str, module: nn.Module) -> Any:
    """A model with a part exchanged; the model itself, if that is the part."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return model
