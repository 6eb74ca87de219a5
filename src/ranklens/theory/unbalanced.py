"""Networks that are not balanced: bounds on their rates, and the time from which the balanced law is accurate."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ranklens.problems.problem import TensorProblem
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked
from ranklens.tensors.convert import TensorLike, as_floating
from ranklens.tensors.init import check_chain
from ranklens.tensors.network import TensorNetwork, check_network
from ranklens.theory.rates import alignment, component_rate


@dataclass(frozen=True)
class Sandwich:
    """The rate of every component of a bond, and bounds that follow from its imbalance.

    Attributes:
        lower: (R,) lower bounds on the rates.
        rate: (R,) exact rates d sigma_r / dt.
        upper: (R,) upper bounds on the rates.
    """

    lower: Tensor
    rate: Tensor
    upper: Tensor


@checked
def sandwich(net: TensorNetwork, task: TensorProblem, bond: Hashable) -> Sandwich:
    r"""Return bounds on d sigma_r / dt that depend only on norm sigma, alignment gamma and imbalance e of a component.

        K gamma sigma^2 / (sigma^(2/K) + e)  <=  d sigma / dt  <=  K gamma (sigma^(2/K) + e)^(K-1)

    for gamma >= 0; for gamma < 0 both inequalities are reversed. K is the order of the bond. The alignment gamma is the
    inner product of minus the gradient of the loss in the end tensor with C_r / sigma_r, where C_r is the part of
    component r in the end tensor, see `alignment`. The imbalance e is the difference between the largest and the
    smallest squared slice norm |s_k|^2.

    The rate is gamma sigma^2 sum_k |s_k|^-2. The smallest squared slice norm is at most the geometric mean sigma^(2/K)
    of all, so all are at most sigma^(2/K) + e. Hence every |s_k|^-2 is at least 1 / (sigma^(2/K) + e), which gives the
    lower bound. Every sigma^2 |s_k|^-2 is a product of K - 1 squared slice norms, so it is at most
    (sigma^(2/K) + e)^(K-1), which gives the upper bound. At e = 0 both bounds are the balanced law
    K gamma sigma^(2-2/K). The size of this law is a lower bound on the size of the rate for every e, because the mean
    of the |s_k|^-2 is at least their geometric mean sigma^(-2/K).

    Args:
        net: the network, with no frozen node at the bond.
        task: a problem whose `loss` takes a network or, in its place, a tensor of the network's shape.
        bond: a label from `net.bonds`.

    Returns:
        Bounds and rates, (R,) each. Where sigma_r > 0, lower <= rate <= upper, for both signs of gamma. A component
        with sigma_r = 0 has no direction: its bounds are 0, although its one-sided rate may differ from 0, see
        `component_rate`.

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
@checked
def relative_imbalance(net: TensorNetwork, bond: Hashable) -> Float[Tensor, " size"]:
    r"""Return x_r = e_r / sigma_r^(2/K), the imbalance of each component relative to its size.

    The imbalance e_r is the difference between the largest and the smallest squared slice norm, and K is the order of
    the bond. By `sandwich`, the exact rate lies between 1 / (1 + x) and (1 + x)^(K-1) times the balanced law. Gradient
    flow conserves e_r while sigma_r changes, so a component is far from balance while it is small, and the balanced
    law does not describe it then.

    Args:
        net: the network.
        bond: a label from `net.bonds`.

    Returns:
        (R,) values; infinite for a component of norm zero with a slice that is not zero, 0 for a component whose slices
        are all zero.

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
    """Return sigma, sigma^(2/K), and the sum of sigma^(2/K) and the imbalance, of each component."""
    squares = net.slice_norms(bond).square()
    sigma = net.component_norms(bond)
    mean = sigma ** (2 / len(squares))
    return sigma, mean, mean + squares.max(dim=0).values - squares.min(dim=0).values


@checked
def balanced_from(record: xr.Dataset, name: str, share: float = 0.1) -> float:
    """Return the time from which on the balanced law describes all components: their relative imbalance stays small.

    Args:
        record: the record of a flow or descent that tracked `relative_imbalance` of some components.
        name: name of the tracked variable.
        share: the largest relative imbalance that counts as small.

    Returns:
        The first recorded time (or step) from which on all values are at most `share`; infinite if the last recorded
        values are not.

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
        raise ValueError(f"name is {name!r}, but the record has {list(record.variables)} along time; track it first")
    if not share > 0:
        raise ValueError(f"share is {share}; it must be positive")
    values = record[name].values.reshape(record.sizes[axis], -1)
    small = np.all(values <= share, axis=1)
    if not small[-1]:
        return math.inf
    late = len(small) - int((~small[::-1]).argmax()) if not small.all() else 0
    return float(record[axis].values[late])


@torch.no_grad()
def lambda_balanced_(net: TensorNetwork, W0: TensorLike, imbalance: float) -> TensorNetwork:
    r"""Fill a deep matrix of depth 2 with factors of W0 whose Gram matrices differ by lambda times the identity.

        W2^T W2 - W1 W1^T = lambda I,    W2 = U diag(a) Q^T, W1 = Q diag(b) V^T,   a b = s, a^2 - b^2 = lambda

    for the singular value decomposition W0 = U diag(s) V^T, vectors a and b (products and squares are entrywise) and
    any orthogonal Q; this function takes Q = I.

    Args:
        net: a square deep matrix of depth 2 whose width is its number of rows.
        W0: (d, d) product of the two factors: a tensor, a numpy array or nested lists.
        imbalance: lambda, of either sign; 0 gives balanced factors.

    Returns:
        The network, which is changed in place.

    Raises:
        ValueError: for another kind of network, a W0 of another shape, or a W0 or lambda that is not finite.

    Source: Tarmoun, Franca, Haeffele, Vidal (ICML 2021), for the class of starts.

    >>> import torch, ranklens as rl
    >>> net = rl.theory.lambda_balanced_(rl.deep_matrix((3, 3), depth=2), torch.eye(3, dtype=torch.float64), 0.5)
    >>> rl.theory.conserved(net, "r1").round(decimals=6).abs().tolist()
    [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    """
    check_chain(check_network("net", net))
    imbalance = arguments.number("imbalance", imbalance)
    size = net.shape[0]
    if len(net.nodes) != 2 or {n for node in net.nodes for n in node.shape} != {size}:
        raise ValueError(
            f"{net.equation} has shapes {[tuple(x.shape) for x in net.nodes]}; pass a square one of depth 2"
        )
    product = as_floating("W0", W0)
    if product.shape != net.shape or not bool(torch.isfinite(product).all()):
        raise ValueError(f"W0 has shape {tuple(product.shape)}; pass a finite W0 of shape {net.shape}")
    U, s, Vh = torch.linalg.svd(product.to(net.nodes[0]))
    larger = (abs(imbalance) / 2 + (imbalance**2 / 4 + s.square()).sqrt()).sqrt()
    smaller = s / larger.where(larger > 0, 1.0)
    a, b = (larger, smaller) if imbalance >= 0 else (smaller, larger)
    net.nodes[0].copy_(U * a)
    net.nodes[1].copy_(b[:, None] * Vh)
    return net


@torch.no_grad()
@checked
def lambda_balanced_velocity(W: TensorLike, gradient: TensorLike, imbalance: float) -> Float[Tensor, "size size"]:
    r"""Return d W / dt for the product W = W2 W1 of two factors with W2^T W2 - W1 W1^T = lambda I under gradient flow.

    Gradient flow conserves that difference, which makes the equation closed in W:

        W' = -(P G + G R),   P = W2 W2^T = lambda/2 + (lambda^2/4 + W W^T)^(1/2),
                             R = W1^T W1 = -lambda/2 + (lambda^2/4 + W^T W)^(1/2)

    Here G is the gradient of the loss in W. With W = U S V^T, g = U^T G V, and the eigenvalues p of P and r of R, the
    equation reads W' = -U ((p_i + r_j) g_ij) V^T, and its diagonal is the rate of the singular values,

        d sigma_r / dt = -sqrt(lambda^2 + 4 sigma_r^2) g_rr.

    The square root is about 2 sigma_r for large sigma_r and about |lambda| for small sigma_r. Small singular values
    therefore do not wait on a plateau, and may cross zero.

    Args:
        W: (d, d) product, as a tensor, a numpy array or nested lists.
        gradient: (d, d) gradient of the loss in W.
        imbalance: lambda, of either sign.

    Returns:
        (d, d), the rate of every entry of W.

    Raises:
        ValueError: if W or the gradient is not square, or they differ in size.

    Source: Tarmoun, Franca, Haeffele, Vidal (ICML 2021); the balanced case is Arora, Cohen, Hazan (ICML 2018).

    >>> import torch, ranklens as rl
    >>> W, G = torch.diag(torch.tensor([3.0, 0.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    >>> rl.theory.lambda_balanced_velocity(W, G, 8.0).diagonal().tolist()  # -sqrt(64 + 36), -8
    [-10.0, -8.0]
    """
    product = as_floating("W", W)
    G = as_floating("gradient", gradient).to(product)
    for name, matrix in {"W": product, "gradient": G}.items():
        if matrix.ndim != 2 or matrix.shape != product.T.shape:
            raise ValueError(f"{name} has shape {tuple(matrix.shape)}; W and gradient are square and of one size")
    U, s, Vh = torch.linalg.svd(product)
    larger = abs(imbalance) / 2 + (imbalance**2 / 4 + s.square()).sqrt()
    smaller = s.square() / larger.where(larger > 0, 1.0)  # the difference -lambda/2 + (...)^(1/2) would cancel
    p, r = (larger, smaller) if imbalance >= 0 else (smaller, larger)
    return -U @ ((p[:, None] + r) * (U.T @ G @ Vh.T)) @ Vh
