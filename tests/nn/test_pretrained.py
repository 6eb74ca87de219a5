"""Models of transformers: cut, saved, restored, and what their own methods do."""

import os

import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens.nn.calibration import output_of

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("initial_values"),
    pytest.mark.filterwarnings("ignore"),  # transformers warns about what it will change itself
]

IDS = torch.arange(24).reshape(4, 6)
WORDS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=101))


def bert():
    return transformers.BertModel(transformers.BertConfig(vocab_size=101, **SMALL))


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=101, **SMALL))


def t5():
    sizes = {"d_model": 48, "d_ff": 96, "d_kv": 12, "num_layers": 2, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=101, **sizes))


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))


def mamba():
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "state_size": 8}
    return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=101, **sizes))


MODELS = {
    "gpt2": (gpt2, WORDS),
    "bert": (bert, WORDS),
    "llama": (llama, WORDS),
    "t5": (t5, {**WORDS, "decoder_input_ids": IDS}),
    "vit": (vit, {"pixel_values": torch.linspace(-1, 1, 4 * 3 * 32 * 32).reshape(4, 3, 32, 32)}),
    "mamba": (mamba, WORDS),
}


def run(model, batch):
    with torch.no_grad():
        return output_of(model(**batch))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("with_data", [True, False])
def test_models_of_transformers_come_back_bit_for_bit(kind, with_data, tmp_path):
    make, batch = MODELS[kind]
    small = rl.nn.compress(make().eval(), rank=8, **({"data": [batch]} if with_data else {}))
    cut = [str(name) for name, reason in small.table.reason.to_series().items() if not reason]
    assert len(cut) >= 6
    again = rl.nn.restore(make().eval(), small.save(tmp_path / "small.safetensors"))
    expected = run(small.model, batch)
    assert torch.equal(run(again, batch), expected)
    assert torch.equal(run(small.plain(), batch), expected)
    if with_data:
        assert 0 < small.table.attrs["output_error"] < 1


def test_heads_that_are_tied_to_the_words_are_kept_by_name():
    small = rl.nn.compress(gpt2(), rank=8)
    assert str(small.table.sel(layer="lm_head").reason.item()) == "it shares its weight with 'transformer.wte'"
    assert small.model.lm_head.weight is small.model.transformer.wte.weight


def test_save_pretrained_writes_a_folder_that_only_restore_reads(tmp_path):
    small = rl.nn.compress(llama().eval(), rank=8)
    small.model.save_pretrained(tmp_path / "folder")
    config = transformers.LlamaConfig.from_pretrained(tmp_path / "folder")
    again = rl.nn.restore(transformers.LlamaForCausalLM(config).eval(), tmp_path / "folder")
    assert torch.equal(run(again, WORDS), run(small.model, WORDS))
    with pytest.raises(OSError, match="no file named"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / "folder")
    again.save_pretrained(tmp_path / "again", safe_serialization=True)
    assert (tmp_path / "again" / "ranklens.safetensors").is_file()
    with pytest.raises(ValueError, match="push the folder yourself"):
        again.save_pretrained(tmp_path / "again", push_to_hub=True)
    with pytest.raises(ValueError, match=r"rl\.nn\.restore"):
        small.plain().save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_words_that_are_added_reach_tied_heads_and_cut_heads_are_refused():
    small = rl.nn.compress(gpt2(), rank=8).model
    small.resize_token_embeddings(120)
    assert run(small, WORDS).shape[-1] == 120
    with pytest.raises(TypeError, match="LowRank"):
        rl.nn.compress(llama(), rank=8).model.resize_token_embeddings(120)


def test_after_words_were_added_the_folder_is_restored(tmp_path):
    """The method of transformers makes one module of the embeddings of both halves, where a new model has two."""
    small = rl.nn.compress(t5().eval(), rank=8).model
    small.resize_token_embeddings(120)
    small.save_pretrained(tmp_path)
    config = transformers.T5Config.from_pretrained(tmp_path)
    again = rl.nn.restore(transformers.T5ForConditionalGeneration(config).eval(), tmp_path)
    batch = {**WORDS, "decoder_input_ids": IDS}
    assert torch.equal(run(again, batch), run(small, batch))


def test_copies_save_themselves(tmp_path):
    """A deep copy's method is bound to the copy."""
    import copy

    small = rl.nn.compress(gpt2().eval(), rank=8).model
    other = copy.deepcopy(small)
    nn.init.zeros_(other.transformer.h[0].attn.c_attn[0].weight)
    other.save_pretrained(tmp_path)
    again = rl.nn.restore(gpt2().eval(), tmp_path)
    assert torch.equal(run(again, WORDS), run(other, WORDS))
    assert not torch.equal(run(again, WORDS), run(small, WORDS))
