"""Presentation of a rank profile: as text, as a figure, and in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ranklens.files import stored, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
# Names of tensors that were not measured for one reason of which the text lists no more than this.
SKIPPED_SHOWN = 3


def text(profile: xr.Dataset) -> str:
    """Return a rank profile as a table in plain text, one line per weight, and what was not measured.

    Args:
        profile: a Dataset returned by `rank_profile`, `attention_products` or `rank_difference`.

    Returns:
        A table with the rank measures of every weight, as one string with line breaks. A number in parentheses after
        a measure is the value of this measure for a random matrix of the weight's shape.
    """
    lines = _lines_of_changes(profile) if "change" in profile else _lines(profile)
    notes = ["in parentheses: a random matrix of that shape"]
    if bool((profile.matrices > 1).any()):
        notes.append("a tensor of several matrices: the medians of their measures, and then each of them")
    return "\n".join([columns(lines), "", *notes, *not_measured(profile.skipped)])


def _lines(profile: xr.Dataset) -> list[list[str]]:
    """Return the entries of a table of ranks, line by line."""
    head = ["weight", "shape", "effective rank", "stable rank", "rank", _kept(profile), "parameters kept"]
    return [head] + [
        [
            name,
            _shape(row),
            f"{row['effective_rank']:.1f} ({row['random_effective_rank']:.1f})",
            f"{row['stable_rank']:.1f} ({row['random_stable_rank']:.1f})",
            f"{row['numerical_rank']:.0f}",
            f"{row['rank_kept']:.0f} ({row['random_rank_kept']:.0f})",
            f"{row['parameters_kept'] / row['parameters']:.0%}",
        ]
        for name, row in rows_by_name(profile)
    ]


def _lines_of_changes(profile: xr.Dataset) -> list[list[str]]:
    """Return the entries of a table of changes, line by line."""
    head = ["weight", "shape", "change", "rank", _kept(profile), "effective rank", "largest angle", "intruders"]
    return [head] + [
        [
            name,
            _shape(row),
            f"{row['change']:.1%}",
            f"{row['numerical_rank']:.0f}",
            f"{row['rank_kept']:.0f} ({row['random_rank_kept']:.0f})",
            f"{row['effective_rank']:.1f} ({row['random_effective_rank']:.1f})",
            f"{row['largest_angle']:.0f} degrees" if row["compared"] else "-",
            f"{row['intruders']:.0f} of {row['compared']:.0f}",
        ]
        for name, row in rows_by_name(profile)
    ]


def _kept(profile: xr.Dataset) -> str:
    """Return the head of the column of ranks that hold the energy of a profile."""
    return f"rank at {profile.energy:.4g}"


def _shape(row: Mapping[str, float]) -> str:
    """Return the shape of a weight, with the number of matrices if the row is of several."""
    several = f"{row['matrices']:.0f} of " if row["matrices"] > 1 else ""
    return f"{several}{row['rows']:.0f} x {row['columns']:.0f}"


def rows_by_name(table: xr.Dataset) -> list[tuple[str, dict[str, float]]]:
    """Return the rows of a table over `weight`.

    Args:
        table: a Dataset whose variables over `weight` alone are numbers.

    Returns:
        For every weight its name, without characters that a terminal obeys, and its numbers by name of the variable.
    """
    values = {name: x.values for name, x in table.data_vars.items() if x.dims == ("weight",)}
    return [
        (printable(name), {str(key): float(column[k]) for key, column in values.items()})
        for k, name in enumerate(table.weight.values)
    ]


def columns(lines: Sequence[Sequence[str]]) -> str:
    r"""Return lines of a table as text, with every column as wide as its longest entry.

    Args:
        lines: the entries of every line, as many in each.

    >>> columns([["weight", "rank"], ["a", "12"]])
    'weight  rank\na       12'
    """
    widths = [max(map(len, entries)) for entries in zip(*lines, strict=True)]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def not_measured(skipped: Mapping[str, str]) -> list[str]:
    """Return one line for every reason why tensors were not measured, with their names or their number.

    Args:
        skipped: {name of a tensor: reason}.

    >>> not_measured({"a": "has fewer than two axes", "b": "has fewer than two axes"})
    ['not measured: has fewer than two axes: a, b']
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(printable(name))
    return [
        f"not measured: {printable(reason)}: {', '.join(names[:SKIPPED_SHOWN])}"
        + (f" and {len(names) - SKIPPED_SHOWN} more" if len(names) > SKIPPED_SHOWN else "")
        for reason, names in by_reason.items()
    ]


def printable(text: object) -> str:
    r"""Return a text in which characters that a terminal obeys, such as escape codes, are written out.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in str(text))


def picture(profile: xr.Dataset) -> "Figure":
    """Return a figure of a rank profile.

    The left panel shows the effective rank of every weight, divided by the largest that its shape allows, and the same
    ratio for a random matrix of its shape. The right panel shows the singular values of the weights with most entries.

    Args:
        profile: a Dataset returned by `rank_profile`.

    Returns:
        A matplotlib figure that is not connected to any window.
    """
    from ranklens import drawing

    count = profile.sizes["weight"]
    height = max(LEAST_HEIGHT, min(HEIGHT_PER_WEIGHT * count, MOST_HEIGHT))
    figure, (ranks, spectra) = drawing.figure(2, width=5.2, height=height)
    places = np.arange(count)[::-1]
    largest = np.minimum(profile["rows"], profile["columns"])
    relative, random = profile.effective_rank / largest, profile.random_effective_rank / largest
    ranks.barh(places, relative, 0.7, color=drawing.COLOURS[0], label="weight")
    ranks.plot(random, places, "D", color="#000000", markersize=4, label="random matrix")
    ranks.set_yticks(places, [printable(name)[-AXIS_CHARACTERS:] for name in profile.weight.values], fontsize=7)
    ranks.set_xlim(0, 1)
    ranks.legend(fontsize=8, loc="lower right")
    drawing.label(ranks, "Effective rank of every weight", "effective rank / largest possible rank", "")
    for k, place in enumerate(np.argsort(-profile.parameters.values, kind="stable")[: drawing.FEW]):
        row = profile.isel(weight=int(place))
        values = row.spectrum.values[: int(largest[int(place)])]
        share = np.arange(1, len(values) + 1) / len(values)
        name = printable(row.weight.values)[-LEGEND_CHARACTERS:]
        spectra.plot(share, values / (values[0] or 1.0), label=name, **drawing.style(k))
    spectra.set_yscale("log")
    drawing.label(
        spectra, "Singular values of the largest weights", "share of singular values", "singular value / largest"
    )
    spectra.legend(fontsize=7)
    return figure


def check_path(path: Path, *, is_profile: bool = True) -> None:
    """Refuse a file to which a table cannot be written, before it is computed.

    Args:
        path: the file.
        is_profile: whether the table is a rank profile, of which there is a figure too.

    Raises:
        ValueError: for a suffix that sets no format.
    """
    suffixes = SUFFIXES if is_profile else tuple(suffix for suffix in SUFFIXES if suffix not in IMAGES)
    if path.suffix not in suffixes:
        *others, last = suffixes
        raise ValueError(f"{path} is not a {', '.join(others)} or {last} file; give a path with one of these suffixes")


def write(profile: xr.Dataset, path: Path) -> Path:
    """Write a rank profile to a file whose suffix sets the format.

    Args:
        profile: a Dataset returned by `rank_profile`, `attention_products` or `rank_difference`.
        path: a .csv or .json file (all measures without the singular values), a .nc file (the whole Dataset), or a .png
            or .svg file (the figure, of profiles alone). An existing file is replaced.

    Returns:
        The path.

    Raises:
        ValueError: for any other suffix.
    """
    check_path(path, is_profile="change" not in profile)
    if path.suffix == ".nc":
        return stored.save(profile, path)
    with writing.atomic(path) as beside:
        if path.suffix in IMAGES:
            picture(profile).savefig(beside, format=path.suffix[1:], dpi=DPI)
        elif path.suffix == ".csv":
            profile.drop_vars("spectrum").to_dataframe().to_csv(beside)
        else:
            profile.drop_vars("spectrum").to_dataframe().reset_index().to_json(beside, orient="records", indent=2)
    return path
