"""The change of every weight from one checkpoint to another: its rank, its size, and the directions that turned."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import xarray as xr
from torch import Tensor

from ranklens import progress as reports
from ranklens.nn.factorable import PARALLEL, PEFT, WRAPPED
from ranklens.nn.rank_profile import Scale, Weights, named_weights
from ranklens.nn.rank_rows import ENERGY, Rows, singular_values
from ranklens.nn.spectrum import gram_matrix
from ranklens.nn.stored_parts import working_dtype
from ranklens.nn.weight_matrices import Skipped, WeightMatrix, matrices_of, units
from ranklens.tensors import arguments, measures
from ranklens.tensors.annotations import checked

# Default number of leading singular vectors that are compared.
LEADING = 10
# Cosine below which a singular vector counts as far from another, as published for intruder dimensions.
FAR = 0.5
# Names that the message shows of either checkpoint if they have none in common.
NAMES_SHOWN = 3
# Size of the largest singular value that counts as rounding, in units of that of the errors of storing both weights.
ROUNDINGS = 2.0
# Rows of a weight that are converted to float64 at a time.
BLOCK_ROWS = 4096


@checked
def rank_difference(
    before: Weights,
    after: Weights,
    *,
    leading: int = LEADING,
    far: float = FAR,
    energy: float = ENERGY,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | reports.Report | None = None,
) -> xr.Dataset:
    r"""Return rank measures of the change of every weight between two checkpoints, and how far its directions turned.

    For a weight W before and W + D after, the table has the measures of `rank_profile` for D, and compares the singular
    vectors of W and W + D. The leading k vectors of each span a subspace on either side of the weight; the principal
    angles between the two subspaces are the arc cosines of the singular values of the matrix of inner products, and the
    larger angles of the two sides count. An *intruder* is one of the leading k components of W + D whose left or right
    singular vector has a cosine below `far` with every such vector of W: training put this direction in, rather than
    turned one that was there.

    A singular value of D counts in `numerical_rank` if it exceeds those of rounding errors. A stored number is off by
    at most eps / 2 of its size, for the rounding error eps of its dtype, so that the entry of D at an entry w of W has
    an error of root mean square e = eps (w^2 + (w + d)^2)^(1/2) / 12^(1/2) at most. The largest singular value of a
    matrix of independent errors is about the largest norm of a row of e plus the largest norm of a column; twice that
    is the threshold, because the numbers were rounded when they were computed, too.

    Args:
        before: the model at first: a module, a mapping of names to tensors, or the path of a checkpoint.
        after: the model later.
        leading: number k of leading singular vectors that are compared, at least 1; at most as many as the rank of W
            and of W + D are.
        far: cosine below which a vector is an intruder, above 0 and at most 1.
        energy: share of the squared norm of the change that the rank `rank_kept` holds.
        seed: seed of the random matrices.
        device: where to compute, such as "cuda"; None is where the weights are.
        progress: a function that is told which weight is measured; True for a line on the terminal.

    Returns:
        A Dataset over `weight` with the variables of `rank_profile` for the change, and: change (the norm of D over
        that of W, in Frobenius norm; infinite for a zero W), compared (the number k of vectors that were compared),
        largest_angle and mean_angle (of the k principal angles, in degrees; NaN if k is 0), and intruders. Weights of
        one model alone, and weights of different shapes, are in the attribute `skipped`.

    Raises:
        ValueError: if the two have no weight in common, or an argument is out of range.

    Source: Björck and Golub (Mathematics of Computation 1973) for principal angles; Shuttleworth, Andreas, Torralba,
        Sharma (2024, arXiv:2410.21228) for intruder dimensions; Bandeira and van Handel (Annals of Probability 2016)
        for the norm of random matrices.

    >>> import torch, ranklens as rl
    >>> W, new = torch.diag(torch.arange(8.0, 0.0, -1.0)), torch.zeros(8, 8)
    >>> new[:, 7] = 20 * torch.ones(8) / 8**0.5  # a change of rank 1, larger than the weight, in a mixed direction
    >>> found = rl.nn.rank_difference({"w": W}, {"w": W + new}, leading=2)
    >>> int(found.numerical_rank[0]), int(found.intruders[0]), round(float(found.change[0]), 2)
    (1, 1, 1.4)
    """
    arguments.device("device", device)
    if leading < 1:
        raise ValueError(f"leading is {leading}; it is a number of singular vectors, at least 1")
    if not 0 < far <= 1:
        raise ValueError(f"far is {far}; it is a cosine, above 0 and at most 1")
    rows = Rows(energy, seed)
    (old, old_scale), (new, new_scale) = named_weights(before), named_weights(after)
    earlier = {_bare(name): unit for name, unit in units(old).items()}
    later = units(new)
    _check_names(list(earlier), [_bare(name) for name in later])
    with reports.reporter(progress) as report:
        for place, (name, unit) in enumerate(later.items(), start=1):
            report(f"weight {place} of {len(later)}: {name}")
            if _bare(name) not in earlier:
                rows.skip(name, "is in the later model only")
                continue
            pairs = _pairs(_named(old, earlier[_bare(name)], old_scale), _named(new, unit, new_scale))
            for found in pairs:
                if isinstance(found, Skipped):
                    rows.skip(found.name, found.reason)
                else:
                    _add(rows, found, leading, far, device)
    gone = set(earlier) - {_bare(name) for name in later}
    for name in earlier:
        if name in gone:
            rows.skip(name, "is in the earlier model only")
    return rows.dataset().assign_attrs(leading=leading, far=far)


@dataclass(frozen=True)
class _Pair:
    """A weight before and after."""

    before: WeightMatrix
    after: WeightMatrix


def _bare(name: str) -> str:
    """Return a name without what wrappers put before it."""
    return WRAPPED.sub("", name).removeprefix(".").removeprefix(PARALLEL).removeprefix(PEFT)


def _check_names(before: list[str], after: list[str]) -> None:
    """Refuse models that have no name in common.

    Raises:
        ValueError: if there is none.
    """
    if not set(before) & set(after):
        raise ValueError(
            f"the two models have no weight of one name in common: before has {before[:NAMES_SHOWN]}, after has "
            f"{after[:NAMES_SHOWN]}; give two checkpoints of the same architecture"
        )


def _named(weights: Mapping[str, object], unit: object, scale: Scale | None) -> dict[str, WeightMatrix | Skipped]:
    """Return the matrices of one weight by name."""
    return {_bare(found.name): found for found in matrices_of(unit, weights, scale)}  # type: ignore[arg-type]


def _pairs(
    before: dict[str, WeightMatrix | Skipped], after: dict[str, WeightMatrix | Skipped]
) -> Iterator[_Pair | Skipped]:
    """Yield the matrices of one weight before and after, or why two cannot be compared."""
    for name, new in after.items():
        old = before.get(name)
        if isinstance(new, Skipped):
            yield new
        elif old is None:
            yield Skipped(new.name, "is in the later model only")
        elif isinstance(old, Skipped):
            yield Skipped(new.name, f"{old.reason} in the earlier model")
        elif old.shape != new.shape:
            yield Skipped(new.name, f"has shape {new.shape}, and {old.shape} in the earlier model")
        else:
            yield _Pair(old, new)
    for name in before.keys() - after.keys():
        yield Skipped(name, "is in the earlier model only")


def _add(rows: Rows, pair: _Pair, leading: int, far: float, device: torch.device | str | None) -> None:
    """Add the row of one weight."""
    old, new = pair.before.matrix(), pair.after.matrix()
    eps = max(torch.finfo(matrix.dtype).eps for matrix in (old, new))
    working = working_dtype(old, new)
    old, new = (matrix.to(working) if matrix.itemsize == 1 else matrix for matrix in (old, new))
    if not bool(torch.isfinite(old).all() & torch.isfinite(new).all()):
        rows.skip(pair.after.name, "has entries that are not finite")
        return
    change = new.to(working) - old.to(working)
    found = WeightMatrix(pair.after.name, change, stack=pair.after.stack)
    turned, size = _directions(old, new, eps, leading, far, device)
    norms = [_largest_norm(old, new, axis) for axis in (0, 1)]
    rounding = ROUNDINGS * eps / math.sqrt(12) * sum(norms)
    singular = singular_values(found, device)
    if singular is not None:  # the decomposition itself rounds, which matters for weights in float64
        rounding = max(rounding, measures.rank_cutoff(torch.float64, found.shape) * float(singular[0]))
    norm = float(change.double().norm()) if singular is None else float(singular.norm())
    relative = norm / size if size > 0 else (math.inf if norm > 0 else 0.0)
    rows.add(found, singular, cutoff=rounding, change=relative, **turned)


def _largest_norm(old: Tensor, new: Tensor, axis: int) -> float:
    """Return the largest norm along an axis of the entries of two matrices together."""
    squares = [torch.linalg.vector_norm(x, dim=axis, dtype=torch.float64).square() for x in (old, new)]
    return float((squares[0] + squares[1]).max().sqrt())


def _directions(
    old: Tensor, new: Tensor, eps: float, leading: int, far: float, device: torch.device | str | None
) -> tuple[dict[str, float], float]:
    """Return how far the leading singular vectors turned, and the Frobenius norm of the weight before."""
    if old.shape[0] < old.shape[1]:
        old, new = old.T, new.T
    (s_old, V_old), (s_new, V_new) = (_vectors(matrix, device) for matrix in (old, new))
    cutoff = min(max(old.shape) * eps, measures.LARGEST_CUTOFF)
    rank = int((s_old > cutoff * s_old[0]).sum())
    k = min(leading, rank, int((s_new > cutoff * s_new[0]).sum()))
    found: dict[str, float] = {"compared": k, "largest_angle": math.nan, "mean_angle": math.nan, "intruders": 0}
    if k:
        right = V_old.T @ V_new[:, :k]
        # U^T U' = S^-1 (V^T W^T) (W' V') S'^-1 for the decompositions W = U S V^T before and W' = U' S' V'^T after.
        left = V_old[:, :rank].T @ _cross(old, new, V_new[:, :k]) / s_old[:rank, None] / s_new[:k]
        angles = torch.maximum(_angles(left[:k]), _angles(right[:k]))
        nearest = torch.minimum(left.abs().amax(dim=0), right.abs().amax(dim=0))
        found |= {"largest_angle": float(angles[-1]), "mean_angle": float(angles.mean())}
        found["intruders"] = int((nearest < far).sum())
    return found, float(s_old.norm())


def _angles(cosines: Tensor) -> Tensor:
    """Return the principal angles in degrees, in ascending order, from the inner products of two orthonormal bases."""
    return torch.linalg.svdvals(cosines).clamp(max=1).acos().rad2deg()


def _cross(old: Tensor, new: Tensor, vectors: Tensor) -> Tensor:
    """Return old^T new vectors in float64, over blocks of rows."""
    found = torch.zeros(old.shape[1], vectors.shape[1], dtype=torch.float64)
    for rows, others in zip(old.split(BLOCK_ROWS), new.split(BLOCK_ROWS), strict=True):
        found += rows.cpu().double().T @ (others.cpu().double() @ vectors)
    return found


def _vectors(matrix: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """Return the singular values, and the singular vectors on the smaller side as columns, in descending order."""
    eigenvalues, vectors = torch.linalg.eigh(gram_matrix(matrix, device=device), UPLO="U")
    return eigenvalues.clamp_min(0).sqrt().flip(0).cpu(), vectors.flip(1).cpu()
