"""Which layers of a model are decomposed, and how."""

import pytest
from layer_cases import SAME, off
from torch import nn

import ranklens as rl
from ranklens.nn.decomposition import decomposed_layers

pytestmark = pytest.mark.usefixtures("initial_values")


def test_what_is_left_alone():
    """Layers with groups, with shared weights and inside attention are not truncated."""
    tied = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Linear(20, 20)})
    tied["b"].weight = tied["a"].weight
    net = nn.ModuleDict(
        {
            "tied": tied,
            "groups": nn.Conv2d(8, 8, 3, groups=2),
            "attention": nn.MultiheadAttention(16, 2),
            "linear": nn.Linear(20, 20),
        }
    )
    found = rl.nn.compress(net, rank=1)
    assert list(found.table.layer.values) == ["linear"]
    assert found.model["tied"]["a"].weight is found.model["tied"]["b"].weight
    assert isinstance(net["linear"], nn.Linear)  # the argument is not changed


def test_shared_layers_are_cut_wherever_they_stand():
    layer = nn.Linear(20, 20)
    small = rl.nn.compress(nn.Sequential(layer, nn.ReLU(), layer), rank=2)
    assert small.model[0] is small.model[2]
    assert small.table.attrs["model_parameters_kept"] == sum(p.numel() for p in small.model.parameters()) == 100


def test_decompositions_are_those_of_the_weights_as_matrices():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)).double()
    for layer, weight in zip(decomposed_layers(net), (net[0].weight.flatten(1), net[2].weight), strict=True):
        assert off(layer.U * layer.s @ layer.Vh, weight) <= SAME
        assert layer.dense == weight.numel()
        assert [layer.cost(r) for r in (1, 100)] == [sum(weight.shape), weight.numel()]
        rest = weight.detach() - layer.U[:, :2] * layer.s[:2] @ layer.Vh[:2]
        assert layer.error(2) == pytest.approx(float((rest.norm() / weight.norm()).detach()), rel=SAME)
        assert layer.truncated(len(layer.s)) is None


def test_a_weight_of_zeros_has_no_error_and_its_rank_is_one():
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    [found] = decomposed_layers(layer)
    assert (found.name, found.error(1)) == ("", 0.0)
    assert not found.truncated(1).weight.any()


def test_subclasses_are_not_decomposed():
    class Own(nn.Linear):
        pass

    assert list(decomposed_layers(nn.Sequential(Own(4, 4)))) == []
