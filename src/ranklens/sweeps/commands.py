"""The commands `ranklens sweep` and `ranklens runs`.

torch and xarray are imported inside them, so that the help of other commands appears at once.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import xarray as xr

    from ranklens.progress import Report
    from ranklens.sweeps.entry import Entry
    from ranklens.sweeps.store import Store

# A range of integers, such as 0:20 or 0:20:5.
RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?")
# Letters of a key that are shown, and that usually choose one run.
SHORT = 8
# Exit codes: a run could not be made; the command was interrupted from the keyboard.
FAILED_CODE, INTERRUPTED_CODE = 3, 130
Folder = Annotated[Path, typer.Option("--store", help="Folder that keeps the runs.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="Choose the runs with this setting: name=value. May be repeated.")
]


def sweep(
    study: Annotated[str, typer.Argument(help="Name of a study; `ranklens list` shows them.")],
    values: Annotated[
        list[str], typer.Argument(help="Settings and their values: depth=2,3,4 or seed=0:20 (20 is left out).")
    ],
    *,
    preset: Annotated[str, typer.Option("--preset", help="The preset whose other settings are used.")] = "laptop",
    fixed: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a setting in all runs: name=value. May be repeated.")
    ] = None,
    executor: Annotated[str, typer.Option("--executor", help="local, or ray for a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Address of the Ray cluster, such as auto.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; by default one per core.")] = None,
    store: Folder = Path("store"),
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: a figure (.png, .svg, .pdf), .nc or .csv.")
    ] = None,
) -> None:
    """Run a study at every combination of some settings, and keep the runs; exit code 3 if a run failed.

    Runs that the store has are not made again, so the same command goes on after an interrupt.

    Raises:
        Exit: with code 3 if a run failed, and 130 after Ctrl-C.
        ValueError: for a setting that is named twice.
    """
    from ranklens.sweeps import sweep as sweeps

    over = {name: values_of(text) for name, text in map(_pair, values)}
    if len(over) < len(values):
        raise ValueError(f"{' '.join(values)} names a setting twice; give all its values at once: name=value,value")
    constant = {name: value_of(text) for name, text in map(_pair, fixed or [])}
    if out is not None:
        _check_out(out)
    try:
        with _following() as tell, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = sweeps.sweep(
                study,
                over,
                fixed=constant,
                preset=preset,
                executor=executor,
                store=store,
                jobs=jobs,
                address=address,
                progress=tell,
            )
    except sweeps.SweepInterrupted as error:
        typer.echo(f"ranklens: {error}", err=True)
        raise typer.Exit(INTERRUPTED_CODE) from error
    for each in caught:
        typer.echo(f"{each.message}\n", err=True)
    typer.echo(f"{data['stopped'].size} runs in {store}; `rl.open_store({str(store)!r})` reads them")
    if out is not None:
        typer.echo(f"written to {_write(data, out).resolve()}")
    raise typer.Exit(FAILED_CODE if (data["stopped"] == "failed").any() else 0)


def runs(
    *,
    store: Folder = Path("store"),
    what: Annotated[str | None, typer.Option("--what", help="Choose the runs of this function or study.")] = None,
    where: Where = None,
    state: Annotated[
        str | None,
        typer.Option("--state", help="Choose runs that are done, failed, or early (stopped before their goal)."),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Choose the run whose key begins so.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Print all that is known of each run.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the chosen runs from the store.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write the chosen runs to: a figure, .nc or .csv.")
    ] = None,
) -> None:
    """List the runs of a store, choose some of them, and open or remove these.

    Raises:
        ValueError: for a state that no run can have.
    """
    from ranklens.sweeps.store import Store

    if state not in (None, "done", "failed", "early"):
        raise ValueError(f"--state {state} is none of done, failed and early")
    if out is not None:
        _check_out(out)
    kept = Store(store, create=False)
    wanted = {name: value_of(text) for name, text in map(_pair, where or [])}
    found = list(kept.all_entries())
    chosen = [each for _, each in found if not isinstance(each, str) and _is_chosen(each, what, wanted, state, key)]
    text = "\n\n".join(_whole(kept, entry) for entry in chosen) if show else "\n".join(map(_line, chosen))
    typer.echo(text)
    for path, why in found:
        if isinstance(why, str):
            typer.echo(f"damaged: {path}: {why}", err=True)
    typer.echo(f"{len(chosen)} runs", err=True)
    if out is not None:
        from ranklens.sweeps.opened import runs_as_dataset

        typer.echo(f"written to {_write(runs_as_dataset(kept, chosen), out).resolve()}", err=True)
    if delete and chosen and (yes or typer.confirm(f"remove these {len(chosen)} runs?")):
        for entry in chosen:
            kept.remove(entry.key)
        typer.echo(f"removed {len(chosen)} runs", err=True)


def values_of(text: str) -> list[object]:
    """Return the values that a text lists: a range of integers, JSON values, or words, separated by commas.

    Raises:
        ValueError: for a range with step 0.

    >>> values_of("0:3"), values_of("1e-3,1e-2"), values_of("adam,sgd"), values_of("[8,8],[9,9]")
    ([0, 1, 2], [0.001, 0.01], ['adam', 'sgd'], [[8, 8], [9, 9]])
    """
    match = RANGE.fullmatch(text)
    if match is not None:
        first, last, step = match.groups()
        if step is not None and int(step) == 0:
            raise ValueError(f"the range {text} has step 0; write first:last:step with another step")
        return list(range(int(first), int(last), 1 if step is None else int(step)))
    try:
        return list(json.loads(f"[{text}]"))
    except (ValueError, RecursionError):
        return [value_of(part) for part in text.split(",")]


def value_of(text: str) -> object:
    """Return the value that a text stands for: JSON, or a word, which stands for itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{text!r} is no setting; write name=value, such as depth=2,3,4")
    return name, value


@contextmanager
def _following() -> "Iterator[Report]":
    """Yield a function that shows the progress: on a terminal in one line, else as lines when much has changed."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("starting") as status:
            yield status.update
        return
    told: list[int] = []

    def tell(line: str) -> None:
        ended, total = (int(word) for word in re.findall(r"\d+", line)[:2])
        if not told or ended == total or (ended - told[-1]) * 10 >= total:
            told.append(ended)
            typer.echo(line, err=True)

    yield tell


def _check_out(out: Path) -> None:
    kinds = (".png", ".svg", ".pdf", ".nc", ".csv")
    if out.suffix.lower() not in kinds:
        raise ValueError(f"--out {out} ends in {out.suffix or 'nothing'}; end it in one of {', '.join(kinds)}")


def _write(data: "xr.Dataset", out: Path) -> Path:
    """Write runs as a figure, a record or a table, by the suffix of the file."""
    from ranklens.drawing.records import plot
    from ranklens.files import stored, writing

    if out.suffix.lower() == ".nc":
        return stored.save(data.load(), out)
    with writing.atomic(out) as name:
        if out.suffix.lower() == ".csv":
            data.to_dataframe().to_csv(name)
        else:
            plot(data).savefig(name, dpi=150)
    return out


def _is_chosen(entry: "Entry", what: str | None, where: dict[str, object], state: str | None, key: str | None) -> bool:
    """Return whether a run is one of those that the options choose."""
    settings = json.loads(json.dumps(entry.settings)) if where else {}
    return (
        (what is None or entry.what.endswith(what))
        and all(_matches(settings, name, value) for name, value in where.items())
        and (state is None or (entry.early and entry.state == "done" if state == "early" else entry.state == state))
        and (key is None or entry.key.startswith(key))
    )


def _matches(settings: dict[str, object], name: str, value: object) -> bool:
    """Return whether a run has a setting; one that holds a single value may be named by its singular, as seed=0."""
    if name not in settings and f"{name}s" in settings:
        return settings[f"{name}s"] in (value, [value])
    return name in settings and settings[name] == value


def _line(entry: "Entry") -> str:
    """Return a run in one line."""
    from ranklens.sweeps.grid import words

    early = ", early" if entry.early and entry.state == "done" else ""
    how = entry.error() if entry.state == "failed" else f"{entry.stopped}{early}"
    return f"{entry.key[:SHORT]}  {entry.what}  {words(entry.settings)}  {entry.seconds:.1f} s  {how}"


def _whole(kept: "Store", entry: "Entry") -> str:
    """Return all that is known of a run, in several lines."""
    lines = [_line(entry), f"  key: {entry.key}", f"  ended: {entry.ended}, by ranklens {entry.version}"]
    lines += [f"  {name}: {value}" for name, value in entry.settings.items()]
    lines += [f"  {name}: {count}" for name, count in entry.counts.items()]
    for name, variable in entry.variables.items():
        value = "" if variable.values is None else f" = {variable.values}"
        lines.append(f"  variable {name} {dict(zip(variable.dims, variable.shape, strict=True)) or ''}{value}".rstrip())
    lines += [f"  file {kept.folder(entry.key) / each.name}" for each in entry.files()]
    lines += [f"  warned: {text}" for text in entry.warned]
    return "\n".join([*lines, *(f"  {line}" for line in entry.failure.splitlines())])
