"""Whether an HDF5 file can be read without harm: tried in a process of its own, with bounds on time and memory.

The HDF5 library reads damaged or malicious files too: it follows external files and virtual datasets to any file of
the user, allocates whatever size a header declares, and can loop for ever. Run as a script, this file reads the paths
on its standard input and tries each one, so it imports nothing of the package.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

SECONDS = 5.0  # to try one file, and one second more for every 20 MB of it
BYTES_PER_SECOND = 20e6
# Largest size of the arrays in a file over the size of the file. Deflate compresses by a factor of at most 1,032.
LARGEST_RATIO = 1100
ALLOWANCE = 2**24  # bytes that arrays may take however small the file is
MEMORY = 2**29  # bytes of memory for the trial, beside twice the largest array
MOST_OBJECTS = 100_000  # groups and datasets in one file
START = 60.0  # seconds for the process to start, on a busy machine


def check(paths: Sequence[Path]) -> dict[Path, str]:
    """Return for every HDF5 file why it cannot be read, or the empty string if it can.

    A file passes if it holds only groups and datasets of its own: no link or dataset that leads to another file or
    place, no more than `LARGEST_RATIO` bytes of arrays per byte of the file; and if all of it can be read within
    `SECONDS` and within bounds of memory.

    Args:
        paths: the files. All are tried by one process, which is replaced after a file that it does not survive.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.nc"
    >>> with h5py.File(path, "w") as file:
    ...     file["x"] = h5py.SoftLink("/y")
    >>> check([path])[path]
    "it holds a link named 'x'"
    """
    left, found = list(paths), {}
    while left:
        for path, why in _tried(left):
            found[path] = why
        left = [path for path in left if path not in found]
    return found


def _tried(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Start a process, and yield each file with its result; end after the first one that the process does not survive.

    Args:
        paths: the files, at least one.

    Yields:
        A path, and why it cannot be read, or the empty string.
    """
    command, pipe = [sys.executable, "-P", __file__], subprocess.PIPE
    places = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=places) as child:
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(child, lines), daemon=True).start()
        try:
            _line(lines, START)
            for path in paths:
                limit = SECONDS + path.stat().st_size / BYTES_PER_SECOND
                assert child.stdin is not None
                child.stdin.write(json.dumps(str(path.absolute())) + "\n")
                child.stdin.flush()
                answer = _line(lines, limit)
                yield path, f"reading it takes more than {limit:.0f} seconds" if answer is None else answer
                if answer is None or answer == _CRASHED:
                    return
        except BrokenPipeError:
            yield path, _CRASHED
        finally:
            child.kill()


_CRASHED = "reading it crashes the HDF5 library, or needs more memory than its size allows"


def _forward(child: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    """Put every line that a process writes into a queue, and `_CRASHED` when it ends."""
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(json.loads(line))
    lines.put(_CRASHED)


def _line(lines: "queue.Queue[str]", seconds: float) -> str | None:
    """Return the next line of a process, or None if there is none in that time."""
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return None


def _why_not(path: str) -> str:
    """Return why a file cannot be read, or the empty string, after reading all of it."""
    try:
        _bound_memory(0)
        with h5py.File(path, "r") as file:
            found: list[h5py.Group | h5py.Dataset] = [file]
            why = _walk(file, found)
            arrays = [item for item in found if isinstance(item, h5py.Dataset) and item.shape is not None]
            sizes = [array.size * array.dtype.itemsize for array in arrays]
            if why or sum(sizes) > LARGEST_RATIO * Path(path).stat().st_size + ALLOWANCE:
                return why or f"its arrays would take {sum(sizes):.3g} bytes, too many for a file of this size"
            _bound_memory(max(sizes, default=0))
            for item in found:
                dict(item.attrs)
            for array in arrays:
                array[()]
    except MemoryError:
        return _CRASHED
    except Exception as error:  # h5py raises errors of almost every class on damaged files
        return f"{type(error).__name__}: {error}"
    return ""


def _walk(file: h5py.File, found: list[h5py.Group | h5py.Dataset]) -> str:
    """Append all groups and datasets of a file; return why one must not be read, or the empty string."""
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"it holds a link named {name!r}"
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST_OBJECTS:
                return f"it holds more than {MOST_OBJECTS} objects"
            if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                return f"its dataset {name!r} is kept in another file"
            if isinstance(item, h5py.Group):
                groups.append(item)
            if isinstance(item, h5py.Group | h5py.Dataset):  # a named type holds no values
                found.append(item)
    return ""


def _bound_memory(largest: int) -> None:
    """Let this process have no more memory than it has now, `MEMORY` bytes, and twice the largest array."""
    try:
        import resource

        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except (ImportError, OSError):  # elsewhere than on Linux only the time is bounded
        return
    limit = int(pages) * resource.getpagesize() + MEMORY + 2 * largest
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file behind


def main() -> None:
    """Answer every path on the standard input, one JSON string per line, by one line: why it cannot be read."""
    np.seterr(all="ignore")
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        print(json.dumps(_why_not(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
