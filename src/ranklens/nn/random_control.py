"""Singular values of Gaussian random matrices, drawn without the matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds


def random_singular_values(rows: int, columns: int, *, seed: int = 0) -> Float[Tensor, " values"]:
    r"""Return singular values distributed as those of a matrix of independent standard normal entries.

    For m >= n, reflections from the left and from the right turn a Gaussian matrix of shape (m, n) into a bidiagonal
    matrix, whose entries are independent: chi_m, chi_(m-1), ..., chi_(m-n+1) on the diagonal and chi_(n-1), ..., chi_1
    above it, where chi_k is the norm of k independent standard normal numbers. Reflections change no singular value,
    and a reflection that depends on one column leaves the other columns Gaussian. So 2 n - 1 numbers are drawn in place
    of m n, and the singular values are those of a bidiagonal matrix, in O(n^2) operations in place of O(m n^2).

    Args:
        rows: number of rows, at least 1.
        columns: number of columns, at least 1.
        seed: seed of the random numbers. Every shape has a stream of its own, and a matrix and its transpose share one.

    Returns:
        min(rows, columns) singular values in float64, in descending order.

    Raises:
        ValueError: if there are no rows or no columns.

    Source: Dumitriu and Edelman (Journal of Mathematical Physics 2002), for the Laguerre ensemble with beta = 1.

    >>> from ranklens.nn.random_control import random_singular_values
    >>> s = random_singular_values(1000, 250)  # between sqrt(1000) - sqrt(250) and sqrt(1000) + sqrt(250), nearly
    >>> round(float(s[0])), round(float(s[-1]))
    (47, 16)
    """
    from scipy.linalg import eigvalsh_tridiagonal

    if min(rows, columns) < 1:
        raise ValueError(f"the shape is {rows} x {columns}; a matrix has at least one row and one column")
    m, n = max(rows, columns), min(rows, columns)
    uniform = torch.rand(2 * n - 1, generator=seeds.stream(seed, f"random matrix {m} x {n}"), dtype=torch.float64)
    degrees = torch.cat([torch.arange(m, m - n, -1), torch.arange(n - 1, 0, -1)])
    squares = _chi_square(uniform, degrees)
    diagonal, above = squares[:n], squares[n:]
    # The Gram matrix B^T B of the bidiagonal matrix B is tridiagonal.
    gram = diagonal.clone()
    gram[1:] += above
    eigenvalues = eigvalsh_tridiagonal(gram.numpy(), (diagonal[:-1] * above).sqrt().numpy(), lapack_driver="sterf")
    return torch.from_numpy(eigenvalues).clamp_min(0).sqrt().flip(0)


def random_product_singular_values(left: int, right: int, inner: int, *, seed: int = 0) -> Float[Tensor, " values"]:
    r"""Return singular values distributed as those of a product A B^T of Gaussian matrices with `inner` columns each.

    The QR decomposition of a Gaussian matrix of shape (m, r), m >= r, has an upper triangular factor with independent
    entries: chi_m, ..., chi_(m-r+1) on the diagonal, standard normal numbers above it (Bartlett). The singular values
    of A B^T are those of the product of the two triangular factors, which has r rows and columns.

    Args:
        left: number of rows of A, at least 1.
        right: number of rows of B, at least 1.
        inner: number of columns of A and of B, at least 1.
        seed: seed of the random numbers.

    Returns:
        min(left, right, inner) singular values in float64, in descending order.

    >>> from ranklens.nn.random_control import random_product_singular_values
    >>> len(random_product_singular_values(100, 80, 6))
    6
    """
    generator = seeds.stream(seed, f"random product {left} x {inner} x {right}")
    first, second = (_triangle(rows, inner, generator) for rows in (left, right))
    return torch.linalg.svdvals(first @ second.T)


def _triangle(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a triangular factor distributed as that of a Gaussian matrix; of fewer rows than columns, a trapezoid."""
    size = min(rows, columns)
    triangle = torch.randn(size, columns, generator=generator, dtype=torch.float64).triu(1)
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    triangle[range(size), range(size)] = _chi_square(uniform, torch.arange(rows, rows - size, -1)).sqrt()
    return triangle


def _chi_square(uniform: Tensor, degrees: Tensor) -> Tensor:
    """Return chi-square numbers of given degrees of freedom, by inversion of their distribution function."""
    from scipy.special import gammaincinv

    return torch.from_numpy(2 * gammaincinv(degrees.double().numpy() / 2, uniform.numpy()))
