"""Weights of modules as the modules compute with them."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ranklens.nn.module_weights import ModuleWeights, adapter_scale

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize("kind", ["spectral_norm", "orthogonal", "weight_norm"])
def test_a_weight_under_a_parametrization_is_the_one_that_the_layer_uses(kind):
    layer = getattr(parametrizations, kind)(nn.Linear(6, 4))
    state = {name: x.clone() for name, x in layer.state_dict().items()}
    found = ModuleWeights(nn.Sequential(layer))
    weight = found["0.weight"]
    assert sorted(found) == ["0.bias", "0.weight"]
    assert all(torch.equal(x, state[name]) for name, x in layer.state_dict().items())
    assert layer.training
    assert torch.equal(weight, layer.eval().weight.detach())


def test_the_scale_of_an_adapter_with_strengths_is_divided_by_its_rank():
    layer = nn.Module()
    layer.scaling, layer.ranknum = {"default": 6.0}, nn.ParameterDict({"default": torch.tensor(4.0)})
    assert adapter_scale(nn.ModuleDict({"q": layer}))("q", 4) == 1.5
    layer.ranknum = nn.ParameterDict()
    assert adapter_scale(nn.ModuleDict({"q": layer}))("q", 4) == 6.0
