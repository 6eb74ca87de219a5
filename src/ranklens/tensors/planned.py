"""A contraction planned as matrix products: its value and, by one reverse sweep, its gradient, without autograd."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ranklens.tensors.paths import Path

Label = Hashable
Operation = Callable[[], object]
Update = Callable[[float], Operation]  # the operation that subtracts a gradient times a learning rate


@dataclass(frozen=True)
class Operand:
    """A tensor at a fixed place in memory, with a label for every axis, and the place for its gradient.

    Attributes:
        labels: one label per axis.
        value: the tensor. Its storage is read at every run, so it may be written to but not replaced.
        gradient: a tensor of the same shape that the reverse sweep writes to; None where no gradient is needed.
    """

    labels: tuple[Label, ...]
    value: Tensor
    gradient: Tensor | None


class Planned:
    """An einsum of several tensors as a list of pairwise matrix products over preallocated memory.

    Every pairwise step of a contraction is a (batched) matrix product C = A B, or an elementwise product where nothing
    is summed. Its gradients are matrix products of the same kind, dA = dC B^T and dB = A^T dC. All views of the
    operands are made once, so that a run is a sequence of calls of `torch.mm`, `torch.bmm` and `torch.mul` into
    memory that exists already. For small tensors this costs a few microseconds per step, and it needs no graph.

    Args:
        operands: the tensors, each used once. An index that two of them share is summed where `out` lacks it.
        out: labels of the result.
        path: the order of the pairwise steps, from `find_path` with these labels.

    Attributes:
        value: the result after `forward`, with its axes in the order of `out`.
        memory: the same numbers as one contiguous vector, in the order in which they are computed.
        upstream: contiguous vector like `memory`, to which the caller writes d loss / d memory before `backward`.
        trained: whether any operand has a gradient.

    >>> import torch
    >>> from ranklens.tensors.paths import find_path
    >>> A, B = torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)
    >>> dA = torch.empty_like(A)
    >>> path = find_path(["ar", "rb"], "ab", {"a": 2, "r": 3, "b": 4})
    >>> planned = Planned([Operand(("a", "r"), A, dA), Operand(("r", "b"), B, None)], ("a", "b"), path)
    >>> planned.forward()
    >>> planned.value[0].tolist()
    [3.0, 3.0, 3.0, 3.0]
    >>> planned.upstream.fill_(1.0).shape, planned.backward()
    (torch.Size([8]), None)
    >>> dA[0].tolist()
    [4.0, 4.0, 4.0]
    """

    def __init__(self, operands: Sequence[Operand], out: Sequence[Label], path: Path) -> None:
        self._forward: list[Operation] = []
        self._backward: list[Operation] = []  # in the order of the forward steps; run from the last to the first
        self._updates: dict[int, tuple[int, Update]] = {}  # by place in `_backward`: an operand, and its update
        self._positions = {id(operand): k for k, operand in enumerate(operands)}
        work = list(operands)
        self.trained = any(operand.gradient is not None for operand in operands)
        for positions, _ in path.steps:
            first, *others = [work.pop(k) for k in positions]
            needed = {*out, *(label for operand in work for label in operand.labels)}
            work.append(self._combine(first, others[0], needed) if others else self._copy(first))
        last = work[0] if path.steps else self._copy(work[0])
        self.memory = last.value.view(-1)
        self.upstream = torch.zeros_like(self.memory) if last.gradient is None else last.gradient.view(-1)
        self._order = [last.labels.index(label) for label in out]
        self.value = last.value.permute(self._order)

    def forward(self) -> None:
        """Compute the result, `value`, from the present values of the operands."""
        for operation in self._forward:
            operation()

    def backward(self) -> None:
        """Compute the gradients of the operands from `upstream` and the intermediate results of the latest `forward`.

        They overwrite the `gradient` of each operand.
        """
        for operation in reversed(self._backward):
            operation()

    def descent(self, rates: Mapping[int, float]) -> tuple[list[Operation], set[int]]:
        """Return the operations of `backward` with steps of gradient descent on operands among them.

        A product A B that is the gradient of an operand X, which no later operation reads, becomes X <- X - rate A B.
        This goes over the memory of X once, where a gradient and a step after it go over it three times.

        Args:
            rates: learning rates by the position of an operand.

        Returns:
            The operations, and the positions of the operands that they change. The gradients of these operands are not
            written; those of all others are.
        """
        operations, changed = list(self._backward), set()
        for place, (position, update) in self._updates.items():
            if position in rates:
                operations[place] = update(rates[position])
                changed.add(position)
        return operations[::-1], changed

    def in_memory_order(self, tensor: Tensor) -> Tensor:
        """Return the entries of a tensor that is shaped like `value`, as a contiguous vector ordered like `memory`."""
        inverse = sorted(range(len(self._order)), key=self._order.__getitem__)
        return tensor.permute(inverse).contiguous().view(-1)

    # steps

    def _copy(self, operand: Operand) -> Operand:
        """Plan a copy of an operand in memory of its own."""
        value = torch.empty_like(operand.value, memory_format=torch.contiguous_format)
        gradient = None if operand.gradient is None else torch.empty_like(value)
        self._forward.append(partial(value.copy_, operand.value))
        if operand.gradient is not None and gradient is not None:
            self._backward.append(partial(operand.gradient.copy_, gradient))
        return Operand(operand.labels, value, gradient)

    def _combine(self, a: Operand, b: Operand, needed: set[Label]) -> Operand:
        """Plan the product of two operands, summed over the labels that nothing else needs."""
        shared = [label for label in a.labels if label in b.labels]
        summed = [label for label in shared if label not in needed]
        batch = [label for label in shared if label in needed]
        left = [label for label in a.labels if label not in shared]
        right = [label for label in b.labels if label not in shared]
        if not {*left, *right} <= needed:
            raise AssertionError("a label of one operand that nothing else needs was to be summed earlier")
        if summed:
            return self._matrix_product(a, b, batch, left, right, summed)
        return self._elementwise_product(a, b, batch, left, right)

    def _result(self, a: Operand, b: Operand, labels: Sequence[Label]) -> Operand:
        sizes = dict(zip(a.labels, a.value.shape, strict=True)) | dict(zip(b.labels, b.value.shape, strict=True))
        value = a.value.new_empty([sizes[label] for label in labels])
        trained = a.gradient is not None or b.gradient is not None
        return Operand(tuple(labels), value, torch.empty_like(value) if trained else None)

    def _matrix_product(
        self,
        a: Operand,
        b: Operand,
        batch: list[Label],
        left: list[Label],
        right: list[Label],
        summed: list[Label],
    ) -> Operand:
        """Plan C[batch] = A[batch] B[batch] with A (left, summed), B (summed, right), and both gradients."""
        summed = min([summed, [x for x in b.labels if x in summed]], key=lambda s: _copies(a, b, batch, left, right, s))
        c = self._result(a, b, [*batch, *left, *right])
        A = self._matrix(a, batch, left, summed)
        B = self._matrix(b, batch, summed, right)
        C = _as_matrix(c.value, c.labels, batch, left, right)
        assert C is not None
        self._forward.append(_product(A, B, C))
        if c.gradient is not None:
            dC = _as_matrix(c.gradient, c.labels, batch, left, right)
            assert dC is not None
            gradients = [(b, summed, right, A.transpose(-1, -2), dC), (a, left, summed, dC, B.transpose(-1, -2))]
            # The first of the list is computed last, and nothing reads its operand afterwards.
            if id(b) not in self._positions:
                gradients.reverse()
            for last, (operand, rows, columns, *factors) in zip((True, False), gradients, strict=True):
                self._into(operand, (batch, rows, columns), *factors, last=last)
        return c

    def _matrix(self, operand: Operand, batch: list[Label], rows: list[Label], columns: list[Label]) -> Tensor:
        """Return the operand as matrices (batch, rows, columns): a view, or a copy that every run renews."""
        view = _as_matrix(operand.value, operand.labels, batch, rows, columns)
        if view is not None:
            return view
        permuted = operand.value.permute([operand.labels.index(label) for label in (*batch, *rows, *columns)])
        copied = torch.empty_like(permuted, memory_format=torch.contiguous_format)
        self._forward.append(partial(copied.copy_, permuted))
        found = _as_matrix(copied, (*batch, *rows, *columns), batch, rows, columns)
        assert found is not None
        return found

    def _into(
        self, operand: Operand, axes: tuple[list[Label], list[Label], list[Label]], A: Tensor, B: Tensor, *, last: bool
    ) -> None:
        """Plan the matrix product A B into the gradient of an operand, seen as matrices (batch, rows, columns).

        `last` tells that no operation after this one reads the operand.
        """
        if operand.gradient is None:
            return
        view = _as_matrix(operand.gradient, operand.labels, *axes)
        value = _as_matrix(operand.value, operand.labels, *axes)
        if last and view is not None and value is not None and id(operand) in self._positions:
            update = partial(_subtracted, A, B, value)
            self._updates[len(self._backward)] = (self._positions[id(operand)], update)
        if view is None:
            order = [label for group in axes for label in group]
            permuted = operand.gradient.permute([operand.labels.index(label) for label in order])
            copied = torch.empty_like(permuted, memory_format=torch.contiguous_format)
            self._backward.append(partial(permuted.copy_, copied))
            view = _as_matrix(copied, order, *axes)
            assert view is not None
        self._backward.append(_product(A, B, view))

    def _elementwise_product(
        self, a: Operand, b: Operand, batch: list[Label], left: list[Label], right: list[Label]
    ) -> Operand:
        """Plan C[left, right, batch] = A[left, batch] B[right, batch], and both gradients.

        Batch labels that lead both operands lead the result, all others end it: a sum over `left` or `right` then
        runs over contiguous memory.

        Returns:
            The operand C, with a buffer for its gradient if A or B has one.
        """
        leading = [
            label for k, label in enumerate(batch) if a.labels[: k + 1] == b.labels[: k + 1] == tuple(batch[: k + 1])
        ]
        trailing = [label for label in batch if label not in leading]
        c = self._result(a, b, [*leading, *left, *right, *trailing])
        A, B = (_spread(x.value, x.labels, c.labels) for x in (a, b))
        self._forward.append(partial(torch.mul, A, B, out=c.value))
        if c.gradient is not None:
            self._reduced(a, c.gradient, B, c.labels, right)
            self._reduced(b, c.gradient, A, c.labels, left)
        return c

    def _reduced(
        self, operand: Operand, upstream: Tensor, other: Tensor, labels: tuple[Label, ...], over: list[Label]
    ) -> None:
        """Plan the sum of upstream x other over some labels into the gradient of an operand."""
        if operand.gradient is None:
            return
        target = operand.gradient.permute([operand.labels.index(x) for x in labels if x not in over])
        if not over:
            self._backward.append(partial(torch.mul, upstream, other, out=target))
            return
        product = torch.empty_like(upstream)
        axes = [labels.index(label) for label in over]
        self._backward.append(partial(torch.sum, product, dim=axes, out=target))
        self._backward.append(partial(torch.mul, upstream, other, out=product))


def _product(A: Tensor, B: Tensor, out: Tensor) -> Operation:
    """Return the operation out = A B, or where `out` is stored by columns, its transpose."""
    multiply = torch.mm if out.ndim == 2 else torch.bmm
    if out.stride(-1) != 1 and out.stride(-2) == 1:
        return partial(multiply, B.transpose(-1, -2), A.transpose(-1, -2), out=out.transpose(-1, -2))
    return partial(multiply, A, B, out=out)


def _subtracted(A: Tensor, B: Tensor, X: Tensor, rate: float) -> Operation:
    """Return the operation X <- X - rate A B in place; where X is stored by columns, the transposed one."""
    if X.stride(-1) != 1 and X.stride(-2) == 1:
        A, B, X = B.transpose(-1, -2), A.transpose(-1, -2), X.transpose(-1, -2)
    return partial(X.addmm_ if X.ndim == 2 else X.baddbmm_, A, B, alpha=-rate)


def _as_matrix(
    tensor: Tensor, labels: Sequence[Label], batch: Sequence[Label], rows: Sequence[Label], columns: Sequence[Label]
) -> Tensor | None:
    """Return a tensor as matrices (batch, rows, columns), two axes without a batch; None where that needs a copy."""
    order = [*batch, *rows, *columns]
    permuted = tensor.permute([labels.index(label) for label in order])
    sizes = dict(zip(order, permuted.shape, strict=True))
    shape = [math.prod(sizes[label] for label in group) for group in (batch, rows, columns)]
    try:
        view = permuted.view(shape if batch else shape[1:])
    except RuntimeError:
        return None
    unit = [size == 1 or stride == 1 for size, stride in zip(view.shape[-2:], view.stride()[-2:], strict=True)]
    return view if any(unit) else None


def _copies(
    a: Operand, b: Operand, batch: list[Label], left: list[Label], right: list[Label], summed: list[Label]
) -> int:
    """Return how many of two operands must be copied to be matrices with the summed labels in this order."""
    views = (_as_matrix(a.value, a.labels, batch, left, summed), _as_matrix(b.value, b.labels, batch, summed, right))
    return sum(view is None for view in views)


def _spread(tensor: Tensor, labels: Sequence[Label], over: Sequence[Label]) -> Tensor:
    """Return a view of a tensor that broadcasts against one with axes `over`."""
    permuted = tensor.permute([labels.index(label) for label in over if label in labels])
    return permuted[tuple(slice(None) if label in labels else None for label in over)]
