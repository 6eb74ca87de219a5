"""Singular values of one weight, from the Gram matrix of its smaller side where that is exact enough."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

# Entries of the blocks in which a matrix is converted to float64. A block then takes 32 MiB, which bounds the memory
# that is needed beside the matrix, and is large enough for matrix products at full speed.
BLOCK_ENTRIES = 2**22
# Columns of the panels in which the upper half of a Gram matrix is computed. Narrower panels save more of the other
# half, but their products run slower.
PANEL = 192
# Rounding error of an eigenvalue of a Gram matrix of n rows, in units of sqrt(n) eps times the largest eigenvalue.
# The largest error measured on random, graded and low-rank spectra is about 2.
EIGENVALUE_ERROR = 4.0
# Relative error of the effective rank up to which singular values are taken from a Gram matrix.
MOST_ERROR = 1e-7


def spectrum(
    matrix: Float[Tensor, "rows columns"], *, device: torch.device | str | None = None
) -> Float[Tensor, " values"]:
    r"""Return the singular values of a matrix.

    They are the square roots of the eigenvalues of the Gram matrix of the smaller side, X^T X for the tall orientation
    X of the matrix, which is added up in float64 over blocks of rows of X. Products of numbers of at most float32 are
    exact in float64, so that only the sum is rounded: an eigenvalue is off by about sqrt(n) eps times the largest, for
    n columns. If this could change the effective rank by more than a share of 1e-7, as it could if many singular values
    are zero or nearly so, the singular values are computed without squaring, as those of the triangular factor R of X,
    which has the singular values of X because X = Q R. So they always are for a matrix in float64.

    Args:
        matrix: a matrix of any real floating-point dtype that can be converted to float64.
        device: where to compute, such as "cuda"; None is the device of the matrix.

    Returns:
        min(rows, columns) singular values in float64 on the CPU, in descending order; all NaN if an entry of the matrix
        is not finite.

    >>> import torch
    >>> spectrum(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])).tolist()
    [4.0, 3.0]
    """
    tall = matrix.detach()
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.T
    if matrix.dtype == torch.float64:
        return _by_triangle(tall, device)
    gram = gram_matrix(tall, device=device)
    if not bool(torch.isfinite(gram.diagonal()).all()):  # a sum of squares is finite if all numbers are, and only then
        return torch.full((len(gram),), math.nan, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(gram, UPLO="U").clamp_min(0).flip(0).cpu()
    singular = eigenvalues.sqrt()
    return singular if _effective_rank_error(singular) <= MOST_ERROR else _by_triangle(tall, device)


def gram_matrix(
    matrix: Float[Tensor, "rows columns"], *, device: torch.device | str | None = None
) -> Float[Tensor, "values values"]:
    """Return the upper half of the Gram matrix of the smaller side, X^T X for the tall orientation X, in float64.

    It is added up over blocks of rows of X, so that only a block is in memory in float64.

    Args:
        matrix: a matrix of any real floating-point dtype.
        device: where to compute; None is the device of the matrix.

    Returns:
        A square matrix with the rows of the smaller side. Its entries below the diagonal are not to be used.

    >>> import torch
    >>> gram_matrix(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])).tolist()
    [[9.0, 0.0], [0.0, 2.0]]
    """
    tall = matrix.detach()
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.T
    columns = tall.shape[1]
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=device or tall.device)
    for block in _blocks(tall, device):
        for start in range(0, columns, PANEL):
            gram[start : start + PANEL, start:].addmm_(block[:, start : start + PANEL].T, block[:, start:])
    return gram


def _by_triangle(tall: Tensor, device: torch.device | str | None) -> Tensor:
    """Return the singular values of a tall matrix from its triangular factor, which is updated block by block.

    The factor of a block below the factor so far is that of all rows up to the block.
    """
    columns = tall.shape[1]
    triangle = torch.zeros(0, columns, dtype=torch.float64, device=device or tall.device)
    for block in _blocks(tall, device):
        if not bool(torch.isfinite(block).all()):
            return torch.full((columns,), math.nan, dtype=torch.float64)
        triangle = torch.cat([triangle, block])
        if len(triangle) > columns:
            triangle = torch.linalg.qr(triangle, mode="r").R
    return torch.linalg.svdvals(triangle).cpu()


def _blocks(tall: Tensor, device: torch.device | str | None) -> Iterator[Tensor]:
    """Yield the rows of a tall matrix in float64, some at a time, and at least as many as there are columns."""
    count = max(BLOCK_ENTRIES // tall.shape[1], tall.shape[1])
    place = device or tall.device
    for block in tall.split(count):
        # A transposed block is converted in the order of its memory, which is many times faster.
        yield block.to(place, torch.float64) if block.stride(-1) == 1 else block.T.to(place, torch.float64).T


def _effective_rank_error(singular: Tensor) -> float:
    """Return an estimate of the relative error of the effective rank if singular values come from a Gram matrix.

    An error d of the eigenvalue s^2 is one of d / (2 s) of the singular value s, and of sqrt(d) at most. The logarithm
    of the effective rank is the entropy of p = s / sum s, whose derivative in s is -(ln p + entropy) / sum s.
    """
    total = float(singular.sum())
    if total == 0:
        return 0.0
    d = EIGENVALUE_ERROR * math.sqrt(len(singular)) * torch.finfo(torch.float64).eps * float(singular[0]) ** 2
    errors = torch.minimum(d / (2 * singular), torch.tensor(math.sqrt(d), dtype=torch.float64))
    p = (singular / total).clamp_min(math.sqrt(d) / total)
    entropy = -(p * p.log()).sum()
    return float((errors * (p.log() + entropy).abs()).sum()) / total


def product_spectrum(
    left: Float[Tensor, "rows inner"],
    right: Float[Tensor, "inner columns"],
    *,
    device: torch.device | str | None = None,
) -> Float[Tensor, " values"]:
    """Return the singular values of a product of two matrices without forming it.

    With left = Q_a R_a and right^T = Q_b R_b the product is Q_a (R_a R_b^T) Q_b^T, and the matrix in the middle has its
    singular values.

    Args:
        left: the left factor, of any real floating-point dtype.
        right: the right factor.
        device: where to compute; None is the device of the factors.

    Returns:
        min(rows, inner, columns) singular values in float64 on the CPU, in descending order; all NaN if an entry is not
        finite.

    >>> import torch
    >>> product_spectrum(torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, 2.0, 0.0]])).tolist()
    [10.0]
    """
    first, second = (x.detach().to(device or left.device, torch.float64) for x in (left, right.T))
    if not bool(torch.isfinite(first).all() & torch.isfinite(second).all()):
        return torch.full((min(len(left), *right.shape),), math.nan, dtype=torch.float64)
    triangles = [torch.linalg.qr(factor, mode="r").R for factor in (first, second)]
    return torch.linalg.svdvals(triangles[0] @ triangles[1].T).cpu()
