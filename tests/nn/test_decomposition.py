"""Which layers of a model are cut, and how their weights are decomposed."""

import pytest
import torch
from layer_cases import SAME, SAME_SINGLE, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn.decomposition import by_weight, counted, sites, weight_cut

pytestmark = pytest.mark.usefixtures("initial_values")


def test_what_is_left_alone_is_listed_with_the_reason():
    tied = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Linear(20, 20)})
    tied["b"].weight = tied["a"].weight
    net = nn.ModuleDict(
        {
            "tied": tied,
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "grouped": nn.Conv2d(8, 16, 3, groups=2),
            "attention": nn.MultiheadAttention(16, 2),
            "linear": nn.Linear(20, 20),
            "words": nn.Embedding(9, 4),
            "norm": nn.BatchNorm2d(8),
        }
    )
    found = rl.nn.compress(net, rank=1)
    reasons = {
        str(name): str(reason) for name, reason in zip(found.table.layer.values, found.table.reason.values, strict=True)
    }
    cut = ["grouped", *(f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")), "linear"]
    assert [name for name, reason in reasons.items() if not reason] == cut
    assert reasons["depthwise"] == "two layers of rank 1 would not have fewer parameters"
    assert "shares its weight with 'tied.b'" in reasons["tied.a"]
    assert "layers of class Embedding are not cut" in reasons["words"]
    assert "norm" not in reasons
    assert found.model["tied"]["a"].weight is found.model["tied"]["b"].weight
    assert isinstance(net["linear"], nn.Linear)  # the argument is not changed


def test_shared_layers_are_cut_wherever_they_stand():
    layer = nn.Linear(20, 20)
    small = rl.nn.compress(nn.Sequential(layer, nn.ReLU(), layer), rank=2)
    assert small.model[0] is small.model[2]
    assert small.table.attrs["model_parameters_kept"] == sum(p.numel() for p in small.model.parameters()) == 100


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 5, 7), (2, 6, 6)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, SAME), (torch.float32, SAME_SINGLE)])
def test_decompositions_are_those_of_the_matrices(shape, dtype, near):
    weight = batch(*shape).to(dtype)
    found = weight_cut(weight)
    expected = torch.linalg.svdvals(weight.double())
    assert off(found.singular, expected) <= near
    for rank in (1, 3, 5):
        first, last, bias = found.factors(rank)
        rest = (last @ first - weight.double()).square().sum()
        assert float(found.errors()[rank]) == pytest.approx(float(rest), rel=near, abs=near * found.total())
        assert off(first @ first.mT, last.mT @ last) <= near
        assert bias is None
    assert found.total() == pytest.approx(float(weight.double().square().sum()), rel=near)


def test_matrices_of_low_rank_in_single_precision_have_the_rank():
    """The Gram matrix squares the singular values, which float64 holds for the digits that float32 has."""
    weight = torch.outer(torch.arange(1.0, 31.0), torch.ones(20))[None]
    first, last, _ = weight_cut(weight).factors(2)
    assert off(last @ first, weight.double()) <= SAME_SINGLE


def test_a_layer_that_saves_nothing_has_no_pair():
    [site], kept = sites(nn.Linear(8, 5).double())
    layer = by_weight(site)
    assert (site.name, site.shape, site.largest, site.dense, kept) == ("", (1, 5, 8), 5, 40, [])
    assert [layer.cost(rank) for rank in (1, 3, 4)] == [13, 39, 52]
    assert layer.pair(4) is None
    assert off(layer.pair(3).weight, layer.pair(3)[1].weight @ layer.pair(3)[0].weight) <= SAME


def test_a_weight_of_zeros_has_no_error_and_its_rank_is_one():
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    [site], _ = sites(layer)
    found = by_weight(site)
    assert found.errors().tolist() == [0.0] * 5
    assert not found.pair(1).weight.any()
    nn.init.constant_(layer.weight, torch.nan)
    with pytest.raises(ValueError, match="layer '' is not finite"):
        sites(layer)


def test_layers_that_are_not_cut_are_counted_if_their_kind_is_known():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "words": nn.Embedding(4, 4)})
    net["b"].weight = net["a"].weight
    _, kept = sites(net)
    assert [None if counted(layer) is None else counted(layer).shape for layer in kept] == [(1, 4, 4), (1, 4, 4), None]
