"""Which layers are factored, by names with and without wrappers, and what the others are listed with."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ranklens as rl
from ranklens.nn.factorable import bare_name, chosen_layers

pytestmark = pytest.mark.usefixtures("initial_values")


class Own(nn.Linear):
    """A subclass that may compute anything."""


class Product(nn.Module):
    """A layer of a class of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


def test_every_layer_with_a_weight_is_listed_with_the_reason():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 3),
            "own": Own(3, 3),
            "product": Product(),
            "norm": nn.LayerNorm(3),
            "attention": nn.MultiheadAttention(4, 2, kdim=3, vdim=3),
            "done": rl.nn.overparameterize(nn.Linear(3, 3)),
            "lstm": nn.LSTM(3, 3),
        }
    )
    table = rl.nn.factorable(model)
    reasons = dict(zip(table.layer.values.tolist(), table.reason.values.tolist(), strict=True))
    assert reasons.pop("linear") == reasons.pop("attention.out_proj") == ""
    assert "subclass of Linear" in reasons.pop("own")
    assert reasons.pop("product") == "layers of class Product are not factored"
    assert "sizes of their own" in reasons.pop("attention")
    assert "factored already" in reasons.pop("done")
    assert reasons == {"lstm": "layers of class LSTM are not factored"}
    assert table.kind.sel(layer="own").item() == "Own"
    assert rl.nn.factorable(model, "own").reason.sel(layer="linear").item() == "`where` leaves it out"


def normed():
    return parametrizations.weight_norm(nn.Linear(3, 3))


def hooked(kind):
    layer = nn.Linear(3, 3)
    with pytest.warns(FutureWarning) if kind == "weight_norm" else torch.no_grad():
        getattr(nn.utils, kind)(layer)
    return layer


COMPUTED = {
    "parametrized": (normed, "remove_parametrizations"),
    "normed by a hook": (lambda: hooked("weight_norm"), "remove_weight_norm"),
    "spectral": (lambda: hooked("spectral_norm"), "remove_spectral_norm"),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5), r"prune\.remove"),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_weights_are_refused_by_the_name_of_the_layer(kind):
    make, remedy = COMPUTED[kind]
    model = nn.Sequential(nn.Linear(3, 3), make())
    with pytest.raises(ValueError, match=f"layer '1' cannot be factored.*{remedy}"):
        rl.nn.overparameterize(model)
    deep, x = rl.nn.overparameterize(model, where="0"), torch.ones(2, 3)
    assert torch.allclose(deep(x), model(x))
    assert torch.allclose(rl.nn.collapse(deep)(x), model(x))


def wrapped(kind):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    return {
        "plain": lambda: model,
        "compiled": lambda: torch.compile(model, backend="eager"),
        "parallel": lambda: nn.DataParallel(model),
        "both": lambda: torch.compile(nn.DataParallel(model), backend="eager"),
        "inside": lambda: nn.Sequential(torch.compile(model[0], backend="eager"), *model[1:]),
    }[kind]()


@pytest.mark.parametrize("kind", ["plain", "compiled", "parallel", "both", "inside"])
def test_patterns_see_through_wrappers(kind):
    model, x = wrapped(kind), torch.ones(2, 3)
    deep = rl.nn.overparameterize(model, where=["0"])
    assert [bare_name(model, name) for name, _ in chosen_layers(model, "0")] == ["0"]
    assert sum(isinstance(m, rl.nn.Composition) for m in deep.modules()) == 1
    with torch.compiler.set_stance("force_eager"):  # the check of types cannot be compiled
        assert torch.allclose(deep(x), model(x))


def test_a_part_that_is_called_module_is_no_wrapper():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    assert bare_name(Outer(), "module") == "module"
    assert bare_name(Outer(), "head") == "head"


class Adapted(nn.Module):
    """The names that PEFT gives."""

    def __init__(self):
        super().__init__()
        self.peft_config, self.base_model = {}, nn.Module()
        self.base_model.model = nn.ModuleDict({"q_proj": nn.Module()})
        self.base_model.model["q_proj"].base_layer = nn.Linear(3, 3)


def test_names_inside_adapters_are_those_of_the_model():
    assert bare_name(Adapted(), "base_model.model.q_proj.base_layer") == "q_proj"
    assert len(chosen_layers(Adapted(), "q_proj")) == 1


def test_a_pattern_that_takes_nothing_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"the pattern 'decoder\.\*', which takes no layer"):
        rl.nn.overparameterize(model, where=["0", "decoder.*"])
    with pytest.raises(ValueError, match="their names are '0'"):
        rl.nn.overparameterize(model, where=lambda name, layer: False)
