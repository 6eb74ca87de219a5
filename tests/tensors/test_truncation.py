import inspect

import cases
import numpy as np
import pytest
import torch
from hypothesis import given

import ranklens as rl
from ranklens.tensors import truncation

A_FEW_ROUNDINGS = 1e-12  # relative; the end tensors of a network and of its truncation are added in another order
ABSENT = 1e-14  # absolute; entries to which only a component of norm zero contributes


def literal(equation, nodes, widths):
    """Norms by loops, the largest by sorting pairs, then an einsum of what is left."""
    left, _ = equation.split("->")
    labels, arrays = left.split(","), [node.numpy() for node in nodes]
    stay = {}
    for bond, width in widths.items():
        sizes = []
        for r in range(next(a.shape[x.index(bond)] for a, x in zip(arrays, labels, strict=True) if bond in x)):
            taken = [a.take(r, x.index(bond)) for a, x in zip(arrays, labels, strict=True) if bond in x]
            sizes.append((-np.prod([np.sqrt((t**2).sum()) for t in taken]), r))
        stay[bond] = sorted(r for _, r in sorted(sizes)[:width])
    for bond, positions in stay.items():
        arrays = [a.take(positions, x.index(bond)) if bond in x else a for a, x in zip(arrays, labels, strict=True)]
    return arrays, np.einsum(equation, *arrays)


@given(plan=cases.truncations())
def test_it_is_what_the_definition_says(plan, tolerance):
    equation, nodes, widths = plan
    small = rl.truncate(rl.TensorNetwork(equation, nodes), widths)
    arrays, tensor = literal(equation, nodes, widths)
    for node, array in zip(small.nodes, arrays, strict=True):
        assert np.array_equal(node.detach().numpy(), array)
    scale = np.prod([np.linalg.norm(a) for a in arrays])
    assert np.abs(small.tensor().detach().numpy() - tensor).max() <= tolerance["rounding"] * scale


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_nothing_named_is_the_same_network_and_the_old_one_is_left_alone(name):
    net = cases.NETWORKS[name](std=1.0)
    before = [node.detach().clone() for node in net.nodes]
    for widths in ({}, {bond: net.layout.sizes[bond] for bond in net.bonds}, dict.fromkeys(net.bonds, 1)):
        small = rl.truncate(net, widths)
        assert small.equation == net.equation
        assert small.shape == net.shape
        assert [small.layout.sizes[b] for b in net.bonds] == [widths.get(b, net.layout.sizes[b]) for b in net.bonds]
        with torch.no_grad():
            for node in small.nodes:
                node.zero_()
        assert all(torch.equal(a, b) for a, b in zip(net.nodes, before, strict=True))


def test_zero_components_of_a_tree_go_for_nothing():
    net = rl.init.balance_(rl.hierarchical((3, 2, 3, 2), width=4, std=1.0))
    with torch.no_grad():
        for bond, r in {(0, 1): 2, (2, 3): 0, (0, 1, 2, 3): 3}.items():
            for k, axis in net.layout.meets(bond):
                net.nodes[k].select(axis, r).zero_()
    small = rl.truncate(net, dict.fromkeys(net.bonds, 3))
    assert [tuple(node.shape) for node in small.nodes] == [(3, 3), (2, 3), (3, 3), (2, 3), (3, 3), (3, 3), (3,)]
    assert torch.allclose(small.tensor(), net.tensor(), rtol=A_FEW_ROUNDINGS, atol=ABSENT)


def test_frozen_nodes_and_dtype_stay():
    net = rl.cp((3, 4, 5), rank=4, std=1.0, dtype=torch.float32).freeze(1)
    small = rl.truncate(net, {"r": 2})
    assert small.frozen == (1,)
    assert small.dtype == torch.float32
    assert [stack.requires_grad for stack in small.stacks].count(False) == 1


def test_components_of_equal_norm_stay_in_order():
    net = rl.TensorNetwork("ar,br->ab", [torch.eye(4, dtype=torch.float64)] * 2)
    assert torch.equal(rl.truncate(net, {"r": 2}).nodes[0], torch.eye(4, dtype=torch.float64)[:, :2])


def test_norms_that_underflow_are_still_told_apart():
    net = rl.cp((2,) * 400, rank=3)
    with torch.no_grad():
        for node in net.nodes:
            node.copy_(torch.tensor([[1e-3, 3e-3, 2e-3]] * 2))
    assert not net.component_norms("r").any()
    assert torch.equal(rl.truncate(net, {"r": 2}).nodes[7][0], torch.tensor([3e-3, 2e-3]).double())


def test_wrong_widths_are_named():
    unchecked = inspect.unwrap(truncation.kept)  # the suite's own type checker would answer first
    net = rl.cp((3, 4, 5), rank=4)
    with pytest.raises(ValueError, match="'q' is not a bond of this network"):
        rl.truncate(net, {"q": 2})
    with pytest.raises(ValueError, match="0 is not a bond"):
        rl.truncate(net, {0: 2})
    for width in (0, -1, 5):
        with pytest.raises(ValueError, match=f"width of bond 'r' is {width}; keep 1 to 4 of its components"):
            rl.truncate(net, {"r": width})
    for width in (2.0, "2", None, True, float("nan"), float("inf")):
        with pytest.raises(TypeError, match=r"width of bond 'r' is .*; it must be an integer"):
            unchecked(net, "r", width)
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            net.nodes[1][0, 0] = bad
        with pytest.raises(ValueError, match="node 1 has entries that are not finite"):
            rl.truncate(net, {"r": 2})


def test_components_too_small_for_single_precision_are_told_apart(tolerance):
    net = rl.cp((3, 3), rank=2, dtype=torch.float32)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 0], node[:, 1] = 1e-25, 1e-23
    assert float(rl.truncate(net, {"r": 1}).nodes[0].detach().max()) == pytest.approx(
        1e-23, rel=tolerance["float32"], abs=0
    )
