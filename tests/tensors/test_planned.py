"""Planned contractions hold the values and the gradients of autograd, on every kind of network."""

import cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ranklens as rl
from ranklens.tensors import contract
from ranklens.tensors.paths import find_path
from ranklens.tensors.planned import Operand, Planned


def close(found, wanted, bound):
    scale = max(float(wanted.abs().max()), 1e-300) if wanted.numel() else 1.0
    return found.shape == wanted.shape and float((found - wanted).abs().sum()) <= bound * scale * max(wanted.numel(), 1)


def plan(net):
    nodes = [node.detach() for node in net.nodes]
    gradients = [None if k in net.frozen else torch.full_like(node, 7.0) for k, node in enumerate(nodes)]
    operands = [Operand(*parts) for parts in zip(net.layout.nodes, nodes, gradients, strict=True)]
    return Planned(operands, net.layout.out, contract.path_of_end_tensor(net.layout)), gradients


def check_descent(net, planned, gradients, bound):
    """A step in place takes the gradient times a rate from what it changes, and writes the gradients of the rest."""
    before = [node.detach().clone() for node in net.nodes]
    wanted = [None if gradient is None else gradient.clone() for gradient in gradients]
    rates = {k: 0.1 * (k + 1) for k in range(1, len(before))}  # not the first operand
    operations, changed = planned.descent(rates)
    for operation in operations:
        operation()
    assert changed <= {k for k in rates if wanted[k] is not None}
    for k, (node, old, gradient) in enumerate(zip(net.nodes, before, wanted, strict=True)):
        if k in changed:
            assert close(node.detach(), old - rates[k] * gradient, bound * (1 + float(gradient.abs().max())))
        else:
            assert torch.equal(node.detach(), old)
            assert gradient is None or close(gradients[k], gradient, bound)


def check(net, bound):
    """Value and gradients for a random upstream, twice, since memory is used again."""
    planned, gradients = plan(net)
    for seed in (0, 1):
        upstream = torch.randn(net.shape, dtype=net.dtype, generator=torch.Generator().manual_seed(seed))
        planned.forward()
        tensor = net.tensor()
        assert close(planned.value, tensor.detach(), bound)
        planned.upstream.copy_(planned.in_memory_order(upstream))
        planned.backward()
        for found, wanted in zip(gradients, net.gradients((tensor * upstream).sum()), strict=True):
            assert found is None or close(found, wanted, bound)
        check_descent(net, planned, gradients, bound)
        with torch.no_grad():
            for stack in net.stacks:
                stack.mul_(0.9)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_families(name, tolerance):
    check(cases.NETWORKS[name](0.7), tolerance["planned"])


@given(einsum=cases.einsums(), data=st.data())
@settings(max_examples=150)
def test_random_networks_with_frozen_nodes(einsum, data, tolerance):
    """Bonds of any order, sizes of one, results without axes, and any nodes frozen."""
    net = rl.TensorNetwork(*einsum)
    check(net.freeze(*data.draw(st.sets(st.integers(0, len(net.nodes) - 1)))), tolerance["planned"])


@given(einsum=cases.einsums(), members=st.integers(0, 3))
def test_a_leading_label_on_every_operand_is_a_batch(einsum, members, tolerance):
    """Networks side by side, an empty batch among them: the sum over members of separate contractions."""
    net = rl.TensorNetwork(*einsum)
    nodes = [torch.stack([(k + 1) * node.detach() for k in range(members)] or [node.detach()]) for node in net.nodes]
    nodes = [node[:members].clone() for node in nodes]
    labels = [("member", *label) for label in net.layout.nodes]
    out = ("member", *net.layout.out)
    path = find_path(labels, out, {**net.layout.sizes, "member": max(members, 1)})
    planned = Planned([Operand(label, node, None) for label, node in zip(labels, nodes, strict=True)], out, path)
    planned.forward()
    assert planned.value.shape == (members, *net.shape)
    for k in range(members):
        assert close(planned.value[k], (k + 1) ** len(nodes) * net.tensor().detach(), tolerance["planned"])


def test_two_of_three_factors_are_changed_without_a_gradient():
    """The last product of every pair can be a step: that into W_2 or W_1, and that into W_3."""
    _, changed = plan(rl.deep_matrix((4, 4), depth=3))[0].descent({0: 0.1, 1: 0.1, 2: 0.1})
    assert len(changed) == 2


def test_no_memory_is_allocated_by_a_run():
    """Whatever a run writes has its place already: the result and every gradient stay where they are."""
    planned, gradients = plan(rl.hierarchical((3, 3, 3, 3), width=4, std=0.5))
    planned.forward()
    places = [planned.memory.data_ptr(), *[gradient.data_ptr() for gradient in gradients]]
    for _ in range(3):
        planned.forward()
        planned.backward()
    assert places == [planned.memory.data_ptr(), *[gradient.data_ptr() for gradient in gradients]]


def test_what_is_frozen_costs_no_product():
    free, some = rl.cp((4, 4, 4), rank=3), rl.cp((4, 4, 4), rank=3).freeze(0, 1)
    assert len(plan(some)[0]._backward) < len(plan(free)[0]._backward)


def test_operands_may_be_views_of_any_strides():
    """The result is contiguous and has memory of its own, also where a contraction is no more than a transposition."""
    A = torch.arange(12, dtype=torch.float64).view(3, 4)
    for view, wanted in ((A.T, A), (A[:, ::2].T, A[:, ::2])):
        gradient = torch.empty_like(view)
        path = find_path(["ab"], "ba", dict(zip("ab", view.shape, strict=True)))
        planned = Planned([Operand(("a", "b"), view, gradient)], ("b", "a"), path)
        planned.forward()
        assert torch.equal(planned.value, wanted)
        assert planned.memory.is_contiguous()
        assert planned.memory.data_ptr() != A.data_ptr()
        planned.upstream.copy_(planned.in_memory_order(wanted + 1))
        planned.backward()
        assert torch.equal(gradient, view + 1)


@pytest.mark.parametrize("frozen", [(), (0,), (0, 1), (0, 1, 2)])
def test_a_plan_knows_whether_anything_is_trained(frozen):
    assert plan(rl.cp((4, 4, 4), rank=3).freeze(*frozen))[0].trained == (len(frozen) < 3)
