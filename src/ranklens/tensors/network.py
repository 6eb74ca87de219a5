"""The one object of the library: a factorization is a tensor network, an einsum of trainable nodes, each used once."""

import math
import os
import string
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ranklens.tensors import contract
from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.paths import symbols


class TensorNetwork(nn.Module):
    r"""A tensor given as an einsum of trainable nodes, each used once.

    An index that appears on the right is a *mode*, in one node; a summed one is a *bond*, and a bond may meet any
    number K >= 2 of nodes. The value r of a bond picks one slice of each of those K nodes: a *component*, whose norm is
    the product of the slice norms. Under gradient flow from a balanced start every component norm of every bond obeys

        d sigma_r / dt = K sigma_r^(2 - 2/K) <-grad L, C_r / sigma_r>.

    Because a node is used once, the end tensor is linear in each slice, so that <slice, its gradient> is the same
    number for all K slices of a component: differences of squared slice norms are conserved, and the law follows.

    Args:
        equation: an einsum such as ``"ar,br,cr->abc"``, or a pair (labels of every node, labels of the end tensor)
            with any hashable labels, for networks with more indices than there are letters.
        nodes: one floating-point tensor per node, all of one dtype and device. They are copied.

    Raises:
        ValueError: for an einsum that is not a network (an index repeated within a node, a bond that meets a single
            node, a mode in two nodes, an index on the right that no node has), or nodes that do not fit it.
        TypeError: for nodes that are not floating-point tensors of one dtype.

    Source: Razin, Maman, Cohen (ICML 2022), Theorem 3 and its proof, stated here for any network.

    >>> import torch, ranklens as rl
    >>> net = rl.TensorNetwork("ar,br,cr->abc", [torch.ones(2, 3, dtype=torch.float64)] * 3)
    >>> net.shape, net.bonds, net.order("r")
    ((2, 2, 2), ('r',), 3)
    >>> bool((net.tensor() == 3).all())  # three components of ones
    True
    """

    def __init__(
        self, equation: str | tuple[Sequence[Sequence[Label]], Sequence[Label]], nodes: Sequence[Tensor]
    ) -> None:
        super().__init__()
        labels, out = parse(equation) if isinstance(equation, str) else equation
        _check_nodes(nodes)
        shapes = tuple(tuple(node.shape) for node in nodes)
        self._layout = Layout(tuple(tuple(node) for node in labels), shapes, tuple(out))
        self._store([node.detach().clone() for node in nodes])

    def _store(self, nodes: Sequence[Tensor]) -> None:
        """Put the nodes into one Parameter per stack: 784 small tensors would cost 784 kernel calls."""
        for name in list(self._parameters):
            del self._parameters[name]
        for k, stack in enumerate(contract.stacks_of(self._layout)):
            value = nodes[stack[0]] if len(stack) == 1 else torch.stack([nodes[i] for i in stack])
            trainable = stack[0] not in self._layout.frozen
            self.register_parameter(f"stack_{k}", nn.Parameter(value.contiguous(), requires_grad=trainable))

    # what it is

    @property
    def layout(self) -> Layout:
        """The labels and sizes of the network, without its numbers."""
        return self._layout

    @property
    def stacks(self) -> tuple[nn.Parameter, ...]:
        """The Parameters as stored: a lone node as it is, nodes of equal shape and role with a leading axis."""
        return tuple(self._parameters.values())  # type: ignore[arg-type]

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """The nodes in the order of the equation: views of the storage, differentiable, writable under no_grad."""
        return contract.unstack(self._layout, self.stacks)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the modes, in the order of the end tensor's axes."""
        return self._layout.shape

    @property
    def bonds(self) -> tuple[Label, ...]:
        """Labels of the summed indices, in the order in which the nodes mention them."""
        return self._layout.bonds

    @property
    def equation(self) -> str:
        """The network as an einsum; labels that are not single letters get letters of their own."""
        return write(self._layout.nodes, self._layout.out)

    @property
    def frozen(self) -> tuple[int, ...]:
        """Positions of the nodes that are not trained."""
        return tuple(sorted(self._layout.frozen))

    def extra_repr(self) -> str:
        """Shape and bonds, for print(net)."""
        equation = self.equation if len(self._layout.nodes) <= 8 else f"{len(self._layout.nodes)} nodes"
        return f"{equation}, shape={self.shape if len(self.shape) <= 8 else f'order {len(self.shape)}'}"

    # what it computes

    def tensor(self) -> Tensor:
        """The end tensor, contracted pairwise in the order that costs least.

        Returns:
            A tensor of shape `net.shape` (0-d for an equation with nothing on the right).

        Raises:
            ValueError: when the end tensor would not fit into this machine's memory.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > _memory():
            raise ValueError(
                f"the end tensor of order {len(self.shape)} has 10^{math.log10(math.prod(self.shape)):.0f} entries, "
                f"more than fit into this machine's {_memory() / 2**30:.0f} GiB; use net.entries(indices) or "
                f"net.evaluate(vectors), which never form it"
            )
        return contract.tensor(self._layout, self.nodes)

    def forward(self) -> Tensor:
        """The end tensor; the same as `tensor()`."""
        return self.tensor()

    def entries(self, indices: Int[Tensor, "batch order"]) -> Float[Tensor, " batch"]:
        """Entries of the end tensor: by contracting it whole or row by row, whichever costs less.

        For a bond that joins very many leaves (CP of order 784) the product of their entries is taken in the log
        domain, which neither underflows half-way nor costs one kernel call per factor.

        Args:
            indices: one row of mode indices per entry, integers of any width.

        Returns:
            The entries, of the network's dtype.

        Raises:
            ValueError: for an index outside its mode, or rows of the wrong length.
            TypeError: for indices that are not integers.
        """
        return contract.entries(self._layout, self.stacks, check_indices(indices, self.shape))

    def evaluate(self, vectors: Tensor | Sequence[Tensor]) -> Float[Tensor, " batch"]:
        """Inner products with rank-one tensors: <end tensor, x_1 outer ... outer x_N> for every row of a batch.

        This is the forward pass of the circuit that the network is (a linear network for a deep matrix, a shallow
        or deep convolutional arithmetic circuit for CP or hierarchical).

        Args:
            vectors: a (batch, N, d) tensor when all modes have size d, or N tensors of shapes (batch, d_n).

        Returns:
            One number per row.

        Raises:
            ValueError: for vectors that do not fit the modes.
        """
        parts = check_vectors(vectors, self.shape)
        return contract.evaluate(self._layout, self.stacks, [part.to(self.stacks[0]) for part in parts])

    # what it is made of

    def order(self, bond: Label) -> int:
        """K: how many nodes the bond meets, which sets the exponent 2 - 2/K of its law."""
        return len(self._layout.meets(bond))

    def slice_norms(self, bond: Label) -> Float[Tensor, "order size"]:
        """Norms of the slices of the K nodes at a bond, one row per node (in the order of `net.nodes`)."""
        nodes = self.nodes
        return torch.stack([slices(nodes[k], axis).norm(dim=1) for k, axis in self._layout.meets(bond)])

    def component_norms(self, bond: Label) -> Float[Tensor, " size"]:
        """sigma_r: the product of the K slice norms, for every value r of the bond.

        >>> import torch, ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5)
        >>> [a, b, c] = net.nodes
        >>> norms = a.norm(dim=0) * b.norm(dim=0) * c.norm(dim=0)
        >>> bool(torch.allclose(net.component_norms("r"), norms))
        True
        """
        return self.slice_norms(bond).prod(dim=0)

    def gradients(self, loss: Float[Tensor, ""]) -> tuple[Tensor, ...]:
        """Gradient of a scalar with respect to every node; zeros for nodes that are frozen or not involved."""
        trained = [stack for stack in self.stacks if stack.requires_grad]
        if not trained:
            return tuple(torch.zeros_like(node) for node in self.nodes)
        found = iter(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))
        parts = [next(found) if stack.requires_grad else torch.zeros_like(stack) for stack in self.stacks]
        return contract.unstack(self._layout, parts)

    def imbalance(self) -> Float[Tensor, ""]:
        """The largest violation of balance over all bonds; 0 means that every law holds in its closed form.

        For a bond of order 2 it is the Frobenius norm of the difference of the two Gram matrices, for one of higher
        order the largest difference of squared slice norms. Gradient flow conserves what is measured. Frozen nodes
        do not count. `rl.theory.conserved` has the tensors.
        """
        with torch.no_grad():
            return torch.stack([self._violation(bond) for bond in self.bonds] or [self.stacks[0].new_zeros(())]).max()

    def _violation(self, bond: Label) -> Tensor:
        found = differences(self, bond)
        if self.order(bond) == 2:
            return found.norm()
        spread = torch.cat([torch.zeros_like(found[:1]), found])
        return (spread.amax(dim=0) - spread.amin(dim=0)).max() if len(spread) else found.new_zeros(())

    def with_nodes(self, nodes: Sequence[Tensor]) -> "TensorNetwork":
        """Return a new network of the same equation and the same frozen nodes, with other values.

        Args:
            nodes: one tensor per node, in the order of `net.nodes`. They are copied. Sizes may differ from this
                network's, as long as they fit together, and so may the dtype.

        Raises:
            ValueError: for nodes that do not fit the equation.
            TypeError: for nodes that are not floating-point tensors of one dtype.

        >>> import ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5).freeze(0)
        >>> double = net.with_nodes([2 * node for node in net.nodes])
        >>> double.frozen, bool((double.tensor() == 8 * net.tensor()).all())
        ((0,), True)
        """
        return TensorNetwork((self._layout.nodes, self._layout.out), nodes).freeze(*self.frozen)

    def freeze(self, *nodes: int) -> "TensorNetwork":
        """Stop training some nodes, by position; returns the network. Freeze before you make an optimizer.

        Plain CP, for instance, is the one-level tree whose root weights are frozen at one.
        """
        for k in nodes:
            if not 0 <= k < len(self._layout.nodes):
                raise ValueError(f"node {k} does not exist; the network has nodes 0 to {len(self._layout.nodes) - 1}")
        if not nodes:
            return self
        values = [node.detach().clone() for node in self.nodes]
        self._layout = self._layout.freeze(nodes)
        self._store(values)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the nodes."""
        return self.stacks[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the nodes live."""
        return self.stacks[0].device

    # files speak of nodes, however they are stored

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for k, node in enumerate(self.nodes):
            destination[f"{prefix}nodes.{k}"] = node if keep_vars else node.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {f"{prefix}nodes.{k}": node for k, node in enumerate(self.nodes)}
        for key, node in own.items():
            if key not in state_dict:
                missing_keys.append(key)
            elif state_dict[key].shape != node.shape:
                error_msgs.append(f"{key} has shape {tuple(state_dict[key].shape)}, this network's {tuple(node.shape)}")
            else:
                with torch.no_grad():
                    node.copy_(state_dict[key])
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in own)


def slices(node: Tensor, axis: int) -> Float[Tensor, "size rest"]:
    """The slices of a node along one of its axes, flattened: row r is the slice at value r."""
    return node.movedim(axis, 0).reshape(node.shape[axis], -1)


def differences(net: TensorNetwork, bond: Label) -> Tensor:
    """What a gradient flow conserves at a bond (`rl.theory.conserved` says why): nothing for fewer than two free nodes.

    For a bond of order 2 the difference (R, R) of its Gram matrices; for higher ones, or where nodes are frozen, those
    (K - 1, R) of the first node's squared slice norms and every other's.
    """
    nodes = net.nodes
    free = [slices(nodes[k], axis) for k, axis in net.layout.meets(bond) if k not in net.layout.frozen]
    if net.order(bond) == 2 and len(free) == 2:
        return free[0] @ free[0].T - free[1] @ free[1].T
    squared = (
        torch.stack([s.square().sum(dim=1) for s in free]) if free else nodes[0].new_zeros(1, net.layout.sizes[bond])
    )
    return squared[:1] - squared[1:]


def parse(equation: str) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Split ``"ar,br->ab"`` into the labels of every node and of the end tensor."""
    if equation.count("->") != 1:
        raise ValueError(f"equation {equation!r} needs exactly one '->', as in 'ar,br->ab'")
    left, right = equation.replace(" ", "").split("->")
    strange = sorted(set(left + right) - set(string.ascii_letters) - {","})
    if strange:
        raise ValueError(
            f"equation {equation!r} has {strange[0]!r}; use letters, or pass the labels as a pair of lists"
        )
    return [tuple(node) for node in left.split(",")], tuple(right)


def write(nodes: Sequence[Sequence[Label]], out: Sequence[Label]) -> str:
    """The einsum string of labels: single letters stay, other labels get the first symbols that are free."""
    labels = list(dict.fromkeys([*out, *(label for node in nodes for label in node)]))
    kept = {x: x for x in labels if isinstance(x, str) and len(x) == 1 and x in string.ascii_letters}
    free = (symbol for symbol in symbols() if symbol not in kept)
    names = {label: kept[label] if label in kept else next(free) for label in labels}
    return ",".join("".join(names[x] for x in node) for node in nodes) + "->" + "".join(names[x] for x in out)


def check_indices(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return indices as int64 after checking type, width and range; the first offender is named."""
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"indices are a {type(indices).__name__}; pass an integer tensor of shape (batch, {len(shape)})"
        )
    if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
        raise TypeError(f"indices are {indices.dtype}; mode indices are integers: convert with .long()")
    if indices.ndim != 2 or indices.shape[1] != len(shape):
        raise ValueError(
            f"indices have shape {tuple(indices.shape)}; a tensor of order {len(shape)} needs (batch, {len(shape)})"
        )
    indices = indices.long()
    if indices.numel():  # the usual case takes one pass over what may be millions of indices
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


def check_vectors(vectors: Tensor | Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, ...]:
    """One (B, d_n) tensor per mode, of numbers that can be contracted with the network."""
    if not shape:
        raise ValueError("the network has no modes, and no vectors to be evaluated on; use net.tensor()")
    parts = tuple(vectors.unbind(1)) if isinstance(vectors, Tensor) and vectors.ndim == 3 else tuple(vectors)
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


def _check_nodes(nodes: Sequence[Tensor]) -> None:
    if not nodes:
        raise ValueError("nodes is empty; a network needs at least one node")
    for k, node in enumerate(nodes):
        if not isinstance(node, Tensor) or not node.dtype.is_floating_point:
            kind = node.dtype if isinstance(node, Tensor) else type(node).__name__
            raise TypeError(f"node {k} is {kind}; nodes are floating-point tensors: convert with .double()")
        if node.dtype != nodes[0].dtype or node.device != nodes[0].device:
            raise TypeError(
                f"node {k} is {node.dtype} on {node.device}, node 0 {nodes[0].dtype} on {nodes[0].device}; "
                f"convert them to one dtype and device"
            )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
