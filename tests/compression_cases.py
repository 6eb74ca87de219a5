"""Architectures that are compressed in tests, each with an input."""

import torch
from layer_cases import batch
from torch import nn

from ranklens.nn.resnet import ResidualBlock


class Encoder(nn.Module):
    """Words, an encoder with attention, and a head that is tied to the words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(self.encoder(self.words(ids)))


class Recurrent(nn.Module):
    """Bags of words, a recurrent layer, and a shared layer."""

    def __init__(self):
        super().__init__()
        self.bag, self.recurrent = nn.EmbeddingBag(30, 16), nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 16)
        self.again = self.out

    def forward(self, ids):
        return self.again(self.out(self.recurrent(self.bag(ids)[None])[0]))


def convolutions():
    grouped = nn.Conv2d(16, 32, 3, groups=4, bias=False)
    up = nn.ConvTranspose2d(32, 16, 3, stride=2, groups=2)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), grouped, up, *tail)


def residual():
    blocks = [ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 9)
    )


def normed():
    old = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
    return nn.Sequential(old, nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 16))


IDS = torch.arange(24).reshape(4, 6)
MODELS = {
    "convolutions": (convolutions, batch(6, 3, 8, 8).float()),
    "residual": (residual, batch(6, 3, 8, 8).float()),
    "encoder": (Encoder, IDS),
    "recurrent": (Recurrent, IDS),
    "normed": (normed, batch(20, 16).float()),
    "attention": (lambda: Several(nn.MultiheadAttention(16, 2)), batch(5, 2, 16).float()),
    "half": (lambda: nn.Sequential(nn.Linear(16, 16)).bfloat16(), batch(5, 16).bfloat16()),
}


class Several(nn.Module):
    """A model that passes one input as query, key and value."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x, x)[0]
