"""Records that would lead the HDF5 library astray are refused, and those of other processes come back."""

import os
import pathlib
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens.files import hdf5_check


def soft_link(file, _):
    file["x"] = h5py.SoftLink("/y")


def external_link(file, folder):
    file["x"] = h5py.ExternalLink(str(folder / "secret.nc"), "/loss")


def external_storage(file, folder):
    file.create_dataset("x", (3,), dtype="u1", external=[(str(folder / "secret.txt"), 0, 3)])


def virtual_dataset(file, folder):
    layout = h5py.VirtualLayout((3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.nc"), "loss", shape=(3,))
    file.create_virtual_dataset("x", layout)


def within_a_group(file, _):
    file.create_group("a/b")["x"] = h5py.SoftLink("/y")


def declared_size(file, _):
    file.create_dataset("x", (2**40,), dtype="f8", chunks=(2**10,), compression="gzip")


ASTRAY = [soft_link, external_link, external_storage, virtual_dataset, within_a_group, declared_size]


@pytest.mark.parametrize("make", ASTRAY, ids=lambda make: make.__name__)
def test_what_leads_elsewhere_is_refused(make, tmp_path):
    (tmp_path / "secret.txt").write_text("abc")
    with h5py.File(tmp_path / "secret.nc", "w") as file:
        file["loss"] = np.ones(3)
    with h5py.File(tmp_path / "odd.nc", "w") as file:
        make(file, tmp_path)
    with pytest.raises(ValueError, match=r"odd\.nc is no record written by rl\.save, or damaged: (it|its) "):
        rl.load(tmp_path / "odd.nc")


def test_cycles_of_groups_end(tmp_path):
    with h5py.File(tmp_path / "cycle.nc", "w") as file:
        file.create_group("a")["b"] = file["/"]
    assert hdf5_check.check([tmp_path / "cycle.nc"]) == {tmp_path / "cycle.nc": ""}


def test_records_of_other_processes_come_back(tmp_path):
    run = xr.Dataset({"loss": ("step", [1.0, 0.5]), "name": ("step", ["a", "b"])}, attrs={"note": "whole"})
    program = (
        "import pickle, sys, ranklens as rl; run, path = pickle.loads(sys.stdin.buffer.read()); rl.save(run, path)"
    )
    subprocess.run([sys.executable, "-c", program], input=pickle.dumps((run, str(tmp_path / "run.nc"))), check=True)
    xr.testing.assert_identical(rl.load(tmp_path / "run.nc"), run)


def test_a_file_that_the_process_does_not_survive_does_not_stop_the_others(tmp_path, monkeypatch):
    good, slow = tmp_path / "good.nc", tmp_path / "slow.nc"
    for path in (good, slow):
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(3)
    # The process waits for a path that comes from a pipe whose writer never writes: that stands for a hang.
    pipe = tmp_path / "pipe.nc"
    os.mkfifo(pipe)
    monkeypatch.setattr(hdf5_check, "SECONDS", 0.5)
    found = hdf5_check.check([good, pipe, slow])
    assert found[good] == found[slow] == ""
    assert "takes more than" in found[pipe]


def test_a_file_that_was_written_again_is_checked(tmp_path):
    path = rl.save(xr.Dataset({"loss": ("step", [1.0])}), tmp_path / "run.nc")
    assert rl.load(path).sizes == {"step": 1}
    with h5py.File(path, "w") as file:
        soft_link(file, tmp_path)
    with pytest.raises(ValueError, match="it holds a link"):
        rl.load(path)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        rl.save(xr.Dataset({"loss": ("step", np.zeros(1000))}), tmp_path / "run.nc")
    assert not list(tmp_path.iterdir())
