"""Initial values of a network, written in place. Every function returns the network it changed."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds
from ranklens.tensors import contract
from ranklens.tensors.measures import rank_cutoff
from ranklens.tensors.network import TensorNetwork, slices
from ranklens.tensors.products import product_svd, set_balanced_

SWEEPS = 2000  # of `balance_`; a sweep shrinks the violation by a constant factor


@torch.no_grad()
def normal_(net: TensorNetwork, std: float = 1e-3, mean: float = 0.0, *, seed: int = 0) -> TensorNetwork:
    """Draw every entry of every trained node from N(mean, std^2).

    Raises:
        ValueError: for a negative or infinite std, or a mean that is not finite.
    """
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std is {std}; it must be a finite number, zero or more")
    if not math.isfinite(mean):
        raise ValueError(f"mean is {mean}; it must be finite")
    drawn = seeds.normals(net.layout.shapes, seed, "initial values")
    for k, (node, value) in enumerate(zip(net.nodes, drawn, strict=True)):
        if k not in net.layout.frozen:
            node.copy_(mean + std * value)
    return net


def scaled_(net: TensorNetwork, scale: float = 1e-6, *, seed: int = 0) -> TensorNetwork:
    r"""Draw the nodes so that the entries of the END tensor have standard deviation `scale`.

    An entry is a sum over all values of all bonds of products of M distinct node entries; such products are
    uncorrelated, so its variance is std^(2M) prod_bonds R, and std = (scale^2 / prod R)^(1/(2M)).

    Args:
        net: the network.
        scale: standard deviation of the end tensor's entries (root mean square over the modes, if nodes are frozen).
        seed: of the draw.

    Returns:
        The network.

    Raises:
        ValueError: for a scale that is not positive and finite, or frozen nodes for which there is no such draw: all of
            them, two that are joined to each other alone, or zeros.

    >>> import ranklens as rl
    >>> net = rl.init.scaled_(rl.deep_matrix((60, 60), depth=3), scale=1e-6)
    >>> 0.8e-6 < float(net.tensor().detach().std()) < 1.2e-6
    True
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be positive and finite")
    layout = net.layout
    trained = len(layout.nodes) - len(layout.frozen)
    if trained == 0:
        raise ValueError("every node of the network is frozen; there is nothing to draw")
    for bond in layout.bonds:
        if all(k in layout.frozen for k, _ in layout.meets(bond)):
            raise ValueError(f"bond {bond!r} joins frozen nodes only; contract them into one node first")
    squares = [s.detach().square() if not s.requires_grad else torch.ones_like(s) for s in net.stacks]
    uniform = [torch.full((1, d), 1 / d, dtype=net.dtype, device=net.device) for d in net.shape]
    if layout.frozen:
        total = float(contract.evaluate(layout, squares, uniform))
        if total == 0:
            raise ValueError("the frozen nodes make the end tensor zero whatever the others are")
        terms = math.log(total)
    else:
        terms = sum(math.log(layout.sizes[bond]) for bond in layout.bonds)
    return normal_(net, math.exp((2 * math.log(scale) - terms) / (2 * trained)), seed=seed)


@torch.no_grad()
def product_(net: TensorNetwork, W0: Float[Tensor, "rows columns"]) -> TensorNetwork:
    """Balanced factors of a deep matrix whose product is W0: W_l = S^(1/L) between, U S^(1/L) and S^(1/L) V^T outside.

    Of all factorizations of W0 it has the least sum of squared norms.

    Raises:
        ValueError: if the network is no chain of matrices, has frozen nodes, W0 has another shape or is not finite, or
            a width is less than the rank of W0.

    >>> import torch, ranklens as rl
    >>> W0 = torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    >>> net = rl.init.product_(rl.deep_matrix((2, 2), depth=3), W0)
    >>> bool(torch.allclose(net.tensor(), W0)), bool(net.imbalance() < 1e-14)
    (True, True)
    """
    check_chain(net)
    if net.frozen:
        raise ValueError(f"nodes {net.frozen} are frozen; a given product needs all factors")
    if tuple(W0.shape) != net.shape or not bool(torch.isfinite(W0).all()):
        raise ValueError(
            f"W0 has shape {tuple(W0.shape)}, or entries that are not finite; expected {net.shape}, finite"
        )
    U, S, Vh = torch.linalg.svd(W0.to(dtype=net.dtype, device=net.device), full_matrices=False)
    nodes = net.nodes
    width = min([*(node.shape[0] for node in nodes[1:]), len(S)])
    rank = int((rank_cutoff(net.dtype, net.shape) * S[0] < S).sum())
    if rank > width:
        raise ValueError(f"a width of {width} is less than the rank of W0, {rank}; make the network wider")
    if len(nodes) == 1:
        nodes[0].copy_(W0)
        return net
    set_balanced_(nodes, U[:, :width], S[:width], Vh[:width].T)
    return net


@torch.no_grad()
def balance_(net: TensorNetwork, tolerance: float = 1e-12) -> TensorNetwork:
    """Balance every bond exactly, with the end tensor unchanged.

    A bond of order K > 2 has its slices rescaled to equal norms, (prod of norms)^(1/K); a bond of order 2 gets the
    balanced factors of the product of its two nodes, turned so as to stay next to the old ones. Nodes share bonds,
    so bonds are swept in turn: coordinate descent of sum |node|^2 over rescalings and changes of basis at the bonds,
    which leave the end tensor as it is. A component with a zero slice contributes nothing, and becomes zero altogether.

    Args:
        net: the network; frozen nodes stay as they are.
        tolerance: stop when the imbalance is below this times the largest squared norm of a node.

    Returns:
        The network.

    Raises:
        RuntimeError: when the sweeps stall above the tolerance.

    Source: Razin, Maman, Cohen (ICML 2021 and 2022), whose theorems assume it.

    >>> import torch, ranklens as rl
    >>> net = rl.hierarchical((3, 3, 3, 3), width=4, std=0.5)
    >>> before = net.tensor()
    >>> net = rl.init.balance_(net)
    >>> bool(torch.allclose(net.tensor(), before)), bool(net.imbalance() < 1e-11)
    (True, True)
    """
    tolerance = max(tolerance, 100 * torch.finfo(net.dtype).eps)  # no dtype is balanced better
    for _ in range(SWEEPS):
        scale = max(float(node.square().sum()) for node in net.nodes)
        if float(net.imbalance()) <= tolerance * scale:
            return net
        for bond in net.bonds:
            _balance_bond(net, bond)
    raise RuntimeError(
        f"balancing stalled after {SWEEPS} sweeps at an imbalance of {float(net.imbalance()):.3g}; "
        f"the nodes may differ in scale by too much: start from rl.init.normal_ or loosen tolerance="
    )


def _balance_bond(net: TensorNetwork, bond: object) -> None:
    nodes = net.nodes
    meets = [(k, axis) for k, axis in net.layout.meets(bond) if k not in net.layout.frozen]
    if len(meets) == 2 and net.order(bond) == 2:
        (i, a), (j, b) = meets
        _balance_pair(nodes[i].movedim(a, 0), nodes[j].movedim(b, 0))
    elif len(meets) >= 2:
        norms = torch.stack([slices(nodes[k], axis).norm(dim=1) for k, axis in meets])
        logs = norms.log().mean(dim=0).exp()
        for (k, axis), norm in zip(meets, norms, strict=True):
            factor = (logs / norm).where((norms > 0).all(dim=0), 0.0)
            moved = nodes[k].movedim(axis, -1)
            moved.mul_(factor)


def _balance_pair(first: Tensor, second: Tensor) -> None:
    """Balance A^T B over the leading axis of both: A = S^(1/2) U^T and B = S^(1/2) V^T, with A^T B = U S V^T."""
    A, B = slices(first, 0), slices(second, 0)
    U, s, V = product_svd(A.T, B.T)
    root = s.sqrt()
    new_a, new_b = (U * root).T, (V * root).T
    P, _, Qh = torch.linalg.svd(new_a @ A.T + new_b @ B.T, full_matrices=False)
    turn = (P @ Qh).T
    first.copy_((turn @ new_a).reshape(first.shape))
    second.copy_((turn @ new_b).reshape(second.shape))


def is_chain(net: TensorNetwork) -> bool:
    """Whether a network is a product of matrices in the order of its nodes, W_L ... W_1."""
    labels, out = net.layout.nodes, net.layout.out
    chain = all(len(node) == 2 for node in labels) and all(
        left[1] == right[0] for left, right in itertools.pairwise(labels)
    )
    return chain and out == (labels[0][0], labels[-1][1])


def check_chain(net: TensorNetwork) -> None:
    """Refuse a network that is not a product of matrices in the order of its nodes."""
    if not is_chain(net):
        raise ValueError(f"{net.equation} is not a deep matrix, W_L ... W_1; make one with rl.deep_matrix")
