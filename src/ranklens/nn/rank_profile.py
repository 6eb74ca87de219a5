"""Rank measures of every weight of a model, beside those of random matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens import seeds
from ranklens.nn.composed import COMPOSED, PLAIN, ComposedMultiheadAttention, Composition
from ranklens.tensors import measures

# Default share of a weight's squared Frobenius norm that `rank_kept` components must hold.
ENERGY = 0.99
# Share of the squared norm by which `least_rank` may miss an energy. It absorbs rounding errors of the sum of squares,
# so that an energy of 1 does not keep singular values that are zero up to rounding.
ENERGY_SLACK = 1e-12


@dataclass(frozen=True)
class _Spectra:
    """A weight as a matrix, its singular values, and those of a Gaussian random matrix of its shape."""

    matrix: Tensor
    singular: Tensor
    random: Tensor


def rank_profile(model: nn.Module | Mapping[str, Tensor], *, energy: float = ENERGY, seed: int = 0) -> xr.Dataset:
    """Return rank measures of every weight matrix of a model, beside those of a random matrix of the same shape.

    A weight with more than two axes is measured as the matrix of its first axis by all other axes. The random matrix
    has independent Gaussian entries. It is the baseline: it shows which values the shape alone leads to, so only
    measures well below its own indicate low rank.

    Args:
        model: a module, or a mapping of names to tensors such as a state dict. A factored weight of a module counts as
            one weight, computed from its factors. Tensors with fewer than two axes, without entries, or with integer
            entries are not measured and have no row in the result.
        energy: share of the squared Frobenius norm that the `rank_kept` largest components must hold.
        seed: seed of the random matrices.

    Returns:
        A Dataset over `weight`, by name, with these variables: rows, columns, effective_rank, stable_rank,
        numerical_rank (the number of singular values above max(rows, columns) eps times the largest one, where eps is
        the rounding error of the weight's dtype), rank_kept (the least rank that holds the energy), parameters
        (entries of the weight), parameters_kept (the smaller of parameters and the number of entries in two factors
        of rank rank_kept), random_effective_rank, random_stable_rank and random_rank_kept (the measures of the random
        matrix), and `spectrum` over (weight, value), the singular values in descending order, followed by NaN in rows
        that have fewer than the longest. All ranks of a zero weight are 0.

    Raises:
        ValueError: if the energy is not in (0, 1], there is no weight matrix, or a weight has entries that are not
            finite.
        TypeError: if the model is neither a module nor a mapping.

    Source: Roy and Vetterli (EUSIPCO 2007) for the effective rank.

    >>> import torch, ranklens as rl
    >>> low = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    >>> found = rl.nn.rank_profile({"low": low, "bias": torch.ones(8)})
    >>> [round(float(found[name][0]), 1) for name in ("effective_rank", "numerical_rank", "random_effective_rank")]
    [1.0, 1.0, 5.0]
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy is {energy}; it is a share of the squared norm, above 0 and at most 1")
    if not isinstance(model, nn.Module | Mapping):
        raise TypeError(
            f"model is of type {type(model).__name__}; give a module, or a mapping of names to tensors, such as a "
            f"state dict, {{'weight': tensor}} or rl.nn.load_weights(path)"
        )
    weights = dict(weight_matrices(model) if isinstance(model, nn.Module) else _matrices(model))
    if not weights:
        raise ValueError("there is no weight with two axes or more; pass a model or its state dict")
    generator = seeds.stream(seed, "random matrices")
    rows = []
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"weight {name!r} has entries that are not finite; leave it out or repair it")
        singular = torch.linalg.svdvals(weight.double())
        gaussian = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        rows.append(_Spectra(weight, singular, torch.linalg.svdvals(gaussian)))
    longest = max(len(row.singular) for row in rows)
    padded = [np.pad(r.singular.numpy(), (0, longest - len(r.singular)), constant_values=np.nan) for r in rows]
    columns = {name: ("weight", np.array(values)) for name, values in _columns(rows, energy).items()}
    return xr.Dataset(
        {**columns, "spectrum": (("weight", "value"), np.stack(padded))},
        coords={"weight": list(weights)},
        attrs={"energy": energy},
    )


def _columns(rows: list[_Spectra], energy: float) -> dict[str, list[int] | list[float]]:
    """Return the values of every variable over `weight`, by the variable's name."""
    kept = [least_rank(row.singular, energy) for row in rows]
    parameters = [row.matrix.numel() for row in rows]
    cutoffs = [measures.rank_cutoff(row.matrix.dtype, row.matrix.shape) * row.singular[0] for row in rows]
    return {
        "rows": [len(row.matrix) for row in rows],
        "columns": [row.matrix.shape[1] for row in rows],
        "effective_rank": [float(measures.effective_rank_of(row.singular)) for row in rows],
        "stable_rank": [float(measures.stable_rank_of(row.singular)) for row in rows],
        "numerical_rank": [int((row.singular > cutoff).sum()) for row, cutoff in zip(rows, cutoffs, strict=True)],
        "rank_kept": kept,
        "parameters": parameters,
        "parameters_kept": [
            min(dense, rank * sum(row.matrix.shape)) for dense, rank, row in zip(parameters, kept, rows, strict=True)
        ],
        "random_effective_rank": [float(measures.effective_rank_of(row.random)) for row in rows],
        "random_stable_rank": [float(measures.stable_rank_of(row.random)) for row in rows],
        "random_rank_kept": [least_rank(row.random, energy) for row in rows],
    }


def least_rank(spectrum: Tensor, energy: float) -> int:
    """Return the least number of singular values whose squares add up to a share of all squares.

    Args:
        spectrum: singular values in descending order, of shape (values,).
        energy: the share, between 0 and 1; the result may miss it by `ENERGY_SLACK`.

    Returns:
        The number of singular values; 0 if all are zero.
    """
    return least_without(spectrum, 1 - energy + ENERGY_SLACK)


def least_without(spectrum: Tensor, share: float) -> int:
    """Return the least number of singular values such that all others hold at most a share of the squares.

    Args:
        spectrum: singular values in descending order, of shape (values,).
        share: the share of the sum of all squares that the singular values not counted may hold, between 0 and 1.

    Returns:
        The number of singular values to keep; 0 if all are zero.
    """
    squares = spectrum.double().square()
    tails = squares.flip(0).cumsum(0).flip(0)  # entry k is the sum of squares from the k-th singular value on
    return int((tails > share * tails[0]).sum())


def weight_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a module as matrices on the CPU.

    Every weight is read when it is yielded, not before. A factored weight comes once, computed from its factors, and
    its factors do not come.

    Args:
        model: a module.

    Yields:
        Pairs (name of the parameter, matrix of its first axis by all others). Parameters with fewer than two axes,
        without entries, or with integer entries are skipped.
    """
    factors = {id(p) for m in model.modules() if isinstance(m, Composition) for p in m.parameters()}
    plain = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in factors]
    for name, parameter in plain:
        yield from _matrices({name: parameter})
    for name, module in model.named_modules():
        attribute = "in_proj_weight" if type(module) is ComposedMultiheadAttention else "weight"
        if attribute == "in_proj_weight" or (type(module) in PLAIN and type(module) not in COMPOSED):
            with torch.no_grad():
                weight = getattr(module, attribute)
            yield from _matrices({f"{name}.{attribute}".lstrip("."): weight})


def _matrices(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point tensors with two axes or more as matrices on the CPU, in their own dtype."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel():
            yield str(name), tensor.detach().cpu().flatten(1)
