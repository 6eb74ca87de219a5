"""Rows of a table of rank measures: counts of singular values, stacks, and what is said when there is no row."""

import pytest
import torch

from ranklens.nn.rank_rows import Rows, least_rank, least_without, singular_values
from ranklens.nn.weight_matrices import WeightMatrix


def literal(spectrum, energy):
    squares = [float(s) ** 2 for s in spectrum]
    return next(k for k in range(len(squares) + 1) if sum(squares[:k]) >= energy * sum(squares) * (1 - 1e-12))


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_the_least_rank_holds_the_energy(energy):
    for spectrum in (torch.tensor([3.0, 2, 1]), 0.9 ** torch.arange(30.0), torch.ones(7), torch.tensor([1.0, 0, 0])):
        assert least_rank(spectrum, energy) == literal(spectrum, energy)
    assert least_rank(torch.zeros(3), energy) == 0
    assert least_without(torch.ones(4), 0.5) == 2


def matrices():
    made = torch.Generator().manual_seed(0)
    return [WeightMatrix(f"e[{k}]", torch.randn(5, 3, generator=made) * (k + 1), stack="e") for k in range(3)]


def test_a_stack_has_the_medians_and_the_sums():
    rows = Rows(0.9, 0)
    for weight in matrices():
        rows.add(weight, singular_values(weight))
    table = rows.dataset()
    assert table.weight.values.tolist() == ["e", "e[0]", "e[1]", "e[2]"]
    assert table.matrices.values.tolist() == [3, 1, 1, 1]
    assert table.part_of.values.tolist() == ["", "e", "e", "e"]
    own = table.isel(weight=slice(1, None))
    assert float(table.effective_rank[0]) == float(own.effective_rank.median())
    assert int(table.parameters[0]) == int(own.parameters.sum()) == 45
    assert table.spectrum[0].values.tolist() == own.spectrum.median("weight").values.tolist()
    assert int(table.parameters[table.part_of == ""].sum()) == 45


def test_matrices_of_one_shape_share_the_random_one():
    rows = Rows(0.9, 0)
    for weight in matrices():
        rows.add(weight, singular_values(weight))
    assert len({float(x) for x in rows.dataset().random_effective_rank}) == 1


def test_a_table_without_rows_says_what_was_skipped():
    rows = Rows(0.9, 0)
    rows.add(WeightMatrix("w", torch.full((2, 2), torch.nan)), None)
    rows.skip("bias", "has fewer than two axes")
    with pytest.raises(ValueError, match=r"no weight can be measured: 'w' has entries that are not finite$"):
        rows.dataset()
    with pytest.raises(ValueError, match="there is no weight with two axes"):
        Rows(0.9, 0).dataset()
    with pytest.raises(ValueError, match=r"energy is 1\.5"):
        Rows(1.5, 0)
