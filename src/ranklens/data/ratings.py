"""Ratings of items by users: a matrix of which a few entries are known."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ranklens.data import install

NAMES = ("ml-100k",)


@dataclass(frozen=True)
class Ratings:
    """Known entries of a matrix (users, items), in the order of user and item.

    Attributes:
        users: (n,) rows, from 0.
        items: (n,) columns, from 0.
        values: (n,) ratings.
        times: (n,) when, in seconds since 1970.
        shape: numbers of users and of items.
    """

    users: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    values: Float64[Tensor, "n"]
    times: Int64[Tensor, "n"]
    shape: tuple[int, int]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def indices(self) -> Int64[Tensor, "n 2"]:
        """User and item of every rating: what `Completion` takes."""
        return torch.stack([self.users, self.items], dim=1)


def ratings(name: str = "ml-100k") -> Ratings:
    """A data set of ratings, checked by its content. The network is not used: `fetch` fetches.

    Args:
        name: "ml-100k": 100,000 ratings, 1 to 5, of 1,682 films by 943 users. Its own ``u.data`` and RecBole's
            ``ml-100k.inter`` hold the same rows; they are sorted, so that both give the same tensors, and held to the
            same hash.

    Returns:
        The ratings; users and items are numbered from 0, one less than in the files.

    Raises:
        ValueError: for a name that is none, or a file that is damaged or foreign.
        FileNotFoundError: if the data folder has it not; it names the command and the folder.

    Source: Harper and Konstan (ACM TiiS 2015).
    """
    if name not in NAMES:
        raise ValueError(f"there are no ratings called {name!r}; choose one of {', '.join(NAMES)}")
    rows = torch.from_numpy(install.load(name)[0])
    users, items, times = rows[:, 0].long() - 1, rows[:, 1].long() - 1, rows[:, 3].long()
    return Ratings(users, items, rows[:, 2].clone(), times, (int(users.max()) + 1, int(items.max()) + 1))
