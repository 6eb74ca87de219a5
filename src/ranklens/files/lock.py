"""A lock on a folder: one process at a time writes to it. The lock ends with its process, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where two processes may write to one folder
    fcntl = None  # type: ignore[assignment]

NAME = ".ranklens.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it does not exist.

    Args:
        folder: the folder. A file named `NAME` in it carries the lock while the context lasts.

    Yields:
        Nothing.

    Raises:
        ValueError: if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"another process writes to {folder}; wait for it, or give another folder") from error
        yield
        path.unlink(missing_ok=True)  # only by the process that had the lock
    finally:
        os.close(handle)
