"""The download of one file: it ends when the server sends too much or too slowly."""

import threading
import time
from pathlib import Path

from ranklens.progress import Report

# Largest number of bytes of a download: more than any archive of the catalogue, which has 170 MB at most.
LARGEST_DOWNLOAD = 2**28
# Least bytes per second, on average, of a download that goes on, and seconds before it is held to them.
SLOWEST, PATIENCE = 5_000, 60.0
# Seconds without an answer, after which an address counts as out of reach.
SECONDS = 30


def download(home: str, path: Path, report: Report) -> None:
    """Download the file of this name from an address.

    The download runs in a thread of its own, which is left alone when the server sends too slowly: nothing stops it
    before the server's next bytes.

    Args:
        home: address of the folder in which the file is published.
        path: where to write it; its name is the name of the published file.
        report: called with a line of text after every part.

    Raises:
        OSError: if the server sends too slowly, or more than `LARGEST_DOWNLOAD` bytes, or cannot be reached.
    """
    coming = _Coming(f"{home.rstrip('/')}/{path.name}", path, report)
    started, worker = time.monotonic(), threading.Thread(target=coming.run, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(timeout=1.0)
        seconds = time.monotonic() - started
        if worker.is_alive() and seconds > PATIENCE and coming.done < SLOWEST * seconds:
            coming.left = True
            raise OSError(f"{path.name} came at less than {SLOWEST} bytes per second")
    if coming.error is not None:
        raise coming.error


class _Coming:
    """A download that is on its way.

    Args:
        address: the address of the file.
        path: the file to write.
        report: called with a line of text after every part.

    Attributes:
        done: number of bytes that have come.
        left: set to True if nobody waits for the download any more.
        error: why the download failed; None if it has not.
    """

    def __init__(self, address: str, path: Path, report: Report) -> None:
        self.address, self.path, self.report = address, path, report
        self.done, self.left = 0, False
        self.error: Exception | None = None

    def run(self) -> None:
        """Download the file, and keep the error if it fails."""
        import requests

        try:
            with requests.get(self.address, stream=True, timeout=SECONDS) as answer, self.path.open("wb") as file:
                answer.raise_for_status()
                whole = f" of {int(answer.headers.get('content-length', 0)) / 1e6:.1f}"
                for part in answer.iter_content(2**14):
                    file.write(part)
                    self._count(len(part))
                    self.report(f"{self.path.name}: {self.done / 1e6:.1f}{whole.removesuffix(' of 0.0')} MB")
        except Exception as error:  # it is raised again in the thread that waits
            self.error = error

    def _count(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            OSError: if they are too many, or nobody waits for them.
        """
        self.done += size
        if self.left or self.done > LARGEST_DOWNLOAD:
            raise OSError(f"{self.path.name} has more than {LARGEST_DOWNLOAD} bytes, as no file of a data set has")
