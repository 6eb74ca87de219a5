"""Cuts of a model to low rank, where two smaller layers need fewer parameters than one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ranklens.nn.attention import put_back, separate_attention
from ranklens.nn.calibration import Runs, evaluating, output_error, recalibrate_, watch
from ranklens.nn.compression import Compression
from ranklens.nn.compression_table import output_errors, parameters, relative_error, table, with_survey
from ranklens.nn.decomposition import CutLayer, KeptLayer, Site, by_weight, counted, sites
from ranklens.nn.importance import importances
from ranklens.nn.model_state import M, bare, copied, modes, set_modes
from ranklens.nn.overparameterize import collapse
from ranklens.nn.pretrained import with_own_saving
from ranklens.nn.rank_choice import Criterion, budgeted_ranks, criterion, layer_ranks
from ranklens.nn.refit import refitted
from ranklens.nn.survey import Survey, by_outputs, survey
from ranklens.tensors.annotations import checked

# Shares of the squared norm at which `pareto` compresses a model, unless others are given.
ENERGIES = (1.0, 0.999, 0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
ORDERS = ("sequential", "outputs")
PRICES = ("parameters", "multiply_adds")
IMPORTANCES = ("equal", "measured")


@dataclass(frozen=True)
class _Prepared:
    """A plain model whose attention layers have separate projections, and its layers.

    Attributes:
        model: the model, a copy.
        attention: the attention layers of torch that were replaced, by name.
        sites: the layers that can be cut.
        kept: the other layers with weights.
    """

    model: nn.Module
    attention: dict[str, nn.MultiheadAttention]
    sites: list[Site]
    kept: list[KeptLayer]


@checked
def compress(  # noqa: PLR0913  (what decides the ranks, what they cost, and on which data)
    model: M,
    *,
    energy: float | None = None,
    rank: int | None = None,
    tolerance: float | None = None,
    budget: float | None = None,
    data: object = None,
    batch: object = None,
    order: str | None = None,
    per: str = "parameters",
    importance: str | None = None,
    recalibrate: bool = False,
) -> Compression[M]:
    r"""Return a copy of a model whose layers are cut to low rank, where that saves parameters.

    A layer of rank r is stored as two layers with r (m + n) parameters instead of the m n of its weight as a matrix. A
    convolution becomes one with r output channels and the same kernel, followed by one with kernels of size 1; each
    group of a grouped convolution is a matrix of its own. The projections of a MultiheadAttention become four layers.

    With `data`, the layers keep what they compute on these data. For outputs of mean m and covariance C, the layer of
    rank r whose outputs are nearest in mean square is

        W' = U U^T W,    b' = U U^T (b - m) + m,    with U the r leading eigenvectors of C,

    and its error is the sum of the other eigenvalues, because no outputs of rank r are nearer (Eckart and Young). In
    the order "sequential", layers are cut one after the other, and each is fitted by reduced-rank regression to the
    original outputs, from the inputs that reach it in the model that is cut so far. This also mends errors of the
    layers before. Without `data`, every weight is replaced by the nearest matrix of its rank in Frobenius norm, whose
    error is the sum of the squares of its other singular values.

    Give exactly one of energy, rank, tolerance and budget.

    Args:
        model: any model; it is not changed. Factored layers are made plain first, by `collapse`; wrappers such as those
            of `torch.compile` and DataParallel are left off. Cut are Linear, Conv and ConvTranspose layers, the
            projections of MultiheadAttention, `Conv1D` of transformers, and layers that `register_layer` was told of,
            unless they share their weight with another layer. Hooks of a cut layer are not copied.
        energy: share of the variance of a layer's outputs (without data: of the squared Frobenius norm of its weight)
            that is kept, above 0 and at most 1. Every layer gets the least rank that keeps this share.
        rank: number of components that are kept of every layer, at least 1. A layer with fewer keeps all.
        tolerance: largest error of every layer, from 0 to 1: root mean square error of its outputs, divided by their
            standard deviation (without data: relative Frobenius error of its weight). Every layer gets the least rank
            whose error does not exceed it. Errors of the inputs are not counted.
        budget: share of the cost of the plain model that the smaller model may have, above 0 and at most 1. The ranks
            of all layers minimize the sum of their relative squared errors, by a Lagrange multiplier.
        data: inputs of the model: a tensor, a tuple of positional arguments or a mapping of named ones, which are one
            batch; an iterable of such batches; or a function that runs the model that it is given on the same data in
            every call. Some hundreds of samples usually suffice. Moments are added up in float64.
        batch: one batch; the outputs of the plain and of the compressed model on it are compared, in evaluation mode,
            with the ranks as they are without it. Not needed if data are given, which serve for this too.
        order: "sequential" (the default with data), which runs the data through both models once for every layer, or
            "outputs", which runs them once.
        per: cost that the budget limits: "parameters" of the whole model, or "multiply_adds" of the layers that
            can be cut, on the data.
        importance: how a budget weighs the errors of layers. "measured" weighs each by the square root of its effect
            on the output of the model, measured by cutting one layer at a time, which runs the model once for every
            layer; "equal" weighs all alike. With data, the default is "measured" where outputs of the model can be
            compared, and "equal" elsewhere.
        recalibrate: whether the running statistics of batch-norm layers are replaced by their averages over the data.

    Returns:
        A `Compression` with the smaller model. Its table is a Dataset over `layer`, by name, with one row for every
        layer that has weights. Its variables are shape (the weight's, as text), rank (the largest that the shape
        allows), rank_kept (equal to rank for a layer that stays as it is), parameters and parameters_kept (entries of
        the weight, and of what takes its place), error (the relative Frobenius error of the weight), and reason (why
        the layer is not cut; empty if it is). With data or a batch it also has multiply_adds and multiply_adds_kept
        (over all data) and output_error (relative error of the layer's output in Frobenius norm, on its inputs in the
        plain model, or on its new inputs in the order "sequential"; for a batch, the largest if the layer runs several
        times). The attributes model_parameters and model_parameters_kept count all parameters of the plain and of the
        smaller model; with data or a batch, the attribute output_error is the relative Frobenius error of the model's
        output (NaN if the data are a function that returns no tensor). Relative errors are 0 where the plain weight or
        output is zero.

    Raises:
        ValueError: unless exactly one of the four is given and is in its range; if even rank 1 everywhere exceeds the
            budget; if a weight, or an output on the data, is not finite; or for an unknown order, per or importance, or
            one that needs data where none are given.
        TypeError: if outputs that have to be compared are no tensors.

    Source: reduced-rank regression after Izenman (1975); the cut of outputs is proved in `output_cut`.

    >>> import torch, ranklens as rl
    >>> layer = torch.nn.Linear(20, 20, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.outer(torch.arange(1.0, 21.0), torch.ones(20)))
    >>> small = rl.nn.compress(layer, energy=0.99)
    >>> sum(p.numel() for p in small.model.parameters()), int(small.table.rank_kept[0])
    (40, 1)

    Inputs of two dimensions need rank 2 only, whatever the weight:

    >>> with torch.random.fork_rng():
    ...     layer, x = torch.nn.Linear(20, 20).double(), torch.randn(100, 2).double() @ torch.randn(2, 20).double()
    >>> small = rl.nn.compress(layer, rank=2, data=x)
    >>> bool(small.table.attrs["output_error"] < 1e-12), bool(small.table.error[0] > 0.5)
    (True, True)
    """
    rule = criterion({"energy": energy, "rank": rank, "tolerance": tolerance, "budget": budget})
    order = _checked_options(data, order, per, importance, recalibrate)
    ready = _prepared(model)
    if data is None:
        return _cut_by_weight(ready, [by_weight(site) for site in ready.sites], rule, batch)
    runs, training = Runs(data), modes(ready.model)
    with evaluating(ready.model):
        watched = [*ready.sites, *(site for site in map(counted, ready.kept) if site is not None)]
        found = survey(ready.model, watched, runs, {site.name for site in ready.sites})
        ready = _without_idle(ready, found)
        layers = [by_outputs(site, found.moments[site.name]) for site in ready.sites]
        weighed = rule.name == "budget" and importance != "equal"
        weights = importances(ready.model, layers, runs, optional=importance is None) if weighed else None
        ranks = _ranks(ready, layers, rule, weights, found if per == "multiply_adds" else None)
        small = _cut_by_outputs(ready, layers, ranks, runs, found, order=order, recalibrate=recalibrate)
    set_modes(small.model, training)
    return small


def _checked_options(data: object, order: str | None, per: str, importance: str | None, recalibrate: bool) -> str:
    """Return the order, after all options have been checked."""
    options = {"order": (order, ORDERS), "per": (per, PRICES), "importance": (importance, IMPORTANCES)}
    for name, (value, known) in options.items():
        if value is not None and value not in known:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")
    needs = {"order": order is not None, "per": per != PRICES[0], "importance": importance is not None}
    for name, given in {**needs, "recalibrate": recalibrate}.items():
        if given and data is None:
            raise ValueError(f"{name} needs data to measure on; give data=, or leave {name} out")
    return order or ORDERS[0]


def _prepared(model: nn.Module) -> _Prepared:
    """Return a plain copy of a model, and its layers.

    Raises:
        ValueError: if a layer waits for its first batch to have a weight.
    """
    for name, module in model.named_modules():
        if any(map(is_lazy, module._parameters.values())):
            raise ValueError(f"layer {name!r} of the model is not initialized; run the model on a batch first")
    plain, attention = separate_attention(collapse(bare(model)))
    found, kept = sites(plain)
    return _Prepared(plain, attention, found, kept)


def _without_idle(ready: _Prepared, found: Survey) -> _Prepared:
    """Return the layers of a model without those that did not run on the data, which are kept."""
    idle = [site for site in ready.sites if site.name not in found.moments]
    kept = [*ready.kept, *(KeptLayer(s.name, s.module, "it did not run on the data") for s in idle)]
    names = {site.name for site in idle}
    return _Prepared(ready.model, ready.attention, [s for s in ready.sites if s.name not in names], kept)


def _ranks(
    ready: _Prepared,
    layers: Sequence[CutLayer],
    rule: Criterion,
    weights: Sequence[float] | None = None,
    found: Survey | None = None,
) -> dict[str, int]:
    """Return the rank of every layer; `found` prices a budget in multiply-adds."""
    if rule.name != "budget":
        return layer_ranks(layers, rule)
    return budgeted_ranks(ready.model, layers, rule.value, weights or [1.0] * len(layers), found)


def _cut_by_weight(ready: _Prepared, layers: Sequence[CutLayer], rule: Criterion, batch: object) -> Compression[Any]:
    """Return a copy of a model cut by its weights; `layers` are given so that several calls share them."""
    ranks = _ranks(ready, layers, rule)
    small = put_back(_with_pairs(ready.model, layers, ranks), ready.attention)
    with_own_saving(small)
    found = _counted(table(layers, ready.kept, ranks), ready.model, small)
    if batch is None:
        return Compression(small, found)
    runs = Runs(batch, "batch")
    with evaluating(ready.model, small):
        seen, errors = _on_batch(ready, layers, ranks, runs)
        found = with_survey(found, layers, ranks, seen, errors)
        found.attrs["output_error"] = output_error(ready.model, small, runs)
    return Compression(small, found)


def _cut_by_outputs(
    ready: _Prepared,
    layers: Sequence[CutLayer],
    ranks: Mapping[str, int],
    runs: Runs,
    seen: Survey,
    *,
    order: str,
    recalibrate: bool,
) -> Compression[Any]:
    """Return a copy of a model cut by what its layers compute."""
    made, dense = list(layers), set[str]()
    if order == "sequential":
        found = refitted(ready.model, copied(ready.model), layers, ranks, runs, seen)
        small, dense = found.model, found.dense
        made = [found.layers.get(layer.site.name, layer) for layer in layers]
    else:
        small = _with_pairs(ready.model, layers, ranks)
    if recalibrate:
        recalibrate_(small, runs)
    rows = table(made, ready.kept, ranks, dense)
    rows = with_survey(rows, made, ranks, seen, output_errors(made, ranks, dense))
    with evaluating(small):
        error = output_error(ready.model, small, runs, optional=True)
    small = put_back(small, ready.attention)
    with_own_saving(small)
    rows = _counted(rows, ready.model, small)
    rows.attrs["output_error"] = error
    return Compression(small, rows)


def _counted(found: xr.Dataset, plain: nn.Module, small: nn.Module) -> xr.Dataset:
    """Return a table with the numbers of parameters of both models as attributes."""
    counts = {"model_parameters": parameters(plain), "model_parameters_kept": parameters(small)}
    return found.assign_attrs(counts)


def _with_pairs(model: nn.Module, layers: Sequence[CutLayer], ranks: Mapping[str, int]) -> nn.Module:
    """Return a copy of a model in which layers are two of their rank, where that saves parameters."""
    pairs = {layer.site.module: layer.pair(ranks[layer.site.name]) for layer in layers}
    return copied(model, {module: pair for module, pair in pairs.items() if pair is not None})


def _on_batch(
    ready: _Prepared, layers: Sequence[CutLayer], ranks: Mapping[str, int], runs: Runs
) -> tuple[Survey, dict[str, float]]:
    """Return a survey of the plain model on a batch, and the largest relative error of each cut layer's output."""
    watched = [*ready.sites, *(site for site in map(counted, ready.kept) if site is not None)]
    seen = survey(ready.model, watched, runs, ())
    pairs = {layer.site.name: layer.pair(ranks[layer.site.name]) for layer in layers}
    small = {name: pair.eval() for name, pair in pairs.items() if pair is not None}
    errors: dict[str, float] = {}

    def take(name: str, value: Tensor, output: Tensor) -> None:
        errors[name] = max(errors.get(name, 0.0), relative_error(small[name](value), output))

    modules = {layer.site.name: layer.site.module for layer in layers if layer.site.name in small}
    for run in runs:
        watch(run, ready.model, modules, take)
    return seen, errors


@checked
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
    rules = [Criterion("energy", float(energy)) for energy in energies]
    ready = _prepared(model)
    layers = [by_weight(site) for site in ready.sites]
    columns: dict[str, list[float]] = {}
    for rule in rules:
        found = _cut_by_weight(ready, layers, rule, batch)
        columns.setdefault("parameters", []).append(found.table.attrs["model_parameters_kept"])
        if batch is not None:
            columns.setdefault("output_error", []).append(found.table.attrs["output_error"])
        if score is not None:
            columns.setdefault("score", []).append(float(score(found.model)))
    plain = put_back(ready.model, ready.attention)
    attrs: dict[str, float] = {"parameters": parameters(plain)}
    if score is not None:
        attrs["score_plain"] = float(score(plain))
    data = {name: ("energy", np.array(values)) for name, values in columns.items()}
    return xr.Dataset(data, coords={"energy": list(energies)}, attrs=attrs)
