"""What is proved of the 2 x 2 completion whose norms all grow to infinity."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Bounds2x2:
    """What det W > 0 proves about the 2 x 2 counterexample at a loss (half the sum of squares).

    Attributes:
        w11: |w11| is at least this; every unitarily invariant norm is at least that of e1 e1^T times this.
        sigma2: the smaller singular value, the distance to rank one, is at most this.
        effective_rank: is at most this.
    """

    w11: Tensor
    sigma2: Tensor
    effective_rank: Tensor


def bounds_2x2(loss: Float[Tensor, "*batch"] | float) -> Bounds2x2:
    r"""Bounds along any trajectory with det W > 0 on the 2 x 2 problem w12 = w21 = 1, w22 = 0, w11 unobserved.

    With e = sqrt(2 loss) < 1: w12, w21 >= 1 - e and |w22| <= e, so w11 w22 > w12 w21 > 0 gives |w11| >= (1 - e)^2 / e.
    The segment from W to the solution with the same w11 has length e and crosses det = 0, so sigma_2 <= e. Then
    p = sigma_2 / (sigma_1 + sigma_2) <= e^2 / (1 - e)^2 (or 1/2) bounds the effective rank by exp of the binary
    entropy of p.

    Args:
        loss: positive.

    Returns:
        The bounds, of the shape of `loss`; |w11| >= 0 and effective rank <= 2 are all there is to say for loss >= 1/2.

    Raises:
        ValueError: for a loss that is not positive.

    Source: Razin and Cohen (NeurIPS 2020), Theorem 1, with sharper constants.

    >>> import ranklens as rl
    >>> bounds = rl.theory.bounds_2x2(1e-4)
    >>> round(float(bounds.w11), 1), round(float(bounds.sigma2), 4), round(float(bounds.effective_rank), 4)
    (68.7, 0.0141, 1.002)
    """
    loss = torch.as_tensor(loss, dtype=torch.float64)
    if not bool((loss > 0).all()):
        raise ValueError(f"loss is {float(loss.min())}; the bounds are about positive losses")
    e = (2 * loss).sqrt()
    inside = (1 - e).clamp_min(0)
    p = (e.square() / inside.square().where(inside > 0, e.square())).clamp_max(0.5)
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    return Bounds2x2(inside.square() / e, e, entropy.exp())
