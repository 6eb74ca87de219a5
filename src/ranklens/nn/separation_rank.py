"""Measures of how strongly a function couples two regions of its input, from a table of its values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ranklens.nn import regions
from ranklens.nn.logits import logits
from ranklens.nn.regions import Region
from ranklens.tensors import measures
from ranklens.tensors.annotations import checked


@dataclass(frozen=True)
class Separation:
    """Measures of the table of a function's values, one number per output of the function.

    Entry (i, j) of the table is the function's value where region I of the input is filled as in sample i, and region
    J as in sample j. The doubly centred table is the table minus its row means and column means, plus its mean. With
    `centre=True` in `separation_rank`, the singular values below are those of the doubly centred table, otherwise
    those of the table itself. All measures have shape (outputs,), but () for a function with one output.

    Attributes:
        rank: number of singular values above rounding. Without centring it is a lower bound of the separation rank, and
            equal to it for an arithmetic circuit if the templates span the inputs.
        effective_rank: exponential of the entropy of the singular values, normalized to sum 1; 0 if all are zero.
        entanglement: entropy of the squared singular values, normalized to sum 1, in nats; 0 if all are zero.
        interaction: root mean square of the doubly centred table, which is the root mean square difference, over the
            table, between the function and the nearest sum g(x_I) + h(x_J). A value within rounding is set to 0.
        share: variance of the doubly centred table divided by that of the table, between 0 and 1; 0 for a constant.
        spectrum: singular values in descending order, of shape (outputs, templates), but (templates,) for one output.
            Values within rounding are set to 0.
    """

    rank: Int[Tensor, "*outputs"]
    effective_rank: Float[Tensor, "*outputs"]
    entanglement: Float[Tensor, "*outputs"]
    interaction: Float[Tensor, "*outputs"]
    share: Float[Tensor, "*outputs"]
    spectrum: Float[Tensor, "*outputs templates"]


@checked
def separation_rank(
    f: Callable[[Tensor], object],
    x: Float[Tensor, "samples ..."],
    region: Region,
    *,
    against: Region | None = None,
    templates: int = 64,
    centre: bool = True,
    batch_size: int = 256,
) -> Separation:
    r"""Measure how strongly a function couples two regions of its input, by the ranks of a table of its values.

    The table is F_ij = f(x_I^i, x_J^j): region I is filled as in sample i, and region J as in sample j. The separation
    rank of f with respect to I is the least R with f = sum_(r<=R) g_r(x_I) h_r(x_J). Then F is a product of a matrix
    with R columns and one with R rows, so that the rank of every table is a lower bound of the separation rank. For an
    arithmetic circuit, and samples that span its inputs, the rank of the table is the rank of the matricization of the
    circuit's tensor, which is its separation rank.

    Double centring subtracts the means of rows and columns from the table. It removes the functions
    g(x_I) + h(x_J), which have a separation rank of up to 2 but no interaction between the regions.

    This function measures any model and returns several numbers. `rl.theory.separation_rank`, in contrast, returns one
    integer: the separation rank of the function that a tensor network computes, from its end tensor.

    Args:
        f: a model or any other function. It maps a batch of inputs to (batch,) or (batch, outputs) numbers, or to an
            object whose attribute `logits` is such a tensor. A model is run in evaluation mode.
        x: a batch of at least two inputs. The first `templates` of them fill both regions.
        region: the region I: a box (top, left, height, width) in the last two axes, in pixels, or a boolean mask that
            broadcasts to one input.
        against: the region J; None takes all elements outside I. Elements outside I and J are as in the first input.
        templates: number of rows and of columns of the table, at least 2. If there are fewer inputs, all are used. The
            function is evaluated on templates * templates inputs.
        centre: whether to centre the table doubly. It changes `rank`, `effective_rank`, `entanglement` and `spectrum`.
        batch_size: approximate number of inputs that are evaluated together.

    Returns:
        A `Separation`.

    Raises:
        ValueError: for fewer than two templates or inputs; for regions that do not fit or overlap; for a region that is
            the whole input; or for outputs that are not finite, or of another shape.

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
        raise ValueError(f"x has {len(x)} samples, and templates is {templates}; a table has two of each at least")
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
        raise ValueError(
            "f gives numbers that are not finite; evaluate f on x to see at which inputs, and leave these out"
        )
    return _measured(table, measures.rank_cutoff(dtype, table.shape), centre)


@torch.no_grad()
def _table(
    f: Callable[[Tensor], object], x: Tensor, inside: Tensor, other: Tensor, batch_size: int
) -> tuple[Tensor, torch.dtype]:
    """Return the table, (rows, columns) or (outputs, rows, columns), and the dtype of the function's output."""
    count, columns = len(x), torch.where(other, x, x[:1])
    parts = []
    with evaluating(f):
        for rows in x.split(max(batch_size // count, 1)):
            output = f(torch.where(inside, rows[:, None], columns).flatten(0, 1))
            parts.append(logits(output, len(rows) * count))
            dtype = getattr(output, "logits", output).dtype  # type: ignore[attr-defined]  # `logits` checked it
    tables = torch.cat(parts).reshape(count, count, -1).movedim(2, 0)
    return tables[0] if len(tables) == 1 else tables, dtype


def _measured(table: Tensor, rounding: float, centre: bool) -> Separation:
    """Return the measures of a table, where singular values below `rounding` times the table's largest one are zero.

    The largest singular value is that of the table before centring, because this is what rounding errors come from.
    """
    mean = table.mean(dim=(-2, -1), keepdim=True)
    additive = table.mean(dim=-1, keepdim=True) + table.mean(dim=-2, keepdim=True) - mean
    interaction = (table - additive).square().mean(dim=(-2, -1))
    variance = (table - mean).square().mean(dim=(-2, -1))
    largest = torch.linalg.matrix_norm(table, ord=2)
    s = measures.singular_values(table - additive if centre else table)
    s = s.where(s > rounding * largest[..., None], 0.0)
    present = interaction.sqrt() > rounding * largest / table.shape[-1]
    return Separation(
        rank=(s > 0).sum(dim=-1),
        effective_rank=measures.effective_rank_of(s),
        entanglement=measures.entropy(s.square()),
        interaction=interaction.sqrt().where(present, 0.0),
        share=(interaction / variance.where(variance > 0, 1.0)).where(present, 0.0),
        spectrum=s,
    )


@contextmanager
def evaluating(f: object) -> Iterator[None]:
    """Put a model into evaluation mode inside the context, and restore the mode of every module afterwards.

    Args:
        f: a module, or any other function, which is left as it is.
    """
    modules = [m for m in f.modules() if m.training] if isinstance(f, nn.Module) else []
    if isinstance(f, nn.Module) and modules:
        f.eval()
    try:
        yield
    finally:
        for module in modules:
            module.training = True
