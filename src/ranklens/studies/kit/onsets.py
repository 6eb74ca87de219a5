"""Times at which components are learned: onsets, whether each waits for the one before, and the distance travelled."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranklens import drawing
from ranklens.studies.kit.records import runs, times

Along = Callable[[xr.Dataset], NDArray[np.float64]]
# Share of its final value at which a component counts as having taken off.
ON = 0.1
# Share of its final value at which a component counts as nearly learned.
NEARLY = 0.9


class Onsets(NamedTuple):
    """Times of the largest components, in the order of their sizes.

    Attributes:
        on: (count,) first time at which each exceeds the share `ON` of its final value.
        nearly: (count,) first time at which each exceeds the share `NEARLY` of its final value.
    """

    on: NDArray[np.float64]
    nearly: NDArray[np.float64]


def onsets(time: NDArray[np.float64], values: NDArray[np.float64], count: int) -> Onsets:
    """Return when each of the largest components took off and was nearly learned.

    Args:
        time: (rows,) times.
        values: (rows, components) sizes. They are sorted in every row, so that the k-th curve is the k-th largest.
        count: number of the largest components.
    """
    found = _sorted(values)[:, :count]
    return Onsets(*(time[(found >= share * found[-1]).argmax(axis=0)] for share in (ON, NEARLY)))


def increments(time: NDArray[np.float64], values: NDArray[np.float64], count: int) -> float:
    """Return how many of the `count` - 1 later components take off only after the one before is nearly learned.

    Args:
        time: (rows,) times.
        values: (rows, components) sizes.
        count: number of the largest components.

    Returns:
        A whole number, or NaN if a size is NaN.
    """
    if np.isnan(values).any():
        return float("nan")
    on, nearly = onsets(time, values, count)
    return float((on[1:] > nearly[:-1]).sum())


def gap(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the (count + 1)-th largest value divided by the count-th largest.

    Args:
        values: (..., components) sizes.
        count: number of components that count as present.

    Returns:
        An array of the leading dimensions; NaN where one of the values is NaN, or where the count-th largest is 0.
    """
    found = _sorted(values)
    smaller, larger = found[..., count], found[..., count - 1]
    ratio = np.full(larger.shape, np.nan)
    return np.divide(smaller, larger, out=ratio, where=(larger != 0) & ~np.isnan(values).any(axis=-1))


def distance(run: xr.Dataset) -> NDArray[np.float64]:
    """Return the arc length of the trajectory of the parameters up to every row.

    Along a gradient flow d loss = -|gradient|^2 dt and the speed is |gradient|, so the arc length of an interval is
    about sqrt(fall of the loss * duration). Plotted against it, plateaus become short.

    Args:
        run: a gradient flow, with `loss` and `time`.
    """
    falls = np.clip(-np.diff(run.loss.values), 0, None) * np.diff(run.time.values)
    return np.concatenate([[0.0], np.cumsum(np.sqrt(falls))])


def draw_errors(axes: Axes, record: xr.Dataset, share: float, *, along: Along = times) -> None:
    """Draw the error over all entries of every seed, each against the share of its own duration or arc length.

    Args:
        axes: the panel.
        record: a gathered record with the variable `error`.
        share: share of the entries that are observed, for the title.
        along: `times`, or `distance`.
    """
    for k, run in enumerate(runs(record)):
        at = along(run)
        axes.plot(at / at[-1], run.error, label=f"seed {int(run.seed)}", **drawing.style(k))
    axes.set_yscale("log")
    drawing.label(
        axes,
        f"Recovery from {share:.0%} of the entries",
        f"share of the {'time' if along is times else 'distance'} until the end of the run",
        "relative error over all entries",
    )
    axes.margins(y=0.12)
    drawing.note(axes, "each step:\none more component,\nat last all", 0.03, 0.35)
    axes.legend(fontsize=8, loc="lower left", ncols=2)


def draw_learning(record: xr.Dataset, variable: str, noun: str, rank: int, share: float) -> Figure:
    """Return a figure of components that are learned one at a time, and of the error of every seed.

    Args:
        record: a gathered record of flows with the variables named here and `error`.
        variable: name of the variable that holds the sizes of the components. They are drawn for the first seed.
        noun: what one of the components is called, such as "singular value".
        rank: number of components with a colour and a name.
        share: share of the entries that are observed.
    """
    made, (values, errors) = drawing.figure(2)
    draw_sizes(values, record, variable, noun, rank)
    draw_errors(errors, record, share)
    return made


def draw_sizes(axes: Axes, record: xr.Dataset, variable: str, noun: str, rank: int) -> None:
    """Draw the sizes of the components of the first seed against time, or against steps.

    Args:
        axes: the panel.
        record: a gathered record of flows, or of descents.
        variable: name of the variable that holds the sizes.
        noun: what one of the components is called, such as "singular value".
        rank: number of components with a colour and a name.
    """
    first = runs(record)[0]
    names = [f"{noun} {k + 1}" for k in range(rank)]
    drawing.lines(axes, times(first), first[variable].values, names, rest="all others: not learned")
    along = "time of the gradient flow" if "time" in first else "step"
    drawing.label(axes, f"One at a time (seed {int(first.seed)})", along, noun)
    axes.locator_params(axis="x", nbins=4)
    drawing.note(axes, "each waits at zero,\nthen rises", 0.03, 0.3)


def _sorted(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values in descending order along the last dimension; NaN come last."""
    return -np.sort(-values, axis=-1)
