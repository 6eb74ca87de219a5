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
