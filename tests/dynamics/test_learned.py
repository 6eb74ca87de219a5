"""Learned index values: their part of a network, put back, and which entries they have, by literal loops."""

import itertools

import cases
import pytest
import torch

from ranklens.dynamics.learned import Learned


def chosen(net):
    """Every second index value of every bond, the last one first."""
    return Learned(net.layout, {b: tuple(range(net.layout.sizes[b]))[::-2] for b in net.bonds})


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 3", "hierarchical binary", "tensor ring"])
def test_parts_are_put_back_where_they_were(name):
    net = cases.NETWORKS[name](std=1.0)
    learned = chosen(net)
    parts = learned.part(net.nodes)
    for node, again in zip(net.nodes, learned.placed(net.nodes, parts), strict=True):
        assert torch.equal(node, again)
    zeros = learned.placed(net.nodes, [torch.zeros_like(part) for part in parts])
    for node, left, inside in zip(net.nodes, zeros, learned.mask(), strict=True):
        assert torch.equal(left, torch.where(inside, 0.0, node.detach()))


def test_the_mask_is_true_where_all_bond_indices_are_learned():
    net = cases.NETWORKS["hierarchical uneven"](std=1.0)
    learned = chosen(net)
    for labels, mask in zip(net.layout.nodes, learned.mask(), strict=True):
        for place in itertools.product(*map(range, mask.shape)):
            wanted = all(i in learned.at[x] for x, i in zip(labels, place, strict=True) if x in learned.at)
            assert bool(mask[place]) == wanted


def test_the_rest_and_one_more():
    learned = Learned(cases.NETWORKS["cp order 4"](std=1.0).layout, {"r": (2,)})
    assert learned.rest().at == {"r": (0, 1, 3)}
    assert learned.adding({"r": 0}).at == {"r": (2, 0)}
    assert not learned.empty
    assert Learned(learned.layout, {"r": ()}).empty
