"""What the commands print: a table of the studies of a talk that follows its course, and claims in lines that fit."""

import shutil
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ranklens.report import wording
from ranklens.studies.kit.claim import Claim

if TYPE_CHECKING:  # a talk imports matplotlib when its first study has run
    from ranklens.report.entries import Entry, Failure

# Lines of a terminal that the live table leaves free: its head, two summaries and the line of progress.
MARGIN = 7
STYLES = {"holds": "green", "finding fails": "yellow", "FAILS": "bold red", "ERROR": "bold red", "running": "cyan"}


@dataclass
class Row:
    """The state of one study.

    Attributes:
        name: name of the study.
        state: "waiting", "running", "holds", "finding fails", "FAILS" for a theorem or exactness that does not hold, or
            "ERROR" for a study without a record.
        seconds: duration of the run; None before its end.
        must: how many of the claims that must hold do, such as "9 of 9".
        findings: how many of the findings hold.
        started: time of the clock at which the study was begun.
    """

    name: str
    state: Literal["waiting", "running", "holds", "finding fails", "FAILS", "ERROR"] = "waiting"
    seconds: float | None = None
    must: str = ""
    findings: str = ""
    started: float = 0.0


class Board:
    """A table of studies with the state, the seconds and the verdict of each, in the order in which they are given.

    As a rich renderable it shows as many rows as the terminal has room for, and sums up the others; `final` shows all.

    Args:
        names: names of the studies.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.rows = {name: Row(name) for name in names}
        self.progress = ""

    def begin(self, name: str) -> None:
        """Mark a study as running."""
        if self.rows[name].state == "waiting":
            self.rows[name].state, self.rows[name].started = "running", time.monotonic()

    def end(self, made: "Entry") -> None:
        """Write down the verdict of a study."""
        self.progress = ""
        row = self.rows[made.name]
        row.seconds = made.seconds
        row.must = _share([claim for claim in made.claims if claim.must_hold])
        row.findings = _share([claim for claim in made.claims if not claim.must_hold])
        all_hold = all(claim.holds for claim in made.claims)
        row.state = "FAILS" if not made.sound else "holds" if all_hold else "finding fails"

    def fail(self, failure: "Failure") -> None:
        """Mark a study that has no record."""
        self.progress = ""
        self.rows[failure.name].state = "ERROR"

    @property
    def finished(self) -> int:
        """Return the number of studies that are not waiting or running."""
        return sum(row.state not in {"waiting", "running"} for row in self.rows.values())

    def line(self, name: str) -> str:
        """Return what the table says about a study as one line, for logs."""
        row = self.rows[name]
        parts = [f"{self.finished}/{len(self.rows)} {name}: {row.state}"]
        parts += [f"{row.seconds:.1f} s"] if row.seconds is not None else []
        parts += [f"must hold {row.must}"] if row.must else []
        return ", ".join([*parts, *([f"findings {row.findings}"] if row.findings else [])])

    def __rich__(self) -> Group:
        """Return the table with the rows that fit, and the line of progress."""
        rows = list(self.rows.values())
        room = max(3, shutil.get_terminal_size().lines - MARGIN)
        waiting = [row for row in rows if row.state == "waiting"]
        done = [row for row in rows if row.state not in {"waiting", "running"}]
        too_many = max(0, len(rows) - room)
        later = waiting[len(waiting) - min(too_many, len(waiting)) :]
        earlier = done[: too_many - len(later)]
        shown = [row for row in rows if row not in later and row not in earlier]
        summary = [f"{len(earlier)} more have finished"] if earlier else []
        summary += [f"{len(later)} more are waiting"] if later else []
        parts = [*([", ".join(summary)] if summary else []), *([self.progress] if self.progress else [])]
        return Group(
            self._table(shown), *(Text(part, style="dim", no_wrap=True, overflow="ellipsis") for part in parts)
        )

    def final(self) -> Table:
        """Return the table with all rows."""
        return self._table(list(self.rows.values()))

    def _table(self, rows: Sequence[Row]) -> Table:
        """Return a table of some of the studies that fits into 80 columns.

        Its columns stay where they are, whichever studies are shown and whatever their states are.
        """
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("study", no_wrap=True, min_width=max(map(len, self.rows), default=0))
        table.add_column("state", no_wrap=True, min_width=max(map(len, STYLES)))
        for column in ("seconds", "must hold", "findings"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            seconds = time.monotonic() - row.started if row.state == "running" else row.seconds
            shown = "" if seconds is None else f"{seconds:.0f}" if row.state == "running" else f"{seconds:.1f}"
            table.add_row(row.name, Text(row.state, style=STYLES.get(row.state, "dim")), shown, row.must, row.findings)
        return table


def _share(claims: Sequence[Claim]) -> str:
    """Return how many claims hold, such as "3 of 4"; "" for none."""
    return f"{sum(claim.holds for claim in claims)} of {len(claims)}" if claims else ""


def summarize(board: Board, found: "Sequence[Entry]") -> None:
    """Print the table of a talk in the talk's order, and the claims that do not hold."""
    console().print(board.final())
    for made in found:
        fallen = [claim_lines(claim) for claim in made.claims if not claim.holds]
        if fallen:
            print("\n".join([made.name, *fallen, ""]))


def claim_lines(claim: Claim) -> str:
    """Return a claim as lines that fit into the terminal: its verdict, kind and numbers, then its sentence.

    >>> print(claim_lines(Claim("finding", "The gap is small.", 0.5, "<=", 1.0, "own experiment")))
      holds  finding: measured 0.5, expected ≤ 1
             The gap is small. [own experiment]
    """
    mark = "holds" if claim.holds else "FAILS" if claim.must_hold else "no"
    numbers = f"measured {claim.measured:.4g}, expected {wording.bound(claim)}"
    head = f"  {mark:5}  {claim.kind}: {numbers}"
    return f"{head}\n{wrap(f'{claim.statement} [{claim.source}]', indent=9)}"


def wrap(text: str, *, indent: int) -> str:
    """Return a text in lines that fit into the terminal, each indented by some columns.

    >>> wrap("one two", indent=2)
    '  one two'
    """
    width = max(indent + 20, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent)


def console() -> Console:
    """Return the console that tables are written to, which is the standard output.

    In a pipe it is as wide as the environment variable COLUMNS says, or 80 columns, and writes no colours.
    """
    return Console(highlight=False)
