import copy
import os

import cases
import numpy as np
import oracles
import pytest
import torch
from conftest import TOLERANCE
from hypothesis import given

import ranklens as rl
from ranklens.tensors import contract

A_FEW_ROUNDINGS = 1e-12  # relative; the expected number is made of fewer than a hundred float64 operations
BALANCED = 1e-10  # absolute; balance_ promises 1e-12 of the squared norm of a node, which is below 30 here


def arrays(net):
    return [node.detach().numpy().copy() for node in net.nodes]


@pytest.fixture(params=cases.NETWORKS)
def net(request):
    return cases.NETWORKS[request.param](std=1.0)


def test_tensor_is_the_literal_sum(net, tolerance):
    expected = oracles.end_tensor(net.equation, arrays(net))
    np.testing.assert_allclose(net.tensor().detach(), expected, rtol=tolerance["rounding"], atol=tolerance["rounding"])
    assert torch.equal(net(), net.tensor())


@given(einsum=cases.einsums())
def test_random_einsums(einsum):
    net = rl.TensorNetwork(*einsum)
    tolerance = TOLERANCE["rounding"]
    expected = oracles.end_tensor(net.equation, arrays(net))
    np.testing.assert_allclose(net.tensor().detach(), expected, rtol=tolerance, atol=tolerance)
    for bond in net.bonds:
        norms = oracles.component_norms(net.equation, arrays(net), bond)
        np.testing.assert_allclose(net.component_norms(bond).detach(), norms, rtol=tolerance)


@given(einsum=cases.einsums())
def test_entries_and_rank_one_tensors_of_random_einsums(einsum):
    net = rl.TensorNetwork(*einsum)
    tolerance = TOLERANCE["rounding"]
    made = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(d, (5,), generator=made) for d in net.shape] or [torch.zeros(5)], dim=1).long()
    rows = rows[:, : len(net.shape)]
    whole = oracles.end_tensor(net.equation, arrays(net))
    expected = [whole[tuple(row)] for row in rows.tolist()]
    np.testing.assert_allclose(net.entries(rows).detach(), expected, rtol=tolerance, atol=tolerance)
    if net.shape:
        vectors = [torch.randn(5, d, generator=made, dtype=torch.float64) for d in net.shape]
        scaled = [
            (whole * np.prod(np.meshgrid(*[v[b].numpy() for v in vectors], indexing="ij"), axis=0)).sum()
            for b in range(5)
        ]
        np.testing.assert_allclose(net.evaluate(vectors).detach(), scaled, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("plan", ["whole", "sweep", "pairs"])
def test_every_plan_gives_the_same_entries_and_gradients(net, plan, monkeypatch, tolerance):
    made = torch.Generator().manual_seed(1)
    rows = torch.stack([torch.randint(d, (4,), generator=made) for d in net.shape] or [torch.zeros(4)], dim=1).long()
    rows = rows[:, : len(net.shape)]
    expected = net.tensor()[tuple(rows.T)] if net.shape else net.tensor().expand(4)
    wanted = net.gradients(expected.sum())
    monkeypatch.setattr(contract, "WHOLE", 2**26 if plan == "whole" else 0)
    if plan == "pairs":
        monkeypatch.setitem(net.layout.plans, "sweep", None)
        assert contract.sweep(net.layout) is None
    found = net.entries(rows)
    torch.testing.assert_close(found, expected, rtol=tolerance["rounding"], atol=tolerance["rounding"])
    for a, b in zip(net.gradients(found.sum()), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_plain_einsum_in_place_of_the_planner_changes_nothing(net, monkeypatch, tolerance):
    planned = net.tensor()
    monkeypatch.setattr(contract, "tensor", lambda layout, nodes: torch.einsum(net.equation, *nodes))
    torch.testing.assert_close(net.tensor(), planned, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_gradients_are_central_differences(net, tolerance):
    task = cases.problem(net)
    whole = arrays(net)

    def loss(nodes):
        return float(task.loss(torch.from_numpy(oracles.end_tensor(net.equation, nodes))))

    for found, expected in zip(net.gradients(task.loss(net)), oracles.numerical_gradient(loss, whole), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance["difference"], atol=0.1 * tolerance["difference"])


def test_nodes_are_writable_views_whatever_the_storage():
    net = rl.hierarchical((2, 2, 2, 2), width=3)
    assert len(net.stacks) < len(net.nodes)
    with torch.no_grad():
        net.nodes[2].fill_(7.0)
    assert bool((net.nodes[2] == 7).all())
    assert list(net.state_dict()) == [f"nodes.{k}" for k in range(len(net.nodes))]


def test_state_dict_round_trip_and_its_errors():
    net, other = rl.cp((3, 3, 3), rank=2, seed=0), rl.cp((3, 3, 3), rank=2, seed=1)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.tensor(), other.tensor())
    with pytest.raises(RuntimeError, match=r"nodes\.0 has shape \(4, 2\)"):
        net.load_state_dict(rl.cp((4, 3, 3), rank=2).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing.*nodes\.2"):
        net.load_state_dict({k: v for k, v in net.state_dict().items() if k != "nodes.2"})
    with pytest.raises(RuntimeError, match=r"Unexpected.*nodes\.9"):
        net.load_state_dict({**net.state_dict(), "nodes.9": torch.zeros(1)})


def test_frozen_nodes_get_no_gradient_and_keep_their_values():
    net = rl.hierarchical((2, 3, 2), width=2, tree=rl.ModeTree.adjacent(3, 3), std=1.0)
    root = len(net.nodes) - 1
    with torch.no_grad():
        net.nodes[root].fill_(1.0)
    net.freeze(root)
    assert net.frozen == (root,)
    gradients = net.gradients(cases.problem(net).loss(net))
    assert bool((gradients[root] == 0).all())
    assert bool((gradients[0] != 0).any())
    before = net.imbalance()
    rl.init.balance_(net)
    assert float(net.imbalance()) < BALANCED < float(before)
    assert bool((net.nodes[root] == 1).all())
    with pytest.raises(ValueError, match="node 9 does not exist"):
        net.freeze(9)


def test_labels_beyond_letters():
    net = rl.cp((2,) * 100, rank=2, std=0.0)
    with torch.no_grad():
        for node in net.nodes:
            node.fill_(1.0)
    assert len(net.equation.split(",")) == 100
    rows = torch.zeros(3, 100, dtype=torch.int16)
    assert net.entries(rows).tolist() == [2.0, 2.0, 2.0]
    assert "order 100" in repr(net)


def test_labels_of_several_letters_are_not_taken_apart():
    labels = [["x", "ab"], ["ab", "yz"], ["yz", "q"]]
    net = rl.TensorNetwork((labels, ["x", "q"]), [torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 2)])
    again = rl.TensorNetwork(net.equation, net.nodes)
    assert again.shape == net.shape == (2, 2)
    assert [again.order(bond) for bond in again.bonds] == [2, 2]
    assert net.tensor().tolist() == again.tensor().tolist() == [[12, 12], [12, 12]]


def test_trees_of_order_1024_are_evaluated():
    net = rl.hierarchical((2,) * 1024, width=2, std=0.0)
    with torch.no_grad():
        for node in net.nodes:
            node.copy_(torch.eye(2)[: len(node)] if node.ndim == 2 else torch.ones(2) / 2)
    rows = torch.randint(2, (8, 1024), generator=torch.Generator().manual_seed(0))
    rows[0], rows[1] = 0, 1
    assert net.entries(rows).tolist() == [0.5, 0.5, *[0.0] * 6]
    with pytest.raises(ValueError, match=r"10\^308 entries.*net\.entries"):
        net.tensor()


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("aa,ab->b", [(2, 2), (2, 2)], "index 'a' appears twice in node 0"),
        ("ab->b", [(2, 2)], "bond 'a' meets only node 0"),
        ("ab,bc->acd", [(2, 2), (2, 2)], "index 'd' on the right is in no node"),
        ("ab,ac->abc", [(2, 2), (2, 2)], "mode 'a' is in nodes"),
        ("ab,bc->aac", [(2, 2), (2, 2)], "repeat one"),
        ("ab,bc", [(2, 2), (2, 2)], "exactly one '->'"),
        ("a1,1c->ac", [(2, 2), (2, 2)], "has '1'"),
        ("ab,bc->ac", [(2, 2)], "2 nodes, but 1 tensors"),
        ("ab,bc->ac", [(2, 3), (2, 2)], r"index 'b' has sizes \[2, 3\]"),
        ("ab,bc->ac", [(2, 2, 2), (2, 2)], "node 0 has indices"),
        ("ab,bc->ac", [(2, 0), (0, 2)], "every size must be at least 1"),
    ],
)
def test_illegal_einsums_are_refused_with_the_reason(equation, shapes, message):
    with pytest.raises(ValueError, match=message):
        rl.TensorNetwork(equation, [torch.ones(*shape, dtype=torch.float64) for shape in shapes])


def test_bad_nodes():
    one = torch.ones(2, 2)
    with pytest.raises(TypeError, match=r"nodes\[1\] is torch\.int64"):
        rl.TensorNetwork("ab,bc->ac", [one, one.long()])
    with pytest.raises(TypeError, match=r"node 1 is torch\.float64"):
        rl.TensorNetwork("ab,bc->ac", [one, one.double()])
    with pytest.raises(ValueError, match="nodes is empty"):
        rl.TensorNetwork("->", [])


def test_bad_indices_and_vectors():
    net = rl.cp((3, 4), rank=2)
    with pytest.raises(ValueError, match="index 4 in row 1 is outside mode 1 of size 4"):
        net.entries(torch.tensor([[0, 0], [1, 4]]))
    with pytest.raises(ValueError, match="index -1 in row 0 is outside mode 0 of size 3"):
        net.entries(torch.tensor([[-1, 0]]))
    with pytest.raises(ValueError, match="order 2 needs"):
        net.entries(torch.zeros(1, 3).long())
    with pytest.raises(ValueError, match="1 vectors were given for 2 modes"):
        net.evaluate([torch.ones(1, 3).double()])
    with pytest.raises(ValueError, match="vectors of mode 1"):
        net.evaluate([torch.ones(1, 3).double(), torch.ones(1, 3).double()])
    with pytest.raises(ValueError, match="'z' is not a bond"):
        net.order("z")


def test_disconnected_networks_with_a_cycle():
    net = rl.TensorNetwork("c,ab,ab->c", [torch.arange(2.0), torch.full((2, 2), 2.0), torch.full((2, 2), 3.0)])
    assert net.tensor().tolist() == net.entries(torch.tensor([[0], [1]])).tolist() == [0, 24]


def test_empty_batches_frozen_networks_and_scalars():
    net = rl.cp((3, 3, 3), 2, std=1.0)
    assert net.entries(torch.zeros(0, 3).long()).shape == (0,)
    assert net.evaluate([torch.zeros(0, 3)] * 3).shape == (0,)
    assert net.evaluate([torch.ones(1, 3)] * 3).dtype == torch.float64
    net.freeze(0, 1, 2)
    assert all(not g.any() for g in net.gradients(net.tensor().sum()))
    scalar = rl.TensorNetwork("a,a->", [torch.ones(2), torch.ones(2)])
    with pytest.raises(ValueError, match="no modes"):
        scalar.evaluate([])


def test_imbalance_is_what_conserved_measures():
    net = rl.deep_matrix((3, 3), depth=3, std=1.0)
    a, b, c = arrays(net)
    expected = max(np.linalg.norm(a.T @ a - b @ b.T), np.linalg.norm(b.T @ b - c @ c.T))
    assert float(net.imbalance()) == pytest.approx(expected, rel=A_FEW_ROUNDINGS)
    net = rl.cp((3, 3, 3), rank=2, std=1.0)
    squares = np.array([(node**2).sum(axis=0) for node in arrays(net)])
    expected = (squares.max(axis=0) - squares.min(axis=0)).max()
    assert float(net.imbalance()) == pytest.approx(expected, rel=A_FEW_ROUNDINGS)
    assert float(rl.deep_matrix((3, 3), depth=1).imbalance()) == 0


def test_evaluate_takes_one_block_of_vectors():
    net = rl.cp((3, 3), rank=2, std=1.0)
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.evaluate(x), torch.einsum("ij,bi,bj->b", net.tensor(), x[:, 0], x[:, 1]))


# unchecked entries


def test_unchecked_entries_are_the_checked_ones_for_every_width_of_integer(net):
    made = torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randint(d, (7,), generator=made) for d in net.shape] or [torch.zeros(7)], dim=1).long()
    rows = rows[:, : len(net.shape)]
    for dtype in (torch.int64, torch.int16, torch.uint8):
        assert torch.equal(net.entries(rows.to(dtype), check=False), net.entries(rows))


# arrays and lists


def test_nodes_indices_and_vectors_may_be_arrays_and_lists():
    values = [np.arange(6.0).reshape(3, 2), [[1, 2], [3, 4]]]
    net = rl.TensorNetwork("ar,br->ab", values)
    assert net.dtype == torch.float64
    expected = values[0] @ np.array(values[1]).T
    np.testing.assert_array_equal(net.tensor().detach(), expected)
    assert net.entries([[2, 1]]).item() == net.entries(np.array([[2, 1]], dtype=np.uint8)).item() == expected[2, 1]
    for vectors in ([[[0, 0, 1]], [[0, 1]]], [np.array([[0, 0, 1]]), torch.tensor([[0, 1]])]):
        assert net.evaluate(vectors).tolist() == [expected[2, 1]]
    assert rl.cp((3, 3), rank=2).evaluate(np.ones((4, 2, 3))).shape == (4,)
    assert net.with_nodes([2 * value for value in map(np.array, values)]).tensor().tolist() == (4 * expected).tolist()


# tied nodes and writing


def test_one_trained_tensor_as_two_nodes_is_refused_and_names_both():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"nodes 0 and 2 are one tensor.*rl\.nn\.circuit\(net, shared=True\)"):
        rl.TensorNetwork("ar,br,cr->abc", [parameter, torch.ones(2, 3), parameter])
    plain = parameter.detach()
    assert bool((rl.TensorNetwork("ar,br,cr->abc", [plain, plain, plain]).tensor() == 3).all())


def test_nodes_cannot_be_replaced_and_the_error_says_how_to_write():
    net = rl.cp((2, 3), rank=2)
    with pytest.raises(TypeError, match=r"net\.nodes\[1\] cannot be replaced; write to it in place"):
        net.nodes[1] = torch.ones(3, 2)
    with pytest.raises(AttributeError, match=r"net\.nodes cannot be assigned.*with_nodes"):
        net.nodes = [torch.ones(2, 2), torch.ones(3, 2)]
    before = net.nodes[1].detach().clone()
    with torch.no_grad():
        net.nodes[1] *= 2  # the node is changed in place and then assigned to its own position
    assert torch.equal(net.nodes[1], 2 * before)


# freezing


def is_trained(net, optimizer):
    """Whether a step of an optimizer moves each node."""
    before = [node.detach().clone() for node in net.nodes]
    net.tensor().sum().backward()
    optimizer.step()
    return [not torch.equal(a, b) for a, b in zip(before, net.nodes, strict=True)]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_one_frozen_node_of_several_alike_stays_and_the_others_move(frozen):
    net = rl.cp((3, 3, 3), rank=2, std=1.0).freeze(frozen)
    found = is_trained(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert found == [k != frozen for k in range(3)]
    before = net.nodes[frozen].detach().clone()
    rl.gradient_flow(net, cases.problem(net), until_loss=0, until_time=0.1)
    assert torch.equal(net.nodes[frozen], before)


def test_freezing_keeps_every_parameter_it_can():
    net = rl.deep_matrix((3, 4), depth=3, width=(5, 6), std=1.0)
    parameters = net.stacks
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    assert is_trained(net, optimizer) == [True, True, True]
    assert net.freeze(1) is net
    assert all(a is b for a, b in zip(net.stacks, parameters, strict=True))
    assert is_trained(net, optimizer) == [True, False, True]
    alike = rl.cp((3, 3, 3), rank=2)
    (parameter,) = alike.parameters()
    (kept,) = alike.freeze(0, 1, 2).stacks
    assert kept is parameter
    assert not kept.requires_grad


@pytest.mark.parametrize("list_parameters", [lambda net: [*net.parameters()], lambda net: [*Holder(net).parameters()]])
def test_freezing_is_refused_where_an_optimizer_might_train_nothing(list_parameters):
    net = rl.cp((3, 3, 3), rank=2, std=1.0)
    list_parameters(net)
    with pytest.raises(RuntimeError, match=r"nodes \(1,\) would move the trained nodes \(0, 2\) to new Parameters"):
        net.freeze(1)
    assert net.frozen == ()
    for other in (net.with_nodes(net.nodes), copy.deepcopy(net), copy.deepcopy(Holder(net)).net):
        assert other.freeze(1).frozen == (1,)
    assert torch.equal(net.freeze(0, 1, 2).tensor(), net.tensor())


def test_freezing_is_refused_after_a_backward_pass():
    net = rl.cp((3, 3, 3), rank=2, std=1.0)
    net.tensor().sum().backward()
    with pytest.raises(RuntimeError, match="may already be in an optimizer"):
        net.freeze(1)


class Holder(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net


def test_a_state_dict_loads_into_frozen_nodes_and_keeps_the_parameters():
    net = rl.cp((3, 3, 3), rank=2, std=1.0).freeze(1)
    other = rl.cp((3, 3, 3), rank=2, seed=1).freeze(1)
    parameters = other.stacks
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.tensor(), other.tensor())
    assert all(a is b for a, b in zip(other.stacks, parameters, strict=True))


# the end tensor and memory


def test_the_end_tensor_is_refused_exactly_when_it_does_not_fit_into_memory(monkeypatch):
    net = rl.cp((3, 3), rank=1)  # 72 bytes in float64, 36 in float32
    pages = {"SC_PAGE_SIZE": 8, "SC_PHYS_PAGES": 9}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert net.tensor().shape == (3, 3)
    pages["SC_PHYS_PAGES"] = 8
    with pytest.raises(ValueError, match="more than fit into this machine's"):
        net.tensor()
    assert net.float().tensor().shape == (3, 3)


# what is conserved


def test_conserved_differences_are_the_first_node_minus_the_others(tolerance):
    net = rl.deep_matrix((3, 4), depth=2, width=2, std=1.0)
    left, right = arrays(net)
    expected = left.T @ left - right @ right.T
    np.testing.assert_allclose(rl.theory.conserved(net, "r1"), expected, rtol=tolerance["rounding"])
    net = rl.cp((3, 4, 5), rank=2, std=1.0)
    squares = np.array([(node**2).sum(axis=0) for node in arrays(net)])
    expected = squares[0] - squares[1:]
    np.testing.assert_allclose(rl.theory.conserved(net, "r"), expected, rtol=tolerance["rounding"])
    expected = squares[1] - squares[2:]
    np.testing.assert_allclose(rl.theory.conserved(net.freeze(0), "r"), expected, rtol=tolerance["rounding"])
