"""Products of attention weights by head, against the products of the weights that were put in."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ranklens as rl
from ranklens.nn.attention_products import AttentionLayout, attention_products

pytestmark = pytest.mark.usefixtures("initial_values")

WIDTH, HEADS, SIZE = 12, 3, 4
# Relative error of singular values of products of float32 weights.
SINGLE = 1e-5


def parts(key_heads=HEADS):
    g = torch.Generator().manual_seed(0)
    rows = {"q": HEADS * SIZE, "k": key_heads * SIZE, "v": key_heads * SIZE}
    made = {name: torch.randn(count, WIDTH, generator=g) for name, count in rows.items()}
    return {**made, "o": torch.randn(WIDTH, HEADS * SIZE, generator=g)}


def expected(made, key_heads=HEADS):
    """Singular values of both products of every head, literally."""
    found = {}
    for h in range(HEADS):
        own, other = slice(h * SIZE, (h + 1) * SIZE), h // (HEADS // key_heads)
        kept = slice(other * SIZE, (other + 1) * SIZE)
        found[f"QK[{h}]"] = torch.linalg.svdvals((made["q"][own].T @ made["k"][kept]).double())[:SIZE]
        found[f"OV[{h}]"] = torch.linalg.svdvals((made["o"][:, own] @ made["v"][kept]).double())[:SIZE]
    return found


def check(table, made, key_heads=HEADS, prefix="a "):
    wanted = expected(made, key_heads)
    for name, values in wanted.items():
        row = table.sel(weight=f"{prefix}{name}")
        assert row.spectrum.values.tolist() == pytest.approx(values.tolist(), rel=SINGLE)
        assert int(row["rows"]) == int(row["columns"]) == WIDTH
    assert len(table.weight) == len(wanted) + 2


def heads(made, name):
    return made[name].reshape(HEADS, 1, SIZE, WIDTH)


def stored(kind, made):
    """The weights as models of a kind name and lay them out."""
    q, k, v, o = made["q"], made["k"], made["v"], made["o"]
    fused = torch.cat([q, k, v])
    by_head = torch.cat([heads(made, name) for name in "qkv"], dim=1).flatten(0, 2) if len(k) == len(q) else fused
    return {
        "llama": {"a.q_proj.weight": q, "a.k_proj.weight": k, "a.v_proj.weight": v, "a.o_proj.weight": o},
        "bert": {f"a.self.{n}.weight": x for n, x in zip(("query", "key", "value"), (q, k, v), strict=True)}
        | {"a.output.dense.weight": o},
        "gpt2": {"a.c_attn.weight": fused.T.contiguous(), "a.c_proj.weight": o.T.contiguous()},
        "nanogpt": {"a.c_attn.weight": fused, "a.c_proj.weight": o},
        "timm": {"a.qkv.weight": fused, "a.proj.weight": o},
        "torch": {"a.in_proj_weight": fused, "a.out_proj.weight": o},
        "neox": {"a.query_key_value.weight": by_head, "a.dense.weight": o},
        "t5": {"a.q.weight": q, "a.k.weight": k, "a.v.weight": v, "a.o.weight": o},
    }[kind]


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2", "nanogpt", "timm", "torch", "neox", "t5"])
def test_layouts_of_common_models(kind):
    made = parts()
    check(attention_products(stored(kind, made), heads=HEADS), made)


def test_shared_heads_of_keys_by_the_configuration(tmp_path):
    made = parts(key_heads=1)
    save_file(stored("llama", made), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": {"num_attention_heads": 3, "num_key_value_heads": 1}})
    )
    check(rl.nn.attention_products(tmp_path), made, key_heads=1)
    fused = {"a.qkv_proj.weight": torch.cat([made[name] for name in "qkv"]), "a.o_proj.weight": made["o"]}
    save_file(fused, tmp_path / "model.safetensors")
    check(rl.nn.attention_products(tmp_path), made, key_heads=1)


def test_attention_of_torch_knows_its_heads():
    layer = nn.MultiheadAttention(WIDTH, HEADS)
    q, k, v = layer.in_proj_weight.detach().chunk(3)
    check(attention_products(layer), {"q": q, "k": k, "v": v, "o": layer.out_proj.weight.detach()}, prefix="")


def test_products_are_computed_on_the_device_that_is_asked_for():
    made = parts()
    weights = stored("llama", made)
    here, there = (attention_products(weights, heads=HEADS, device=device) for device in (None, "cpu"))
    assert here.identical(there)
    with pytest.raises(ValueError, match=r"^device is 'cuda:\d+', which cannot be used here"):
        attention_products(weights, heads=HEADS, device=f"cuda:{torch.cuda.device_count()}")


def test_the_random_matrix_is_a_product():
    table = attention_products(stored("llama", parts()), heads=HEADS)
    own = table.isel(weight=table.part_of != "")
    assert float(own.random_effective_rank.max()) < SIZE
    assert float(own.random_effective_rank.min()) > SIZE / 2


def test_a_layout_of_ones_own():
    made = parts()
    names = {"a.Q": made["q"], "a.K": made["k"], "a.V": made["v"], "a.out.weight": made["o"]}
    with pytest.raises(ValueError, match="no attention layer of a known layout among 4 weights"):
        attention_products(names, heads=HEADS)
    check(attention_products(names, heads=HEADS, layouts=[AttentionLayout("Q", "K", "V", "out")]), made)
    queries = attention_products(names, heads=HEADS, layouts=[AttentionLayout("Q", "K", "V")])
    assert queries.weight.values.tolist() == ["a QK", *(f"a QK[{h}]" for h in range(HEADS))]


def test_numbers_of_heads_that_do_not_fit_are_refused(tmp_path):
    weights = stored("llama", parts())
    with pytest.raises(ValueError, match="the number of attention heads is not known"):
        attention_products(weights)
    with pytest.raises(ValueError, match="heads is 0"):
        attention_products(weights, heads=0)
    with pytest.raises(ValueError, match="which 5 heads do not divide"):
        attention_products(weights, heads=5)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config\.json is no configuration"):
        attention_products(tmp_path)


def test_shared_keys_fused_by_head_are_not_guessed(tmp_path):
    made = parts(key_heads=1)
    fused = torch.cat([made[name] for name in "qkv"])
    save_file({"a.query_key_value.weight": fused, "a.dense.weight": made["o"]}, tmp_path / "m.safetensors")
    told = {"num_attention_heads": 3, "multi_query": True}
    (tmp_path / "config.json").write_text(json.dumps(told))
    check(rl.nn.attention_products(tmp_path), made, key_heads=1)
    save_file(
        {"a.query_key_value.weight": torch.ones(32, 16), "a.dense.weight": torch.eye(16)}, tmp_path / "m.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, "num_kv_heads": 2}))
    with pytest.raises(ValueError, match="in an order that differs among models"):
        attention_products(tmp_path / "m.safetensors")


def test_products_of_a_cut_attention_layer_are_those_of_its_multiplied_weights(tmp_path):
    attention = nn.MultiheadAttention(16, 4)
    small = rl.nn.compress(attention, rank=2)
    found = attention_products(small.model)
    dense = attention_products(small.dense_state_dict(), heads=4)
    assert found.weight.values.tolist()[:2] == ["QK", "QK[0]"]
    assert found.numerical_rank.values.max() <= 2
    assert found.spectrum.values[:, :2] == pytest.approx(dense.spectrum.values[:, :2], rel=SINGLE)
    stored = attention_products(str(small.save(tmp_path / "small.safetensors")), heads=4)
    assert stored.spectrum.values[:, :2] == pytest.approx(found.spectrum.values[:, :2], rel=SINGLE)
