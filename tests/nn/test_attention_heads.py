"""Numbers of heads from configurations of one part and of several."""

import json

import pytest
from torch import nn

from ranklens.nn.attention_heads import Heads, head_counts

TWO = {"text_config": {"num_attention_heads": 8, "num_key_value_heads": 2}, "vision_config": {"num_attention_heads": 4}}
EQUAL = {"text_config": {"num_attention_heads": 8}, "vision_config": {"num_attention_heads": 8}}
HALVES = {"encoder_attention_heads": 6, "decoder_attention_heads": 3}
PARTS = {"encoder": {"num_attention_heads": 6}, "decoder": {"n_head": 3}}


@pytest.mark.parametrize(
    ("told", "layer", "found"),
    [
        ({"num_attention_heads": 4}, "layers.0.attn", Heads(4, 4)),
        ({"n_head": 4, "multi_query": True}, "h.0", Heads(4, 1)),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, "x", Heads(8, 2)),
        (TWO, "text_model.encoder.layers.0.self_attn", Heads(8, 2)),
        (TWO, "vision_model.encoder.layers.0.self_attn", Heads(4, 4)),
        (TWO, "model.language_model.layers.0.self_attn", Heads(8, 2)),
        (TWO, "visual.blocks.0.attn", Heads(4, 4)),
        (EQUAL, "layers.0.self_attn", Heads(8, 8)),
        (HALVES, "model.encoder.layers.0.self_attn", Heads(6, 6)),
        (HALVES, "decoder.layers.0.encoder_attn", Heads(3, 3)),
        (PARTS, "decoder.bert.encoder.layer.0", Heads(3, 3)),
        (PARTS, "encoder.layer.0", Heads(6, 6)),
    ],
)
def test_the_part_that_describes_the_layer_counts(tmp_path, told, layer, found):
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert head_counts(tmp_path, layer) == found

    class Model(nn.Module):
        config = told

    assert head_counts(Model(), layer) == found


@pytest.mark.parametrize(
    ("told", "layer"), [(TWO, "layers.0.attn"), ({}, "x"), ({"num_attention_heads": True}, "x"), ([], "x")]
)
def test_a_number_that_is_not_told_is_not_guessed(tmp_path, told, layer):
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"the number of attention heads is not known for layer '{layer}'"):
        head_counts(tmp_path, layer)
    assert head_counts(tmp_path, layer, 4) == Heads(4, 4)


def test_attention_of_torch_and_damaged_configurations(tmp_path):
    assert head_counts(nn.Sequential(nn.MultiheadAttention(8, 4, device="meta")), "0") == Heads(4, 4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no configuration in JSON"):
        head_counts(tmp_path, "x")
