"""Named random streams. Each use of random numbers has its own stream, derived from a seed and the name of the use.

No function of the package changes the state of torch's global generator.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import Tensor


def check_seed(seed: int) -> int:
    """Return a seed as an int, after checking that it is an integer.

    Args:
        seed: the seed, an integer of Python or numpy; a bool is not accepted.

    Raises:
        TypeError: if it is anything else, such as None, which would make a run that cannot be repeated.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed is {seed!r}, a {type(seed).__name__}; pass an integer, so that the run can be repeated")
    return int(seed)


def derive(seed: int, name: str) -> int:
    """Return a seed for the stream `name`, from 0 to 2^63 - 1. Streams of different names are independent.

    Equal arguments always give equal seeds.

    Args:
        seed: the seed that the user gave.
        name: name of the stream of random numbers: what these are used for.

    >>> derive(0, "noise") == derive(0, "noise"), derive(0, "noise") == derive(0, "split")
    (True, False)
    """
    digest = hashlib.blake2b(f"{check_seed(seed)}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, name: str) -> torch.Generator:
    """Return a new generator on the CPU, at the beginning of the stream of random numbers called `name`.

    Numbers for other devices are drawn on the CPU too and then moved, so that all devices get equal numbers.

    Args:
        seed: the seed that the user gave.
        name: name of the stream.
    """
    return torch.Generator().manual_seed(derive(seed, name))


def normals(shapes: Iterable[Sequence[int]], seed: int, name: str) -> list[Tensor]:
    """Return standard normal float64 tensors of given shapes, drawn one after the other from one stream.

    Args:
        shapes: one shape per tensor, in the order in which the tensors are drawn and returned.
        seed: the seed that the user gave.
        name: name of the stream.
    """
    generator = stream(seed, name)
    return [torch.randn(tuple(shape), generator=generator, dtype=torch.float64) for shape in shapes]


@contextmanager
def initial_values(seed: int, name: str) -> Iterator[None]:
    """Initialize the modules that are built inside this context from the stream `name`.

    Modules of torch draw their initial values from the global generator. It is seeded from the stream inside the
    context, and has its old state again afterwards.

    Args:
        seed: the seed that the user gave.
        name: name of the stream.

    Yields:
        Nothing.

    >>> import torch
    >>> with initial_values(0, "a layer"):
    ...     one = torch.nn.Linear(2, 2)
    >>> with initial_values(0, "a layer"):
    ...     other = torch.nn.Linear(2, 2)
    >>> torch.equal(one.weight, other.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(derive(seed, name))
        yield
