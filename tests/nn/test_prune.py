"""Pruned layers against the bound of the theorem."""

import pytest
import torch
from layer_cases import SAME, off
from torch import nn

import ranklens as rl

# Relative change of a layer's output for a weight that changed by 1%: the inputs are all ones, so errors may add up.
NEAR = 0.05

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize("kind", ["cp", "hierarchical"])
def test_pruning_keeps_its_bound_and_what_is_zero_goes(kind):
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 2)).double()
    deep = rl.nn.overparameterize(net, kind=kind)
    with torch.no_grad():
        network = deep[0].composition.network
        rl.init.normal_(network, 0.5, seed=0)
        for k, axis in network.layout.meets(network.bonds[0]):
            network.nodes[k].movedim(axis, 0)[1:] *= 0.05 if kind == "cp" else 1e-4
    found = rl.nn.prune(deep, 0.01)
    table = found.table.sel(layer="0")
    assert 0 <= float(table.error) <= float(table.bound) <= 0.01
    assert int(table.components_kept) < int(table.components)
    x = torch.ones(1, 4, 5, 5, dtype=torch.float64)
    assert off(found.model[0](x), deep[0](x)) <= NEAR
    assert not torch.equal(found.model[0].weight, deep[0].weight)
    assert rl.nn.collapse(found.model)(x).shape == (1, 3, 2, 2)
    again = rl.nn.prune(deep, 0.0).table
    assert float(again.error.max()) <= SAME
    with pytest.raises(ValueError, match="tolerance is 2"):
        rl.nn.prune(deep, 2)
    with pytest.raises(ValueError, match="no layer is a tensor factorization"):
        rl.nn.prune(rl.nn.overparameterize(net), 0.1)


def spread(kind, seed):
    """A layer with several bonds whose component norms fall from 1 to about 1e-3, so that every bond can be pruned."""
    shape = ((4, 4), (4, 4))
    deep = rl.nn.overparameterize(nn.Linear(16, 16).double(), kind=kind, width=8, init=1.0, tensorize=shape, seed=seed)
    network = deep.composition.network
    with torch.no_grad():
        for bond in network.bonds:
            k, axis = network.layout.meets(bond)[0]
            network.nodes[k].movedim(axis, -1).mul_(torch.logspace(0, -3, 8, dtype=torch.float64))
    return deep


@pytest.mark.parametrize("kind", ["hierarchical", "tensor_train", "tucker"])
@pytest.mark.parametrize("tolerance", [0.3, 0.6, 0.9])
def test_the_tolerance_holds_for_the_sum_over_all_bonds(kind, tolerance):
    """The bounds of the bonds add up, so the tolerance is met only if the bonds share it."""
    deep = spread(kind, seed=3)
    found = rl.nn.prune(deep, tolerance)
    net, small = deep.composition.network, found.model.composition.network
    pruned = [bond for bond in net.bonds if small.layout.sizes[bond] < net.layout.sizes[bond]]
    assert len(pruned) >= 2
    weight = net.tensor().detach()
    widths = {bond: small.layout.sizes[bond] for bond in net.bonds}
    bound = float(rl.theory.pruning_bound(net, widths) / weight.norm())
    assert float(found.table.bound[0]) == pytest.approx(bound, rel=SAME)
    assert float((small.tensor().detach() - weight).norm() / weight.norm()) <= bound <= tolerance


@pytest.mark.parametrize("kind", ["hierarchical", "tensor_train"])
def test_every_bond_loses_as_many_components_as_its_part_of_the_tolerance_allows(kind):
    deep, tolerance = spread(kind, seed=4), 0.3
    net, small = deep.composition.network, rl.nn.prune(deep, tolerance).model.composition.network
    part = tolerance * float(net.tensor().detach().norm()) / len(net.bonds)
    for bond in net.bonds:
        width = small.layout.sizes[bond]
        assert float(rl.theory.pruning_bound(net, {bond: width})) <= part
        if width > 1:
            assert float(rl.theory.pruning_bound(net, {bond: width - 1})) > part


def test_layers_without_tensor_factors_and_frozen_factors_stay():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).double().requires_grad_(False)
    deep = rl.nn.overparameterize(rl.nn.overparameterize(net, where="0", kind="cp"), where="1")
    found = rl.nn.prune(deep, 0.5)
    assert list(found.table.layer.values) == ["0"]
    assert not any(p.requires_grad for p in found.model.parameters())
    assert torch.equal(found.model[1].weight, deep[1].weight)
    assert type(found.model[2]) is nn.Linear
