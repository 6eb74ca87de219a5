r"""The best layers of low rank for given inputs: cuts of what a layer computes, instead of cuts of its weight.

For a layer y = W x + b, let m be the mean and C the covariance of its outputs over some data, and U_r the r leading
eigenvectors of C. Among all layers of rank at most r, with any bias, the mean square of the difference to y is least
for

    W' = U_r U_r^T W,    b' = U_r U_r^T (b - m) + m,

and it is the sum of the eigenvalues of C beyond the first r. Proof: for any W' the best bias makes the means agree, so
let the outputs be centred, and let Y have those of all samples as columns. The outputs of a layer of rank at most r
form a matrix of rank at most r, and none is nearer to Y than U_r U_r^T Y (Eckart and Young), which W' computes. Nothing
is inverted, so inputs that span only a subspace are no special case.

If the inputs of the layer have changed to x', because layers before it were cut, the layer is fitted to the original
outputs: least squares give a matrix B, and among all matrices of rank at most r the best is U_r U_r^T B, with U_r the
leading eigenvectors of the covariance of B x' (reduced-rank regression).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.nn.calibration import Moments

# Ridge of the regression on changed inputs, in units of the mean variance of an input. It decides only in directions
# that the data hardly reach, where the fit keeps the weight of the plain layer.
RIDGE = 1e-4


@dataclass(frozen=True)
class OutputCut:
    r"""The best layers of every rank for given inputs, one for each group of a layer.

    The layer of rank r has the weight U_r U_r^T B and the bias U_r U_r^T (-c) + m, where U_r are the first r columns of
    `directions`, B is `weight`, c is `centre` and m is `mean`.

    Attributes:
        directions: orthonormal directions in the space of outputs, the most important first.
        spectrum: mean square of the outputs along each direction, in descending order.
        weight: the matrix that is projected on the first directions.
        centre: mean of `weight` times the inputs.
        mean: mean of the outputs that are to be computed.
        floor: mean square error that remains at full rank; 0 unless the inputs have changed.
        power: mean square of the outputs that are to be computed, summed over the outputs of a group.
    """

    directions: Float[Tensor, "groups outputs k"]
    spectrum: Float[Tensor, "groups k"]
    weight: Float[Tensor, "groups outputs inputs"]
    centre: Float[Tensor, "groups outputs"]
    mean: Float[Tensor, "groups outputs"]
    floor: Float[Tensor, " groups"]
    power: Float[Tensor, " groups"]

    def factors(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layer of a rank as two factors of each group's matrix, with balanced norms, and the bias.

        Args:
            rank: number of directions that are kept.

        Returns:
            The factor that is applied first, of shape (groups, rank, inputs), the last one, of shape (groups, outputs,
            rank), and the bias, of shape (groups, outputs).
        """
        basis = self.directions[..., :rank]
        inner = basis.mT @ self.weight
        # A tall matrix is decomposed several times faster than a wide one.
        V, s, Uh = torch.linalg.svd(inner.mT, full_matrices=False)
        root = s.sqrt()[:, None, :]
        bias = self.mean - (basis @ (basis.mT @ self.centre[..., None]))[..., 0]
        return (V * root).mT, (basis @ Uh.mT) * root, bias

    def errors(self) -> Float[Tensor, " ranks"]:
        """Return the mean square error of every rank from 0 to the largest, summed over groups and outputs."""
        tails = self.spectrum.sum(0).flip(0).cumsum(0).flip(0)
        return torch.cat([tails, tails.new_zeros(1)]) + self.floor.sum()

    def total(self) -> float:
        """Return the variance of the outputs that are to be computed, summed over groups and outputs."""
        return float((self.power - self.mean.square().sum(-1)).sum())


def principal_directions(
    covariance: Float[Tensor, "*batch n n"],
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n"]]:
    """Return the eigenvectors of covariances as columns, and the eigenvalues, in descending order.

    Args:
        covariance: symmetric matrices without negative eigenvalues; negative ones from rounding become 0.

    Returns:
        The eigenvectors and the eigenvalues.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return vectors.flip(-1), values.flip(-1).clamp(min=0)


def cut_of_outputs(
    weight: Float[Tensor, "groups outputs inputs"],
    bias: Float[Tensor, "groups outputs"],
    mean: Float[Tensor, "groups outputs"],
    covariance: Float[Tensor, "groups outputs outputs"],
) -> OutputCut:
    """Return the best layers of every rank, from the mean and the covariance of the outputs of a layer.

    Args:
        weight: the matrices of the layer.
        bias: the bias of the layer.
        mean: mean of the layer's outputs.
        covariance: covariance of the layer's outputs.

    Returns:
        The layers, with as many ranks as there are outputs.
    """
    directions, spectrum = principal_directions(covariance)
    power = spectrum.sum(-1) + mean.square().sum(-1)
    return OutputCut(directions, spectrum, weight, mean - bias, mean, torch.zeros_like(power), power)


def cut_of_inputs(
    weight: Float[Tensor, "groups outputs inputs"],
    bias: Float[Tensor, "groups outputs"],
    mean: Float[Tensor, "groups inputs"],
    covariance: Float[Tensor, "groups inputs inputs"],
) -> OutputCut:
    """Return the best layers of every rank, from the mean and the covariance of the inputs of a layer.

    They are those of `cut_of_outputs`. The covariance of the outputs is W S W^T for inputs of covariance S, so its
    eigenvectors are the left singular vectors of W S^(1/2). This form needs less memory if there are fewer inputs than
    outputs.

    Args:
        weight: the matrices of the layer.
        bias: the bias of the layer.
        mean: mean of the layer's inputs.
        covariance: covariance of the layer's inputs.

    Returns:
        The layers, with as many ranks as there are inputs.
    """
    directions, spectrum = _directions_of_product(weight, covariance)
    centre = (weight @ mean[..., None])[..., 0]
    power = spectrum.sum(-1) + (centre + bias).square().sum(-1)
    return OutputCut(directions, spectrum, weight, centre, centre + bias, torch.zeros_like(power), power)


def reduced_rank_regression(
    weight: Float[Tensor, "groups outputs inputs"], moments: Moments, ridge: float = RIDGE
) -> OutputCut:
    r"""Return the layers of every rank whose outputs on changed inputs are nearest to the original outputs.

    With S the covariance of the inputs and T that of outputs and inputs, the matrix B minimizes

        E|y - B x|^2 + e |B - W|^2,  both centred,  so  B = W + (T - W S) (S + e I)^(-1),

    where e is `ridge` times the mean of the diagonal of S. Along directions that the data do not reach, B is W.

    Args:
        weight: the matrices W of the plain layer.
        moments: the moments of the inputs, with the original outputs at their side.
        ridge: weight of the distance to W, in units of the mean variance of an input.

    Returns:
        The layers, with as many ranks as there are inputs or outputs, whichever are fewer.
    """
    S, T = moments.covariance, moments.cross / moments.count
    best = _least_squares(weight, S, T, ridge)
    directions, spectrum = _directions_of_product(best, S)
    variance = moments.scatter_of_others.sum(-1) / moments.count
    # E|y - B x|^2 = tr C - 2 tr(B T^T) + tr(B S B^T), and the projection adds the tail of the spectrum of B S B^T.
    floor = variance - 2 * (best * T).sum((-2, -1)) + spectrum.sum(-1)
    centre, target = (best @ moments.mean[..., None])[..., 0], moments.mean_of_others
    power = variance + target.square().sum(-1)
    return OutputCut(directions, spectrum, best, centre, target, floor.clamp(min=0), power)


def regression_without_bias(
    weight: Float[Tensor, "groups outputs inputs"], moments: Moments, ridge: float = RIDGE
) -> Float[Tensor, "groups outputs inputs"]:
    """Return the matrices that are best without a bias: `reduced_rank_regression` at full rank, with nothing centred.

    Args:
        weight: the matrices of the plain layer.
        moments: the moments of the inputs, with the original outputs at their side.
        ridge: weight of the distance to `weight`, in units of the mean square of an input.

    Returns:
        The matrices.
    """
    mean, beside = moments.mean, moments.mean_of_others
    S = moments.covariance + mean[..., None] * mean[..., None, :]
    T = moments.cross / moments.count + beside[..., None] * mean[..., None, :]
    return _least_squares(weight, S, T, ridge)


def _least_squares(weight: Tensor, S: Tensor, T: Tensor, ridge: float) -> Tensor:
    """Return the matrices B with the least E|y - B x|^2 + e |B - W|^2, from S = E x x^T and T = E y x^T."""
    strength = (ridge * S.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp(min=torch.finfo(S.dtype).tiny)
    regular = S + strength[:, None, None] * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    return weight + torch.linalg.solve(regular, (T - weight @ S).mT).mT


def _directions_of_product(
    weight: Float[Tensor, "groups outputs inputs"], covariance: Float[Tensor, "groups inputs inputs"]
) -> tuple[Float[Tensor, "groups outputs k"], Float[Tensor, "groups k"]]:
    """Return the eigenvectors and eigenvalues of W S W^T in descending order, as many as the smaller side of W."""
    outputs, inputs = weight.shape[-2:]
    if outputs <= inputs:
        return principal_directions(weight @ covariance @ weight.mT)
    vectors, values = principal_directions(covariance)
    half = weight @ (vectors * values.sqrt()[:, None, :])  # W S^(1/2) up to a rotation of its columns
    Q, R = torch.linalg.qr(half)
    U, s, _ = torch.linalg.svd(R)
    return Q @ U, s.square()
