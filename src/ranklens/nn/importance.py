"""How much each layer of a model matters for its output."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ranklens.nn.calibration import Run, Runs, output_of
from ranklens.nn.decomposition import CutLayer
from ranklens.nn.low_rank import LowRank, low_rank
from ranklens.nn.model_state import replaced

# Share of a layer's variance that is cut to measure its importance: large enough to stand out from rounding in single
# precision, small enough to leave the layers behind it in their usual range.
PROBE = 0.05


def importances(
    model: nn.Module, layers: Sequence[CutLayer], runs: Runs, *, optional: bool = False
) -> list[float] | None:
    """Return for each layer the relative error of the model's output, divided by that of the layer's own output.

    One layer at a time is cut to the least rank that leaves at most `PROBE` of its variance. The errors are not
    squared, although they weigh squared errors: the effect of a large cut grows less than in proportion, and with the
    squared ratio a budget would cut layers of small effect away altogether.

    Args:
        model: the plain model, in evaluation mode. Its layers are replaced for a while and put back.
        layers: its layers that can be cut.
        runs: the data.
        optional: whether to return None if the outputs of the model cannot be compared.

    Returns:
        The weights of the layers' errors.

    Raises:
        TypeError: if the outputs of the model are no tensors, unless the weights are optional.

    >>> import torch
    >>> from ranklens.nn.calibration import evaluating
    >>> from ranklens.nn.decomposition import by_weight, sites
    >>> with torch.random.fork_rng():
    ...     model = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Linear(9, 9)).double()
    >>> with evaluating(model):
    ...     weights = importances(model, [by_weight(site) for site in sites(model)[0]], Runs(torch.ones(1, 9).double()))
    >>> len(weights), min(weights) > 0
    (2, True)
    """
    probes = [_probe(layer) for layer in layers]
    size, errors = 0.0, [0.0] * len(layers)
    for run in runs:
        try:
            expected = output_of(run(model)).detach().clone()
        except TypeError:
            if optional:
                return None
            raise
        size += float(expected.double().square().sum())
        for k, (layer, (_, pair)) in enumerate(zip(layers, probes, strict=True)):
            errors[k] += _error_with(model, layer, pair, run, expected)
    return [
        math.sqrt(error / size / own) if own > 0 and size > 0 else 1.0
        for error, (own, _) in zip(errors, probes, strict=True)
    ]


def _probe(layer: CutLayer) -> tuple[float, LowRank]:
    """Return the relative squared error of a layer that is cut a little, and the two layers in its place."""
    errors = layer.errors()
    rank = max(int((errors > PROBE).sum()), 1)
    first, last, bias = layer.cut.factors(rank)
    return float(errors[rank]), low_rank(layer.site.form, first, last, bias, layer.site.module).eval()


def _error_with(model: nn.Module, layer: CutLayer, pair: LowRank, run: Run, expected: Tensor) -> float:
    """Return the squared error of a model's output with two layers in the place of one."""
    small = model
    try:
        for name in layer.site.names:
            small = replaced(small, name, pair)
        return float((output_of(run(small)) - expected).double().square().sum())
    finally:
        for name in layer.site.names if small is model else ():
            replaced(model, name, layer.site.module)
