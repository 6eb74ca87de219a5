"""The command `ranklens talk`. torch, xarray and matplotlib are imported inside it, so that help appears at once."""

import signal
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import xarray as xr

    from ranklens.report.entries import Entry, Failure
    from ranklens.report.terminal import Board
    from ranklens.studies import Settings

# Exit codes: a study could not be run, or the page not be written; the command was interrupted from the keyboard, or by
# SIGTERM.
FAILED_CODE, INTERRUPTED_CODE, TERMINATED_CODE = 3, 130, 143
# How to go on after a talk that did not reach its end.
AGAIN = "ranklens talk --resume goes on"
ONLY = "Run only this study; 'beyond' stands for the studies that go beyond the talk. May be repeated."
Out = Annotated[Path, typer.Option("--out", help="Folder to write the report, figures and records to.")]
Preset = Annotated[
    str,
    typer.Option("--preset", help="Size of the runs: laptop (minutes on two cores), paper (the published size), ..."),
]


def talk(
    *,
    out: Out = Path("report"),
    preset: Preset = "laptop",
    only: Annotated[list[str] | None, typer.Option("--only", help=ONLY)] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of studies to run at a time; by default one per core.")
    ] = None,
    show_page: Annotated[bool, typer.Option("--open", help="Open the report in the browser at the end.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print a line per study, for logs, and no live table.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Use the records that the folder has of these settings, and run the rest.")
    ] = False,
) -> None:
    """Run the studies of the talk and write their figures, records and a report, index.html.

    Exit code 1 if a claim that must hold does not, 3 if a study could not be run or the page cannot be written,
    130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        Exit: with that code.
    """
    from ranklens import studies
    from ranklens.files.lock import locked
    from ranklens.report import chapters

    names = chapters.in_order(studies.chosen(only or []))
    check_folder(out)
    try:
        with locked(out), _terminable():
            kept = [name for name in studies.STUDIES if name not in names and (out / f"{name}.nc").exists()]
            beside = [name for name in kept if preset in studies.load(name).PRESETS]
            chosen, others = ({name: studies.preset(name, preset) for name in group} for group in (names, beside))
            code = _talk(out, preset, chosen, others, jobs, resume=resume, plain=plain)
    except _Terminated as error:  # before the first study, or while the page was written
        typer.echo(f"ranklens: the talk was ended by SIGTERM; {AGAIN}", err=True)
        raise typer.Exit(TERMINATED_CODE) from error
    if show_page:
        webbrowser.open((out / "index.html").resolve().as_uri())
    raise typer.Exit(code)


def _talk(
    out: Path,
    preset: str,
    settings: "Mapping[str, Settings]",
    others: "Mapping[str, Settings]",
    jobs: int | None,
    *,
    resume: bool,
    plain: bool,
) -> int:
    """Run studies, keep the files of each as soon as it has run, write the page, and return the exit code.

    A study that raises, whose process dies, or whose files cannot be written is a failure on the page; the others go
    on. After an interrupt the page says which studies were not run.

    Args:
        out: folder of the report.
        preset: name of the preset.
        settings: settings by the name of the study, in the order of the talk.
        others: settings of the studies that are not run; where the folder has their records, the page shows them too.
        jobs: number of studies that run at a time; None for one per core.
        resume: whether records in the folder with these settings are used again.
        plain: whether lines are written in place of a live table.

    Returns:
        0, or the code that the help of `talk` names.
    """
    from ranklens.report import course, entries
    from ranklens.report.terminal import Board
    from ranklens.sweeps.worker import cores

    entries.tidy(out)
    board, code = Board([*settings]), 0
    found: list[Entry] = []
    failures: list[Failure] = []
    records = entries.kept(out, settings) if resume else {}
    left = {name: how for name, how in settings.items() if name not in records}
    try:
        with course.following(board, plain=plain) as tell:
            each: xr.Dataset | Failure
            for each in course.records(left, preset, min(jobs or cores(), max(len(left), 1)), board, records.values()):
                made = entries.made(each, preset, out, has=records)
                if isinstance(made, entries.Failure):
                    failures.append(made)
                    board.fail(made)
                else:
                    found.append(made)
                    board.end(made)
                tell(made.name)
    except (KeyboardInterrupt, _Terminated) as error:
        done = {made.name for made in found} | {made.name for made in failures}
        for name in [name for name in settings if name not in done]:
            why = f"not {'drawn' if name in records else 'run'}: the talk was interrupted; {AGAIN}"
            failures.append(entries.failure(name, why, preset))
        code = TERMINATED_CODE if isinstance(error, _Terminated) else INTERRUPTED_CODE
    for record in entries.kept(out, others).values():
        made = entries.made(record, preset, None)
        if isinstance(made, entries.Failure):
            failures.append(made)
        else:
            found.append(made)
    is_written = _close(found, failures, out, preset, board)
    return code or (0 if is_written and not failures else FAILED_CODE) or int(not all(made.sound for made in found))


def _close(found: "list[Entry]", failures: "list[Failure]", out: Path, preset: str, board: "Board") -> bool:
    """Write the page of a talk, print its table and its failures, and return whether the page could be written."""
    from ranklens.report import page
    from ranklens.report.terminal import summarize

    try:
        last, is_written = f"report: {page.write(found, out, preset, failures=failures).resolve()}", True
    except OSError as error:  # a full disk
        last, is_written = f"the page cannot be written: {error}; {AGAIN}", False
    summarize(board, found)
    for each in failures:
        typer.echo(f"{each.name} could not be run: {each.error}", err=True)
    typer.echo(last, err=not is_written)
    return is_written


class _Terminated(BaseException):
    """The command has been asked to end, by the signal SIGTERM; like Ctrl-C, it is no error of whatever runs then."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `_Terminated` inside the block when the process receives SIGTERM, so that whole files are left."""

    def end(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_folder(out: Path) -> None:
    """Refuse a file as the output folder now, not after minutes of work.

    Raises:
        ValueError: if `out` is an existing file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
