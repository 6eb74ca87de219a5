"""Partial contractions are derivatives of entries, and components add up to the entries."""

import cases
import pytest
import torch

from ranklens.tensors import environment


@pytest.fixture(params=[name for name in cases.NETWORKS if name not in ("matrix depth 1", "scalar")])
def net(request):
    return cases.NETWORKS[request.param](std=1.0)


def some_entries(net, count=6):
    made = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(size, (count,), generator=made) for size in net.shape], dim=1)


def test_the_environment_is_the_derivative_by_the_slice_at_an_entry(net, tolerance):
    indices = some_entries(net)
    for k, (labels, modes) in enumerate(zip(net.layout.nodes, net.layout.modes, strict=True)):
        around = environment.environment(net, k, indices)
        axes = [axis for axis, label in enumerate(labels) if label in net.layout.out]
        for row, index in enumerate(indices):
            gradient = net.gradients(net.entries(index[None]).sum())[k].movedim(axes, tuple(range(len(axes))))
            at_entry = gradient[tuple(int(index[n]) for n in modes)]
            torch.testing.assert_close(around[row], at_entry, rtol=tolerance["rounding"], atol=tolerance["rounding"])
            assert float(gradient.norm()) == pytest.approx(float(at_entry.norm()), rel=tolerance["rounding"])


def test_components_add_up_to_the_entries(net, tolerance):
    indices = some_entries(net)
    expected = net.tensor()[tuple(indices.T)]
    for bond in net.bonds:
        components = environment.component_entries(net, bond, indices)
        assert components.shape == (len(indices), net.layout.sizes[bond])
        torch.testing.assert_close(
            components.sum(dim=1), expected, rtol=tolerance["rounding"], atol=tolerance["rounding"]
        )


def test_open_bonds_come_in_the_order_in_which_they_are_given(tolerance):
    net = cases.NETWORKS["tucker"](std=1.0)
    indices = some_entries(net)
    one = environment.open_entries(net, [0], ["r0", "r1", "r2"], indices)
    other = environment.open_entries(net, [0], ["r2", "r0", "r1"], indices)
    assert torch.equal(one, net.nodes[0].expand(len(indices), -1, -1, -1))
    assert torch.equal(other, one.movedim(3, 1))


def test_a_plan_is_made_once_per_choice_of_nodes_and_bonds():
    net = cases.NETWORKS["tucker"](std=1.0)
    indices = some_entries(net)
    before = len(net.layout.plans)
    for _ in range(2):
        environment.environment(net, 0, indices)
        environment.component_entries(net, "r0", indices)
    assert len(net.layout.plans) == before + 2
