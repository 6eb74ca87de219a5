"""The scale of an adapter from its configuration."""

import json

import pytest
import torch
from safetensors.torch import save_file

import ranklens as rl
from ranklens.nn.adapter import stored_scale


def write(folder, **told):
    (folder / "adapter_config.json").write_text(json.dumps(told))


def test_alpha_over_the_rank_or_its_root(tmp_path):
    assert stored_scale(tmp_path) is None
    write(tmp_path, lora_alpha=16)
    assert stored_scale(tmp_path)("q", 4) == stored_scale(tmp_path / "model.safetensors")("q", 4) == 4.0
    write(tmp_path, lora_alpha=16, use_rslora=True)
    assert stored_scale(tmp_path)("q", 4) == 8.0


def test_patterns_give_layers_an_alpha_of_their_own(tmp_path):
    write(tmp_path, lora_alpha=16, alpha_pattern={"q_proj": 8, r"layers\.1\.v": 4})
    scale = stored_scale(tmp_path)
    layers = ("model.layers.0.q_proj", "model.layers.1.v", "model.layers.11.v")
    assert [scale(layer, 4) for layer in layers] == [2.0, 1.0, 4.0]


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"lora_alpha": null}'])
def test_damaged_configurations_are_named(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"adapter_config\.json is no configuration"):
        stored_scale(tmp_path)


def test_adapters_that_are_no_products_are_refused_by_their_type(tmp_path):
    write(tmp_path, peft_type="LOHA", alpha=8)
    save_file({"q.hada_w1_a": torch.ones(3, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"type LOHA.*merge the adapter"):
        rl.nn.rank_profile(tmp_path)


def test_a_profile_of_an_adapter_has_the_scaled_product(tmp_path):
    A, B = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)), torch.eye(9, 4)
    save_file({"q.lora_A.weight": A, "q.lora_B.weight": B}, tmp_path / "adapter_model.safetensors")
    write(tmp_path, lora_alpha=8)
    found = rl.nn.rank_profile(tmp_path)
    assert found.weight.values.tolist() == ["q.lora"]
    assert int(found.numerical_rank[0]) == 4
    assert int(found.parameters[0]) == 4 * (12 + 9)
    expected = torch.linalg.svdvals(2.0 * B.double() @ A.double())
    assert found.spectrum.values[0].tolist() == pytest.approx(expected[:4].tolist())
