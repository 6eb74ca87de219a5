"""The server of the laboratory: on this machine only, with a random token in its address, without access to files."""

import secrets
import select
import socket
import sys
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, urlsplit

import torch
import xarray as xr
from jinja2 import Environment, PackageLoader

from ranklens import drawing
from ranklens.dynamics.record import StoppedEarly
from ranklens.files import stored
from ranklens.lab import tables
from ranklens.lab.knobs import BOUNDS, FAMILIES, OPTIMIZERS, PRESETS, Knobs, parse, query
from ranklens.lab.script import script
from ranklens.lab.stream import Send, beating, message, stream
from ranklens.progress import reporting_to

HOST = "127.0.0.1"
PORT = 8765
MOST_RUNS = 4  # at a time; others wait until one of them ends
MOST_RECORDS = 16  # that are kept for export, the latest ones
BLOCK = 2**20  # bytes of an upload that are in memory at a time
MOST_IGNORED = 2**30  # bytes of a refused upload that are read: a browser shows no answer before it has sent all
LARGEST_UPLOAD = 2**28  # bytes of a checkpoint
LONGEST_TABLE = 2**21  # bytes of a pasted table
SECONDS = 20.0  # without a byte from a client, after which its connection is closed
# What the page may load: itself. Its styles and its script are in it, each with the number of this answer.
POLICY = (
    "default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Laboratory(ThreadingHTTPServer):
    """The server: answers the page, runs, exports, tables and checkpoints below an address with a random token.

    Args:
        port: port on 127.0.0.1; 0 takes any that is free.

    Attributes:
        token: the part of the address without which every answer is 404.
        slots: the places of runs that go on.
        checkpoints: the place of the checkpoint that is measured.
    """

    daemon_threads = True

    def __init__(self, port: int = PORT) -> None:
        self.token = secrets.token_urlsafe(16)
        self.slots = threading.BoundedSemaphore(MOST_RUNS)
        self.checkpoints = threading.BoundedSemaphore(1)  # one at a time, because weights are large
        self._records: OrderedDict[str, xr.Dataset] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def keep(self, knobs: Knobs, record: xr.Dataset) -> None:
        """Keep a finished record for export."""
        with self._lock:
            self._records[query(knobs)] = record
            while len(self._records) > MOST_RECORDS:
                self._records.popitem(last=False)

    def record(self, knobs: Knobs) -> xr.Dataset:
        """Return the record of a run, which is repeated if it is not kept any more."""
        with self._lock:
            found = self._records.get(query(knobs))
        if found is None:
            with self.slots:
                found = stream(knobs, lambda *_: None)
            self.keep(knobs, found)
        return found

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone; other errors are printed as usual."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answers one request. Every answer but that of a run is whole before it is sent."""

    server: Laboratory
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the address has the token."""

    def do_GET(self) -> None:
        """Answer the page, a run, or an export."""
        self._answer(
            {"": self._page, "run": self._run, "record": self._record, "figure": self._figure, "script": self._script}
        )

    def do_POST(self) -> None:
        """Answer a table or a checkpoint that was sent."""
        self._answer({"table": self._table, "checkpoint": self._checkpoint})

    def _answer(self, ways: Mapping[str, Callable[[dict[str, str]], None]]) -> None:
        """Answer by the function of a path, or by 404; a wrong value is 400 with its message."""
        parts = urlsplit(self.path)
        way = parts.path.removeprefix(f"/{self.server.token}/")
        known = self.headers.get("Host") in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        )
        if not known or way == parts.path or way not in ways:
            self._send(404, b"there is no such page; open the address that `ranklens lab` printed")
            return
        try:
            ways[way](dict(parse_qsl(parts.query, keep_blank_values=True)))
        except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
            self._send(400, (str(error) or type(error).__name__).encode())

    def _send(self, code: int, content: bytes, kind: str = "text/plain; charset=utf-8", **headers: str) -> None:
        self.send_response(code)
        told = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        told |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in (told | {key.replace("_", "-"): value for key, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _page(self, _: dict[str, str]) -> None:
        number = secrets.token_urlsafe(12)
        content = page(number).encode()
        self._send(200, content, "text/html; charset=utf-8", Content_Security_Policy=POLICY.format(number))

    @contextmanager
    def _events(self, places: threading.BoundedSemaphore) -> Iterator[Send]:
        """Answer by server-sent events, from a free place on; a wrong value is the event "failed" with its message.

        A page that has gone ends the work inside the context at the next event, or before it begins.

        Args:
            places: one of them is held while the context lasts.

        Yields:
            The function that sends an event.
        """
        self.send_response(200)
        told = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Connection": "close"}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

        def send(kind: str, content: dict[str, object]) -> None:
            self._check_client()
            self.wfile.write(message(kind, content))
            self.wfile.flush()

        while not places.acquire(timeout=1.0):
            send("wait", {})
        try:
            self._check_client()
            yield send
        except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
            send("failed", {"why": str(error) or type(error).__name__})
        finally:
            places.release()

    def _check_client(self) -> None:
        """Do nothing while the client is there.

        Raises:
            ConnectionAbortedError: if it has closed its connection. A write would notice only at the second attempt.
        """
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError

    def _run(self, given: dict[str, str]) -> None:
        with self._events(self.server.slots) as send:
            knobs = parse(given)
            self.server.keep(knobs, stream(knobs, send))

    def _record(self, given: dict[str, str]) -> None:
        knobs = parse(given)
        with tempfile.TemporaryDirectory() as folder:
            content = stored.save(
                self.server.record(knobs).assign_attrs(knobs=asdict(knobs)), Path(folder) / "run.nc"
            ).read_bytes()
        self._send(200, content, "application/x-netcdf", Content_Disposition='attachment; filename="run.nc"')

    def _figure(self, given: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.svg"
            drawing.plot(self.server.record(parse(given))).savefig(path)
            content = path.read_bytes()
        self._send(200, content, "image/svg+xml", Content_Disposition='attachment; filename="run.svg"')

    def _script(self, given: dict[str, str]) -> None:
        self._send(200, script(parse(given)).encode())

    def _table(self, _: dict[str, str]) -> None:
        with tempfile.TemporaryFile() as file:
            self._receive(file, LONGEST_TABLE)
            file.seek(0)
            text = file.read().decode("utf-8-sig", "replace")
        with self._events(self.server.slots) as send, reporting_to(beating(send)):
            send("found", tables.complete(text))

    def _checkpoint(self, _: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.safetensors"
            with path.open("wb") as file:
                self._receive(file, LARGEST_UPLOAD)
            with self._events(self.server.checkpoints) as send, reporting_to(beating(send)):
                send("found", tables.profile(path))

    def _receive(self, file: IO[bytes], most: int) -> None:
        """Write what was sent with a request to a file.

        Raises:
            ValueError: if its length is not said, or too large.
        """
        length = self.headers.get("Content-Length", "")
        count = int(length) if length.isdigit() and len(length) < 16 else None
        if count is None or count > MOST_IGNORED:
            self.close_connection = True
        else:
            for begin in range(0, count, BLOCK):
                block = self.rfile.read(min(BLOCK, count - begin))
                if count <= most:
                    file.write(block)
        if count is None or count > most:
            raise ValueError(f"what was sent has {length or 'an unknown number of'} bytes; at most {most} are taken")


def page(number: str) -> str:
    """Return the page of the laboratory.

    Args:
        number: the number that its style and its script carry, and that its policy names.
    """
    environment = Environment(loader=PackageLoader("ranklens", "templates"), autoescape=True, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # knobs keep their order
    facts = {
        "first": asdict(Knobs()),
        "bounds": {name: asdict(bounds) for name, bounds in BOUNDS.items()},
        "families": FAMILIES,
        "optimizers": OPTIMIZERS,
        "most": {"table": LONGEST_TABLE, "checkpoint": LARGEST_UPLOAD},
        "presets": {name: {"title": title, "knobs": asdict(knobs)} for name, (title, knobs) in PRESETS.items()},
    }
    return environment.get_template("lab.html").render(number=number, facts=facts)


def serve(server: Laboratory) -> None:
    """Answer requests until Ctrl-C, with one thread of torch: runs are small, and several may go on at a time."""
    warnings.simplefilter("ignore", StoppedEarly)  # the page says how a run has ended
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    stream(Knobs(size=4), lambda *_: None)  # the first run of a process loads what the others need
    threading.Thread(target=_load, daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        torch.set_num_threads(before)


def _load() -> None:
    """Import what the first descent and the first export need, which takes two seconds, while the page is looked at."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    drawing.plot(stream(Knobs(size=4), lambda *_: None))
