"""The course of a talk: its studies run, while the terminal shows how far they are."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import typer
import xarray as xr
from rich.live import Live

from ranklens import progress, studies
from ranklens.report.terminal import Board, console
from ranklens.studies import Settings


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def records(settings: Mapping[str, Settings], preset: str, jobs: int, board: Board) -> Iterator[xr.Dataset]:
    """Run studies and yield their records as they finish.

    Args:
        settings: settings by the name of the study.
        preset: the preset that the settings come from; its MINUTES say which studies take longest.
        jobs: number of studies that run at a time; 1 runs them in this process, in the given order.
        board: the table in which a study is marked when it begins.

    Yields:
        One record per study.
    """
    yield from _one_by_one(settings, board) if jobs == 1 else _side_by_side(settings, preset, jobs, board)


@contextmanager
def following(board: Board, *, plain: bool) -> Iterator[Callable[[str], None]]:
    """Show the table of a talk while it runs if the output is a terminal; else write a line for every study.

    Args:
        board: the table.
        plain: write lines also on a terminal.

    Yields:
        A function to be called with the name of every study that has ended.
    """
    screen = console()
    if plain or not screen.is_terminal:
        yield lambda name: typer.echo(board.line(name))
        return

    def report(text: str) -> None:
        board.progress = text

    with Live(board, console=screen, refresh_per_second=4, transient=True), progress.reporting_to(report):
        yield lambda _: None


def _one_by_one(settings: Mapping[str, Settings], board: Board) -> Iterator[xr.Dataset]:
    """Run studies in the given order and yield their records.

    Args:
        settings: settings by the name of the study.
        board: the table in which a study is marked when it begins.

    Yields:
        One record per study.
    """
    for name, how in settings.items():
        board.begin(name)
        yield studies.perform(name, how)


def _side_by_side(settings: Mapping[str, Settings], preset: str, jobs: int, board: Board) -> Iterator[xr.Dataset]:
    """Run several studies at a time, those that take longest first, and yield their records as they finish.

    Args:
        settings: settings by the name of the study.
        preset: the preset that the settings come from; its MINUTES say which studies take longest.
        jobs: number of studies that run at a time.
        board: the table in which a study is marked when it begins: each process takes the next one of the queue.

    Yields:
        One record per study.
    """
    longest = sorted(settings, key=lambda name: -studies.load(name).MINUTES[preset])
    waiting = list(longest)
    for name in waiting[:jobs]:
        board.begin(name)
    for record in studies.perform_all({name: settings[name] for name in longest}, jobs):
        waiting.remove(record.attrs["study"])
        yield record
        for name in waiting[:jobs]:
            board.begin(name)
