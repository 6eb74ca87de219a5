"""An expanded network layer by layer against a convolution written out, and against its composed form."""

import copy

import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens import seeds
from ranklens.training import networks
from ranklens.training.layer_by_layer import LayerByLayer, kernels, layer_by_layer


def expanded(**options):
    with seeds.initial_values(0, "network of a test"):
        plain = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3)).double()
    return rl.nn.overparameterize(plain, **({"kind": "expanded"} | options))


def images():
    return torch.randn(4, 2, 7, 7, generator=seeds.stream(0, "images of a test"), dtype=torch.float64)


def test_outputs_and_gradients_are_those_of_the_composed_kernels(tolerance):
    deep = expanded()
    slow = layer_by_layer(deep)
    for net in (deep, slow):
        net(images()).square().sum().backward()
    assert torch.allclose(slow(images()), deep(images()), rtol=tolerance["rounding"], atol=tolerance["rounding"])
    for k in (0, 2):
        for a, b in zip(kernels(deep[k]), slow[k].kernels, strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=0, atol=tolerance["rounding"] * float(b.grad.abs().max()))


def test_the_layer_pads_its_input_only(tolerance):
    layer = expanded()[0]
    padded = nn.functional.pad(images(), (1, 1, 1, 1))
    for kernel in layer.composition.network.kernels:
        padded = nn.functional.conv2d(padded, kernel)
    found = LayerByLayer(layer)(images())
    assert found.shape == (4, 3, 7, 7)
    assert torch.allclose(found, padded + layer.bias[:, None, None], rtol=0, atol=tolerance["rounding"])


def test_parameters_are_copies_and_other_layers_are_kept():
    deep = expanded(where=lambda name, layer: name == "0")
    before = copy.deepcopy(deep.state_dict())
    slow = layer_by_layer(deep)
    assert [type(layer) for layer in slow] == [LayerByLayer, nn.ReLU, nn.Conv2d]
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())


def test_a_weight_that_is_no_chain_of_kernels_is_refused():
    deep = rl.nn.overparameterize(networks.cnn(8, 1, seed=0), kind="cp", where=lambda _, m: isinstance(m, nn.Conv2d))
    with pytest.raises(TypeError, match="is a TensorNetwork, not a chain of kernels"):
        layer_by_layer(deep)
