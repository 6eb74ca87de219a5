import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.sweeps.result import how_it_stopped, is_small, result_of


def test_numbers_arrays_and_dictionaries_become_records():
    assert float(result_of(3).record.value) == 3
    assert result_of(torch.ones(2, 3)).record.value.dims == ("value_0", "value_1")
    found = result_of({"a": 1.5, "b": [1, 2], "c": "word", "d": np.bool_(True)}).record
    assert found.a.item() == 1.5
    assert found.b.values.tolist() == [1, 2]
    assert found.c.item() == "word"


def test_records_and_networks():
    record = xr.Dataset({"x": 1.0})
    assert result_of(record).record is record
    net = rl.cp((2, 2, 2), rank=1)
    assert result_of(net).networks == {"network": net}
    found = result_of({"net": net, "error": 0.5})
    assert found.networks == {"net": net}
    assert list(found.record) == ["error"]


@pytest.mark.parametrize("value", [None, object(), {"a": {1, 2}}, {"a": None}])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="the function returned a"):
        result_of(value)
    with pytest.raises(ValueError, match=r"a network named '\.\./net'"):
        result_of({"../net": rl.cp((2, 2, 2), rank=1)})


def test_how_runs_stopped():
    assert how_it_stopped(xr.Dataset(attrs={"stopped": "loss", "early": 0}), None) == ("loss", False)
    assert how_it_stopped(xr.Dataset(attrs={"stopped": "nan", "early": 1}), None) == ("nan", True)
    assert how_it_stopped(xr.Dataset(), None) == ("done", False)
    study = xr.Dataset({"run_stopped": ("seed", ["loss", "evaluations"])})
    assert how_it_stopped(study, 1e-3) == ("evaluations, loss", True)
    resting = xr.Dataset({"run_stopped": ("seed", ["stationary"])})
    assert how_it_stopped(resting, 0.0) == ("stationary", False)
    assert how_it_stopped(resting, 1e-3) == ("stationary", True)


def test_records_that_json_cannot_hold_are_kept_in_a_file():
    assert not is_small(xr.Dataset({"a": 1.0}, attrs={"stopped": "loss"}))
    assert not is_small(xr.Dataset({"a": ("n", np.zeros(65))}))
    assert not is_small(xr.Dataset({"a": 1j}))
