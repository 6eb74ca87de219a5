"""The small networks have the stated layers, see disjoint and standardized images, and train repeatably."""

import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens import seeds
from ranklens.training import networks


@pytest.fixture(scope="module")
def digits():
    return networks.split("digits", 200, 50, seed=3)


def test_parts_are_disjoint_and_standardized_alike(digits):
    loaded = rl.data.images("digits")
    whole = loaded.train.images.float()
    expected = (whole - whole.mean()) / whole.std()
    order = torch.randperm(1200, generator=seeds.stream(3, "images of networks"))
    for part, rows in ((digits.train, order[:200]), (digits.validation, order[200:250])):
        assert torch.equal(part[0][:, 0], expected[rows])
        assert torch.equal(part[1], loaded.train.labels[rows])
    assert digits.test[0].shape == (597, 1, 8, 8)
    assert torch.equal(digits.test[1], loaded.test.labels)


@pytest.mark.parametrize(("side", "pools", "flat"), [(8, 2, 2), (28, 3, 3), (32, 3, 4), (3, 0, 3)])
def test_networks_are_pooled_while_there_are_four_pixels(side, pools, flat):
    model = networks.cnn(side, 2, seed=0)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in model) == pools
    assert model[-1].in_features == 64 * flat**2
    assert model(torch.zeros(5, 2, side, side)).shape == (5, 10)


def test_training_repeats_and_follows_its_seed(digits):
    schedule = networks.Schedule(steps=5, batch_size=8, lr=0.05, every=5)
    found = []
    for seed in (0, 0, 1):
        model = networks.cnn(8, 1, seed=0)
        assert networks.fit(model, digits, schedule, seed) == 5
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_training_learns_the_digits(digits):
    """From 10% by chance to most of the images, within 150 steps."""
    model, watched = networks.cnn(8, 1, seed=0), []
    schedule = networks.Schedule(steps=150, batch_size=32, lr=0.05, every=100)
    networks.fit(model, digits, schedule, 0, watched.append)
    assert watched == [0, 100, 150]
    assert networks.accuracy(model, digits.test) > 0.6
    assert networks.accuracy(model, digits.train) > 0.9


def test_accuracy_counts_all_images_in_parts(monkeypatch):
    """A model that answers with a pixel's value: two of five images carry their class; the last part is smaller."""

    class Reader(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(x, 6)

    monkeypatch.setattr(networks, "AT_ONCE", 2)
    x, y = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 0, 0, 4, 0])
    assert networks.accuracy(Reader(), (x, y)) == 2 / 5


def test_a_network_of_columns_sees_rows_as_channels(tolerance):
    """Its first convolution, written out: each output sums over rows, channels and three columns."""
    model = networks.column_cnn(2, 3, seed=1)
    kernels = [layer for layer in model if isinstance(layer, nn.Conv1d)]
    assert [(k.in_channels, k.out_channels, k.stride[0]) for k in kernels] == [
        (6 if n == 0 else 32, 32, stride) for n, stride in enumerate((2, 2, 2, 1, 1, 1))
    ]
    x = torch.randn(4, 2, 3, 16, generator=seeds.stream(0, "images of a test"))
    padded = nn.functional.pad(x, (1, 1))
    first, weight = model[1](model[0](x)), kernels[0].weight.reshape(32, 2, 3, 3)
    for column in range(8):
        window = padded[..., 2 * column : 2 * column + 3]
        expected = torch.einsum("bcrk,ocrk->bo", window, weight) + kernels[0].bias
        assert torch.allclose(first[..., column], expected, rtol=0, atol=tolerance["float32"])
    assert model(x).shape == (4, 1)
    again = networks.column_cnn(2, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_dropout_is_put_before_the_last_layer():
    model = networks.column_cnn(1, 8, seed=0)
    assert networks.with_dropout(model, 0.0) is model
    dropped = networks.with_dropout(model, 0.5)
    assert isinstance(dropped[-2], nn.Dropout)
    assert dropped[-1] is model[-1]
    x = torch.randn(6, 1, 8, 32, generator=seeds.stream(0, "images of a test"))
    assert torch.equal(dropped.eval()(x), model.eval()(x))
