"""Pairwise contraction of several tensors: the cheapest order, planned once, and its execution."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import opt_einsum
import torch
from torch import Tensor

Label = Hashable


def symbols() -> Iterator[str]:
    """a, b, ..., z, A, ..., Z and on through Unicode: as many index symbols as a network needs."""
    return (opt_einsum.get_symbol(k) for k in count())


@dataclass(frozen=True)
class Path:
    """A pairwise contraction: (positions to take off the list, einsum of those), and its multiply-adds."""

    steps: tuple[tuple[tuple[int, ...], str], ...]
    work: int

    def __call__(self, operands: Sequence[Tensor]) -> Tensor:
        """Contract the operands."""
        work = list(operands)
        for positions, equation in self.steps:
            work.append(pair(equation, *[work.pop(k) for k in positions]))
        return work[0]


@lru_cache(maxsize=65536)
def _factors(equation: str) -> tuple[str, ...] | None:
    """The two sides of a product without a sum (the equation's right side last); None where something is summed."""
    left, out = equation.split("->")
    sides = left.split(",")
    return (*sides, out) if len(sides) == 2 and set(sides[0] + sides[1]) == set(out) else None


def pair(equation: str, *operands: Tensor) -> Tensor:
    """An einsum of one or two operands; a product without a sum is a broadcast, which einsum would make a matmul."""
    sides = _factors(equation)
    if sides is None:
        return torch.einsum(equation, *operands)
    *inputs, out = sides
    first, second = (_spread(side, out, operand) for side, operand in zip(inputs, operands, strict=True))
    return first * second


def _spread(labels: str, out: str, operand: Tensor) -> Tensor:
    operand = operand.permute([labels.index(x) for x in out if x in labels])
    return operand[tuple(slice(None) if x in labels else None for x in out)]


def find_path(inputs: Sequence[Sequence[Label]], out: Sequence[Label], sizes: dict[Label, int]) -> Path:
    """The cheapest pairwise path that opt_einsum finds, with every step rewritten in at most 52 letters."""
    names = dict(zip(dict.fromkeys([x for labels in (*inputs, out) for x in labels]), symbols(), strict=False))
    text = ",".join("".join(names[x] for x in labels) for labels in inputs) + "->" + "".join(names[x] for x in out)
    shapes = [tuple(sizes[x] for x in labels) for labels in inputs]
    _, info = opt_einsum.contract_path(text, *shapes, shapes=True, optimize="auto")
    steps = tuple((positions, _compact(equation)) for positions, _, equation, *_ in info.contraction_list)
    return Path(steps, int(info.opt_cost) // 2)


def _compact(equation: str) -> str:
    letters = dict(zip(dict.fromkeys(x for x in equation if x not in ",->"), symbols(), strict=False))
    return "".join(letters.get(x, x) for x in equation)
