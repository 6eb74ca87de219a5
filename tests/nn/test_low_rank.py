"""Two layers against the single layer with the truncated weight."""

import pytest
import torch
from layer_cases import SAME, batch, off, truncated
from torch import nn

import ranklens as rl
from ranklens.nn.low_rank import low_rank

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(20, 16), (3, 20)),
        (lambda: nn.Linear(20, 16, bias=False), (3, 20)),
        (lambda: nn.Conv1d(6, 16, 3, stride=2, padding=1), (2, 6, 9)),
        (lambda: nn.Conv2d(6, 16, 3, dilation=2, padding="same", padding_mode="circular"), (2, 6, 7, 8)),
        (lambda: nn.Conv3d(4, 16, (1, 3, 2), padding=(0, 1, 1)), (1, 4, 3, 4, 5)),
    ],
)
def test_two_layers_are_the_truncated_one(make, shape):
    layer, x = make().double(), batch(*shape)
    small = rl.nn.compress(layer, rank=3).model
    assert isinstance(small, nn.Sequential)
    with torch.no_grad():
        layer.weight.copy_(truncated(layer.weight, 3))
    assert off(small(x), layer(x)) <= SAME


def test_cut_layers_answer_for_the_ones_that_they_replace(tolerance):
    """PyTorch's transformer layers read weight and bias of their layers, in training and in evaluation mode."""
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).double().eval()
    x = torch.linspace(-1, 1, 96, dtype=torch.float64).sin().reshape(2, 3, 16)
    whole = rl.nn.compress(layer, rank=12, batch=x)
    small = whole.model
    assert isinstance(small.linear1, nn.Sequential)
    assert (small.linear1.in_features, small.linear1.out_features) == (16, 64)
    assert off(small.linear1.weight @ x[0].T, small.linear1[1].weight @ small.linear1[0](x[0]).T) <= SAME
    with torch.no_grad():
        fast = small(x)
    assert off(fast, small(x)) <= SAME
    conv = rl.nn.compress(nn.Conv2d(8, 8, 3, padding=1).double(), rank=2).model
    image = torch.ones(1, 8, 5, 5, dtype=torch.float64)
    again = nn.functional.conv2d(image, conv.weight, conv.bias, padding=1)
    assert off(again, conv(image)) <= SAME


def test_frozen_biases_stay_frozen_and_named_arguments_are_passed():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(20, 20)
            self.f.bias.requires_grad_(False)

        def forward(self, x):
            return self.f(input=x)

    small = rl.nn.compress(Named(), rank=2, batch=torch.ones(2, 20))
    assert not small.model.f.bias.requires_grad
    assert small.model.f[1].weight.requires_grad


def test_a_size_of_the_output_is_passed_by_name():
    class Upsampling(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(12, 9, 3, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(10, 10))

    model, x = Upsampling(), batch(2, 12, 4, 4).float()
    small = rl.nn.compress(model, rank=2, data=x)
    assert small.model(x).shape == (2, 9, 10, 10)
    assert small.table.rank_kept.item() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_options_of_the_layer_are_taken_over(dtype):
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False, dtype=dtype).eval()
    pair = low_rank(layer, first=torch.ones(2, 36), last=torch.ones(6, 2))
    assert not pair.training
    assert pair.weight.dtype == dtype
    assert torch.equal(pair.weight, torch.full((6, 4, 3, 3), 2.0, dtype=dtype))
    assert pair.bias is None
    assert (pair.in_channels, pair.out_channels, hasattr(pair, "in_features")) == (4, 6, False)
    assert all(p.requires_grad for p in pair.parameters())
    assert low_rank(layer.requires_grad_(False), torch.ones(1, 36), torch.ones(6, 1))[0].weight.requires_grad is False
