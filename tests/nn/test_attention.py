"""Attention with separate projections against the layer of torch."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

from ranklens.nn.attention import SeparateAttention, joined, put_back, separate_attention, without_nested
from ranklens.nn.low_rank import LowRank

pytestmark = pytest.mark.usefixtures("initial_values")

KINDS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "other sizes": {"kdim": 6, "vdim": 10, "batch_first": True},
    "more keys": {"add_bias_kv": True, "add_zero_attn": True},
}
PADDING = torch.tensor([[False, False, True, False, True]] * 3)
MASKS = {
    "none": {},
    "no weights": {"need_weights": False},
    "each head": {"average_attn_weights": False},
    "padding": {"key_padding_mask": PADDING},
    "both": {"key_padding_mask": PADDING, "attn_mask": batch(4, 5) > 1},
    "numbers": {"attn_mask": batch(6, 4, 5), "need_weights": False},
    "causal": {"attn_mask": torch.ones(4, 5).triu(1) > 0, "is_causal": True, "need_weights": False},
}


def inputs(layer):
    query, key, value = batch(3, 4, 8), batch(3, 5, layer.kdim, seed=1), batch(3, 5, layer.vdim, seed=2)
    return (query, key, value) if layer.batch_first else tuple(x.transpose(0, 1) for x in (query, key, value))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_outputs_and_weights_are_those_of_the_layer_of_torch(kind, mask):
    if (kind, mask) == ("more keys", "causal"):
        pytest.skip("torch then ignores the mask, and with it all additional keys")
    layer = nn.MultiheadAttention(8, 2, **KINDS[kind]).double().eval()
    if layer.in_proj_bias is not None:
        nn.init.normal_(layer.in_proj_bias)
    for other in (SeparateAttention(layer), joined(SeparateAttention(layer))):
        for found, expected in zip(
            other(*inputs(layer), **MASKS[mask]), layer(*inputs(layer), **MASKS[mask]), strict=True
        ):
            if expected is None:
                assert found is None
            else:
                assert off(found, expected) <= SAME
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in layer.parameters())


def test_samples_without_a_batch():
    layer = nn.MultiheadAttention(8, 2).double().eval()
    x = batch(4, 8)
    for found, expected in zip(SeparateAttention(layer)(x, x, x), layer(x, x, x), strict=True):
        assert off(found, expected) <= SAME
    masked = {"key_padding_mask": torch.tensor([False, True, False, False])}
    assert off(SeparateAttention(layer)(x, x, x, **masked)[0], layer(x, x, x, **masked)[0]) <= SAME
    with pytest.raises(ValueError, match="attn_mask is None"):
        SeparateAttention(layer)(x, x, x, is_causal=True)


def test_equal_inputs_stay_one_tensor():
    """Layers that take the same tensor are fitted together."""
    seen = []
    layer = SeparateAttention(nn.MultiheadAttention(8, 2).double())
    for part in (layer.q_proj, layer.k_proj, layer.v_proj):
        part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = batch(4, 3, 8)
    layer(x, x, x)
    assert seen[0] is seen[1] is seen[2]


def test_layers_of_a_model_are_separated_and_put_back():
    shared = nn.MultiheadAttention(8, 2)
    tied = nn.MultiheadAttention(8, 2)
    tied.out_proj.weight = shared.in_proj_weight  # a Parameter that two modules use
    alone = nn.MultiheadAttention(8, 2).requires_grad_(False)
    net = nn.ModuleDict({"a": alone, "again": alone, "b": shared, "tied": tied, "c": nn.MultiheadAttention(8, 2)})
    model, taken = separate_attention(net)
    assert sorted(taken) == ["a", "again", "c"]
    assert model["a"] is model["again"]
    assert not any(p.requires_grad for p in model["a"].parameters())
    model["c"].out_proj = LowRank(nn.Linear(8, 2, bias=False), nn.Linear(2, 8))
    back = put_back(model, taken)
    assert type(back["a"]) is nn.MultiheadAttention
    assert back["a"] is back["again"]
    assert back["a"] is not alone
    assert torch.equal(back["a"].in_proj_weight, alone.in_proj_weight)
    assert isinstance(back["c"], SeparateAttention)
    single, taken = separate_attention(nn.MultiheadAttention(8, 2))
    assert isinstance(single, SeparateAttention)
    assert type(put_back(single, taken)) is nn.MultiheadAttention


@pytest.mark.parametrize("plain", [False, True])
def test_encoders_keep_working_without_their_fused_path(plain):
    """Nested tensors and fused kernels are for layers of torch only."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).double().eval()
    x, padding = batch(3, 5, 8), PADDING
    expected = encoder(x, src_key_padding_mask=padding)
    if plain:
        first, last = nn.Linear(8, 8, bias=False).double(), nn.Linear(8, 16).double()
        with torch.no_grad():
            first.weight.copy_(torch.eye(8))
            last.weight.copy_(encoder.layers[1].linear1.weight)
            last.bias.copy_(encoder.layers[1].linear1.bias)
        encoder.layers[1].linear1 = nn.Sequential(first, last)
    else:
        encoder.layers[0].self_attn = SeparateAttention(encoder.layers[0].self_attn)
    with torch.no_grad():
        found = without_nested(encoder)(x, src_key_padding_mask=padding)
    assert off(found[~padding], expected[~padding]) <= SAME
