import pytest
import torch

import ranklens as rl
from ranklens.completers.factor_gradient import FactorGradient
from ranklens.completers.gradient import PlannedGradient, SparseGradient, squared_error
from ranklens.completers.observed import Observed
from ranklens.tensors import contract


def observed(shape, count, seed=0):
    """Return entries at random positions, which may repeat."""
    made = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(d, (count,), generator=made) for d in shape], dim=1)
    return Observed(indices, torch.randn(count, generator=made, dtype=torch.float64), shape)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("rows", [None, slice(3, 17)])
@pytest.mark.parametrize("shape", [(60, 70), (70, 60)])
def test_the_sparse_gradient_is_that_of_autograd(depth, rows, shape, tolerance):
    """Five factors have equal inner ones, which share one parameter."""
    net, entries = rl.deep_matrix(shape, depth, 4, std=0.7), observed(shape, 40)
    part = entries if rows is None else entries.take(torch.arange(40)[rows])
    gradient = SparseGradient(net, entries)
    loss = gradient(rows)
    wanted = (net.tensor()[tuple(part.indices.T)] - part.values).square().mean()
    assert float(loss) == pytest.approx(float(wanted.detach()), rel=tolerance["rounding"])
    found = contract.unstack(net.layout, gradient.parts)
    for place, other in zip(found, net.gradients(wanted), strict=True):
        assert torch.allclose(place, other, rtol=tolerance["rounding"], atol=tolerance["rounding"])


@pytest.mark.parametrize("rows", [None, slice(3, 17)])
@pytest.mark.parametrize(("shape", "count"), [((60, 70), 40), ((6, 7), 40), ((4, 3, 5), 40), ((40, 30, 50), 40)])
def test_a_weight_is_a_number_of_observations(shape, count, rows, tolerance):
    """Sparse and planned gradients against one in which observations are repeated."""
    net = rl.deep_matrix(shape, 3, 4, std=0.7) if len(shape) == 2 else rl.cp(shape, 2, std=1.0)
    entries = observed(shape, count)
    weights = torch.arange(count) % 3 + 1
    chosen = torch.arange(count)[slice(None) if rows is None else rows]
    repeated = entries.take(chosen.repeat_interleave(weights[chosen]))
    gradient = squared_error(net, entries.weighted(weights.double()))
    plain = squared_error(net, repeated)
    # The weights of a mini-batch are in units of their mean over all observations.
    unit = len(repeated) / len(chosen) / (float(weights.sum()) / count)
    assert float(gradient(rows)) == pytest.approx(unit * float(plain()))
    for part, other in zip(gradient.parts, plain.parts, strict=True):
        assert torch.allclose(part, unit * other, rtol=tolerance["rounding"], atol=tolerance["rounding"])


def test_few_entries_of_a_deep_matrix_are_looked_up_and_many_are_multiplied_out():
    net = rl.deep_matrix((30, 40), 3, 4)
    assert isinstance(squared_error(net, observed((30, 40), 50)), SparseGradient)
    assert isinstance(squared_error(net, observed((30, 40), 500)), PlannedGradient)
    assert isinstance(squared_error(rl.cp((30, 40, 50), 2), observed((30, 40, 50), 20)), FactorGradient)
    assert isinstance(squared_error(rl.cp((3, 4, 5), 2), observed((3, 4, 5), 50)), PlannedGradient)
    assert isinstance(squared_error(rl.tucker((30, 40, 50), 2), observed((30, 40, 50), 20)), PlannedGradient)


def test_the_parameters_are_read_at_every_call():
    net, entries = rl.deep_matrix((30, 40), 3, 4, std=0.5), observed((30, 40), 50)
    gradient = squared_error(net, entries)
    gradient()
    with torch.no_grad():
        for stack in net.stacks:
            stack.zero_()
    assert float(gradient()) == pytest.approx(float(entries.values.square().mean()))
