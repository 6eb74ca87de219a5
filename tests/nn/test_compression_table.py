"""Rows of the table of a compression."""

import pytest
import torch
from layer_cases import batch
from torch import nn

import ranklens as rl
from ranklens.nn.compression_table import parameters, relative_error

pytestmark = pytest.mark.usefixtures("initial_values")


def test_every_layer_with_weights_has_a_row():
    layers = [nn.Embedding(9, 8), nn.LSTM(8, 8), nn.Bilinear(8, 8, 1), nn.Linear(8, 8), nn.Linear(8, 2), nn.PReLU()]
    table = rl.nn.compress(nn.Sequential(*layers), rank=3).table
    rows = table.to_dataframe()
    assert list(rows.index) == ["3", "4", "0", "1", "2"]
    assert rows["shape"].tolist() == ["8 x 8", "2 x 8", "9 x 8", "32 x 8, 32 x 8", "1 x 8 x 8"]
    assert rows["rank"].tolist() == [8, 2, 8, 8, 1]
    assert rows["rank_kept"].tolist() == [3, 2, 8, 8, 1]
    assert rows["parameters"].tolist() == [64, 16, 72, 512, 64]
    assert rows["parameters_kept"].tolist() == [48, 16, 72, 512, 64]
    assert [bool(reason) for reason in rows["reason"]] == [False, True, True, True, True]
    assert (rows["error"] > 0).tolist() == [True, False, False, False, False]


def test_a_model_without_weights_has_an_empty_table():
    table = rl.nn.compress(nn.ReLU(), rank=1).table
    assert table.sizes["layer"] == 0
    assert table.attrs == {"model_parameters": 0, "model_parameters_kept": 0}


def test_a_bias_that_a_cut_adds_is_counted():
    layer, x = nn.Linear(12, 12, bias=False).double(), batch(50, 12) + 1
    found = rl.nn.compress(layer, rank=3, data=x)
    assert int(found.table.parameters_kept[0]) == 3 * 24 + 12 == parameters(found.model)
    assert found.model.bias is not None
    weight = (found.model.weight - layer.weight).norm() / layer.weight.norm()
    assert float(found.table.error[0]) == pytest.approx(float(weight.detach()))
    assert rl.nn.compress(layer, rank=3).model.bias is None


def test_errors_of_zeros_are_zero():
    assert relative_error(torch.ones(3), torch.zeros(3)) == 0
    assert relative_error(torch.ones(4), 2 * torch.ones(4)) == 0.5
