"""The command `ranklens`.

torch, xarray and matplotlib are imported inside the commands that need them, so that help and lists appear at once.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.lab import commands as laboratory
from ranklens.report import commands as talking
from ranklens.sweeps import commands

if TYPE_CHECKING:
    import xarray as xr

    from ranklens.report.entries import Entry
    from ranklens.studies import Settings

app = typer.Typer(
    name="ranklens",
    help="Implicit rank lowering in deep learning: reproduce every figure of the talk and check every claim.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(
    name="data", help="List the data sets that studies use, and download them to the data folder.", no_args_is_help=True
)
app.add_typer(data)


def _show_version(wanted: bool) -> bool:
    """Return the value of the option --version if it was not given; else print the version and end the command.

    Raises:
        Exit: with code 0, after the version was printed.
    """
    if wanted:
        import ranklens

        typer.echo(f"ranklens {ranklens.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Accept the options that come before the name of a command."""


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="Name of a study; `ranklens list` shows them.")],
    *,
    preset: talking.Preset = "laptop",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a setting: name=value. May be repeated.")
    ] = None,
    out: talking.Out = Path("report"),
) -> None:
    """Run one study and write its figure and its record; exit code 1 if a theorem failed."""
    from ranklens import studies
    from ranklens.report import entries

    with _usage():
        settings = studies.override(studies.preset(study, preset), change or [])
        talking.check_folder(out)
        record = _perform(study, settings, study)
        made = entries.entry(record, preset)
    entries.keep(made, record, out)
    _tell(made)
    typer.echo(f"\nfigure: {(out / study).resolve()}.png; record: {study}.nc in the same folder")
    _finish(made.sound)


@app.command(name="list")
def show() -> None:
    """List the studies: what each shows, how long its presets take on one core, and its settings."""
    from ranklens import studies
    from ranklens.report import chapters
    from ranklens.report.terminal import wrap
    from ranklens.studies.outline import outline

    for name in chapters.in_order(studies.STUDIES):
        study = outline(name)
        minutes = ", ".join(f"{preset} {duration:g} min" for preset, duration in study.minutes.items())
        settings = ", ".join(f"{key}={value}" for key, value in study.settings.items())
        parts = [study.title, study.explanation, f"presets: {minutes}", f"settings: {settings}"]
        typer.echo("\n".join([name, *(wrap(part, indent=2) for part in parts), ""]))


@app.command()
def rank(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A safetensors file, a file of torch.save, an index of shards, or a folder with one of these."
        ),
    ],
    *,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="An earlier checkpoint of the same model: measure the change of every weight."),
    ] = None,
    products: Annotated[
        bool,
        typer.Option("--products", help="Measure W_Q^T W_K and W_O W_V of every head of attention layers."),
    ] = False,
    heads: Annotated[
        int | None,
        typer.Option("--heads", min=1, help="Number of heads, if there is no config.json beside the checkpoint."),
    ] = None,
    layouts: Annotated[
        Path | None,
        typer.Option("--layouts", help="A JSON file that says how attention layers of this model name their weights."),
    ] = None,
    energy: Annotated[float, typer.Option("--energy", help="Share of the squared norm that the rank keeps.")] = 0.99,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to compute singular values, such as cuda.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write: a table (.csv, .json), a record (.nc) or a figure (.png, .svg)."),
    ] = None,
) -> None:
    """Print the rank of every weight matrix in a checkpoint, next to the rank of a random matrix of its shape.

    One weight is in memory at a time. Exit code 2 if a file cannot be read or options do not go together.
    """
    from ranklens.nn.attention_products import LAYOUTS, attention_products, stored_layouts
    from ranklens.nn.rank_change import rank_difference
    from ranklens.nn.rank_profile import rank_profile
    from ranklens.nn.rank_table import check_path, text, write

    with _usage():
        _check_together(against, products, {"--heads": heads, "--layouts": layouts})
        if out is not None:
            check_path(out, is_profile=against is None)
        progress = sys.stderr.isatty()
        if against is not None:
            found = rank_difference(against, checkpoint, energy=energy, device=device, progress=progress)
        elif products:
            known = LAYOUTS if layouts is None else stored_layouts(layouts)
            found = attention_products(
                checkpoint, heads=heads, layouts=known, energy=energy, device=device, progress=progress
            )
        else:
            found = rank_profile(checkpoint, energy=energy, device=device, progress=progress)
        typer.echo(text(found))
        if out is not None:
            typer.echo(f"\nwritten to {write(found, out).resolve()}")


def _check_together(against: Path | None, products: bool, others: Mapping[str, object]) -> None:
    """Refuse options of `rank` that do not go together.

    Raises:
        ValueError: if one option excludes another, or needs one that is missing.
    """
    if against is not None and products:
        raise ValueError("--against and --products are both given; give one of them at a time")
    for name, value in others.items():
        if value is not None and not products:
            raise ValueError(f"{name} {value} is given without --products, which alone needs it")


@data.command()
def fetch(
    name: Annotated[list[str], typer.Argument(help="One or more of mnist, fashion-mnist, cifar10 and ml-100k.")],
    *,
    home: Annotated[
        str | None, typer.Option("--from", help="Address of a folder that has the published files.")
    ] = None,
) -> None:
    """Download the files of data sets that are missing from the data folder, and check their content.

    Exit code 2 if a file cannot be downloaded.
    """
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
    """List the data sets, and whether the data folder holds all their files."""
    from ranklens.data import catalogue, install

    typer.echo(f"data folder: {install.folder()} (set RANKLENS_DATA to use another)\n")
    for name, source in catalogue.SOURCES.items():
        typer.echo(f"{name}\n  {source.title}\n  {install.state(name)}")


def _perform(name: str, settings: "Settings", title: str) -> "xr.Dataset":
    """Return the record of a study; while it runs, a line on the terminal says which study it is and how far it is."""
    from rich.console import Console

    from ranklens import progress, studies

    console = Console(stderr=True)
    if not console.is_terminal:
        typer.echo(f"{title} ...", err=True)
        return studies.perform(name, settings)
    with console.status(title) as status, progress.reporting_to(lambda text: status.update(f"{title}: {text}")):
        return studies.perform(name, settings)


def _tell(made: "Entry") -> None:
    """Print the verdicts of a study."""
    from ranklens.report.terminal import claim_lines, wrap

    typer.echo(f"\n{wrap(f'{made.title} ({made.seconds:.0f} s)', indent=0)}")
    for claim in made.claims:
        typer.echo(claim_lines(claim))


def _finish(sound: bool) -> None:
    """End the command with the exit code that says whether every claim that must hold did.

    Raises:
        Exit: with code 0 if every theorem and exactness held, else 1.
    """
    raise typer.Exit(0 if sound else 1)


@contextmanager
def _usage() -> Iterator[None]:
    """Turn an error raised inside the block into a message and exit code 2.

    Raises:
        Exit: with code 2, for a wrong name, type or value and for a file that cannot be read or written.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError, OSError) as error:
        typer.echo(f"ranklens: {error}", err=True)
        raise typer.Exit(2) from error


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that turns its errors into a message and exit code 2."""

    @wraps(command)
    def guarded(*arguments: object, **options: object) -> None:
        with _usage():
            command(*arguments, **options)

    return guarded


app.command()(_guarded(talking.talk))
app.command()(_guarded(commands.sweep))
app.command()(_guarded(commands.runs))
app.command()(_guarded(laboratory.lab))


def main() -> None:
    """Run the command; this is the entry point of the installed script."""
    sys.exit(app())
