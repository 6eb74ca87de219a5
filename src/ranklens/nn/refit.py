"""Layers that are cut one after the other, each fitted to the original outputs from the inputs that now reach it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ranklens.nn.calibration import Moments, Runs, watch
from ranklens.nn.decomposition import CutLayer, Site
from ranklens.nn.layer_kinds import as_weight, in_parts, input_rows, is_transposed, matrices, output_rows
from ranklens.nn.model_state import M, replaced
from ranklens.nn.output_cut import OutputCut, reduced_rank_regression, regression_without_bias
from ranklens.nn.survey import Survey, bias_of

# Largest number of inputs of a group for which the regression is on the inputs themselves: their moments take 128 MiB.
# Beyond, the regression is on the outputs of the plain layer, of which there are far fewer.
MOST_INPUTS = 4096


@dataclass(frozen=True)
class Refit:
    """A model whose layers were fitted one after the other.

    Attributes:
        model: the model.
        layers: the layers that were cut or fitted, with their new cuts, by name.
        dense: names of the layers that were fitted and not cut.
    """

    model: nn.Module
    layers: dict[str, CutLayer]
    dense: set[str]


def refitted(
    plain: nn.Module, small: M, layers: Sequence[CutLayer], ranks: Mapping[str, int], runs: Runs, found: Survey
) -> Refit:
    """Cut layers in the order in which they run, each fitted to its original outputs.

    Layers that are not cut are fitted too once a layer before them has been cut, because that costs no parameters.

    Args:
        plain: the plain model, in evaluation mode.
        small: a copy of it, in evaluation mode, whose layers are replaced in place.
        layers: the layers with the cuts that are nearest to their outputs in the plain model.
        ranks: the rank of every layer.
        runs: the data.
        found: the survey of the plain model on the data.

    Returns:
        The smaller model, and the layers with the cuts that were made.

    Raises:
        ValueError: if the data are not the same in every run.
    """
    made: dict[str, CutLayer] = {}
    dense: set[str] = set()
    known = {layer.site.name: layer for layer in layers}
    for stage in found.stages:
        names = [n for n in stage if n in known and (known[n].saves(ranks[n]) or (made and _can_be_fitted(known[n])))]
        if not names:
            continue
        # Until a layer has been cut, the inputs are the original ones, and so is the best cut.
        moments = _moments(plain, small, [known[n].site for n in names], runs, found) if made else {}
        for name in names:
            layer = known[name]
            made[name] = CutLayer(layer.site, _regression(layer.site, moments[name])) if moments else layer
            part: nn.Module | None = made[name].pair(ranks[name])
            if part is None:
                part = _fitted(made[name], moments[name])
                dense.add(name)
            for place in layer.site.names:
                small = replaced(small, place, part)
    return Refit(small, made, dense)


def _can_be_fitted(layer: CutLayer) -> bool:
    """Return whether the weight of a layer that is not cut can be replaced; a registered function may compute it."""
    return layer.site.form is layer.site.module or is_transposed(layer.site.module)


def _fitted(layer: CutLayer, moments: Moments) -> nn.Module:
    """Return a copy of a layer with the weight and bias of the regression at full rank."""
    made, cut = copy.deepcopy(layer.site.module), layer.cut
    assert isinstance(cut, OutputCut)
    weight, bias = made.get_parameter("weight"), made._parameters.get("bias")
    value = as_weight(layer.site.form, cut.weight if bias is not None else _without_bias(layer.site, moments))
    with torch.no_grad():
        weight.copy_(value.T if is_transposed(made) else value)
        if bias is not None:
            bias.copy_((cut.mean - cut.centre).flatten())
    return made


def _moments(
    plain: nn.Module, small: nn.Module, layers: Sequence[Site], runs: Runs, found: Survey
) -> dict[str, Moments]:
    """Return the moments of the inputs of layers in the smaller model, with their outputs in the plain one beside."""
    site = {layer.name: layer for layer in layers}
    joint = {name: Moments() for name in site}
    targets: dict[str, list[Tensor]] = {}

    def keep(name: str, _: Tensor, output: Tensor) -> None:
        targets[name].append(output.clone())

    def pair_up(name: str, value: Tensor, output: Tensor) -> None:
        form = site[name].form
        if not targets[name] or targets[name][0].shape != output.shape:
            raise ValueError(
                f"layer {name!r} ran on other data than before; a function given as data must run the model on the "
                f"same data in every call"
            )
        for part, put_out, target in in_parts(form, value, output, targets[name].pop(0)):
            rows = input_rows(form, part, put_out) if _on_inputs(site[name]) else output_rows(form, put_out)
            joint[name].add(rows, output_rows(form, target))

    for k, run in enumerate(runs):
        counts = {name: found.counts[k].get(name, 0) for name in site} if runs.by_batch else None
        targets = {name: [] for name in site}
        watch(run, plain, {name: layer.module for name, layer in site.items()}, keep, counts)
        watch(run, small, {name: small.get_submodule(name) for name in site}, pair_up, counts)
    return joint


def _on_inputs(site: Site) -> bool:
    """Return whether the regression is on the inputs of a layer, instead of the outputs of the plain layer."""
    return site.shape[2] <= MOST_INPUTS


def _regression(site: Site, moments: Moments) -> OutputCut:
    """Return the cuts of a layer from the moments of what the regression is on, and of the original outputs."""
    weight = matrices(site.form).detach().double()
    if _on_inputs(site):
        return reduced_rank_regression(weight, moments)
    found = reduced_rank_regression(_identity(weight), moments)
    # The regression is on z = W x + b, so the centre of A z is that of A W x plus A b.
    shift = (found.weight @ bias_of(site.form, weight)[..., None])[..., 0]
    return replace(found, weight=found.weight @ weight, centre=found.centre - shift)


def _without_bias(site: Site, moments: Moments) -> Tensor:
    """Return the matrices of the regression of a layer without a bias."""
    weight = matrices(site.form).detach().double()
    if _on_inputs(site):
        return regression_without_bias(weight, moments)
    return regression_without_bias(_identity(weight), moments) @ weight


def _identity(weight: Tensor) -> Tensor:
    """Return the identity on the outputs of each group."""
    return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device).expand(len(weight), -1, -1)
