import cases
import pytest
import torch

import ranklens as rl


@pytest.mark.parametrize(
    ("net", "equation", "shapes"),
    [
        (lambda: rl.deep_matrix((64, 32), depth=3), "ac,cd,db->ab", [(64, 32), (32, 32), (32, 32)]),
        (lambda: rl.cp((16, 16, 16)), "ar,br,cr->abc", [(16, 256)] * 3),
        (lambda: rl.tensor_train((2, 3, 4), rank=(2, 5)), "ad,dbe,ec->abc", [(2, 2), (2, 3, 5), (5, 4)]),
        (lambda: rl.tensor_ring((2, 3), rank=(4, 5)), "cad,dbc->ab", [(4, 2, 5), (5, 3, 4)]),
        (lambda: rl.tucker((2, 3), rank=(1, 2)), "cd,ac,bd->ab", [(1, 2), (2, 1), (3, 2)]),
    ],
)
def test_equations_and_shapes(net, equation, shapes):
    net = net()
    assert [tuple(node.shape) for node in net.nodes] == shapes
    same = rl.TensorNetwork(equation, [torch.ones(*shape) for shape in shapes])
    assert same.shape == net.shape
    assert [same.order(bond) for bond in same.bonds] == [net.order(bond) for bond in net.bonds]


def test_hierarchical_bonds_are_tree_nodes_of_order_children_plus_one():
    net = rl.hierarchical((2,) * 5, width=3, tree=cases.UNEVEN)
    assert {bond: net.order(bond) for bond in net.bonds} == dict.fromkeys(cases.UNEVEN.interior, 3)
    patches = rl.hierarchical((2,) * 16, width=2, tree=rl.ModeTree.square(4, 2))
    assert {patches.order(bond) for bond in patches.bonds} == {5}
    uneven = rl.hierarchical((2, 2, 2), width={(0, 1): 3, (0, 1, 2): 4})
    assert uneven.component_norms((0, 1)).shape == (3,)
    assert uneven.component_norms((0, 1, 2)).shape == (4,)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_seeds_decide_the_numbers(name):
    if name == "scalar":
        return
    first, again = (cases.NETWORKS[name](std=1.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.nodes, again.nodes, strict=True))


def test_a_target_and_an_init_of_equal_shape_and_seed_differ():
    net = rl.cp((5, 5, 5), rank=2, std=1.0, seed=0)
    target = rl.targets.cp((5, 5, 5), rank=2, seed=0)
    cosine = (net.tensor() * target).sum() / net.tensor().norm() / target.norm()
    assert abs(float(cosine.detach())) < 0.9


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rl.cp((3, 3), rank=0), ValueError, "rank is 0; it must be at least 1"),
        (lambda: rl.hierarchical((3, 3), width=0), ValueError, "width is 0"),
        (lambda: rl.deep_matrix((3, 3), depth=0), ValueError, "depth is 0"),
        (lambda: rl.cp((3, 0)), ValueError, r"shape\[1\] is 0"),
        (lambda: rl.cp(()), ValueError, "has 0 modes"),
        (lambda: rl.deep_matrix((3, 3, 3)), ValueError, "expected 2"),
        (lambda: rl.cp((3, 3), std=-1.0), ValueError, "std is -1.0"),
        (lambda: rl.cp((3, 3), std=float("nan")), ValueError, "std is nan"),
        (lambda: rl.cp((512, 512, 512)), ValueError, "the default rank, .* set rank="),
        (lambda: rl.hierarchical((128,) * 4), ValueError, "set width="),
        (lambda: rl.hierarchical((3, 3), width={(0,): 2}), ValueError, "which is no interior node"),
        (
            lambda: rl.hierarchical((3, 3, 3), width={(0, 1): 2}),
            ValueError,
            r"width is missing for tree node \(0, 1, 2\)",
        ),
        (lambda: rl.hierarchical((3, 3), tree=rl.ModeTree.adjacent(3)), ValueError, "the tree has modes 0 to 2"),
        (lambda: rl.hierarchical((3,)), ValueError, "a single mode"),
        (lambda: rl.tensor_ring((3,), rank=2), ValueError, "a single mode"),
        (lambda: rl.tensor_train((3, 3, 3), rank=(2,)), ValueError, "rank has 1 sizes for 2 bonds"),
    ],
)
def test_bad_sizes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_default_width_never_limits_rank():
    net = rl.hierarchical((2, 3, 2, 2))
    assert net.component_norms((0, 1)).shape == (6,)
    assert net.component_norms((0, 1, 2, 3)).shape[0] >= 4


@pytest.mark.parametrize(
    ("shape", "widths"),
    [
        ((2, 3, 2, 2), {(0, 1): 2 * 3, (2, 3): 2 * 2, (0, 1, 2, 3): 1 * 4}),  # the largest rank of 4 is left out
        ((8, 2, 2, 2), {(0, 1): 2 * 4, (2, 3): 2 * 2, (0, 1, 2, 3): 1 * 4}),  # mode 0 alone has the largest rank, 8
    ],
)
def test_default_widths_multiply_the_largest_ranks_but_one(shape, widths):
    """A matricization has a rank of at most the smaller of its sizes: 4 for modes (0, 1) in both shapes."""
    net = rl.hierarchical(shape)
    assert {bond: net.layout.sizes[bond] for bond in net.bonds} == widths
