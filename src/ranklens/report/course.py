"""The course of a talk: its studies run, while the terminal shows how far they are."""

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager

import typer
import xarray as xr
from rich.live import Live

from ranklens import progress, studies
from ranklens.report.entries import Failure, failure
from ranklens.report.terminal import Board, console
from ranklens.studies import Settings
from ranklens.sweeps.worker import Worker


def records(
    settings: Mapping[str, Settings], preset: str, jobs: int, board: Board, kept: Iterable[xr.Dataset] = ()
) -> Iterator[xr.Dataset | Failure]:
    """Run studies and yield their records as they finish, and a failure for each that raises or whose process dies.

    Args:
        settings: settings by the name of the study.
        preset: the preset that the settings come from; its MINUTES say which studies take longest.
        jobs: number of studies that run at a time; 1 runs them in this process, in the given order.
        board: the table in which a study is marked when it begins.
        kept: records of an earlier talk, which are yielded while the studies run.

    Yields:
        One record or failure per study, and the kept records.
    """
    if jobs == 1:
        yield from kept
        yield from _one_by_one(settings, preset, board)
    else:
        yield from _side_by_side(settings, preset, jobs, board, kept)


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


def _one_by_one(settings: Mapping[str, Settings], preset: str, board: Board) -> Iterator[xr.Dataset | Failure]:
    """Run studies in the given order in this process, and yield the record or the failure of each."""
    for name, how in settings.items():
        board.begin(name)
        try:
            found: xr.Dataset | Failure = studies.perform(name, how)
        except Exception as error:  # whatever a study raises, the others go on
            found = _failed(name, error, preset)
        yield found


def _side_by_side(
    settings: Mapping[str, Settings], preset: str, jobs: int, board: Board, kept: Iterable[xr.Dataset]
) -> Iterator[xr.Dataset | Failure]:
    """Run several studies at a time, those that take longest first, and yield the record or the failure of each.

    Every study that runs has a process, and a process that dies is replaced for the next study.

    Args:
        settings: settings by the name of the study.
        preset: the preset that the settings come from; its MINUTES say which studies take longest.
        jobs: number of studies that run at a time.
        board: the table in which a study is marked when it begins.
        kept: records that are yielded while no study has just ended.

    Yields:
        One record or failure per study, and the kept records.
    """
    kept = deque(kept)
    waiting = deque(sorted(settings, key=lambda name: -studies.load(name).MINUTES[preset]))
    workers: list[Worker[str, xr.Dataset]] = [Worker() for _ in range(jobs)]
    try:
        while waiting or kept or any(worker.task for worker in workers):
            for worker in workers:
                if worker.task is None and waiting:
                    board.begin(name := waiting.popleft())
                    worker.start(name, studies.perform, name, settings[name])
            running = [worker.future for worker in workers if worker.future is not None]
            if not wait(running, timeout=0 if kept else None, return_when=FIRST_COMPLETED).done and kept:
                yield kept.popleft()
            for worker in workers:
                if worker.future is not None and worker.future.done():
                    name, found = worker.take()
                    yield _failed(name, found, preset) if isinstance(found, Exception) else found
    finally:
        for worker in workers:
            worker.close()


def _failed(name: str, error: Exception, preset: str) -> Failure:
    """Return the failure of a study that raised an error, with its traceback."""
    details = "".join(traceback.format_exception(error))
    return failure(name, f"{type(error).__name__}: {error}", preset, details=details)
