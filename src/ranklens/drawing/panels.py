"""Figures: the conventions that all of them share.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; each colour also has a line style of
its own. Figures are made without pyplot, so that drawing needs no screen and leaves no global state.
"""

import io
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

Dashes = str | tuple[int, tuple[int, ...]]


class LineStyle(TypedDict):
    """Colour and dashes of a line, as matplotlib takes them."""

    color: str
    linestyle: Dashes


class TheoryStyle(LineStyle):
    """Colour, dashes and width of a line."""

    linewidth: float


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[Dashes, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
# The style of every line that shows a theoretical value or bound.
THEORY: TheoryStyle = {"color": "#000000", "linestyle": (0, (4, 3)), "linewidth": 1.3}
# Settings of matplotlib that hold in every figure. Its own type of them lists all possible keys.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "ranklens",
}
# Coordinates that a record can be drawn along, and the axis label of each.
AXIS_NAMES = {
    "time": "time of the gradient flow",
    "step": "steps of the optimizer",
    "distance": "distance between the patches, in pixels",
    "energy": "share of the squared norm of every weight that is kept",
}
# Share of a line's brightness that a note beside it has, so that small text stands out from white paper.
DARKER = 0.65
# Distance of a note from its place, in points.
GAP = 5.0
# Width of a letter of a note, in inches, roughly.
LETTER = 0.07
# Shares of a panel's width between which a note is centred. Nearer to a side it runs towards the middle.
CENTRED = (0.3, 0.7)
# Number of lines in a panel that get a colour and a name each. Further lines are grey and share one name.
FEW = 7


def figure(columns: int = 1, rows: int = 1, *, width: float = 4.2, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """Return a new figure with a grid of panels, and the panels row by row.

    Args:
        columns: number of panels per row.
        rows: number of rows.
        width: width of a panel in inches.
        height: height of a panel in inches.
    """
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(made)
        axes = np.atleast_1d(made.subplots(rows, columns)).reshape(-1)
    return made, list(axes)


def style(k: int) -> LineStyle:
    """Return the colour and dashes of line k, counted from 0, as arguments of `Axes.plot`. They repeat after `FEW`."""
    return {"color": COLOURS[k % FEW], "linestyle": STYLES[k % FEW]}


def lines(axes: Axes, x: ArrayLike, values: ArrayLike, names: Sequence[str], *, rest: str = "all others") -> None:
    """Draw several lines into one panel, with a legend if there is more than one.

    Args:
        axes: the panel.
        x: (points,) positions that the lines share.
        values: (points, lines) or (points,) heights.
        names: names of the first lines. The first `FEW` lines that have a name get a colour and a style each; all
            other lines are grey.
        rest: the name that all grey lines share.
    """
    at = np.asarray(x)
    columns = np.asarray(values).reshape(len(at), -1)
    marker = "o" if len(at) == 1 else None  # a line of one point shows nothing
    for k in reversed(range(columns.shape[1])):
        if k < min(len(names), FEW):
            axes.plot(at, columns[:, k], label=names[k], zorder=3, marker=marker, **style(k))
        else:
            last = k == columns.shape[1] - 1
            axes.plot(at, columns[:, k], color="#999999", linewidth=0.7, marker=marker, label=rest if last else None)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles[::-1], labels[::-1], fontsize=8)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Write the title of a panel and the names of its two axes."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def note(axes: Axes, text: str, x: float, y: float | str, *, side: Literal["above", "below"] = "above") -> None:
    """Write a few words into a panel that say what to see, after its lines were drawn and its limits were set.

    Args:
        axes: the panel.
        text: the words, at most about thirty characters per line.
        x: place as a share of the panel's width. A note in the left part runs to the right, and one in the right part
            to the left.
        y: place as a share of the panel's height; or the name of a line, beside which the note stands in its colour.
        side: on which side of the place the note stands.

    Raises:
        ValueError: if no line has the name `y`.
    """
    colour, height = "#000000", y
    place: Literal["left", "right", "center"] = "left" if x < CENTRED[0] else "right" if x > CENTRED[1] else "center"
    if isinstance(y, str):
        panel = axes.bbox.width / axes.figure.dpi
        width = LETTER * max(map(len, text.split("\n"))) / panel
        left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[place] * width
        named = {str(line.get_label()): line for line in axes.lines}
        if y not in named:
            raise ValueError(f"the panel has no line {y!r}; its lines are {', '.join(map(repr, named))}")
        red, green, blue = to_rgb(named[y].get_color())
        colour = to_hex((DARKER * red, DARKER * green, DARKER * blue))
        height = _height(axes, named[y], left, left + width, side)
    axes.annotate(
        text,
        (x, float(height)),
        xycoords="axes fraction",
        xytext=(0, GAP if side == "above" else -GAP),
        textcoords="offset points",
        ha=place,
        va="bottom" if side == "above" else "top",
        fontsize=9,
        color=colour,
        bbox={"facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        zorder=5,
    )


def _height(axes: Axes, line: Line2D, left: float, right: float, side: str) -> float:
    """Return the largest or least height of a line between two shares of the panel's width, as a share of its height.

    Args:
        axes: the panel.
        line: the line.
        left: the first share.
        right: the second share.
        side: "above" for the largest height, "below" for the least.
    """
    axes.autoscale_view()
    points = np.stack([np.asarray(values, dtype=float) for values in line.get_data()], axis=-1)
    places = (line.get_transform() - axes.transAxes).transform(points[np.isfinite(points).all(axis=1)])
    places = places[np.isfinite(places).all(axis=1)]
    places = places[np.argsort(places[:, 0], kind="stable")]
    heights = np.interp(np.linspace(left, right, 20), places[:, 0], places[:, 1])
    return float(np.clip(heights.max() if side == "above" else heights.min(), 0.0, 1.0))


def scale(axes: Axes, name: str, times: Sequence[ArrayLike], values: Sequence[ArrayLike]) -> None:
    """Choose the scales of a panel: logarithmic for a positive loss, and for times that span many decades."""
    if name == "loss" and all((np.asarray(heights) > 0).all() for heights in values):
        axes.set_yscale("log")
    at = np.concatenate([np.asarray(each) for each in times])
    positive = np.sort(at[at > 0])
    if len(positive) > 2 and positive[-1] > 1e4 * np.median(positive):
        axes.set_xscale("symlog", linthresh=max(float(np.median(positive)), 1e-300))


def axis_name(axis: str, run: xr.Dataset) -> str:
    """Return the label of the horizontal axis."""
    if axis == "step" and "solver" in run.attrs:
        return f"steps of {str(run.attrs['solver']).split(' ', maxsplit=1)[0]}"
    return AXIS_NAMES[axis]


def svg(made: Figure) -> str:
    """Return a figure as the text of an SVG element, without the XML header, to be put into an HTML page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        made.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
