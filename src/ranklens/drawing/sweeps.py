"""Figures of sweeps: medians and bands over seeds along the runs, and end values against settings or as heat maps."""

import textwrap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens.drawing.panels import COLOURS, FEW, axis_name, figure, label, scale

Floats = NDArray[np.float64]
# Name of the setting over which medians and quantiles are taken.
SEED = "seed"
# Quantiles at the lower and upper border of a band.
BAND = (0.1, 0.9)
# Number of positions at which a band is computed.
POSITIONS = 300
# Ratio of the latest to the earliest end of lines from which on time has a logarithmic scale.
SPREAD = 20.0
# Characters of a line above the panels.
NOTE = 60
# Ratio of the largest to the smallest value from which on a quantity, or a setting, gets a logarithmic scale.
DECADES = 100.0


@dataclass(frozen=True)
class _Layout:
    """How a sweep is drawn.

    Attributes:
        settings: the swept settings that are left, without the seed.
        axis: "time" or "step", or the empty string where the runs have neither.
        rows: the dimension of the rows of a run, or the empty string.
    """

    settings: tuple[str, ...]
    axis: str
    rows: str


def draw_sweep(data: xr.Dataset, *, ends: bool = False) -> Figure:
    """Return the figure of a sweep; `rl.plot` describes it.

    Args:
        data: what `rl.sweep` returned, or a selection of it.
        ends: draw only the last values of the runs.

    Raises:
        ValueError: for more than two settings beside the seed, runs that fill no grid, or nothing that can be drawn.
    """
    layout = _layout(data)
    along = [str(name) for name, values in data.data_vars.items() if layout.rows in values.dims]
    curves = [] if ends or not layout.rows else along
    if curves:
        made, skipped = _draw_curves(data, layout, curves)
    else:
        made, skipped = _draw_ends(data, layout)
    made.suptitle(_note(data, skipped, bands=bool(curves) or len(layout.settings) < 2), fontsize=9)
    return made


def last_values(values: xr.DataArray, rows: str) -> xr.DataArray:
    """Return the last value of every run that is not NaN.

    Args:
        values: a quantity with a dimension of rows.
        rows: the name of that dimension.
    """
    there = values.notnull()
    last = values.sizes[rows] - 1 - there.isel({rows: slice(None, None, -1)}).argmax(rows)
    return values.isel({rows: last}).drop_vars([rows], errors="ignore")


def _layout(data: xr.Dataset) -> _Layout:
    swept = [str(name) for name in data.attrs["swept"]]
    if "run" in data.dims:
        raise ValueError(
            f"the runs fill no grid of their settings {', '.join(swept)}; choose some that do, such as "
            f"data.where(data.{swept[0] if swept else 'setting'} == value, drop=True), and unstack them"
        )
    settings = tuple(name for name in swept if name in data.dims and name != SEED)
    if len(settings) > 2:
        raise ValueError(
            f"the sweep has the settings {', '.join(settings)} beside the seed, and a figure shows two; choose "
            f"a value, such as data.sel({settings[2]}={data[settings[2]].values[0]!r})"
        )
    for axis in ("time", "step"):
        if axis in data.coords:
            rows = [str(dim) for dim in data[axis].dims if dim in (axis, "row")]
            return _Layout(settings, axis, rows[0] if rows else "")
    return _Layout(settings, "", "")


def _note(data: xr.Dataset, skipped: Sequence[str], *, bands: bool) -> str:
    """Return the line above the panels: what lines and bands are, and what the figure leaves out."""
    seeds, early = data.sizes.get(SEED, 1), int(data["early"].sum()) if "early" in data else 0
    low, high = BAND
    width = f", bands from the {low:.0%} to the {high:.0%} quantile" if bands else ""
    parts = [f"median of {seeds} seeds{width}"] if seeds > 1 else []
    if early:
        star = "" if bands else "* "
        parts.append(f"{star}{early} of {data['early'].size} runs stopped before their goal, failed or are missing")
    if skipped:
        parts += textwrap.wrap(f"not drawn: {', '.join(skipped)}", NOTE)
    return "\n".join(parts)


def _draw_curves(data: xr.Dataset, layout: _Layout, names: Sequence[str]) -> tuple[Figure, list[str]]:
    """Return panels of quantities along the runs, and the names of the variables that they leave out."""
    columns = data[layout.settings[1]].values if len(layout.settings) > 1 else [None]
    beside = len(columns) if len(columns) > 1 else min(3, len(names))
    made, panels = figure(beside, -(-len(columns) * len(names) // beside), width=4.0 if beside < 3 else 3.4, height=2.9)
    for axes in panels[len(columns) * len(names) :]:
        axes.remove()
    panels = panels[: len(columns) * len(names)]
    for k, axes in enumerate(panels):
        name, column = names[k // len(columns)], columns[k % len(columns)]
        part = data if column is None else data.isel({layout.settings[1]: k % len(columns)})
        drawn = _draw_panel(axes, part, layout, name)
        title = name if column is None else f"{name}, {_value(data, layout.settings[1], k % len(columns))}"
        label(axes, title, axis_name(layout.axis, data), drawn)
    _share_scales(panels, len(columns))
    _legend(made, panels)
    return made, [str(name) for name in data.data_vars if name not in names]


def _draw_panel(axes: Axes, data: xr.Dataset, layout: _Layout, name: str) -> str:
    """Draw a quantity: a line and a band per value of the first setting, or per component. Return the axis label."""
    values = data[name]
    heights: list[Floats] = []
    ends: list[float] = []
    extra = [dim for dim in values.dims if dim not in (*layout.settings, SEED, layout.rows)]
    by_component = not layout.settings and len(extra) == 1 and values.sizes[extra[0]] > 1
    if extra and not by_component:
        values = ((abs(values.astype(float)) ** 2).sum(extra, skipna=False)) ** 0.5
    along = extra[0] if by_component else layout.settings[0] if layout.settings else None
    parts = [None] if along is None else list(range(values.sizes[along]))
    for k in reversed(parts) if by_component else parts:
        one = values if k is None else values.isel({along: k})
        position = data[layout.axis]
        if k is not None and along in position.dims:
            position = position.isel({along: k})
        x, low, middle, high = _band(*_runs(position, one, layout.rows))
        if not len(x):
            continue
        few = k is None or len(parts) <= FEW or (by_component and k < FEW)
        colour = COLOURS[(k or 0) % FEW] if few else "#999999" if by_component else _shade(k or 0, len(parts))
        whole = len(layout.settings) < 2  # with columns, their titles have the number of early runs
        text = None if along is None else f"{name}[{k}]" if by_component else _value(data, str(along), k or 0, whole)
        shown = None if by_component and not few else text
        axes.plot(x, middle, color=colour, label=shown, linewidth=1.8 if few or not by_component else 0.7)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        heights, ends = [*heights, low, high], [*ends, float(x[-1])]
    everything = np.concatenate(heights) if heights else np.zeros(0)
    scale(axes, name, [data[layout.axis].values[np.isfinite(data[layout.axis].values)]], [everything])
    if ends and max(ends) > SPREAD * min(ends) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(ends) / SPREAD, max(ends) * 1.2)
    positive = everything.size and not by_component and everything.min() > 0
    if positive and everything.max() > DECADES * everything.min():
        axes.set_yscale("log")
    return f"norm of {name}" if extra and not by_component else name


def _runs(position: xr.DataArray, values: xr.DataArray, rows: str) -> tuple[list[Floats], list[Floats]]:
    """Return the positions and the values of every run, without padding and without rows that hold NaN."""
    at, heights = xr.broadcast(position.astype(float), values.astype(float))
    order = [*[dim for dim in heights.dims if dim != rows], rows]
    flat_at = at.transpose(*order).values.reshape(-1, heights.sizes[rows])
    flat = heights.transpose(*order).values.reshape(-1, heights.sizes[rows])
    kept = [np.isfinite(x) & np.isfinite(y) for x, y in zip(flat_at, flat, strict=True)]
    pairs = [(x[keep], y[keep]) for x, y, keep in zip(flat_at, flat, kept, strict=True) if keep.any()]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _band(at: Sequence[Floats], heights: Sequence[Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return positions, and at them the lower quantile, the median and the upper quantile of several runs.

    Between its rows a run is interpolated, and after its end it counts with its last value.

    >>> x, low, middle, high = _band([np.array([0.0, 1.0])] * 3, [np.array([0.0, k]) for k in (1.0, 2.0, 6.0)])
    >>> x.tolist(), middle.tolist()
    ([0.0, 1.0], [0.0, 2.0])
    """
    if not at:
        return (np.zeros(0),) * 4
    every = np.unique(np.concatenate(at))
    if len(every) > POSITIONS:
        every = every[np.unique(np.linspace(0, len(every) - 1, POSITIONS).round().astype(int))]
    values = np.stack([np.interp(every, x, y) for x, y in zip(at, heights, strict=True)])
    low, middle, high = np.quantile(values, [BAND[0], 0.5, BAND[1]], axis=0)
    return every, low, middle, high


def _share_scales(panels: Sequence[Axes], columns: int) -> None:
    """Give the panels of one row one vertical range and scale, so that they can be compared."""
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        limits = [axes.get_ylim() for axes in row]
        logarithmic = any(axes.get_yscale() == "log" for axes in row) and all(low > 0 for low, _ in limits)
        for axes in row if columns > 1 else ():
            axes.set_yscale("log" if logarithmic else "linear")
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _legend(made: Figure, panels: Sequence[Axes]) -> None:
    """Write one legend below all panels, for the lines of the first panel that has several."""
    for axes in panels:
        handles, texts = axes.get_legend_handles_labels()
        if len(texts) > 1:
            pairs = sorted(zip(texts, handles, strict=True), key=lambda pair: pair[0]) if "[" in texts[0] else None
            if pairs is not None:
                texts, handles = [text for text, _ in pairs], [handle for _, handle in pairs]
            columns = min(len(texts), FEW)
            made.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
            return


def _draw_ends(data: xr.Dataset, layout: _Layout) -> tuple[Figure, list[str]]:
    """Return panels of the end values, and the names of the variables that they leave out.

    Raises:
        ValueError: if no variable has one number per run.
    """
    found: dict[str, xr.DataArray] = {}
    for name, values in data.data_vars.items():
        last = last_values(values, layout.rows) if layout.rows and layout.rows in values.dims else values
        if set(last.dims) <= {*layout.settings, SEED} and last.dtype.kind in "iufb":
            found[str(name)] = last.astype(float)
    skipped = [str(name) for name in data.data_vars if name not in found]
    if not found:
        raise ValueError(f"no variable has one number per run; the Dataset has {', '.join(skipped) or 'none'}")
    made, panels = figure(len(found))
    for (name, values), axes in zip(found.items(), panels, strict=True):
        if len(layout.settings) == 2:
            _heat_map(made, axes, values, data, layout.settings)
        else:
            _against(axes, values, layout.settings[0] if layout.settings else SEED)
        first = layout.settings[0] if layout.settings else SEED
        second = layout.settings[1] if len(layout.settings) == 2 else None
        label(axes, f"{name} at the end", second or first, first if second else name)
    return made, skipped


def _against(axes: Axes, values: xr.DataArray, name: str) -> None:
    """Draw end values against one setting: the median with its band, or one point per seed."""
    labels = values[name].values if name in values.dims else np.zeros(1)
    numbers = labels.dtype.kind in "iuf"
    at = labels.astype(float) if numbers else np.arange(len(labels), dtype=float)
    runs = (
        values.transpose(name, ...).values.reshape(len(at), -1) if name in values.dims else values.values.reshape(1, -1)
    )
    there = np.isfinite(runs).any(1)
    low, middle, high = np.nanquantile(runs[there], [BAND[0], 0.5, BAND[1]], axis=1)
    axes.errorbar(
        at[there], middle, [middle - low, high - middle], color=COLOURS[0], marker="o", capsize=3, linewidth=1.5
    )
    if not numbers:
        axes.set_xticks(at, [str(text) for text in labels])
    elif at.min() > 0 and at.max() >= DECADES * at.min():
        axes.set_xscale("log")
    elif len(at) <= FEW:
        axes.set_xticks(at)
    if (low > 0).all() and high.max() > DECADES * low.min():
        axes.set_yscale("log")


def _heat_map(made: Figure, axes: Axes, values: xr.DataArray, data: xr.Dataset, settings: Sequence[str]) -> None:
    """Draw medians over seeds as a heat map with the number in every cell; a star marks cells with early runs."""
    shown = values.median(SEED) if SEED in values.dims else values
    table = shown.transpose(*settings).values
    early = data["early"].max(SEED) if "early" in data and SEED in data["early"].dims else data.get("early")
    stars = np.zeros(table.shape, bool) if early is None else early.transpose(*settings).values.astype(bool)
    positive = table[np.isfinite(table)]
    logarithmic = positive.size and positive.min() > 0 and positive.max() > 10 * positive.min()
    norm = matplotlib.colors.LogNorm() if logarithmic else matplotlib.colors.Normalize()
    mesh = axes.imshow(np.ma.masked_invalid(table), cmap="cividis", norm=norm, aspect="auto")
    axes.grid(False)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            text = f"{value:.3g}{'*' if stars[row, column] else ''}"
            bright = norm(value) > 0.55
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="black" if bright else "white")
    axes.set_xticks(range(table.shape[1]), [_word(value) for value in data[settings[1]].values])
    axes.set_yticks(range(table.shape[0]), [_word(value) for value in data[settings[0]].values])
    made.colorbar(mesh, ax=axes)


def _value(data: xr.Dataset, name: str, k: int, count_early: bool = True) -> str:
    """Return a value of a setting as the name of a line or panel, with the number of its runs that stopped early."""
    early = data["early"].isel({name: k}) if count_early and "early" in data else None
    count = 0 if early is None else int(early.sum())
    text = f"{name}={_word(data[name].values[k])}"
    return text if not count or early is None else f"{text} ({count} of {early.size} early)"


def _word(value: Hashable | np.generic) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _shade(k: int, count: int) -> str:
    """Return the colour of line k of many."""
    return matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](k / max(1, count - 1) * 0.9))
