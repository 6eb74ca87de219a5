"""Locks on files and folders. A lock ends with the process that holds it, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

NAME = ".ranklens.lock"


def acquire(path: Path) -> int | None:
    """Return a handle that holds the lock of a file, which is made if it does not exist; None if it is held already.

    The folders of its path are made too. Pass the handle to `release`.

    Args:
        path: the file that carries the lock.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # whoever had the lock has removed the file since it was opened


def hold(handle: int) -> bool:
    """Return whether the lock of an open file was taken, which ends when the handle is closed or its process ends.

    Args:
        handle: the open file.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another has it, or the file system has no locks
        return False
    return True


def release(path: Path, handle: int) -> None:
    """Remove the file of a lock, and end the lock.

    Args:
        path: the file.
        handle: what `acquire` returned for it.
    """
    path.unlink(missing_ok=True)
    os.close(handle)


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
    path = folder / NAME
    handle = acquire(path)
    if handle is None:
        raise ValueError(f"another process writes to {folder}; wait for it, or give another folder")
    try:
        yield
    finally:
        release(path, handle)
