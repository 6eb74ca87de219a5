"""Named random streams: every consumer derives its own from (seed, its name), and none touches the global generator."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def check_seed(seed: int) -> int:
    """Return `seed` if it can seed a stream, else say what is wrong with it."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}, a {type(seed).__name__}; pass an integer, so that the run can be repeated")
    return seed


def derive(seed: int, name: str) -> int:
    """A 63-bit seed for the consumer called `name`: equal seeds of unlike consumers give unlike numbers."""
    digest = hashlib.blake2b(f"{check_seed(seed)}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, name: str) -> torch.Generator:
    """A CPU generator for the consumer called `name`; devices get numbers drawn here, so that they agree."""
    return torch.Generator().manual_seed(derive(seed, name))


def normals(shapes: Iterable[Sequence[int]], seed: int, name: str) -> list[Tensor]:
    """One standard normal float64 tensor per shape, drawn one after the other from a single stream."""
    generator = stream(seed, name)
    return [torch.randn(tuple(shape), generator=generator, dtype=torch.float64) for shape in shapes]


@contextmanager
def initial_values(seed: int, name: str) -> Iterator[None]:
    """Modules made inside draw theirs from a stream of their own; the global generator, which they use, is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(derive(seed, name))
        yield
