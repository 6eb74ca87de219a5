"""Factored weights in state dicts give their products."""

import pytest
import torch
from layer_cases import SAME, off
from torch import nn

import ranklens as rl
from ranklens.nn.factored_state import layers

pytestmark = pytest.mark.usefixtures("initial_values")


def weights(state):
    return {name: make([state[part] for part in parts])[0] for name, parts, make in layers(state)}


@pytest.mark.parametrize("kind", ["matrix", "cp", "hierarchical", "expanded"])
def test_the_product_is_the_weight(kind):
    model = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(2, 3, 3), nn.Embedding(6, 3)).double()
    deep = rl.nn.overparameterize(model, kind=kind)
    found = weights(deep.state_dict())
    assert list(found) == ["0.weight", "1.weight", "2.weight"]
    for name, weight in found.items():
        assert off(weight, model.get_parameter(name)) <= 100 * SAME


def test_the_projections_of_attention_are_one_weight():
    attention = nn.MultiheadAttention(8, 2).double()
    found = weights(rl.nn.overparameterize(attention).state_dict())
    assert off(found["in_proj_weight"], attention.in_proj_weight) <= 100 * SAME
    assert off(found["out_proj.weight"], attention.out_proj.weight) <= 100 * SAME


def without_description(model):
    return {name: x for name, x in model.state_dict().items() if not name.endswith("_extra_state")}


def test_shapes_that_leave_no_choice_need_no_description():
    layer = nn.Linear(5, 4).double()
    found = weights(without_description(rl.nn.overparameterize(layer)))
    assert off(found["weight"], layer.weight) <= 100 * SAME
    conv = nn.Conv2d(2, 3, 3).double()
    found = weights(without_description(rl.nn.overparameterize(conv, kind="expanded")))
    assert off(found["weight"], conv.weight) <= 100 * SAME


def test_shapes_that_leave_a_choice_are_not_guessed():
    with pytest.raises(ValueError, match="does not say how they are contracted"):
        weights(without_description(rl.nn.overparameterize(nn.Linear(4, 4))))


@pytest.mark.parametrize("text", ["{}", "[]", '{"shape": [2, 2], "nodes": 3, "out": []}', "no json"])
def test_a_damaged_description_does_not_stop_a_profile(text):
    state = rl.nn.overparameterize(nn.Linear(4, 4)).state_dict()
    state["composition._extra_state"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    found = rl.nn.rank_profile({**state, "other": torch.eye(3)})
    assert found.weight.values.tolist() == ["other"]
    assert "is stored in parts that do not fit each other" in found.skipped["weight"]


def test_a_profile_of_a_factored_checkpoint_has_the_products(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(2, 3, 3)).double()
    deep = rl.nn.overparameterize(model, kind="cp")
    torch.save(deep.state_dict(), tmp_path / "deep.pt")
    found, plain = rl.nn.rank_profile(tmp_path / "deep.pt"), rl.nn.rank_profile(model)
    assert found.weight.values.tolist() == plain.weight.values.tolist()
    for name in plain.weight.values:
        assert float(found.effective_rank.sel(weight=name)) == pytest.approx(
            float(plain.effective_rank.sel(weight=name)), rel=1000 * SAME
        )
