"""Rows of a table of rank measures: one for each weight, and one for each tensor of several matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ranklens.nn.random_control import random_product_singular_values, random_singular_values
from ranklens.nn.spectrum import product_spectrum, spectrum
from ranklens.nn.weight_matrices import WeightMatrix
from ranklens.tensors import measures

# Default share of a weight's squared Frobenius norm that `rank_kept` components must hold.
ENERGY = 0.99
# Share of the squared norm by which `least_rank` may miss an energy. It absorbs rounding errors of the sum of squares,
# so that an energy of 1 does not keep singular values that are zero up to rounding.
ENERGY_SLACK = 1e-12
# Number of tensors that the message lists if none can be measured.
NAMES_SHOWN = 4
# Measures that count entries, which are added up over the matrices of a stack; others have their median.
COUNTS = ("parameters", "parameters_kept")


@dataclass(frozen=True)
class _Row:
    """The measures of a weight by name, its singular values, and the tensor in which it is one of several matrices."""

    name: str
    stack: str
    measures: dict[str, float]
    singular: NDArray[np.float64]


@dataclass
class Rows:
    """The rows of a table of rank measures, which are added one weight at a time.

    Attributes:
        energy: share of the squared Frobenius norm that the rank `rank_kept` must hold.
        seed: seed of the random matrices.
        skipped: tensors that are not measured, with the reasons.
    """

    energy: float
    seed: int
    skipped: dict[str, str] = field(default_factory=dict)
    _rows: list[_Row] = field(default_factory=list)
    _controls: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an energy that is not a share."""
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy is {self.energy}; it is a share of the squared norm, above 0 and at most 1")

    def skip(self, name: str, reason: str) -> None:
        """List a tensor that is not measured.

        Args:
            name: name of the tensor.
            reason: what follows the name in a sentence, such as "has no entries".
        """
        self.skipped[name] = reason

    def add(
        self,
        weight: WeightMatrix,
        singular: Float[Tensor, " values"] | None,
        *,
        cutoff: float | None = None,
        **others: float,
    ) -> None:
        """Add the row of a weight.

        Args:
            weight: the weight.
            singular: its singular values in descending order, or None if it has entries that are not finite.
            cutoff: size below which a singular value counts as zero; None takes the level of rounding.
            **others: more measures, by name; all rows must have the same ones.
        """
        if singular is None:
            self.skip(weight.name, "has entries that are not finite")
            return
        key = (*weight.shape, 0 if weight.right is None else len(weight.right))
        if key not in self._controls:
            self._controls[key] = _random(*key, self.seed)
        random = self._controls[key]
        if cutoff is None:
            cutoff = measures.rank_cutoff(weight.left.dtype, weight.shape) * float(singular[0])
        kept = least_rank(singular, self.energy)
        found = {
            "rows": weight.shape[0],
            "columns": weight.shape[1],
            "effective_rank": float(measures.effective_rank_of(singular)),
            "stable_rank": float(measures.stable_rank_of(singular)),
            "numerical_rank": int((singular > cutoff).sum()),
            "rank_kept": kept,
            "parameters": weight.parameters,
            "parameters_kept": min(weight.parameters, kept * sum(weight.shape)),
            "random_effective_rank": float(measures.effective_rank_of(random)),
            "random_stable_rank": float(measures.stable_rank_of(random)),
            "random_rank_kept": least_rank(random, self.energy),
            "matrices": 1,
            **others,
        }
        self._rows.append(_Row(weight.name, weight.stack, found, singular.numpy()))

    def dataset(self) -> xr.Dataset:
        """Return the table.

        Returns:
            A Dataset over `weight`, as `rank_profile` describes it.

        Raises:
            ValueError: if there is no row.
        """
        if not self._rows:
            raise ValueError(_nothing_measured(self.skipped))
        rows = list(_with_stacks(self._rows))
        longest = max(len(row.singular) for row in rows)
        padded = [np.pad(row.singular, (0, longest - len(row.singular)), constant_values=np.nan) for row in rows]
        columns = {name: ("weight", np.array([row.measures[name] for row in rows])) for name in rows[0].measures}
        return xr.Dataset(
            {**columns, "spectrum": (("weight", "value"), np.stack(padded))},
            coords={"weight": [row.name for row in rows], "part_of": ("weight", [row.stack for row in rows])},
            attrs={"energy": self.energy, "skipped": self.skipped},
        )


def singular_values(weight: WeightMatrix, device: torch.device | str | None = None) -> Tensor | None:
    """Return the singular values of a weight in descending order, or None if it has entries that are not finite.

    Args:
        weight: a weight.
        device: where to compute; None is where the weight is.
    """
    if weight.right is None:
        found = spectrum(weight.left, device=device)
    else:
        found = product_spectrum(weight.left, weight.right, device=device)
    return None if bool(torch.isnan(found).any()) else found


def _random(rows: int, columns: int, inner: int, seed: int) -> Tensor:
    """Return the singular values of a random matrix, or of a product of two with an inner size."""
    if inner:
        return random_product_singular_values(rows, columns, inner, seed=seed)
    return random_singular_values(rows, columns, seed=seed)


def _with_stacks(rows: list[_Row]) -> Iterator[_Row]:
    """Yield the rows, and before the first matrix of each stack a row for the stack."""
    by_stack: dict[str, list[_Row]] = {}
    for row in rows:
        by_stack.setdefault(row.stack, []).append(row)
    for row in rows:
        own = by_stack[row.stack]
        if row.stack and row is own[0]:
            found = {
                name: sum(each.measures[name] for each in own)
                if name in COUNTS
                else np.quantile([each.measures[name] for each in own], 0.5, method="lower").item()
                for name in row.measures
            }
            yield _Row(row.stack, "", found | {"matrices": len(own)}, np.median([x.singular for x in own], axis=0))
        yield row


def _nothing_measured(skipped: Mapping[str, str]) -> str:
    """Return the message for a model in which no weight can be measured."""
    told = [f"{name!r} {reason}" for name, reason in skipped.items() if reason != "has fewer than two axes"]
    shown = "; ".join(told[:NAMES_SHOWN]) + ("; ..." if len(told) > NAMES_SHOWN else "")
    if told:
        return f"no weight can be measured: {shown}"
    return f"there is no weight with two axes or more among {len(skipped)} tensors; pass a model or its state dict"


def least_rank(spectrum: Tensor, energy: float) -> int:
    """Return the least number of singular values whose squares add up to a share of all squares.

    Args:
        spectrum: singular values in descending order, of shape (values,).
        energy: the share, between 0 and 1; the result may miss it by `ENERGY_SLACK`.

    Returns:
        The number of singular values; 0 if all are zero.
    """
    return least_without(spectrum, 1 - energy + ENERGY_SLACK)


def least_without(spectrum: Tensor, share: float) -> int:
    """Return the least number of singular values such that all others hold at most a share of the squares.

    Args:
        spectrum: singular values in descending order, of shape (values,).
        share: the share of the sum of all squares that the singular values not counted may hold, between 0 and 1.

    Returns:
        The number of singular values to keep; 0 if all are zero.
    """
    squares = spectrum.double().square()
    tails = squares.flip(0).cumsum(0).flip(0)  # entry k is the sum of squares from the k-th singular value on
    return int((tails > share * tails[0]).sum())
