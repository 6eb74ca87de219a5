"""Weights that are stored in parts are the matrices that they stand for."""

import pytest
import torch
from layer_cases import SAME, off
from torch import nn
from torch.nn.utils import parametrizations, prune

from ranklens.nn.stored_parts import grouped
from ranklens.nn.weight_matrices import Skipped, WeightMatrix, matrices

pytestmark = pytest.mark.usefixtures("initial_values")

# Largest relative error of a few products and a norm in float32.
ROUNDED = 1e-6
NAMES = {
    "peft": ("layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight", "layers.0.q_proj.lora"),
    "peft in a model": ("q_proj.lora_A.default.weight", "q_proj.lora_B.default.weight", "q_proj.lora"),
    "second adapter": ("q_proj.lora_A.art.weight", "q_proj.lora_B.art.weight", "q_proj.art.lora"),
    "kohya": ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", "lora_unet_q.lora"),
    "diffusers": ("to_q.lora.down.weight", "to_q.lora.up.weight", "to_q.lora"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_adapters_are_products(kind):
    first, second, name = NAMES[kind]
    A, B = torch.randn(3, 8), torch.randn(6, 3)
    (found,) = matrices({first: A, second: B})
    assert found.name == name
    assert found.shape == (6, 8)
    assert found.parameters == 3 * (8 + 6)
    assert torch.equal(found.matrix(), B @ A)


def test_adapters_of_embeddings_and_convolutions_and_their_alpha():
    A, B = torch.randn(3, 20), torch.randn(6, 3)
    (found,) = matrices({"wte.lora_embedding_A": A, "wte.lora_embedding_B": B})
    assert torch.equal(found.matrix(), A.T @ B.T)
    A, B = torch.randn(3, 2, 5, 5), torch.randn(6, 3, 1, 1)
    made = {"c.lora_down.weight": A, "c.lora_up.weight": B, "c.alpha": torch.tensor(1.5)}
    (found,) = matrices(made)
    assert off(found.matrix(), 0.5 * B.flatten(1) @ A.flatten(1)) <= SAME


def test_a_factor_alone_is_a_weight():
    (found,) = matrices({"q.lora_A.weight": torch.ones(2, 3)})
    assert found.name == "q.lora_A.weight"


def test_factors_that_do_not_fit_are_named():
    made = {"q.lora_A.weight": torch.ones(2, 3), "q.lora_B.weight": torch.ones(4, 5), "other": torch.ones(2, 2)}
    bad, good = matrices(made)
    assert isinstance(bad, Skipped)
    assert "do not fit each other" in bad.reason
    assert isinstance(good, WeightMatrix)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv1d(2, 3, 3)], ids=["linear", "conv"])
def test_weight_norm_of_both_kinds(layer, dim):
    made = parametrizations.weight_norm(layer, dim=-1 if dim is None else dim)
    with torch.no_grad():
        made.parametrizations.weight.original0.mul_(torch.rand_like(made.parametrizations.weight.original0) + 1)
    expected = made.weight.detach().flatten(1)
    state = made.state_dict()
    found = {x.name: x for x in matrices(state) if isinstance(x, WeightMatrix)}
    assert list(found) == ["weight"]
    assert off(found["weight"].matrix(), expected) <= ROUNDED
    old = {
        "weight_g": state["parametrizations.weight.original0"],
        "weight_v": state["parametrizations.weight.original1"],
    }
    (found,) = matrices(old)
    assert off(found.matrix(), expected) <= ROUNDED
    nn.utils.parametrize.remove_parametrizations(layer, "weight")


def test_other_parametrizations_of_two_parts_are_named():
    made = {
        "parametrizations.weight.original0": torch.ones(3, 2),
        "parametrizations.weight.original1": torch.ones(4, 5),
    }
    (found,) = matrices(made)
    assert isinstance(found, Skipped)
    assert "remove the parametrization first" in found.reason


def test_pruned_weights_have_their_zeros():
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    found = [x for x in matrices(layer.state_dict()) if isinstance(x, WeightMatrix)]
    assert [x.name for x in found] == ["weight"]
    assert torch.equal(found[0].matrix(), layer.weight.detach())


def test_whole_weights_are_in_no_group():
    assert grouped(["a.weight", "weight_g", "x_orig", "lora_A"]) == {}
