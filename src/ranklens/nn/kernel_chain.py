"""A convolution kernel factored into a chain of kernels, as in expanded layers (ExpandNets)."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranklens import seeds
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked


class KernelChain(nn.Module):
    r"""A convolution kernel as the composition of trainable kernels k_1, ..., k_L, applied one after the other.

    Convolutions compose: applying k_2 after k_1, without padding between them, equals applying the one kernel

        k[o, i, h] = sum_{c, a + b = h} k_2[o, c, b] k_1[c, i, a],

    whose size is s_1 + s_2 - 1 for kernels of sizes s_1 and s_2. A layer that computes this kernel first costs one
    convolution. Its padding, stride and dilation remain those of the original layer; applied between the kernels of
    the chain, they would change the function.

    Args:
        shapes: the shape (out, in, *sizes) of every kernel, in the order in which they are applied. A kernel of shape
            (out, in) is the weight of a linear layer.
        dtype: dtype of the kernels.
        device: device of the kernels.

    Attributes:
        kernels: the Parameters k_1, ..., k_L, initialized to zero.

    Raises:
        ValueError: if a kernel's number of input channels is not the previous kernel's number of output channels, or
            their numbers of axes differ.

    Source: Guo, Alvarez, Salzmann (NeurIPS 2020), expanded convolutions.

    >>> import torch
    >>> chain = KernelChain([(6, 2, 3, 3), (4, 6, 3, 3)], dtype=torch.float64).scaled_(1.0, seed=0)
    >>> x, (first, second) = torch.ones(1, 2, 9, 9, dtype=torch.float64), chain.kernels
    >>> one_by_one = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, first), second)
    >>> bool(torch.allclose(torch.nn.functional.conv2d(x, chain.tensor()), one_by_one))
    True
    """

    @checked
    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        arguments.device("device", device)
        for before, after in itertools.pairwise(shapes):
            if before[0] != after[1] or len(before) != len(after):
                raise ValueError(
                    f"a kernel of shape {tuple(after)} cannot follow one of shape {tuple(before)}; its "
                    f"second size must be the first size of the other, and both must have as many axes"
                )
        kernels = [nn.Parameter(torch.zeros(tuple(shape), dtype=dtype, device=device)) for shape in shapes]
        self.kernels = nn.ParameterList(kernels)

    @property
    def stacks(self) -> tuple[nn.Parameter, ...]:
        """Return the Parameters k_1, ..., k_L, each of shape (out, in, *sizes), in the order of application."""
        return tuple(self.kernels)

    @property
    def device(self) -> torch.device:
        """Return the device of the kernels."""
        return self.stacks[0].device

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (out, in, *sizes) of the composed kernel."""
        sizes = [k.shape[2:] for k in self.stacks]
        return (
            self.stacks[-1].shape[0],
            self.stacks[0].shape[1],
            *(sum(size) - len(sizes) + 1 for size in zip(*sizes, strict=True)),
        )

    def tensor(self) -> Tensor:
        """Return the composed kernel, of shape `shape` and differentiable in the kernels of the chain."""
        whole: Tensor = self.stacks[0]
        for kernel in self.stacks[1:]:
            whole = _compose(kernel, whole)
        return whole

    @torch.no_grad()
    def scaled_(self, scale: float, *, seed: int = 0) -> "KernelChain":
        """Draw all kernels at random so that the composed kernel has entries of root mean square `scale`.

        An entry of the composed kernel is a sum of products of L independent entries. If it is a sum of T products on
        average, its variance is T std^(2 L), which determines the standard deviation `std` of the kernels.

        Args:
            scale: root mean square of the entries of the composed kernel, in expectation; positive.
            seed: seed of the random numbers.

        Returns:
            The chain itself.
        """
        log_terms = sum(math.log(k.shape[0]) for k in self.stacks[:-1])
        log_terms += sum(math.log(math.prod(k.shape[2:])) for k in self.stacks) - math.log(math.prod(self.shape[2:]))
        std = math.exp((2 * math.log(scale) - log_terms) / (2 * len(self.stacks)))
        drawn = seeds.normals([k.shape for k in self.stacks], seed, "initial kernels")
        for kernel, value in zip(self.stacks, drawn, strict=True):
            kernel.copy_(std * value)
        return self

    @torch.no_grad()
    def keep_(self, weight: Tensor, *, seed: int = 0) -> "KernelChain":
        """Set the kernels of a chain of sizes (1, k, 1) so that the composed kernel equals a given one.

        With Q and P random isometries and c the cube root of the spectral norm of the weight as a matrix, k_1 = c Q,
        k_3 = c P^T, and k_2 is P times the weight times Q^T, divided by c^2. Then k_3 k_2 k_1 is the weight because
        P^T P and Q^T Q are identities.

        Args:
            weight: the kernel to represent, of shape `shape`.
            seed: seed of the random isometries.

        Returns:
            The chain itself.

        Raises:
            ValueError: unless there are three kernels, the outer two of size 1, and the inner channels are at least as
                many as the input channels and the output channels.
        """
        if len(self.stacks) != 3:
            raise ValueError(
                f"a chain of {len(self.stacks)} kernels cannot be set to a given kernel, only one of sizes 1, k, 1; "
                f"start at random with init= a number"
            )
        first, middle, last = self.stacks
        outer = math.prod(first.shape[2:]) * math.prod(last.shape[2:])
        if outer != 1 or first.shape[0] < first.shape[1] or last.shape[1] < last.shape[0]:
            raise ValueError(
                f"kernels of shapes {[tuple(k.shape) for k in self.stacks]} cannot be set to a given kernel; the outer "
                f"two must have size 1 and at least as many inner channels as outer ones, or start at random with "
                f"init= a number"
            )
        drawn = seeds.normals([first.shape[:2], (last.shape[1], last.shape[0])], seed, "isometries")
        Q, P = (torch.linalg.qr(x)[0].to(weight) for x in drawn)
        scale = float(torch.linalg.matrix_norm(weight.double().flatten(1), 2)) ** (1 / 3) or 1.0
        first.copy_((scale * Q).reshape(first.shape))
        last.copy_((scale * P.T).reshape(last.shape))
        widened = torch.einsum("oi,i...->o...", P, weight).movedim(1, 0)
        middle.copy_(torch.einsum("oi,i...->o...", Q, widened).movedim(1, 0) / scale**2)
        return self

    def extra_repr(self) -> str:
        """Return the shapes of the kernels as text for `print(chain)`, beginning with the kernel applied last."""
        return " * ".join(str(tuple(k.shape)) for k in reversed(self.stacks))


def expanded(shape: Sequence[int], rate: int, *, stacked: bool = False) -> list[tuple[int, ...]]:
    """Return the shapes of the kernels into which an expanded layer factors a kernel.

    Args:
        shape: the shape (out, in, *sizes) of the kernel.
        rate: factor by which the number of inner channels exceeds the number of outer channels.
        stacked: False for three kernels of sizes 1, k, 1; True for kernels of size 3, as many as compose to the size of
            the kernel. If no size exceeds 3, three kernels of sizes 1, k, 1 are used in both cases.

    Returns:
        One shape (out, in, *sizes) per kernel, in the order in which they are applied.

    Raises:
        ValueError: if `rate` is less than 1, or `stacked` is given for a size that is even.

    >>> expanded((8, 4, 5, 5), 4, stacked=True)
    [(16, 4, 3, 3), (8, 16, 3, 3)]
    >>> expanded((8, 4, 5, 5), 4)
    [(16, 4, 1, 1), (32, 16, 5, 5), (8, 32, 1, 1)]
    """
    out, into, *sizes = shape
    if rate < 1:
        raise ValueError(f"width is {rate}; for expanded kernels it is the factor of channels, at least 1")
    if not stacked or max(sizes, default=1) <= 3:
        ones = [1] * len(sizes)
        return [(rate * into, into, *ones), (rate * out, rate * into, *sizes), (out, rate * out, *ones)]
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f"a kernel of size {tuple(sizes)} is no stack of kernels of size 3; its sizes must be odd")
    count = (max(sizes) - 1) // 2
    channels = [into, *[rate * into] * (count - 1), out]
    steps = [tuple(3 if size > 2 * k + 1 else 1 for size in sizes) for k in range(count)]
    return [(channels[k + 1], channels[k], *steps[k]) for k in range(count)]


def _compose(after: Tensor, before: Tensor) -> Tensor:
    """Return the kernel that equals applying `before` and then `after`.

    The result is contiguous; einsum could return another memory format.
    """
    out, inner, into = after.shape[0], before.shape[0], before.shape[1]
    sizes = before.shape[2:]
    if math.prod(after.shape[2:]) == 1:
        return (after.reshape(out, inner) @ before.reshape(inner, -1)).reshape(out, into, *sizes)
    if math.prod(sizes) == 1:
        composed = after.movedim(1, -1).reshape(-1, inner) @ before.reshape(inner, into)
        return composed.reshape(out, *after.shape[2:], into).movedim(-1, 1).contiguous()
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(sizes) - 1]
    spatial = list(range(2, after.ndim))
    whole = convolve(before.transpose(0, 1), after.flip(spatial), padding=[size - 1 for size in after.shape[2:]])
    return whole.transpose(0, 1).contiguous()
