"""Writing of files as a whole or not at all."""

import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ranklens.files import lock

# Names of temporary files: a point, the name of the file that is written, what mkstemp adds, and its suffix again.
TEMPORARY = re.compile(r"\.(?P<target>.+)\.[a-z0-9_]{8}(?:\.[^.]*)?")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`, and rename it to `path` when the block ends without an error.

    A reader of `path` therefore finds the old file or the new one, never half of it. After an error the temporary
    file is removed, and what was at `path` stays. While it is written it is locked, so that `tidy` leaves it alone.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic(folder / "a.txt") as name:
    ...     _ = name.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    held, temporary = lock.hold(handle), Path(name)
    if not held:
        os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        if held:
            os.close(handle)


def tidy(folder: Path, names: Collection[str]) -> None:
    """Remove half-written files from a folder, which killed processes have left there.

    Args:
        folder: the folder. Without locks, on Windows and some network disks, nothing is removed.
        names: the names of the files that they were to become; other files stay.
    """
    for path in folder.glob(".*"):
        told = TEMPORARY.fullmatch(path.name)
        if told is None or told["target"] not in names or not path.is_file():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            if lock.hold(handle):  # whoever wrote it has ended
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _umask() -> int:
    """Return the process's file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
