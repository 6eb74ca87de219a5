"""Presentation of a rank profile: as text, as a figure, and in files."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, files

IMAGES = (".png", ".svg")
SUFFIXES = (".csv", ".json", ".nc", *IMAGES)
# Resolution of a .png file, in dots per inch.
DPI = 150
# Height of the figure per weight, in inches: room for one bar and its name.
HEIGHT_PER_WEIGHT = 0.22
# Least and largest height of the figure, in inches.
LEAST_HEIGHT, MOST_HEIGHT = 3.3, 20.0
# Number of characters that are shown of a weight's name, from its end: beside its bar and in the legend.
AXIS_CHARACTERS, LEGEND_CHARACTERS = 40, 30


def text(profile: xr.Dataset) -> str:
    """Return a rank profile as a table in plain text, one line per weight.

    Args:
        profile: a Dataset returned by `rank_profile`.

    Returns:
        A table with the rank measures of every weight, as one string with line breaks. A number in parentheses after
        a measure is the value of this measure for a random matrix of the weight's shape.
    """
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
    return "\n".join([*table, "", "in parentheses: a random matrix of that shape"])


def picture(profile: xr.Dataset) -> Figure:
    """Return a figure of a rank profile.

    The left panel shows the effective rank of every weight, divided by the largest that its shape allows, and the same
    ratio for a random matrix of its shape. The right panel shows the singular values of the weights with most entries.

    Args:
        profile: a Dataset returned by `rank_profile`.

    Returns:
        A matplotlib figure that is not connected to any window.
    """
    count = profile.sizes["weight"]
    height = max(LEAST_HEIGHT, min(HEIGHT_PER_WEIGHT * count, MOST_HEIGHT))
    figure, (ranks, spectra) = drawing.figure(2, width=5.2, height=height)
    places = np.arange(count)[::-1]
    largest = np.minimum(profile["rows"], profile["columns"])
    relative, random = profile.effective_rank / largest, profile.random_effective_rank / largest
    ranks.barh(places, relative, 0.7, color=drawing.COLOURS[0], label="weight")
    ranks.plot(random, places, "D", color="#000000", markersize=4, label="random matrix")
    ranks.set_yticks(places, [str(name)[-AXIS_CHARACTERS:] for name in profile.weight.values], fontsize=7)
    ranks.set_xlim(0, 1)
    ranks.legend(fontsize=8, loc="lower right")
    drawing.label(ranks, "Effective rank of every weight", "effective rank / largest possible rank", "")
    for k, place in enumerate(np.argsort(-profile.parameters.values, kind="stable")[: drawing.FEW]):
        row = profile.isel(weight=int(place))
        values = row.spectrum.values[: int(largest[int(place)])]
        share = np.arange(1, len(values) + 1) / len(values)
        name = str(row.weight.values)[-LEGEND_CHARACTERS:]
        spectra.plot(share, values / (values[0] or 1.0), label=name, **drawing.style(k))
    spectra.set_yscale("log")
    drawing.label(
        spectra, "Singular values of the largest weights", "share of singular values", "singular value / largest"
    )
    spectra.legend(fontsize=7)
    return figure


def write(profile: xr.Dataset, path: Path) -> Path:
    """Write a rank profile to a file whose suffix sets the format.

    Args:
        profile: a Dataset returned by `rank_profile`.
        path: a .csv or .json file (all measures without the singular values), a .nc file (the whole Dataset), or a .png
            or .svg file (the figure). An existing file is replaced.

    Returns:
        The path.

    Raises:
        ValueError: for any other suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not a .csv, .json, .nc, .png or .svg file; give a path with one of these suffixes")
    if path.suffix == ".nc":
        return files.save(profile, path)
    with files.atomic(path) as beside:
        if path.suffix in IMAGES:
            picture(profile).savefig(beside, format=path.suffix[1:], dpi=DPI)
        elif path.suffix == ".csv":
            profile.drop_vars("spectrum").to_dataframe().to_csv(beside)
        else:
            profile.drop_vars("spectrum").to_dataframe().reset_index().to_json(beside, orient="records", indent=2)
    return path
