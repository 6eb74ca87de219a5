"""Tensor factorizations that start as a given tensor."""

import math
from typing import Any

import torch
from torch import Tensor

from ranklens.tensors import init
from ranklens.tensors.measures import rank_cutoff
from ranklens.tensors.network import TensorNetwork

ROUGHLY = 1e-6  # imbalance, over the largest squared norm of a node, that a start may have


@torch.no_grad()
def hold_(net: TensorNetwork, weight: Tensor, kind: str) -> TensorNetwork:
    """Write a tensor into a network of a family, roughly balanced (to `ROUGHLY`), and check that it holds it.

    Raises:
        ValueError: if a bond is too narrow for it, naming the bond and the size it needs.
    """
    for node in net.nodes:
        node.zero_()
    {"cp": _cp, "hierarchical": _hierarchical, "tensor_train": _train, "tucker": _tucker}[kind](net, weight)
    return init.balance_(net, ROUGHLY)


def _cp(net: TensorNetwork, weight: Tensor) -> None:
    parts = _components(weight)
    _fits(net, net.bonds[0], parts[0].shape[1])
    for node, part in zip(net.nodes, parts, strict=True):
        _put(node, part)


def _train(net: TensorNetwork, weight: Tensor) -> None:
    """Singular vectors of one matricization after another."""
    rest, before = weight.reshape(1, -1), 1
    last = weight.ndim - 1
    for n, size in enumerate(weight.shape):
        rest = rest.reshape(before * size, -1)
        if n == last:
            found, after = rest, 1
        else:
            found, rest = _split(net, net.bonds[n], rest)
            after = found.shape[1]
        _put(net.nodes[n], found.reshape(*([before] if n else []), size, *([after] if n < last else [])))
        before = after


def _tucker(net: TensorNetwork, weight: Tensor) -> None:
    """A basis of every mode, and the core that is left."""
    core = weight
    for n in range(weight.ndim):
        basis, rest = _split(net, net.bonds[n], core.movedim(n, 0).reshape(core.shape[n], -1))
        others = [size for k, size in enumerate(core.shape) if k != n]
        core = rest.reshape(-1, *others).movedim(0, n)
        _put(net.nodes[n + 1], basis)
    _put(net.nodes[0], core)


def _hierarchical(net: TensorNetwork, weight: Tensor) -> None:
    """From the root down: what a tree node has to span, as sums of products of what its children span."""
    own: Any = {label[0]: (label, node) for label, node in zip(net.layout.nodes, net.nodes, strict=True)}
    root: Any = max(net.bonds, key=len)  # type: ignore[arg-type]
    todo = [(root, weight[None])]  # a tree node and the tensors, along the first axis, that it must give
    while todo:
        bond, tensors = todo.pop()
        children = [label for label in own if label != bond and own[label][0][-1] == bond]
        modes = sorted(bond)
        sides = [sorted(child) if isinstance(child, tuple) else [child] for child in children]
        axes = [[1 + modes.index(n) for n in side] for side in sides]
        table = tensors.permute(0, *[axis for side in axes for axis in side])
        core = table.reshape(len(tensors), *[math.prod(weight.shape[n] for n in side) for side in sides])
        bases = []
        for k in range(core.ndim):  # what each side can span
            basis, rest = _halves(core.movedim(k, 0).reshape(core.shape[k], -1))
            core = rest.reshape(-1, *[size for n, size in enumerate(core.shape) if n != k]).movedim(0, k)
            bases.append(basis)
        parts = _components(core)
        _fits(net, bond, parts[0].shape[1])
        combined, *given = [basis @ part for basis, part in zip(bases, parts, strict=True)]
        label, node = own[bond]
        _put(node, combined[0] if len(label) == 1 else combined.T)
        for child, side, columns in zip(children, sides, given, strict=True):
            if isinstance(child, tuple):
                todo.append((child, columns.T.reshape(-1, *[weight.shape[n] for n in side])))
            else:
                _put(own[child][1], columns)


def _components(tensor: Tensor) -> list[Tensor]:
    """Vectors whose outer products add up to a tensor: one for every fibre along the longest mode, of equal norms."""
    longest = max(range(tensor.ndim), key=lambda n: tensor.shape[n])
    others = [n for n in range(tensor.ndim) if n != longest]
    fibres = tensor.movedim(longest, -1).reshape(-1, tensor.shape[longest])
    places = torch.cartesian_prod(*[torch.arange(tensor.shape[n]) for n in others]).reshape(len(fibres), len(others))
    norms = fibres.norm(dim=1)
    share = norms ** (1 / tensor.ndim)
    parts = [torch.eye(size).to(tensor) for size in tensor.shape]
    for k, n in enumerate(others):
        parts[n] = parts[n][:, places[:, k].to(tensor.device)] * share
    parts[longest] = (fibres / norms.where(norms > 0, 1.0)[:, None] * share[:, None]).T
    return parts


def _split(net: TensorNetwork, bond: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of a matrix, if they fit a bond."""
    first, second = _halves(matrix)
    _fits(net, bond, first.shape[1])
    return first, second


def _halves(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two balanced factors of a matrix, of the rank that it has."""
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = max(int((s > rank_cutoff(matrix.dtype, matrix.shape) * s[0]).sum()), 1)
    return U[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * Vh[:rank]


def _fits(net: TensorNetwork, bond: Any, needed: int) -> None:
    if net.layout.sizes[bond] < needed:
        raise ValueError(
            f"bond {bond!r} has a width of {net.layout.sizes[bond]}, and {needed} hold this weight; widen it, or set "
            f"init= to a number"
        )


def _put(node: Tensor, value: Tensor) -> None:
    """Into the corner of a node."""
    node[tuple(slice(size) for size in value.shape)] = value
