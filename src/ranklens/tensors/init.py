"""Initial values of a network, written to its nodes in place. Every public function returns the network it changed."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens import seeds
from ranklens.tensors import arguments, contract
from ranklens.tensors.convert import ArrayLike, as_tensor
from ranklens.tensors.layout import Label
from ranklens.tensors.measures import rank_cutoff
from ranklens.tensors.network import TensorNetwork, check_network, slices
from ranklens.tensors.products import product_svd, set_balanced_

__all__ = ["balance_", "normal_", "product_", "scaled_"]

# Largest number of sweeps over the bonds in `balance_`. A sweep shrinks the imbalance by a constant factor, so networks
# that can be balanced need far fewer.
SWEEPS = 2000
# Smallest tolerance of `balance_`, in units of the rounding error of the dtype: rounding leaves an imbalance of this
# size.
SMALLEST_TOLERANCE = 100


def __dir__() -> list[str]:
    return __all__


@torch.no_grad()
def normal_(net: TensorNetwork, std: float = 1e-3, mean: float = 0.0, *, seed: int = 0) -> TensorNetwork:
    """Draw every entry of every trained node from the normal distribution N(mean, std^2).

    Args:
        net: the network. Anything else raises a TypeError.
        std: standard deviation of every entry.
        mean: mean of every entry.
        seed: seed of the draw.

    Returns:
        The network.

    Raises:
        ValueError: if `std` is negative or infinite, or `mean` is not finite.

    >>> import ranklens as rl
    >>> net = rl.init.normal_(rl.cp((50, 50), rank=50), std=2.0, seed=1)
    >>> 1.9 < float(net.nodes[0].detach().std()) < 2.1
    True
    """
    check_network("net", net)
    std, mean = arguments.number("std", std, least=0), arguments.number("mean", mean)
    drawn = seeds.normals(net.layout.shapes, seed, "initial values")
    for k, (node, value) in enumerate(zip(net.nodes, drawn, strict=True)):
        if k not in net.layout.frozen:
            node.copy_(mean + std * value)
    return net


def scaled_(net: TensorNetwork, scale: float = 1e-6, *, seed: int = 0) -> TensorNetwork:
    r"""Draw the trained nodes so that the entries of the END tensor have standard deviation `scale`.

    An entry of the end tensor is a sum, over all values of all bonds, of products of M entries, one from each of the M
    nodes. Such products are uncorrelated, so the variance of their sum is std^(2M) prod_bonds R, where std is the
    standard deviation of the node entries and R the size of a bond. The draw therefore has std =
    (scale^2 / prod_bonds R)^(1/(2M)).

    Args:
        net: the network. Anything else raises a TypeError.
        scale: standard deviation of the end tensor's entries. If nodes are frozen, entries may differ in their standard
            deviation, and `scale` is its root mean square over all entries.
        seed: seed of the draw.

    Returns:
        The network.

    Raises:
        ValueError: if `scale` is not positive and finite, or no draw has this scale because all nodes are frozen, two
            nodes that share a bond with each other alone are frozen, or the frozen nodes make the end tensor zero.

    >>> import ranklens as rl
    >>> net = rl.init.scaled_(rl.deep_matrix((60, 60), depth=3), scale=1e-6)
    >>> 0.8e-6 < float(net.tensor().detach().std()) < 1.2e-6
    True
    """
    check_network("net", net)
    scale = arguments.number("scale", scale, above=0)
    layout = net.layout
    trained = len(layout.nodes) - len(layout.frozen)
    if trained == 0:
        raise ValueError("every node of the network is frozen; there is nothing to draw")
    for bond in layout.bonds:
        if all(k in layout.frozen for k, _ in layout.meets(bond)):
            raise ValueError(f"bond {bond!r} joins frozen nodes only; contract them into one node first")
    log_terms = _log_of_frozen_terms(net) if layout.frozen else sum(math.log(layout.sizes[x]) for x in layout.bonds)
    return normal_(net, math.exp((2 * math.log(scale) - log_terms) / (2 * trained)), seed=seed)


def _log_of_frozen_terms(net: TensorNetwork) -> float:
    """Return the log of the mean square of an entry of the end tensor, if trained nodes have entries of variance 1.

    The products that make up an entry are uncorrelated, so its mean square is the same contraction of the squared
    frozen nodes and of ones in place of the trained nodes.

    Raises:
        ValueError: if the mean square is zero.
    """
    squares = [s.detach().square() if not s.requires_grad else torch.ones_like(s) for s in net.stacks]
    uniform = [torch.full((1, d), 1 / d, dtype=net.dtype, device=net.device) for d in net.shape]
    total = float(contract.evaluate(net.layout, squares, uniform))
    if total == 0:
        raise ValueError("the frozen nodes make the end tensor zero whatever the others are")
    return math.log(total)


@torch.no_grad()
def product_(net: TensorNetwork, W0: Float[Tensor, "rows columns"] | ArrayLike) -> TensorNetwork:
    """Set a deep matrix to the balanced factors of a given product W0.

    With the singular value decomposition W0 = U S V^T and depth L, the outer factors are U S^(1/L) and S^(1/L) V^T, and
    every factor in between is S^(1/L). Of all factorizations of W0 this one has the least sum of squared norms.

    Args:
        net: a deep matrix W_L ... W_1, as `rl.deep_matrix` makes it. Anything but a network raises a TypeError, and a
            network that is no chain of matrices raises a ValueError.
        W0: the product, as a tensor, numpy array or nested lists, of the shape of the network.

    Returns:
        The network.

    Raises:
        ValueError: if the network has frozen nodes, W0 has another shape or is not finite, or a bond is smaller than
            the numerical rank of W0.

    >>> import torch, ranklens as rl
    >>> W0 = torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    >>> net = rl.init.product_(rl.deep_matrix((2, 2), depth=3), W0)
    >>> bool(torch.allclose(net.tensor(), W0)), bool(net.imbalance() < 1e-14)
    (True, True)
    """
    check_chain(check_network("net", net))
    if net.frozen:
        raise ValueError(f"nodes {net.frozen} are frozen; a given product needs all factors")
    W0 = as_tensor("W0", W0)
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
    """Balance every bond of a network, and leave the end tensor unchanged.

    At a bond of order K > 2 the slices of a component are rescaled to equal norms, (product of the norms)^(1/K). At a
    bond of order 2 the two nodes are replaced by balanced factors of their product, in the basis in which they change
    least. Nodes share bonds, so the bonds are balanced in turn until all are. Every step is a step of coordinate
    descent: it minimizes the sum of squared norms of the nodes over the rescalings and changes of basis at one bond.
    If one slice of a component is zero, the component contributes nothing, and all its slices become zero.

    Args:
        net: the network. Its frozen nodes are not changed. Anything but a network raises a TypeError.
        tolerance: the value of `net.imbalance()` that is accepted, relative to the largest squared norm of a node.
            Values below 100 times the rounding error of the dtype are raised to this.

    Returns:
        The network.

    Raises:
        RuntimeError: if the imbalance is still above the tolerance after all bonds were balanced in turn `SWEEPS`
            times.

    Source: Razin, Maman, Cohen (ICML 2021 and 2022), whose theorems assume balance.

    >>> import torch, ranklens as rl
    >>> net = rl.hierarchical((3, 3, 3, 3), width=4, std=0.5)
    >>> before = net.tensor()
    >>> net = rl.init.balance_(net)
    >>> bool(torch.allclose(net.tensor(), before)), bool(net.imbalance() < 1e-11)
    (True, True)
    """
    check_network("net", net)
    tolerance = max(arguments.number("tolerance", tolerance, least=0), SMALLEST_TOLERANCE * torch.finfo(net.dtype).eps)
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


def _balance_bond(net: TensorNetwork, bond: Label) -> None:
    """Balance one bond in place. A bond with fewer than two trained nodes stays as it is."""
    nodes = net.nodes
    meets = [(k, axis) for k, axis in net.layout.meets(bond) if k not in net.layout.frozen]
    if len(meets) == 2 and net.order(bond) == 2:
        (i, a), (j, b) = meets
        _balance_pair(nodes[i].movedim(a, 0), nodes[j].movedim(b, 0))
    elif len(meets) >= 2:
        norms = torch.stack([slices(nodes[k], axis).norm(dim=1) for k, axis in meets])
        geometric_mean = norms.log().mean(dim=0).exp()
        for (k, axis), norm in zip(meets, norms, strict=True):
            factor = (geometric_mean / norm).where((norms > 0).all(dim=0), 0.0)
            nodes[k].movedim(axis, -1).mul_(factor)


def _balance_pair(first: Tensor, second: Tensor) -> None:
    """Balance two nodes in place over the leading axis of both.

    Flattened to A and B, they have the product A^T B = U S V^T. Its balanced factors are A' = Q S^(1/2) U^T and
    B' = Q S^(1/2) V^T for any orthogonal Q. The one that is nearest to A and B is the orthogonal factor of a polar
    decomposition (orthogonal Procrustes problem).
    """
    A, B = slices(first, 0), slices(second, 0)
    U, s, V = product_svd(A.T, B.T)
    root = s.sqrt()
    new_A, new_B = (U * root).T, (V * root).T
    P, _, Qh = torch.linalg.svd(new_A @ A.T + new_B @ B.T, full_matrices=False)
    rotation = (P @ Qh).T
    first.copy_((rotation @ new_A).reshape(first.shape))
    second.copy_((rotation @ new_B).reshape(second.shape))


def is_chain(net: TensorNetwork) -> bool:
    """Return whether a network is a matrix product W_L ... W_1 whose factors are its nodes in this order: W_L first."""
    labels, out = net.layout.nodes, net.layout.out
    chain = all(len(node) == 2 for node in labels) and all(
        left[1] == right[0] for left, right in itertools.pairwise(labels)
    )
    return chain and out == (labels[0][0], labels[-1][1])


def check_chain(net: TensorNetwork) -> None:
    """Refuse a network that is not a product of matrices in the order of its nodes.

    Raises:
        ValueError: for such a network.
    """
    if not is_chain(net):
        raise ValueError(f"{net.equation} is not a deep matrix, W_L ... W_1; make one with rl.deep_matrix")
