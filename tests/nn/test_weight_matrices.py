"""Weights of every kind as matrices, and the reasons why other tensors are none."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import ranklens as rl
from ranklens.nn.weight_matrices import Skipped, matrices, weight_matrices

pytestmark = pytest.mark.usefixtures("initial_values")


def told(weights):
    """{name: shape or reason}"""
    return {x.name: x.reason if isinstance(x, Skipped) else x.shape for x in matrices(weights)}


def test_more_than_two_axes():
    made = {
        "conv.weight": torch.ones(4, 3, 2),
        "conv2.weight": torch.ones(4, 3, 2, 2),
        "pos_embed": torch.ones(1, 50, 16),
        "cls_token": torch.ones(1, 1, 16),
        "bias_table": torch.ones(1, 8, 5, 5),
        "other": torch.ones(4, 3, 2, 2),
        "kernel.weight_v": torch.ones(4, 3, 2),
    }
    assert told(made) == {
        "conv.weight": (4, 6),
        "conv2.weight": (4, 12),
        "pos_embed": (50, 16),
        "cls_token": (1, 16),
        "bias_table": (8, 25),
        "other": (4, 12),
        "kernel.weight_v": (4, 6),
    }


@pytest.mark.parametrize(
    "name", ["mlp.experts.gate_up_proj", "layers.0.experts.weight", "block_sparse_moe.input_linear.weight", "w1"]
)
def test_experts_come_one_by_one(name):
    stack = torch.stack([k * torch.eye(3, 5) for k in (1.0, 2.0)])
    found = list(matrices({name: stack}))
    assert [x.name for x in found] == [f"{name}[0]", f"{name}[1]"]
    assert all(torch.equal(x.left, stack[k]) and x.stack == name for k, x in enumerate(found))


def test_tensors_that_are_no_weights_are_named_with_the_reason():
    quantized = {
        "q.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "q.weight_scale_inv": torch.ones(2, 2),
        "plain.weight": torch.ones(4, 4).to(torch.float8_e5m2),
        "g.qweight": torch.ones(4, 4, dtype=torch.int32),
        "g.scales": torch.ones(4, 2),
    }
    made = {
        "int8": torch.ones(3, 3, dtype=torch.int8),
        "complex": torch.ones(3, 3, dtype=torch.complex64),
        "empty": torch.ones(0, 3),
        "bias": torch.ones(3),
        "meta": torch.empty(3, 3, device="meta"),
        "sparse": torch.eye(3).to_sparse(),
        "spread": torch.ones(1).expand(60000, 60000),
        "text": "abc",
        "objects": np.array([[None]]),
        "array": np.ones((2, 3)),
        "lazy": nn.LazyLinear(3).weight,
        **quantized,
    }
    reasons = told(made)
    expected = {
        "int8": "has entries of torch.int8",
        "complex": "has complex entries",
        "empty": "has no entries",
        "bias": "has fewer than two axes",
        "meta": "is on the meta device",
        "sparse": "is stored as torch.sparse_coo",
        "spread": "repeats its stored numbers",
        "text": "is of type str",
        "objects": "is of type ndarray",
        "lazy": "is not initialized",
        "q.weight": "has 8-bit entries whose scales are in 'q.weight_scale_inv'",
        "q.weight_scale_inv": "holds scales",
        "g.qweight": "has entries of torch.int32",
        "g.scales": "holds scales",
    }
    assert {name: str(reasons[name])[: len(text)] for name, text in expected.items()} == expected
    assert reasons["array"] == (2, 3)
    assert reasons["plain.weight"] == (4, 4)


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no 4-bit numbers")
def test_packed_numbers_are_not_guessed():
    packed = torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert "packs two 4-bit numbers" in str(told({"w": packed})["w"])


def test_tensors_are_read_one_after_the_other():
    read = []

    class Reading(dict):
        def __getitem__(self, name):
            read.append(name)
            return torch.ones(2, 2)

    stream = matrices(Reading.fromkeys("abc"))
    for name in "abc":
        read.clear()
        next(stream)
        assert set(read) - {"a"} == {name} - {"a"}  # the check of types looks at the first tensor at every call


def test_modules_give_their_weights_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv1d(2, 3, 2), nn.Embedding(4, 3))
    model[1].weight = model[0].weight
    assert [name for name, _ in weight_matrices(model)] == ["0.weight", "2.weight", "3.weight"]
    deep = rl.nn.overparameterize(model)
    assert [name for name, _ in weight_matrices(deep)] == ["0.weight", "2.weight", "3.weight"]
    pruned = nn.Sequential(prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5))
    ((name, weight),) = weight_matrices(pruned)
    assert name == "0.weight"
    assert torch.equal(weight, pruned[0].weight.detach())
