import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.files.stored import content
from ranklens.sweeps.contents import network_of, record_of, thing_of
from ranklens.sweeps.store import Store


def test_contents_come_back():
    record = xr.Dataset({"x": ("t", [1.0, 2.0])}, attrs={"stopped": "loss"})
    assert thing_of(content(record)).identical(record)
    net = rl.cp((2, 2, 2), rank=1)
    assert torch.equal(thing_of(content(net)).tensor(), net.tensor())
    with pytest.raises(ValueError, match="is neither a network nor a record"):
        thing_of(b"nothing")


def test_records_and_networks_of_a_run(tmp_path):
    store = Store(tmp_path / "s")
    record = xr.Dataset({"x": ("t", torch.arange(100.0).numpy())})
    rl.sweep(lambda x: {"net": rl.cp((2, 2, 2), rank=1), **record}, over={"x": [1]}, store=store.path, jobs=1)
    [entry] = list(store.entries())
    assert record_of(store, entry).x.values.tolist() == record.x.values.tolist()
    assert network_of(store, entry, "net").shape == (2, 2, 2)
    with pytest.raises(ValueError, match=r"has the networks \['net'\], not 'other'"):
        network_of(store, entry, "other")
