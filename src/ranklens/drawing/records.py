"""Figures of records: `plot` draws a record, compares several, and draws whatever draws itself."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens.drawing.panels import AXIS_NAMES, FEW, axis_name, figure, label, lines, scale, style
from ranklens.drawing.sweeps import draw_sweep
from ranklens.drawing.tables import ROWS, draw_table, rows_of

# Attributes that say how a run went. They differ between any two runs, so they do not name a run.
OUTCOMES = ("stopped", "message", "early", "evaluations", "steps", "seconds", "versions")
# Characters of a record's name in a legend, at most; longer ones would cover the lines.
LONGEST_NAME = 60


@runtime_checkable
class Drawable(Protocol):
    """Anything that draws itself, such as a fitted completer."""

    def draw(self) -> Figure:
        """Return the figure."""


def plot(run: xr.Dataset | Sequence[xr.Dataset] | Drawable, *, ends: bool = False) -> Figure:
    """Draw a record, a sweep, or a comparison of several records, or what a fitted completer explains.

    One record gets a panel for the loss and one for every tracked quantity: a line for a number, several lines for a
    vector, and a line for the norm of anything larger. Several records get a panel for every quantity that all of them
    have, with one line per record: the quantity if it is a number, else its norm. The legend names the attributes and
    scalar coordinates in which the records differ. A run that stopped before its goal, as its attribute `early` says,
    is marked: in the title of the figure, or in the legend of a comparison.

    A table of weights or layers gets a panel for each of its measures, with a bar for each row, and one for spectra.

    A sweep gets a row of panels for every quantity. Lines are medians over the seeds, with bands from the 10% to the
    90% quantile. There is a line for every value of the first setting that was swept beside the seed, and a panel for
    every value of the second. After its end, a run counts with its last value. End values, and numbers that have no
    time or step, are drawn against one setting, or as a heat map over two.

    Time is drawn on a logarithmic scale where it spans many decades, as the times of a stiff flow do.

    Args:
        run: what `gradient_flow`, `gradient_descent`, `rl.nn.locality_profile` or `rl.nn.pareto` returned, or a
            `RankMonitor` recorded, or a list of such records; or a table, such as that of `rl.nn.rank_profile`; or what
            `rl.sweep` or `rl.open_store` returned, or a selection of it; or a fitted completer, or another object with
            a method `draw`.
        ends: draw only the last values of the runs of a sweep.

    Returns:
        A matplotlib Figure. Notebooks display it; `.savefig(path)` writes it.

    Raises:
        TypeError: for anything but a Dataset or a sequence of Datasets.
        ValueError: for a Dataset that is no such record or table, for no records, for records along
            different coordinates, for a sweep over more than two settings beside the seed, or for `ends` without a
            sweep.

    >>> import ranklens as rl
    >>> task = rl.Completion.counterexample()
    >>> nets = [rl.deep_matrix((2, 2), depth, std=0.1) for depth in (2, 3)]
    >>> track = {"s": lambda net: rl.singular_values(net.tensor())}
    >>> runs = [rl.gradient_flow(net, task, until_time=5.0, track=track) for net in nets]
    >>> [axes.get_title(loc="left") for axes in rl.plot(runs[0]).axes]
    ['loss', 's']
    >>> [len(axes.lines) for axes in rl.plot(runs).axes]
    [2, 2]
    """
    if not isinstance(ends, bool):
        raise TypeError(f"ends is of type {type(ends).__name__}; it must be True or False")
    if isinstance(run, xr.Dataset) and "swept" in run.attrs:
        return draw_sweep(run, ends=ends)
    if ends:
        raise ValueError("ends is True, and this is no sweep; leave it out")
    if isinstance(run, xr.Dataset):
        return draw_table(run) if rows_of(run) and not _has_axis(run) else _plot_one(run)
    if isinstance(run, Drawable):
        return run.draw()
    kind = type(run).__name__
    if not isinstance(run, Sequence):
        wrong = [kind]
    else:
        wrong = [f"{kind} of {type(each).__name__}" for each in run if not isinstance(each, xr.Dataset)]
    if wrong:
        raise TypeError(f"run is a {wrong[0]}; pass a record (xarray.Dataset) or a list of records")
    if not run:
        raise ValueError("run is an empty list; pass at least one record")
    axes = sorted({_axis(record) for record in run})
    if len(axes) > 1:
        raise ValueError(f"the records run along {' and '.join(axes)}; compare records that run along the same one")
    return _plot_several(run, axes[0])


def _plot_one(run: xr.Dataset) -> Figure:
    """Return the figure of one record."""
    axis = _axis(run)
    names = _quantities(run)
    made, panels = figure(len(names))
    for name, axes in zip(names, panels, strict=True):
        values = run[name].values.astype(float)
        large = values.ndim > 2
        lines(axes, run[axis].values, _norms(values) if large else values, _line_names(run[name]))
        label(axes, name, axis_name(axis, run), f"norm of {name}" if large else name)
        scale(axes, name, [run[axis].values], [values])
    if _is_early(run):
        made.suptitle(f"The run stopped before its goal: {run.attrs['stopped']}")
    return made


def _plot_several(runs: Sequence[xr.Dataset], axis: str) -> Figure:
    """Return the figure that compares several records along one coordinate.

    Raises:
        ValueError: if no quantity is in all of them.
    """
    names = [name for name in _quantities(runs[0]) if all(name in _quantities(run) for run in runs)]
    if not names:
        raise ValueError(f"the records have no variable along {axis} in common; compare records of like runs")
    made, panels = figure(len(names))
    titles = _record_names(runs)
    times = [run[axis].values for run in runs]
    for name, axes in zip(names, panels, strict=True):
        values = [run[name].values.astype(float) for run in runs]
        numbers = all(heights.size == len(heights) for heights in values)
        for k, (at, heights) in enumerate(zip(times, values, strict=True)):
            axes.plot(at, heights.reshape(-1) if numbers else _norms(heights), label=titles[k], **style(k))
        label(axes, name, axis_name(axis, runs[0]), name if numbers else f"norm of {name}")
        scale(axes, name, times, values)
        axes.legend(fontsize=8)
    return made


def _has_axis(run: xr.Dataset) -> bool:
    """Return whether a record has a coordinate that it is drawn along."""
    return any(name in run.coords for name in AXIS_NAMES)


def _axis(run: xr.Dataset) -> str:
    """Return the coordinate that a record is drawn along.

    Raises:
        ValueError: if it has none of `AXIS_NAMES`.
    """
    for name in AXIS_NAMES:
        if name in run.coords:
            return name
    raise ValueError(
        f"the Dataset has coordinates {list(run.coords)}; a record has one of {', '.join(AXIS_NAMES)}, and a table "
        f"one of {', '.join(ROWS)}"
    )


def _quantities(run: xr.Dataset) -> list[str]:
    """Return the names of the variables that depend on the coordinate that a record is drawn along, and have values."""
    axis = _axis(run)
    return [str(name) for name, values in run.data_vars.items() if axis in values.dims and bool(values.notnull().any())]


def _norms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the norm of every row of (rows, ...)."""
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


def _line_names(values: xr.DataArray) -> list[str]:
    """Return the names of a variable's lines: the labels of its other dimension if it has a name, else numbers."""
    if values.size == len(values):
        return [str(values.name)]
    labels = values.coords.get(values.dims[1])
    if values.ndim == 2 and labels is not None and labels.dtype.kind in "UO":
        return [str(name) for name in labels.values]
    if values.ndim == 2 and labels is not None and values.dims[1] != f"{values.name}_0":
        return [f"{values.dims[1]} {name}" for name in labels.values[:FEW]]
    return [f"{values.name}[{k}]" for k in range(FEW)]


def _record_names(runs: Sequence[xr.Dataset]) -> list[str]:
    """Return a name for every record: its number, and the settings in which it differs from the others."""
    settings = [_settings(run) for run in runs]
    keys = [key for key in settings[0] if all(key in each for each in settings)]
    different = [key for key in keys if len({each[key] for each in settings}) > 1]
    found = []
    for k, (run, each) in enumerate(zip(runs, settings, strict=True)):
        name = ": ".join([f"record {k}", *([", ".join(each[key] for key in different)] if different else [])])
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        found.append(f"{name} (stopped: {run.attrs['stopped']})" if _is_early(run) else name)
    return found


def _settings(run: xr.Dataset) -> Mapping[str, str]:
    """Return what identifies a record: its scalar coordinates as "name=value", and its attributes as they are."""
    coordinates = {str(name): f"{name}={value.values}" for name, value in run.coords.items() if not value.dims}
    return coordinates | {str(name): str(value) for name, value in run.attrs.items() if name not in OUTCOMES}


def _is_early(run: xr.Dataset) -> bool:
    """Return whether the record's attributes say that the run stopped before its goal."""
    return bool(run.attrs.get("early", 0))
