import math

import cases
import numpy as np
import oracles
import pytest
import torch
from conftest import TOLERANCE
from hypothesis import given

import ranklens as rl

# Error of a measured rate, relative to the quantity over |theta| / |gradient|: the documented 1e-9, with a margin of 5.
MEASURED = 5e-9

STEP = 1e-5


def moved(net, gradients, by):
    """The network after a small step along minus the gradient."""
    nodes = [node.detach() - by * g for node, g in zip(net.nodes, gradients, strict=True)]
    return rl.TensorNetwork((net.layout.nodes, net.layout.out), nodes)


def measured(net, task, quantity):
    """Rate of a quantity along the flow, by a central difference of order 4."""
    gradients = net.gradients(task.loss(net))
    scale = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    step = STEP / max(scale, 1e-3)
    near, far = (
        (quantity(moved(net, gradients, k * step)) - quantity(moved(net, gradients, -k * step))).detach()
        for k in (1, 2)
    )
    return (8 * near - far) / (12 * step)


def deviation(predicted, found):
    """The law's error, relative to each rate and to a thousandth of the largest."""
    return float(((predicted - found).abs() / (found.abs() + 1e-3 * found.abs().max())).max())


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", cases.NETWORKS)
def test_component_rate_is_the_derivative(name, balanced):
    net = cases.NETWORKS[name](std=1.0)
    if balanced:
        rl.init.balance_(net)
    task = cases.problem(net)
    for bond in net.bonds:
        found = measured(net, task, lambda n, bond=bond: n.component_norms(bond))
        # balancing pairs can leave components that are zero up to rounding, and have no rate to speak of
        alive = net.component_norms(bond).detach() > 1e-6
        assert deviation(rl.theory.component_rate(net, task, bond)[alive], found[alive]) <= TOLERANCE["difference"]


@given(einsum=cases.einsums())
def test_component_rate_of_random_einsums_with_hyperedges(einsum):
    net = rl.TensorNetwork(*einsum)
    task = cases.problem(net)
    for bond in net.bonds:
        found = measured(net, task, lambda n, bond=bond: n.component_norms(bond))
        predicted = rl.theory.component_rate(net, task, bond)
        if float(found.abs().max()) > 1e-3:  # where everything rests there is nothing to compare
            assert deviation(predicted, found) <= TOLERANCE["difference"]


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_the_balanced_law_with_separately_evaluated_alignment(name):
    net = rl.init.balance_(cases.NETWORKS[name](std=1.0))
    task = cases.problem(net)
    for bond in net.bonds:
        K, sigma = net.order(bond), net.component_norms(bond).detach()
        law = K * sigma ** (2 - 2 / K) * rl.theory.alignment(net, task, bond)
        alive = sigma > 1e-6
        torch.testing.assert_close(rl.theory.component_rate(net, task, bond)[alive], law[alive], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_measured_rate_knows_a_closed_form(depth):
    """Balanced scalars, half_sse to 1: w' = depth w^(2 - 2/depth) (1 - w)."""
    task = rl.Completion(torch.zeros(1, 2).long(), torch.tensor([1.0]), (1, 1), loss="half_sse")
    net = rl.init.product_(rl.deep_matrix((1, 1), depth=depth), torch.full((1, 1), 0.3, dtype=torch.float64))
    rate = rl.theory.measured_rate(net, task, lambda net: net.tensor()[0, 0])
    assert float(rate) == pytest.approx(depth * 0.3 ** (2 - 2 / depth) * 0.7, rel=1e-9)
    single = rl.deep_matrix((1, 1), depth=1, std=0.0)
    assert float(rl.theory.measured_rate(single, task, lambda net: net.tensor()[0, 0])) == pytest.approx(1.0)


def test_measured_rate_keeps_what_is_frozen():
    net = rl.deep_matrix((3, 3), depth=3, std=1.0).freeze(0)
    task = cases.problem(net)
    assert rl.theory.measured_rate(net, task, lambda net: rl.theory.conserved(net, "r1")).shape == (0, 3)
    found = rl.theory.measured_rate(net, task, lambda net: net.component_norms("r1"))
    torch.testing.assert_close(rl.theory.component_rate(net, task, "r1"), found, rtol=1e-8, atol=1e-10)


def test_alignment_of_cp_is_the_inner_product_with_a_unit_tensor():
    net = rl.cp((3, 4, 2), rank=3, std=1.0)
    task = cases.problem(net)
    end = net.tensor().detach().requires_grad_()
    (G,) = torch.autograd.grad(task.loss(end), end)
    a, b, c = (node.detach().numpy() / np.linalg.norm(node.detach().numpy(), axis=0) for node in net.nodes)
    expected = [-(G.numpy() * np.einsum("a,b,c->abc", a[:, r], b[:, r], c[:, r])).sum() for r in range(3)]
    np.testing.assert_allclose(rl.theory.alignment(net, task, "r"), expected, rtol=1e-11)


def test_a_component_with_one_zero_slice_starts_to_grow():
    net = rl.deep_matrix((3, 3), depth=2, std=1.0)
    with torch.no_grad():
        net.nodes[0][:, 1] = 0.0
    task = cases.problem(net)
    rate = rl.theory.component_rate(net, task, "r1")
    gradients = net.gradients(task.loss(net))
    ahead = moved(net, gradients, 1e-7)
    assert float(rate[1]) > 0
    assert float(ahead.component_norms("r1")[1].detach()) / 1e-7 == pytest.approx(float(rate[1]), rel=1e-4)


def test_frozen_nodes_add_nothing_to_the_rate():
    net = rl.deep_matrix((3, 3), depth=2, std=1.0)
    whole = rl.theory.component_rate(net, cases.problem(net), "r1")
    parts = []
    for k in range(2):
        part = rl.deep_matrix((3, 3), depth=2, std=1.0).freeze(k)
        parts.append(rl.theory.component_rate(part, cases.problem(part), "r1"))
    torch.testing.assert_close(parts[0] + parts[1], whole)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_singular_value_rate_is_the_derivative(depth, balanced):
    net = rl.deep_matrix((4, 4), depth=depth, std=0.7)
    if balanced:
        rl.init.balance_(net)
    s = rl.singular_values(net.tensor().detach())
    assert float((s[:-1] - s[1:]).min()) > 1e-2  # the rate presumes that singular values differ
    task = cases.problem(net)
    found = measured(net, task, lambda n: rl.singular_values(n.tensor()))
    assert deviation(rl.theory.singular_value_rate(net, task), found) <= TOLERANCE["difference"]
    if balanced:
        law = rl.theory.singular_value_rate(net, task, balanced=True)
        assert deviation(law, found) <= TOLERANCE["difference"]
        W = net.tensor().detach().requires_grad_()
        (G,) = torch.autograd.grad(task.loss(W), W)
        U, S, Vh = np.linalg.svd(W.detach().numpy())
        literal = [-depth * S[r] ** (2 - 2 / depth) * (U[:, r] @ G.numpy() @ Vh[r]) for r in range(4)]
        np.testing.assert_allclose(law, literal, rtol=1e-9)


# A one-sided difference over the time 1e-6 has an error of the order of that time, and of its rounding, 1e-16 / 1e-6.
ONE_SIDED = 1e-4


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),
        (2.0, 1.0, 0.0),
        (2.0, 2.0, 2.0),
        (2.0, 2.0, 1.0),
        (2.0, 1.0, 1.0),
        (3.0, 3.0, 0.0),
    ],
)
@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (4, 3)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_rates_of_zero_and_repeated_singular_values_are_one_sided_derivatives(values, shape, depth):
    """The sorted singular values a short time later, W + h W', against the rates; no value falls below zero."""
    made = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(d, d, generator=made, dtype=torch.float64))[0] for d in shape)
    W = U[:, :3] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V[:, :3].T
    net = rl.deep_matrix(shape, depth, std=0.0) if depth == 1 else rl.deep_matrix(shape, depth, 3, std=0.0)
    if depth == 1:
        net = net.with_nodes([W])
    else:
        rl.init.product_(net, W)
    task = rl.Completion.sample(torch.randn(shape, generator=made, dtype=torch.float64), observed=7)
    close = {"rtol": TOLERANCE["difference"], "atol": TOLERANCE["difference"]}
    rates = rl.theory.singular_value_rate(net, task)
    assert bool((rates[torch.tensor(values) == 0] >= -TOLERANCE["rounding"]).all())
    torch.testing.assert_close(rates, rl.theory.singular_value_rate(net, task, balanced=True), **close)
    h = 1e-6
    gradients = net.gradients(task.loss(net))
    later = net.with_nodes([node.detach() - h * part for node, part in zip(net.nodes, gradients, strict=True)])
    found = (torch.linalg.svdvals(later.tensor().detach()) - torch.linalg.svdvals(W)) / h
    torch.testing.assert_close(rates, found, rtol=ONE_SIDED, atol=ONE_SIDED)


def test_matrix_gradients_by_the_formula():
    net = rl.deep_matrix((3, 4), depth=3, std=1.0)
    W = net.tensor().detach().requires_grad_()
    task = cases.problem(net)
    (G,) = torch.autograd.grad(task.loss(W), W)
    expected = oracles.matrix_gradients([n.detach().numpy() for n in net.nodes], G.numpy())
    for found, literal in zip(net.gradients(task.loss(net)), expected, strict=True):
        np.testing.assert_allclose(found, literal, rtol=1e-11, atol=1e-14)


def test_singular_value_rate_needs_a_matrix():
    net = rl.cp((2, 2, 2), rank=2)
    with pytest.raises(ValueError, match="3 modes"):
        rl.theory.singular_value_rate(net, cases.problem(net))
    net = rl.cp((2, 2), rank=2)
    with pytest.raises(ValueError, match="is not a deep matrix"):
        rl.theory.singular_value_rate(net, cases.problem(net), balanced=True)
    net = rl.deep_matrix((2, 2)).freeze(1)
    with pytest.raises(ValueError, match=r"nodes \(1,\) are frozen"):
        rl.theory.singular_value_rate(net, cases.problem(net), balanced=True)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_conserved_has_no_derivative(name):
    net = cases.NETWORKS[name](std=1.0)
    task = cases.problem(net)
    for bond in net.bonds:
        found = measured(net, task, lambda n, bond=bond: rl.theory.conserved(n, bond))
        assert found.shape == rl.theory.conserved(net, bond).shape
        assert float(found.abs().max()) <= 1e-7


def test_conserved_leaves_frozen_nodes_out():
    net = rl.deep_matrix((3, 3), depth=2).freeze(0)
    assert rl.theory.conserved(net, "r1").shape == (0, 3)
    tree = rl.hierarchical((2, 3), width=2).freeze(2)
    assert rl.theory.conserved(tree, (0, 1)).shape == (1, 2)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_escape_time_is_exact_along_the_direction_of_growth(order):
    """CP of rank one at the balanced leading direction, loss linear near zero: u' = u^(N-1) gamma."""
    net = rl.cp((2,) * order, rank=1, std=0.0)
    with torch.no_grad():
        for node in net.nodes:
            node[0, 0] = 1e-2
    index = torch.zeros(1, order, dtype=torch.long)
    task = rl.Completion(index, torch.tensor([1.0]), (2,) * order, loss=rl.losses.huber(0.5))
    gamma = 0.5
    predicted = (1e-2) ** -(order - 2) / ((order - 2) * gamma)
    assert rl.theory.escape_time(net, task) == pytest.approx(predicted, rel=1e-9)
    run = rl.gradient_flow(net, task, until_loss=0.2)  # in the linear zone still
    assert float(run.time[-1]) == pytest.approx(predicted, rel=0.05)


def test_escape_time_of_a_pair_is_one_e_folding_and_of_rest_infinite():
    net = rl.deep_matrix((1, 1), depth=2, std=0.0)
    task = rl.Completion(torch.zeros(1, 2).long(), torch.tensor([1.0]), (1, 1), loss="half_sse")
    assert rl.theory.escape_time(net, task) == math.inf
    with torch.no_grad():
        for node in net.nodes:
            node.fill_(1e-3)
    assert rl.theory.escape_time(net, task) == pytest.approx(1.0, rel=1e-5)  # u' = u near zero


@pytest.mark.parametrize("loss", [0.01, 1e-3, 1e-4])
def test_bounds_2x2_hold_for_every_matrix_of_positive_determinant(loss):
    made = torch.Generator().manual_seed(0)
    bounds = rl.theory.bounds_2x2(loss)
    e = math.sqrt(2 * loss)
    # all residuals of that loss, and the smallest |w11| of positive determinant for each
    x = torch.randn(20_000, 3, generator=made, dtype=torch.float64)
    x = e * x / x.norm(dim=1, keepdim=True)
    w12, w21, w22 = 1 + x[:, 0], 1 + x[:, 1], x[:, 2]
    w11 = w12 * w21 / w22 * (1 + torch.rand(len(x), generator=made, dtype=torch.float64))
    W = torch.stack([torch.stack([w11, w12], -1), torch.stack([w21, w22], -1)], -2)
    assert bool((w11.abs() >= bounds.w11).all())
    assert bool((rl.singular_values(W)[:, 1] <= bounds.sigma2 * (1 + 1e-9)).all())
    assert bool((rl.effective_rank(W) <= bounds.effective_rank).all())
    assert float(bounds.w11) < float(w11.abs().min()) < 1.3 / e


def test_bounds_2x2_against_the_exact_minimum():
    for loss, exact in [(0.01, 6.931), (1e-3, 22.316), (1e-4, 70.697)]:
        a = np.linspace(0.5, 1, 2_000_001)
        c2 = 2 * loss - 2 * (1 - a) ** 2
        least = (a[c2 > 0] ** 2 / np.sqrt(c2[c2 > 0])).min()
        assert least == pytest.approx(exact, abs=1e-3)
        assert float(rl.theory.bounds_2x2(loss).w11) <= least
    empty = rl.theory.bounds_2x2(torch.tensor([0.5, 2.0]).double())
    assert empty.w11.tolist() == [0, 0]
    assert empty.effective_rank.tolist() == [2, 2]
    with pytest.raises(ValueError, match="positive losses"):
        rl.theory.bounds_2x2(0.0)


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 3", "hierarchical binary"])
def test_a_measured_rate_is_as_exact_as_it_says(name):
    """Its error is about 1e-9 of the quantity over the time |theta| / |gradient|."""
    net = cases.NETWORKS[name](std=0.7)
    task, bond = cases.problem(net), net.bonds[0]
    gradients = net.gradients(task.loss(net))
    time = torch.cat([x.flatten() for x in net.nodes]).norm() / torch.cat([g.flatten() for g in gradients]).norm()
    measured = rl.theory.measured_rate(net, task, lambda net: net.component_norms(bond))
    error = (measured - rl.theory.component_rate(net, task, bond)).abs().max()
    assert float(error.detach()) <= MEASURED * float((net.component_norms(bond).max() / time).detach())


@pytest.mark.parametrize("frozen", [False, True])
def test_escape_times_are_those_of_equal_factors(frozen):
    """A product of equal numbers u obeys u' = c y u^(M-1) near zero, and blows up at u^(2-M) / ((M-2) c y).

    With a fourth node frozen at c, the three others move as if it were a constant of the problem.
    """
    y, u, c = 2.0, 1e-2, 5.0
    net = rl.deep_matrix((1, 1), depth=4)
    with torch.no_grad():
        for node in net.nodes:
            node.fill_(u)
        if frozen:
            net.freeze(3)
            net.nodes[3].fill_(c)
    task = rl.Completion([[0, 0]], [y], (1, 1), loss="half_sse")
    exact = 1 / (u * c * y) if frozen else u**-2 / (2 * y)
    assert rl.theory.escape_time(net, task) == pytest.approx(exact, rel=1e-5)  # y minus the product is y to 5e-6
