"""Pairwise contraction of several tensors: the cheapest order, planned once, and its execution."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import opt_einsum
import torch
from opt_einsum.contract import PathInfo
from torch import Tensor

Label = Hashable
# Number of operands up to which the order of a contraction is searched by dynamic programming too, which takes some
# milliseconds for 8 operands that share an index, and several times longer for each further one.
PROGRAMMED = 8


def symbols() -> Iterator[str]:
    """Yield index symbols without end: a to z, A to Z, then further Unicode letters."""
    return (opt_einsum.get_symbol(k) for k in count())


@dataclass(frozen=True)
class Path:
    """A pairwise contraction of several tensors, planned for fixed sizes.

    Attributes:
        steps: pairs (positions, einsum). A step removes the operands at these positions from the list, in this order,
            and appends the result of the einsum.
        work: number of multiply-adds.
    """

    steps: tuple[tuple[tuple[int, ...], str], ...]
    work: int

    def __call__(self, operands: Sequence[Tensor]) -> Tensor:
        """Return the contraction of the operands, which are given in the order of the plan."""
        work = list(operands)
        for positions, equation in self.steps:
            work.append(pair(equation, *[work.pop(k) for k in positions]))
        return work[0]


def pair(equation: str, *operands: Tensor) -> Tensor:
    """Return the einsum of one or two operands, as `torch.einsum` does, but faster for most pairs.

    Two operands are combined by one matrix product, or by a broadcast product where nothing is summed. `torch.einsum`
    would parse the equation at every call, and make a matrix product of a broadcast. It is called only for one operand,
    and for two operands where an index of one operand alone is summed.

    Args:
        equation: an einsum of as many operands, with ``->``, in which no operand has an index twice.
        operands: one or two tensors.
    """
    plan = _plan(equation)
    if plan is None:
        return torch.einsum(equation, *operands)
    if isinstance(plan, _Broadcast):
        first, second = (_spread(side, plan.out, operand) for side, operand in zip(plan.sides, operands, strict=True))
        return first * second
    a, b = operands[0].permute(plan.first), operands[1].permute(plan.second)
    batch, left, summed = (a.shape[start:stop] for start, stop in plan.groups)
    right = b.shape[plan.groups[1][0] + len(summed) :]
    rows, inner, columns = math.prod(left), math.prod(summed), math.prod(right)
    if batch:
        count = math.prod(batch)
        product = a.reshape(count, rows, inner) @ b.reshape(count, inner, columns)
    else:
        product = a.reshape(rows, inner) @ b.reshape(inner, columns)
    return product.view((*batch, *left, *right)).permute(plan.out)


@dataclass(frozen=True)
class _Broadcast:
    """A product of two operands in which nothing is summed.

    Attributes:
        sides: index letters of the two operands.
        out: index letters of the result.
    """

    sides: tuple[str, str]
    out: str


@dataclass(frozen=True)
class _Product:
    """A matrix product: how to permute the operands to (batch, left, summed) and (batch, summed, right).

    Attributes:
        first: permutation of the first operand's axes.
        second: permutation of the second operand's axes.
        groups: where the groups batch, left and summed start and stop among the permuted axes of the first operand.
        out: permutation of the axes (batch, left, right) to those of the result.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    groups: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    out: tuple[int, ...]


@lru_cache(maxsize=65536)
def _plan(equation: str) -> _Broadcast | _Product | None:
    """Return an equation as one product of two operands, or None if it is not one and einsum has to compute it."""
    left, out = equation.split("->")
    sides = left.split(",")
    if len(sides) != 2:
        return None
    a, b = sides
    summed = [x for x in a if x in b and x not in out]
    if not summed:
        return _Broadcast((a, b), out) if set(a + b) == set(out) else None
    batch = [x for x in out if x in a and x in b]
    rows, columns = [x for x in a if x not in b], [x for x in b if x not in a]
    if not {*rows, *columns} <= set(out):
        return None
    ends = (len(batch), len(batch) + len(rows), len(a))
    made = [*batch, *rows, *columns]
    return _Product(
        tuple(a.index(x) for x in (*batch, *rows, *summed)),
        tuple(b.index(x) for x in (*batch, *summed, *columns)),
        ((0, ends[0]), (ends[0], ends[1]), (ends[1], ends[2])),
        tuple(made.index(x) for x in out),
    )


def _spread(labels: str, out: str, operand: Tensor) -> Tensor:
    """Return a view of an operand whose axes are those of the result; axes that it lacks have size 1."""
    operand = operand.permute([labels.index(x) for x in out if x in labels])
    return operand[tuple(slice(None) if x in labels else None for x in out)]


def find_path(inputs: Sequence[Sequence[Label]], out: Sequence[Label], sizes: dict[Label, int]) -> Path:
    """Return the cheapest pairwise contraction that opt_einsum finds.

    Args:
        inputs: labels of every operand.
        out: labels of the result.
        sizes: size of every label.

    Returns:
        The path; each of its steps is an einsum of at most 52 letters.
    """
    names = dict(zip(dict.fromkeys([x for labels in (*inputs, out) for x in labels]), symbols(), strict=False))
    text = ",".join("".join(names[x] for x in labels) for labels in inputs) + "->" + "".join(names[x] for x in out)
    shapes = [tuple(sizes[x] for x in labels) for labels in inputs]
    info = _cheapest(text, shapes)
    steps = tuple((positions, _compact(equation)) for positions, _, equation, *_ in info.contraction_list)
    return Path(steps, int(info.opt_cost) // 2)


def _cheapest(text: str, shapes: list[tuple[int, ...]]) -> PathInfo:
    """Return the path of fewest operations among those of the searches that are fast for this number of operands.

    From five operands on, the default search of opt_einsum may multiply a large operand by a vector of weights,
    where a smaller intermediate result could be multiplied instead; the dynamic program does not.
    """
    searches = ["auto", "dp"] if 4 < len(shapes) <= PROGRAMMED else ["auto"]
    found = [opt_einsum.contract_path(text, *shapes, shapes=True, optimize=search)[1] for search in searches]
    return min(found, key=lambda info: info.opt_cost)


def _compact(equation: str) -> str:
    """Return an equation with its index symbols replaced by the first letters, in the order of their appearance."""
    letters = dict(zip(dict.fromkeys(x for x in equation if x not in ",->"), symbols(), strict=False))
    return "".join(letters.get(x, x) for x in equation)
