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
        report: a function that takes the line of text.

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
        progress: a function that takes the line of text, True for a line on the terminal, or False for no reports. None
            takes the function of the surrounding `reporting_to`, or no reports if there is none.

    Yields:
        The function to call with a line of text.
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
