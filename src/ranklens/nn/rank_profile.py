"""Rank measures of every weight of a model, beside those of random matrices."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import xarray as xr
from torch import nn

from ranklens import progress as reports
from ranklens.nn.adapter import stored_scale
from ranklens.nn.checkpoint import StoredWeights
from ranklens.nn.module_weights import ModuleWeights, adapter_scale
from ranklens.nn.rank_rows import ENERGY, Rows, singular_values
from ranklens.nn.weight_matrices import Skipped, matrices
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

Weights = nn.Module | Mapping[str, object] | str | os.PathLike[str]
Scale = Callable[[str, int], float]


@checked
def rank_profile(
    model: Weights,
    *,
    energy: float = ENERGY,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | reports.Report | None = None,
) -> xr.Dataset:
    """Return rank measures of every weight matrix of a model, beside those of a random matrix of the same shape.

    The random matrix has independent Gaussian entries. It is the baseline: it shows which values the shape alone leads
    to, so only measures well below its own indicate low rank. Its singular values are drawn once per shape.

    If the model is a file, one weight is in memory at a time. Weights of at most 32 bits are measured by the Gram
    matrix of their smaller side where that is exact to a share of 1e-7 of the effective rank, and all others by a
    singular value decomposition; see `ranklens.nn.spectrum.spectrum`.

    Args:
        model: a module; a mapping of names to tensors or numpy arrays, such as a state dict; or the path of a
            checkpoint, as `load_weights` takes it. A weight that is stored in parts counts as one: a factored weight,
            the product B A of a low-rank adapter (times its scale, where its configuration is beside the file), a
            weight under weight normalization, a pruned weight, and the two layers of a layer that `compress` cut, in
            its model or in the file that `Compression.save` wrote. A weight of more than two axes is the matrix of its
            first axis by all others; a tensor of three axes that holds one matrix per expert has one row for each, and
            `ranklens.nn.weight_matrices.matrices` says how it is told from the kernel of a convolution.
        energy: share of the squared Frobenius norm that the `rank_kept` largest components must hold.
        seed: seed of the random matrices.
        device: where singular values are computed, such as "cuda"; None is where the weights are.
        progress: a function that is told which weight is measured; True for a line on the terminal.

    Returns:
        A Dataset over `weight`, by name, with these variables: rows, columns, effective_rank, stable_rank,
        numerical_rank (the number of singular values above max(rows, columns) eps times the largest one, where eps is
        the rounding error of the weight's dtype), rank_kept (the least rank that holds the energy), parameters
        (entries of the weight, or of its two factors), parameters_kept (the smaller of parameters and the number of
        entries in two factors of rank rank_kept), random_effective_rank, random_stable_rank and random_rank_kept (the
        measures of the random matrix), matrices, and `spectrum` over (weight, value), the singular values in descending
        order, followed by NaN in rows that have fewer than the longest. All ranks of a zero weight are 0.
        A tensor of several matrices has a row of its own before theirs, with the medians of their measures and the sums
        of their parameters. There `matrices` is their number; it is 1 in all other rows. The coordinate `part_of` of
        the rows of these matrices is the name of the tensor; it is "" in all other rows. The attribute `skipped` is a
        dictionary of the tensors that were not measured, with the reasons.

    Raises:
        ValueError: if the energy is not in (0, 1], or there is no weight that can be measured.
        TypeError: if the model is none of these.

    Source: Roy and Vetterli (EUSIPCO 2007) for the effective rank.

    >>> import torch, ranklens as rl
    >>> low = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    >>> found = rl.nn.rank_profile({"low": low, "bias": torch.ones(8), "mask": torch.full((3, 3), -torch.inf)})
    >>> [round(float(found[name][0]), 1) for name in ("effective_rank", "numerical_rank", "random_effective_rank")]
    [1.0, 1.0, 5.3]
    >>> found.skipped
    {'bias': 'has fewer than two axes', 'mask': 'has entries that are not finite'}
    """
    if arguments.number("energy", energy) <= 0 or energy > 1:
        raise ValueError(f"energy is {energy}; it is a share of the squared norm, above 0 and at most 1")
    arguments.device("device", device)
    weights, scale = named_weights(model)
    rows = Rows(energy, seed)
    with reports.reporter(progress) as report:
        for place, found in enumerate(matrices(weights, scale), start=1):
            report(f"weight {min(place, len(weights))} of {len(weights)}: {found.name}")
            if isinstance(found, Skipped):
                rows.skip(found.name, found.reason)
            else:
                rows.add(found, singular_values(found, device))
    return rows.dataset()


def named_weights(model: Weights) -> tuple[Mapping[str, object], Scale | None]:
    """Return the weights of a model by name, and the function that gives the scales of its adapters.

    Args:
        model: a module, a mapping of names to tensors, or the path of a checkpoint.

    Returns:
        A mapping that reads or computes a weight when it is looked up, and a function of the name of a layer and the
        rank of its adapter, or None if no scales are known.

    Raises:
        TypeError: if the model is none of these.
    """
    if isinstance(model, nn.Module):
        return ModuleWeights(model), adapter_scale(model)
    if isinstance(model, str | os.PathLike):
        return StoredWeights(model), stored_scale(Path(model))
    if isinstance(model, Mapping):
        return model, None
    raise TypeError(
        f"model is of type {type(model).__name__}; give a module, the path of a checkpoint, or a mapping of names to "
        f"tensors, such as a state dict or {{'weight': tensor}}"
    )
