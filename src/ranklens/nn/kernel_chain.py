"""A kernel as a chain of kernels that compose by convolution (expanded layers)."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranklens import seeds


class KernelChain(nn.Module):
    r"""Kernels k_1 ... k_L, applied one after the other, as the one kernel that they are.

    Convolutions compose: with k_2 after k_1, without padding between them,

        k[o, i, h] = sum_{c, a + b = h} k_2[o, c, b] k_1[c, i, a],

    of size s_1 + s_2 - 1. So a chain trained as its product costs one convolution, and padding, stride and dilation,
    which between the kernels of a layer-by-layer chain change the function, stay those of the one layer.

    Args:
        shapes: (out, in, *sizes) of every kernel, the first to meet an input first.
        dtype: of the kernels.
        device: where they are.

    Raises:
        ValueError: for shapes that do not follow on each other.

    Source: Guo, Alvarez, Salzmann (NeurIPS 2020), expanded convolutions.

    >>> import torch
    >>> chain = KernelChain([(6, 2, 3, 3), (4, 6, 3, 3)], dtype=torch.float64).scaled_(1.0, seed=0)
    >>> x, (first, second) = torch.ones(1, 2, 9, 9, dtype=torch.float64), chain.kernels
    >>> one_by_one = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, first), second)
    >>> bool(torch.allclose(torch.nn.functional.conv2d(x, chain.tensor()), one_by_one))
    True
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for before, after in itertools.pairwise(shapes):
            if before[0] != after[1] or len(before) != len(after):
                raise ValueError(f"a kernel of shape {tuple(after)} cannot follow one of shape {tuple(before)}")
        made = [nn.Parameter(torch.zeros(tuple(shape), dtype=dtype, device=device)) for shape in shapes]
        self.kernels = nn.ParameterList(made)

    @property
    def stacks(self) -> tuple[nn.Parameter, ...]:
        """The Parameters as stored."""
        return tuple(self.kernels)

    @property
    def device(self) -> torch.device:
        """Where the kernels are."""
        return self.stacks[0].device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the one kernel."""
        sizes = [k.shape[2:] for k in self.stacks]
        return (
            self.stacks[-1].shape[0],
            self.stacks[0].shape[1],
            *(sum(size) - len(sizes) + 1 for size in zip(*sizes, strict=True)),
        )

    def tensor(self) -> Tensor:
        """The one kernel."""
        whole: Tensor = self.stacks[0]
        for kernel in self.stacks[1:]:
            whole = _compose(kernel, whole)
        return whole

    @torch.no_grad()
    def scaled_(self, scale: float, *, seed: int = 0) -> "KernelChain":
        """Draw the kernels so that the entries of the one kernel have standard deviation `scale` (root mean square)."""
        terms = sum(math.log(k.shape[0]) for k in self.stacks[:-1])  # an entry is a sum of so many products
        terms += sum(math.log(math.prod(k.shape[2:])) for k in self.stacks) - math.log(math.prod(self.shape[2:]))
        std = math.exp((2 * math.log(scale) - terms) / (2 * len(self.stacks)))
        drawn = seeds.normals([k.shape for k in self.stacks], seed, "initial kernels")
        for kernel, value in zip(self.stacks, drawn, strict=True):
            kernel.copy_(std * value)
        return self

    @torch.no_grad()
    def keep_(self, weight: Tensor, *, seed: int = 0) -> "KernelChain":
        """Hold a given kernel: the outer kernels, of size 1, random isometries of equal scale, and the middle the rest.

        Raises:
            ValueError: unless there are three kernels, the outer of size 1 and at least as wide inside as outside.
        """
        if len(self.stacks) != 3:
            raise ValueError(
                f"{len(self.stacks)} kernels cannot hold any kernel, as sizes 1, k, 1 can; set init= to a number"
            )
        first, middle, last = self.stacks
        outer = math.prod(first.shape[2:]) * math.prod(last.shape[2:])
        if outer != 1 or first.shape[0] < first.shape[1] or last.shape[1] < last.shape[0]:
            raise ValueError(
                "kernels of sizes 1, k, 1 hold any kernel if they are wide enough inside; set init= to a number"
            )
        drawn = seeds.normals([first.shape[:2], (last.shape[1], last.shape[0])], seed, "isometries")
        Q, P = (torch.linalg.qr(x)[0].to(weight) for x in drawn)
        scale = float(torch.linalg.matrix_norm(weight.double().flatten(1), 2)) ** (1 / 3) or 1.0
        first.copy_((scale * Q).reshape(first.shape))
        last.copy_((scale * P.T).reshape(last.shape))
        held = torch.einsum("oi,i...->o...", P, weight).movedim(1, 0)
        middle.copy_(torch.einsum("oi,i...->o...", Q, held).movedim(1, 0) / scale**2)
        return self

    def extra_repr(self) -> str:
        """Shapes, for people."""
        return " * ".join(str(tuple(k.shape)) for k in reversed(self.stacks))


def expanded(shape: Sequence[int], rate: int, *, stacked: bool = False) -> list[tuple[int, ...]]:
    """Shapes of the kernels of an expanded one: (1, k, 1) with `rate` times the channels, or stacked ones of size 3.

    Raises:
        ValueError: for a rate below one, or a stack for a size that is not odd.

    >>> expanded((8, 4, 5, 5), 4, stacked=True)
    [(16, 4, 3, 3), (8, 16, 3, 3)]
    >>> expanded((8, 4, 5, 5), 4)
    [(16, 4, 1, 1), (32, 16, 5, 5), (8, 32, 1, 1)]
    """
    out, into, *sizes = shape
    if rate < 1:
        raise ValueError(f"width is {rate}; channels are expanded by a factor of one or more")
    if not stacked or max(sizes, default=1) <= 3:
        ones = [1] * len(sizes)
        return [(rate * into, into, *ones), (rate * out, rate * into, *sizes), (out, rate * out, *ones)]
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f"a kernel of size {tuple(sizes)} is no stack of size 3; its sizes must be odd")
    count = (max(sizes) - 1) // 2
    channels = [into, *[rate * into] * (count - 1), out]
    steps = [tuple(3 if size > 2 * k + 1 else 1 for size in sizes) for k in range(count)]
    return [(channels[k + 1], channels[k], *steps[k]) for k in range(count)]


def _compose(after: Tensor, before: Tensor) -> Tensor:
    """The kernel of one convolution after another; without einsum, which may leave it in another memory format."""
    out, inner, into = after.shape[0], before.shape[0], before.shape[1]
    sizes = before.shape[2:]
    if math.prod(after.shape[2:]) == 1:
        return (after.reshape(out, inner) @ before.reshape(inner, -1)).reshape(out, into, *sizes)
    if math.prod(sizes) == 1:
        moved = after.movedim(1, -1).reshape(-1, inner) @ before.reshape(inner, into)
        return moved.reshape(out, *after.shape[2:], into).movedim(-1, 1).contiguous()
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(sizes) - 1]
    spatial = list(range(2, after.ndim))
    whole = convolve(before.transpose(0, 1), after.flip(spatial), padding=[size - 1 for size in after.shape[2:]])
    return whole.transpose(0, 1).contiguous()
