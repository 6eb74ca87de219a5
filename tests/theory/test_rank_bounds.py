import itertools
import math

import cases
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl
from ranklens.theory import rank_bounds


def singular_values(T, modes):
    """Singular values of a matricization, by numpy."""
    columns = [n for n in range(T.ndim) if n not in modes]
    rows = math.prod(T.shape[n] for n in modes)
    return np.linalg.svd(np.transpose(T, [*modes, *columns]).reshape(rows, -1), compute_uv=False)


def every_cut(net, modes):
    """The least product over all 2^M assignments of nodes to sides, written out."""
    labels, out, sizes = net.layout.nodes, net.layout.out, {}
    for names, shape in zip(labels, net.layout.shapes, strict=True):
        sizes.update(zip(names, shape, strict=True))
    wanted = {label: n in modes for n, label in enumerate(out)}
    best = None
    for sides in itertools.product((False, True), repeat=len(labels)):
        cost = 1
        for label, size in sizes.items():
            met = {side for side, names in zip(sides, labels, strict=True) if label in names}
            if label in wanted:
                met.add(wanted[label])
            cost *= size if len(met) > 1 else 1
        best = cost if best is None else min(best, cost)
    return best


def partitions(order):
    return [modes for size in range(order + 1) for modes in itertools.combinations(range(order), size)]


def moved(net, widths):
    return float((net.tensor() - rl.truncate(net, widths).tensor()).detach().norm())


# pruning


@given(plan=cases.truncations())
def test_truncation_moves_random_einsums_by_at_most_the_bound(plan, tolerance):
    equation, nodes, widths = plan
    net = rl.TensorNetwork(equation, nodes)
    bound = float(rank_bounds.pruning_bound(net, widths))
    scale = math.prod(float(node.norm()) for node in nodes)
    assert moved(net, widths) <= bound + tolerance["rounding"] * scale
    if all(width == net.layout.sizes[bond] for bond, width in widths.items()):
        assert bound == 0.0


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", cases.NETWORKS)
def test_truncation_moves_every_family_by_at_most_the_bound(name, balanced, tolerance):
    net = cases.NETWORKS[name](std=1.0)
    if balanced:
        rl.init.balance_(net)
    norms = [float(node.detach().norm()) for node in net.nodes]
    for width in range(1, max([net.layout.sizes[b] for b in net.bonds], default=1) + 1):
        widths = {b: min(width, net.layout.sizes[b]) for b in net.bonds}
        bound, formula, papers = float(rank_bounds.pruning_bound(net, widths)), 0.0, 0.0
        for bond, w in widths.items():
            dropped = float(net.component_norms(bond).detach().sort(descending=True).values[w:].sum())
            met = {k for k, labels in enumerate(net.layout.nodes) if bond in labels}
            formula += dropped * math.prod(x for k, x in enumerate(norms) if k not in met)
            papers += dropped * max(norms) ** (len(norms) - len(met))
        assert bound == pytest.approx(formula, rel=tolerance["rounding"], abs=0)
        assert bound <= papers * (1 + tolerance["rounding"])
        assert moved(net, widths) <= bound * (1 + tolerance["rounding"]) + tolerance["rounding"] * math.prod(norms)


def test_the_papers_form_on_trees():
    """B^(|T| - 1 - |C(v)|), with |T| the nodes of the mode tree, leaves included, and C(v) the children."""
    tree = rl.ModeTree.nested(((0, 1), (2, (3, 4))))
    net = rl.hierarchical((3, 2, 3, 2, 3), width=4, tree=tree, std=0.7)
    B = max(float(node.detach().norm()) for node in net.nodes)
    for width in (1, 2, 3):
        papers = sum(
            float(net.component_norms(v).detach().sort(descending=True).values[width:].sum())
            * B ** (len(tree.nodes) - 1 - len(tree.children(v)))
            for v in tree.interior
        )
        bound = float(rank_bounds.pruning_bound(net, dict.fromkeys(net.bonds, width)))
        assert moved(net, dict.fromkeys(net.bonds, width)) <= bound < papers


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_bound_is_attained(order, tolerance):
    """By one dropped component of CP; and by one of a chain that all other nodes pass on."""
    net = rl.cp((3,) * order, rank=4, std=1.0)
    bound = float(rank_bounds.pruning_bound(net, {"r": 3}))
    assert moved(net, {"r": 3}) == pytest.approx(bound, rel=tolerance["rounding"])
    first, rest = torch.diag(torch.tensor([1.0, 2.0])).double(), torch.diag(torch.tensor([2.0, 0.0])).double()
    chain = rl.TensorNetwork(([(k, k + 1) for k in range(order)], (0, order)), [first, first, *[rest] * (order - 2)])
    bound = float(rank_bounds.pruning_bound(chain, {1: 1}))
    assert bound == pytest.approx(2.0 ** (order - 2), rel=tolerance["rounding"])
    assert moved(chain, {1: 1}) == pytest.approx(bound, rel=tolerance["rounding"])


@given(plan=cases.truncations(), seed=st.integers(0, 10**6))
def test_the_bound_scales_with_every_node(plan, seed, tolerance):
    equation, nodes, widths = plan
    factors = 1 + 3 * torch.rand(len(nodes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = rl.TensorNetwork(equation, [f * node for f, node in zip(factors, nodes, strict=True)])
    before = float(rank_bounds.pruning_bound(rl.TensorNetwork(equation, nodes), widths))
    after = float(rank_bounds.pruning_bound(scaled, widths))
    assert after == pytest.approx(before * float(factors.prod()), rel=tolerance["rounding"])


def test_bounds_of_very_many_nodes_do_not_become_nan():
    net = rl.cp((2,) * 784, rank=3, std=1.0)
    assert not math.isnan(float(rank_bounds.pruning_bound(net, {"r": 2})))
    with torch.no_grad():
        for node in net.nodes:
            node[:, 0] = 0.0
            node[:, 1:] = 1e3
    assert float(rank_bounds.pruning_bound(net, {"r": 2})) == 0.0
    assert float(rank_bounds.pruning_bound(net, {"r": 1})) == math.inf


def test_widths_of_a_bound_are_checked():
    net = rl.cp((3, 4, 5), rank=4)
    with pytest.raises(ValueError, match="'q' is not a bond"):
        rank_bounds.pruning_bound(net, {"q": 1})
    with pytest.raises(ValueError, match="width of bond 'r' is 0"):
        rank_bounds.pruning_bound(net, {"r": 0})
    with torch.no_grad():
        net.nodes[2][0, 0] = math.nan
    with pytest.raises(ValueError, match="node 2 has entries that are not finite"):
        rank_bounds.pruning_bound(net, {"r": 2})


def test_a_bad_node_elsewhere_is_named_too():
    net = rl.hierarchical((2,) * 4, width=3, std=1.0)
    with torch.no_grad():
        net.nodes[3][0, 0] = math.inf
    with pytest.raises(ValueError, match="node 3 has entries that are not finite"):
        rank_bounds.pruning_bound(net, {(0, 1): 2})


# rank by components


@pytest.mark.parametrize("alive", [1, 2, 3])
@pytest.mark.parametrize("tree", [rl.ModeTree.adjacent(4), rl.ModeTree.distant(4)], ids=["adjacent", "distant"])
def test_the_rank_at_a_child_is_at_most_the_number_of_components_left(tree, alive, tolerance):
    net = rl.hierarchical((4,) * 4, width=5, tree=tree, std=1.0)
    bond = tree.root
    with torch.no_grad():
        for k, axis in net.layout.meets(bond)[:1]:  # one slice of zeros ends a component
            net.nodes[k].narrow(axis, alive, 5 - alive).zero_()
    assert int((net.component_norms(bond) > 0).sum()) == alive
    T = net.tensor().detach().numpy()
    for child in tree.children(bond):
        s = singular_values(T, child)
        assert s[alive:].max(initial=0.0) <= tolerance["rounding"] * s[0]
        assert s[alive - 1] > 1e-6 * s[0]
        small = rl.truncate(net, {bond: alive})
        assert rank_bounds.min_cut_bound(small, child) == alive


# cuts


@given(einsum=cases.einsums(), seed=st.integers(0, 10**6))
def test_the_smallest_cut_is_that_of_all_assignments(einsum, seed):
    net = rl.TensorNetwork(*einsum)
    for modes in partitions(len(net.shape)):
        assert rank_bounds.min_cut_bound(net, modes) == every_cut(net, modes)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_ranks_of_every_family_stay_below_the_cut(name, tolerance):
    net = cases.NETWORKS[name](std=1.0)
    T = net.tensor().detach().numpy()
    for modes in partitions(len(net.shape)):
        bound = rank_bounds.min_cut_bound(net, modes)
        assert bound == every_cut(net, modes)
        if net.shape:
            s = singular_values(T, modes)
            assert s[bound:].max(initial=0.0) <= tolerance["rounding"] * s[0]
            assert rank_bounds.separation_rank(net, modes, rtol=tolerance["rounding"]) <= bound


@given(einsum=cases.einsums())
def test_ranks_of_random_einsums_stay_below_the_cut(einsum, tolerance):
    net = rl.TensorNetwork(*einsum)
    T = net.tensor().detach().numpy()
    scale = math.prod(float(node.detach().norm()) for node in net.nodes)
    for modes in partitions(len(net.shape)) if net.shape else []:
        s = singular_values(T, modes)
        assert s[rank_bounds.min_cut_bound(net, modes) :].max(initial=0.0) <= tolerance["rounding"] * scale


@given(einsum=cases.einsums())
def test_the_two_sides_have_one_cut(einsum):
    net = rl.TensorNetwork(*einsum)
    everything = range(len(net.shape))
    for modes in partitions(len(net.shape)):
        others = [n for n in everything if n not in modes]
        assert rank_bounds.min_cut_bound(net, modes) == rank_bounds.min_cut_bound(net, others)
    assert rank_bounds.min_cut_bound(net, []) == 1


@pytest.mark.parametrize(
    ("tree", "near", "far"), [(rl.ModeTree.adjacent(4), 3, 9), (rl.ModeTree.distant(4), 9, 3)], ids=["near", "distant"]
)
def test_trees_decide_which_partitions_are_cheap(tree, near, far):
    net = rl.hierarchical((4,) * 4, width=3, tree=tree, std=1.0)
    for modes, expected in {(0, 1): near, (2, 3): near, (0, 2): far, (1, 3): far, (2,): 3, (0, 1, 3): 3}.items():
        assert rank_bounds.min_cut_bound(net, modes) == expected
        assert rank_bounds.separation_rank(net, modes) == expected  # generic values attain it
        entropy = float(rl.entanglement_entropy(net.tensor().detach(), modes))
        assert 0 < entropy <= math.log(expected)


def test_a_hyperedge_counts_once_and_a_mode_may_be_cheaper_than_a_bond():
    assert rank_bounds.min_cut_bound(rl.cp((9,) * 6, rank=5), (0, 2, 4)) == 5
    assert rank_bounds.min_cut_bound(rl.cp((2,) * 6, rank=5), (0, 2)) == 4
    assert rank_bounds.min_cut_bound(rl.tucker((4, 4, 4), rank=(2, 3, 5)), (2,)) == 4
    assert rank_bounds.min_cut_bound(rl.tensor_ring((9, 9, 9), rank=2), (1,)) == 4
    assert rank_bounds.min_cut_bound(rl.deep_matrix((6, 7), depth=4, width=(5, 3, 4)), (0,)) == 3


def test_cuts_of_hundreds_of_nodes():
    tree = rl.hierarchical((2,) * 256, width=9)
    assert rank_bounds.min_cut_bound(tree, range(128)) == 9
    assert rank_bounds.min_cut_bound(tree, range(0, 256, 2)) == 2**128  # a mode of each pair of siblings
    assert rank_bounds.min_cut_bound(rl.cp((28,) * 784, rank=100), range(5, 700, 3)) == 100
    train = rl.tensor_train((50,) * 100, rank=7)
    assert rank_bounds.min_cut_bound(train, range(60)) == 7
    assert rank_bounds.min_cut_bound(train, range(0, 100, 2)) == 7**99


@pytest.mark.parametrize("order", [1, -1])
def test_cuts_that_differ_by_little_are_told_apart(order):
    """10001 x 9999 against 10000 x 10000, in a chain that may be cut at either; such nodes need not exist."""
    sizes = [(10001, 9999), (10000, 10000)][::order]
    shapes = [(10**9, *sizes[0]), (*sizes[0], *sizes[1]), (*sizes[1], 10**9)]
    nodes = [torch.empty(shape, dtype=torch.float64, device="meta") for shape in shapes]
    assert rank_bounds.min_cut_bound(rl.TensorNetwork("apq,pqrs,rsb->ab", nodes), (0,)) == 10**8 - 1


def test_wrong_modes_are_named():
    net = rl.hierarchical((2,) * 4, width=2)
    for function in (rank_bounds.min_cut_bound, rank_bounds.separation_rank):
        with pytest.raises(ValueError, match="mode 4 does not exist; a tensor of order 4 has modes 0 to 3"):
            function(net, (0, 4))
        with pytest.raises(ValueError, match=r"modes\[0\] is -1; it must be at least 0"):
            function(net, (-1,))
        with pytest.raises(ValueError, match=r"modes \(1, 1\) repeat one"):
            function(net, (1, 1))
    with pytest.raises(ValueError, match="rtol is nan"):
        rank_bounds.separation_rank(net, (0,), rtol=math.nan)
    with pytest.raises(ValueError, match="no modes"):
        rank_bounds.separation_rank(cases.NETWORKS["scalar"](1.0), ())
    with torch.no_grad():
        net.nodes[0][0, 0] = math.nan
    with pytest.raises(ValueError, match="all entries must be finite"):
        rank_bounds.separation_rank(net, (0,))


def test_the_zero_tensor_has_rank_zero():
    assert rank_bounds.separation_rank(rl.cp((2, 3, 4), rank=2, std=0.0), (1,)) == 0
