"""State dicts of composed weights: shared factors come once, and other factorizations are refused."""

import copy
import pickle

import pytest
import torch
from layer_cases import SAME, off
from safetensors.torch import load, save
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


class Tied(nn.Module):
    """An embedding and a head that share their weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.double()

    def forward(self, x):
        return self.head(self.middle(self.embed(x)))


@pytest.mark.parametrize("kind", ["matrix", "cp", "expanded"])
def test_tied_weights_come_once_and_are_loaded_for_all(kind):
    model, x = Tied(), torch.arange(5)
    deep = rl.nn.overparameterize(model, kind=kind)
    other = rl.nn.overparameterize(Tied(), kind=kind)
    state = deep.state_dict()
    assert not [name for name in state if name.startswith("head")]
    stored = load(save(state))  # safetensors refuse tensors that share their memory
    for saved in (state, stored, pickle.loads(pickle.dumps(state))):
        fresh = copy.deepcopy(other)
        assert off(fresh(x), deep(x)) > SAME
        assert str(fresh.load_state_dict(saved)) == "<All keys matched successfully>"
        assert off(fresh(x), deep(x)) <= SAME
        assert fresh.head.composition is fresh.embed.composition


def test_missing_factors_are_still_missed():
    deep = rl.nn.overparameterize(Tied())
    state = {name: x for name, x in deep.state_dict().items() if "embed" not in name}
    with pytest.raises(RuntimeError, match=r"embed\.composition\.network\.nodes\.0"):
        deep.load_state_dict(state)
    middle = {name: x for name, x in deep.state_dict().items() if "middle.composition" not in name}
    found = deep.load_state_dict(middle, strict=False)
    assert [name for name in found.missing_keys if name.startswith("head")] == []
    assert "middle.composition.network.nodes.2" in found.missing_keys


def test_state_dicts_without_the_description_are_loaded():
    deep, other = (rl.nn.overparameterize(nn.Linear(4, 4).double()) for _ in range(2))
    state = {name: x for name, x in deep.state_dict().items() if not name.endswith("_extra_state")}
    other.load_state_dict(state)
    assert off(other.weight, deep.weight) <= SAME


def test_factors_of_another_factorization_are_refused():
    chain = rl.nn.overparameterize(nn.Linear(4, 4), depth=2)
    outer = rl.nn.overparameterize(nn.Linear(4, 4), kind="cp", width=4)
    with pytest.raises(ValueError, match="factor the model as it was factored"):
        outer.load_state_dict(chain.state_dict())
