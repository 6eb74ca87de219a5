"""The check of types around the functions of the package: wrong types and wrong shapes are caught, ints are floats."""

from collections.abc import Iterator

import pytest
import strict_types
import torch
from jaxtyping import Float
from torch import Tensor


@strict_types._checked(typechecker=strict_types.check)
def scaled(x: float) -> float:
    return 2 * x


@strict_types._checked(typechecker=strict_types.check)
def sums(pairs: list[tuple[Float[Tensor, "n"], Float[Tensor, "n"]]], weights: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return sum(a + b for a, b in pairs) * weights[: len(weights)]


@strict_types._checked(typechecker=strict_types.check)
def rows(table: Float[Tensor, "n K"]) -> Iterator[Float[Tensor, " K"]]:
    yield from table


@strict_types._checked(typechecker=strict_types.check)
def calls_rows(weights: Float[Tensor, " K"], table: Float[Tensor, "n m"]) -> int:
    return len(list(rows(table))) + len(weights)


def test_types_are_checked_and_ints_are_floats():
    assert scaled(2) == 4
    with pytest.raises(TypeError, match="scaled"):
        scaled("2")


def test_sizes_are_compared_across_arguments_and_within_lists():
    assert torch.equal(sums([(torch.ones(3), torch.ones(3))], torch.ones(3)), torch.full((3,), 2.0))
    for wrong in (torch.ones(4), torch.ones(3, 1), torch.ones(3, dtype=torch.int64)):
        with pytest.raises(TypeError, match="sums"):
            sums([(torch.ones(3), torch.ones(3))], wrong)


def test_a_generator_has_sizes_of_its_own():
    assert calls_rows(torch.ones(2), torch.ones(4, 3)) == 6
    with pytest.raises(TypeError, match="rows"):
        rows(torch.ones(3))


def test_functions_of_the_package_are_checked():
    from ranklens.dynamics.bdf import _distances
    from ranklens.tensors.measures import effective_rank_of

    with pytest.raises(TypeError):
        _distances(3, 1.0)
    with pytest.raises(TypeError):
        effective_rank_of(torch.ones(3, dtype=torch.int64))
