"""Checks of the nodes, indices and vectors of a network, and of measured tensors. Errors name the first offender."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.convert import TensorLike, as_floating, as_tensor


def check_nodes(nodes: Sequence[TensorLike]) -> list[Tensor]:
    """Return nodes as floating-point tensors, after checking that they have one dtype and device.

    A floating-point tensor is returned itself, not copied. Integers in lists and numpy arrays become float64.

    Args:
        nodes: one tensor, numpy array or nested list of numbers per node.

    Raises:
        ValueError: if there is no node, or if one tensor that requires a gradient is given as two nodes: a network
            copies its nodes, so the two copies would be trained apart.
        TypeError: if a node is a tensor of integers or holds booleans, or the nodes differ in dtype or device.
    """
    nodes = arguments.sequence("nodes", nodes)
    if len(nodes) == 0:
        raise ValueError("nodes is empty; a network needs at least one node")
    first_position: dict[int, int] = {}
    for k, node in enumerate(nodes):
        if isinstance(node, Tensor) and node.requires_grad and first_position.setdefault(id(node), k) < k:
            raise ValueError(
                f"nodes {first_position[id(node)]} and {k} are one tensor that requires a gradient; nodes are copied "
                f"and trained apart: tied factors are rl.nn.circuit(net, shared=True), and for equal initial values "
                f"pass node.detach()"
            )
    found = [as_floating(f"nodes[{k}]", node) for k, node in enumerate(nodes)]
    for k, node in enumerate(found):
        if node.dtype != found[0].dtype or node.device != found[0].device:
            raise TypeError(
                f"node {k} is {node.dtype} on {node.device}, node 0 {found[0].dtype} on {found[0].device}; "
                f"convert them to one dtype and device"
            )
    return found


def check_indices(indices: TensorLike, shape: Sequence[int]) -> Tensor:
    """Return mode indices as an int64 tensor of shape (batch, order), after checking them.

    Args:
        indices: integers of shape (batch, order), one row per entry and one column per mode: a tensor, numpy array or
            nested lists.
        shape: sizes of the modes.

    Raises:
        TypeError: if the indices are not integers.
        ValueError: if the indices do not have one column per mode, or an index is outside its mode.
    """
    indices = as_tensor("indices", indices)
    if indices.dtype.is_floating_point or indices.dtype == torch.bool:
        raise TypeError(f"indices are {indices.dtype}; mode indices are integers: convert with .long()")
    if indices.ndim != 2 or indices.shape[1] != len(shape):
        raise ValueError(
            f"indices have shape {tuple(indices.shape)}; a tensor of order {len(shape)} needs (batch, {len(shape)})"
        )
    indices = indices.long()
    if indices.numel():  # there may be millions of indices, and if all are small enough, one pass over them tells
        least, most = indices.aminmax()
        if least >= 0 and most < min(shape):
            return indices
    wrong = (indices < 0) | (indices >= torch.tensor(shape, device=indices.device))
    if bool(wrong.any()):
        row, mode = (int(x) for x in wrong.nonzero()[0])
        raise ValueError(
            f"index {int(indices[row, mode])} in row {row} is outside mode {mode} of size {shape[mode]}; "
            f"indices run from 0 to {shape[mode] - 1}"
        )
    return indices


def check_vectors(vectors: TensorLike | Sequence[TensorLike], shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Return one (batch, d_n) tensor per mode, for the evaluation of a network on rank-one tensors.

    Args:
        vectors: a (batch, N, d) tensor or numpy array, or a list of N tensors, arrays or nested lists (batch, d_n).
        shape: sizes d_n of the N modes.

    Raises:
        ValueError: if there are no modes, or the vectors do not fit them.
    """
    if not shape:
        raise ValueError("the network has no modes, and no vectors to be evaluated on; use net.tensor()")
    if isinstance(vectors, Sequence):
        parts = tuple(as_tensor(f"vectors[{n}]", part) for n, part in enumerate(vectors))  # type: ignore[arg-type]
    else:
        block = as_tensor("vectors", vectors)
        if block.ndim == 0:
            raise ValueError("vectors is a single number; pass one (batch, d_n) tensor per mode")
        parts = tuple(block.unbind(1) if block.ndim == 3 else block)
    if len(parts) != len(shape):
        raise ValueError(
            f"{len(parts)} vectors were given for {len(shape)} modes; pass one (batch, d_n) tensor per mode"
        )
    for mode, (part, size) in enumerate(zip(parts, shape, strict=True)):
        if part.ndim != 2 or part.shape[1] != size or part.shape[0] != parts[0].shape[0]:
            raise ValueError(
                f"vectors of mode {mode} have shape {tuple(part.shape)}; expected ({parts[0].shape[0]}, {size}) "
                f"for a mode of size {size}"
            )
    return parts


def check_finite(name: str, W: Tensor) -> Tensor:
    """Return a tensor itself, after checking that its entries are finite.

    Args:
        name: name of the argument, for the error.
        W: a tensor of any shape.

    Raises:
        ValueError: if an entry is not finite.
    """
    if not bool(torch.isfinite(W).all()):
        where = tuple(int(x) for x in (~torch.isfinite(W)).nonzero()[0])
        raise ValueError(f"entry {where} of {name} is {float(W[where])}; all entries must be finite")
    return W
