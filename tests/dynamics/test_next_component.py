"""The best new component: singular pairs, orthogonal tensors, the law of its growth, and what is refused."""

import cases
import pytest
import torch

import ranklens as rl
from ranklens.dynamics.next_component import with_component


def full(target):
    """The completion of a fully observed tensor, with half the sum of squares as loss: the gradient is W - target."""
    indices = torch.cartesian_prod(*[torch.arange(size) for size in target.shape])
    return rl.Completion(indices, target.reshape(-1), target.shape, loss="half_sse")


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_matrices_take_the_largest_singular_pair(depth, tolerance):
    target = rl.targets.low_rank_matrix((5, 4), 3)
    U, S, Vh = torch.linalg.svd(target)
    learned = rl.init.product_(rl.deep_matrix((5, 4), depth), S[0] * torch.outer(U[:, 0], Vh[0]))
    for net, k in ((rl.deep_matrix((5, 4), depth, std=0.0), 0), (learned, 1)):
        found = rl.next_component(net, full(target))
        assert found.bonds == net.bonds
        assert found.rate == pytest.approx(float(S[k]), rel=tolerance["rounding"])
        assert found.second == pytest.approx(float(S[k + 1]), rel=tolerance["rounding"])
        torch.testing.assert_close(found.tensor, torch.outer(U[:, k], Vh[k]), rtol=0, atol=tolerance["balance"] * 10)


def test_cp_takes_the_largest_term_of_an_orthogonal_tensor(tolerance):
    target = torch.zeros(3, 3, 3, dtype=torch.float64)
    for k, size in enumerate((3.0, 2.0, 1.0)):
        target[k, k, k] = size
    found = rl.next_component(rl.cp((3, 3, 3), 2, std=0.0), full(target))
    assert found.rate == pytest.approx(3.0, rel=tolerance["rounding"])
    assert found.second == pytest.approx(2.0, rel=tolerance["rounding"])
    assert float(found.tensor[0, 0, 0]) == pytest.approx(1.0, rel=tolerance["rounding"])


def test_equal_singular_values_are_seen_as_a_tie(tolerance):
    found = rl.next_component(rl.deep_matrix((3, 3), 2, std=0.0), full(torch.eye(3, dtype=torch.float64)))
    assert found.second == pytest.approx(found.rate, rel=tolerance["rounding"])


@pytest.mark.parametrize("name", ["matrix depth 2", "cp order 4", "hierarchical binary", "tensor train", "tucker"])
def test_it_grows_as_the_law_says(name, tolerance):
    """The rate of the added component norm is K sigma^(2 - 2/K) gamma, and no random direction is better."""
    net = cases.NETWORKS[name](std=0.7)
    task = cases.problem(net)
    found = rl.next_component(net, task)
    if found.bonds == net.bonds and len(net.bonds) > 1:
        return
    [bond], norm = found.bonds, 1e-6
    K = net.order(bond)
    rate = rl.theory.component_rate(with_component(net, found, norm), task, bond)[-1]
    assert float(rate) == pytest.approx(K * norm ** (2 - 2 / K) * found.rate, rel=1e3 * norm)
    gradient = rl.theory.end_gradient(net, task)
    for seed in range(5):
        pieces = [None if x is None else x / x.norm() for x in _random(found, seed)]
        other = type(found)(found.bonds, 0.0, 0.0, tuple(pieces), found.tensor)
        change = (with_component(net, other, 1.0).tensor() - net.tensor()).detach()
        assert -float((gradient * change).sum()) <= found.rate * (1 + tolerance["rounding"])


def _random(found, seed):
    made = torch.Generator().manual_seed(seed)
    return [
        None if piece is None else torch.randn(piece.shape, generator=made, dtype=torch.float64)
        for piece in found.slices
    ]


def test_a_component_is_added_and_nothing_else(tolerance):
    net = cases.NETWORKS["hierarchical binary"](std=0.7)
    found = rl.next_component(net, cases.problem(net))
    larger = with_component(net, found, 1e-3)
    assert larger.layout.sizes[found.bonds[0]] == net.layout.sizes[found.bonds[0]] + 1
    change = (larger.tensor() - net.tensor()).detach()
    torch.testing.assert_close(change, 1e-3 * found.tensor, rtol=tolerance["difference"], atol=tolerance["rounding"])


def test_what_is_refused():
    task = rl.Completion.counterexample()
    with pytest.raises(TypeError, match="float32"):
        rl.next_component(rl.deep_matrix((2, 2), dtype=torch.float32), task)
    with pytest.raises(ValueError, match="frozen"):
        rl.next_component(rl.deep_matrix((2, 2)).freeze(0), task)
    with pytest.raises(ValueError, match="no bonds"):
        rl.next_component(rl.deep_matrix((2, 2), depth=1), task)
    with pytest.raises(ValueError, match="starts is 0"):
        rl.next_component(rl.deep_matrix((2, 2)), task, starts=0)
