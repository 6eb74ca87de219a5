"""Layers that are cut one after the other, each fitted to the original outputs from the inputs that now reach it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ranklens.nn.calibration import Moments, Runs, watch
from ranklens.nn.decomposition import CutLayer, Site
from ranklens.nn.layer_kinds import input_rows, matrices, output_rows
from ranklens.nn.model_state import M, replaced
from ranklens.nn.output_cut import OutputCut, reduced_rank_regression
from ranklens.nn.survey import Survey, bias_of

# Largest number of inputs of a group for which the regression is on the inputs themselves: their moments take 128 MiB.
# Beyond, the regression is on the outputs of the plain layer, of which there are far fewer.
MOST_INPUTS = 4096


def refitted(
    plain: nn.Module, small: M, layers: Sequence[CutLayer], ranks: Mapping[str, int], runs: Runs, found: Survey
) -> tuple[M, dict[str, CutLayer]]:
    """Cut layers in the order in which they run, each fitted to its original outputs.

    Args:
        plain: the plain model, in evaluation mode.
        small: a copy of it, in evaluation mode, whose layers are replaced in place.
        layers: the layers with the cuts that are nearest to their outputs in the plain model.
        ranks: the rank of every layer that is to be cut.
        runs: the data.
        found: the survey of the plain model on the data.

    Returns:
        The smaller model, and the layers with the cuts that were made, by name.

    Raises:
        ValueError: if the data are not the same in every run.
    """
    made: dict[str, CutLayer] = {}
    known = {layer.site.name: layer for layer in layers}
    for stage in found.stages:
        names = [name for name in stage if name in ranks and known[name].saves(ranks[name])]
        if not names:
            continue
        # Until a layer has been cut, the inputs are the original ones, and so is the best cut.
        fitted = _fitted(plain, small, [known[n].site for n in names], runs, found) if made else {}
        for name in names:
            made[name] = fitted.get(name, known[name])
            pair = made[name].pair(ranks[name])
            assert pair is not None
            for place in known[name].site.names:
                small = replaced(small, place, pair)
    return small, made


def _fitted(
    plain: nn.Module, small: nn.Module, layers: Sequence[Site], runs: Runs, found: Survey
) -> dict[str, CutLayer]:
    """Return layers with the cuts that reach their outputs in the plain model from their inputs in the smaller one."""
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
        rows = input_rows(form, value, output) if _on_inputs(site[name]) else output_rows(form, output)
        joint[name].add(torch.cat([rows, output_rows(form, targets[name].pop(0))], -1))

    for k, run in enumerate(runs):
        counts = {name: found.counts[k].get(name, 0) for name in site} if runs.by_batch else None
        targets = {name: [] for name in site}
        watch(run, plain, {name: layer.module for name, layer in site.items()}, keep, counts)
        watch(run, small, {name: small.get_submodule(name) for name in site}, pair_up, counts)
    return {name: CutLayer(layer, _regression(layer, joint[name])) for name, layer in site.items()}


def _on_inputs(site: Site) -> bool:
    """Return whether the regression is on the inputs of a layer, instead of the outputs of the plain layer."""
    return site.shape[2] <= MOST_INPUTS


def _regression(site: Site, moments: Moments) -> OutputCut:
    """Return the cuts of a layer from the moments of what the regression is on, and of the original outputs."""
    weight = matrices(site.form).detach().double()
    if _on_inputs(site):
        return reduced_rank_regression(weight, moments.mean, moments.covariance)
    same = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device).expand(len(weight), -1, -1)
    found = reduced_rank_regression(same, moments.mean, moments.covariance)
    # The regression is on z = W x + b, so the centre of A z is that of A W x plus A b.
    shift = (found.weight @ bias_of(site.form, weight)[..., None])[..., 0]
    return OutputCut(
        found.directions, found.spectrum, found.weight @ weight, found.centre - shift, found.mean, found.floor,
        found.power,
    )  # fmt: skip
