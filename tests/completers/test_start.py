import numpy as np
import pytest
import torch
from completion_cases import observed, planted

import ranklens as rl
from ranklens.completers.entries import spectra
from ranklens.completers.start import FRESH, aligned_, leading, narrowed, widened

# Four iterations of the power method on a large matrix of which a fifth is observed: directions to about a percent.
ROUGHLY = 1e-2


@pytest.mark.parametrize("shape", [(30, 20), (1100, 1000)])
def test_the_initialization_is_along_the_observed_matrix(shape, tolerance):
    X, _ = planted(shape, 2, 0.2)
    U, s, V = leading(observed(X), 2)
    Y = np.nan_to_num(X)
    assert np.allclose(Y @ V.numpy(), (U * s).numpy(), atol=ROUGHLY * float(s[0]))
    scale = 1e-3
    net = aligned_(rl.deep_matrix(shape, 3, 4), observed(X), scale)
    found = torch.linalg.svdvals(net.tensor().detach())
    assert float(found[0]) == pytest.approx(scale * np.sqrt(shape[0] * shape[1]), rel=tolerance["difference"])
    assert float(net.imbalance()) < tolerance["balance"] * float(found[0])


def test_singular_values_keep_their_ratios(tolerance):
    X, _ = planted((12, 10), 3, 0.7)
    net = aligned_(rl.deep_matrix((12, 10), 3, 10), observed(X), 1e-4)
    found, wanted = torch.linalg.svdvals(net.tensor().detach()), np.linalg.svd(np.nan_to_num(X), compute_uv=False)
    assert np.allclose(found / found[0], wanted / wanted[0], atol=tolerance["rounding"])


def test_nothing_but_zeros_gives_zeros():
    net = aligned_(rl.deep_matrix((3, 4), 2), observed(np.zeros((3, 4))), 1e-3)
    assert not net.tensor().any()


@pytest.mark.parametrize("shape", [(30, 20), (1100, 1000)])
def test_added_components_are_orthogonal_to_those_that_are_there(shape, tolerance):
    """Along a present direction a new component would add nothing to the rank."""
    X, _ = planted(shape, 8, 0.5)
    net = aligned_(rl.deep_matrix(shape, 3, 4), observed(X), 1e-1)
    wider = widened(net, observed(X), 64)
    assert [wider.layout.sizes[bond] for bond in wider.bonds] == [8, 8]
    (old,), (new,) = spectra(net), spectra(wider)
    assert torch.allclose(new[:4], old[:4], rtol=tolerance["rounding"])
    assert float(new[4]) == pytest.approx(FRESH * np.sqrt(shape[0] * shape[1]), rel=tolerance["difference"])


def test_a_narrowed_network_keeps_its_largest_components():
    net = rl.cp((4, 5, 6), 6, std=1.0)
    with torch.no_grad():
        net.nodes[1][:, [0, 4]] *= 1e-3
    narrow = narrowed(net, 4)
    assert torch.equal(narrow.component_norms("r"), net.component_norms("r")[[1, 2, 3, 5]])
    assert net.layout.sizes["r"] == 6
