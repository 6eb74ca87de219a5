import oracles
import pytest
import torch

import ranklens as rl
from ranklens.tensors import contract

THROUGH_LOGARITHMS = 1e-10  # relative; a gradient by one of 64 factors, as an exponential of a sum of logarithms
CANCELLED = 1e-12  # absolute; gradients are sums over rows of numbers of order one, which may cancel
CANCELLED_FLOAT32 = 1e-6  # absolute; entries of order one are sums of three products in float32


def test_log_domain_is_used_for_high_orders_and_agrees(tolerance):
    net = rl.init.normal_(rl.cp((2,) * 64, rank=3), std=0.1, mean=1.0)
    rows = torch.randint(2, (10, 64), generator=torch.Generator().manual_seed(0))
    found = net.entries(rows)
    picked = torch.stack([node[rows[:, n]] for n, node in enumerate(net.nodes)])
    torch.testing.assert_close(found, picked.prod(dim=0).sum(dim=1), rtol=tolerance["rounding"], atol=0.0)
    wanted = net.gradients(picked.prod(dim=0).sum())
    for a, b in zip(net.gradients(found.sum()), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=THROUGH_LOGARITHMS, atol=CANCELLED)


def test_order_784_neither_under_nor_overflows(tolerance):
    net = rl.cp((2,) * 784, rank=2, std=0.0)
    rows = torch.zeros(2, 784, dtype=torch.long)
    rows[1] = 1
    with torch.no_grad():
        for n, node in enumerate(net.nodes):  # products whose parts leave the range of float64, yet equal one
            node[0] = 1e-3 if n < 392 else 1e3
            node[1] = 10.0 if n % 2 else 0.1
    torch.testing.assert_close(
        net.entries(rows).detach(), torch.full((2,), 2.0).double(), rtol=tolerance["rounding"], atol=0.0
    )


def test_half_precision_counts_signs():
    net = rl.cp((2,) * 784, 1, std=1.0)
    with torch.no_grad():
        for stack in net.stacks:
            stack.copy_(stack.sign())
    rows = torch.randint(2, (50, 784), generator=torch.Generator().manual_seed(0))
    expected = net.entries(rows)
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(net.to(dtype).entries(rows).double(), expected)


def test_cost_decides_between_the_whole_tensor_and_rows():
    net = rl.hierarchical((8, 8, 8, 8), width=512)
    assert contract.reads_whole(net.layout, 2048)
    assert not contract.reads_whole(net.layout, 4)
    assert contract.work(net.layout) == pytest.approx(36e6, rel=0.1)  # multiply-adds; 2,100e6 entry by entry
    assert not contract.reads_whole(rl.cp((2,) * 64, rank=2).layout, 10**6)


def test_equal_nodes_share_one_parameter():
    assert [tuple(s.shape) for s in rl.cp((2,) * 784, rank=3).stacks] == [(784, 2, 3)]
    shapes = {tuple(s.shape) for s in rl.hierarchical((2,) * 16, width=3).stacks}
    assert (16, 2, 3) in shapes
    assert len(rl.hierarchical((2,) * 16, width=3).stacks) <= 6


def test_float32_is_close_to_float64(tolerance):
    net = rl.cp((2,) * 100, rank=3, std=0.0)
    rl.init.normal_(net, std=0.1, mean=1.0)
    low = rl.cp((2,) * 100, rank=3, std=0.0, dtype=torch.float32)
    rl.init.normal_(low, std=0.1, mean=1.0)
    rows = torch.randint(2, (10, 100), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        low.entries(rows).double(), net.entries(rows), rtol=tolerance["float32"], atol=CANCELLED_FLOAT32
    )


SEVERAL_MODES = ("abr,cdr->abcd", "abr,cdr->cbda", "abr,cdr,efs,rs->abcdef")


def with_leaves_of_several_modes(equation):
    """Return a network that is swept, its end tensor, and a generator; the modes have unequal sizes."""
    sizes = dict(zip("abcdefrs", (3, 4, 3, 4, 2, 5, 3, 2), strict=True))
    made = torch.Generator().manual_seed(0)
    labels = equation.split("->")[0].split(",")
    nodes = [torch.randn(*[sizes[x] for x in node], generator=made, dtype=torch.float64) for node in labels]
    net = rl.TensorNetwork(equation, nodes)
    assert contract.sweep(net.layout) is not None
    return net, torch.from_numpy(oracles.end_tensor(equation, [node.numpy() for node in nodes])), made


@pytest.mark.parametrize("equation", SEVERAL_MODES)
def test_leaves_of_several_modes_are_looked_up_row_major_in_a_sweep(equation, monkeypatch, tolerance):
    """Modes of unequal sizes, so that every mistake in the position within a leaf reads another entry."""
    monkeypatch.setattr(contract, "WHOLE", 0)
    net, whole, _ = with_leaves_of_several_modes(equation)
    indices = torch.cartesian_prod(*map(torch.arange, net.shape))
    torch.testing.assert_close(net.entries(indices).detach(), whole.flatten(), rtol=0, atol=tolerance["rounding"])


def test_any_label_names_a_bond():
    """Labels are any hashable objects, among them those that mean something in Python."""
    chain = [["a", None], [None, False], [False, ""], ["", ()], [(), "b"]]
    made = torch.Generator().manual_seed(0)
    nodes = [torch.randn(3, 3, generator=made, dtype=torch.float64) for _ in chain]
    net = rl.TensorNetwork((chain, ["a", "b"]), nodes)
    W = torch.linalg.multi_dot(nodes)
    indices = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat(3, 1)
    assert torch.allclose(net.entries(indices), W.reshape(-1).repeat(3))
    assert torch.allclose(contract.entries(net.layout, net.stacks, indices[:1]), W[:1, 0])


@pytest.mark.parametrize("equation", SEVERAL_MODES)
def test_leaves_of_several_modes_are_weighed_by_the_vectors_of_their_modes(equation, monkeypatch, tolerance):
    """Inner products with rank-one tensors, by a sweep, where the modes of one node have unequal sizes."""
    monkeypatch.setattr(contract, "WHOLE", 0)
    net, whole, made = with_leaves_of_several_modes(equation)
    out = equation.split("->")[1]
    vectors = [torch.randn(7, d, generator=made, dtype=torch.float64) for d in net.shape]
    expected = torch.einsum(f"{out},{','.join(f'z{x}' for x in out)}->z", whole, *vectors)
    found = net.evaluate(vectors).detach()
    torch.testing.assert_close(found, expected, rtol=tolerance["rounding"], atol=tolerance["rounding"])
