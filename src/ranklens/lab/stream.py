"""A run as a stream of messages: rows as they are recorded, the end tensor as an image, and the line of reading."""

import json
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from torch import Tensor

from ranklens.dynamics import checkpoint
from ranklens.lab.experiment import Experiment, unfolded
from ranklens.lab.knobs import Knobs
from ranklens.lab.reading import CUT, due_at, next_escape, reading
from ranklens.progress import Report

Send = Callable[[str, dict[str, object]], None]
FIRST = 0.02  # processor seconds until the first message with rows, so that curves begin at once
SECONDS = 0.1  # processor seconds from one message with rows to the next
BEAT = 0.5  # seconds between messages that only say that the run goes on
MOST_CURVES = 24  # of the largest values at the end of the rows that are sent
MOST_ROWS = 1500  # that are sent of one run; of more, every second, third, ... one
DIGITS = 6  # significant digits of the numbers that are sent


@dataclass
class Stream:
    """Sends the rows of a run while it goes on.

    Args:
        experiment: the run.
        send: sends a message of a kind; what it raises ends the run.
        seconds: processor time from the start to the first message with rows.
        later: processor time from one message with rows to the next.

    Attributes:
        seconds: processor time from the last message with rows, or from the start, to the next one.
        sent: number of rows that have been sent.
    """

    experiment: Experiment
    send: Send
    seconds: float = FIRST
    later: float = SECONDS
    sent: int = field(default=0, init=False)

    def find(self, name: str) -> xr.Dataset | None:
        """Return None: every run of the page begins at its start."""
        return None

    def keep(self, name: str, record: xr.Dataset) -> None:
        """Send the rows that are new in a record."""
        self.rows(record)
        at = float(record[axis_of(record)][-1])
        self.send("state", _state(self.experiment, at))

    def view(self, record: xr.Dataset) -> None:
        """Send the rows that are new in the record of a run that keeps no checkpoints."""
        self.keep("", record)

    def rows(self, record: xr.Dataset) -> None:
        """Send the rows of a record that have not been sent."""
        new = record.isel({axis_of(record): slice(self.sent, None)})
        if new.sizes[axis_of(record)]:
            self.send("rows", _rows(new))
            self.seconds = self.later
            self.sent = record.sizes[axis_of(record)]


def stream(knobs: Knobs, send: Send) -> xr.Dataset:
    """Run what knobs describe, and return the record.

    The messages are: "start" (what is shown, and the target), "rows", "state" (the end tensor, the reading, the
    predicted escape) in turn, and "end" (why the run has stopped).

    Args:
        knobs: the settings.
        send: called with the kind of a message and its content, which JSON can hold; what it raises ends the run.

    Returns:
        The record of the run.
    """
    experiment = Experiment(knobs)
    send("start", _start(experiment))
    send("state", _state(experiment, 0.0))
    sender = Stream(experiment, send)
    with checkpoint.keeping(sender):
        record = experiment.run(beating(send))
    sender.rows(record)
    stopped = str(record.attrs["stopped"])
    at = float(record[axis_of(record)][-1])
    send("state", _state(experiment, at, stopped))
    send(
        "end", {"stopped": stopped, "seconds": record.attrs["seconds"], "evaluations": int(record.attrs["evaluations"])}
    )
    return record


def beating(send: Send) -> Report:
    """Return a function for the progress of a run, which sends the line of text every `BEAT` seconds.

    A page that has gone is noticed when a message cannot be sent: what `send` raises then ends the run.
    """
    last = clock.monotonic()

    def beat(text: str) -> None:
        nonlocal last
        if clock.monotonic() - last > BEAT:
            last = clock.monotonic()
            send("beat", {"doing": text})

    return beat


def axis_of(record: xr.Dataset) -> str:
    """Return the name of the coordinate of a record's rows: "time" or "step"."""
    return "time" if "time" in record.coords else "step"


def _start(experiment: Experiment) -> dict[str, object]:
    """Return what the page shows of a run before its first row."""
    is_flow = experiment.knobs.optimizer == "flow"
    return {
        "quantity": "singular value" if experiment.is_matrix else f"component norm at bond {experiment.bond}",
        "order": experiment.order,
        "axis": "time" if is_flow else "step",
        "target": _image(experiment.target),
        "goal": _plain(np.array(experiment.goals)),
        "observed": len(experiment.task),
        "entries": experiment.target.numel(),
    }


def _rows(record: xr.Dataset) -> dict[str, object]:
    """Return the rows of a record as lists."""
    step = max(1, record.sizes[axis_of(record)] // MOST_ROWS)
    rows = record.isel({axis_of(record): slice(None, None, step)})
    sizes, rates = rows["sigma"].values, rows["rate"].values
    largest = np.sort(np.argsort(-sizes[-1], kind="stable")[:MOST_CURVES])
    names = ("loss", "length", "effective_rank", "nuclear", "frobenius")
    return {
        "at": _plain(rows[axis_of(record)].values),
        "which": largest.tolist(),
        "sigma": _plain(sizes[:, largest]),
        "rate": _plain(rates[:, largest]),
        **{name: _plain(rows[name].values) for name in names},
    }


def _state(experiment: Experiment, at: float, stopped: str = "") -> dict[str, object]:
    """Return what the page shows of the present state."""
    escape = next_escape(experiment) if not stopped or stopped in CUT else None
    text = reading(experiment, at, escape, stopped)
    found: dict[str, object] = {"image": _image(experiment.end), "reading": text, "at": at}
    due = None if escape is None or stopped else due_at(experiment, escape, at)
    if escape is not None and due is not None:
        found["escape"] = {"at": due, "size": escape.size, "alignment": escape.alignment}
    return found


def _image(end: Tensor) -> list[list[float]]:
    """Return a tensor as the rows of a picture: a matrix as it is, else the first slice of two modes."""
    matrix = end if end.ndim == 2 else end.reshape(*end.shape[:2], -1)[:, :, 0] if end.ndim > 2 else unfolded(end)
    return _plain(matrix.detach().numpy())  # type: ignore[return-value]


def _plain(values: np.ndarray) -> list[object]:
    """Return numbers as nested lists with few digits; what is not finite becomes None, which JSON can hold."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    magnitude = np.where(np.isfinite(magnitude), magnitude, 0)
    scale = 10.0 ** np.clip(DIGITS - 1 - magnitude, -300, 300)
    rounded = np.where(np.isfinite(values), np.round(values * scale) / scale, np.nan)
    found: list[object] = np.where(np.isnan(rounded), None, rounded).tolist()  # type: ignore[call-overload]
    return found


def message(kind: str, content: dict[str, object]) -> bytes:
    """Return a message as a server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(content, allow_nan=False)}\n\n".encode()
