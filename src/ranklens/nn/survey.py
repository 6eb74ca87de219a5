"""One run of a model over data: in which order its layers run, how often, and what they compute."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ranklens.nn.calibration import Moments, Runs, watch
from ranklens.nn.decomposition import CutLayer, Site
from ranklens.nn.layer_kinds import (
    Truncatable,
    in_parts,
    input_rows,
    is_conv_transpose,
    matrices,
    output_rows,
    positions,
)
from ranklens.nn.output_cut import OutputCut, cut_of_inputs, cut_of_outputs


@dataclass
class Survey:
    """What the layers of a model did while it ran over data.

    Attributes:
        stages: names of the layers in the order of their first calls. Layers that take the same tensor, one right after
            the other, make one stage.
        counts: for each run, the number of calls of every layer.
        places: by layer, the number of vectors that it took in and put out, over samples and places. Only in transposed
            convolutions are they different.
        moments: by layer, the moments of its inputs or outputs, whichever are fewer.
        sites: the layers that were watched, by name.
    """

    stages: list[list[str]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)

    def multiply_adds(self, name: str, rank: int | None) -> int:
        """Return the multiply-adds of a layer over all data.

        Args:
            name: name of the layer.
            rank: its rank, or None for the layer as it is.

        Returns:
            The number for the layer itself, or for the two layers of the rank; 0 if it was not watched or did not run.
        """
        if name not in self.places:
            return 0
        groups, outputs, inputs = self.sites[name].shape
        before, after = self.places[name]
        if rank is None:
            return before * groups * outputs * inputs
        return groups * rank * (before * inputs + after * outputs)


def survey(model: nn.Module, layers: Sequence[Site], runs: Runs, measured: Collection[str]) -> Survey:
    """Run a model over data and return what its layers did.

    Args:
        model: the model, in evaluation mode.
        layers: the layers to watch.
        runs: the data.
        measured: names of the layers whose moments are measured. Of the others, calls and places are counted.

    Returns:
        The survey. A layer that never ran has no places and no moments.
    """
    site = {layer.name: layer for layer in layers}
    found = Survey(sites=site)
    last: list[Tensor | None] = [None]

    def take(name: str, value: Tensor, output: Tensor) -> None:
        form, seen = site[name].form, found.places
        if name not in seen:
            if last[0] is value and found.stages:
                found.stages[-1].append(name)
            else:
                found.stages.append([name])
        last[0] = value
        before, after = seen.get(name, (0, 0))
        seen[name] = (before + _taken_in(form, value, output), after + positions(form, output))
        found.counts[-1][name] = found.counts[-1].get(name, 0) + 1
        if name in measured:
            moments = found.moments.setdefault(name, Moments())
            for part, put_out in in_parts(form, value, output):
                moments.add(input_rows(form, part, put_out) if _by_inputs(site[name]) else output_rows(form, put_out))

    for run in runs:
        found.counts.append({})
        watch(run, model, {name: layer.module for name, layer in site.items()}, take)
        last[0] = None
    return found


def by_outputs(site: Site, moments: Moments) -> CutLayer:
    """Return a layer with the cuts that are nearest to what it computes.

    Args:
        site: the layer.
        moments: the moments that `survey` measured.

    Returns:
        The layer.

    Raises:
        ValueError: if the layer put out numbers that are not finite.
    """
    if not moments.is_finite():
        raise ValueError(f"the outputs of layer {site.name!r} on the data are not finite; repair the data or the model")
    weight = matrices(site.form).detach().double()
    bias = bias_of(site.form, weight)
    make = cut_of_inputs if _by_inputs(site) else cut_of_outputs
    cut: OutputCut = make(weight, bias, moments.mean, moments.covariance)
    return CutLayer(site, cut)


def bias_of(form: Truncatable, weight: Tensor) -> Tensor:
    """Return the bias of a layer in float64, of shape (groups, outputs of a group); zeros if it has none."""
    if form.bias is None:
        return weight.new_zeros(weight.shape[:2])
    return form.bias.detach().double().reshape(weight.shape[:2])


def _by_inputs(site: Site) -> bool:
    """Return whether the moments of a layer's inputs are measured: if a group has fewer inputs than outputs."""
    _, outputs, inputs = site.shape
    return inputs < outputs


def _taken_in(form: Truncatable, value: Tensor, output: Tensor) -> int:
    """Return the number of positions at which the first of two layers multiplies its matrix."""
    if is_conv_transpose(form):
        return value.numel() // max(form.in_channels, 1)
    return positions(form, output)
