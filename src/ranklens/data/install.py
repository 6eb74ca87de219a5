"""The data folder: what lies in it is checked by its content, what is missing is fetched, whole or not at all."""

import gzip
import hashlib
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch

from ranklens.data.catalogue import File, Source, source
from ranklens.progress import Report, reporter

LARGEST = 2**30  # bytes: more than any file here unpacks to, so that a bomb does not fill the memory
SECONDS = 30  # of silence, after which a home counts as out of reach
SUMS = "SHA256SUMS"  # of files whose hashes nobody publishes, written when they came out of an archive that was checked
DAMAGED = (OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


def folder() -> Path:
    """Where data sets lie: the environment variable RANKLENS_DATA, else the platform's cache for ranklens.

    Each has its own folder in it, as in ``mnist/train-images-idx3-ubyte.gz``. It need not exist.

    >>> import os, ranklens as rl
    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, RANKLENS_DATA="/somewhere"):
    ...     rl.data.folder().as_posix()
    '/somewhere'
    """
    given = os.environ.get("RANKLENS_DATA")
    return Path(given).expanduser() if given else Path(pooch.os_cache("ranklens"))


def load(name: str) -> list[Any]:
    """The arrays of a data set's files, each checked by the hash of its unpacked content. The network is not used.

    Raises:
        ValueError: for a name that is none, or a file that is damaged or foreign.
        FileNotFoundError: for a file that is not there.
    """
    return [_read(name, file)[1] for file in source(name).files]


def fetch(name: str, *, home: str | None = None) -> Path:
    """Fetch what the data folder lacks of a data set, or has only damaged; nothing if it is whole.

    Everything is fetched and checked beside its place, and then moved there; if anything is missing or wrong, nothing
    is. From archives only the named files are read, whatever else and wherever else they would unpack to.

    Args:
        name: "mnist", "fashion-mnist", "cifar10" or "ml-100k".
        home: address of a folder with the published files (for images as .gz, else the archive); None takes their
            public homes in turn. An archive that lies in the data set's folder already needs no home.

    Returns:
        The folder of the files.

    Raises:
        ValueError: for a name that is none.
        OSError: when no home has the right content, or none can be reached; it names the files and where to put them.
    """
    wanted = source(name)
    missing = [file for file in wanted.files if not _whole(name, file)]
    if not missing:
        return _read(name, wanted.files[0])[0].parent
    target = folder() / wanted.folders[0]
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(), prefix=f".{name}.") as beside, reporter(None) as report:
        _move(_stage(name, missing, home, Path(beside), report), target)
    return target


def state(name: str) -> str:
    """Whether a data set lies in the data folder, in words."""
    try:
        return f"whole, in {[_read(name, file)[0].parent for file in source(name).files].pop()}"
    except FileNotFoundError:
        return f"not here; ranklens data fetch {name}"
    except ValueError as error:
        return str(error)


def _whole(name: str, file: File) -> bool:
    try:
        _read(name, file)
    except (ValueError, OSError):
        return False
    return True


def _read(name: str, file: File) -> tuple[Path, Any]:
    """The first of the places of a file where it is whole, and its array."""
    bases = [folder() / place for place in source(name).folders]
    found = [path for base in bases for path in (base / form for form in file.names) if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{name}: there is no {file.name} in {bases[0]}; run `ranklens data fetch {name}`, or put "
            f"{' or '.join(file.names)} there, or say in RANKLENS_DATA which folder has a folder {bases[0].name}"
        )
    problem: ValueError | None = None
    for path in found:
        try:
            return path, _checked(file, _unpacked(path), _sums(path.parent).get(path.name))
        except ValueError as error:
            problem = problem or ValueError(
                f"{path} is damaged or foreign: {error}; `ranklens data fetch {name}` replaces it"
            )
    assert problem is not None
    raise problem


def _unpacked(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    with _damage("it cannot be unpacked"), gzip.open(path) as packed:
        content = packed.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    return content


def _checked(file: File, content: bytes, noted: str | None = None) -> Any:
    """The array of a file's content, if that is what was published."""
    array = file.read(content)
    wanted = file.sha256 or noted
    found = hashlib.sha256(content if file.hashed == "bytes" else array.tobytes()).hexdigest()
    if wanted is not None and found != wanted:
        raise ValueError(f"its content has sha256 {found[:12]}..., the published one {wanted[:12]}...")
    return array


def _sums(base: Path) -> dict[str, str]:
    """{name: sha256}, as `sha256sum` writes them."""
    path = base / SUMS
    if not path.is_file():
        return {}
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[1]: row[0] for row in rows if len(row) == 2}


def _stage(name: str, missing: Sequence[File], home: str | None, beside: Path, report: Report) -> Path:
    """A folder of the missing files, checked, from the first home that has them all."""
    wanted, problems = source(name), []
    for place in [None, *((home,) if home else wanted.homes)] if wanted.archive else (home,) if home else wanted.homes:
        staged = Path(tempfile.mkdtemp(dir=beside)) / "files"  # which, unlike mkdtemp's, is not private
        staged.mkdir()
        try:
            if wanted.archive is None:
                _gather(missing, str(place), staged, report)
            else:
                _extract(wanted, missing, _archive(wanted, place, staged.parent, report), staged)
        except FileNotFoundError:
            continue  # no archive lies here
        except (ValueError, OSError) as error:
            problems.append(f"{place or folder() / wanted.folders[0]}: {str(error).partition(' (Caused by')[0]}")
        else:
            return staged
    files = wanted.archive.name if wanted.archive else ", ".join(file.name for file in missing)
    raise OSError(
        f"{name} could not be fetched ({'; '.join(problems)}). Fetch {files} by other means, put it into "
        f"{folder() / wanted.folders[0]} and run `ranklens data fetch {name}` again"
    )


def _gather(missing: Sequence[File], home: str, staged: Path, report: Report) -> None:
    for file in missing:
        path = staged / f"{file.name}.gz"
        _download(home, path, report)
        _checked(file, _unpacked(path))


def _archive(wanted: Source, home: str | None, beside: Path, report: Report) -> Path:
    """The archive, if its hash is right: the one that lies in the data folder, or one from a home."""
    assert wanted.archive is not None
    path = folder() / wanted.folders[0] / wanted.archive.name
    if home is None and not path.is_file():
        raise FileNotFoundError(path)
    if home is not None:
        path = beside / wanted.archive.name
        _download(home, path, report)
    if wanted.archive.md5 is not None and pooch.file_hash(str(path), alg="md5") != wanted.archive.md5:
        raise ValueError(f"{path.name} has not the published md5 {wanted.archive.md5}; it is truncated or foreign")
    return path


def _extract(wanted: Source, missing: Sequence[File], archive: Path, staged: Path) -> None:
    assert wanted.archive is not None
    lines = []
    for file in missing:
        with _damage(f"{file.name} cannot be taken out of {archive.name}"):
            content = _member(archive, f"{wanted.archive.folder}/{file.name}")
        _checked(file, content)
        (staged / file.name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    if any(file.sha256 is None for file in missing):
        kept = [f"{x}  {name}\n" for name, x in _sums(folder() / wanted.folders[0]).items()]
        names = {file.name for file in missing}
        (staged / SUMS).write_text("".join([line for line in kept if line.split()[1] not in names] + lines))


def _member(archive: Path, name: str) -> bytes:
    """The bytes of one regular file of an archive; nothing is written."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed, packed.open(name) as member:
            content = member.read(LARGEST + 1)
    else:
        with tarfile.open(archive, "r:gz") as tar:
            found = tar.getmember(name)
            opened = tar.extractfile(found) if found.isreg() else None
            if opened is None:
                raise ValueError(f"{name} in {archive.name} is no regular file")
            content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{name} unpacks to more than {LARGEST} bytes")
    return content


def _move(staged: Path, target: Path) -> None:
    """Put checked files in place: the folder in one go, or, where there is one already, each file in one go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError:
        target.mkdir(exist_ok=True)
        for path in sorted(staged.iterdir()):
            path.replace(target / path.name)


def _download(home: str, path: Path, report: Report) -> None:
    bar = _Bar(path.name, report)
    pooch.HTTPDownloader(progressbar=bar, timeout=SECONDS)(f"{home.rstrip('/')}/{path.name}", str(path), None)


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """What unpackers raise, as one kind of error."""
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{what}: {error}") from error


class _Bar:
    """What pooch tells how far it is, as a line."""

    def __init__(self, name: str, report: Report) -> None:
        self.name, self.report, self.total, self.done = name, report, 0, 0

    def update(self, size: int) -> None:
        self.done += size
        whole = f" of {self.total / 1e6:.1f}" if self.total else ""
        self.report(f"{self.name}: {self.done / 1e6:.1f}{whole} MB")

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing is held."""
