"""Pattern: the observed positions of a matrix in compressed rows, for products with factors at these positions only."""

import warnings
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Number of integers from which on they are sorted by counting.
COUNTED = 2**14


class Pattern:
    """Observed positions of a matrix, sorted once, for the products that a factorization needs again and again.

    With m positions and factors of width R, every product takes m R multiply-adds and holds m numbers. Nothing of size
    m R is formed, and the whole matrix is not formed either.

    Args:
        indices: (m, 2) positions: row and column. A position may occur more than once. They are not checked.
        shape: number of rows and of columns.
        dtype: floating-point type of the products.

    >>> import torch
    >>> pattern = Pattern(torch.tensor([[1, 0], [0, 2]]), (2, 3), torch.float64)
    >>> left, right = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[3.0], [4.0], [5.0]]).double()
    >>> pattern.entries(left, right).tolist()  # of the matrix left right^T, whose entry (1, 0) is 2 * 3
    [6.0, 5.0]
    >>> pattern.products(torch.tensor([10.0, 1.0]).double(), left, right)[0].ravel().tolist()
    [5.0, 30.0]
    """

    def __init__(self, indices: Int[Tensor, "m 2"], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        rows, columns = shape
        self._inverse: Tensor | None = None  # where the table holds each of the given positions
        i, j = indices[:, 0], indices[:, 1]
        flat = i * columns + j
        if not bool((flat[1:] > flat[:-1]).all()):
            by_column = stable_order(j, columns)
            order = by_column[stable_order(i[by_column], rows)]
            flat = flat[order]
            first = torch.cat([flat.new_ones(1, dtype=torch.bool), flat[1:] > flat[:-1]])
            self._inverse = torch.empty_like(order)
            self._inverse[order] = first.cumsum(0) - 1
            i, j = i[order][first], j[order][first]
        self._table = _compressed(i, j, (rows, columns), dtype)
        self._positions = i, j

    @cached_property
    def _turn(self) -> Tensor:
        """Return the order in which the table's positions are sorted by column."""
        return stable_order(self._positions[1], self._table.shape[1])

    @cached_property
    def _turned(self) -> Tensor:
        """Return a table of the transposed matrix's positions."""
        (i, j), (rows, columns) = self._positions, self._table.shape
        return _compressed(j[self._turn], i[self._turn], (columns, rows), self._table.dtype)

    def entries(self, left: Float[Tensor, "rows R"], right: Float[Tensor, "columns R"]) -> Float[Tensor, " m"]:
        """Return the entries of left right^T at the positions, in the order in which the positions were given.

        Args:
            left: the left factor.
            right: the transposed right factor.
        """
        torch.sparse.sampled_addmm(self._table, left, right.T, beta=0.0, out=self._table)
        found = self._table.values()
        return found.clone() if self._inverse is None else found[self._inverse]

    def products(
        self, values: Float[Tensor, " m"], left: Float[Tensor, "rows R"], right: Float[Tensor, "columns R"]
    ) -> tuple[Float[Tensor, "rows R"], Float[Tensor, "columns R"]]:
        """Return G right and G^T left, where G holds the given values at the positions and zeros elsewhere.

        Values of a position that occurs more than once are added up. The two products are the gradients by the two
        factors of any loss of the entries of left right^T, if the values are the derivatives of the loss by the
        entries.

        Args:
            values: one number per position, in the order in which the positions were given.
            left: a factor with one row per row of the matrix.
            right: a factor with one row per column of the matrix.
        """
        table = self._table.values()
        if self._inverse is None:
            table.copy_(values)
        else:
            table.zero_().index_add_(0, self._inverse, values)
        torch.index_select(table, 0, self._turn, out=self._turned.values())
        return self._table @ right, self._turned @ left


def stable_order(keys: Int[Tensor, " m"], size: int) -> Int[Tensor, " m"]:
    """Return the stable order that sorts integers from 0 to below `size`.

    On a CPU many integers are counted instead of compared, which takes a third of the time.

    Args:
        keys: the integers.
        size: a bound above all of them.
    """
    if keys.device.type != "cpu" or len(keys) < COUNTED:
        return keys.argsort(stable=True)
    count = len(keys)
    table = sp.csr_matrix((np.ones(count, dtype=np.int8), (keys.numpy(), np.arange(count))), shape=(size, count))
    return torch.from_numpy(table.indices).long()


def _compressed(i: Tensor, j: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return a matrix in compressed rows that holds zeros at distinct positions that are sorted by row."""
    ends = torch.bincount(i, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.cat([ends.new_zeros(1), ends]),
            j.contiguous(),  # kernels of GPUs read it as if it were
            torch.zeros(len(j), dtype=dtype, device=j.device),
            shape,
            check_invariants=False,
        )
