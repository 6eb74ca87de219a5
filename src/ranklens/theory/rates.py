"""Rates of components and singular values under gradient flow, its conserved quantities, and its escape times."""

import math
from collections.abc import Callable, Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.problems.problem import Problem, TensorProblem, check_problem
from ranklens.tensors import contract, init, measures
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork, check_network, differences, slices

# Distance of a central difference, relative to the norm of the parameters. Rounding errors (about 1e-16 / 1e-5) and
# the truncation error (about 1e-5 to the power 4) both stay below 1e-9.
DIFFERENCE = 1e-5


@torch.enable_grad()  # a run tracks its quantities under no_grad
def component_rate(net: TensorNetwork, task: Problem, bond: Hashable) -> Float[Tensor, " size"]:
    r"""Return d sigma_r / dt under gradient flow for every component norm sigma_r of a bond, balanced or not.

        d sigma_r / dt = gamma_r sigma_r^2 sum_k |s_k|^(-2),    gamma_r = <-grad L, C_r / sigma_r>

    Here K is the number of nodes that the bond meets, s_k are the K slices of component r, C_r is its part of the end
    tensor, and grad L is the gradient of the loss in the end tensor; gamma_r is called the alignment. Each slice moves
    by minus its gradient g_k, and <s_k, g_k> = <grad L, C_r> for every k, because each node is used once. At a balanced
    point the rate is K sigma^(2-2/K) gamma. Where exactly one slice is zero, its norm starts to grow, and the rate is
    the one-sided derivative. Where two or more slices are zero, the rate is 0.

    Args:
        net: the network; frozen nodes do not move, and their terms are left out.
        task: a problem with a differentiable `loss(net)`.
        bond: a label from `net.bonds`.

    Returns:
        One rate per value r of the bond; exact at this point of the flow.

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
    check_network("net", net)
    check_problem(task)
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
def alignment(net: TensorNetwork, task: TensorProblem, bond: Hashable) -> Float[Tensor, " size"]:
    r"""Return gamma_r = <-grad L(W), C_r / sigma_r>, the alignment of every component with minus the gradient.

    The gradient is that in the entries of the end tensor W, C_r is the part of component r in W, and sigma_r its norm.
    For CP, C_r / sigma_r is a unit tensor; in a tree it also contains the nodes that the bond does not meet.

    Args:
        net: the network.
        task: a problem whose `loss` takes a network or, in its place, a tensor of the network's shape.
        bond: a label from `net.bonds`.

    Returns:
        One alignment per value r of the bond; 0 for a component of norm zero, which has no direction.

    Source: Razin, Maman, Cohen (ICML 2021, Theorem 1; ICML 2022, Theorem 3).

    >>> import ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=64)
    >>> net = rl.cp((4, 4, 4), rank=3, std=0.1)
    >>> gradient = rl.theory.end_gradient(net, task)
    >>> bool((rl.theory.alignment(net, task, "r").abs() <= gradient.norm()).all())  # of unit tensors
    True
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
def end_gradient(net: TensorNetwork, task: TensorProblem) -> Tensor:
    """Return the gradient of the loss in the entries of the end tensor, as if these were free parameters.

    Args:
        net: the network.
        task: a problem whose `loss` takes a network or, in its place, a tensor of the network's shape.

    Returns:
        A tensor of shape `net.shape`.

    >>> import torch, ranklens as rl
    >>> task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), std=0.0)
    >>> rl.theory.end_gradient(net, task).tolist()  # prediction minus observation; nothing where nothing is observed
    [[0.0, -1.0], [-1.0, 0.0]]
    """
    check_network("net", net)
    check_problem(task)
    with torch.no_grad():
        end = net.tensor()
    end.requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(end), end)
    return gradient


@torch.enable_grad()
@checked
def singular_value_rate(net: TensorNetwork, task: TensorProblem, *, balanced: bool = False) -> Float[Tensor, " size"]:
    r"""Return d sigma_r / dt under gradient flow for the singular values of a network whose end tensor is a matrix W.

    sigma_r' = <u_r, W' v_r> for the singular vectors u_r and v_r, with W' = -sum_k (W with node k replaced by its
    gradient). This holds for any values of the nodes. For a balanced deep matrix of depth L it equals the law

        d sigma_r / dt = -L sigma_r^(2 - 2/L) <grad L(W), u_r v_r^T>.

    At repeated or zero singular values, whose singular vectors are not unique, the rates are one-sided derivatives, of
    the sorted values after this time. With the singular vectors U_b and V_b of a repeated value they are the
    eigenvalues of the symmetric part of U_b^T W' V_b; with those of the value zero, null spaces included, they are the
    singular values of U_0^T W' V_0, so that no zero value falls. Values count as equal up to `rank_cutoff`.

    Args:
        net: a network of two modes.
        task: a problem with a differentiable `loss(net)`; for `balanced=True` its `loss` also takes a tensor.
        balanced: True evaluates the law, whether or not the factors are balanced.

    Returns:
        One rate per singular value, largest value first, and the largest rate first among equal values.

    Raises:
        ValueError: for a network of other order, or `balanced=True` for what is no deep matrix or has frozen factors.

    Source: Arora, Cohen, Hu, Luo (NeurIPS 2019), the theorem on the evolution of singular values; for the one-sided
        derivatives, perturbation theory of symmetric matrices (Kato).

    >>> import torch, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.low_rank_matrix((5, 5), 2), observed=15)
    >>> net = rl.init.balance_(rl.deep_matrix((5, 5), depth=3, std=0.5))
    >>> law = rl.theory.singular_value_rate(net, task, balanced=True)
    >>> bool(torch.allclose(rl.theory.singular_value_rate(net, task), law, rtol=1e-9))
    True
    """
    if len(check_network("net", net).shape) != 2:
        raise ValueError(f"the end tensor has {len(net.shape)} modes; singular values are those of a matrix")
    check_problem(task)
    if balanced:
        init.check_chain(net)
        if net.frozen:
            raise ValueError(f"nodes {net.frozen} are frozen; the law is about factors that all move")
        G, depth = end_gradient(net, task), len(net.nodes)
        with torch.no_grad():
            return _singular_value_changes(net.tensor(), -depth * G, 1 - 1 / depth)
    gradients = net.gradients(task.loss(net))
    with torch.no_grad():
        nodes = net.nodes
        W = net.tensor()
        change = torch.zeros_like(W)
        for k, gradient in enumerate(gradients):
            change -= contract.tensor(net.layout, [*nodes[:k], gradient, *nodes[k + 1 :]])
        return _singular_value_changes(W, change, 0.0)


def _singular_value_changes(
    W: Float[Tensor, "rows columns"], change: Float[Tensor, "rows columns"], power: float
) -> Float[Tensor, " size"]:
    """Return one-sided derivatives of the sorted singular values of a matrix W that moves by (W W^T)^q C (W^T W)^q.

    In the basis of singular vectors this velocity has the entries (s_i s_j)^(2 q) <u_i, C v_j>.

    Args:
        W: the matrix.
        change: the matrix C.
        power: the exponent 2 q, where 0 to the power 0 is 1.
    """
    U, S, Vh = torch.linalg.svd(W)
    left, right = (torch.cat([S, S.new_zeros(d - len(S))]) ** power for d in W.shape)
    moved = left[:, None] * (U.T @ change @ Vh.T) * right
    equal = measures.rank_cutoff(W.dtype, W.shape) * S[0]
    rates, begin = torch.empty_like(S), 0
    while begin < len(S):
        if S[begin] <= equal:
            rates[begin:] = torch.linalg.svdvals(moved[begin:, begin:])
            break
        end = begin + 1
        while end < len(S) and S[end] > equal and S[end - 1] - S[end] <= equal:
            end += 1
        block = moved[begin:end, begin:end]
        rates[begin:end] = torch.linalg.eigvalsh((block + block.T) / 2).flip(0)
        begin = end
    return rates


@torch.enable_grad()
@checked
def measured_rate(net: TensorNetwork, task: Problem, quantity: Callable[[TensorNetwork], Tensor]) -> Tensor:
    """Return the rate of any quantity under gradient flow, by a central difference of order 4 along minus the gradient.

    The difference uses no theorem, so the laws of this module can be tested against it. The network is not changed.

    Args:
        net: the network, in float64.
        task: a problem with a differentiable `loss(net)`.
        quantity: a function of a network that returns a tensor.

    Returns:
        A tensor of the quantity's shape. Its absolute error is about 1e-9 times the size of the quantity, divided by
        the time |theta| / |gradient|, for parameters theta.

    >>> import torch, ranklens as rl
    >>> task, net = rl.Completion.counterexample(), rl.deep_matrix((2, 2), depth=2, std=0.5)
    >>> rate = rl.theory.measured_rate(net, task, lambda net: net.component_norms("r1"))
    >>> bool(torch.allclose(rate, rl.theory.component_rate(net, task, "r1"), rtol=1e-6))
    True
    """
    check_network("net", net)
    check_problem(task)
    gradients = net.gradients(task.loss(net))
    with torch.no_grad():
        size = math.sqrt(sum(float(node.square().sum()) for node in net.nodes))
        slope = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        step = DIFFERENCE * (size or 1.0) / slope if slope > 0 else 1.0
        found = {}
        for k in (1, -1, 2, -2):
            nodes = [node - k * step * g for node, g in zip(net.nodes, gradients, strict=True)]
            found[k] = quantity(net.with_nodes(nodes))
        return (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * step)


def conserved(net: TensorNetwork, bond: Hashable) -> Tensor:
    """Return the quantities that gradient flow conserves at a bond, whatever the loss; all are zero at balance.

    A bond of order 2 conserves the difference of its two Gram matrices: the network depends only on the product of the
    two nodes over the bond, so both Gram matrices change by the same matrix. A bond of order K > 2 conserves the K - 1
    differences between the squared slice norms of its first node and of every other. No difference with a frozen node
    is conserved, so frozen nodes are left out.

    Args:
        net: the network.
        bond: a label from `net.bonds`.

    Returns:
        At a bond of order 2 and size R whose nodes are both trained: (R, R), the Gram matrix of the slices of the first
        node minus the Gram matrix of the slices of the second node. At every other bond: (trained nodes - 1, R), one
        row per trained node but the first: the squared slice norms of the first trained node minus the squared slice
        norms of this node. There are no rows if fewer than two of the nodes are trained.

    Raises:
        ValueError: for a label that is no bond.

    Source: Arora, Cohen, Hazan (ICML 2018); Razin, Maman, Cohen (ICML 2021, 2022).

    >>> import ranklens as rl
    >>> net = rl.init.balance_(rl.deep_matrix((4, 4), depth=2, std=0.5))
    >>> bool(rl.theory.conserved(net, "r1").abs().max() < 1e-12)
    True
    """
    with torch.no_grad():
        return differences(check_network("net", net), bond)


@torch.enable_grad()
def escape_time(net: TensorNetwork, task: Problem) -> float:
    r"""Return an estimate of the time that gradient flow needs to leave the neighbourhood of zero.

    Near zero the loss is a constant minus a function that is homogeneous of degree M, the number of trained nodes, in
    their parameters theta. The gradient g then grows as rho^(M - 1) with rho = |theta|. Initial parameters along the
    direction of fastest growth obey d rho / dt = |g|, which blows up at the time

        t* = rho / ((M - 2) |g|)    for M > 2;    for M <= 2 the result is rho / |g|, in which theta grows by about e.

    Other initial parameters turn towards that direction on their way, and take a time of the same order. The total
    degree M decides, not the order of a bond: from equal values, a tree of 7 nodes needs far longer than CP of order 3.

    Args:
        net: the network, near zero.
        task: a problem with a differentiable `loss(net)`.

    Returns:
        A time; infinite where the gradient vanishes.

    Source: the laws of Razin, Maman, Cohen (ICML 2021, 2022) solved for a constant alignment.

    >>> import math, ranklens as rl
    >>> task = rl.Completion.sample(rl.targets.cp((4, 4, 4), rank=1), observed=40)
    >>> times = [rl.theory.escape_time(rl.cp((4, 4, 4), rank=1, std=std), task) for std in (1e-3, 1e-4)]
    >>> round(times[1] / times[0])  # a tenth of the initial values takes ten times as long
    10
    """
    check_network("net", net)
    check_problem(task)
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
