"""Addition modulo a number, learned by one layer of attention and one hidden layer: several layers side by side."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ranklens import seeds


@dataclass(frozen=True)
class Sizes:
    """Sizes of the task and of the network.

    A pair of numbers (a, b) is a sequence of two tokens. The second token attends to both, heads add to its embedding,
    a hidden layer of rectified linear units adds to the sum, and the answer (a + b) mod `modulus` is read from that. No
    layer is normalized, as in published networks that are taken apart for this task. The second token asks, so that
    scores depend on both numbers, and the product of query and key is used in all its rows.

    Attributes:
        modulus: number of different tokens, and of answers.
        width: size of an embedding.
        heads: number of heads.
        head_size: rows of every weight of a head.
        hidden: number of hidden units.
    """

    modulus: int
    width: int
    heads: int
    head_size: int
    hidden: int


def divided(modulus: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of the training set and those of the test set; the pair (a, b) is the number a modulus + b.

    Args:
        modulus: number of different tokens.
        share: share of all pairs that are trained on.
        seed: seed of the choice.

    >>> train, test = divided(5, 0.6, seed=0)
    >>> len(train), sorted([*train.tolist(), *test.tolist()]) == list(range(25))
    (15, True)
    """
    shuffled = torch.randperm(modulus**2, generator=seeds.stream(seed, "pairs of a modular addition"))
    count = round(share * modulus**2)
    return shuffled[:count], shuffled[count:]


def answers(pairs: Tensor, modulus: int) -> Tensor:
    """Return (a + b) mod modulus of every pair.

    >>> answers(torch.tensor([5 * 3 + 4]), 5).tolist()  # 3 + 4 = 7
    [2]
    """
    return (pairs // modulus + pairs % modulus) % modulus


def initial(sizes: Sizes, small: float, seed: int) -> dict[str, Tensor]:
    """Return initial parameters: normal numbers that keep the size of what each layer computes, and zero biases.

    Args:
        sizes: sizes of the network.
        small: factor of the four weights of attention.
        seed: seed of the normal numbers, which do not depend on `small`.

    Returns:
        {name: tensor}; "query", "key", "value" and "output" are the weights of attention, (heads, head_size, width).
    """
    p, d, hidden = sizes.modulus, sizes.width, sizes.hidden
    head = (sizes.heads, sizes.head_size, d)
    shapes = {"embedding": (p, d), "position": (2, d), "query": head, "key": head, "value": head, "output": head}
    shapes |= {"hidden": (d, hidden), "back": (hidden, d), "answer": (d, p)}
    drawn = seeds.normals(shapes.values(), seed, "modular addition")
    found = {
        name: value / math.sqrt(hidden if name == "back" else d) for name, value in zip(shapes, drawn, strict=True)
    }
    for name in ("query", "key", "value", "output"):
        found[name] *= small
    return {name: value.float() for name, value in (found | {"bias": torch.zeros(1, hidden)}).items()}


def logits(parameters: Mapping[str, Tensor], pairs: Tensor) -> Tensor:
    """Return the logits of several networks, each on pairs of its own.

    Scores and what heads add are computed for all pairs at once, from one row per number.

    Args:
        parameters: those of `initial`, each with a leading dimension (networks, ...).
        pairs: (networks, examples) numbers of pairs.

    Returns:
        (networks, examples, modulus).
    """
    first, second = (parameters["embedding"] + parameters["position"][:, k : k + 1] for k in (0, 1))
    asked = torch.einsum("mpd,mhkd->mhpk", second, parameters["query"])
    keys = [torch.einsum("mpd,mhkd->mhpk", token, parameters["key"]) for token in (first, second)]
    adds = [
        torch.einsum("mpd,mhkd->mhpk", token, parameters["value"]) @ parameters["output"] for token in (first, second)
    ]
    to_first = keys[0] @ asked.mT  # (networks, heads, a, b)
    to_second = (keys[1] * asked).sum(-1)[:, :, None]  # (networks, heads, 1, b)
    weight = torch.sigmoid((to_first - to_second) / math.sqrt(asked.shape[-1]))
    stream = second[:, None] + torch.einsum("mhab,mhad->mabd", weight, adds[0])
    stream = (stream + torch.einsum("mhab,mhbd->mabd", 1 - weight, adds[1])).flatten(1, 2)
    chosen = stream.gather(1, pairs[..., None].expand(-1, -1, stream.shape[-1]))
    active = torch.relu(chosen @ parameters["hidden"] + parameters["bias"])
    return (chosen + active @ parameters["back"]) @ parameters["answer"]


def fit(parameters: Mapping[str, Tensor], pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy and the accuracy of several networks, each on pairs of its own.

    Args:
        parameters: those of `initial`, each with a leading dimension (networks, ...).
        pairs: (networks, examples) numbers of pairs.

    Returns:
        Two tensors of shape (networks,).
    """
    found, wanted = logits(parameters, pairs), answers(pairs, parameters["embedding"].shape[1])
    losses = nn.functional.cross_entropy(found.flatten(0, 1), wanted.flatten(), reduction="none")
    return losses.reshape(wanted.shape).mean(1), (found.argmax(-1) == wanted).float().mean(1)
