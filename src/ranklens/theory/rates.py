"""How fast components and singular values move under gradient flow, what it conserves, and when it escapes."""

import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.tensors import contract, init
from ranklens.tensors.network import TensorNetwork, differences, slices

DIFFERENCE = 1e-5  # of the parameters' size: rounding and truncation of order 4 both stay below 1e-9


@torch.enable_grad()  # a run tracks its quantities under no_grad
def component_rate(net: TensorNetwork, task: Any, bond: Hashable) -> Float[Tensor, " size"]:
    r"""D sigma_r / dt under gradient flow for every component of a bond, exact from any start, balanced or not.

        d sigma_r / dt = gamma_r sigma_r^2 sum_k |s_k|^(-2),    gamma_r = <-grad L, C_r / sigma_r>

    with s_k the K slices of component r and C_r what it adds to the end tensor. Each slice moves by minus its
    gradient g_k, and <s_k, g_k> = <grad L, C_r> whatever k, because a node is used once. At a balanced point it
    is K sigma^(2-2/K) gamma. Where exactly one slice is zero its norm starts to grow, and the rate is that (one-sided)
    derivative.

    Args:
        net: the network; frozen nodes do not move and add nothing.
        task: a problem, with a differentiable `loss(net)`.
        bond: a label from `net.bonds`.

    Returns:
        One rate per value r of the bond.

    Raises:
        ValueError: for a label that is no bond.

    Source: Razin, Maman, Cohen (ICML 2021, Theorem 1; ICML 2022, Theorem 3), for the bonds of any network.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=2), observed=40)
    >>> net = rl.init.balance_(rl.cp((4, 4, 4), rank=3, std=0.5))
    >>> sigma, gamma = net.component_norms("r"), rl.theory.alignment(net, task, "r")
    >>> bool(torch.allclose(rl.theory.component_rate(net, task, "r"), 3 * sigma ** (4 / 3) * gamma))
    True
    """
    gradients = net.gradients(task.loss(net))
    meets = net.layout.meets(bond)
    with torch.no_grad():
        nodes = net.nodes
        s = net.slice_norms(bond)
        rate = torch.zeros_like(s[0])
        for position, (k, axis) in enumerate(meets):
            if k in net.layout.frozen:
                continue
            others = torch.cat([s[:position], s[position + 1 :]]).prod(dim=0)
            inner = -(slices(nodes[k], axis) * slices(gradients[k], axis)).sum(dim=1)
            speed = torch.where(
                s[position] > 0, inner / s[position].where(s[position] > 0, 1.0), slices(gradients[k], axis).norm(dim=1)
            )
            rate += others * speed
        return rate


@torch.enable_grad()
def alignment(net: TensorNetwork, task: Any, bond: Hashable) -> Float[Tensor, " size"]:
    r"""gamma_r = <-grad L(W), C_r / sigma_r>: how well each component points where the loss of the END tensor falls.

    It comes from the gradient in the end tensor alone, so that it can stand against rates of norms measured from
    a trajectory. C_r / sigma_r is a unit tensor for CP; in a tree it holds all the other nodes.

    Args: as for `component_rate`, with a task whose `loss` takes a tensor too. Components of norm zero have no
    direction: their gamma is 0.
    """
    gradient = end_gradient(net, task)
    k, axis = net.layout.meets(bond)[0]
    with torch.no_grad():
        nodes, norms = list(net.nodes), net.component_norms(bond)
    node = nodes[k].detach().requires_grad_()
    nodes[k] = node
    (slope,) = torch.autograd.grad((contract.tensor(net.layout, nodes) * gradient).sum(), node)
    with torch.no_grad():
        inner = -(slices(node, axis) * slices(slope, axis)).sum(dim=1)
        return (inner / norms.where(norms > 0, 1.0)).where(norms > 0, 0.0)


@torch.enable_grad()
def end_gradient(net: TensorNetwork, task: Any) -> Tensor:
    """The gradient of the loss in the END tensor, as if its entries were free; what every law of the talk is about.

    Args:
        net: the network.
        task: a problem whose `loss` takes a tensor.

    Returns:
        A tensor of shape `net.shape`.

    >>> import torch, ranklens as rl
    >>> task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), std=0.0)
    >>> rl.theory.end_gradient(net, task).tolist()  # prediction minus observation; nothing where nothing is observed
    [[0.0, -1.0], [-1.0, 0.0]]
    """
    with torch.no_grad():
        end = net.tensor()
    end.requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(end), end)
    return gradient


@torch.enable_grad()
def singular_value_rate(net: TensorNetwork, task: Any, *, balanced: bool = False) -> Float[Tensor, " size"]:
    r"""D sigma_r / dt under gradient flow for the singular values of a network of two modes.

    sigma' = <u_r, W' v_r>, with W' = -sum_k (W with node k replaced by its gradient): exact from any start. For a
    balanced deep matrix it is the law of its depth L,

        d sigma_r / dt = -L sigma_r^(2 - 2/L) <grad L(W), u_r v_r^T>.

    Args:
        net: a network whose end tensor is a matrix.
        task: a problem, with a differentiable `loss(net)`; the law needs that of a tensor too.
        balanced: True evaluates the law instead, whether or not the factors are balanced.

    Returns:
        One rate per singular value, largest first; it presumes that they differ.

    Raises:
        ValueError: for a network of other order, or `balanced=True` for what is no deep matrix or has frozen factors.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019), Theorem 3.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.low_rank_matrix((5, 5), 2), observed=15)
    >>> net = rl.init.balance_(rl.deep_matrix((5, 5), depth=3, std=0.5))
    >>> law = rl.theory.singular_value_rate(net, task, balanced=True)
    >>> bool(torch.allclose(rl.theory.singular_value_rate(net, task), law, rtol=1e-9))
    True
    """
    if len(net.shape) != 2:
        raise ValueError(f"the end tensor has {len(net.shape)} modes; singular values are those of a matrix")
    with torch.no_grad():
        W = net.tensor()
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    if balanced:
        init.check_chain(net)
        if net.frozen:
            raise ValueError(f"nodes {net.frozen} are frozen; the law is about factors that all move")
        G, depth = end_gradient(net, task), len(net.nodes)
        return -depth * S ** (2 - 2 / depth) * torch.einsum("ir,ij,rj->r", U, G, Vh)
    gradients = net.gradients(task.loss(net))
    with torch.no_grad():
        nodes = net.nodes
        change = torch.zeros_like(W)
        for k, gradient in enumerate(gradients):
            change -= contract.tensor(net.layout, [*nodes[:k], gradient, *nodes[k + 1 :]])
        return torch.einsum("ir,ij,rj->r", U, change, Vh)


@torch.enable_grad()
def measured_rate(net: TensorNetwork, task: Any, quantity: Callable[[TensorNetwork], Tensor]) -> Tensor:
    """The rate of any quantity under gradient flow, by a central difference of order 4 along minus the gradient.

    It knows no theorem, and is what the others are held against. The network is not changed.

    Args:
        net: the network, in float64.
        task: a problem, with a differentiable `loss(net)`.
        quantity: a function of a network.

    Returns:
        A tensor of the quantity's shape, exact to about 1e-9 of the quantity over the time |theta| / |gradient|.

    >>> import torch, ranklens as rl
    >>> task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), depth=2, std=0.5)
    >>> rate = rl.theory.measured_rate(net, task, lambda net: net.component_norms("r1"))
    >>> bool(torch.allclose(rate, rl.theory.component_rate(net, task, "r1"), rtol=1e-6))
    True
    """
    gradients = net.gradients(task.loss(net))
    with torch.no_grad():
        size = math.sqrt(sum(float(node.square().sum()) for node in net.nodes))
        slope = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        step = DIFFERENCE * (size or 1.0) / slope if slope > 0 else 1.0
        found = {}
        for k in (1, -1, 2, -2):
            nodes = [node - k * step * g for node, g in zip(net.nodes, gradients, strict=True)]
            found[k] = quantity(TensorNetwork((net.layout.nodes, net.layout.out), nodes).freeze(*net.frozen))
        return (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * step)


def conserved(net: TensorNetwork, bond: Hashable) -> Tensor:
    """What gradient flow conserves at a bond, whatever the loss; zero when the bond is balanced.

    A bond of order 2 conserves the whole difference of its two Gram matrices (the network depends on the product of the
    two nodes over it, so both change by the same matrix); one of order K the K - 1 differences of
    the first node's squared slice norms and every other's.

    Args:
        net: the network. Frozen nodes conserve nothing and are left out.
        bond: a label from `net.bonds`.

    Returns:
        (R, R) for a bond of order 2, (K - 1, R) for a higher one.

    Raises:
        ValueError: for a label that is no bond.

    Source: Arora, Cohen, Hazan (ICML 2018); Razin, Maman, Cohen (ICML 2021, 2022).

    >>> import ranklens as rl
    >>> net = rl.init.balance_(rl.deep_matrix((4, 4), depth=2, std=0.5))
    >>> bool(rl.theory.conserved(net, "r1").abs().max() < 1e-12)
    True
    """
    with torch.no_grad():
        return differences(net, bond)


@torch.enable_grad()
def escape_time(net: TensorNetwork, task: Any) -> float:
    r"""About how long the flow stays where it is: the answer to "why is nothing moving?".

    Near zero the loss is a constant minus a function homogeneous of degree M, the number of trained nodes, so
    that the gradient g grows as rho^(M - 1), rho = |theta|. A start along the direction of growth obeys
    d rho / dt = |g|, and blows up at the time

        t* = rho / ((M - 2) |g|)     (M > 2),     rho / |g|, one e-folding of theta     (M <= 2).

    Other starts turn on their way, and take a time of the same order.

    Escape is thus governed by the TOTAL degree M, not by the order of a bond: a tree of 7 nodes idles far longer
    than CP of order 3 from equal values.

    Args:
        net: the network, near zero.
        task: a problem.

    Returns:
        A time; infinite where the gradient vanishes.

    Source: the constant-alignment solution of the laws of the talk.

    >>> import math, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=40)
    >>> times = [rl.theory.escape_time(rl.cp((4, 4, 4), rank=1, std=std), task) for std in (1e-3, 1e-4)]
    >>> round(times[1] / times[0])  # a tenth of the start takes ten times as long
    10
    """
    gradients = net.gradients(task.loss(net))
    trained = [k for k in range(len(net.nodes)) if k not in net.layout.frozen]
    with torch.no_grad():
        nodes = net.nodes
        rho = math.sqrt(sum(float(nodes[k].square().sum()) for k in trained))
        degree = len(trained)
        slope = math.sqrt(sum(float(gradients[k].square().sum()) for k in trained))
    if slope == 0:
        return math.inf
    return rho / slope / (degree - 2 if degree > 2 else 1)
