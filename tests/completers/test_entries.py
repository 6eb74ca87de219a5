import pytest
import torch
from completion_cases import FAMILIES

import ranklens as rl
from ranklens.completers import entries as module
from ranklens.completers.entries import entries, outer_factors, predict, spectra


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("count", [500, 40])
def test_gradients_of_entries(depth, count, tolerance):
    """The sparse gradient against that of autograd through the end matrix; positions occur more than once.

    500 entries of a 60 x 70 matrix are read off the whole product, 40 are looked up row by row.
    """
    net = rl.deep_matrix((60, 70), depth, 3, std=1.0)
    made = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randint(60, (count,), generator=made)] * 2, dim=1)
    weights = torch.randn(len(indices), generator=made, dtype=torch.float64)
    assert torch.allclose(entries(net, indices), net.tensor()[tuple(indices.T)], rtol=tolerance["rounding"])
    found = net.gradients((entries(net, indices) * weights).sum())
    wanted = net.gradients((net.tensor()[tuple(indices.T)] * weights).sum())
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=tolerance["rounding"], atol=tolerance["rounding"])


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_outer_factors_have_the_product_of_all_factors(shape, tolerance):
    net = rl.deep_matrix(shape, 4, 3, std=1.0)
    left, right = outer_factors(net)
    assert (left.shape, right.shape) == ((shape[0], 3), (3, shape[1]))
    assert torch.allclose(left @ right, net.tensor(), rtol=tolerance["rounding"])


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_in_chunks_are_the_entries_in_float64(name, monkeypatch, tolerance):
    monkeypatch.setattr(module, "CHUNK", 5)
    net = FAMILIES[name]().float()
    indices = torch.cartesian_prod(*map(torch.arange, net.shape))
    found = predict(net, indices)
    assert found.dtype == torch.float64
    assert torch.allclose(found, net.tensor().detach().reshape(-1).double(), rtol=tolerance["float32"], atol=1e-6)
    assert predict(net, indices[:0]).shape == (0,)


def test_the_spectrum_of_a_deep_matrix_is_that_of_its_product(tolerance):
    net = FAMILIES["deep matrix"]()
    [found] = spectra(net)
    assert torch.allclose(found, torch.linalg.svdvals(net.tensor())[:3], rtol=tolerance["rounding"])
    net = FAMILIES["hierarchical"]()
    for bond, found in zip(net.bonds, spectra(net), strict=True):
        assert torch.equal(found, net.component_norms(bond).sort(descending=True).values)
