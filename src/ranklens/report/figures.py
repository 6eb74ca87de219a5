"""`plot`: the figure of any record, that of its own study for a record of a study."""

from collections.abc import Sequence

import xarray as xr
from matplotlib.figure import Figure

from ranklens import drawing, studies
from ranklens.drawing.records import Drawable


def plot(run: xr.Dataset | Sequence[xr.Dataset] | Drawable, *, ends: bool = False) -> Figure:
    """Draw a record, a table, a sweep, a comparison of several records, or what a fitted completer explains.

    A record of a study gets the figure that the report shows. Everything else is drawn by `drawing.plot`:

    - A record of a flow or a descent, of `rl.nn.RankMonitor`, `rl.nn.locality_profile` or `rl.nn.pareto`: a panel for
      each quantity along time, steps, distances or kept shares.
    - A list of such records: a panel for each quantity that all have, with a line for each record.
    - A table of weights or layers, such as that of `rl.nn.rank_profile`: a panel for each measure.
    - A sweep: medians and bands over the seeds.
    - A fitted completer: what it explains.

    Args:
        run: the record, or a list of records, or an object with a method `draw`.
        ends: draw only the last values of the runs of a sweep.

    Returns:
        A matplotlib Figure. Notebooks display it; `.savefig(path)` writes it.

    Raises:
        TypeError: for anything but these.
        ValueError: for a Dataset that is no record, no table and no sweep, for no records, for records along different
            coordinates, for a sweep over more than two settings beside the seed, or for `ends` without a sweep.

    >>> import ranklens as rl
    >>> run = rl.gradient_flow(rl.deep_matrix((2, 2), 2, std=0.1), rl.Completion.counterexample(), until_time=5.0)
    >>> [axes.get_title(loc="left") for axes in rl.plot(run).axes]
    ['loss']
    """
    if isinstance(run, xr.Dataset) and {"study", "settings"} <= run.attrs.keys() and "swept" not in run.attrs:
        if ends is not False:
            raise ValueError("ends is True, and this is no sweep; leave it out")
        return studies.load(run.attrs["study"]).draw(run)
    return drawing.plot(run, ends=ends)
