"""How low the rank of every weight is, beside a random matrix of its shape."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import drawing, files, seeds
from ranklens.nn.composed import COMPOSED, PLAIN, ComposedMultiheadAttention, Composition
from ranklens.tensors import measures

ENERGY = 0.99  # of the squared norm, for the rank that a weight could be compressed to


def rank_profile(model: nn.Module | Mapping[str, Tensor], *, energy: float = ENERGY, seed: int = 0) -> xr.Dataset:
    """Rank measures of every weight matrix of a model or state dict, with those of a random one as the control.

    A kernel is seen as a matrix, its first axis against all others. A Gaussian matrix of the same shape says what its
    shape alone makes of each measure: a wide matrix has nearly equal singular values, so that only what is well below
    the control is low rank.

    Args:
        model: a module, whose composed weights count as one each, or names and tensors.
        energy: share of the squared norm that `rank_kept` components hold at the least.
        seed: of the controls.

    Returns:
        A Dataset over `weight`, with rows, columns, effective_rank, stable_rank, numerical_rank, rank_kept, parameters,
        parameters_kept (of the cheaper of dense and two factors), and `random_effective_rank`,
        `random_stable_rank` and `random_rank_kept`; `spectrum` over `value` has the singular values, ending in NaN.

    Raises:
        ValueError: for an energy outside (0, 1], no matrix at all, or weights that are not finite.

    Source: Roy and Vetterli (EUSIPCO 2007) for the effective rank.

    >>> import torch, ranklens as rl
    >>> low = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    >>> found = rl.nn.rank_profile({"low": low, "bias": torch.ones(8)})
    >>> [round(float(found[name][0]), 1) for name in ("effective_rank", "numerical_rank", "random_effective_rank")]
    [1.0, 1.0, 5.0]
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy is {energy}; it is a share of the squared norm, above 0 and at most 1")
    weights = dict(weight_matrices(model) if isinstance(model, nn.Module) else _matrices(model))
    if not weights:
        raise ValueError("there is no weight with two axes or more; pass a model or its state dict")
    made = seeds.stream(seed, "random matrices")
    rows = []
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"weight {name!r} has entries that are not finite")
        s = torch.linalg.svdvals(weight.double())
        control = torch.linalg.svdvals(torch.randn(weight.shape, generator=made, dtype=torch.float64))
        rows.append((weight, s, control))
    longest = max(len(s) for _, s, _ in rows)
    spectra = np.stack([np.pad(s.numpy(), (0, longest - len(s)), constant_values=np.nan) for _, s, _ in rows])
    columns = {name: np.array(values) for name, values in _columns(rows, energy).items()}
    return xr.Dataset(
        {**{name: ("weight", values) for name, values in columns.items()}, "spectrum": (("weight", "value"), spectra)},
        coords={"weight": list(weights)},
        attrs={"energy": energy},
    )


def _columns(rows: list[tuple[Tensor, Tensor, Tensor]], energy: float) -> dict[str, list[Any]]:
    kept = [least_rank(s, energy) for _, s, _ in rows]
    dense = [weight.numel() for weight, _, _ in rows]
    return {
        "rows": [len(weight) for weight, _, _ in rows],
        "columns": [weight.shape[1] for weight, _, _ in rows],
        "effective_rank": [float(measures.effective_rank_of(s)) for _, s, _ in rows],
        "stable_rank": [float(measures.stable_rank_of(s)) for _, s, _ in rows],
        "numerical_rank": [int((s > measures.rank_cutoff(w.dtype, w.shape) * s[0]).sum()) for w, s, _ in rows],
        "rank_kept": kept,
        "parameters": dense,
        "parameters_kept": [min(d, k * sum(w.shape)) for d, k, (w, _, _) in zip(dense, kept, rows, strict=True)],
        "random_effective_rank": [float(measures.effective_rank_of(c)) for _, _, c in rows],
        "random_stable_rank": [float(measures.stable_rank_of(c)) for _, _, c in rows],
        "random_rank_kept": [least_rank(c, energy) for _, _, c in rows],
    }


def least_rank(spectrum: Tensor, energy: float) -> int:
    """The least number of singular values that hold a share of the squared norm, but for 1e-12; 0 for those of zero."""
    return least_without(spectrum, 1 - energy + 1e-12)


def least_without(spectrum: Tensor, share: float) -> int:
    """The least number that leave at most a share of the squared norm; 0 for singular values of zero."""
    squares = spectrum.double().square()
    left = squares.flip(0).cumsum(0).flip(0)  # what the k-th and all smaller ones hold
    return int((left > share * left[0]).sum())


def weight_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a module as matrices, each read when its turn comes; what is composed as a whole."""
    inner = {id(p) for m in model.modules() if isinstance(m, Composition) for p in m.parameters()}
    held: list[tuple[str, Any, str]] = [(name, p, "data") for name, p in model.named_parameters() if id(p) not in inner]
    for name, module in model.named_modules():
        if type(module) in PLAIN and type(module) not in COMPOSED:
            held.append((f"{name}.weight".lstrip("."), module, "weight"))
        elif type(module) is ComposedMultiheadAttention:
            held.append((f"{name}.in_proj_weight".lstrip("."), module, "in_proj_weight"))
    for name, owner, attribute in held:
        with torch.no_grad():
            tensor = getattr(owner, attribute)
        yield from _matrices({name: tensor})


def _matrices(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Those with two axes or more, as matrices on the CPU in their own precision; integers and empty ones are none."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel():
            yield str(name), tensor.detach().cpu().flatten(1)


def text(profile: xr.Dataset) -> str:
    """A profile as a table for a terminal: rank measures with the random control in brackets."""
    lines = [
        ["weight", "shape", "effective rank", "stable rank", "rank", f"rank at {profile.energy:.4g}", "parameters kept"]
    ]
    for name in profile.weight.values:
        row = profile.sel(weight=name)
        share = float(row.parameters_kept / row.parameters)
        lines.append(
            [
                str(name),
                f"{int(row['rows'])} x {int(row['columns'])}",
                f"{float(row.effective_rank):.1f} ({float(row.random_effective_rank):.1f})",
                f"{float(row.stable_rank):.1f} ({float(row.random_stable_rank):.1f})",
                f"{int(row.numerical_rank)}",
                f"{int(row.rank_kept)} ({int(row.random_rank_kept)})",
                f"{share:.0%}",
            ]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    table = ["  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", "in brackets: a random matrix of that shape"])


def picture(profile: xr.Dataset) -> Figure:
    """Effective ranks of all weights against those of random matrices, and spectra of the largest weights."""
    count = profile.sizes["weight"]
    made, (ranks, spectra) = drawing.figure(2, width=5.2, height=max(3.3, min(0.22 * count, 20.0)))
    places = np.arange(count)[::-1]
    most = np.minimum(profile["rows"], profile["columns"])
    ranks.barh(places, profile.effective_rank / most, 0.7, color=drawing.COLOURS[0], label="weight")
    ranks.plot(profile.random_effective_rank / most, places, "D", color="#000000", markersize=4, label="random matrix")
    ranks.set_yticks(places, [str(name)[-40:] for name in profile.weight.values], fontsize=7)
    ranks.set_xlim(0, 1)
    ranks.legend(fontsize=8, loc="lower right")
    drawing.label(ranks, "How low the rank is", "effective rank / the most it can be", "")
    for k, place in enumerate(np.argsort(-profile.parameters.values, kind="stable")[: drawing.FEW]):
        row = profile.isel(weight=int(place))
        values = row.spectrum.values[: int(most[int(place)])]
        share = np.arange(1, len(values) + 1) / len(values)
        spectra.plot(share, values / (values[0] or 1.0), label=str(row.weight.values)[-30:], **drawing.style(k))
    spectra.set_yscale("log")
    drawing.label(spectra, "Spectra of the largest weights", "share of singular values", "singular value / largest")
    spectra.legend(fontsize=7)
    return made


def write(profile: xr.Dataset, path: Path) -> Path:
    """A profile as .csv or .json (without the spectra), whole as a record, .nc, or as a picture, .png or .svg."""
    if path.suffix not in (".csv", ".json", ".nc", ".png", ".svg"):
        raise ValueError(f"{path} is not a .csv, .json, .nc, .png or .svg file")
    if path.suffix in (".png", ".svg"):
        with files.atomic(path) as beside:
            picture(profile).savefig(beside, format=path.suffix[1:], dpi=150)
        return path
    if path.suffix == ".nc":
        return files.save(profile, path)
    frame = profile.drop_vars("spectrum").to_dataframe()
    with files.atomic(path) as beside:
        if path.suffix == ".csv":
            frame.to_csv(beside)
        else:
            frame.reset_index().to_json(beside, orient="records", indent=2)
    return path
