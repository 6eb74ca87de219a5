"""Weights that are stored in parts are the matrices that they stand for."""

import pytest
import torch
from layer_cases import SAME, off
from torch import nn
from torch.nn.utils import parametrizations, prune

import ranklens as rl
from ranklens.nn.rank_profile import named_weights
from ranklens.nn.stored_parts import CutLayer, grouped
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


def test_strengths_of_components_count():
    A, B, E = torch.randn(3, 20), torch.randn(6, 3), torch.tensor([[2.0], [0.0], [-1.0]])
    (found,) = matrices({"q.lora_A": A, "q.lora_B": B, "q.lora_E": E})
    assert off(found.matrix(), B @ torch.diag(E[:, 0]) @ A) <= ROUNDED


def test_adapters_of_8_bit_numbers_are_the_products_of_what_they_hold():
    A, B = (torch.randn(*shape).to(torch.float8_e4m3fn) for shape in ((3, 8), (6, 3)))
    (found,) = matrices({"q.lora_A.weight": A, "q.lora_B.weight": B})
    assert off(found.matrix(), B.float() @ A.float()) <= ROUNDED


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


CUT = {
    "linear": lambda: nn.Linear(12, 9),
    "conv": lambda: nn.Conv2d(4, 8, 3),
    "grouped": lambda: nn.Conv1d(8, 12, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 3),
    "transposed, grouped": lambda: nn.ConvTranspose1d(8, 12, 3, groups=2),
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
def test_a_cut_layer_is_the_product_of_its_two_layers_in_a_model_and_in_its_file(kind, inside, tmp_path):
    layer = CUT[kind]()
    small = rl.nn.compress(nn.Sequential(layer) if inside else layer, rank=2)
    expected = (small.model[0] if inside else small.model).weight.detach().flatten(1)
    for model in (small.model, small.save(tmp_path / "small.safetensors")):
        weights, _ = named_weights(model)
        (found,) = (x for x in matrices(weights) if isinstance(x, WeightMatrix))
        assert found.name == ("0.weight" if inside else "weight")
        assert off(found.matrix(), expected) <= ROUNDED
    if kind in ("linear", "conv"):
        assert found.parameters == 2 * sum(found.shape)


def test_cut_models_are_compared_with_the_models_before_the_cut(tmp_path):
    model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 16))
    small = rl.nn.compress(model, rank=3)
    change = rl.nn.rank_difference(model, str(small.save(tmp_path / "small.safetensors")))
    assert change.weight.values.tolist() == ["0.weight", "2.weight"]
    assert change.numerical_rank.values.tolist() == [21, 13]  # the singular values that were cut off
    profile = rl.nn.rank_profile(str(tmp_path / "small.safetensors"))
    assert profile.numerical_rank.values.tolist() == [3, 3]


def test_the_cut_weight_of_conv1d_has_the_shape_it_is_stored_in(tmp_path):
    transformers = pytest.importorskip("transformers")
    layer = transformers.pytorch_utils.Conv1D(10, 16)
    small = rl.nn.compress(nn.Sequential(layer), rank=2)
    for model in (small.model, str(small.save(tmp_path / "small.safetensors"))):
        row = rl.nn.rank_profile(model).isel(weight=0)
        assert (int(row.rows), int(row.columns), int(row.numerical_rank)) == (16, 10, 2)


def test_parts_of_a_cut_layer_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="no product"):
        CutLayer().assemble([torch.ones(2, 5), torch.ones(4, 3)])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q_proj.lora_magnitude_vector", (6,)),
        ("conv.lora_magnitude_vector.default.weight", (1, 6, 1, 1)),
        ("lora_unet_q.dora_scale", (6, 1)),
    ],
)
def test_magnitudes_of_weight_decomposed_adapters_are_named_beside_the_product(name, shape):
    A, B = torch.randn(3, 8), torch.randn(6, 3)
    made = {"q_proj.lora_A.weight": A, "q_proj.lora_B.weight": B, name: torch.ones(shape)}
    product, magnitudes = matrices(made)
    assert torch.equal(product.matrix(), B @ A)
    assert magnitudes.name == name
    assert "not the adapter's product alone" in magnitudes.reason
