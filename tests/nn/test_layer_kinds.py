"""Layers as matrices on rows, for every kind and option, and classes that are registered."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn
from torch.nn.utils import prune

import ranklens as rl
from ranklens.nn import layer_kinds
from ranklens.nn.layer_kinds import (
    as_weight,
    groups,
    in_parts,
    input_rows,
    is_transposed,
    matrices,
    output_rows,
    plain_form,
    positions,
)

pytestmark = pytest.mark.usefixtures("initial_values")

KINDS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "vector": (lambda: nn.Linear(6, 5), (6,)),
    "strided": (lambda: nn.Conv1d(6, 4, 3, stride=2, padding=1), (2, 6, 9)),
    "dilated": (lambda: nn.Conv2d(6, 4, (3, 2), dilation=(2, 1), padding=(1, 2), groups=2), (2, 6, 7, 8)),
    "same": (lambda: nn.Conv2d(6, 4, 4, padding="same", padding_mode="circular"), (2, 6, 7, 8)),
    "reflected": (lambda: nn.Conv1d(6, 4, 3, padding=2, padding_mode="reflect", bias=False), (2, 6, 9)),
    "single": (lambda: nn.Conv1d(6, 4, 3, padding="valid"), (6, 9)),
    "volume": (lambda: nn.Conv3d(4, 6, (1, 3, 2), padding=(0, 1, 1)), (1, 4, 3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(6, 4, 3, stride=3, padding=1), (2, 6, 9)),
    "transposed far": (lambda: nn.ConvTranspose1d(6, 4, 2, stride=1, padding=3), (2, 6, 9)),
    "transposed groups": (
        lambda: nn.ConvTranspose2d(6, 4, (3, 2), stride=2, padding=1, output_padding=1, dilation=(2, 3), groups=2),
        (2, 6, 5, 4),
    ),
    "transposed volume": (lambda: nn.ConvTranspose3d(4, 3, 2, stride=(1, 2, 3)), (1, 4, 3, 2, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_times_matrices_are_the_output(kind):
    make, shape = KINDS[kind]
    layer, x = make().double(), batch(*shape)
    y = layer(x)
    found = input_rows(layer, x, y) @ matrices(layer).mT
    if layer.bias is not None:
        found = found + layer.bias.reshape(groups(layer), 1, -1)
    assert off(found, output_rows(layer, y)) <= SAME
    assert torch.equal(as_weight(layer, matrices(layer)), layer.weight)
    assert positions(layer, y) == found.shape[1]


def test_the_size_of_a_transposed_output_may_be_asked_for():
    layer, x = nn.ConvTranspose1d(6, 4, 3, stride=3).double(), batch(2, 6, 5)
    y = layer(x, output_size=(17,))
    rows = input_rows(layer, x, y) @ matrices(layer).mT + layer.bias
    assert off(rows, output_rows(layer, y)) <= SAME


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_parts_are_all_rows(kind, monkeypatch):
    make, shape = KINDS[kind]
    layer, x = make().double(), batch(*shape)
    y = layer(x)
    monkeypatch.setattr(layer_kinds, "MOST_ENTRIES", 1)
    parts = list(in_parts(layer, x, y))
    assert len(parts) == (len(x) if kind not in ("linear", "vector", "single") else 1)
    rows = torch.cat([input_rows(layer, part, out) for part, out in parts], 1)
    assert torch.equal(rows, input_rows(layer, x, y))
    assert torch.equal(torch.cat([output_rows(layer, out) for _, out in parts], 1), output_rows(layer, y))


class Own(nn.Linear):
    """A subclass whose forward is that of its base."""


class Doubled(nn.Module):
    """A layer of its own kind: twice a matrix times the input."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(batch(size, size))

    def forward(self, x):
        return 2 * x @ self.weight


class Conv1D(nn.Module):
    """A layer that stores its weight transposed, with the name and attributes of a class of transformers."""

    def __init__(self, out, into):
        super().__init__()
        self.nf = out
        self.weight, self.bias = nn.Parameter(batch(into, out)), nn.Parameter(batch(out))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


def test_transposed_linear_layers_are_cut():
    net, x = nn.Sequential(Conv1D(24, 16), nn.GELU(), Conv1D(16, 24)), batch(50, 16)
    whole = rl.nn.compress(net, rank=16, data=x)
    assert whole.table.attrs["output_error"] == 0
    small = rl.nn.compress(net, rank=3, data=x)
    assert small.table.rank_kept.values.tolist() == [3, 3]
    assert small.model[0].weight.shape == net[0].weight.shape
    assert off(torch.addmm(small.model[0].bias, x, small.model[0].weight), small.model[0](x)) <= SAME
    assert small.table.shape.values.tolist() == ["16 x 24", "24 x 16"]
    assert is_transposed(net[0])
    assert not is_transposed(nn.Linear(3, 3))


def test_classes_are_cut_once_they_are_registered(monkeypatch):
    monkeypatch.setattr("ranklens.nn.layer_kinds._registered", {})
    net = nn.Sequential(Own(20, 20), Doubled(20)).double()
    before = rl.nn.compress(net, rank=2).table
    assert "rl.nn.register_layer(Own)" in str(before.reason[0].item())
    assert "layers of class Doubled are not cut" in str(before.reason[1].item())
    assert before.rank_kept.values.tolist() == [20, 20]
    assert rl.nn.register_layer(Own) is Own

    def plain(layer):
        made = nn.Linear(20, 20, bias=False)
        made.weight = nn.Parameter(2 * layer.weight.detach().T)
        return made

    rl.nn.register_layer(Doubled, plain)
    assert plain_form(net[0]).weight is net[0].weight
    x = batch(30, 20)
    small = rl.nn.compress(net, rank=9, data=x[:, :9] @ batch(9, 20))
    assert not small.table.reason.values.any()
    assert small.table.attrs["output_error"] <= SAME
    with pytest.raises(TypeError, match="no subclass of a layer of torch"):
        rl.nn.register_layer(Doubled)
    rl.nn.register_layer(Doubled, lambda layer: layer)
    with pytest.raises(TypeError, match="registered for Doubled returned a Doubled"):
        plain_form(net[1])


def test_weights_that_something_computes_are_named():
    kinds = [nn.Linear(8, 8) for _ in range(4)]
    nn.utils.parametrizations.weight_norm(kinds[0])
    prune.l1_unstructured(kinds[1], "weight", 0.5)
    kinds[2].register_parameter("weight", nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False))
    net = nn.Sequential(*kinds)
    reasons = rl.nn.compress(net, rank=1).table.reason.values
    assert "parametrized" in reasons[[str(x).startswith("its weight is param") for x in reasons]][0]
    by_name = dict(zip(rl.nn.compress(net, rank=1).table.layer.values, reasons, strict=True))
    assert "hook computes its weight" in by_name["1"]
    assert by_name["2"] == "its weight is of dtype int8"
    assert by_name["3"] == ""


def test_a_subclass_with_a_quantized_weight_is_not_offered_for_registration():
    class Linear4bit(nn.Linear):
        pass

    layer = Linear4bit(8, 8)
    layer.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    assert rl.nn.compress(nn.Sequential(layer), rank=1).table.reason.item() == "its weight is of dtype uint8"


def test_layers_that_wait_for_their_first_batch_are_named():
    with pytest.raises(ValueError, match="layer '1' of the model is not initialized"):
        rl.nn.compress(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)), rank=1)


def test_layers_without_entries_are_kept_and_named():
    empty = nn.Linear(16, 1, bias=False)  # a layer with no outputs warns when it is initialized
    empty.out_features, empty.weight = 0, nn.Parameter(torch.empty(0, 16))
    model = nn.Sequential(nn.Linear(16, 16), empty)
    table = rl.nn.compress(model, rank=2).table
    assert table.sel(layer="1").reason.item() == "its weight has no entries"
    assert table.sel(layer="0").rank_kept.item() == 2
