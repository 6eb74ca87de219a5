"""The assumption of the theorem that a tensor factorization first grows along rank-one tensors."""

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.problems import Completion
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork


@torch.enable_grad()
@checked
def leading_factor(net: TensorNetwork, task: Completion) -> Float[Tensor, " components"]:
    r"""Return the factor by which a component must be longer than all others to be the first to escape from zero.

    For component r with vectors w_r^1, ..., w_r^N and the gradient grad L(0) of the loss at the zero tensor it is

        (|grad L(0)| / <-grad L(0), w_r^1/|w_r^1| outer ... outer w_r^N/|w_r^N|>)^(1/(N-2))

    Here N is the number of modes. The inner product in the denominator is gamma_r, the alignment of the component with
    minus the gradient. Near zero the gradient of a Huber loss is constant. All N vectors of a balanced component have
    one norm u, which then grows as u' = u^(N-1) gamma, where gamma is the component's alignment at that time. It is at
    most |grad L(0)| for every component, and does not decrease in time for component r. A component blows up at the
    time u^-(N-2) / ((N-2) gamma). Component r blows up first if its u is larger than all others by this factor.

    Args:
        net: a CP network of order N >= 3; only the directions of its vectors matter.
        task: a completion of a tensor of the network's shape.

    Returns:
        (R,) one factor per component, at least 1; infinite for a component along which the loss does not fall.

    Raises:
        ValueError: for a network that is no CP of order 3 or more.

    Source: Razin, Maman, Cohen (ICML 2021), the assumption of the rank-one theorem.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=64)
    >>> factors = rl.theory.leading_factor(rl.cp((4, 4, 4), rank=50), task)
    >>> bool((factors >= 1).all()), bool(factors.isinf().any())
    (True, True)
    """
    if len(net.bonds) != 1 or net.order(net.bonds[0]) != len(net.shape) or len(net.shape) < 3:
        raise ValueError(f"{net.equation} is no CP of order 3 or more; make one with rl.cp")
    zero = torch.zeros(net.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(task.loss(zero), zero)
    with torch.no_grad():
        units = [node / node.norm(dim=0).clamp_min(torch.finfo(node.dtype).tiny) for node in net.nodes]
        gamma = -_aligned(gradient, units)
        order = len(net.shape)
        return (gradient.norm() / gamma.where(gamma > 0, 1.0)).pow(1 / (order - 2)).where(gamma > 0, torch.inf)


def _aligned(gradient: Tensor, vectors: list[Tensor]) -> Tensor:
    """Return the gradient contracted with the N vectors of every component, one mode after the other."""
    found = torch.tensordot(gradient, vectors[0], dims=([0], [0]))
    for vector in vectors[1:]:
        found = (found * vector.reshape(len(vector), *[1] * (found.ndim - 2), -1)).sum(dim=0)
    return found
