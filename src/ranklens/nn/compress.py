"""Weights cut to the rank that they have, where that saves anything."""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.composed import Composition, check_values
from ranklens.nn.overparameterize import collapse
from ranklens.nn.rank_profile import least_rank, least_without
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.truncation import truncate
from ranklens.theory.rank_bounds import pruning_bound

M = TypeVar("M", bound=nn.Module)
LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HALVINGS = 40  # of the interval of energies, to meet a budget


@dataclass(frozen=True)
class Compression(Generic[M]):
    """A smaller model, and what became of its layers.

    Attributes:
        model: the copy.
        table: Dataset over `layer`: shape, rank (that the shape allows), rank_kept, parameters, parameters_kept, and
            error, the relative Frobenius error of the weight; with a batch also multiply_adds and multiply_adds_kept of
            the batch, and output_error, the relative error of the layer's output on what reaches it in the whole model.
            The attributes model_parameters and model_parameters_kept count the whole model, and output_error is that of
            its output.
    """

    model: M
    table: xr.Dataset


@dataclass(frozen=True)
class _Layer:
    """A layer that could be cut."""

    name: str
    names: tuple[str, ...]
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
    batch: Any = None,
) -> Compression[M]:
    r"""A copy of a model with its weights truncated to low rank, as two smaller layers each, where that saves any.

    W (m x n) cut to rank r costs r (m + n) instead of m n, and is off by sqrt(sum_{k > r} sigma_k^2), the least that
    any matrix of rank r is (Eckart and Young). A layer for which r (m + n) is no less stays what it is. A convolution
    becomes one with r channels and its kernel, followed by one of size 1.

    Args:
        model: any; composed layers are collapsed first. Linear and Conv layers are cut, without groups and without
            weights that others share; those within attention are left. Hooks of a layer that is cut are not kept.
        energy: keep the least rank that holds this share of the squared norm, or
        rank: so many components of every layer, or
        tolerance: the least rank with this relative Frobenius error of every weight, or
        budget: the largest energy, the same for all, with this share of the model's parameters.
        batch: an input of the model, or a tuple of its arguments, on which outputs are compared.

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
    _check(name, value)
    plain = collapse(model)
    return _compressed(plain, list(_layers(plain)), name, float(value), batch)


def _check(name: str, value: float) -> None:
    least = 1 if name == "rank" else 0
    if (
        not math.isfinite(value)
        or value < least
        or (name != "rank" and value > 1)
        or (name != "tolerance" and value == 0)
    ):
        raise ValueError(f"{name} is {value}; it must be {'at least 1' if name == 'rank' else 'a share, at most 1'}")


def _compressed(plain: M, layers: list[_Layer], name: str, value: float, batch: Any) -> Compression[M]:
    """A copy of a plain model, cut; its layers are given, so that several cuts share one decomposition."""
    total = sum(p.numel() for p in plain.parameters())
    ranks = _ranks(layers, name, value, total)
    table = _table(layers, ranks, total)
    arguments = batch if isinstance(batch, tuple) else (batch,)
    if batch is not None:
        table, whole = _with_outputs(plain, layers, ranks, table, arguments)
    small = copy.deepcopy(plain)
    for layer, kept in zip(layers, ranks, strict=True):
        if layer.cost(kept) < layer.dense:
            pair = _factored(layer, kept)
            for place in layer.names:
                small = _replaced(small, place, pair)
    table.attrs["model_parameters_kept"] = sum(p.numel() for p in small.parameters())
    if batch is not None:
        table.attrs["output_error"] = _relative(_output(small, arguments), whole)
    return Compression(small, table)


def pareto(
    model: nn.Module,
    score: Callable[[nn.Module], float] | None = None,
    *,
    energies: Sequence[float] = (1.0, 0.999, 0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5),
    batch: Any = None,
) -> xr.Dataset:
    """What `compress` makes of a model at several energies: how small, and how good.

    Args:
        model: as for `compress`.
        score: a function of a model, such as its accuracy.
        energies: shares of the squared norm.
        batch: an input, for the error of the output.

    Returns:
        A Dataset over `energy`: parameters, and where asked for score and output_error; its attribute parameters counts
        those of the plain model, whose score is score_plain.

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     layer, x = torch.nn.Linear(30, 30), torch.randn(8, 30)
    >>> found = rl.nn.pareto(layer, batch=x, energies=(1.0, 0.5, 0.2))
    >>> bool((found.parameters.diff("energy") <= 0).all()), bool((found.output_error.diff("energy") >= 0).all())
    (True, True)
    """
    for energy in energies:
        _check("energy", energy)
    plain = collapse(model)
    layers = list(_layers(plain))
    found = [_compressed(plain, layers, "energy", energy, batch) for energy in energies]
    columns: dict[str, list[float]] = {"parameters": [c.table.attrs["model_parameters_kept"] for c in found]}
    attrs = {"parameters": found[0].table.attrs["model_parameters"]}
    if batch is not None:
        columns["output_error"] = [c.table.attrs["output_error"] for c in found]
    if score is not None:
        columns["score"] = [float(score(c.model)) for c in found]
        attrs["score_plain"] = float(score(plain))
    data = {name: ("energy", np.array(values)) for name, values in columns.items()}
    return xr.Dataset(data, coords={"energy": list(energies)}, attrs=attrs)


@torch.no_grad()
def prune(model: M, tolerance: float) -> Compression[M]:
    r"""A copy of a model whose tensor-factored layers lose components that provably do not matter.

    The components of smallest norm are left out at every bond as long as the bound on what that can change of a weight,

        sum over bonds of (dropped component norms) x (product of the norms of the nodes the bond does not meet),

    stays below `tolerance` times the weight's norm; every bond gets an equal part of it, as in the theorem.

    Args:
        model: with layers of `overparameterize`; those that are products of matrices or expanded kernels are left.
        tolerance: relative, of every weight.

    Returns:
        A `Compression`; its table is over `layer`, with components, components_kept, parameters, parameters_kept, bound
        and error, both relative.

    Raises:
        ValueError: for a tolerance outside [0, 1], or a model without such layers.

    Source: Razin, Maman, Cohen (ICML 2022), low local component norms and low hierarchical tensor rank.

    >>> import torch, ranklens as rl
    >>> deep = rl.nn.overparameterize(torch.nn.Linear(16, 16).double(), kind="hierarchical", tensorize=((4, 4), (4, 4)))
    >>> table = rl.nn.prune(deep, 0.2).table
    >>> bool(table.error[0] <= table.bound[0] <= 0.2), bool(table.components_kept[0] <= table.components[0])
    (True, True)
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}; it is a relative error, at least 0 and at most 1")
    model = copy.deepcopy(model)
    rows: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, Composition) or not isinstance(module.network, TensorNetwork):
            continue
        net = module.network
        if is_chain(net):
            continue
        weight = net.tensor()
        size = float(weight.norm())
        small = truncate(net, _prunable(net, tolerance * size / max(len(net.bonds), 1)))
        small.requires_grad_(any(p.requires_grad for p in net.parameters()))
        found = {
            "layer": name.removesuffix(".composition").removesuffix("composition"),
            "components": sum(net.layout.sizes[bond] for bond in net.bonds),
            "components_kept": sum(small.layout.sizes[bond] for bond in net.bonds),
            "parameters": sum(p.numel() for p in net.parameters()),
            "parameters_kept": sum(p.numel() for p in small.parameters()),
            "bound": float(pruning_bound(net, {b: small.layout.sizes[b] for b in net.bonds})) / (size or 1.0),
            "error": float((small.tensor() - weight).norm()) / (size or 1.0),
        }
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
        module.network = small
        module._kept = None
    if not rows:
        raise ValueError(
            "no layer is a tensor factorization; make some with rl.nn.overparameterize(kind='hierarchical')"
        )
    data = {name: ("layer", np.array(values)) for name, values in rows.items() if name != "layer"}
    return Compression(model, xr.Dataset(data, coords={"layer": rows["layer"]}))


def _prunable(net: TensorNetwork, allowed: float) -> dict[Any, int]:
    """The least width of every bond whose own part of the bound, which falls with the width, is allowed."""

    def least(bond: Any) -> int:
        widths = range(1, net.layout.sizes[bond] + 1)
        place = bisect_left(widths, -allowed, key=lambda width: -float(pruning_bound(net, {bond: width})))
        return widths[place]

    return {bond: least(bond) for bond in net.bonds}


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """What can be cut, with its singular values."""
    held: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            held[id(parameter)] = held.get(id(parameter), 0) + 1
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for name, module in model.named_modules():
        if type(module) not in LAYERS or getattr(module, "groups", 1) != 1 or held.get(id(module.weight), 0) != 1:
            continue
        if any(name.startswith(f"{outer}.".lstrip(".")) for outer in attention):
            continue
        check_values(name, module.weight)
        W = module.weight.detach().double().flatten(1)
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
        yield _Layer(name, tuple(names[id(module)]), module, U, s, Vh)


def _ranks(layers: list[_Layer], name: str, value: float, total: int) -> list[int]:
    if name == "rank":
        return [min(int(value), len(layer.s)) for layer in layers]
    if name == "energy":
        return [max(least_rank(layer.s, value), 1) for layer in layers]
    if name == "tolerance":
        return [max(least_without(layer.s, value**2), 1) for layer in layers]

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
        "shape": [" x ".join(map(str, layer.module.weight.shape)) for layer in layers],
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


def _with_outputs(
    model: nn.Module, layers: list[_Layer], ranks: list[int], table: xr.Dataset, arguments: tuple[Any, ...]
) -> tuple[xr.Dataset, Tensor]:
    """The table with what a batch says, and the model's output."""
    places, errors = dict.fromkeys((layer.name for layer in layers), 0), dict.fromkeys((x.name for x in layers), 0.0)

    def watch(layer: _Layer, rank: int) -> Any:
        small = _factored(layer, rank) if layer.cost(rank) < layer.dense else None

        def hook(_: nn.Module, inputs: Any, named: dict[str, Any], output: Tensor) -> None:
            places[layer.name] += output.numel() // len(layer.U)
            if small is not None:
                errors[layer.name] = max(errors[layer.name], _relative(small(*inputs, *named.values()), output))

        return hook

    pairs = zip(layers, ranks, strict=True)
    handles = [x.module.register_forward_hook(watch(x, rank), with_kwargs=True) for x, rank in pairs]
    whole = _output(model, arguments)
    for handle in handles:
        handle.remove()
    count = np.array([places[layer.name] for layer in layers])
    added = {
        "multiply_adds": count * table.parameters.values,
        "multiply_adds_kept": count * table.parameters_kept.values,
        "output_error": np.array([errors[layer.name] for layer in layers]),
    }
    return table.assign({name: ("layer", values) for name, values in added.items()}), whole


@torch.no_grad()
def _output(model: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
    """The output of a model that is not being trained, which stays as it is."""
    modes = {module: module.training for module in model.modules()}
    found = model.eval()(*arguments)
    for module, training in modes.items():
        module.training = training
    if not isinstance(found, Tensor):
        raise TypeError(f"the model gives a {type(found).__name__}; outputs are compared where it gives a tensor")
    return found


def _relative(found: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    return float((found - expected).norm()) / size if size > 0 else 0.0


class LowRank(nn.Sequential):
    """Two layers in place of one, which models may still ask for its weight, its bias and its sizes."""

    @property
    def weight(self) -> Any:  # what transformer layers of torch read
        """The product of both."""
        before: Any = self[0].weight
        after: Any = self[1].weight
        return (after.flatten(1) @ before.flatten(1)).reshape(len(after), *before.shape[1:])

    @property
    def bias(self) -> Any:
        """That of the second."""
        return self[1].bias

    def __getattr__(self, name: str) -> Any:
        """Sizes: what goes in is the first's, what comes out the second's."""
        if name in ("in_features", "in_channels"):
            return getattr(self[0], name)
        return getattr(self[1], name) if name in ("out_features", "out_channels") else super().__getattr__(name)


def _factored(layer: _Layer, rank: int) -> LowRank:
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
    pair = LowRank(before, after).train(module.training)
    for parameter in pair.parameters():
        parameter.requires_grad_(weight.requires_grad)
    if has_bias:
        after.bias.requires_grad_(module.bias.requires_grad)
    return pair


def _replaced(model: Any, name: str, module: nn.Module) -> Any:
    """A model with a part exchanged; the model itself, if that is the part."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return model
