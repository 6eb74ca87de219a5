"""Known features of rows or columns, which say something about their factors before any entry is observed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from ranklens.completers.observed import Observed
from ranklens.seeds import derive

# Directions of the features that are kept, at most. The directions of the largest singular values have the largest
# prior variance.
DIRECTIONS = 100
# Singular values below this share of the largest are rounding errors.
ROUNDING = 1e-8
# Strengths that are tried if held-out entries are to choose one. The data adapt every strength too, so few suffice.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
# Says that held-out entries choose a strength.
AUTO = "auto"
Key = TypeVar("Key")


@dataclass(frozen=True)
class Features:
    r"""Features of the rows of one mode, by their singular value decomposition X = Q diag(s) V^T.

    Attributes:
        Q: (d, R) left singular vectors.
        s: (R,) singular values.
        V: (f, R) right singular vectors.
        center: (f,) what is subtracted from features before they are multiplied by V.
        size: (f,) what centred features are divided by.
    """

    Q: Float[Tensor, "d R"]
    s: Float[Tensor, " R"]
    V: Float[Tensor, "f R"]
    center: Float[Tensor, " f"]
    size: Float[Tensor, " f"]

    def directions(self, X: NDArray[np.float64] | sp.csr_matrix) -> Float[Tensor, "d R"]:
        """Return the coordinates, along the singular directions, of features of any rows.

        Args:
            X: (rows, f) features, as they were given to `decompose`.
        """
        weighted = self.V / self.size[:, None]
        return torch.from_numpy(np.asarray(X @ weighted.numpy())) - self.center @ weighted


def decompose(X: NDArray[np.float64] | sp.csr_matrix, *, seed: int = 0, standardize: bool = True) -> Features:
    """Return features of rows, with each feature centred, by their leading singular directions.

    Args:
        X: (d, f) numbers.
        seed: seed of the randomized singular value decomposition of sparse features.
        standardize: whether to divide each feature by its standard deviation. A constant feature becomes zero.

    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [3.0, 1.0], [5.0, 2.0]])
    >>> made = decompose(X)
    >>> len(made.s), bool(np.allclose(made.directions(X), made.Q * made.s))  # both columns are one direction
    (1, True)
    """
    center = np.asarray(X.mean(axis=0)).ravel()
    size = np.ones(X.shape[1])
    if standardize:
        spread = np.sqrt(np.maximum(np.asarray(np.square(X - center)).mean(axis=0), 0.0))
        size[spread > ROUNDING * np.abs(center)] = spread[spread > ROUNDING * np.abs(center)]
    if sp.issparse(X):
        # The singular vectors of the centred matrix are those of the matrix up to the direction of the mean.
        kept = min(DIRECTIONS, *X.shape)
        _, _, Vt = randomized_svd(X, kept, random_state=derive(seed, "features") % 2**32)
        Z = np.asarray(X @ Vt.T) - center @ Vt.T
        Q, s, Wt = np.linalg.svd(Z, full_matrices=False)
        V = Vt.T @ Wt.T
    else:
        Q, s, Vt = np.linalg.svd((X - center) / size, full_matrices=False)
        V = Vt.T
    kept = int((s[:DIRECTIONS] > ROUNDING * max(s[0], ROUNDING)).sum()) if len(s) else 0
    parts = (np.ascontiguousarray(part) for part in (Q[:, :kept], s[:kept], V[:, :kept], center, size))
    return Features(*(torch.from_numpy(part) for part in parts))


def smooth_features(d: int, strength: float) -> Features:
    r"""Return features whose combinations are smooth functions of an index, for modes with an order, such as time.

    They are the cosines cos(pi k (i + 1/2) / d) for k = 1, 2, ..., which are orthogonal and have second differences of
    size proportional to k^2. Their prior standard deviations fall as k^-2, as a penalty of squared second differences
    prescribes.

    Args:
        d: number of indices.
        strength: standard deviation of the smooth part of a factor, in units of the part that is independent between
            indices.

    >>> made = smooth_features(6, 1.0)
    >>> bool(torch.allclose(made.Q.T @ made.Q, torch.eye(5).double()))
    True
    """
    frequencies = torch.arange(1, min(d, DIRECTIONS + 1), dtype=torch.float64)
    middles = torch.arange(d, dtype=torch.float64) + 0.5
    Q = torch.cos(torch.pi * middles[:, None] * frequencies / d) * (2 / d) ** 0.5
    s = strength * d**0.5 * frequencies**-2.0
    ones = torch.ones(len(s), dtype=torch.float64)
    return Features(Q, s, torch.eye(len(s), dtype=torch.float64), torch.zeros_like(ones), ones)


def strengths(smooth: Mapping[Key, float | str]) -> list[dict[Key, float]]:
    """Return the strengths of smooth modes that are to be tried: those given, or one mapping per strength of the grid.

    Modes whose strength is "auto" have a common one in every mapping. This keeps the number of trials small, and the
    data adapt the strength of every mode by itself.

    Args:
        smooth: {mode: strength, or "auto"}.

    Raises:
        ValueError: for a strength that is neither positive and finite nor "auto".

    >>> strengths({"day": "auto", "hour": 2.0})[:2]
    [{'day': 0.1, 'hour': 2.0}, {'day': 0.3, 'hour': 2.0}]
    """
    for mode, strength in smooth.items():
        number = isinstance(strength, Real) and not isinstance(strength, bool)
        if not (strength == AUTO if isinstance(strength, str) else number and 0 < float(strength) < math.inf):
            raise ValueError(
                f"the strength of mode {mode!r} in smooth is {strength!r}; it must be positive and finite, or 'auto'"
            )
    grid = STRENGTHS if AUTO in smooth.values() else (math.nan,)  # a grid of one, whose value is not used
    return [{mode: tried if given == AUTO else float(given) for mode, given in smooth.items()} for tried in grid]


def with_unknown(features: Features) -> Features:
    """Return features with one more row, for an index about which nothing is known: average features."""
    zero = torch.zeros(1, len(features.s), dtype=torch.float64)
    return replace(features, Q=torch.cat([features.Q, zero]))


def observed_with(observed: Observed, mode: int) -> sp.csr_matrix:
    """Return for every index of a mode of a matrix which indices of the other mode it is observed with.

    Which entries are observed says something about a row: people rate what they expect to like. A row is divided by the
    square root of its number of observations, so that rows with many observations are not features of larger size.

    Args:
        observed: entries of a matrix.
        mode: 0 for rows, 1 for columns.

    Returns:
        A sparse matrix with one row per index of the mode and one column per index of the other mode.
    """
    own, other = observed.indices[:, mode].cpu().numpy(), observed.indices[:, 1 - mode].cpu().numpy()
    shape = (observed.shape[mode], observed.shape[1 - mode])
    table = sp.csr_matrix((np.ones(len(own)), (own, other)), shape=shape)
    table.data[:] = 1.0
    counts = np.maximum(np.diff(table.indptr), 1)
    table.data /= np.sqrt(np.repeat(counts, np.diff(table.indptr)))
    return table


def encode(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return a frame of features as numbers: numeric columns as they are, and one column per value of any other.

    A missing number is replaced by the mean of its column, and a missing value of another column has zeros in all
    columns of its values.

    Args:
        frame: one row per row of the matrix.

    >>> encode(pd.DataFrame({"age": [20, 30, None], "job": ["cook", "nurse", "cook"]})).tolist()
    [[20.0, 1.0, 0.0], [30.0, 0.0, 1.0], [25.0, 1.0, 0.0]]
    """
    parts = []
    for k in range(frame.shape[1]):
        column = frame.iloc[:, k]
        if pd.api.types.is_numeric_dtype(column.dtype):
            values = column.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
            there = np.isfinite(values)
            parts.append(np.where(there, values, values[there].mean() if there.any() else 0.0)[:, None])
        else:
            parts.append(pd.get_dummies(column.astype(object).astype("category")).to_numpy(dtype=np.float64))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0))


def aligned(frame: pd.DataFrame, labels: Sequence[object] | pd.Index, name: str) -> NDArray[np.int64]:
    """Return for every label the position of its row in a frame of features.

    Args:
        frame: the features, with labels as index.
        labels: labels of the rows or columns of a matrix.
        name: what to call the frame in messages.

    Raises:
        ValueError: if a label is not in the index, or more than once.
    """
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()][0]
        raise ValueError(f"{name} has the label {twice!r} more than once; keep one row of features per label")
    found = frame.index.get_indexer(pd.Index(labels))
    if (found < 0).any():
        missing = pd.Index(labels)[found < 0]
        raise ValueError(
            f"{name} has no row for {len(missing)} labels, such as {missing[0]!r}; its index must have all labels of "
            f"the matrix"
        )
    return found.astype(np.int64)
