import pytest
import torch

from ranklens.completers.observed import Observed


def entries(count):
    made = torch.Generator().manual_seed(0)
    return Observed(
        torch.stack([torch.arange(count)] * 2, dim=1),
        torch.randn(count, generator=made, dtype=torch.float64),
        (count, count),
    )


def test_a_split_takes_every_entry_once_and_keeps_their_order():
    whole = entries(40)
    train, held_out = whole.split(0.25, seed=3)
    assert (len(train), len(held_out)) == (30, 10)
    rows = [part.indices[:, 0].tolist() for part in (train, held_out)]
    assert sorted(rows[0] + rows[1]) == list(range(40))
    for part, own in zip((train, held_out), rows, strict=True):
        assert own == sorted(own)
        assert torch.equal(part.values, whole.values[own])
    assert rows[1] != whole.split(0.25, seed=4)[1].indices[:, 0].tolist()
    assert rows[1] == whole.split(0.25, seed=3)[1].indices[:, 0].tolist()


def test_both_parts_of_a_split_have_an_entry_if_there_are_two():
    for fraction in (1e-9, 0.999):
        assert [len(part) for part in entries(2).split(fraction, 0)] == [1, 1]
    assert [len(part) for part in entries(1).split(0.5, 0)] == [1, 0]


def test_a_weight_counts_as_so_many_observations():
    few = entries(6)
    times = torch.tensor([1, 3, 2, 1, 1, 2])
    weighted, repeated = few.weighted(times.double()), few.take(torch.arange(6).repeat_interleave(times))
    assert weighted.count == repeated.count == 10
    assert weighted.mean() == pytest.approx(repeated.mean())
    assert weighted.mean_square() == pytest.approx(repeated.mean_square())


def test_a_mean_is_compared_with_its_standard_error():
    values = torch.tensor([1.0, 3.0]).repeat(8).double()  # mean 2, standard error 1 / 4
    some = Observed(torch.zeros(16, 2).long(), values, (1, 1))
    assert some.exceeds_zero(7.9)
    assert not some.exceeds_zero(8.1)
    assert not some.times(-1.0).exceeds_zero(0.0)
    assert not some.times(float("nan")).exceeds_zero(0.0)


def test_arithmetic_is_that_of_the_values():
    whole = entries(5)
    assert torch.equal(whole.minus(whole.values).values, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(whole.times(-2.0).values, -2 * whole.values)
    assert whole.times(2.0).mean_square() == 4 * whole.mean_square()
    assert torch.equal(whole.take(torch.tensor([3, 1])).values, whole.values[[3, 1]])
