"""Text that Python ships, as samples of characters, and a small convolutional network that predicts the next one."""

import pydoc_data.topics
import re
import string

import torch
from torch import Tensor, nn

from ranklens import seeds
from ranklens.training.networks import ImageSplit

# Characters that are told apart: letters without case, and the space, which stands for all white space. Every other
# character is the last one.
ALPHABET = f"{string.ascii_lowercase} *"
# Number of characters from which the next one is predicted.
CONTEXT = 16
# Share of the text, from its beginning, that training and validation samples are taken from.
TRAINED = 0.8
# Output channels of the three convolutions. The second and third have stride 2.
CHANNELS = (32, 64, 64)
# Number of test samples.
TESTED = 2000


def manual() -> str:
    """Return the manual of the Python language that Python ships, in the characters of `ALPHABET`.

    >>> text = manual()
    >>> set(text) == set(ALPHABET), len(text) > 300_000
    (True, True)
    """
    topics = pydoc_data.topics.topics
    text = " ".join(str(topics[name]).lower() for name in sorted(topics))
    return re.sub("[^a-z ]", ALPHABET[-1], re.sub(r"\s+", " ", text))


def split(train: int, validation: int, seed: int) -> ImageSplit:
    """Return samples of text for training, validation and the final test.

    A sample is CONTEXT characters, as float32 indicators of shape (characters, CONTEXT) whose entries have mean square
    1. Its class is the position in ALPHABET of the character that follows. Test samples are from the last fifth of the
    text.

    Args:
        train: number of training samples.
        validation: number of validation samples.
        seed: seed of the selection. The test samples do not depend on it.
    """
    positions = torch.zeros(128, dtype=torch.int64)
    positions[[ord(character) for character in ALPHABET]] = torch.arange(len(ALPHABET))
    codes = positions[torch.tensor(list(manual().encode("ascii")))]
    border = int(TRAINED * len(codes))
    places = torch.randperm(border - CONTEXT, generator=seeds.stream(seed, "samples of text"))
    last = torch.linspace(border, len(codes) - CONTEXT - 1, TESTED).long()

    def part(starts: Tensor) -> tuple[Tensor, Tensor]:
        rows = codes[starts[:, None] + torch.arange(CONTEXT + 1)]
        indicators = nn.functional.one_hot(rows[:, :-1], len(ALPHABET)).mT.float()
        return indicators * len(ALPHABET) ** 0.5, rows[:, -1]

    return ImageSplit(part(places[:train]), part(places[train : train + validation]), part(last))


def text_cnn(seed: int) -> nn.Sequential:
    """Return an untrained network that maps samples of text to one logit per character: three convolutions with ReLU.

    Args:
        seed: seed of the initial values.

    >>> import torch
    >>> text_cnn(seed=0)(torch.zeros(5, len(ALPHABET), CONTEXT)).shape
    torch.Size([5, 28])
    """
    with seeds.initial_values(seed, "network"):
        layers: list[nn.Module] = []
        into, length = len(ALPHABET), CONTEXT
        for out, stride in zip(CHANNELS, (1, 2, 2), strict=True):
            layers += [nn.Conv1d(into, out, 3, stride, padding=1), nn.ReLU()]
            into, length = out, length // stride
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(into * length, len(ALPHABET)))
