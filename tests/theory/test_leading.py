"""The factor by which a component must be longer to escape first, against the flow of the components themselves."""

import pytest
import torch

import ranklens as rl


def test_the_factor_of_the_best_direction_is_one(tolerance):
    """The gradient at zero of a fully observed tensor of rank one points along it, so no component can do better."""
    a = torch.tensor([3.0, 4.0], dtype=torch.float64) / 5
    target = torch.einsum("a,b,c->abc", a, a, a)
    task = rl.Completion.sample(target, observed=8)
    net = rl.cp((2, 2, 2), rank=2)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 0], node[:, 1] = 0.1 * a, a.flip(0)
        net.nodes[0][:, 1] *= -1
    aligned, opposed = rl.theory.leading_factor(net, task)
    assert float(aligned) == pytest.approx(1.0, rel=tolerance["rounding"])
    assert float(opposed) == torch.inf


@pytest.mark.parametrize("order", [3, 4, 5])
def test_the_factor_is_a_root_of_the_cosine_of_the_component(order, tolerance):
    """Vectors at an angle of cosine 4/5 to those of a rank-one target have a cosine of (4/5)^N as a tensor.

    u' = u^(N - 1) gamma blows up at a time in proportion to u^-(N - 2) / gamma. It is equal to that of the best
    direction if u is longer by the factor gamma^(-1 / (N - 2)).
    """
    task = rl.Completion.sample(torch.nn.functional.pad(torch.ones([1] * order).double(), [0, 1] * order), 2**order)
    net = rl.cp((2,) * order, rank=1)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 0] = torch.tensor([4.0, 3.0])
    wanted = (5 / 4) ** (order / (order - 2))
    assert float(rl.theory.leading_factor(net, task)) == pytest.approx(wanted, rel=tolerance["rounding"])


def test_the_factor_depends_on_directions_only(tolerance):
    task = rl.Completion.sample(rl.targets.cp((3, 4, 2), rank=1), observed=20)
    net = rl.cp((3, 4, 2), rank=20, std=1.0)
    before = rl.theory.leading_factor(net, task)
    with torch.no_grad():
        for node in net.nodes:
            node.mul_(torch.arange(1, 21))
    after = rl.theory.leading_factor(net, task)
    finite = torch.isfinite(before)
    assert torch.equal(finite, torch.isfinite(after))
    assert torch.allclose(after[finite], before[finite], rtol=tolerance["rounding"])


def test_other_networks_are_refused():
    task = rl.Completion.sample(rl.targets.cp((2, 2), rank=1), observed=3)
    with pytest.raises(ValueError, match="is no CP of order 3 or more"):
        rl.theory.leading_factor(rl.cp((2, 2), rank=2), task)
