"""Normal equations against literal sums over entries."""

import numpy as np
import pytest
import torch

from ranklens.completers import equations
from ranklens.completers.equations import MatrixEntries, TensorEntries, ridge_solve
from ranklens.completers.observed import Observed

# Sums of few numbers of order one, in another order.
SAME = 1e-10


def problem(shape, *, biases, seed=0):
    """Entries at random positions, some of them twice, and random rows of three columns."""
    made = np.random.default_rng(seed)
    indices = np.stack([made.integers(0, d - 1, 40) for d in shape], axis=1)  # the last index of a mode is not observed
    observed = Observed(torch.from_numpy(indices), torch.from_numpy(made.standard_normal(40)), shape)
    return observed, [torch.from_numpy(made.standard_normal((d, 3))) for d in shape]


def literal(observed, factors, n, *, biases):
    """Return the matrix, the vector and the squared targets of every row of mode n, by loops."""
    d, size = factors[n].shape
    gram, moment, squared = np.zeros((d, size, size)), np.zeros((d, size)), 0.0
    for position, value in zip(observed.indices.tolist(), observed.values.tolist(), strict=True):
        others = [factors[m][i].numpy() for m, i in enumerate(position) if m != n]
        phi, target = np.prod(others, axis=0), value
        if biases:
            phi[-1], target = 1.0, value - sum(row[-1] for row in others)
        gram[position[n]] += np.outer(phi, phi)
        moment[position[n]] += phi * target
        squared += target**2
    return gram, moment, squared


@pytest.mark.parametrize("block", [2**22, 1])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    ("made", "shape"), [(MatrixEntries, (6, 5)), (TensorEntries, (6, 5)), (TensorEntries, (4, 3, 5))]
)
def test_sums_over_entries(made, shape, biases, block, monkeypatch):
    monkeypatch.setattr(equations, "BLOCK", block)
    observed, factors = problem(shape, biases=biases)
    entries = made(observed, biases=biases)
    for n, factor in enumerate(factors):
        gram, moment, squared = literal(observed, factors, n, biases=biases)
        i, j = np.tril_indices(3)
        blocks = list(entries.equations(n, factors))
        assert [block.low for block in blocks] == [0, *(block.high for block in blocks[:-1])]
        assert np.allclose(torch.cat([block.gram for block in blocks]).numpy(), gram[:, i, j], atol=SAME)
        assert np.allclose(torch.cat([block.moment for block in blocks]).numpy(), moment, atol=SAME)
        assert entries.energy(n, factors) == pytest.approx(squared, abs=SAME)
        change = sum(block.change(factor[block.low : block.high]) for block in blocks)
        quadratic = np.einsum("di,dij,dj->", factor.numpy(), gram, factor.numpy())
        assert change == pytest.approx(quadratic - 2 * np.sum(factor.numpy() * moment), abs=SAME)


def test_systems_in_one_batch_are_solved_each_by_itself(tolerance):
    """A singular system of tiny numbers beside one of huge numbers has the least-norm solution, as it has alone."""
    features = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    gram, moment = features.T @ features, features[0] * 3.0
    units = torch.tensor([1e-12, 1.0, 1e12], dtype=torch.float64)
    x = ridge_solve(units[:, None, None] * gram, units[:, None] * moment, 0.0)
    least = torch.from_numpy(np.linalg.lstsq(features.numpy(), [3.0], rcond=None)[0])
    assert torch.allclose(x, least.expand(3, 2), rtol=tolerance["difference"])
    assert not ridge_solve(torch.zeros(1, 2, 2), torch.zeros(1, 2), 0.0).any()
