import pytest
import torch
from completion_cases import everything, relative_error

import ranklens as rl
from ranklens.completers.candidates import (
    Components,
    diagonalize_,
    matrix_candidates,
    tensor_candidates,
    thinned,
    with_components,
)

# The weights of components are solved from a Gram matrix to which 1e-9 of its mean diagonal is added.
WEIGHTED = 1e-4


def with_twins():
    """A CP of three components, of which the third equals the first."""
    net = rl.cp((5, 6, 7), 3, std=1.0)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 2] = node[:, 0]
    return net


def test_one_of_two_equal_components_leaves_at_no_cost():
    net = with_twins()
    fewer = thinned(net, "r", everything(net.tensor()))
    assert fewer.layout.sizes["r"] == 2
    assert relative_error(fewer.tensor().detach(), net.tensor().detach()) < WEIGHTED


def test_costs_are_the_rises_of_the_residual():
    """Each cost against a literal least squares without the component."""
    net = rl.cp((4, 5, 3), 4, std=1.0)
    made = torch.Generator().manual_seed(0)
    train = everything(torch.randn(4, 5, 3, generator=made, dtype=torch.float64))
    components = Components.of(net, "r", train)
    entries = torch.stack(
        [with_components(net, "r", [r], torch.ones(1).double()).tensor().reshape(-1) for r in range(4)]
    )

    def squared(kept):
        features = entries[kept].T
        weights = torch.linalg.lstsq(features, train.values[:, None]).solution
        return float((features @ weights - train.values[:, None]).square().sum())

    everyone = list(range(4))
    entries = entries.detach()
    for r, cost in enumerate(components.costs()):
        others = [k for k in everyone if k != r]
        assert float(cost) == pytest.approx(squared(others) - squared(everyone), rel=1e-5)
        assert components.residual(others) == pytest.approx(squared(others), rel=1e-5)
    assert components.cheapest(3) == [k for k in everyone if k != int(components.costs().argmin())]


@pytest.mark.parametrize("bond", ["b", "c"])
def test_diagonal_components_are_orthogonal_and_leave_the_tensor(bond, tolerance):
    net = rl.deep_matrix((5, 4), 3, 3, std=1.0)
    bond = net.bonds[0 if bond == "b" else 1]
    before = net.tensor().detach().clone()
    diagonalize_(net, bond)
    assert torch.allclose(net.tensor(), before, rtol=tolerance["rounding"], atol=tolerance["rounding"])
    for k, axis in net.layout.meets(bond):
        rows = net.nodes[k].detach().movedim(axis, 0).flatten(1)
        gram = rows @ rows.T
        assert torch.allclose(gram, gram.diagonal().diag(), atol=tolerance["rounding"])
    assert net.component_norms(bond).tolist() == sorted(net.component_norms(bond).tolist(), reverse=True)


def test_matrix_candidates_are_the_best_of_every_rank(tolerance):
    """Eckart and Young: the distance of the rank-r candidate is the root of the sum of the squared values left out."""
    net = rl.init.product_(
        rl.deep_matrix((6, 5), 3), torch.diag(torch.tensor([9.0, 8, 0.5, 0.4, 0.3]).double())[[0, 1, 2, 3, 4, 4]]
    )
    W = net.tensor().detach()
    s = torch.linalg.svdvals(W)
    found = matrix_candidates(net)
    for r, candidate in zip(range(5, 0, -1), found.networks, strict=True):
        assert candidate.layout.sizes["r"] == r
        assert float((candidate.tensor().detach() - W).norm()) == pytest.approx(
            float(s[r:].norm()), rel=1e-9, abs=1e-12
        )
        assert float(candidate.imbalance()) < tolerance["rounding"]
    assert found.networks[found.begin].layout.sizes["r"] == 2  # the widest gap is that between 8 and 0.5


def test_two_singular_values_that_have_not_grown_are_tried_too():
    values = torch.tensor([9.0, 8.0, 1e-3, 1e-4, 1e-5]).double()
    net = rl.init.product_(rl.deep_matrix((5, 5), 3), torch.diag(values))
    found = matrix_candidates(net)
    assert [candidate.layout.sizes["r"] for candidate in found.networks] == [4, 3, 2, 1]
    assert found.grown == 2
    assert found.networks[found.begin].layout.sizes["r"] == 2
    found = matrix_candidates(rl.init.product_(rl.deep_matrix((5, 5), 3), torch.diag(values * (values > 1))))
    assert [candidate.layout.sizes["r"] for candidate in found.networks][-2:] == [2, 1]


def test_elimination_begins_where_the_data_are_explained():
    """Three components whose third is a copy: two suffice, and one does not."""
    net = with_twins()
    train, held_out = everything(net.tensor()).split(0.2, 0)
    found = tensor_candidates(net, train, held_out, ridge=0.0, factor=1.01)
    assert [candidate.layout.sizes["r"] for candidate in found.networks] == [2, 1]
    assert found.begin == 0
    assert net.layout.sizes["r"] == 3


def test_near_the_best_size_components_leave_one_by_one():
    """Of 15 components two leave at a time, to 13, but a tensor of rank 14 has a candidate of 14 components."""
    net = rl.cp((14, 13, 12), 15, std=1.0)
    with torch.no_grad():
        for node in net.nodes:
            node[:, 14] = node[:, 0]
    train, held_out = everything(net.tensor().detach()).split(0.1, 0)
    net.nodes[0].data[:, 14] += 0.05  # so that it does not leave as a component that nothing needs
    found = tensor_candidates(net, train, held_out, ridge=0.0, factor=1.01)
    sizes = [candidate.layout.sizes["r"] for candidate in found.networks]
    assert sizes[found.begin] == 14
    assert sizes == sorted(sizes, reverse=True)


def test_as_many_components_are_kept_as_have_grown():
    """More than the 16 that the others are limited to."""
    net = rl.cp((9, 8, 7), 30, std=1.0)
    with torch.no_grad():
        net.nodes[0][:, 20:] *= 1e-6
    assert thinned(net, "r", everything(net.tensor())).layout.sizes["r"] == 20


def test_a_matrix_of_any_rank_has_its_candidate():
    net = rl.init.product_(rl.deep_matrix((50, 50), 2), torch.diag(torch.linspace(5, 1, 50).double()))
    assert len(matrix_candidates(net).networks) == 50
    assert [made.layout.sizes["r"] for made in matrix_candidates(net).networks[3:5]] == [47, 46]
