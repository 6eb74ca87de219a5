import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.sweeps.store import Store

KEY = "ab" * 32


def test_a_store_is_a_new_folder_or_one_that_was_made_before(tmp_path):
    path = tmp_path / "deep" / "store"
    Store(path)
    assert Store(path, create=False).path == path
    with pytest.raises(FileNotFoundError, match="there is no store"):
        Store(tmp_path / "other", create=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(ValueError, match="folder with other things in it"):
        Store(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[", "1"])
def test_a_damaged_mark_is_named(tmp_path, text):
    Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged, so this is no store"):
        Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(json.dumps({"format": "ranklens store 9"}))
    with pytest.raises(ValueError, match="this version of ranklens reads"):
        Store(tmp_path / "s")


def test_files_of_runs_are_written_read_and_removed(tmp_path):
    store = Store(tmp_path / "s")
    assert store.read(KEY, f"{KEY}.json") is None
    for name in (f"{KEY}.json", f"{KEY}.0.nc", f".{KEY}.json.half"):
        store.write(KEY, name, b"content")
    assert store.read(KEY, f"{KEY}.0.nc") == b"content"
    store.tidy(KEY)
    assert not (store.folder(KEY) / f".{KEY}.json.half").exists()
    store.remove(KEY, beside=(f"{KEY}.json",))
    assert [path.name for path in store.folder(KEY).iterdir()] == [f"{KEY}.json"]
    store.remove(KEY)
    assert not list(store.folder(KEY).iterdir())


def test_a_store_that_is_removed_is_not_made_again(tmp_path):
    store = Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match="has been removed"):
        store.write(KEY, "a", b"")
    assert not (tmp_path / "s" / "runs").exists()


CLAIM = textwrap.dedent(
    """
    import sys, time
    from ranklens.sweeps.store import Store
    print(Store(sys.argv[1]).claim(sys.argv[2]), flush=True)
    sys.stdin.read()
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="claims need fcntl")
def test_a_claim_excludes_other_processes_and_ends_with_its_own(tmp_path):
    store = Store(tmp_path / "s")
    arguments = [sys.executable, "-c", CLAIM, str(store.path), KEY]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        assert not store.claim(KEY)
        assert store.claim("cd" * 32)
        other.kill()
        other.wait()
    assert store.claim(KEY)
    assert store.claim(KEY)
    store.release(KEY)
    assert not (store.folder(KEY) / f"{KEY}.lock").exists()


def test_damaged_entries_are_listed_and_do_not_hide_others(tmp_path):
    store = Store(tmp_path / "s")
    rl.sweep(lambda x: x, over={"x": [1, 2]}, store=store.path, jobs=1)
    [first, second] = list(store.entries())
    path = store.folder(first.key) / f"{first.key}.json"
    path.write_bytes(path.read_bytes()[:40])
    assert [entry.key for entry in store.entries()] == [second.key]
    assert [file for file, entry in store.all_entries() if isinstance(entry, str)] == [path]
    assert store.entry(first.key) is None


def test_files_that_were_changed_are_found(tmp_path):
    store = Store(tmp_path / "s")
    record = xr.Dataset({"x": ("t", torch.arange(100.0).numpy())})
    rl.sweep(lambda x: {"net": rl.cp((2, 2, 2), rank=1), **record}, over={"x": [1]}, store=store.path, jobs=1)
    [entry] = list(store.entries())
    assert store.is_whole(entry)
    for file in entry.files():
        path = store.folder(entry.key) / file.name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert not store.is_whole(entry)
        with pytest.raises(ValueError, match="is damaged or missing; run the sweep again"):
            store.checked(entry.key, file)
        path.write_bytes(content)
    assert store.is_whole(entry)


def test_names_of_a_store_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("s")
    assert os.path.isabs(store.path)
