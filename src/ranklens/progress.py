"""A line that says how far a long run is: the loss reached, and the loss to reach."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Report = Callable[[str], None]

_ambient: ContextVar[Report | None] = ContextVar("where runs report to", default=None)


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Have every run inside the block report to `report`, unless it is told otherwise."""
    token = _ambient.set(report)
    try:
        yield
    finally:
        _ambient.reset(token)


@contextmanager
def reporter(progress: bool | Report | None) -> Iterator[Report]:
    """What a run calls with its one-line status: a given function, a line on the terminal, or nothing.

    Args:
        progress: a function of a string; True for a line on the terminal; False for silence; None for what
            `reporting_to` has set around the run, or silence.
    """
    if callable(progress):
        yield progress
    elif progress:
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update
    else:
        ambient = _ambient.get() if progress is None else None
        yield ambient or _silent


def _silent(text: str) -> Any:
    """Say nothing."""
