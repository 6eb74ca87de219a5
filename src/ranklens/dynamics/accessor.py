"""The accessor `rl` of records: `run.rl` at the end of a notebook cell shows the picture of a record.

xarray calls methods that a package adds to a Dataset an accessor. Importing this module registers it.
"""

from typing import TYPE_CHECKING

import xarray as xr

if TYPE_CHECKING:  # matplotlib is imported when a picture is drawn
    from matplotlib.figure import Figure


@xr.register_dataset_accessor("rl")
class Picture:
    """The picture of a record, a table or a sweep, which notebooks show; its text names what would be drawn.

    >>> import ranklens as rl
    >>> run = rl.gradient_flow(rl.deep_matrix((2, 2), 2, std=0.1), rl.Completion.counterexample(), until_time=5.0)
    >>> run.rl
    <picture of loss along time: run.rl.plot() returns it>
    """

    def __init__(self, record: xr.Dataset) -> None:
        self._record = record

    def plot(self, *, ends: bool = False) -> "Figure":
        """Return the figure of the record, as `rl.plot` does."""
        from ranklens import plot

        return plot(self._record, ends=ends)

    def _repr_svg_(self) -> str | None:
        """Return the picture as SVG for a notebook; None, and a notebook shows the text, if nothing can be drawn."""
        from ranklens import drawing

        try:
            return drawing.svg(self.plot())
        except ValueError:
            return None

    def __repr__(self) -> str:
        along = next(iter(map(str, self._record.sizes)), "nothing")
        names = [str(name) for name, values in self._record.data_vars.items() if along in values.dims]
        return f"<picture of {', '.join(names)} along {along}: run.rl.plot() returns it>"
