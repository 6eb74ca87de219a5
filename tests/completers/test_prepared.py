"""Training and held-out sets, biases and units of the data that are to be fitted."""

import numpy as np
import pytest
import torch

from ranklens.completers import prepared
from ranklens.completers.observed import Observed
from ranklens.completers.prepared import divide, fiber_mode, fibers, prepare


def days(missing=0.3, shape=(8, 10, 6), seed=0):
    """Entries of sensors x days x hours, of which whole days are missing."""
    made = np.random.default_rng(seed)
    there = np.repeat((made.random(shape[:2]) > missing)[:, :, None], shape[2], axis=2)
    indices = np.argwhere(there)
    return Observed(torch.from_numpy(indices), torch.from_numpy(made.standard_normal(len(indices))), shape)


def test_blocks_are_held_out_whole():
    observed = days()
    assert fiber_mode(observed) == 2
    train, held_out = divide(observed, "blocks", 0)
    assert len(train) + len(held_out) == len(observed)
    blocks = {(i, j) for i, j, _ in held_out.indices.tolist()}
    assert len(held_out) == 6 * len(blocks)
    assert not blocks & {(i, j) for i, j, _ in train.indices.tolist()}
    assert len(blocks) == round(0.1 * len(observed) / 6)


def test_fibers_agree_in_all_modes_but_one():
    observed = days()
    number = fibers(observed, 2)
    pairs = observed.indices[:, :2]
    same = (pairs[:, None] == pairs[None]).all(dim=2)
    assert torch.equal(number[:, None] == number[None], same)


def test_shares_and_functions():
    observed = days()
    assert len(divide(observed, 0.25, 0)[1]) == round(0.25 * len(observed))
    assert len(divide(observed, "entries", 0)[1]) == round(0.1 * len(observed))
    train, held_out = divide(observed, lambda indices, seed: indices[:, 1] == 3, 0)
    assert set(held_out.indices[:, 1].tolist()) == {3}
    assert 3 not in train.indices[:, 1].tolist()


@pytest.mark.parametrize("wrong", [lambda i, s: np.ones(len(i), dtype=bool), lambda i, s: np.zeros(3, dtype=bool)])
def test_masks_that_divide_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="must return a mask of shape"):
        divide(days(), wrong, 0)


def test_one_block_cannot_be_divided():
    observed = Observed(torch.tensor([[0, 0], [0, 1], [0, 2]]), torch.ones(3).double(), (1, 3))
    with pytest.raises(ValueError, match="all entries are in one block"):
        divide(observed, "blocks", 0)


@pytest.mark.parametrize(("offset", "cheap", "ways"), [(0.0, 0, 1), (0.0, 999, 2), (1.0, 0, 2), (100.0, 999, 1)])
def test_biases_are_tried_where_they_may_help(offset, cheap, ways, tolerance, monkeypatch):
    monkeypatch.setattr(prepared, "CHEAP", cheap)
    made = np.random.default_rng(0)
    indices = np.argwhere(made.random((30, 20)) < 0.7)
    values = offset + made.standard_normal(len(indices))
    found = prepare(Observed(torch.from_numpy(indices), torch.from_numpy(values), (30, 20)), 0.1, None, 0)
    assert len(found) == ways
    assert np.isinf(found[0].biases.damping) == (offset < 100)
    for data in found:
        assert data.residual(data.train).mean_square() == pytest.approx(1, rel=tolerance["rounding"])
        assert torch.allclose(data.whole.values * data.scale, torch.from_numpy(values), rtol=tolerance["rounding"])
