"""The data folder: its files are checked by their content, and missing files are fetched, all of them or none."""

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

from ranklens.data.catalogue import Array, File, Source, source
from ranklens.data.download import download
from ranklens.progress import Report, reporter
from ranklens.tensors.annotations import checked

# Largest number of bytes that a file may unpack to: more than any file of the catalogue, which has 47 MB at most.
LARGEST = 2**26
# Name of a file with the hashes of files whose hashes are not published. It is written when they are unpacked from an
# archive whose published hash was right.
SUMS = "SHA256SUMS"
# Exceptions that gzip, zipfile and tarfile raise for damaged content.
DAMAGED = (OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


def folder() -> Path:
    """Return the data folder: the environment variable RANKLENS_DATA, else the platform's cache folder of ranklens.

    Each data set has its own folder in it, as in ``mnist/train-images-idx3-ubyte.gz``. The folder need not exist.

    >>> import os, ranklens as rl
    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, RANKLENS_DATA="/somewhere"):
    ...     rl.data.folder().as_posix()
    '/somewhere'
    """
    given = os.environ.get("RANKLENS_DATA")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ranklens"))


def load(name: str) -> list[Array]:
    """Return the arrays in the files of a data set, after checking the hash of each file's unpacked content.

    Nothing is downloaded. An unknown name, or a file whose content is not the published one, is a ValueError; a missing
    file is a FileNotFoundError.

    Args:
        name: "mnist", "fashion-mnist", "cifar10" or "ml-100k".

    Returns:
        One numpy array per file. For "mnist" and "fashion-mnist": training images, training labels, test images and
        test labels. For "cifar10": the five training batches and the test batch, each of rows (label, image). For
        "ml-100k": one array of rows (user, item, rating, time).
    """
    return [_read(name, file)[1] for file in source(name).files]


@checked
def fetch(name: str, *, home: str | None = None) -> Path:
    """Fetch the files of a data set that are missing in the data folder or damaged.

    All of them are downloaded to a temporary folder, checked, and then moved to their place. If a file is missing or
    wrong, none is moved. Only the files of the data set are read from an archive, and its paths are not followed. If no
    address has the right content, or none can be reached, the OSError names the files and the folder to put them in.

    Args:
        name: "mnist", "fashion-mnist", "cifar10" or "ml-100k".
        home: address of a folder with the published files: for MNIST and Fashion-MNIST each as ".gz", for the others
            the archive. None tries the public addresses in turn. An archive in the data set's folder is used first.

    Returns:
        The folder of the files.

    Raises:
        ValueError: for an unknown name, or a home that is no address.
    """
    wanted = source(name)
    if home is not None and "://" not in home:
        raise ValueError(f"home is {home!r}; give an address that begins with https://, or None for the public ones")
    missing = [file for file in wanted.files if not _whole(name, file)]
    if not missing:
        return _read(name, wanted.files[0])[0].parent
    target = folder() / wanted.folders[0]
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(), prefix=f".{name}.") as beside, reporter(None) as report:
        _move(_stage(name, missing, home, Path(beside), report), target)
    return target


def state(name: str) -> str:
    """Return one line that says in which folder a data set is, or that it is not there, or which file is damaged.

    Args:
        name: "mnist", "fashion-mnist", "cifar10" or "ml-100k". For any other name, the line says that it is unknown.
    """
    try:
        return f"whole, in {[_read(name, file)[0].parent for file in source(name).files].pop()}"
    except FileNotFoundError:
        return f"not here; ranklens data fetch {name}"
    except ValueError as error:
        return str(error)


def _whole(name: str, file: File) -> bool:
    """Return whether a file is in the data folder with the right content."""
    try:
        _read(name, file)
    except (ValueError, OSError):
        return False
    return True


def _read(name: str, file: File) -> tuple[Path, Array]:
    """Return the first path at which a file has the right content, and its array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if none of the files has the right content.
    """
    bases = [folder() / place for place in source(name).folders]
    found = [path for base in bases for path in (base / form for form in file.names) if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{name}: there is no {file.name} in {bases[0]}; run `ranklens data fetch {name}`, or put "
            f"{' or '.join(file.names)} there, or say in RANKLENS_DATA which folder has a folder {bases[0].name}"
        )
    errors = []
    for path in found:
        try:
            return path, _checked(file, _unpacked(path), _sums(path.parent).get(path.name))
        except ValueError as error:
            errors.append(error)
    raise ValueError(f"{found[0]} is damaged or foreign: {errors[0]}; `ranklens data fetch {name}` replaces it")


def _unpacked(path: Path) -> bytes:
    """Return the content of a file, unpacked if its name ends in ".gz".

    Raises:
        ValueError: for damaged content, or content that is too large.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    with _damage("it cannot be unpacked"), gzip.open(path) as packed:
        content = packed.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    return content


def _checked(file: File, content: bytes, recorded: str | None = None) -> Array:
    """Return the array in a file's content, after comparing its hash with the published or else the recorded one.

    Raises:
        ValueError: for content that cannot be read, or with another hash.
    """
    array = file.read(content)
    wanted = file.sha256 or recorded
    found = hashlib.sha256(content if file.hashed == "bytes" else array.tobytes()).hexdigest()
    if wanted is not None and found != wanted:
        raise ValueError(f"its content has sha256 {found[:12]}..., the published one {wanted[:12]}...")
    return array


def _sums(base: Path) -> dict[str, str]:
    """Return the recorded hashes of a folder by file name, from a file as `sha256sum` writes it."""
    path = base / SUMS
    if not path.is_file():
        return {}
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[1]: row[0] for row in rows if len(row) == 2}


def _stage(name: str, missing: Sequence[File], home: str | None, beside: Path, report: Report) -> Path:
    """Return a folder with the missing files, checked, from the first address that has all of them.

    Raises:
        OSError: if there is none.
    """
    wanted, problems = source(name), []
    homes: list[str | None] = [home] if home else [*wanted.homes]
    for place in [None, *homes] if wanted.archive else homes:  # None: an archive in the data folder
        staged = Path(tempfile.mkdtemp(dir=beside)) / "files"  # unlike the folder of mkdtemp, it is readable by others
        staged.mkdir()
        try:
            if wanted.archive is None:
                _gather(missing, str(place), staged, report)
            else:
                _extract(wanted, missing, _archive(wanted, place, staged.parent, report), staged)
        except FileNotFoundError:
            continue  # there is no archive in the data folder
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
    """Download files one by one and check them."""
    for file in missing:
        path = staged / f"{file.name}.gz"
        download(home, path, report)
        _checked(file, _unpacked(path))


def _archive(wanted: Source, home: str | None, beside: Path, report: Report) -> Path:
    """Return the path of the archive, after checking its hash: downloaded, or in the data folder if `home` is None.

    Raises:
        FileNotFoundError: if there is no archive in the data folder.
        ValueError: for an archive with another hash.
    """
    assert wanted.archive is not None
    path = folder() / wanted.folders[0] / wanted.archive.name
    if home is None and not path.is_file():
        raise FileNotFoundError(path)
    if home is not None:
        path = beside / wanted.archive.name
        download(home, path, report)
    if wanted.archive.md5 is not None and _md5(path) != wanted.archive.md5:
        raise ValueError(f"{path.name} has not the published md5 {wanted.archive.md5}; it is truncated or foreign")
    return path


def _md5(path: Path) -> str:
    """Return the MD5 hash of a file's content, which is published for archives; it only tells damaged ones."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _extract(wanted: Source, missing: Sequence[File], archive: Path, staged: Path) -> None:
    """Write the missing files of an archive, checked, and the hashes of files that have no published ones."""
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
    """Return the content of one regular file of an archive, without writing anything.

    Raises:
        ValueError: for a link or another special file, or for content that is too large.
    """
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
    """Move checked files to their place: the folder as a whole, or, if the folder exists, one file after the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError:
        target.mkdir(exist_ok=True)
        for path in sorted(staged.iterdir()):
            path.replace(target / path.name)


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Raise what unpackers raise as a ValueError.

    Raises:
        ValueError: for damaged content.
    """
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{what}: {error}") from error
