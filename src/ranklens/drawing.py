"""Pictures: the conventions that all figures share, and `plot`, the first thing typed after a run.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; line styles repeat what colours say.
Figures are made without pyplot, so that drawing needs no screen and keeps no global state.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
THEORY: Any = {"color": "#000000", "linestyle": (0, (4, 3)), "linewidth": 1.3}
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
AXIS_NAMES = {  # along which a record is drawn, and what is written there
    "time": "time of the gradient flow",
    "step": "steps of the optimizer",
    "distance": "distance of the patches, pixels",
}
FEW = 7  # that many lines get a colour and a name each; the rest share one


def figure(columns: int = 1, rows: int = 1, *, width: float = 4.2, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """A figure of panels and its axes, row by row."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(made)
        axes = np.atleast_1d(made.subplots(rows, columns)).reshape(-1)
    return made, list(axes)


def style(k: int) -> Any:
    """Colour and line style of the k-th of several lines."""
    return {"color": COLOURS[k % FEW], "linestyle": STYLES[k % FEW]}


def lines(axes: Axes, x: Any, values: Any, names: Sequence[str], *, rest: str = "all others") -> None:
    """Draw the columns of `values` (x, lines) against x: the first few by colour and style, the others in grey."""
    values = np.asarray(values).reshape(len(x), -1)
    for k in reversed(range(values.shape[1])):
        if k < min(len(names), FEW):
            axes.plot(x, values[:, k], label=names[k], zorder=3, **style(k))
        else:
            last = k == values.shape[1] - 1
            axes.plot(x, values[:, k], color="#999999", linewidth=0.7, label=rest if last else None)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles[::-1], labels[::-1], fontsize=8)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axes of a panel."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def plot(run: xr.Dataset) -> Figure:
    """Draw a record: the loss, and a panel for everything that was tracked (as lines; larger things by norm).

    A flow is drawn against time where that spans few decades, and against the steps of the solver, which make
    plateaus short and escapes visible, where it spans many.

    Args:
        run: what `gradient_flow`, `gradient_descent` or `rl.nn.locality_profile` returned.

    Returns:
        A matplotlib Figure; notebooks show it, `.savefig(path)` writes it.

    Raises:
        ValueError: for a Dataset without a coordinate `time`, `step` or `distance`.

    >>> import ranklens as rl
    >>> task = rl.Completion.counterexample()
    >>> net = rl.deep_matrix((2, 2), depth=2, std=0.1)
    >>> run = rl.gradient_flow(net, task, until_time=5.0, track={"s": lambda net: rl.singular_values(net.tensor())})
    >>> [axes.get_title(loc="left") for axes in rl.plot(run).axes]
    ['loss', 's']
    """
    axis = next((name for name in AXIS_NAMES if name in run.coords), None)
    if axis is None:
        raise ValueError(f"the Dataset has coordinates {list(run.coords)}; a record has one of {', '.join(AXIS_NAMES)}")
    names = [name for name, variable in run.data_vars.items() if axis in variable.dims]
    made, panels = figure(len(names))
    for name, axes in zip(names, panels, strict=True):
        values = run[name].values.astype(float)
        flat = values.reshape(len(values), -1)
        shown = np.linalg.norm(flat, axis=1) if values.ndim > 2 else flat
        lines(axes, run[axis].values, shown, _names(run[name]))
        label(axes, str(name), _axis_name(axis, run), f"norm of {name}" if values.ndim > 2 else str(name))
        if name == "loss" and (values > 0).all():
            axes.set_yscale("log")
        _scale_time(axes, run[axis].values)
    return made


def _scale_time(axes: Axes, at: Any) -> None:
    positive = at[at > 0]
    if len(positive) > 2 and positive[-1] > 1e4 * np.median(positive):
        axes.set_xscale("symlog", linthresh=max(float(np.median(positive)), 1e-300))


def _axis_name(axis: str, run: xr.Dataset) -> str:
    if axis == "step" and "solver" in run.attrs:
        return f"steps of {str(run.attrs['solver']).split(' ', maxsplit=1)[0]}"
    return AXIS_NAMES[axis]


def _names(values: xr.DataArray) -> list[str]:
    """Of the lines of a variable: by the labels of its one other dimension if these are words, else by number."""
    if values.size == len(values):  # one line
        return [str(values.name)]
    labels = values.coords.get(values.dims[1])
    if values.ndim == 2 and labels is not None and labels.dtype.kind in "UO":
        return [str(label) for label in labels.values]
    return [f"{values.name}[{k}]" for k in range(FEW)]


def svg(made: Figure) -> str:
    """A figure as an SVG element, without the XML header, to stand inside a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        made.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
