"""The target tensor that says whether two of four indices are equal."""

import torch
from jaxtyping import Float
from torch import Tensor


def agreement(size: int, modes: tuple[int, int]) -> Float[Tensor, "size size size size"]:
    """Return the tensor with 1 where two of four indices are equal and 0 elsewhere, minus its mean.

    Its matricization has rank one if both modes are on one side, and rank `size` - 1 if they are on different sides.

    Args:
        size: number of values of every index.
        modes: the two positions, from 0 to 3, of the indices that are compared.

    Returns:
        A float64 tensor whose entries sum to zero.

    >>> import torch
    >>> from ranklens.tensors import measures
    >>> T = agreement(5, (0, 1))
    >>> [int(measures.numerical_rank(measures.matricize(T, side))) for side in ((0, 1), (0, 2))]
    [1, 4]
    """
    at = torch.meshgrid(*[torch.arange(size)] * 4, indexing="ij")
    equal = (at[modes[0]] == at[modes[1]]).double()
    return equal - equal.mean()
