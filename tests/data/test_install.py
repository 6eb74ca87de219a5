"""Fetching, against a server on this machine with small made files; and what lies in a folder, whole or damaged."""

import functools
import gzip
import hashlib
import http.server
import io
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ranklens as rl
from ranklens.cli import app
from ranklens.data import catalogue, formats, install
from ranklens.data.catalogue import Archive

IMAGES = np.arange(5 * 3 * 3).astype(np.uint8).reshape(5, 3, 3)
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.uint8)
RATINGS = b"2\t1\t4\t880\n1\t3\t5\t881\n"
RECBOLE = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS
PHOTOS = {
    name: np.concatenate([np.r_[label, np.full(3072, k + label)] for label in range(10)]).astype(np.uint8).tobytes()
    for k, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"])
}


def as_idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", x) for x in array.shape) + array.tobytes()


PICTURES = {
    "train-images-idx3-ubyte": as_idx(IMAGES),
    "train-labels-idx1-ubyte": as_idx(LABELS),
    "t10k-images-idx3-ubyte": as_idx(IMAGES[::-1][:2]),
    "t10k-labels-idx1-ubyte": as_idx(LABELS[::-1][:2]),
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return packed.getvalue()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder and the address under which it is served."""
    base = tmp_path_factory.mktemp("home")
    handler = functools.partial(Quiet, directory=str(base))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield base, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(served, tmp_path, monkeypatch):
    """An empty data folder, sets of made files with their own hashes, and an empty home to serve them from."""
    base, address = served
    for path in base.iterdir():
        path.unlink()
    monkeypatch.setenv("RANKLENS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mnist, photos, films = (catalogue.SOURCES[name] for name in ("mnist", "cifar10", "ml-100k"))
    files = tuple(replace(file, sha256=sha256(PICTURES[file.name])) for file in mnist.files)
    hashed = sha256(formats.movielens(RATINGS).tobytes())
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(mnist, files=files, homes=(address,)))
    monkeypatch.setitem(
        catalogue.SOURCES,
        "ml-100k",
        replace(films, files=(replace(films.files[0], sha256=hashed),), homes=(f"{address}/",)),
    )
    monkeypatch.setitem(catalogue.SOURCES, "cifar10", replace(photos, homes=(address,)))
    return base


def serve(home, files):
    for name, content in files.items():
        (home / name).write_bytes(content)


def serve_pictures(home, **changed):
    serve(home, {f"{name}.gz": changed.get(name, gzip.compress(content)) for name, content in PICTURES.items()})


def serve_photos(home, monkeypatch, members):
    packed = tarred(members)
    md5 = hashlib.md5(packed).hexdigest()
    archive = Archive("cifar-10-binary.tar.gz", "cifar-10-batches-bin", md5)
    monkeypatch.setitem(catalogue.SOURCES, "cifar10", replace(catalogue.SOURCES["cifar10"], archive=archive))
    serve(home, {archive.name: packed})


def whole_photos():
    return {f"cifar-10-batches-bin/{name}": content for name, content in PHOTOS.items()}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_images_are_fetched_once_and_read(home):
    serve_pictures(home)
    found = rl.data.fetch("mnist")
    assert found == rl.data.folder() / "mnist"
    assert everything(found) == sorted(f"{name}.gz" for name in PICTURES)
    assert everything(rl.data.folder()) == ["mnist", *sorted(f"mnist/{name}.gz" for name in PICTURES)]
    for path in home.iterdir():
        path.unlink()
    assert rl.data.fetch("mnist") == found  # whole: the home, now empty, is not asked
    read = rl.data.images("mnist")
    assert np.array_equal(read.train.images, IMAGES)
    assert np.array_equal(read.test.images, IMAGES[::-1][:2])
    assert read.train.labels.tolist() == LABELS.tolist()
    assert read.test.labels.tolist() == LABELS[::-1][:2].tolist()
    assert read.train.images.dtype == torch.uint8


def test_only_what_is_missing_or_damaged_is_fetched(home):
    folder = rl.data.folder() / "mnist"
    folder.mkdir(parents=True)
    first, second, *others = PICTURES
    (folder / first).write_bytes(PICTURES[first])
    (folder / second).write_bytes(PICTURES[second][:-1])
    (folder / "mine.txt").write_text("stays")
    serve(home, {f"{name}.gz": gzip.compress(PICTURES[name]) for name in (second, *others)})
    with pytest.raises(ValueError, match=f"{second} is damaged or foreign: .* truncated; `ranklens data fetch mnist`"):
        install.load("mnist")
    rl.data.fetch("mnist")
    assert rl.data.images("mnist").train.labels.tolist() == LABELS.tolist()
    assert everything(folder) == sorted([first, second, "mine.txt", *(f"{x}.gz" for x in (second, *others))])


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (gzip.compress(PICTURES["t10k-labels-idx1-ubyte"], mtime=0)[:-9], "it cannot be unpacked"),
        (b"", "it starts with nothing"),
        (b"<html>not here</html>", "it cannot be unpacked: Not a gzipped file"),
        (gzip.compress(b"<html>not here</html>", mtime=0), "it starts with 3c 68 74 6d"),
        (gzip.compress(PICTURES["t10k-labels-idx1-ubyte"][:-1], mtime=0), "truncated"),
        (gzip.compress(as_idx(LABELS[:2]), mtime=0), "its content has sha256"),
        (gzip.compress(PICTURES["t10k-labels-idx1-ubyte"], mtime=0)[:12] + b"\x00" * 20, "it cannot be unpacked"),
    ],
    ids=["cut", "empty", "page", "packed page", "truncated", "other content", "zeros"],
)
def test_a_damaged_download_leaves_nothing(home, damaged, message):
    serve_pictures(home, **{"t10k-labels-idx1-ubyte": damaged})
    with pytest.raises(OSError, match=f"mnist could not be fetched .*{message}.*put it into .*mnist and run"):
        rl.data.fetch("mnist")
    assert everything(rl.data.folder()) == []


def test_the_next_home_is_asked_when_one_fails(home, monkeypatch, served):
    serve_pictures(home)
    wanted = catalogue.SOURCES["mnist"]
    homes = (f"{served[1]}/nothing", "http://127.0.0.1:1/", *wanted.homes)
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(wanted, homes=homes))
    rl.data.fetch("mnist")
    assert len(rl.data.images("mnist").test) == 2


def test_without_a_connection_the_error_says_what_to_do(home):
    with pytest.raises(
        FileNotFoundError, match=r"run `ranklens data fetch mnist`, or put train-images.* RANKLENS_DATA"
    ):
        rl.data.images("mnist")
    with pytest.raises(FileNotFoundError, match=r"`ranklens data fetch ml-100k`, or put u.data or .*ml-100k.inter"):
        rl.data.ratings("ml-100k")
    with pytest.raises(OSError, match=r"ml-100k could not be fetched \(http://127.0.0.1:1.*put it into .*ml-100k and"):
        rl.data.fetch("ml-100k", home="http://127.0.0.1:1")
    assert everything(rl.data.folder()) == []


def test_other_layouts_are_found(home):
    raw = rl.data.folder() / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in PICTURES.items():
        (raw / name).write_bytes(content)
    assert len(rl.data.images("mnist").train) == 5
    assert rl.data.fetch("mnist") == raw


def test_a_name_that_is_none():
    for call in (rl.data.fetch, rl.data.images, rl.data.ratings):
        with pytest.raises(ValueError, match=r"name is 'nothing', and there (is|are) no such"):
            call("nothing")
    with pytest.raises(ValueError, match="choose one of mnist, fashion-mnist, cifar10, ml-100k"):
        rl.data.fetch("digits")


def test_ratings_come_out_of_their_archive_and_in_both_forms(home):
    serve(home, {"ml-100k.zip": zipped({"../../escaped": b"x", "ml-100k/u.data": RATINGS, "/ml-100k/u.user": b"x"})})
    assert everything(rl.data.fetch("ml-100k")) == ["u.data"]
    assert everything(rl.data.folder()) == ["ml-100k", "ml-100k/u.data"]
    own = rl.data.ratings("ml-100k")
    (rl.data.folder() / "ml-100k" / "u.data").unlink()
    (rl.data.folder() / "ml-100k" / "ml-100k.inter").write_bytes(RECBOLE)
    other = rl.data.ratings("ml-100k")
    assert own.shape == other.shape == (2, 3)
    assert own.indices.tolist() == other.indices.tolist() == [[0, 2], [1, 0]]
    assert own.values.tolist() == other.values.tolist() == [5.0, 4.0]
    assert own.times.tolist() == [881, 880]
    assert len(own) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK but no archive", "u.data cannot be taken out of ml-100k.zip"),
        (zipped({"u.data": RATINGS}), "u.data cannot be taken out of ml-100k.zip"),
        (zipped({"ml-100k/../ml-100k/u.data": RATINGS}), "u.data cannot be taken out of ml-100k.zip"),
        (zipped({"ml-100k/u.data": RATINGS}).replace(b"880", b"890"), "u.data cannot be taken out"),
        (zipped({"ml-100k/u.data": RATINGS[:-1].replace(b"880", b"890")}), "its content has sha256"),
    ],
)
def test_a_damaged_archive_leaves_nothing(home, content, message):
    serve(home, {"ml-100k.zip": content})
    with pytest.raises(OSError, match=message):
        rl.data.fetch("ml-100k")
    assert everything(rl.data.folder()) == []


def test_photographs_are_fetched_and_what_was_unpacked_is_held_to_its_hash(home, monkeypatch):
    escape = {"../escaped.bin": b"x", "/tmp/escaped.bin": b"x", "cifar-10-batches-bin/readme.html": b"x"}
    serve_photos(home, monkeypatch, {**escape, **whole_photos()})
    found = rl.data.fetch("cifar10")
    assert everything(found) == sorted([*PHOTOS, install.SUMS])
    assert everything(rl.data.folder()) == ["cifar10", *(f"cifar10/{name}" for name in everything(found))]
    read = rl.data.images("cifar10")
    assert tuple(read.train.images.shape) == (50, 3, 32, 32)
    assert tuple(read.test.images.shape) == (10, 3, 32, 32)
    assert read.train.labels.tolist() == [*range(10)] * 5
    assert read.test.images[3, 2, 31, 31] == 5 + 3
    answer = subprocess.run(["sha256sum", "-c", install.SUMS], cwd=found, capture_output=True, check=False)
    assert answer.returncode == 0
    content = bytearray((found / "data_batch_2.bin").read_bytes())
    content[100] += 1
    (found / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_2.bin is damaged or foreign: its content has sha256"):
        rl.data.images("cifar10")
    rl.data.fetch("cifar10")
    assert len(rl.data.images("cifar10").train) == 50
    assert len((found / install.SUMS).read_text().splitlines()) == len(PHOTOS)


def test_an_archive_that_lies_in_the_folder_needs_no_home(home, monkeypatch):
    serve_photos(home, monkeypatch, whole_photos())
    folder = rl.data.folder() / "cifar10"
    folder.mkdir(parents=True)
    (home / "cifar-10-binary.tar.gz").rename(folder / "cifar-10-binary.tar.gz")
    rl.data.fetch("cifar10")
    assert len(rl.data.images("cifar10").test) == 10


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_in_archives_are_not_followed(home, monkeypatch, kind, tmp_path):
    (tmp_path / "secret").write_bytes(PHOTOS["data_batch_1.bin"])
    serve_photos(
        home, monkeypatch, {**whole_photos(), "cifar-10-batches-bin/test_batch.bin": (kind, str(tmp_path / "secret"))}
    )
    with pytest.raises(OSError, match=r"test_batch.bin .*(is no regular file|cannot be taken out)"):
        rl.data.fetch("cifar10")
    assert everything(rl.data.folder()) == []


def test_a_truncated_archive_is_told_by_its_hash(home, monkeypatch):
    serve_photos(home, monkeypatch, whole_photos())
    path = home / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="has not the published md5"):
        rl.data.fetch("cifar10")
    assert everything(rl.data.folder()) == []


def test_batches_of_unequal_classes_are_foreign(home):
    folder = rl.data.folder() / "cifar10"
    folder.mkdir(parents=True)
    for name, content in PHOTOS.items():
        (folder / name).write_bytes(content)
    assert len(rl.data.images("cifar10").test) == 10
    (folder / "test_batch.bin").write_bytes(bytes([1]) + PHOTOS["test_batch.bin"][1:])
    with pytest.raises(
        ValueError, match=r"the classes have \[0, 2, 1, 1, 1, 1, 1, 1, 1, 1\] test images, not equally many"
    ):
        rl.data.images("cifar10")


def test_what_unpacks_to_too_much_is_refused(home, monkeypatch):
    monkeypatch.setattr(install, "LARGEST", 40)
    serve_pictures(home)
    with pytest.raises(OSError, match="unpacks to more than 40 bytes"):
        rl.data.fetch("mnist")
    monkeypatch.setattr(install, "LARGEST", 10)
    serve(home, {"ml-100k.zip": zipped({"ml-100k/u.data": RATINGS})})
    with pytest.raises(OSError, match="unpacks to more than 10 bytes"):
        rl.data.fetch("ml-100k")
    assert everything(rl.data.folder()) == []


def test_where_data_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("RANKLENS_DATA", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rl.data.folder() == tmp_path / "mine"
    monkeypatch.delenv("RANKLENS_DATA")
    assert "ranklens" in rl.data.folder().parts[-2:]
    assert everything(tmp_path) == []


def test_the_command_fetches_and_lists(home):
    serve_pictures(home)
    answer = CliRunner().invoke(app, ["data", "fetch", "mnist"])
    assert answer.exit_code == 0, answer.output
    assert f"mnist: whole, in {rl.data.folder() / 'mnist'}" in answer.output.replace("\n", "")
    answer = CliRunner().invoke(app, ["data", "list"])
    assert answer.exit_code == 0, answer.output
    for name in catalogue.SOURCES:
        assert f"\n{name}\n" in answer.output
    assert f"  whole, in {rl.data.folder() / 'mnist'}" in answer.output
    assert "  not here; ranklens data fetch ml-100k" in answer.output
    (rl.data.folder() / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    assert "t10k-labels-idx1-ubyte.gz is damaged" in CliRunner().invoke(app, ["data", "list"]).output


def test_the_command_fails_with_code_2(home, served):
    for arguments, message in (
        (["nothing"], "there is no such data set to fetch"),
        (["mnist", "--from", f"{served[1]}/empty"], "mnist could not be fetched"),
    ):
        answer = CliRunner().invoke(app, ["data", "fetch", *arguments])
        assert answer.exit_code == 2
        assert message in answer.output


def test_the_library_for_downloads_is_imported_when_it_is_used():
    code = "import sys, ranklens.data; print('requests' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("address", ["", "mnist", "/etc"])
def test_a_home_that_is_no_address_is_named(home, address):
    with pytest.raises(ValueError, match=f"home is {address!r}; give an address"):
        rl.data.fetch("mnist", home=address)
