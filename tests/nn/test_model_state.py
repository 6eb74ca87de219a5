"""A model that is measured keeps its state, and gives the same outputs twice."""

import copy

import pytest
import torch
from torch import nn

from ranklens.nn.model_state import (
    active_dropout,
    all_names,
    bare,
    copied,
    modes,
    replaced,
    set_modes,
    state_kept,
    without_wrapper,
)


@pytest.fixture(autouse=True)
def _drawn_apart():
    with torch.random.fork_rng():  # dropout draws from the global generator, as modules do when they are made
        yield


def model():
    norms = nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(2, 3, 3), *norms, nn.Dropout())


def test_nothing_changes_and_nothing_is_dropped_inside():
    net, x = model(), torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    with state_kept(net):
        first, second = net(x), net(x)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    net(x)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])  # the flags are back


def test_flags_come_back_after_an_error():
    net = model()
    with pytest.raises(RuntimeError, match="stop"), state_kept(net):
        raise RuntimeError("stop")
    assert net[1].track_running_stats
    assert net[2].momentum == nn.InstanceNorm2d(3).momentum
    assert net[3].training


def test_dropout_is_active_if_it_drops_something():
    net = model()
    assert list(active_dropout(net)) == [net[3]]
    assert not list(active_dropout(nn.Dropout(0.0)))
    assert not list(active_dropout(net.eval()))
    assert not list(active_dropout(torch.sin))


def test_the_module_inside_a_wrapper_is_found():
    net = model()
    assert without_wrapper(nn.DataParallel(net)) is net
    assert without_wrapper(net) is net


def test_modes_are_set_by_name_and_inherited():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    net[1].eval()
    known = modes(net)
    other = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.ReLU()))
    set_modes(other, known)
    assert (other.training, other[0].training, other[0][0].training, other[1][0].training) == (True, True, True, False)


def test_all_names_and_wrappers():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    assert all_names(net, layer) == ["0", "1"]
    assert bare(nn.DataParallel(torch.compile(net, backend="eager"))) is net
    assert replaced(net, "1", nn.ReLU())[0] is layer
    assert replaced(layer, "", net) is net
    assert copied(net) is not net
    other = nn.ReLU()
    found = copied(net, {net[1]: other})
    assert found[1] is other
    assert found[0] is not net[0]
