import cases
import numpy as np
import oracles
import pytest
import torch

import ranklens as rl

SWEPT = 1e-10  # relative; rounding of the end tensor, accumulated over up to hundreds of sweeps
BALANCED_FLOAT32 = 1e-4  # absolute; squared norms are about 16, and balance_ promises 100 roundings of 1e-7 of them
FEW_ROUNDINGS = 1e-13  # absolute; factors of norm about 1 from one singular value decomposition


@pytest.mark.parametrize("name", [n for n in cases.NETWORKS if n != "scalar"])
def test_balance_is_exact_and_keeps_the_end_tensor(name, tolerance):
    net = cases.NETWORKS[name](std=1.0)
    before = net.tensor().detach()
    assert rl.init.balance_(net) is net
    scale = max(float(node.detach().square().sum()) for node in net.nodes)
    found = oracles.imbalance(net.equation, [node.detach().numpy() for node in net.nodes])
    assert found <= tolerance["balance"] * scale
    assert float(net.imbalance()) == pytest.approx(found, abs=tolerance["rounding"] * scale)
    torch.testing.assert_close(net.tensor().detach(), before, rtol=SWEPT, atol=SWEPT * float(before.norm()))


def test_balance_raises_when_it_stalls(monkeypatch):
    net = rl.hierarchical((2, 2, 2, 2), width=3, std=1.0)
    monkeypatch.setattr(rl.init, "SWEEPS", 1)
    with pytest.raises(RuntimeError, match="stalled after 1 sweeps"):
        rl.init.balance_(net)


def test_balance_in_float32():
    net = rl.init.balance_(rl.deep_matrix((4, 4), depth=3, std=1.0, dtype=torch.float32))
    assert float(net.imbalance()) < BALANCED_FLOAT32


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 3", "hierarchical binary", "tensor ring", "tucker"])
@pytest.mark.parametrize("scale", [1e-6, 0.1])
def test_scaled_is_the_std_of_end_entries(name, scale):
    seen = []
    for seed in range(400):
        net = rl.init.scaled_(cases.NETWORKS[name](std=1.0), scale=scale, seed=seed)
        seen.append(net.tensor().detach().flatten())
    found = float(torch.cat(seen).std())
    assert found == pytest.approx(scale, rel=0.25)  # heavy tails: products of normals


def test_scaled_with_frozen_nodes():
    net = rl.hierarchical((3, 3), width=50, std=1.0)
    with torch.no_grad():
        net.nodes[2].fill_(2.0)
    net.freeze(2)
    seen = [rl.init.scaled_(net, scale=0.3, seed=seed).tensor().detach() for seed in range(200)]
    assert float(torch.stack(seen).std()) == pytest.approx(0.3, rel=0.1)
    assert bool((net.nodes[2] == 2).all())


def test_scaled_refuses_frozen_nodes_without_such_a_draw():
    net = rl.deep_matrix((3, 3), depth=3, std=1.0).freeze(0, 1)
    with pytest.raises(ValueError, match="bond 'r1' joins frozen nodes only"):
        rl.init.scaled_(net)
    with pytest.raises(ValueError, match="every node of the network is frozen"):
        rl.init.scaled_(net.freeze(2))
    with pytest.raises(ValueError, match="make the end tensor zero"):
        rl.init.scaled_(rl.deep_matrix((3, 3), depth=2, std=0.0).freeze(0))


def test_product_is_balanced_and_has_the_least_norm():
    W0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for depth in (1, 2, 4):
        net = rl.init.product_(rl.deep_matrix((4, 3), depth=depth, width=5), W0)
        torch.testing.assert_close(net.tensor().detach(), W0)
        assert float(net.imbalance()) < FEW_ROUNDINGS
        least = depth * rl.singular_values(W0).pow(2 / depth).sum()
        assert float(sum(n.detach().square().sum() for n in net.nodes)) == pytest.approx(float(least))


def test_product_refuses():
    with pytest.raises(ValueError, match="is not a deep matrix"):
        rl.init.product_(rl.cp((2, 2)), torch.eye(2).double())
    with pytest.raises(ValueError, match="W0 has shape"):
        rl.init.product_(rl.deep_matrix((2, 2)), torch.eye(3).double())
    with pytest.raises(ValueError, match="W0 has shape"):
        rl.init.product_(rl.deep_matrix((2, 2)), torch.eye(2).double() * float("nan"))
    with pytest.raises(ValueError, match=r"nodes \(0,\) are frozen"):
        rl.init.product_(rl.deep_matrix((2, 2)).freeze(0), torch.eye(2).double())
    with pytest.raises(ValueError, match="a width of 1 is less than the rank of W0, 2"):
        rl.init.product_(rl.deep_matrix((2, 2), width=1), torch.eye(2).double())


def test_normal_has_mean_and_std_and_refuses_nonsense():
    net = rl.init.normal_(rl.cp((50, 50), rank=50), std=2.0, mean=3.0, seed=1)
    assert float(net.nodes[0].detach().mean()) == pytest.approx(3.0, abs=0.2)
    assert float(net.nodes[0].detach().std()) == pytest.approx(2.0, rel=0.05)
    same = rl.cp((50, 50), rank=50, std=1.0, seed=4)
    assert torch.equal(rl.init.normal_(net, std=1.0, seed=4).nodes[0], same.nodes[0])
    with pytest.raises(ValueError, match="mean is nan"):
        rl.init.normal_(net, mean=float("nan"))
    for bad in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="std is"):
            rl.init.normal_(net, std=bad)
        with pytest.raises(ValueError, match="scale is"):
            rl.init.scaled_(net, scale=bad)


def test_only_the_four_initializations_are_public():
    assert dir(rl.init) == ["balance_", "normal_", "product_", "scaled_"]


def test_a_product_may_be_an_array_or_a_list():
    W0 = [[3, 1], [0, 2]]
    for value in (W0, np.array(W0), np.array(W0, dtype=np.float32)):
        net = rl.init.product_(rl.deep_matrix((2, 2), depth=2), value)
        np.testing.assert_allclose(net.tensor().detach(), W0, rtol=0, atol=FEW_ROUNDINGS)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_balance_ends_a_component_with_a_zero_slice(order):
    """It contributes nothing to the end tensor, so all its slices become zero, and no other component changes."""
    net = rl.cp((3, 4, 2, 3)[:order], rank=2, std=1.0)
    with torch.no_grad():
        net.nodes[1][:, 0] = 0.0
    wanted = net.tensor().detach()
    rl.init.balance_(net)
    torch.testing.assert_close(net.tensor().detach(), wanted)
    assert int(rl.numerical_rank(net.slice_norms("r").detach())) == 1
    assert bool(torch.isfinite(net.slice_norms("r")).all())
    if order > 2:  # at a bond of order 2 the basis is chosen anew
        assert not net.slice_norms("r")[:, 0].any()
