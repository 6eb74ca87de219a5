"""The locality penalty of functions for which its value is known: bilinear forms, products and sums."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ranklens import seeds
from ranklens.nn.locality_penalty import locality_penalty

# Number of inputs on each of the two sides of a function: x are the first, y are the last.
INPUTS = 8


@torch.no_grad()
def bilinear_penalty(rank: int, samples: int) -> float:
    """Return the penalty of x^T W V^T y between x and y, measured on Gaussian samples.

    Args:
        rank: number of columns of W and V, which are orthonormal.
        samples: number of samples (x, y).
    """
    W, V, x, y = seeds.normals([(INPUTS, rank)] * 2 + [(samples, INPUTS)] * 2, 0, f"bilinear forms of rank {rank}")
    W, V = torch.linalg.qr(W).Q, torch.linalg.qr(V).Q

    def form(z: Tensor) -> Tensor:
        return ((z[:, :INPUTS] @ W) * (z[:, INPUTS:] @ V)).sum(dim=1)

    return _penalty(form, torch.cat([x, y], dim=1))


def expected_penalty(rank: float) -> float:
    """Return the mean of the penalty of a bilinear form: E |cos| of two directions drawn evenly in `rank` dimensions.

    The gradient in x is W V^T y, and V^T y is Gaussian in `rank` dimensions, so that the mean is
    Gamma(rank / 2) / (sqrt(pi) Gamma((rank + 1) / 2)).
    """
    return math.gamma(rank / 2) / (math.sqrt(math.pi) * math.gamma((rank + 1) / 2))


@torch.no_grad()
def penalty_of_product() -> float:
    """Return the penalty of g(x) h(y) between x and y, which is 1 for any g and h."""
    return _penalty(lambda z: _of_x(z) * _of_y(z), _samples())


@torch.no_grad()
def penalty_of_sum() -> float:
    """Return the penalty of g(x) + h(y) between x and y, which is 1 for any g and h."""
    return _penalty(lambda z: _of_x(z) + _of_y(z), _samples())


def _of_x(z: Tensor) -> Tensor:
    """Return g(x): the sum of the sines of the first inputs."""
    return z[:, :INPUTS].sin().sum(dim=1)


def _of_y(z: Tensor) -> Tensor:
    """Return h(y): the sum of the exponentials of the last inputs."""
    return z[:, INPUTS:].exp().sum(dim=1)


def _samples() -> Tensor:
    """Return 50 samples (x, y) from the standard normal distribution, (50, 2 * INPUTS)."""
    return seeds.normals([(50, 2 * INPUTS)], 0, "products and sums")[0]


def _penalty(function: Callable[[Tensor], Tensor], z: Tensor) -> float:
    """Return the penalty of a function of (samples, 2 * INPUTS) between the first and the last inputs."""
    left = torch.arange(2 * INPUTS) < INPUTS
    return float(locality_penalty(function, z, patches=(left, ~left)))
