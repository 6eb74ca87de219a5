import pytest
import torch

from ranklens.completers import pattern as module
from ranklens.completers.pattern import Pattern


def drawn(count, *, shape=(6, 7), width=3, dtype=torch.float64, seed=0):
    """Return positions, one value per position, and two factors; with many positions some occur more than once."""
    made = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(d, (count,), generator=made) for d in shape], dim=1)
    left, right = (torch.randn(d, width, generator=made, dtype=dtype) for d in shape)
    return indices, torch.randn(count, generator=made, dtype=dtype), left, right


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [0, 1, 5, 80])
def test_entries_and_products_are_those_of_dense_matrices(count, dtype, tolerance):
    """The positions are in no order, and 80 of 42 positions repeat some of them."""
    indices, values, left, right = drawn(count, dtype=dtype)
    pattern, where = Pattern(indices, (6, 7), dtype), tuple(indices.T)
    close = {
        "rtol": tolerance["float32" if dtype == torch.float32 else "rounding"],
        "atol": 1e-5 if dtype == torch.float32 else 1e-12,
    }
    dense = torch.zeros(6, 7, dtype=dtype).index_put_(where, values, accumulate=True)
    for _ in range(2):  # a second call must not see what the first one left behind
        assert torch.allclose(pattern.entries(left, right), (left @ right.T)[where], **close)
        by_left, by_right = pattern.products(values, left, right)
        assert torch.allclose(by_left, dense @ right, **close)
        assert torch.allclose(by_right, dense.T @ left, **close)


def test_sorted_columns_are_contiguous_in_memory():
    """Kernels of GPUs read them as if they were, and find other columns where they are not."""
    pattern = Pattern(torch.tensor([[0, 1], [0, 3], [2, 0]]), (3, 4), torch.float64)
    assert pattern._table.col_indices().is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_entries_and_products(tolerance):
    _, values, left, right = drawn(21)
    indices = torch.cartesian_prod(torch.arange(6), torch.arange(7))[::2]  # sorted, so they are not copied
    moved = Pattern(indices.cuda(), (6, 7), torch.float64)
    pattern = Pattern(indices, (6, 7), torch.float64)
    wanted = [pattern.entries(left, right), *pattern.products(values, left, right)]
    left, right, values = left.cuda(), right.cuda(), values.cuda()
    for found, other in zip([moved.entries(left, right), *moved.products(values, left, right)], wanted, strict=True):
        assert torch.allclose(found.cpu(), other, rtol=tolerance["rounding"])


def test_entries_are_not_overwritten_by_a_later_call():
    indices, _, left, right = drawn(5)
    indices = indices[(indices[:, 0] * 7 + indices[:, 1]).argsort()]
    pattern = Pattern(indices, (6, 7), torch.float64)
    first = pattern.entries(left, right)
    kept = first.clone()
    pattern.entries(2 * left, right)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_counting_sorts_as_comparing_does(count, monkeypatch):
    keys = torch.randint(7, (count,), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "COUNTED", 0)
    assert torch.equal(module.stable_order(keys, 9), keys.argsort(stable=True))
