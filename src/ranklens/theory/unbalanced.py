"""Starts that are not balanced: the rates, bounds on them, and from when on the balanced law means something."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ranklens.tensors.init import check_chain
from ranklens.tensors.network import TensorNetwork
from ranklens.theory.rates import alignment, component_rate


@dataclass(frozen=True)
class Sandwich:
    """The rate of every component of a bond, and the bounds that its imbalance leaves.

    Attributes:
        lower: at most the rate.
        rate: d sigma_r / dt, exact.
        upper: at least the rate.
    """

    lower: Tensor
    rate: Tensor
    upper: Tensor


def sandwich(net: TensorNetwork, task: Any, bond: Hashable) -> Sandwich:
    r"""Bounds on d sigma_r / dt that know the norm, the alignment and the imbalance e_r of a component, nothing else.

        K gamma sigma^2 / (sigma^(2/K) + e)  <=  d sigma / dt  <=  K gamma (sigma^(2/K) + e)^(K-1)

    for gamma >= 0, and the other way round for gamma < 0. The rate is gamma sigma^2 sum_k |s_k|^-2, the least squared
    slice norm is at most their geometric mean sigma^(2/K), and all are at most that plus e: so every |s_k|^-2 is at
    least 1 / (sigma^(2/K) + e), which is the lower bound, and every sigma^2 |s_k|^-2, a product of K - 1 of them, at
    most (sigma^(2/K) + e)^(K-1). Both are the balanced law K gamma sigma^(2-2/K) at e = 0. That law is itself a lower
    bound on the rate's size, whatever e: a mean of the |s_k|^-2 is at least their geometric mean sigma^(-2/K).

    Args:
        net: the network, with no frozen node at the bond.
        task: a problem whose `loss` takes a network and a tensor.
        bond: a label from `net.bonds`.

    Returns:
        Bounds and rate, (R,) each. Where sigma_r = 0 the alignment has no direction, and the bounds are 0 beside the
        one-sided rate of `component_rate`.

    Raises:
        ValueError: for a label that is no bond, or one that meets a frozen node.

    Source: Razin, Maman, Cohen (ICML 2021, Theorem 2; ICML 2022, its hierarchical form), for each component.

    >>> import ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=2), observed=40)
    >>> found = rl.theory.sandwich(rl.cp((4, 4, 4), rank=3, std=0.5), task, "r")
    >>> bool((found.lower <= found.rate).all()), bool((found.rate <= found.upper).all())
    (True, True)
    """
    met = {k for k, _ in net.layout.meets(bond)}
    if met & set(net.layout.frozen):
        raise ValueError(f"bond {bond!r} meets a frozen node, which does not move; the bounds are about slices that do")
    gamma, rate = alignment(net, task, bond), component_rate(net, task, bond)
    with torch.no_grad():
        sigma, _, loose = _sizes(net, bond)
        order = net.order(bond)
        least, most = sigma.square() / loose.where(loose > 0, 1.0), loose ** (order - 1)
        ends = order * gamma * torch.stack([least, most])
        return Sandwich(ends.min(dim=0).values, rate, ends.max(dim=0).values)


@torch.no_grad()
def relative_imbalance(net: TensorNetwork, bond: Hashable) -> Float[Tensor, " size"]:
    r"""X_r = e_r / sigma_r^(2/K): how far each component is from balance, on the scale that matters to its law.

    The exact rate lies between 1 / (1 + x) and (1 + x)^(K-1) times the balanced law, by the sandwich. Imbalance is
    conserved while sigma moves, so small components are the unbalanced ones: the law has no meaning at their start.

    Args:
        net: the network.
        bond: a label from `net.bonds`.

    Returns:
        (R,); infinite for a component of norm zero whose slices differ, 0 for one that is zero altogether.

    Source: the sandwich of Razin, Maman, Cohen (ICML 2021, Theorem 2).

    >>> import ranklens as rl
    >>> net = rl.cp((4, 4, 4), rank=3, std=0.5)
    >>> before = rl.theory.relative_imbalance(net, "r")
    >>> bool((before > 0.1).all()), bool((rl.theory.relative_imbalance(rl.init.balance_(net), "r") < 1e-11).all())
    (True, True)
    """
    _, mean, loose = _sizes(net, bond)
    return torch.where(loose > mean, (loose - mean) / mean, 0.0)


def _sizes(net: TensorNetwork, bond: Hashable) -> tuple[Tensor, Tensor, Tensor]:
    """Sigma, sigma^(2/K), and that plus the imbalance of each component."""
    squares = net.slice_norms(bond).square()
    sigma = net.component_norms(bond)
    mean = sigma ** (2 / len(squares))
    return sigma, mean, mean + squares.max(dim=0).values - squares.min(dim=0).values


def balanced_from(record: xr.Dataset, name: str, share: float = 0.1) -> float:
    """From which time of a run on the balanced law means something for all components: where a ratio stays small.

    Args:
        record: of a flow or a descent that tracked `relative_imbalance` of the components that matter.
        name: under which name it did.
        share: the largest relative imbalance that is small.

    Returns:
        The first recorded time (or step) from which on all are at most `share`; infinite if the last record is not.

    Raises:
        ValueError: for a name that was not tracked, or a share that is not positive.

    >>> import ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=50)
    >>> net = rl.cp((4, 4, 4), rank=1, std=0.05)
    >>> run = rl.gradient_flow(net, task, track={"x": lambda net: rl.theory.relative_imbalance(net, "r")})
    >>> 0 < rl.theory.balanced_from(run, "x") < float(run.time[-1])  # not at the start, but once it has grown
    True
    """
    axis = next((axis for axis in ("time", "step") if axis in record.coords), None)
    if axis is None or name not in record:
        raise ValueError(f"the record has {list(record.variables)}, no {name!r} along time; track it first")
    if not share > 0:
        raise ValueError(f"share is {share}; it must be positive")
    values = record[name].values.reshape(record.sizes[axis], -1)
    small = np.all(values <= share, axis=1)
    if not small[-1]:
        return math.inf
    late = len(small) - int((~small[::-1]).argmax()) if not small.all() else 0
    return float(record[axis].values[late])


@torch.no_grad()
def lambda_balanced_(net: TensorNetwork, W0: Float[Tensor, "size size"], imbalance: float) -> TensorNetwork:
    r"""Fill a deep matrix of depth 2 with factors of W0 whose Gram matrices differ by a multiple of the identity.

        W2^T W2 - W1 W1^T = lambda I,    W2 = U diag(a) Q^T, W1 = Q diag(b) V^T,   a b = s, a^2 - b^2 = lambda

    for W0 = U diag(s) V^T and any orthogonal Q, here I.

    Args:
        net: a deep matrix of depth 2, square and as wide.
        W0: (d, d), the product.
        imbalance: lambda, of either sign; 0 is balance.

    Returns:
        The network.

    Raises:
        ValueError: for another network, or a W0 or lambda that is not finite.

    Source: Tarmoun, Franca, Haeffele, Vidal (ICML 2021), for the class of starts.

    >>> import torch, ranklens as rl
    >>> net = rl.theory.lambda_balanced_(rl.deep_matrix((3, 3), depth=2), torch.eye(3, dtype=torch.float64), 0.5)
    >>> rl.theory.conserved(net, "r1").round(decimals=6).abs().tolist()
    [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    check_chain(net)
    size = net.shape[0]
    if len(net.nodes) != 2 or {n for node in net.nodes for n in node.shape} != {size}:
        raise ValueError(
            f"{net.equation} has shapes {[tuple(x.shape) for x in net.nodes]}; pass a square one of depth 2"
        )
    if W0.shape != net.shape or not bool(torch.isfinite(W0).all()) or not math.isfinite(imbalance):
        raise ValueError(f"W0 has shape {tuple(W0.shape)}, or it or lambda = {imbalance} is not finite")
    U, s, Vh = torch.linalg.svd(W0.to(net.dtype))
    larger = (abs(imbalance) / 2 + (imbalance**2 / 4 + s.square()).sqrt()).sqrt()
    smaller = s / larger.where(larger > 0, 1.0)
    a, b = (larger, smaller) if imbalance >= 0 else (smaller, larger)
    net.nodes[0].copy_(U * a)
    net.nodes[1].copy_(b[:, None] * Vh)
    return net


@torch.no_grad()
def lambda_balanced_velocity(
    W: Float[Tensor, "size size"], gradient: Float[Tensor, "size size"], imbalance: float
) -> Float[Tensor, "size size"]:
    r"""D W / dt of the product of two factors with W2^T W2 - W1 W1^T = lambda I: a closed equation, for any lambda.

        W' = -(P G + G R),   P = W2 W2^T = lambda/2 + (lambda^2/4 + W W^T)^(1/2),
                             R = W1^T W1 = -lambda/2 + (lambda^2/4 + W^T W)^(1/2)

    In the basis of W = U S V^T it is -U ((p_i + r_j) g_ij) V^T with p, r the eigenvalues of P and R, whose
    diagonal gives the rate of the singular values,

        d sigma_r / dt = -sqrt(lambda^2 + 4 sigma_r^2) g_rr:

    2 sigma_r where sigma_r is large, the constant |lambda| where it is small: small ones do not wait, and may cross
    zero.

    Args:
        W: (d, d), the product.
        gradient: (d, d), of the loss in it.
        imbalance: lambda.

    Returns:
        (d, d).

    Source: Tarmoun, Franca, Haeffele, Vidal (ICML 2021); the balanced case is Arora, Cohen, Hazan (ICML 2018).

    >>> import torch, ranklens as rl
    >>> W, G = torch.diag(torch.tensor([3.0, 0.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    >>> rl.theory.lambda_balanced_velocity(W, G, 8.0).diagonal().tolist()  # -sqrt(64 + 36), -8
    [-10.0, -8.0]
    """
    U, s, Vh = torch.linalg.svd(W)
    larger = abs(imbalance) / 2 + (imbalance**2 / 4 + s.square()).sqrt()
    smaller = s.square() / larger.where(larger > 0, 1.0)  # without the cancellation in -lambda/2 + ...
    p, r = (larger, smaller) if imbalance >= 0 else (smaller, larger)
    return -U @ ((p[:, None] + r) * (U.T @ gradient @ Vh.T)) @ Vh
