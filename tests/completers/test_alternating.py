import pytest
import torch
from completion_cases import FAMILIES, everything

import ranklens as rl
from ranklens.completers import alternating, equations
from ranklens.completers.alternating import AlternatingLeastSquares
from ranklens.completers.observed import Observed

# Small linear systems solved by Gram matrices, whose condition number is the square of the problem's.
SOLVED = 1e-8


def some_entries(net, *, seed=1):
    """Random values at half of the entries of a network."""
    made = torch.Generator().manual_seed(seed)
    indices = everything(net.tensor()).indices
    kept = torch.randperm(len(indices), generator=made)[: len(indices) // 2]
    return Observed(indices[kept], torch.randn(len(kept), generator=made, dtype=torch.float64), net.shape)


@pytest.mark.parametrize("block", [alternating.BLOCK, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sweep_ends_where_no_node_can_gain(name, block, monkeypatch):
    """After solving for node k, the gradient of the penalized loss by node k vanishes; also with rows in blocks."""
    monkeypatch.setattr(alternating, "BLOCK", block)
    monkeypatch.setattr(equations, "BLOCK", block)
    net, ridge = FAMILIES[name](), 0.3
    observed = some_entries(net)
    solver = AlternatingLeastSquares(net, observed, ridge=ridge)
    for k in range(len(net.nodes)):
        squared = solver.sweep([k]) * len(observed)
        residual = net.entries(observed.indices) - observed.values
        assert float(residual.detach().square().sum()) == pytest.approx(squared, rel=SOLVED)
        loss = residual.square().sum() / 2 + ridge / 2 * sum(node.square().sum() for node in net.nodes)
        gradient = net.gradients(loss)[k]
        assert float(gradient.abs().max()) < SOLVED * float(observed.values.norm())


@pytest.mark.parametrize("name", ["matrix", "cp"])
def test_other_values_at_the_same_positions(name):
    """A solver that is given other values does what a new solver of these values does."""
    one, other = FAMILIES[name](), FAMILIES[name]()
    first, second = some_entries(one), some_entries(one).times(-2.0)
    solver = AlternatingLeastSquares(one, first, ridge=0.1)
    solver.sweep([0])
    solver.replace_values(second)
    solver.sweep([0])
    AlternatingLeastSquares(other, second, ridge=0.1).sweep([0])
    assert torch.equal(one.nodes[0], other.nodes[0])


@pytest.mark.parametrize("name", ["matrix", "cp"])
def test_rows_without_observations_become_zero(name):
    net = FAMILIES[name]()
    observed = everything(net.tensor())
    observed = observed.take(observed.indices[:, 0] != 1)
    AlternatingLeastSquares(net, observed, ridge=0.0).sweep([0])
    assert not net.nodes[0][1].any()
    assert net.nodes[0][0].any()


def test_a_network_is_fitted_as_a_matrix_is():
    """The sparse products for a matrix against the general solver, forced by a network of the transposed order."""
    net = FAMILIES["matrix"]()
    turned = rl.TensorNetwork("rb,ar->ab", [net.nodes[1].detach(), net.nodes[0].detach()])
    observed = some_entries(net)
    for sweep in range(3):
        one = AlternatingLeastSquares(net, observed, ridge=0.1).sweep([sweep % 2])
        other = AlternatingLeastSquares(turned, observed, ridge=0.1).sweep([1 - sweep % 2])
        assert one == pytest.approx(other, rel=SOLVED)
        assert torch.allclose(net.tensor(), turned.tensor(), rtol=SOLVED)
