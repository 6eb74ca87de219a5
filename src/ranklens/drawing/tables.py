"""Figures of tables: measures of the weights or layers of a network, a bar each, and their spectra."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranklens.drawing.panels import COLOURS, FEW, figure, label, style

# Coordinates that name the rows of a table.
ROWS = ("weight", "layer", "part")
# Prefix of a measure of a random matrix of the same shape, which is drawn beside the measure.
RANDOM = "random_"
# Measures that have a panel of their own, at most, and panels side by side; a note names the other measures.
MOST_PANELS, COLUMNS = 11, 3
# Measures that describe a row and are not drawn: sizes, and places in the network.
DESCRIPTIONS = {"rows", "columns", "matrices", "parameters", "shape", "rank"}
# Rows that are drawn, at most, and characters of a name beside its bar.
MOST_ROWS, CHARACTERS = 60, 24
# Height of a figure in inches: for each row, and at least.
HEIGHT, LEAST_HEIGHT = 0.2, 3.3


def rows_of(table: xr.Dataset) -> str:
    """Return the coordinate that names the rows of a table; "" for a Dataset that is no table."""
    return next((name for name in ROWS if name in table.coords and table[name].ndim == 1), "")


def draw_table(table: xr.Dataset) -> Figure:
    """Return the figure of a table: a bar for every row and measure, and lines for spectra.

    Args:
        table: what `rl.nn.rank_profile`, `rank_difference`, `attention_products`, `compressibility` or `factorable`
            returned, or the `table` of `rl.nn.compress`.

    Raises:
        ValueError: if no variable is a number for each row.
    """
    along = rows_of(table)
    numbers = [
        str(name)
        for name, values in table.data_vars.items()
        if values.dims == (along,) and values.dtype.kind in "if" and not str(name).startswith(RANDOM)
    ]
    measures = [name for name in numbers if name not in DESCRIPTIONS] or numbers
    spectra = [str(name) for name, values in table.data_vars.items() if values.ndim == 2 and values.dims[0] == along]
    if not (measures or spectra):
        raise ValueError(f"no variable of the table is a number for each {along}; it has {', '.join(map(str, table))}")
    shown = measures[:MOST_PANELS]
    rows = table.isel({along: slice(MOST_ROWS)})
    height = max(LEAST_HEIGHT, HEIGHT * rows.sizes[along] + 1.0)
    count = len(shown) + len(spectra)
    made, panels = figure(min(count, COLUMNS), -(-count // COLUMNS), height=height)
    for name, axes in zip([*shown, *spectra], panels, strict=False):
        draw = _draw_spectra if name in spectra else _draw_bars
        draw(axes, rows, along, name)
    for axes in panels[count:]:
        axes.set_visible(False)
    notes = [f"not drawn: {', '.join(measures[MOST_PANELS:])}"] if measures[MOST_PANELS:] else []
    left = table.sizes[along] - rows.sizes[along]
    notes += [f"{left} more rows are not drawn"] if left else []
    if notes:
        made.suptitle("; ".join(notes), fontsize=8)
    return made


def _draw_bars(axes: Axes, table: xr.Dataset, along: str, name: str) -> None:
    """Draw one measure as a bar for each row, first row on top, and that of a random matrix as a diamond."""
    places = np.arange(table.sizes[along])[::-1]
    axes.barh(places, table[name].values.astype(float), 0.7, color=COLOURS[0], label=along)
    if RANDOM + name in table:
        axes.plot(table[RANDOM + name], places, "D", color="#000000", markersize=4, label="random matrix")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)  # below, not over the bars
    axes.set_yticks(places, [str(row)[-CHARACTERS:] for row in table[along].values], fontsize=7)
    label(axes, name.replace("_", " "), name.replace("_", " "), "")


def _draw_spectra(axes: Axes, table: xr.Dataset, along: str, name: str) -> None:
    """Draw a vector of each of the first rows, such as its singular values, divided by its largest entry."""
    for k in range(min(FEW, table.sizes[along])):
        values = table[name].isel({along: k}).values.astype(float)
        values = values[np.isfinite(values)]
        if len(values) and values.max() > 0:
            axes.plot(
                np.arange(1, len(values) + 1), values / values.max(), label=str(table[along].values[k]), **style(k)
            )
    if axes.lines:
        axes.set_yscale("log")
        axes.legend(fontsize=7)
    label(axes, name.replace("_", " "), "number, in descending order", f"{name} / largest")
