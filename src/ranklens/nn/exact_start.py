"""Initialization of tensor factorizations at a given tensor."""

import math

import torch
from torch import Tensor

from ranklens.tensors import init
from ranklens.tensors.layout import Label
from ranklens.tensors.measures import rank_cutoff
from ranklens.tensors.network import TensorNetwork

# Imbalance that `hold_` leaves, divided by the largest squared norm of a node. Rough balance is enough for
# training, and it saves sweeps over all bonds.
IMBALANCE = 1e-6


@torch.no_grad()
def hold_(net: TensorNetwork, weight: Tensor, kind: str) -> TensorNetwork:
    """Set the nodes of a network so that its end tensor equals a given tensor, with nodes of balanced norms.

    The nodes are computed from singular value decompositions or from the tensor's fibres, then balanced at every bond
    until the imbalance is at most `IMBALANCE`. Balancing does not change the end tensor.

    Args:
        net: a network of the family `kind`, with any values; its nodes are overwritten.
        weight: the tensor to represent, of the network's shape. If a bond is too narrow for it, a ValueError names the
            bond and the width that it needs.
        kind: "cp", "hierarchical", "tensor_train" or "tucker".

    Returns:
        The network itself.
    """
    for node in net.nodes:
        node.zero_()
    write = {"cp": _set_cp, "hierarchical": _set_hierarchical, "tensor_train": _set_train, "tucker": _set_tucker}
    write[kind](net, weight)
    return init.balance_(net, IMBALANCE)


def _set_cp(net: TensorNetwork, weight: Tensor) -> None:
    """Set a CP network to a sum of outer products, one for every fibre of the tensor."""
    factors = _cp_factors(weight)
    _check_width(net, net.bonds[0], factors[0].shape[1])
    for node, factor in zip(net.nodes, factors, strict=True):
        _write_corner(node, factor)


def _set_train(net: TensorNetwork, weight: Tensor) -> None:
    """Set a tensor train by factoring one matricization after another by its singular value decomposition."""
    rest, before = weight.reshape(1, -1), 1
    last = weight.ndim - 1
    for n, size in enumerate(weight.shape):
        rest = rest.reshape(before * size, -1)
        if n == last:
            core, after = rest, 1
        else:
            core, rest = _balanced_factors(rest)
            after = core.shape[1]
            _check_width(net, net.bonds[n], after)
        _write_corner(net.nodes[n], core.reshape(*([before] if n else []), size, *([after] if n < last else [])))
        before = after


def _set_tucker(net: TensorNetwork, weight: Tensor) -> None:
    """Set a Tucker network to a basis for every mode and the core of coefficients in these bases."""
    core = weight
    for n in range(weight.ndim):
        basis, rest = _balanced_factors(core.movedim(n, 0).reshape(core.shape[n], -1))
        _check_width(net, net.bonds[n], basis.shape[1])
        others = [size for k, size in enumerate(core.shape) if k != n]
        core = rest.reshape(-1, *others).movedim(0, n)
        _write_corner(net.nodes[n + 1], basis)
    _write_corner(net.nodes[0], core)


def _set_hierarchical(net: TensorNetwork, weight: Tensor) -> None:
    """Set a hierarchical network from the root down.

    A tree node has to produce several tensors over its modes. Each of them is written as a sum of outer products of
    tensors over the modes of the node's children, which the children then have to produce.
    """
    node_above = {labels[0]: (labels, node) for labels, node in zip(net.layout.nodes, net.nodes, strict=True)}
    root = max(net.bonds, key=lambda bond: len(_modes(bond)))
    pending = [(root, weight[None])]  # a tree node, and the tensors that it must produce, stacked along the first axis
    while pending:
        bond, tensors = pending.pop()
        children = [label for label in node_above if label != bond and node_above[label][0][-1] == bond]
        modes = sorted(_modes(bond))
        sides = [sorted(_modes(child)) for child in children]
        axes = [[1 + modes.index(n) for n in side] for side in sides]
        table = tensors.permute(0, *[axis for side in axes for axis in side])
        core = table.reshape(len(tensors), *[math.prod(weight.shape[n] for n in side) for side in sides])
        bases = []
        for k in range(core.ndim):  # the span along axis k: first of the node's own index, then of each child's tensors
            basis, rest = _balanced_factors(core.movedim(k, 0).reshape(core.shape[k], -1))
            core = rest.reshape(-1, *[size for n, size in enumerate(core.shape) if n != k]).movedim(0, k)
            bases.append(basis)
        factors = _cp_factors(core)
        _check_width(net, bond, factors[0].shape[1])
        combined, *columns_of_children = [basis @ factor for basis, factor in zip(bases, factors, strict=True)]
        labels, node = node_above[bond]
        _write_corner(node, combined[0] if len(labels) == 1 else combined.T)
        for child, side, columns in zip(children, sides, columns_of_children, strict=True):
            if isinstance(child, tuple):
                pending.append((child, columns.T.reshape(-1, *[weight.shape[n] for n in side])))
            else:
                _write_corner(node_above[child][1], columns)


def _modes(label: Label) -> tuple[int, ...]:
    """Return the modes below a label of a hierarchical network: a bond is a tuple of modes, a mode is its number."""
    return label if isinstance(label, tuple) else (label,)


def _cp_factors(tensor: Tensor) -> list[Tensor]:
    """Return one factor matrix per mode whose columns' outer products add up to a tensor.

    There is one column for every fibre along the longest mode. In each outer product all vectors have equal norms.
    """
    longest = max(range(tensor.ndim), key=lambda n: tensor.shape[n])
    others = [n for n in range(tensor.ndim) if n != longest]
    fibres = tensor.movedim(longest, -1).reshape(-1, tensor.shape[longest])
    places = torch.cartesian_prod(*[torch.arange(tensor.shape[n]) for n in others]).reshape(len(fibres), len(others))
    norms = fibres.norm(dim=1)
    share = norms ** (1 / tensor.ndim)
    factors = [torch.eye(size).to(tensor) for size in tensor.shape]
    for k, n in enumerate(others):
        factors[n] = factors[n][:, places[:, k].to(tensor.device)] * share
    factors[longest] = (fibres / norms.where(norms > 0, 1.0)[:, None] * share[:, None]).T
    return factors


def _balanced_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return two balanced factors whose product is a matrix, with as many inner columns as its numerical rank."""
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = max(int((s > rank_cutoff(matrix.dtype, matrix.shape) * s[0]).sum()), 1)
    return U[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * Vh[:rank]


def _check_width(net: TensorNetwork, bond: Label, needed: int) -> None:
    """Refuse a tensor that needs a wider bond than the network has."""
    if net.layout.sizes[bond] < needed:
        raise ValueError(
            f"bond {bond!r} has a width of {net.layout.sizes[bond]}, and this weight needs {needed}; increase width=, "
            f"or start at random with init= a number"
        )


def _write_corner(node: Tensor, value: Tensor) -> None:
    """Write a value into the leading indices of a node that is zero elsewhere."""
    node[tuple(slice(size) for size in value.shape)] = value
