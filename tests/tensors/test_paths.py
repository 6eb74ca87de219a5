"""Pairwise steps are the einsums that they are written as, and the planned order is one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ranklens.tensors.paths import find_path, pair, symbols


@st.composite
def steps(draw):
    """A product of two operands that keeps what one of them alone has, and shared labels or not, sizes of 0 and 1."""
    sides = ["".join(draw(st.permutations("abcde")))[: draw(st.integers(0, 4))] for _ in range(2)]
    shared = [x for x in sides[0] if x in sides[1]]
    alone = [x for x in sides[0] + sides[1] if x not in shared]
    out = "".join(draw(st.permutations([*alone, *[x for x in shared if draw(st.booleans())]])))
    sizes = {x: draw(st.integers(0, 3)) for x in "abcde"}
    made = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    operands = [torch.randn([sizes[x] for x in side], generator=made, dtype=torch.float64) for side in sides]
    return f"{sides[0]},{sides[1]}->{out}", operands


@given(step=steps())
def test_a_step_is_its_einsum(step, tolerance):
    equation, operands = step
    wanted = torch.einsum(equation, *operands)
    found = pair(equation, *operands)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=tolerance["rounding"], atol=tolerance["rounding"])


@given(step=steps())
def test_its_gradient_is_that_of_its_einsum(step, tolerance):
    equation, operands = step
    free = [operand.requires_grad_() for operand in operands]
    found = torch.autograd.grad(pair(equation, *free).square().sum(), free)
    wanted = torch.autograd.grad(torch.einsum(equation, *free).square().sum(), free)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_a_sum_over_one_operand_alone_is_left_to_einsum():
    table = torch.arange(6.0).view(2, 3)
    assert pair("ab->ba", table).shape == (3, 2)
    assert float(pair("ab,c->c", table, torch.ones(1))) == 15.0


def test_the_order_of_a_chain_is_the_cheap_one():
    """(A B) c costs 2 x 100 x 100 x 100 more than A (B c)."""
    path = find_path(["ab", "bc", "c"], "a", dict.fromkeys("abc", 100))
    assert path.work == pytest.approx(2 * 100**2)
    A, B, c = torch.ones(100, 100), torch.ones(100, 100), torch.ones(100)
    assert float(path([A, B, c])[0]) == 100.0**2


def test_weights_multiply_the_smaller_tensor():
    """The vector w joins the product of size 4 x 100 instead of a matrix of size 100 x 100."""
    inputs = ["ar", "br", "rk", "k", "sk", "cs", "ds"]
    sizes = dict.fromkeys("abcd", 2) | dict.fromkeys("rks", 100)
    path = find_path(inputs, "abcd", sizes)
    assert path.work <= 2 * 4 * 100 + 2 * 4 * 100**2 + 4 * 100 + 16 * 100


def test_there_is_no_end_of_symbols():
    found = [symbol for symbol, _ in zip(symbols(), range(2000), strict=False)]
    assert len(set(found)) == 2000


def test_a_product_that_also_sums_an_index_of_one_operand_is_its_einsum(tolerance):
    left, right = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
    for equation in ("ab,bc->a", "ab,bc->c", "ab,bc->"):
        wanted = torch.einsum(equation, left, right)
        torch.testing.assert_close(pair(equation, left, right), wanted, rtol=tolerance["float32"], atol=0.0)


def test_a_path_of_more_labels_than_there_are_letters_may_sum_labels_of_single_operands(tolerance):
    """An einsum takes 52 letters; here are 80 labels, and every operand has one that no other has."""
    tables = [torch.tensor([[1.0, 2.0], [3.0, float(k % 3)]], dtype=torch.float64) for k in range(79)]
    labels = [("batch", f"own {k}") for k in range(79)]
    path = find_path(labels, ("batch",), dict.fromkeys([label for both in labels for label in both], 2))
    wanted = torch.stack([table.sum(dim=1) for table in tables]).prod(dim=0)
    torch.testing.assert_close(path(tables), wanted, rtol=tolerance["rounding"], atol=0.0)
