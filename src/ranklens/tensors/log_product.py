"""Products of hundreds of factors, through sums of logarithms: one matrix product per level instead of a call each."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 1024  # rows at a time in the log domain: their indicators then stay in the cache, and are never stored
COLUMNS = 16  # of a matrix product in float32 are computed together


def log_product(table: Tensor, rows: Tensor) -> Tensor:
    """prod_n table[n, rows[b, n], r] for every row b and value r, through sums of logarithms.

    log|product| is a matrix product of the 0/1 indicators of the levels with log|table|, the sign a parity, the
    number of zero factors a count; so hundreds of factors cost one matrix product per level.

    Args:
        table: (nodes, levels, size) factors, of any sign, zeros allowed.
        rows: (batch, nodes) levels.

    Returns:
        (batch, size) products. The gradient is exact at zeros too: with a single zero factor in a product it is the
        product of the others.
    """
    return _LogProduct.apply(table, rows)


class _LogProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        dtype = table.dtype
        table = table if dtype.itemsize >= 4 else table.float()  # half precision cannot count to 784
        size = _collect(rows, table.abs().log().where(table != 0, 0.0)).exp()
        if bool((table < 0).any()):
            size = size * (1 - 2 * _collect(rows, (table < 0).to(table.dtype)).remainder(2))
        zeros = _collect(rows, (table == 0).to(table.dtype)) if bool((table == 0).any()) else None
        ctx.save_for_backward(table, rows, size, zeros)
        return (size if zeros is None else size.where(zeros == 0, 0.0)).to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        table, rows, size, zeros = ctx.saved_tensors
        if zeros is not None and torch.is_grad_enabled():
            raise RuntimeError("second derivatives of a product of many factors are not known where a factor is zero")
        weighted = upstream.to(table.dtype) * size
        alive = weighted if zeros is None else weighted.where(zeros == 0, 0.0)
        gradient = _distribute(rows, alive, table) / table.where(table != 0, 1.0)
        if zeros is not None:
            gradient = gradient.where(table != 0, _distribute(rows, weighted.where(zeros == 1, 0.0), table))
        return gradient, None


def _collect(rows: Tensor, table: Tensor) -> Tensor:
    """sum_n table[n, rows[b, n], r]: as if all read the first level, and a matrix product per other level."""
    size = table.shape[2]
    padded = functional.pad(table, (0, _padding(table)))
    first = padded[:, 0].sum(dim=0)
    rest = [(padded[:, level] - padded[:, 0]).T.contiguous().T for level in range(1, table.shape[1])]
    parts = []
    for block in rows.split(BLOCK):
        part = first.expand(len(block), -1)
        for reads, difference in zip(_later_reads(block, table), rest, strict=True):
            part = torch.addmm(part, reads, difference)
        parts.append(part)
    return torch.cat(parts)[:, :size]


def _distribute(rows: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """The transpose of `_collect`: sum over b with rows[b, n] = level of values[b, r], for every node and level.

    The first level gets what the others leave of the whole sum; a column of ones counts how often they are read, so
    that where they always are, the first gets an exact zero rather than what rounding leaves.
    """
    counted = torch.cat([values, values.new_ones(len(values), 1)], dim=1)
    sums = [counted.new_zeros(values.shape[1] + 1, table.shape[0])] * (table.shape[1] - 1)
    for block, part in zip(rows.split(BLOCK), counted.split(BLOCK), strict=True):
        sums = [
            torch.addmm(found, part.T, reads) for found, reads in zip(sums, _later_reads(block, table), strict=True)
        ]
    first = counted.sum(dim=0)[:, None] - reduce(torch.add, sums, counted.new_zeros(1, table.shape[0]))
    first = first.where(first[-1] != 0, 0.0)
    return torch.stack([first, *sums])[:, :-1].permute(2, 0, 1)


def _padding(table: Tensor) -> int:
    """Columns of zeros to add: in float32, products with 15 columns take twice as long as with 16."""
    return -table.shape[2] % COLUMNS if table.dtype == torch.float32 and table.shape[2] > COLUMNS // 2 else 0


def _later_reads(block: Tensor, table: Tensor) -> list[Tensor]:
    """Where each level but the first is read, as matrices (batch, nodes) of zeros and ones."""
    if table.shape[1] == 2:  # the rows are their own indicator
        return [block.to(table.dtype)]
    return [(block == level).to(table.dtype) for level in range(1, table.shape[1])]
