"""How strongly a function couples two parts of its input: the ranks of its table over settings of one and the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ranklens.nn import regions
from ranklens.nn.logits import logits
from ranklens.nn.regions import Region
from ranklens.tensors import measures


@dataclass(frozen=True)
class Separation:
    """What `separation_rank` measured: one number, or one per output.

    Attributes:
        rank: singular values of the table that are above rounding; of the separation rank a lower bound, and itself
            where the templates span the inputs and the table is not centred.
        effective_rank: exp of the entropy of the singular values.
        entanglement: the entropy of their squares, in nats.
        interaction: root mean square of the doubly centred table: how far the output is from a sum of two functions.
        share: of the table's variance that is interaction, between 0 and 1.
        spectrum: (..., templates) singular values.
    """

    rank: Int[Tensor, "*outputs"]
    effective_rank: Float[Tensor, "*outputs"]
    entanglement: Float[Tensor, "*outputs"]
    interaction: Float[Tensor, "*outputs"]
    share: Float[Tensor, "*outputs"]
    spectrum: Float[Tensor, "*outputs templates"]


def separation_rank(
    f: Callable[[Tensor], Any],
    x: Float[Tensor, "samples ..."],
    region: Region,
    *,
    against: Region | None = None,
    templates: int = 64,
    centre: bool = True,
    batch_size: int = 256,
) -> Separation:
    r"""Ranks of the table F_ij = f(x_I^i, x_J^j): region I as in sample i, region J as in sample j.

    The separation rank of f for I is the least R with f = sum_(r<=R) g_r(x_I) h_r(x_J); then F is a product through R
    columns, so that no table has a higher rank. For an arithmetic circuit and templates that span its inputs it is the
    rank of the matricization. Centring subtracts the means of rows and columns: sums g(x_I) + h(x_J), which raise rank
    by up to two without any dependence between the regions, vanish.

    Args:
        f: a model, run in evaluation mode, or any function: inputs to (batch,) or (batch, outputs) numbers.
        x: inputs, whose first `templates` fill both regions; all of them if there are fewer.
        region: I, a box (top, left, height, width) of the last two axes or a boolean mask over one input.
        against: J; None is all that I is not. What is in neither is as in the first of x.
        templates: rows and columns of the table; it costs their square in evaluations.
        centre: whether to centre it doubly.
        batch_size: inputs that are evaluated together, about.

    Returns:
        A `Separation`.

    Raises:
        ValueError: for fewer than two templates or samples, regions that do not fit or overlap, a region that leaves
            nothing, or outputs that are not finite or not one number, or row of numbers, per input.

    Source: Cohen and Shashua (ICLR 2017); Razin, Maman, Cohen (ICML 2022), section 5.

    >>> import torch, ranklens as rl
    >>> x, left = torch.linspace(-1, 1, 96, dtype=torch.float64).sin().reshape(12, 8), torch.arange(8) < 4
    >>> two = lambda x: (x[:, :2] * x[:, 4:6].exp()).sum(dim=1)
    >>> int(rl.nn.separation_rank(two, x, left, centre=False).rank)
    2
    >>> apart = lambda x: x[:, :4].exp().sum(dim=1) + x[:, 4:].cos().sum(dim=1)
    >>> int(rl.nn.separation_rank(apart, x, left).rank)
    0
    """
    count = min(templates, len(x))
    if count < 2:
        raise ValueError(f"there are {len(x)} samples and {templates} templates; a table has two of each at least")
    inside = regions.mask(region, x.shape[1:])
    if against is None:
        other = ~inside
        if not bool(other.any()):
            raise ValueError(f"region {region} is the whole input; leave something to separate it from")
    else:
        other = regions.mask(against, x.shape[1:], "against")
        if bool((inside & other).any()):
            raise ValueError(f"region {region} and against {against} overlap; give two without a common element")
    table, dtype = _table(f, x[:count].detach(), inside.to(x.device), other.to(x.device), batch_size)
    if not bool(torch.isfinite(table).all()):
        raise ValueError("f gives numbers that are not finite; look at them at these inputs")
    return _measured(table, measures.rank_cutoff(dtype, table.shape), centre)


@torch.no_grad()
def _table(
    f: Callable[[Tensor], Any], x: Tensor, inside: Tensor, other: Tensor, batch_size: int
) -> tuple[Tensor, torch.dtype]:
    """(rows, columns), or (outputs, rows, columns), several rows at a time; and the precision they were computed in."""
    count, filled = len(x), torch.where(other, x, x[:1])
    parts = []
    with evaluating(f):
        for rows in x.split(max(batch_size // count, 1)):
            output = f(torch.where(inside, rows[:, None], filled).flatten(0, 1))
            parts.append(logits(output, len(rows) * count))
            dtype = getattr(output, "logits", output).dtype
    tables = torch.cat(parts).reshape(count, count, -1).movedim(2, 0)
    return tables[0] if len(tables) == 1 else tables, dtype


def _measured(table: Tensor, rounding: float, centre: bool) -> Separation:
    mean = table.mean(dim=(-2, -1), keepdim=True)
    alone = table.mean(dim=-1, keepdim=True) + table.mean(dim=-2, keepdim=True) - mean
    interaction, variance = (table - alone).square().mean(dim=(-2, -1)), (table - mean).square().mean(dim=(-2, -1))
    size = torch.linalg.matrix_norm(table, ord=2)  # rounding is relative to this, centred or not
    s = measures.singular_values(table - alone if centre else table)
    s = s.where(s > rounding * size[..., None], 0.0)
    there = interaction.sqrt() > rounding * size / table.shape[-1]
    return Separation(
        rank=(s > 0).sum(dim=-1),
        effective_rank=measures.effective_rank_of(s),
        entanglement=measures.entropy(s.square()),
        interaction=interaction.sqrt().where(there, 0.0),
        share=(interaction / variance.where(variance > 0, 1.0)).where(there, 0.0),
        spectrum=s,
    )


@contextmanager
def evaluating(f: Any) -> Iterator[None]:
    """A model in evaluation mode, every module put back afterwards; of other functions nothing is known."""
    modules = [m for m in f.modules() if m.training] if isinstance(f, nn.Module) else []
    if modules:
        f.eval()
    try:
        yield
    finally:
        for module in modules:
            module.training = True
