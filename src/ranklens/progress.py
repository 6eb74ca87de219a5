"""Progress reports: one line of text that tells how far a long run is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Report = Callable[[str], object]

_surrounding: ContextVar[Report | None] = ContextVar("surrounding report", default=None)


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Send the progress of every run inside this context to `report`, unless the run has a `progress` of its own.

    Args:
        report: a function that takes one line of text, and is called with the current state of the run.

    Yields:
        Nothing.
    """
    token = _surrounding.set(report)
    try:
        yield
    finally:
        _surrounding.reset(token)


@contextmanager
def reporter(progress: bool | Report | None) -> Iterator[Report]:
    """Give a run the function to which it reports its progress.

    Args:
        progress: a function that takes one line of text; True for a line on the terminal that every report replaces; or
            False for no reports. None takes the function of the surrounding `reporting_to`, or, outside such a
            context, no reports.

    Yields:
        The function that the run calls with one line of text at each report.
    """
    if callable(progress):
        yield progress
    elif progress:
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update
    else:
        surrounding = _surrounding.get() if progress is None else None
        yield surrounding or _silent


def _silent(text: str) -> None:
    """Ignore a report."""
