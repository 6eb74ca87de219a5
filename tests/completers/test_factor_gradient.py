"""The gradient of a CP factorization by sparse products, against autograd."""

import pytest
import torch

import ranklens as rl
from ranklens.completers import factor_gradient
from ranklens.completers.factor_gradient import FactorGradient
from ranklens.completers.observed import Observed
from ranklens.seeds import normals
from ranklens.tensors import contract


@pytest.mark.parametrize("numbers", [2**22, 1])
@pytest.mark.parametrize("rows", [None, slice(11, 47)])
@pytest.mark.parametrize(
    "net",
    [
        rl.cp((6, 5), 3, std=1.0),
        rl.cp((6, 5, 7), 3, std=1.0),
        rl.cp((5, 5, 5, 5), 2, std=1.0),
        rl.TensorNetwork("ra,br,cr->bca", normals([(2, 4), (3, 2), (6, 2)], 0, "nodes")),
    ],
    ids=["matrix", "order 3", "order 4", "turned"],
)
def test_the_gradient_is_that_of_autograd(net, rows, numbers, monkeypatch, tolerance):
    monkeypatch.setattr(factor_gradient, "NUMBERS", numbers)
    made = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randint(d, (60,), generator=made) for d in net.shape], dim=1)
    values = torch.randn(60, generator=made, dtype=torch.float64)
    weights = torch.rand(60, generator=made, dtype=torch.float64)
    gradient = FactorGradient(net, Observed(indices, values, net.shape, weights))
    errors = (net.entries(indices) - values).square() * weights / weights.mean()
    wanted = errors[slice(None) if rows is None else rows].mean()
    places = net.gradients(wanted)
    for _ in range(2):  # the second call uses what the first has sorted
        assert float(gradient(rows)) == pytest.approx(float(wanted.detach()), rel=tolerance["rounding"])
        found = contract.unstack(net.layout, gradient.parts)
        for place, other in zip(found, places, strict=True):
            assert torch.allclose(place, other, rtol=tolerance["rounding"], atol=tolerance["rounding"])
