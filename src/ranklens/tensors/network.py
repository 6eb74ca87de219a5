"""The tensor network: an einsum of trainable nodes, each used once."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ranklens.tensors import arguments, contract
from ranklens.tensors.annotations import checked
from ranklens.tensors.checks import check_indices, check_nodes, check_vectors
from ranklens.tensors.convert import ArrayLike, TensorLike, as_tensor
from ranklens.tensors.equation import parse, write
from ranklens.tensors.layout import Label, Layout

LONGEST_REPR = 8  # nodes, and modes, that `print(net)` writes out; of more than these it gives the number


class Nodes(tuple[Tensor, ...]):
    """The nodes of a network, as a tuple. Item assignment raises a TypeError that says how to change a node."""

    __slots__ = ()

    def __setitem__(self, position: int, value: object) -> None:
        """Refuse to replace a node. An augmented assignment such as ``net.nodes[0] *= 2`` assigns the node itself.

        Raises:
            TypeError: if the value is not the node at this position.
        """
        if value is not self[position]:
            raise TypeError(
                f"net.nodes[{position}] cannot be replaced; write to it in place under torch.no_grad(), as in "
                f"net.nodes[{position}].copy_(value), or make another network by net.with_nodes(nodes)"
            )


class TensorNetwork(nn.Module):
    r"""A tensor given as an einsum of trainable nodes, each used once.

    An index on the right of the einsum is a *mode* and belongs to one node. A summed index is a *bond*, and a bond may
    meet any number K >= 2 of nodes. The value r of a bond picks one slice of each of these K nodes. The K slices make
    up a *component*, whose norm sigma_r is the product of the slice norms. Under gradient flow from a balanced
    initialization every component norm of every bond obeys

        d sigma_r / dt = K sigma_r^(2 - 2/K) <-grad L, C_r / sigma_r>,

    where L is the loss as a function of the end tensor and C_r is the component as a tensor of the shape of the end
    tensor. The reason is that each node is used once, so the end tensor is linear in each slice. The inner product of a
    slice with its gradient is then the same number for all K slices of a component, and the differences of their
    squared norms are conserved.

    Args:
        equation: an einsum such as ``"ar,br,cr->abc"``, or a pair (labels of every node, labels of the end tensor)
            with any hashable labels, for networks with more indices than there are letters. An einsum that is not a
            network raises a ValueError: an index repeated within a node, a bond that meets a single node, a mode in two
            nodes, or an index on the right that no node has.
        nodes: one floating-point tensor, numpy array or nested list per node, all of one dtype and device. They are
            copied. Nodes that do not fit the equation, and one tensor that requires a gradient given as two nodes,
            raise a ValueError. Nodes that are not floating-point or differ in dtype raise a TypeError.

    Source: Razin, Maman, Cohen (ICML 2022), Theorem 3 and its proof, stated here for any network.

    >>> import torch, ranklens as rl
    >>> net = rl.TensorNetwork("ar,br,cr->abc", [torch.ones(2, 3, dtype=torch.float64)] * 3)
    >>> net.shape, net.bonds, net.order("r")
    ((2, 2, 2), ('r',), 3)
    >>> bool((net.tensor() == 3).all())  # three components of ones
    True
    """

    def __init__(
        self, equation: str | tuple[Sequence[Sequence[Label]], Sequence[Label]], nodes: Sequence[TensorLike]
    ) -> None:
        super().__init__()
        labels, out = parse(equation) if isinstance(equation, str) else _pair(equation)
        values = check_nodes(nodes)
        shapes = tuple(tuple(node.shape) for node in values)
        self._layout = Layout(tuple(tuple(node) for node in labels), shapes, tuple(out))
        self._collected = False  # whether anyone may have put the Parameters into an optimizer
        self._store([node.detach().clone() for node in values], {})

    def _store(self, nodes: Sequence[Tensor], parameters: Mapping[tuple[int, ...], nn.Parameter]) -> None:
        """Put the nodes into one Parameter per stack, because 784 small tensors would cost 784 kernel calls.

        Args:
            nodes: the values of all nodes.
            parameters: the Parameters of the stacks that already exist, by the positions of their nodes.
        """
        for name in list(self._parameters):
            del self._parameters[name]
        for k, stack in enumerate(contract.stacks_of(self._layout)):
            parameter = parameters.get(stack)
            if parameter is None:
                value = nodes[stack[0]] if len(stack) == 1 else torch.stack([nodes[i] for i in stack])
                parameter = nn.Parameter(value.contiguous())
            if stack[0] in self._layout.frozen:
                parameter.requires_grad_(False)
                parameter.grad = None  # with which an optimizer would still move it
            self.register_parameter(f"stack_{k}", parameter)

    # ------------------------------------------------------------------------------------------------------------------
    # labels, sizes and nodes

    @property
    def layout(self) -> Layout:
        """Return the labels and sizes of the network, without the values of its nodes."""
        return self._layout

    @property
    def stacks(self) -> tuple[nn.Parameter, ...]:
        """Return the Parameters in which the nodes are stored.

        Nodes that are contracted in one operation are stacked along a new leading axis of one Parameter; they have
        equal shapes, and all or none are trained (see `contract.stacks_of`). Any other node is a Parameter by itself.
        """
        return tuple(self._parameters.values())  # type: ignore[arg-type]

    @property
    def nodes(self) -> Nodes:
        """Return the nodes in the order of the equation.

        They are differentiable views of the Parameters. Write to them in place, under `torch.no_grad()`: torch refuses
        in-place changes of a trained tensor anywhere else.

        >>> import torch, ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5)
        >>> with torch.no_grad():
        ...     _ = net.nodes[0].fill_(1.0)
        >>> bool((net.nodes[0] == 1).all())
        True
        """
        return Nodes(contract.unstack(self._layout, self.stacks))

    @nodes.setter
    def nodes(self, nodes: object) -> NoReturn:
        raise AttributeError(
            "net.nodes cannot be assigned; write to each node in place under torch.no_grad(), as in "
            "net.nodes[0].copy_(value), or make another network by net.with_nodes(nodes)"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the end tensor: the sizes of the modes."""
        return self._layout.shape

    @property
    def bonds(self) -> tuple[Label, ...]:
        """Return the labels of the summed indices, in the order in which the nodes first mention them."""
        return self._layout.bonds

    @property
    def equation(self) -> str:
        """Return the network as an einsum string. Labels that are not single letters get letters of their own."""
        return write(self._layout.nodes, self._layout.out)

    @property
    def frozen(self) -> tuple[int, ...]:
        """Return the positions of the nodes that are not trained."""
        return tuple(sorted(self._layout.frozen))

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the nodes."""
        return self.stacks[0].dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the nodes."""
        return self.stacks[0].device

    def extra_repr(self) -> str:
        """Return the equation and the shape, for `print(net)`; of large networks, the numbers of nodes and modes."""
        count, order = len(self._layout.nodes), len(self.shape)
        equation = self.equation if count <= LONGEST_REPR else f"{count} nodes"
        return f"{equation}, shape={self.shape if order <= LONGEST_REPR else f'order {order}'}"

    # ------------------------------------------------------------------------------------------------------------------
    # values of the end tensor

    def tensor(self) -> Tensor:
        """Return the end tensor, contracted pairwise in the cheapest order that was found.

        Returns:
            A tensor of shape `net.shape` (0-d for an equation with nothing on the right).

        Raises:
            ValueError: if the end tensor does not fit into this machine's memory.
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
        """Return the end tensor, a tensor of shape `net.shape`, so that `net()` is `net.tensor()`."""
        return self.tensor()

    def entries(
        self,
        indices: Integer[Tensor, "batch order"] | Float[Tensor, "batch order"] | ArrayLike,
        *,
        check: bool = True,
    ) -> Float[Tensor, " batch"]:
        """Return entries of the end tensor.

        The end tensor is contracted whole, or the entries are contracted one by one, whichever costs less. At a bond
        that joins very many leaves (CP of order 784) the product of their factors is taken through logarithms. This
        neither underflows in the middle of the product nor costs one kernel call per factor.

        Args:
            indices: one row of mode indices per entry, integers of any width. Unless `check` is False, indices that
                are not integers raise a TypeError, and rows of the wrong length and indices outside their mode raise a
                ValueError.
            check: False skips the pass over the indices, for indices that were checked before. Wrong indices then raise
                an IndexError or give undefined results. Where `contract.reads_indicators(net.layout)` is true, zeros
                and ones of the network's dtype may then stand for the integers 0 and 1, which saves a conversion.

        Returns:
            One number per row, of the network's dtype.

        >>> import ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5, std=1.0)
        >>> bool(net.entries([[1, 2, 3]]).isclose(net.tensor()[1, 2, 3]))
        True
        """
        if check is not False:
            indices = check_indices(indices, self.shape)
        else:
            indices = as_tensor("indices", indices)
            if contract.sweep(self._layout) is None:
                indices = indices.long()  # torch takes an index of uint8 for a mask
        return contract.entries(self._layout, self.stacks, indices)

    def evaluate(self, vectors: TensorLike | Sequence[TensorLike]) -> Float[Tensor, " batch"]:
        """Return the inner products of the end tensor with rank-one tensors x_1 outer ... outer x_N.

        This is the forward pass of the circuit that the network describes: a linear network for a deep matrix, a
        shallow or deep convolutional arithmetic circuit for a CP or hierarchical factorization.

        Args:
            vectors: a (batch, N, d) tensor or numpy array if all modes have size d, or a list of N tensors (or arrays)
                of shapes (batch, d_n), where d_n is the size of mode n. Vectors that do not fit raise a ValueError.

        Returns:
            One number per row of the batch.

        >>> import ranklens as rl
        >>> net = rl.cp((2, 2), rank=3, std=1.0)
        >>> unit = [[[0.0, 1.0]], [[1.0, 0.0]]]  # picks row 1 and column 0
        >>> bool(net.evaluate(unit).isclose(net.tensor()[1, 0]))
        True
        """
        parts = check_vectors(vectors, self.shape)
        return contract.evaluate(self._layout, self.stacks, [part.to(self.stacks[0]) for part in parts])

    # ------------------------------------------------------------------------------------------------------------------
    # components, gradients and balance

    def order(self, bond: Label) -> int:
        """Return the order K of a bond: the number of nodes that it meets.

        K sets the exponent 2 - 2/K in the law of the component norms. A label that is no bond raises a ValueError.
        """
        return len(self._layout.meets(bond))

    def slice_norms(self, bond: Label) -> Float[Tensor, "order size"]:
        """Return the norms of the slices of the K nodes at a bond.

        Args:
            bond: label of the bond.

        Returns:
            One row per node, in the order of `net.nodes`, and one column per value of the bond.
        """
        nodes = self.nodes
        return torch.stack([slices(nodes[k], axis).norm(dim=1) for k, axis in self._layout.meets(bond)])

    def component_norms(self, bond: Label) -> Float[Tensor, " size"]:
        """Return the norm sigma_r of every component of a bond: the product of its K slice norms.

        Args:
            bond: label of the bond.

        Returns:
            One number per value r of the bond.

        >>> import torch, ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5)
        >>> [a, b, c] = net.nodes
        >>> norms = a.norm(dim=0) * b.norm(dim=0) * c.norm(dim=0)
        >>> bool(torch.allclose(net.component_norms("r"), norms))
        True
        """
        return self.slice_norms(bond).prod(dim=0)

    @checked
    def gradients(self, loss: Float[Tensor, ""]) -> tuple[Tensor, ...]:
        """Return the gradient of a scalar with respect to every node.

        Args:
            loss: a scalar that was computed from this network.

        Returns:
            One tensor per node, of the node's shape. It is zero if the node is frozen or if the loss does not depend on
            the node.
        """
        trained = [stack for stack in self.stacks if stack.requires_grad]
        if not trained:
            return tuple(torch.zeros_like(node) for node in self.nodes)
        found = iter(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))
        parts = [next(found) if stack.requires_grad else torch.zeros_like(stack) for stack in self.stacks]
        return contract.unstack(self._layout, parts)

    def imbalance(self) -> Float[Tensor, ""]:
        """Return the largest violation of balance over all bonds.

        The violation at a bond of order 2 is the Frobenius norm of the difference of the Gram matrices of its two
        nodes. At a bond of higher order it is the largest difference of squared slice norms at one value of the bond.
        Gradient flow conserves these differences. If all are 0, the laws of the component norms hold as they are
        written in `TensorNetwork`. Frozen nodes do not count. Without bonds, the result is 0. `rl.theory.conserved`
        returns the differences themselves.
        """
        with torch.no_grad():
            return torch.stack([self._violation(bond) for bond in self.bonds] or [self.stacks[0].new_zeros(())]).max()

    def _violation(self, bond: Label) -> Tensor:
        """Return the violation of balance at one bond."""
        found = differences(self, bond)
        if self.order(bond) == 2:
            return found.norm()
        spread = torch.cat([torch.zeros_like(found[:1]), found])
        return (spread.amax(dim=0) - spread.amin(dim=0)).max() if len(spread) else found.new_zeros(())

    # ------------------------------------------------------------------------------------------------------------------
    # other values, frozen nodes

    def with_nodes(self, nodes: Sequence[TensorLike]) -> "TensorNetwork":
        """Return a new network of the same equation and the same frozen nodes, with other values.

        Args:
            nodes: one tensor per node, in the order of `net.nodes`. They are copied. Their sizes and their dtype may
                differ from this network's, if they fit together. Nodes that do not fit the equation raise a ValueError,
                and nodes that are not floating-point or differ in dtype raise a TypeError.

        >>> import ranklens as rl
        >>> net = rl.cp((2, 3, 4), rank=5).freeze(0)
        >>> double = net.with_nodes([2 * node for node in net.nodes])
        >>> double.frozen, bool((double.tensor() == 8 * net.tensor()).all())
        ((0,), True)
        """
        return TensorNetwork((self._layout.nodes, self._layout.out), nodes).freeze(*self.frozen)

    @checked
    def freeze(self, *nodes: int) -> "TensorNetwork":
        """Stop training some nodes, and return this network.

        A CP factorization, for instance, is a hierarchical one with a single level whose root weights are frozen at 1.

        A frozen node does not share a Parameter with a trained one. Freezing some of the nodes that share a Parameter
        therefore moves the other ones to new Parameters, which an optimizer made before would not train. This is done
        only before the network's Parameters (or those of a model that contains it) are first listed, for instance by
        `net.parameters()`. Later it is refused. Every other Parameter remains the same object.

        Args:
            nodes: positions of the nodes in `net.nodes`.

        Returns:
            This network.

        Raises:
            ValueError: if there is no node at a position.
            RuntimeError: if trained nodes would move to new Parameters after the Parameters have been listed.

        >>> import ranklens as rl
        >>> net = rl.cp((3, 3, 3), rank=2)
        >>> net.freeze(1).frozen, [parameter.requires_grad for parameter in net.parameters()]
        ((1,), [True, False])
        """
        for k in nodes:
            if not 0 <= k < len(self._layout.nodes):
                raise ValueError(f"node {k} does not exist; the network has nodes 0 to {len(self._layout.nodes) - 1}")
        layout = self._layout.freeze(nodes)
        parameters = dict(zip(contract.stacks_of(self._layout), self.stacks, strict=True))
        moved = [
            k
            for stack in contract.stacks_of(layout)
            if stack not in parameters and stack[0] not in layout.frozen
            for k in stack
        ]
        if moved and (self._collected or any(stack.grad is not None for stack in self.stacks)):
            raise RuntimeError(
                f"freezing nodes {nodes} would move the trained nodes {tuple(sorted(moved))} to new Parameters, but "
                f"the present Parameters may already be in an optimizer; freeze before net.parameters() is called, or "
                f"make a new network by net.with_nodes(net.nodes).freeze{nodes} and a new optimizer"
            )
        values = [node.detach().clone() for node in self.nodes]
        self._layout = layout
        self._store(values, parameters)
        return self

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield (prefix, this network), as every nn.Module does, and record that its Parameters may be in an optimizer.

        `parameters()` of this network, and of every module that contains it, calls this method. `freeze` replaces
        Parameters, so it refuses to do so once they may have been given to an optimizer.

        Yields:
            The prefix and this network.
        """
        self._collected = True
        yield from super().named_modules(memo, prefix, remove_duplicate)

    # ------------------------------------------------------------------------------------------------------------------
    # copies and files: a state_dict has one tensor per node, however the nodes are stored

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._collected = False  # the Parameters of a copy are new

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


def _pair(equation: object) -> tuple[Sequence[Sequence[Label]], Sequence[Label]]:
    """Return an equation that is a pair of lists, after checking that it is one.

    Raises:
        TypeError: if it is anything else.
    """
    if not isinstance(equation, tuple | list) or len(equation) != 2:
        raise TypeError(
            f"equation is {arguments.told(equation)}; give an einsum such as 'ar,br->ab', or a pair (labels of every "
            f"node, labels of the end tensor)"
        )
    nodes, out = (arguments.sequence(f"equation[{k}]", part) for k, part in enumerate(equation))
    return [arguments.sequence(f"equation[0][{k}]", node) for k, node in enumerate(nodes)], out


def check_network(name: str, value: object) -> TensorNetwork:
    """Return the value of an argument if it is a network.

    Args:
        name: name of the argument, for the error.
        value: the value.

    Raises:
        TypeError: if the value is anything else.
    """
    if not isinstance(value, TensorNetwork):
        raise TypeError(
            f"{name} is of type {type(value).__name__}; pass a rl.TensorNetwork, as rl.deep_matrix makes it"
        )
    return value


def slices(node: Tensor, axis: int) -> Float[Tensor, "size rest"]:
    """Return the slices of a node along one axis, flattened: row r has the entries with index r on this axis."""
    return node.movedim(axis, 0).reshape(node.shape[axis], -1)


def differences(net: TensorNetwork, bond: Label) -> Float[Tensor, "rows size"]:
    """Return the differences at a bond that gradient flow conserves (`rl.theory.conserved` says why).

    Args:
        net: the network.
        bond: label of the bond, of size R.

    Returns:
        At a bond of order 2 whose nodes are both trained, the (R, R) Gram matrix of the slices of the first node minus
        the Gram matrix of the slices of the second node. At every other bond, one row per trained node but the first:
        the R squared slice norms of the first trained node minus the R squared slice norms of this node. There are no
        rows if fewer than two of the nodes are trained.
    """
    nodes = net.nodes
    free = [slices(nodes[k], axis) for k, axis in net.layout.meets(bond) if k not in net.layout.frozen]
    if net.order(bond) == 2 and len(free) == 2:
        return free[0] @ free[0].T - free[1] @ free[1].T
    squared = (
        torch.stack([s.square().sum(dim=1) for s in free]) if free else nodes[0].new_zeros(1, net.layout.sizes[bond])
    )
    return squared[:1] - squared[1:]


def _memory() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
