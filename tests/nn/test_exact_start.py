"""Factorizations that are set to a given tensor."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn.exact_start import IMBALANCE, hold_

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"depth": 2},
        {"kind": "cp"},
        {"kind": "hierarchical"},
        {"kind": "tensor_train", "width": 9},
        {"kind": "tucker", "width": 4},
        {"kind": "expanded"},
    ],
    ids=str,
)
def test_weights_of_zero_are_kept_and_trained(how):
    layer = nn.Conv2d(3, 4, 3).double()
    nn.init.zeros_(layer.weight)
    deep, x, y = rl.nn.overparameterize(layer, **how), batch(6, 3, 5, 5), batch(6, 4, 3, 3, seed=1)
    assert float(deep.weight.detach().abs().max()) == 0
    optimizer = torch.optim.Adam(deep.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (deep(x) - y).square().mean().backward()
        optimizer.step()
    assert float(deep.weight.detach().norm()) > 0.1


FAMILIES = {
    "cp": rl.cp,
    "hierarchical": rl.hierarchical,
    "tensor_train": lambda shape: rl.tensor_train(shape, 30),
    "tucker": lambda shape: rl.tucker(shape, max(shape)),
}


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (3, 2, 2, 3), (2, 2, 2, 2, 2)])
def test_any_tensor_is_represented_by_balanced_nodes(kind, shape):
    weight, net = batch(*shape), FAMILIES[kind](shape)
    assert hold_(net, weight, kind) is net
    assert off(net.tensor(), weight) <= SAME
    largest = max(float(node.detach().square().sum()) for node in net.nodes)
    assert float(net.imbalance()) <= IMBALANCE * largest


def test_a_tensor_of_low_rank_fits_narrow_bonds():
    left, right = batch(3, 2), batch(2, 4, seed=1)
    net = rl.tensor_train((3, 4), 2)
    assert off(hold_(net, left @ right, "tensor_train").tensor(), left @ right) <= SAME
    with pytest.raises(ValueError, match="has a width of 2, and this weight needs 3; increase width="):
        hold_(net, batch(3, 4), "tensor_train")
