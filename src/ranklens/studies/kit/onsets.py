"""When components were learnt: onsets, whether each waited for the one before, and how far a flow has gone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ranklens import drawing
from ranklens.studies.kit.records import runs, times

Along = Callable[[xr.Dataset], NDArray[Any]]
ON, NEARLY = 0.1, 0.9  # of its final value: a component has taken off, is nearly learnt


def onsets(time: NDArray[Any], values: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """When each of the `count` largest values (rows, values), sorted in every row, took off and was nearly learnt."""
    found = -np.sort(-values, axis=1)[:, :count]
    return tuple(time[(found >= share * found[-1]).argmax(axis=0)] for share in (ON, NEARLY))


def increments(time: NDArray[Any], values: NDArray[Any], count: int) -> int:
    """Of `count` - 1 pairs of neighbours, how many wait: the next takes off only after the last was nearly learnt."""
    on, nearly = onsets(time, values, count)
    return int((on[1:] > nearly[:-1]).sum())


def gap(values: NDArray[Any], count: int) -> NDArray[Any]:
    """The (count + 1)-th largest of the final values (seeds, values) relative to the count-th."""
    found = -np.sort(-values, axis=-1)
    return found[..., count] / found[..., count - 1]


def distance(run: xr.Dataset) -> NDArray[Any]:
    """The length of the way that the parameters have gone: along a flow d loss = -|gradient|^2 dt.

    It stands to the steps of an optimizer that moves by a fixed distance per step as time stands to plain descent, and
    makes plateaus short.
    """
    falls = np.clip(-np.diff(run.loss.values), 0, None) * np.diff(run.time.values)
    return np.concatenate([[0.0], np.cumsum(np.sqrt(falls))])


def draw_errors(axes: Axes, record: xr.Dataset, share: float, *, along: Along = times) -> None:
    """The error over all entries of every seed, each against the share of its own time or way."""
    for k, run in enumerate(runs(record)):
        at = along(run)
        axes.plot(at / at[-1], run.error, label=f"seed {int(run.seed)}", **drawing.style(k))
    axes.set_yscale("log")
    drawing.label(
        axes,
        f"Recovery from {share:.0%} of the entries",
        f"share of the {'time' if along is times else 'distance'} to fit",
        "|W - target| / |target|",
    )
    axes.legend(fontsize=8)
