"""Factors of networks against their end tensors."""

import pytest
import torch

import ranklens as rl
from ranklens.completers.factors import factors_of, has_one_node_per_mode, is_factored, set_factors_


@pytest.mark.parametrize("net", [rl.deep_matrix((6, 5), 3, std=0.5), rl.cp((6, 5, 4), 3, std=0.5)])
def test_factors_have_the_end_tensor_of_the_network(net, tolerance):
    factors = factors_of(net)
    whole = torch.einsum("ar,br->ab" if len(factors) == 2 else "ar,br,cr->abc", *factors)
    assert torch.allclose(whole, net.tensor().detach(), atol=tolerance["rounding"])
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    assert torch.allclose(norms, norms[0].expand_as(norms))


def test_networks_with_one_factor_per_mode():
    assert is_factored(rl.deep_matrix((4, 5), 3))
    assert is_factored(rl.cp((4, 5, 6), 2))
    assert not is_factored(rl.tucker((4, 5, 6), 2))
    assert not is_factored(rl.hierarchical((4,) * 4, 2))
    assert has_one_node_per_mode(rl.deep_matrix((4, 5), 2))
    assert not has_one_node_per_mode(rl.deep_matrix((4, 5), 3))


def test_factors_are_written_back(tolerance):
    net = rl.cp((6, 5, 4), 3, std=0.5)
    before = net.tensor().detach().clone()
    set_factors_(net, factors_of(net))
    assert torch.allclose(net.tensor().detach(), before, atol=tolerance["rounding"])
