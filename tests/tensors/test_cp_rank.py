"""The estimated CP rank is the number of components that were put in, whatever the scale."""

import pytest
import torch

import ranklens as rl
from ranklens.tensors import cp_rank


def test_cp_rank_estimate_is_scale_free_and_says_when_nothing_fits():
    T = rl.targets.cp((4, 5, 6), rank=2)
    for scale in (1e-8, 1.0, 1e8):
        assert rl.cp_rank_estimate(scale * T).rank == 2
    full = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rl.cp_rank_estimate(full, rtol=1e-6, largest=2, starts=2, sweeps=50)
    assert found.rank is None
    assert found.error == found.errors[2] > 1e-6


def test_the_khatri_rao_product_has_columns_that_are_kronecker_products():
    made = torch.Generator().manual_seed(0)
    factors = [torch.randn(d, 2, generator=made, dtype=torch.float64) for d in (2, 3, 4)]
    found = cp_rank._khatri_rao(factors)
    for r in range(2):
        assert torch.equal(found[:, r], torch.kron(torch.kron(factors[0][:, r], factors[1][:, r]), factors[2][:, r]))


def test_the_measures_have_the_estimate():
    assert rl.measures.cp_rank_estimate is rl.cp_rank_estimate is cp_rank.cp_rank_estimate


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.cp_rank_estimate(torch.ones(2, 2), rtol=0.0), "rtol is 0.0"),
        (lambda: rl.cp_rank_estimate(torch.ones(2)), "two or more modes"),
        (lambda: rl.cp_rank_estimate(torch.ones(2, 2), largest=0), "largest is 0"),
        (lambda: rl.cp_rank_estimate(torch.ones(2, 2), starts=0), "starts is 0"),
        (lambda: rl.cp_rank_estimate(torch.ones(2, 2), sweeps=0), "sweeps is 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("norms", [(1.0, 0.5, 0.1), (1.0, 0.1, 0.01, 0.005), (3.0, 2.0, 1.0, 0.5, 0.25)])
@pytest.mark.parametrize("order", [3, 4])
def test_orthogonal_components_of_unlike_norms_are_counted(norms, order, seed):
    """The rank of a sum of components with orthonormal factors is their number, because each matricization has it."""
    made = torch.Generator().manual_seed(seed)
    factors = [torch.linalg.qr(torch.randn(6, 6, generator=made, dtype=torch.float64))[0] for _ in range(order)]
    net = rl.cp((6,) * order, len(norms)).with_nodes([factor[:, : len(norms)] for factor in factors])
    with torch.no_grad():
        target = net.with_nodes([net.nodes[0] * torch.tensor(norms, dtype=torch.float64), *net.nodes[1:]]).tensor()
    assert rl.cp_rank_estimate(target.detach(), seed=seed).rank == len(norms)
