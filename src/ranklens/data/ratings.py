"""Ratings of items by users: a matrix with few observed entries."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ranklens.data import install
from ranklens.tensors.annotations import checked

NAMES = ("ml-100k",)


@dataclass(frozen=True)
class Ratings:
    """Observed entries of a matrix of users and items, sorted by user, then by item.

    Attributes:
        users: (n,) user of each rating, the row of the matrix, counted from 0.
        items: (n,) item of each rating, the column of the matrix, counted from 0.
        values: (n,) ratings.
        times: (n,) time of each rating, in seconds since 1970.
        shape: number of users and number of items.
    """

    users: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    values: Float64[Tensor, "n"]
    times: Int64[Tensor, "n"]
    shape: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of ratings."""
        return len(self.values)

    @property
    def indices(self) -> Int64[Tensor, "n 2"]:
        """Return the indices of the observed entries, of shape (n, 2): one row (user, item) for each rating.

        `rl.Completion` takes indices in this form.
        """
        return torch.stack([self.users, self.items], dim=1)


@checked
def ratings(name: str = "ml-100k") -> Ratings:
    """Return a data set of ratings from the data folder, after checking its content.

    Nothing is downloaded; `rl.data.fetch` does that. A file that is missing is a FileNotFoundError, which names the
    command that fetches it.

    Args:
        name: "ml-100k": 100,000 ratings, 1 to 5, of 1,682 films by 943 users. It is read from ``u.data``, as published,
            or from RecBole's ``ml-100k.inter``. The rows are sorted, so that both files give the same tensors and have
            the same hash.

    Returns:
        The ratings. Users and items are numbered from 0; in the files their numbers are larger by one.

    Raises:
        ValueError: for an unknown name, or a file whose content is not the published one.

    Source: Harper and Konstan (ACM TiiS 2015).
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}, and there are no such ratings; choose one of {', '.join(NAMES)}")
    rows = torch.from_numpy(install.load(name)[0])
    users, items, times = rows[:, 0].long() - 1, rows[:, 1].long() - 1, rows[:, 3].long()
    return Ratings(users, items, rows[:, 2].clone(), times, (int(users.max()) + 1, int(items.max()) + 1))
