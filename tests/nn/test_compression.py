"""Plain forms of compressed models."""

import pytest
import torch
from compression_cases import MODELS
from layer_cases import SAME_SINGLE, batch, off
from torch import nn

import ranklens as rl

# Relative error of outputs in bfloat16 whose weights were multiplied out and rounded to its eight bits.
ROUNDED = 0.02

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize("kind", MODELS)
def test_a_plain_form_has_modules_of_torch_and_computes_the_same(kind):
    make, x = MODELS[kind]
    small = rl.nn.compress(make().eval(), rank=3)
    plain = small.plain()
    assert not [m for m in plain.modules() if type(m).__module__.startswith("ranklens") and kind != "residual"]
    with torch.no_grad():
        found, expected = plain(x), small.model(x)
    if any(isinstance(module, nn.MultiheadAttention) for module in plain.modules()):
        assert off(found, expected) <= SAME_SINGLE
    else:
        assert torch.equal(found, expected)


def test_a_plain_form_is_exported_and_its_state_loads():
    make, x = MODELS["convolutions"]
    small = rl.nn.compress(make().eval(), rank=3)
    plain = small.plain()
    again = small.plain()
    again.load_state_dict(plain.state_dict())
    exported = torch.export.export(plain, (x,)).module()
    with torch.no_grad():
        assert off(exported(x), plain(x)) <= SAME_SINGLE


def test_a_single_layer_has_a_plain_form():
    x = batch(3, 20).float()
    small = rl.nn.compress(nn.Linear(20, 20), rank=2)
    assert type(small.plain()) is nn.Sequential
    assert torch.equal(small.plain()(x), small.model(x))


@pytest.mark.parametrize("kind", MODELS)
def test_a_dense_state_dict_loads_into_a_new_model(kind):
    make, x = MODELS[kind]
    small = rl.nn.compress(make().eval(), rank=3)
    new = make().eval()
    new.load_state_dict(small.dense_state_dict())
    with torch.no_grad():
        found, expected = new(x), small.model(x)
    assert off(found, expected) <= (ROUNDED if found.dtype == torch.bfloat16 else SAME_SINGLE)


def test_a_dense_state_dict_of_a_single_layer():
    x, layer = batch(3, 20).float(), nn.Linear(20, 20)
    small = rl.nn.compress(nn.Linear(20, 20), rank=2)
    state = small.dense_state_dict()
    layer.load_state_dict(state)
    assert off(layer(x), small.model(x)) <= SAME_SINGLE
    state["weight"].zero_()  # a copy
    assert bool(small.model.weight.any())
