"""The command `ranklens`: what needs torch is imported by the commands that run something."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import xarray as xr

    from ranklens.report import Entry

app = typer.Typer(
    name="ranklens",
    help="Implicit rank lowering in deep learning: every figure of the talk, every claim checked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(
    name="data", help="Data sets: which there are, and fetching them into the data folder.", no_args_is_help=True
)
app.add_typer(data)
Out = Annotated[Path, typer.Option("--out", help="Folder for the report, figures and records.")]
Preset = Annotated[str, typer.Option("--preset", help="laptop (minutes on two cores), paper (the published size), ...")]


@app.command()
def talk(
    *,
    out: Out = Path("report"),
    preset: Preset = "laptop",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this study; may be repeated.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Studies at a time; one per core if left out.")
    ] = None,
) -> None:
    """Run all studies and write figures, verdicts and report/index.html; exit code 1 if a theorem failed."""
    from ranklens import report, studies

    with _usage():
        names = [name for name in studies.STUDIES if not only or name in only]
        settings = {name: studies.preset(name, preset) for name in [*names, *(only or [])]}
        _check_folder(out)
    report.clear(out, names)
    entries = []
    for record in _performed({name: settings[name] for name in names}, preset, jobs or cores()):
        made = report.entry(record, preset)
        report.keep(made, record, out)
        entries.append(made)
        _tell(made)
    entries.sort(key=lambda made: names.index(made.name))
    page = report.write(entries, out, preset)
    typer.echo(f"\nreport: {page.resolve()}")
    raise typer.Exit(0 if all(made.sound for made in entries) else 1)


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study from `ranklens list`.")],
    *,
    preset: Preset = "laptop",
    change: Annotated[list[str] | None, typer.Option("--set", help="name=value; may be repeated.")] = None,
    out: Out = Path("report"),
) -> None:
    """Run one study and write its figure and record; exit code 1 if a theorem failed."""
    from ranklens import report, studies

    with _usage():
        settings = studies.override(studies.preset(study, preset), change or [])
        _check_folder(out)
        record = _perform(study, settings, study)
        made = report.entry(record, preset)
    report.keep(made, record, out)
    _tell(made)
    typer.echo(f"\nfigure: {(out / study).resolve()}.png, record: {study}.nc beside it")
    raise typer.Exit(0 if made.sound else 1)


@app.command(name="list")
def show() -> None:
    """The studies: what they claim, how long their presets take on one core, and their settings."""
    import dataclasses

    from ranklens import studies

    for name in studies.STUDIES:
        study = studies.load(name)
        minutes = ", ".join(f"{preset} {study.MINUTES[preset]:g} min" for preset in study.PRESETS)
        typer.echo(f"{name}\n  {study.TITLE}\n  {study.EXPLANATION}\n  presets: {minutes}")
        fields = dataclasses.asdict(study.PRESETS["laptop"])
        typer.echo("  settings: " + ", ".join(f"{key}={value}" for key, value in fields.items()) + "\n")


@app.command()
def rank(
    checkpoint: Annotated[
        Path, typer.Argument(help=".safetensors, a state dict of torch.save, an index of shards, or their folder.")
    ],
    *,
    energy: Annotated[float, typer.Option("--energy", help="Share of the squared norm that is to be kept.")] = 0.99,
    out: Annotated[
        Path | None, typer.Option("--out", help="A .csv or .json file, a .nc record, or a picture, .png or .svg.")
    ] = None,
) -> None:
    """The rank of every weight in a checkpoint, beside that of a random matrix; exit code 2 if it cannot be read."""
    from ranklens.nn.checkpoint import load_weights
    from ranklens.nn.rank_profile import rank_profile, text, write

    with _usage():
        found = rank_profile(load_weights(checkpoint), energy=energy)
        typer.echo(text(found))
        if out is not None:
            typer.echo(f"\nwritten to {write(found, out).resolve()}")


@data.command()
def fetch(
    name: Annotated[list[str], typer.Argument(help="mnist, fashion-mnist, cifar10 or ml-100k; several, if you like.")],
    *,
    home: Annotated[str | None, typer.Option("--from", help="Address of a folder with the published files.")] = None,
) -> None:
    """Fetch what the data folder lacks of data sets, checked by content; exit code 2 if it cannot be had."""
    from rich.console import Console

    from ranklens import progress
    from ranklens.data import install

    console = Console(stderr=True)
    for each in name:
        with _usage(), console.status(f"fetching {each}") as status, progress.reporting_to(status.update):
            found = install.fetch(each, home=home)
        typer.echo(f"{each}: whole, in {found}")


@data.command(name="list")
def sets() -> None:
    """The data sets, and whether they lie in the data folder, whole."""
    from ranklens.data import catalogue, install

    typer.echo(f"data folder: {install.folder()} (RANKLENS_DATA names another)\n")
    for name, source in catalogue.SOURCES.items():
        typer.echo(f"{name}\n  {source.title}\n  {install.state(name)}")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _performed(settings: dict[str, Any], preset: str, jobs: int) -> "Iterator[xr.Dataset]":
    """The records of studies: in turn, or as they finish, several at a time and the longest first."""
    from rich.console import Console

    from ranklens import studies

    if min(jobs, len(settings)) == 1:
        for k, (name, how) in enumerate(settings.items(), start=1):
            yield _perform(name, how, f"{k}/{len(settings)} {name}")
        return
    console = Console(stderr=True)
    longest = sorted(settings, key=lambda name: -studies.load(name).MINUTES[preset])
    waiting = list(longest)
    title = f"{len(longest)} studies, {jobs} at a time"
    with console.status(title) if console.is_terminal else nullcontext() as status:
        for record in studies.perform_all({name: settings[name] for name in longest}, jobs):
            waiting.remove(record.attrs["study"])
            line = f"{title}; waiting for {', '.join(waiting) or 'nothing'}"
            if status is not None:
                status.update(line)
            else:
                typer.echo(f"{line} ...", err=True)
            yield record


def _perform(name: str, settings: object, title: str) -> "xr.Dataset":
    """Run a study under a line that says what is being waited for."""
    from rich.console import Console

    from ranklens import progress, studies

    console = Console(stderr=True)
    if not console.is_terminal:
        typer.echo(f"{title} ...", err=True)
        return studies.perform(name, settings)
    with console.status(title) as status, progress.reporting_to(lambda text: status.update(f"{title}: {text}")):
        return studies.perform(name, settings)


def _check_folder(out: Path) -> None:
    """Say at once what would only show after minutes of work."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")


def _tell(made: "Entry") -> None:
    from ranklens import report

    typer.echo(f"\n{made.title} ({made.seconds:.0f} s)")
    for claim in made.claims:
        mark = "holds" if claim.holds else "FAILS" if claim.kind == "theorem" else "no"
        typer.echo(
            f"  {mark:5} {claim.kind}: {claim.statement}: {report.number(claim.measured)} ({report.bound(claim)})"
        )


@contextmanager
def _usage() -> Iterator[None]:
    """Turn a wrong name or value into a message and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError, OSError) as error:
        typer.echo(f"ranklens: {error}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """The entry point."""
    sys.exit(app())
