import copy
import math

import numpy as np
import pytest
import torch
from cases import NETWORKS
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import ranklens as rl

# Error of a circuit against its network, relative to the sum of the absolute values of all terms.
ROUNDING = 1e-12
# Sums of many products, whose terms may cancel: a relative error of 1e-12 of terms of size 10.
CANCELLED = 1e-11
# Relative difference that shows that two functions differ.
CLEARLY = 1e-3

CIRCUITS = [name for name in NETWORKS if name.split()[0] in ("matrix", "cp", "hierarchical")]
OTHERS = [name for name in NETWORKS if name not in CIRCUITS]
AXES_ELSEWHERE = {
    "CP, axes swapped": ("ra,br,rc->bac", {}),
    "matrix, transposed factors": ("ba,bc,dc->ad", {}),
    "matrix, factors in any order": ("bc,ab,cd->da", {}),
    "two factors, transposed": ("ra,br->ab", {}),
    "tree, axes swapped": ("ai,ib,ji,ck,dk,kj,j->dbca", {"i": 3, "k": 2}),
    "tree nodes of one child": ("ai,ij,jk,bk,k->ab", {"i": 3, "k": 2}),
    "one mode": ("ai,ij,j->a", {"i": 3}),
}


# the circuits as the papers write them, in loops


def literal_linear(matrices, pairs):
    """Return y^T W_L (... (W_1 x)) for every pair (y, x), in loops."""
    found = []
    for y, x in zip(*pairs, strict=True):
        activation = x
        for W in reversed(matrices):
            activation = np.array([sum(W[i, j] * activation[j] for j in range(W.shape[1])) for i in range(len(W))])
        found.append(sum(a * b for a, b in zip(y, activation, strict=True)))
    return np.array(found)


def literal_shallow(factors, vectors):
    """Return sum_r prod_n <w_r^n, x_n> for every row, in loops."""
    ranks = range(factors[0].shape[1])
    rows = range(len(vectors[0]))
    return np.array(
        [sum(math.prod(w[:, r] @ x[b] for w, x in zip(factors, vectors, strict=True)) for r in ranks) for b in rows]
    )


def literal_deep(groups, weights, vectors):
    """Return the linear output of the deep circuit, computed recursively from the modes to the root."""

    def modes(group):
        return (group,) if isinstance(group, int) else tuple(sorted(n for child in group for n in modes(child)))

    def activation(group, b):
        if isinstance(group, int):
            return vectors[group][b]
        below = [weights[modes(child)].T @ activation(child, b) for child in group]
        return np.array([math.prod(vector[r] for vector in below) for r in range(len(below[0]))])

    return np.array([weights[modes(groups)] @ activation(groups, b) for b in range(len(vectors[0]))])


# what is tested


def vectors_for(net, batch=4, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, d, generator=made, dtype=torch.float64) for d in net.shape]


def arrays(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def absolute(net):
    """Return the network with absolute values in its nodes, which adds up the absolute values of all terms."""
    return net.with_nodes([node.detach().abs() for node in net.nodes])


def terms(net, vectors):
    """Return the sum of the absolute values of all terms of `net.evaluate`, which bounds its rounding error."""
    return absolute(net).evaluate([vector.abs() for vector in vectors]).detach()


def assert_same_function(found, expected, net, vectors):
    assert bool(((found - expected).abs() <= ROUNDING * terms(net, vectors)).all())


def assert_same_network(found, net):
    assert (found.layout.nodes, found.layout.out, found.frozen) == (net.layout.nodes, net.layout.out, net.frozen)
    assert all(torch.equal(a, b) for a, b in zip(found.nodes, net.nodes, strict=True))


def gradients(model, loss):
    """Return the gradients with respect to the parameters of a circuit, in the order of the network's nodes."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = copy.deepcopy(model)
    with torch.no_grad():
        for weight in slopes.parameters():
            weight.zero_()
        places = [weight for weight in slopes.parameters() if weight.requires_grad]
        for place, slope in zip(places, torch.autograd.grad(loss, weights), strict=True):
            place.copy_(slope)
    return slopes.nodes


def assert_same_gradients(model, net, vectors):
    found = gradients(model, model(vectors).square().sum())
    expected = net.gradients(net.evaluate(vectors).square().sum())
    bound = absolute(net)
    sizes = bound.gradients(bound.evaluate([vector.abs() for vector in vectors]).square().sum())
    for a, b, size in zip(found, expected, sizes, strict=True):
        assert bool(((a - b).abs() <= ROUNDING * size).all())


def with_axes(equation, sizes):
    shapes = [[sizes.get(x, 2) for x in labels] for labels in equation.split("->")[0].split(",")]
    made = torch.Generator().manual_seed(3)
    return rl.TensorNetwork(equation, [torch.randn(*s, generator=made, dtype=torch.float64) for s in shapes])


@st.composite
def trees(draw, height=3):
    """Draw a nested tuple of modes: groups of 2 or 3, of different depths, with the modes in random order."""

    def shape(height):
        if height == 0 or (height < 3 and draw(st.booleans())):
            return None
        return [shape(height - 1) for _ in range(draw(st.integers(2, 3)))]

    skeleton = shape(height)
    leaves = str(skeleton).count("None")
    modes = iter(draw(st.permutations(range(leaves))))

    def fill(group):
        return next(modes) if group is None else tuple(fill(child) for child in group)

    return fill(skeleton)


@given(groups=trees(), data=st.data())
def test_any_tree_of_any_widths_is_a_deep_circuit(groups, data):
    tree = rl.ModeTree.nested(groups)
    widths = {node: data.draw(st.integers(1, 3)) for node in tree.interior}
    shape = [data.draw(st.integers(1, 3)) for _ in range(tree.order)]
    net = rl.hierarchical(shape, widths, tree, std=1.0, seed=data.draw(st.integers(0, 99)))
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    keys = [(n,) for n in range(tree.order)] + list(tree.interior)
    weights = dict(zip(keys, arrays(net.nodes), strict=True))
    found = model(vectors)
    assert_same_function(found, net.evaluate(vectors), net, vectors)
    expected = torch.from_numpy(literal_deep(groups, weights, arrays(vectors)))
    assert_same_function(found, expected, net, vectors)
    assert_same_network(model.network(), net)
    assert_same_gradients(model, net, vectors)
    assert sum(weight.numel() for weight in model.parameters()) == sum(node.numel() for node in net.nodes)
    assert len(model.levels) == tree.height


@given(shape=st.lists(st.integers(1, 3), min_size=2, max_size=9), rank=st.integers(1, 4))
def test_any_cp_is_a_shallow_circuit(shape, rank):
    net = rl.cp(shape, rank, std=1.0)
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    found = model(vectors)
    assert_same_function(found, net.evaluate(vectors), net, vectors)
    expected = torch.from_numpy(literal_shallow(arrays(net.nodes), arrays(vectors)))
    assert_same_function(found, expected, net, vectors)
    assert_same_network(model.network(), net)
    assert_same_gradients(model, net, vectors)
    assert len(model.levels) == 1
    assert model.output is None


@given(widths=st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_any_deep_matrix_is_a_linear_network(widths):
    rows, *between, columns = widths
    net = rl.deep_matrix((rows, columns), depth=len(widths) - 1, width=between, std=1.0)
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    found = model(vectors)
    assert_same_function(found, net.evaluate(vectors), net, vectors)
    assert_same_function(found, torch.from_numpy(literal_linear(arrays(net.nodes), arrays(vectors))), net, vectors)
    assert_same_network(model.network(), net)
    assert_same_gradients(model, net, vectors)
    outputs = model.linear(torch.eye(columns, dtype=torch.float64)).T
    torch.testing.assert_close(outputs, net.tensor(), rtol=ROUNDING, atol=CANCELLED)
    for layer, node in zip(model.linear, reversed(net.nodes), strict=True):
        assert isinstance(layer, torch.nn.Linear)
        assert layer.bias is None
        assert torch.equal(layer.weight, node)


@pytest.mark.parametrize("name", CIRCUITS)
def test_one_hot_inputs_give_the_entries(name):
    net = NETWORKS[name](std=1.0)
    rows = torch.cartesian_prod(*[torch.arange(d) for d in net.shape])
    hot = [torch.nn.functional.one_hot(rows[:, n], d).double() for n, d in enumerate(net.shape)]
    assert_same_function(rl.nn.circuit(net)(hot), net.entries(rows), net, hot)


@pytest.mark.parametrize("name", AXES_ELSEWHERE)
def test_einsums_whose_axes_come_in_another_order(name):
    net = with_axes(*AXES_ELSEWHERE[name])
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    assert isinstance(model, rl.nn.LinearCircuit) == ("matrix" in name or "factors" in name)
    assert_same_function(model(vectors), net.evaluate(vectors), net, vectors)
    assert_same_network(model.network(), net)
    assert_same_gradients(model, net, vectors)


@pytest.mark.parametrize(
    "tree", [rl.ModeTree.adjacent(16, 2), rl.ModeTree.distant(16, 4), rl.ModeTree.square(4, 2)], ids=str
)
def test_levels_are_the_stacked_nodes_of_the_tree(tree):
    net = rl.hierarchical((3,) * 16, 4, tree, std=1.0)
    model, x = rl.nn.circuit(net), torch.stack(vectors_for(net), dim=1)
    assert_same_function(model(x), net.evaluate(x), net, x.unbind(1))
    assert torch.equal(model(x), model(x.unbind(1)))
    leaves = model.levels[0].weights[0]
    assert torch.equal(leaves, torch.stack(net.nodes[:16]))
    pools = len(tree.children(tree.root))
    assert [tuple(level.weights[0].shape) for level in model.levels[1:]] == [
        (pools**k, 4, 4) for k in range(tree.height - 1, 0, -1)
    ]
    assert torch.equal(model.output, net.nodes[-1])
    lowest = [node for node in tree.interior if all(len(child) == 1 for child in tree.children(node))]
    assert sorted(model.levels[0].windows) == sorted(lowest)


def test_a_position_waits_where_the_tree_skips_levels():
    net = rl.hierarchical((2,) * 4, 3, rl.ModeTree.nested((0, (1, (2, 3)))), std=1.0)
    first, second, third = rl.nn.circuit(net).levels
    assert (first.windows, second.windows, third.windows) == (((2, 3),), ((1, 2),), ((0, 1),))
    x = torch.stack(vectors_for(net), dim=1)
    above = first(x)
    assert torch.equal(above[:, :2, :2], x[:, :2])
    assert not above[:, :2, 2].any()


def test_no_more_kernel_calls_for_order_784():
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.calls += 1
            return func(*args, **(kwargs or {}))

    net = rl.cp((2,) * 784, rank=3, std=0.1)
    with torch.no_grad():
        net.stacks[0].add_(1.0)
    model = rl.nn.circuit(net)
    rows = torch.randint(2, (5, 784), generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.one_hot(rows, 2).double()
    with Count():
        slope = torch.autograd.grad(model(x).sum(), model.levels[0].weights[0])[0]
    assert Count.calls < 200
    assert bool(torch.isfinite(slope).all())
    assert_same_function(model(x), net.entries(rows), net, x.unbind(1))
    assert_same_gradients(model, net, x.unbind(1))
    assert_same_network(model.network(), net)


# shared weights


@pytest.mark.parametrize("name", ["cp", "tree"])
def test_shared_weights_are_the_network_exactly_where_its_levels_are_equal(name, tolerance):
    net = rl.cp((3,) * 4, 2, std=1.0) if name == "cp" else rl.hierarchical((3,) * 8, 2, std=1.0)
    model, x = rl.nn.circuit(net, shared=True), torch.stack(vectors_for(net), dim=1)
    assert not torch.allclose(model(x), net.evaluate(x), rtol=CLEARLY)
    symmetric = model.network()
    assert_same_function(model(x), symmetric.evaluate(x), symmetric, x.unbind(1))
    assert torch.equal(symmetric.nodes[0], net.nodes[0])
    assert all(torch.equal(symmetric.nodes[0], node) for node in symmetric.nodes[: len(net.shape)])
    again = rl.nn.circuit(symmetric, shared=True)
    assert_same_function(again(x), symmetric.evaluate(x), symmetric, x.unbind(1))
    assert_same_network(again.network(), symmetric)
    order = torch.arange(len(net.shape) - 1, -1, -1)
    torch.testing.assert_close(model(x[:, order]), model(x), rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_a_shared_weight_gets_the_sum_of_its_nodes_gradients(tolerance):
    net = rl.nn.circuit(rl.hierarchical((3,) * 8, 2, std=1.0), shared=True).network()
    model, x = rl.nn.circuit(net, shared=True), torch.stack(vectors_for(net), dim=1)
    weights = [*[level.weights[0] for level in model.levels], model.output]
    found = torch.autograd.grad(model(x).sum(), weights)
    nodes = net.gradients(net.evaluate(x).sum())
    expected = [sum(nodes[:8]), sum(nodes[8:12]), sum(nodes[12:14]), nodes[14]]
    for slope, total in zip(found, expected, strict=True):
        torch.testing.assert_close(slope, total, rtol=tolerance["rounding"], atol=tolerance["rounding"] * 100)


def test_what_cannot_share():
    with pytest.raises(ValueError, match=r"nodes \[0, 1\] of one level are unlike \(\(3, 2\), \(4, 2\)\)"):
        rl.nn.circuit(rl.cp((3, 4), 2), shared=True)
    with pytest.raises(ValueError, match=r"unlike \(\(3, 2\), \(3, 2\) frozen\)"):
        rl.nn.circuit(rl.cp((3, 3, 3), 2).freeze(1), shared=True)
    with pytest.raises(ValueError, match="nothing to share"):
        rl.nn.circuit(rl.deep_matrix((3, 3)), shared=True)
    frozen = rl.nn.circuit(rl.cp((3, 3, 3), 2).freeze(0, 1, 2), shared=True)
    assert frozen.network().frozen == (0, 1, 2)


# a module like any other


@pytest.mark.parametrize(("name", "shared"), [*[(name, False) for name in CIRCUITS], ("hierarchical wide pool", True)])
def test_state_dicts_copies_dtypes_and_devices(name, shared, tolerance):
    net = NETWORKS[name](std=1.0)
    model, vectors = rl.nn.circuit(net, shared), vectors_for(net)
    expected = model(vectors)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not twin(vectors).any()
    assert bool(expected.any())
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(vectors), expected)
    assert len(model.state_dict()) == len(list(model.parameters()))
    single = copy.deepcopy(model).float()(vectors)
    assert single.dtype == torch.float32
    scale = float(terms(model.network(), vectors).max())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=tolerance["float32"] * scale)
    assert copy.deepcopy(model).to("meta")(vectors).shape == expected.shape
    assert "Circuit" in repr(model)


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 4", "hierarchical uneven"])
def test_frozen_nodes_stay_frozen_there_and_back(name):
    net = NETWORKS[name](std=1.0).freeze(1)
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    assert sum(w.numel() for w in model.parameters() if not w.requires_grad) == net.nodes[1].numel()
    assert_same_function(model(vectors), net.evaluate(vectors), net, vectors)
    assert_same_gradients(model, net, vectors)
    with torch.no_grad():
        assert_same_network(model.network(), net)
    tree = rl.hierarchical((2, 2), 2, std=1.0).freeze(2)
    assert_same_network(rl.nn.circuit(tree).network(), tree)


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 4", "hierarchical uneven"])
def test_a_step_of_descent_is_the_same_on_either_side(name, tolerance):
    net = NETWORKS[name](std=1.0)
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    before = [node.detach().clone() for node in net.nodes]
    for parameters, function in ((list(net.parameters()), net.evaluate), (list(model.parameters()), model)):
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        function(vectors).square().mean().backward()
        optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, net.nodes, strict=True))
    for a, b in zip(model.nodes, net.nodes, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_a_circuit_owns_its_weights():
    net = rl.cp((2, 2, 2), 2, std=1.0)
    model, x = rl.nn.circuit(net), torch.ones(1, 3, 2, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        net.nodes[0].zero_()
    assert torch.equal(model(x), before)
    assert bool(before.any())


# product pooling


def literal_pool(x, windows):
    return np.stack([math.prod(x[..., p, :] for p in window) for window in windows], axis=-2)


@given(count=st.integers(1, 9), zeros=st.integers(0, 9), data=st.data())
def test_product_pool_over_any_windows(count, zeros, data):
    windows = data.draw(st.lists(st.lists(st.integers(0, count - 1), min_size=1, max_size=9), min_size=1, max_size=4))
    x = torch.randn(2, 3, count, 2, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    x[..., :zeros, :] = 0.0
    found = rl.nn.product_pool(x, windows)
    np.testing.assert_allclose(found, literal_pool(x.numpy(), windows), rtol=ROUNDING)
    np.testing.assert_allclose(rl.nn.product_pool(x), literal_pool(x.numpy(), [range(count)]), rtol=ROUNDING)


@pytest.mark.parametrize("zeros", [0, 1, 2, 7])
@pytest.mark.parametrize("windows", [None, [[0, 1], [2, 3, 4, 5], [6], [6, 1]]])
def test_derivatives_of_products_at_zeros(zeros, windows):
    x = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(zeros), dtype=torch.float64)
    x[:, :zeros] = 0.0
    x.requires_grad_()
    with torch.random.fork_rng():
        assert torch.autograd.gradcheck(lambda x: rl.nn.product_pool(x, windows), (x,))
        assert torch.autograd.gradgradcheck(lambda x: rl.nn.product_pool(x, windows), (x,))


@pytest.mark.parametrize("zeros", [0, 1, 2, 3, 50])
def test_gradient_of_a_long_product_is_the_product_of_the_others(zeros):
    x = 1 + 0.1 * torch.randn(50, 3, generator=torch.Generator().manual_seed(zeros), dtype=torch.float64)
    x[:zeros] = 0.0
    x.requires_grad_()
    (found,) = torch.autograd.grad(rl.nn.product_pool(x).sum(), x)
    values = x.detach().numpy()
    expected = np.stack([math.prod(np.delete(values, p, axis=0)) for p in range(50)])
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)


def test_products_of_strange_numbers():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[2.0], [inf], [0.0], [nan]])
    found = rl.nn.product_pool(x, [[0, 1], [1, 2], [0, 3], [0, 2]])[:, 0].tolist()
    assert found[0] == inf
    assert math.isnan(found[1])
    assert math.isnan(found[2])
    assert found[3] == 0.0
    assert rl.nn.product_pool(torch.zeros(0, 3, 2)).shape == (0, 1, 2)


# errors


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_no_circuits(name):
    with pytest.raises(ValueError, match=r"no circuit: only deep_matrix.*net\.evaluate\(x\) works"):
        rl.nn.circuit(NETWORKS[name](std=1.0))


@pytest.mark.parametrize(
    "equation", ["ai,ij,ij,j->a", "ai,bi,i,i->ab", "abr,cr->abc", "a,b->ab", "ai,bi,ij,cj->abc", "ab,cd->abcd", "a->a"]
)
def test_neither_are_cycles_pieces_and_nodes_of_two_modes(equation):
    with pytest.raises(ValueError, match="no circuit"):
        rl.nn.circuit(with_axes(equation, {}))


@pytest.mark.parametrize("name", ["matrix depth 2", "cp order 3", "hierarchical uneven"])
def test_inputs_that_do_not_fit_and_those_that_do(name):
    net = NETWORKS[name](std=1.0)
    model, vectors = rl.nn.circuit(net), vectors_for(net)
    with pytest.raises(ValueError, match="1 vectors were given"):
        model(vectors[:1])
    with pytest.raises(ValueError, match="vectors of mode 1 have shape"):
        model([vectors[0], vectors[1][:, :1], *vectors[2:]])
    with pytest.raises(ValueError, match="vectors of mode 0"):
        model([vectors[0][:, 0], *vectors[1:]])
    assert model([vector[:0] for vector in vectors]).shape == (0,)
    whole = [vector.round().long() for vector in vectors]
    torch.testing.assert_close(model(whole), net.evaluate(whole), rtol=ROUNDING, atol=CANCELLED)
    vectors[0][2] = float("nan")
    assert model(vectors).isnan().tolist() == net.evaluate(vectors).isnan().tolist() == [False, False, True, False]


def test_bad_windows_and_what_is_no_network():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="window 1 is empty"):
        rl.nn.product_pool(x, [[0], []])
    with pytest.raises(ValueError, match="window 0 has position 2; positions run from 0 to 1"):
        rl.nn.product_pool(x, [[2]])
    with pytest.raises(ValueError, match="window 0 has position -1"):
        rl.nn.product_pool(x, [[-1]])
    with pytest.raises(ValueError, match="windows is empty"):
        rl.nn.product_pool(x, [])
    with pytest.raises(ValueError, match="window 0 is empty"):
        rl.nn.product_pool(torch.ones(0, 3))
    with pytest.raises(TypeError, match="net is 'ab,bc->ac'; it must be a TensorNetwork"):
        rl.nn.circuit("ab,bc->ac")
