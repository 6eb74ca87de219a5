"""The store of runs: a folder with an entry, a record and networks per run, named by what was run and how.

Every file is written beside its name and renamed, and the entry is written last, so a run is in the store as a whole
or not at all. Names of files contain a digest of their content, so writers of one run do not spoil each other's files.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ranklens.files import lock, writing
from ranklens.sweeps.entry import DONE, Entry, File

FORMAT = "ranklens store 1"
MARK = "store.json"


class Store:
    """A folder of runs.

    Args:
        path: the folder, which is made if it does not exist.
        create: whether to make it.

    Raises:
        FileNotFoundError: without `create`, if there is no store at `path`.
        ValueError: if `path` is a file, or a folder with other things in it.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = Path(path).absolute()
        self._claims: dict[str, int] = {}
        mark = self.path / MARK
        if not mark.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                kind = "folder with other things in it" if self.path.is_dir() else "file"
                raise ValueError(f"store {os.fspath(path)} is a {kind}; give a new folder, or one that a sweep made")
            if not create:
                raise FileNotFoundError(f"there is no store {os.fspath(path)}; a sweep with store= makes one")
            with writing.atomic(mark) as name:
                name.write_text(json.dumps({"format": FORMAT, "id": secrets.token_hex(8)}), encoding="utf-8")
        try:
            told = json.loads(mark.read_text(encoding="utf-8"))["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{mark} is damaged, so this is no store: {type(error).__name__}: {error}") from error
        if told != FORMAT:
            raise ValueError(f"{mark} says {told!r}; this version of ranklens reads {FORMAT!r}")

    def folder(self, key: str) -> Path:
        """Return the folder of the files of a run, which it shares with other runs."""
        return self.path / "runs" / key[:2]

    def write(self, key: str, name: str, content: bytes) -> None:
        """Write a file of a run, whole or not at all.

        Raises:
            FileNotFoundError: if the store was removed meanwhile.
        """
        if not (self.path / MARK).exists():
            raise FileNotFoundError(f"the store {self.path} has been removed")
        with writing.atomic(self.folder(key) / name) as temporary:
            temporary.write_bytes(content)

    def read(self, key: str, name: str) -> bytes | None:
        """Return the content of a file of a run, or None if there is no such file."""
        try:
            return (self.folder(key) / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, key: str, *, beside: tuple[str, ...] = ()) -> None:
        """Remove all files of a run: its entry first, so that no reader finds half of it.

        Args:
            key: the run.
            beside: names of files that stay.
        """
        found = list(self.folder(key).glob(f"*{key}.*"))
        for path in sorted(found, key=lambda path: path.name != f"{key}.json"):
            if path.name not in beside and path.name != f"{key}.lock":
                path.unlink(missing_ok=True)

    def claim(self, key: str) -> bool:
        """Return whether this process may run something now: nobody else does, and nobody else will until `release`.

        A claim ends with the process that has it, however that ends.
        """
        if key in self._claims:
            return True
        handle = lock.acquire(self._lock(key))
        if handle is not None:
            self._claims[key] = handle
        return handle is not None

    def release(self, key: str) -> None:
        """End a claim."""
        handle = self._claims.pop(key, None)
        if handle is not None:
            lock.release(self._lock(key), handle)

    def _lock(self, key: str) -> Path:
        """Return the file that carries the claim on a run."""
        return self.folder(key) / f"{key}.lock"

    def tidy(self, key: str) -> None:
        """Remove half-written files of a run, which a killed process has left; only for whoever has claimed it."""
        for path in self.folder(key).glob(f".{key}.*"):
            path.unlink(missing_ok=True)

    def entry(self, key: str) -> Entry | None:
        """Return the entry of a run, or None if there is none or it is damaged."""
        content = self.read(key, f"{key}.json")
        with suppress(ValueError):
            return None if content is None else Entry.from_json(content)
        return None

    def is_whole(self, entry: Entry) -> bool:
        """Return whether a run has ended without an error, and its files are as they were written."""
        return entry.state == DONE and all(self._is_intact(entry.key, each) for each in entry.files())

    def _is_intact(self, key: str, file: File) -> bool:
        content = self.read(key, file.name)
        return content is not None and hashlib.sha256(content).hexdigest() == file.sha256

    def entries(self) -> Iterator[Entry]:
        """Return an iterator over the entries of all runs that can be read, in the order of their keys."""
        return (entry for _, entry in self.all_entries() if isinstance(entry, Entry))

    def all_entries(self) -> Iterator[tuple[Path, Entry | str]]:
        """Yield the file of every run in the order of their keys, with its entry, or with why it cannot be read."""
        for name in self._entry_files():
            try:
                with open(name, "rb") as file:
                    yield Path(name), Entry.from_json(file.read())
            except FileNotFoundError:  # the run has been removed meanwhile
                continue
            except (ValueError, OSError) as error:
                yield Path(name), str(error)

    def _entry_files(self) -> Iterator[str]:
        """Yield the names of the files of all entries. Texts, because thousands of paths take a second to compare."""
        folder = self.path / "runs"
        for place in sorted(os.listdir(folder)) if folder.is_dir() else []:
            inside = os.path.join(folder, place)
            for name in sorted(os.listdir(inside)) if os.path.isdir(inside) else []:
                if name.endswith(".json") and not name.startswith("."):
                    yield os.path.join(inside, name)

    def checked(self, key: str, file: File) -> Path:
        """Return the path of a file whose content is what was written.

        Raises:
            ValueError: if it is not.
        """
        path = self.folder(key) / file.name
        if not self._is_intact(key, file):
            raise ValueError(
                f"{path} is damaged or missing; run the sweep again, or remove the run by "
                f"`ranklens runs --store {self.path} --key {key[:8]} --delete`"
            )
        return path
