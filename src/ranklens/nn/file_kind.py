"""Recognition of files of weights by their content, whatever their name is."""

import zipfile
from pathlib import Path
from typing import Literal

Kind = Literal["safetensors", "torch"]
# Bytes that are read to recognize a file.
HEAD = 512
# How files begin that people mistake for weights, and what each of them is.
BEGINNINGS = {
    b"GGUF": "is a GGUF file of llama.cpp; take the safetensors files from which it was converted",
    b"\x89HDF": "is an HDF5 file, as Keras and others write; convert it to safetensors",
    b"\x93NUMPY": "is an array of numpy; pass it as rl.nn.rank_profile({'weight': numpy.load(path)})",
    b"\x1f\x8b": "is compressed by gzip; decompress it first",
    b"{": "is a JSON text; give the file of the weights, or an index whose name ends in .index.json",
}
# How the text begins that git-lfs puts in the place of a file that was not fetched.
POINTER = b"version https://git-lfs"
# What some editors put before a text in UTF-8.
UTF8_MARK = b"\xef\xbb\xbf"
HTML = (b"<!doctype html", b"<html", b"<?xml")
# Pickles of protocol 2 to 5, which files of `torch.save` from before version 1.6 are.
PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def file_kind(path: Path) -> Kind:
    """Return how the weights in a file are stored: as safetensors, or by `torch.save`.

    Args:
        path: an existing file of any name.

    Returns:
        "safetensors" or "torch".

    Raises:
        ValueError: if the file is neither; the message says what it is, and what to do.
    """
    head = _head(path)
    if _is_safetensors(head, path.stat().st_size):
        return "safetensors"
    told = what_instead(path)
    if told is not None:
        raise ValueError(f"{path} {told}")
    for beginning, told in BEGINNINGS.items():
        if head.removeprefix(UTF8_MARK).startswith(beginning):
            raise ValueError(f"{path} {told}")
    if head.startswith(b"PK"):
        _check_archive(path)
        return "torch"
    if head.startswith(PICKLE) or b"././@LongLink" in head or b"ustar" in head:
        return "torch"
    raise ValueError(
        f"{path} cannot be read: it is neither a safetensors file nor a file of torch.save; it may be damaged"
    )


def what_instead(path: Path) -> str | None:
    """Return what a file is that some tool put in the place of the one that was meant, and what to do.

    Args:
        path: an existing file of any name.

    Returns:
        What follows the path in a message; None if the file is neither empty, nor a pointer of git-lfs, nor a page of
        HTML.
    """
    head = _head(path)
    if not head:
        return "is empty: it has 0 bytes; download or save it again"
    if head.removeprefix(UTF8_MARK).startswith(POINTER):
        return "is a pointer of git-lfs in place of the file; run `git lfs pull` in its repository"
    if head.lstrip().lower().startswith(HTML):
        return "is a page of HTML in place of the file; the download went wrong, so repeat it"
    return None


def _head(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether a file begins with the length of a JSON header, which fits into the file, and that header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that `torch.save` did not write.

    Raises:
        ValueError: for TorchScript, for archives of numpy, and for any other archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read: the archive is damaged or not complete: {error}") from error
    if any(name.endswith("constants.pkl") for name in names):
        raise ValueError(
            f"{path} is a TorchScript archive, and loading it could run code; where the file is trusted, load it by "
            f"torch.jit.load and save model.state_dict() instead"
        )
    if any(name.endswith(".npy") for name in names):
        raise ValueError(f"{path} is an archive of numpy arrays; pass rl.nn.rank_profile(dict(numpy.load(path)))")
    if not any(name.endswith("data.pkl") for name in names):
        raise ValueError(f"{path} is an archive that torch.save did not write; unpack it, and give a file of weights")
