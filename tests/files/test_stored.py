import json
import os
from pathlib import PurePosixPath

import cases
import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

import ranklens as rl
from ranklens.files import hdf5_check
from ranklens.files.stored import FORMAT, try_records


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_networks_come_back(name, tmp_path):
    net = cases.NETWORKS[name](std=1.0).freeze(0)
    again = rl.load(rl.save(net, tmp_path / "deep" / "net.safetensors"))
    assert (again.layout.nodes, again.layout.out, again.frozen) == (net.layout.nodes, net.layout.out, (0,))
    assert all(torch.equal(a, b) for a, b in zip(again.nodes, net.nodes, strict=True))


def test_records_come_back(tmp_path):
    run = rl.gradient_flow(
        rl.deep_matrix((2, 2), std=0.1), rl.Completion.counterexample(), until_time=1.0, track={"w": lambda n: n()}
    )
    again = rl.load(rl.save(run, tmp_path / "run.nc"))
    xr.testing.assert_identical(again, run)


def test_files_of_other_programs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        rl.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello, world")
    with pytest.raises(ValueError, match="neither a network nor a record"):
        rl.load(tmp_path / "text")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no network written by"):
        rl.load(tmp_path / "other.safetensors")
    for text in ("[]", "{", "3"):
        save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors", metadata={"structure": text})
        with pytest.raises(ValueError, match="no network written by"):
            rl.load(tmp_path / "other.safetensors")
    (tmp_path / "damaged.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + b"nonsense")
    with pytest.raises(ValueError, match="no record written by"):
        rl.load(tmp_path / "damaged.nc")
    odd = rl.TensorNetwork(([[1.5, 2], [2, 3]], [1.5, 3]), [torch.ones(2, 2), torch.ones(2, 2)])
    with pytest.raises(TypeError, match=r"label 1\.5 is a float"):
        rl.save(odd, tmp_path / "odd.safetensors")


def test_files_without_a_part_are_named(tmp_path):
    whole = {"format": FORMAT, "nodes": [["a", "r"], ["b", "r"]], "out": ["a", "b"], "frozen": []}
    values = {f"nodes.{k}": torch.ones(2, 2) for k in range(2)}
    for name in ("nodes", "out", "frozen"):
        structure = json.dumps({key: value for key, value in whole.items() if key != name})
        save_file(values, tmp_path / "half.safetensors", metadata={"structure": structure})
        with pytest.raises(ValueError, match=f"is neither a network nor a record.*{name}"):
            rl.load(tmp_path / "half.safetensors")


def test_a_label_that_is_a_json_object_is_refused(tmp_path):
    structure = {"format": FORMAT, "nodes": [["a", {}], ["b", {}]], "out": ["a", "b"], "frozen": []}
    values = {f"nodes.{k}": torch.ones(2, 2) for k in range(2)}
    save_file(values, tmp_path / "odd.safetensors", metadata={"structure": json.dumps(structure)})
    with pytest.raises(ValueError, match="is neither a network nor a record"):
        rl.load(tmp_path / "odd.safetensors")


def test_files_have_the_modes_that_the_process_gives(tmp_path):
    before = os.umask(0o077)
    try:
        made = rl.save(rl.cp((2, 2), rank=1), tmp_path / "net.safetensors")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o600


NOTES = [
    True,
    False,
    None,
    "",
    "two words",
    "json: a text that looks like a stored value",
    3,
    2**70,
    0.5,
    {"lr": 0.1, "layers": [1, 2], "best": None, "tuned": False},
    ["a", 1, None],
    [],
]


@pytest.mark.parametrize("note", NOTES, ids=repr)
def test_notes_on_a_record_come_back(note, tmp_path):
    run = xr.Dataset({"loss": ("step", [1.0, 0.5], {"note": note})}, attrs={"note": note})
    again = rl.load(rl.save(run, tmp_path / "run.nc"))
    for found in (again.attrs["note"], again.loss.attrs["note"]):
        assert found == note
        assert type(found) is type(note) or isinstance(found, np.number)
    assert run.attrs["note"] is note  # the record itself is left as it was


def test_notes_of_other_types_come_back_as_plain_ones(tmp_path):
    notes = {"path": PurePosixPath("data/a"), "flag": np.True_, "flags": np.array([True, False]), "tuple": (1, "a")}
    again = rl.load(rl.save(xr.Dataset(attrs=notes), tmp_path / "run.nc"))
    assert again.attrs == {"path": "data/a", "flag": True, "flags": [True, False], "tuple": [1, "a"]}


def test_a_note_that_no_file_can_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"attribute .model. is a object that a file cannot hold.*make it a text"):
        rl.save(xr.Dataset(attrs={"model": object()}), tmp_path / "run.nc")
    assert not list(tmp_path.iterdir())


def test_several_records_are_tried_at_once_and_only_once(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.nc" for k in range(3)]
    for path in paths[:2]:
        xr.Dataset({"x": ("n", np.arange(3.0))}).to_netcdf(path, engine="h5netcdf")
    tried = []
    check = hdf5_check.check
    monkeypatch.setattr(hdf5_check, "check", lambda given: tried.append(list(given)) or check(given))
    assert try_records(paths) == dict.fromkeys(paths[:2], "")
    assert [rl.load(path).sizes["n"] for path in paths[:2]] == [3, 3]
    assert [path for given in tried for path in given] == paths[:2]
    with h5py.File(paths[0], "w") as file:
        file["x"] = h5py.SoftLink("/y")
    assert "link named 'x'" in try_records(paths)[paths[0]]
    with pytest.raises(ValueError, match="link named 'x'"):
        rl.load(paths[0])
