"""Files recognized by their content, under any name."""

import gzip
import io

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ranklens.nn.file_kind import file_kind


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a", "A.SAFETENSORS", "3f1c9a.ckpt"])
def test_the_name_does_not_matter(tmp_path, name):
    weights = {"w": torch.ones(2, 2)}
    save_file(weights, tmp_path / name)
    assert file_kind(tmp_path / name) == "safetensors"
    torch.save(weights, tmp_path / name)
    assert file_kind(tmp_path / name) == "torch"
    torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=False)
    assert file_kind(tmp_path / name) == "torch"


def numpy_archive():
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


def other_archive():
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><title>404</title>", "is a page of HTML"),
        (b"<HTML>", "is a page of HTML"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x93NUMPY\x01", "is an array of numpy"),
        (gzip.compress(b"xyz", mtime=0), "is compressed by gzip"),
        (b'{"a": 1}', "is a JSON text"),
        (b"PK\x03\x04 and no more", "the archive is damaged"),
        (b"some text", "is neither a safetensors file nor"),
        ((2**40).to_bytes(8, "little") + b"{}", "is neither a safetensors file nor"),
        (numpy_archive(), "is an archive of numpy arrays"),
        (other_archive(), "is an archive that torch.save did not write"),
    ],
)
def test_other_files_are_named(tmp_path, content, said):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.bin.*{said}"):
        file_kind(tmp_path / "model.bin")
