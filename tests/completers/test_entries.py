import pytest
import torch
from completion_cases import FAMILIES

import ranklens as rl
from ranklens.completers import entries as module
from ranklens.completers.entries import outer_factors, predict, spectra


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
