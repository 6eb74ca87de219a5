"""Logits are found in every form that models give them in, and other outputs are refused with a reason."""

from types import SimpleNamespace

import pytest
import torch

import ranklens as rl
from ranklens import seeds
from ranklens.nn.logits import logits


def images(count, *shape):
    return torch.randn(count, *shape, generator=seeds.stream(0, "images of a test"), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_form_has_one_row_per_sample(shape, wrapped):
    values = images(*shape)
    found = logits(SimpleNamespace(logits=values) if wrapped else values, 4)
    assert torch.equal(found, values.reshape(4, -1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_they_are_in_single_precision_at_least(given, expected):
    values = torch.tensor([[1.5], [-0.25]], dtype=given)  # exact in all of them
    found = logits(values, 2)
    assert found.dtype == expected
    assert found.tolist() == [[1.5], [-0.25]]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x: x, ValueError, r"a tensor of shape \(4, 2, 5, 6\) for 4 samples"),
        (lambda x: x.sum(), ValueError, r"shape \(\) for 4 samples"),
        (lambda x: x.mean(0, keepdim=True).flatten(1), ValueError, r"shape \(1, 60\) for 4 samples"),
        (lambda x: (x.sum((1, 2, 3)),), TypeError, "the model gives tuple; wrap it"),
        (lambda x: x.sum((1, 2, 3)).long(), TypeError, "the model gives torch.int64; wrap it"),
    ],
)
def test_outputs_that_are_no_logits_are_named(wrong, error, message):
    x, box = images(4, 2, 5, 6), (0, 0, 2, 2)
    with pytest.raises(error, match=message):
        rl.nn.locality_penalty(wrong, x, patches=(box, (3, 3, 2, 2)))
    message = message.replace("4 samples", "16 samples").replace("4, 2", "16, 2")
    with pytest.raises(error, match=message):
        rl.nn.separation_rank(wrong, x, box)
