"""Products of hundreds of factors that are looked up in tables, computed through sums of logarithms."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Number of rows that are computed together. Their indicator matrices then stay in the cache of the CPU, and the
# indicators of all rows are never in memory at one time.
BLOCK = 1024
# Largest number of indicators that are kept from the value of a product to its gradient: 128 MiB in float64. Making
# them takes about as long as the matrix product that uses them.
KEPT = 2**24
# Number of columns that a matrix product in float32 computes together: one with 15 columns takes twice as long as one
# with 16 (measured on a CPU).
COLUMNS = 16


def log_product(table: Tensor, rows: Tensor) -> Tensor:
    """Return the products over n of table[n, rows[b, n], r], for every row b of `rows` and every r of the last axis.

    The logarithm of the absolute value of a product is a sum, the sign is the parity of a count of negative factors,
    and a product is zero if the count of its zero factors is not. All three sums over the nodes n are matrix products
    of the 0/1 indicators rows == level with a table, so hundreds of factors cost one matrix product per level.

    Args:
        table: factors of any sign, zeros included, of shape (nodes, levels, size). A level is an index of the second
            axis.
        rows: the level that each row reads of each node, integers of shape (batch, nodes). They are not checked. Where
            there are two levels, zeros and ones of the table's own dtype are read without a conversion.

    Returns:
        Products of shape (batch, size), of the dtype of the table; half precision is computed in float32. The gradient
        is right at zeros too: the derivative of a product with respect to its only zero factor is the product of the
        others. Second derivatives at zeros raise a RuntimeError.

    >>> import torch
    >>> from ranklens.tensors.log_product import log_product
    >>> table = torch.tensor([[[2.0], [-1.0]], [[3.0], [0.0]]])
    >>> log_product(table, torch.tensor([[0, 0], [1, 0], [0, 1]])).flatten().round(decimals=4).tolist()
    [6.0, -3.0, 0.0]
    """
    if table.shape[1] == 2 and table.dtype.itemsize >= 4 and rows.numel() <= KEPT:
        rows = rows.to(table.dtype)
    return _LogProduct.apply(table, rows)


class _LogProduct(torch.autograd.Function):
    """`log_product` with its gradient, from the product `nonzero` of the factors of each row that are not zero."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        dtype = table.dtype
        table = table if dtype.itemsize >= 4 else table.float()  # half precision cannot count exactly to 784
        size, zeros = table.shape[2], None
        if bool(table.min() > 0):  # one pass over the table instead of seven
            nonzero = _collect(rows, table.log()).exp_()[:, :size]
        else:
            nonzero = _collect(rows, table.abs().log().where(table != 0, 0.0)).exp_()[:, :size]
            if bool((table < 0).any()):
                negative = _collect(rows, (table < 0).to(table.dtype))[:, :size]
                nonzero = nonzero * (1 - 2 * negative.remainder(2))
            if bool((table == 0).any()):
                zeros = _collect(rows, (table == 0).to(table.dtype))[:, :size]
        ctx.save_for_backward(table, rows, nonzero, zeros)
        return (nonzero if zeros is None else nonzero.where(zeros == 0, 0.0)).to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        table, rows, nonzero, zeros = ctx.saved_tensors
        if zeros is not None and torch.is_grad_enabled():
            raise RuntimeError("second derivatives of a product of many factors are not known where a factor is zero")
        upstream = upstream.to(table.dtype)
        if zeros is None:
            return _distribute(rows, _counted_product(upstream, nonzero), table) / table, None
        weighted = upstream * nonzero
        alive = _distribute(rows, _counted(weighted.where(zeros == 0, 0.0)), table)
        only = _distribute(rows, _counted(weighted.where(zeros == 1, 0.0)), table)
        return (alive / table.where(table != 0, 1.0)).where(table != 0, only), None


def _collect(rows: Tensor, table: Tensor) -> Tensor:
    """Return the sums over n of table[n, rows[b, n], r], of shape (batch, size or more); further columns are padding.

    The sum for rows that read level 0 of every node comes first. Each further level adds one matrix product, of its
    indicators with its difference from level 0.
    """
    padding = _padding(table)
    padded = functional.pad(table, (0, padding)) if padding else table
    first = padded[:, 0].sum(dim=0)
    from_first = [padded[:, level] - padded[:, 0] for level in range(1, table.shape[1])]
    parts = []
    for block in _blocks(rows):
        reads = _later_reads(block, table)
        part = torch.addmm(first, reads[0], from_first[0]) if reads else first.expand(len(block), -1).clone()
        for later, difference in zip(reads[1:], from_first[1:], strict=True):
            part.addmm_(later, difference)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _counted(values: Tensor) -> Tensor:
    """Return the values with a last column of ones, which `_distribute` sums along to count rows."""
    return functional.pad(values, (0, 1), value=1.0)


def _counted_product(a: Tensor, b: Tensor) -> Tensor:
    """Return `_counted(a * b)`; where no second derivative is wanted, it is written to one new piece of memory."""
    if torch.is_grad_enabled():
        return _counted(a * b)
    counted = b.new_empty(len(b), b.shape[1] + 1)
    counted[:, -1] = 1.0
    torch.mul(a, b, out=counted[:, :-1])
    return counted


def _distribute(rows: Tensor, counted: Tensor, table: Tensor) -> Tensor:
    """Return the sums of values[b, r] over the rows b that read a level, for every node and level.

    This is the transpose of `_collect`, and has the shape (nodes, levels, size) of `table`. Level 0 gets the sum over
    all rows minus the sums of the other levels. The values come with a column of ones (`_counted`), whose sums count
    how often level 0 is read: if it is never read, its sum is set to exactly 0, in place of a rounding error.
    """
    blocks = _blocks(rows)
    sums: list[Tensor] = []
    for block, part in zip(blocks, counted.split([len(block) for block in blocks]), strict=True):
        reads = _later_reads(block, table)
        if not sums:
            sums = [torch.mm(part.T, later) for later in reads]
        else:
            sums = [found.addmm_(part.T, later) for found, later in zip(sums, reads, strict=True)]
    first = counted.sum(dim=0)[:, None] - (reduce(torch.add, sums) if sums else counted.new_zeros(1, table.shape[0]))
    first = first.where(first[-1] != 0, 0.0)
    return torch.stack([first, *sums])[:, :-1].permute(2, 0, 1)


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """Return the rows in blocks whose indicators are made at a time, or all at once where they are indicators."""
    return (rows,) if rows.dtype.is_floating_point else rows.split(BLOCK)


def _padding(table: Tensor) -> int:
    """Return the number of columns of zeros that fill the last group of `COLUMNS` columns, in float32."""
    return -table.shape[2] % COLUMNS if table.dtype == torch.float32 and table.shape[2] > COLUMNS // 2 else 0


def _later_reads(block: Tensor, table: Tensor) -> list[Tensor]:
    """Return the indicator rows == level as a 0/1 matrix (batch, nodes), for each level but level 0."""
    if table.shape[1] == 2:  # rows of zeros and ones are the indicator of level 1
        return [block.to(table.dtype)]
    return [(block == level).to(table.dtype) for level in range(1, table.shape[1])]
