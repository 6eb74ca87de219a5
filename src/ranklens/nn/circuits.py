"""Neural networks that are tensor factorizations: linear networks and convolutional arithmetic circuits.

`circuit` converts a tensor network into such a neural network; the method `network()` of the result converts it back.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens.tensors import contract
from ranklens.tensors.annotations import checked
from ranklens.tensors.checks import check_vectors
from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.network import TensorNetwork

Equation = tuple[tuple[tuple[Label, ...], ...], tuple[Label, ...]]  # the labels of every node, and of the end tensor
# Number that stands for the output node in a CP network, which has no node of output weights; no real node has it.
NO_OUTPUT_NODE = -1


@checked
def circuit(net: TensorNetwork, shared: bool = False) -> "LinearCircuit | ArithmeticCircuit":
    """Return the neural network that computes `net.evaluate`, with the weights of the tensor network.

    For every input x, `circuit(net)(x)` equals `net.evaluate(x)`: the inner product of the end tensor with the outer
    product of the vectors in x. Both evaluate one sum of products of the nodes' entries, so they agree up to rounding.

    - A deep matrix becomes a linear network.
    - A CP network becomes a shallow convolutional arithmetic circuit: a locally connected 1 x 1 convolution, a product
      over all positions, and a sum over channels.
    - A hierarchical network becomes a deep convolutional arithmetic circuit: 1 x 1 convolutions alternate with products
      over the windows of the mode tree, and a linear output layer follows.

    The nodes of the network are copied into the layers; the circuit does not share memory with `net`.

    Args:
        net: a deep matrix, a CP or a hierarchical network over any mode tree, or any network whose einsum has the form
            of one of them.
        shared: if True, all positions of a level use one set of weights, as in an ordinary convolution. The shared
            weights are initialized from the node of the level's first position. The circuit then equals
            `net.evaluate` if all nodes of each level are equal, and in general not otherwise.

    Returns:
        A `LinearCircuit` for a deep matrix, an `ArithmeticCircuit` otherwise. Weights of frozen nodes do not require a
        gradient.

    Raises:
        ValueError: if the network is not one of these three kinds, or `shared=True` is given for a deep matrix or for
            a network in which some level has nodes of different shapes or is partly frozen.
        TypeError: if `net` is not a TensorNetwork.

    Source: Cohen, Sharir, Shashua (COLT 2016); Razin, Maman, Cohen (ICML 2021), section 3, and
    (ICML 2022), section 3.

    >>> import torch, ranklens as rl
    >>> net = rl.hierarchical((3, 3, 3, 3), width=5, std=1.0)
    >>> x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 4, 3)
    >>> bool(torch.allclose(rl.nn.circuit(net)(x), net.evaluate(x), rtol=1e-12))
    True
    >>> all(torch.equal(a, b) for a, b in zip(rl.nn.circuit(net).network().nodes, net.nodes))
    True
    """
    if not isinstance(net, TensorNetwork):
        raise TypeError(f"net is a {type(net).__name__}; pass a TensorNetwork, such as one made by rl.cp")
    chain = _read_chain(net.layout)
    if chain is not None:
        if shared:
            raise ValueError(
                "shared is True, but a deep matrix has one node per level and nothing to share; use shared=False"
            )
        return LinearCircuit(net, chain)
    tree = _read_tree(net.layout)
    if tree is None:
        raise ValueError(
            f"{net} is no circuit: only deep_matrix, cp and hierarchical networks are, whose nodes are matrices joined "
            f"in a chain or a tree; net.evaluate(x) works for every network"
        )
    return ArithmeticCircuit(net, tree, shared=shared)


@checked
def product_pool(
    x: Float[Tensor, "*batch positions channels"], windows: Sequence[Sequence[int]] | None = None
) -> Float[Tensor, "*batch windows channels"]:
    """Return the product of the activations over each window of positions, separately for every channel.

    The factors are multiplied in pairs, then the products in pairs, and so on, so the number of kernel calls grows with
    the logarithm of the window length. Only multiplications are used, so derivatives of every order are exact even
    where activations are zero; dividing the product by a factor would fail there.

    Args:
        x: activations; the last axis is the channels, the axis before it the positions.
        windows: for each window, the positions in it, in any order and possibly repeated; windows may differ in length
            and may overlap. None means one window that contains all positions.

    Returns:
        One product per window and channel. A product of many factors overflows or underflows unless the factors are
        close to 1 in absolute value.

    Raises:
        ValueError: if `windows` is empty, a window is empty, or a position is negative or does not exist.

    Source: Cohen, Sharir, Shashua (COLT 2016).

    >>> import torch, ranklens as rl
    >>> x = torch.tensor([[2.0], [0.0], [0.0], [5.0]], requires_grad=True)
    >>> pooled = rl.nn.product_pool(x, [[0, 1], [1, 2], [3]])
    >>> pooled.tolist()
    [[0.0], [0.0], [5.0]]
    >>> torch.autograd.grad(pooled.sum(), x)[0].tolist()  # d(x0 x1) + d(x1 x2) + d(x3)
    [[0.0], [2.0], [0.0], [1.0]]
    """
    count = x.shape[-2]
    if windows is None:
        windows = [range(count)]
    for k, window in enumerate(windows):
        if len(window) == 0:
            raise ValueError(f"window {k} is empty; give every window at least one position")
        for position in window:
            if not 0 <= position < count:
                raise ValueError(f"window {k} has position {position}; positions run from 0 to {count - 1}")
    if len(windows) == 0:
        raise ValueError("windows is empty; give at least one window, or None for a single window of all positions")
    index = _padded_windows(windows, count)
    return _pool(x, None if index is None else index.to(x.device), len(windows))


def _padded_windows(windows: Sequence[Sequence[int]], count: int) -> Tensor | None:
    """Return the positions of each window as one row, shorter rows padded with `count`.

    Return None if the rows, read one after the other, are 0, 1, ..., count - 1: then a reshape takes their place.
    """
    longest = max(len(window) for window in windows)
    rows = [[*window, *[count] * (longest - len(window))] for window in windows]
    if [position for row in rows for position in row] == list(range(count)):
        return None
    return torch.tensor(rows)


def _pool(x: Tensor, index: Tensor | None, windows: int) -> Tensor:
    """Return products over the windows in `index`; None means `windows` consecutive windows of equal length."""
    if index is None:
        return _product(x.unflatten(-2, (windows, x.shape[-2] // windows)))
    one = x.new_ones(*x.shape[:-2], 1, x.shape[-1])
    return _product(torch.cat([x, one], dim=-2)[..., index, :])


def _product(x: Tensor) -> Tensor:
    """Return the product over the second-to-last axis, by repeatedly multiplying pairs of neighbours."""
    while (count := x.shape[-2]) > 1:
        x, *unpaired = x.split([count - 1, 1], dim=-2) if count % 2 else (x,)
        first, second = x.unflatten(-2, (count // 2, 2)).unbind(-2)
        x = torch.cat([first * second, *unpaired], dim=-2) if unpaired else first * second
    return x.squeeze(-2)


# ---------------------------------------------------------------------------------------------------------------------
# linear networks


@dataclass(frozen=True)
class _Chain:
    """A network as a product of matrices W_L ... W_1.

    Attributes:
        nodes: the network's nodes from W_L to W_1.
        flipped: nodes that hold the transpose of their matrix, so their axes are (in, out).
    """

    nodes: tuple[int, ...]
    flipped: frozenset[int]


def _read_chain(layout: Layout) -> _Chain | None:
    """Return the network as a product of matrices, or None if it is not one.

    Two matrices that both have their bond on the same axis are read as CP of order 2, not as a product.
    """
    if len(layout.out) != 2 or any(len(labels) != 2 for labels in layout.nodes):
        return None
    if len({axis for bond in layout.bonds for _, axis in layout.incidence[bond]}) == 1:
        return None
    label, nodes, flipped = layout.out[0], [], set()
    k, axis = layout.incidence[label][0]
    while True:
        nodes.append(k)
        if axis == 1:
            flipped.add(k)
        label = layout.nodes[k][1 - axis]
        next_nodes = [meet for meet in layout.incidence[label] if meet[0] != k]
        if len(next_nodes) != 1:
            break
        k, axis = next_nodes[0]
    is_complete = label == layout.out[1] and len(nodes) == len(layout.nodes)
    return _Chain(tuple(nodes), frozenset(flipped)) if is_complete else None


class LinearCircuit(nn.Module):
    """A linear neural network that computes y^T W x for a deep matrix W = W_L ... W_1.

    Create one with `circuit(net)`. The output y^T W x is the inner product of W and the matrix y x^T.

    Attributes:
        linear: a Sequential of the layers x -> W_l x without bias, from W_1 to W_L. Applied to the j-th unit vector, it
            returns column j of W.

    Source: Arora, Cohen, Hazan (ICML 2018); Razin and Cohen (NeurIPS 2020), section 2.

    >>> import torch, ranklens as rl
    >>> net = rl.deep_matrix((3, 4), depth=3, std=1.0)
    >>> model = rl.nn.circuit(net)
    >>> [layer.weight.shape == node.shape for layer, node in zip(model.linear, reversed(net.nodes))]
    [True, True, True]
    >>> bool(torch.allclose(model.linear(torch.eye(4, dtype=torch.float64)).T, net.tensor(), rtol=1e-12))
    True
    """

    def __init__(self, net: TensorNetwork, chain: _Chain) -> None:
        super().__init__()
        self._equation: Equation = (net.layout.nodes, net.layout.out)
        self._chain, self._shape = chain, net.shape
        self.linear = nn.Sequential(*[_layer(net, k, k in chain.flipped) for k in reversed(chain.nodes)])

    def forward(self, vectors: Tensor | Sequence[Tensor]) -> Float[Tensor, " batch"]:
        """Return y^T W x for every pair (y, x) of a batch.

        Args:
            vectors: the pair y of shape (batch, rows) and x of shape (batch, columns); if W is square, also one tensor
                of shape (batch, 2, rows). They are converted to the dtype and device of the weights. Vectors that do
                not fit W are refused with a ValueError.

        Returns:
            One number per pair, of shape (batch,).
        """
        weight = next(self.parameters())
        y, x = [part.to(weight) for part in check_vectors(vectors, self._shape)]
        return (y * self.linear(x)).sum(dim=1)

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """Return the weights as nodes of the tensor network, in their order there. They are views of the weights."""
        weights = dict(zip(reversed(self._chain.nodes), self.parameters(), strict=True))
        return tuple(weights[k].T if k in self._chain.flipped else weights[k] for k in range(len(weights)))

    def network(self) -> TensorNetwork:
        """Return the tensor network whose nodes are the weights of this circuit: the inverse of `circuit`.

        Returns:
            A network with the equation of the network that the circuit was made from. Weights that do not require a
            gradient become frozen nodes.
        """
        weights = zip(reversed(self._chain.nodes), self.parameters(), strict=True)
        frozen = [k for k, weight in weights if not weight.requires_grad]
        return TensorNetwork(self._equation, self.nodes).freeze(*frozen)


def _layer(net: TensorNetwork, k: int, flip: bool) -> nn.Linear:
    """Return node k, or its transpose if `flip`, as a linear layer without bias."""
    weight = _stack(net, [k], frozenset([k] if flip else []))
    rows, columns = weight.shape[1:]
    # On the meta device no initial values are drawn, so the global random generator is not used.
    layer = nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach()[0], requires_grad=weight.requires_grad)
    return layer


# ---------------------------------------------------------------------------------------------------------------------
# arithmetic circuits


@dataclass(frozen=True)
class _Level:
    """One level of a circuit. Its positions are the tree nodes computed so far, ordered by the first mode in each.

    Attributes:
        nodes: for every position, the network's node that holds the weights applied there.
        windows: groups of positions whose products are taken at this level.
        passed: positions that are not pooled at this level and are passed on unchanged.
        order: for every position of the next level, its place in the list (windows, passed).
    """

    nodes: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    passed: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class _Tree:
    """A network as a tree of matrices.

    Attributes:
        levels: the levels of the circuit, from the modes up.
        output: the node of output weights, or `NO_OUTPUT_NODE`.
        flipped: nodes that hold the transpose of their matrix, so their axes are (out, in).
    """

    levels: tuple[_Level, ...]
    output: int
    flipped: frozenset[int]


def _read_tree(layout: Layout) -> _Tree | None:
    """Return the network as a tree of matrices whose leaves are the modes, or None if it is not one.

    Above the tree is a vector of output weights, which a CP network lacks.
    """
    outputs = [k for k, labels in enumerate(layout.nodes) if len(labels) == 1]
    bonds = {layout.nodes[k][0] for k in outputs} or set(layout.bonds)
    if contract.sweep(layout) is None or len(outputs) > 1 or len(bonds) != 1 or any(len(x) > 2 for x in layout.nodes):
        return None
    output, top = (outputs[0] if outputs else NO_OUTPUT_NODE), bonds.pop()
    if top in layout.out:
        return None
    parent_of: dict[int, int] = {}
    flipped: set[int] = set()
    queue: list[tuple[Label, int]] = [(top, output)]
    for bond, parent in queue:
        for k, axis in layout.incidence[bond]:
            if k != parent:
                parent_of[k] = parent
                flipped.update([k] if axis == 0 else [])
                below = layout.nodes[k][1 - axis]
                queue.extend([] if below in layout.out else [(below, k)])
    return _Tree(_levels(layout, parent_of), output, frozenset(flipped))


def _levels(layout: Layout, parent_of: dict[int, int]) -> tuple[_Level, ...]:
    """Return the levels of the tree: a node is pooled at the level whose number is the height of its parent."""
    first_mode: dict[int, int] = {}
    height: dict[int, int] = defaultdict(int)
    for k, parent in reversed(parent_of.items()):  # children come after their parents, so here they come first
        if k not in height:
            first_mode[k] = next(layout.out.index(x) for x in layout.nodes[k] if x in layout.out)
        first_mode[parent] = min(first_mode[k], first_mode.get(parent, len(layout.out)))
        height[parent] = max(height[parent], height[k] + 1)
    positions = sorted((k for k in parent_of if height[k] == 0), key=first_mode.__getitem__)
    levels = []
    for level in range(1, max(height.values()) + 1):
        windows: dict[int, list[int]] = defaultdict(list)
        for position, k in enumerate(positions):
            if height[parent_of[k]] == level:
                windows[parent_of[k]].append(position)
        passed = [position for position, k in enumerate(positions) if height[parent_of[k]] != level]
        next_nodes = [*windows, *[positions[position] for position in passed]]
        order = sorted(range(len(next_nodes)), key=[first_mode[k] for k in next_nodes].__getitem__)
        groups = tuple(tuple(window) for window in windows.values())
        levels.append(_Level(tuple(positions), groups, tuple(passed), tuple(order)))
        positions = [next_nodes[place] for place in order]
    return tuple(levels)


class ProductLevel(nn.Module):
    """One level of an arithmetic circuit: a locally connected 1 x 1 convolution followed by products over windows.

    Attributes:
        weights: without sharing, one Parameter of shape (n, in, out) for each group of n positions whose nodes have
            equal shapes and are all trained or all frozen. With sharing, a single Parameter of shape (in, out).
        windows: for each window, the positions whose activations are multiplied. A position in no window is passed to
            the next level unchanged; this happens where the tree skips a level.
        shared: whether all positions use one set of weights.
    """

    _index: Tensor | None
    _passed: Tensor | None
    _order: Tensor | None

    def __init__(self, net: TensorNetwork, level: _Level, flipped: frozenset[int], *, shared: bool) -> None:
        super().__init__()
        self.windows, self.shared = level.windows, shared
        self._groups = _groups(net, level, flipped)
        self._members = tuple(tuple(level.nodes[p] for p in group) for group in self._groups)
        self.weights = nn.ParameterList(_weights(net, self._members, flipped, shared=shared))
        pooled = [p for group in self._groups for p in group]
        place = {p: at for at, p in enumerate(pooled)}  # the convolved positions come group by group
        self._buffer("_index", _padded_windows([[place[p] for p in window] for window in level.windows], len(pooled)))
        for g, group in enumerate(self._groups):
            self._buffer(f"_group_{g}", _padded_windows([group], len(level.nodes)))
        self._buffer("_passed", torch.tensor(level.passed) if level.passed else None)
        self._buffer("_order", torch.tensor(level.order) if level.passed else None)

    def _buffer(self, name: str, value: Tensor | None) -> None:
        """Register indices that move with the module and are not part of its state dict."""
        self.register_buffer(name, value, persistent=False)

    def forward(self, x: Float[Tensor, "batch positions channels"]) -> Float[Tensor, "batch places width"]:
        """Return the products over windows of the convolved activations, and the positions that are passed on.

        Args:
            x: activations of shape (batch, positions, channels). A position with fewer channels than the widest
                position is padded with zeros.

        Returns:
            Activations of the next level, of shape (batch, places, width). There is one place for each window and for
            each position that is passed on unchanged, in the order of the first mode of each place. Places with
            fewer channels than the widest are padded with zeros.
        """
        parts = [self._convolve(x, g, weight) for g, weight in enumerate(self.weights)]
        pooled = _pool(_join(parts), self._index, len(self.windows))
        return pooled if self._passed is None else _join([pooled, x[:, self._passed]])[:, self._order]

    def _convolve(self, x: Tensor, g: int, weight: Tensor) -> Tensor:
        """Return the convolved activations of the positions in group g."""
        index = getattr(self, f"_group_{g}")
        x = (x if index is None else x[:, index[0]])[..., : weight.shape[-2]]
        return x @ weight if self.shared else torch.einsum("bnd,ndr->bnr", x, weight)

    def extra_repr(self) -> str:
        """Return the number of windows and whether weights are shared, for `print(circuit)`."""
        return f"{len(self.windows)} windows, shared={self.shared}"

    def nodes(self) -> dict[int, Tensor]:
        """Return the weights of this level by node of the tensor network.

        Returns:
            {position of the node in `net.nodes`: matrix of shape (in, out)}, where `in` is the number of channels that
            enter the level at the node's position, and `out` the number that leave it. The matrices are views of
            `weights`; with sharing, all nodes of the level have one matrix.
        """
        found: dict[int, Tensor] = {}
        for members, weight in zip(self._members, self.weights, strict=True):
            found.update(zip(members, [weight] * len(members) if self.shared else weight.unbind(0), strict=True))
        return found

    def frozen(self) -> list[int]:
        """Return the positions, in the tuple of nodes of the tensor network, of this level's nodes that are frozen.

        Nodes are frozen here if their weights do not require a gradient. The list is empty if all are trained.
        """
        pairs = zip(self._members, self.weights, strict=True)
        return [k for members, weight in pairs if not weight.requires_grad for k in members]


def _groups(net: TensorNetwork, level: _Level, flipped: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    """Return the pooled positions, grouped by the shape of their node and by whether the node is frozen."""
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = defaultdict(list)
    shapes, frozen = net.layout.shapes, net.layout.frozen
    for p in sorted(p for window in level.windows for p in window):
        k = level.nodes[p]
        groups[shapes[k][::-1] if k in flipped else shapes[k], k in frozen].append(p)
    return tuple(tuple(group) for group in groups.values())


def _weights(
    net: TensorNetwork, groups: Sequence[Sequence[int]], flipped: frozenset[int], *, shared: bool
) -> list[nn.Parameter]:
    """Return one Parameter per group of nodes, or a single one for all positions if they are shared."""
    if not shared:
        return [_stack(net, nodes, flipped) for nodes in groups]
    if len(groups) > 1:
        unlike = [f"{net.layout.shapes[g[0]]}{' frozen' if g[0] in net.layout.frozen else ''}" for g in groups]
        raise ValueError(
            f"nodes {[g[0] for g in groups]} of one level are unlike ({', '.join(unlike)}), so they cannot share their "
            f"weights; give all modes one size and all tree nodes of a level one width, or use shared=False"
        )
    first = _stack(net, groups[0][:1], flipped)
    return [nn.Parameter(first.detach()[0], requires_grad=first.requires_grad)]


def _stack(net: TensorNetwork, nodes: Sequence[int], flipped: frozenset[int]) -> nn.Parameter:
    """Return a copy of several nodes as one Parameter of shape (nodes, in, out), or (nodes, out, in) in a chain."""
    values = net.nodes
    matrices = [values[k].detach().T if k in flipped else values[k].detach() for k in nodes]
    return nn.Parameter(torch.stack(matrices), requires_grad=nodes[0] not in net.layout.frozen)


class ArithmeticCircuit(nn.Module):
    """A convolutional arithmetic circuit that computes `evaluate` of a CP or hierarchical network.

    Create one with `circuit(net)`. CP gives one level; a hierarchical network gives as many levels as the height of its
    mode tree.

    Attributes:
        levels: a ModuleList of `ProductLevel`s, from the modes up.
        output: weights of the linear output, of shape (channels,); None for CP, where the channels are summed.

    Source: Cohen, Sharir, Shashua (COLT 2016); Razin, Maman, Cohen (ICML 2022), section 3.

    >>> import torch, ranklens as rl
    >>> model = rl.nn.circuit(rl.hierarchical((2, 2, 2, 2), width=3))
    >>> [tuple(level.weights[0].shape) for level in model.levels], tuple(model.output.shape)
    ([(4, 2, 3), (2, 3, 3)], (3,))
    """

    def __init__(self, net: TensorNetwork, tree: _Tree, *, shared: bool = False) -> None:
        super().__init__()
        self._equation: Equation = (net.layout.nodes, net.layout.out)
        self._shape, self._flipped = net.shape, tree.flipped
        self._output_node = tree.output
        levels = [ProductLevel(net, level, tree.flipped, shared=shared) for level in tree.levels]
        self.levels = nn.ModuleList(levels)
        self.output: nn.Parameter | None = None
        if tree.output != NO_OUTPUT_NODE:
            trained = tree.output not in net.layout.frozen
            self.output = nn.Parameter(net.nodes[tree.output].detach().clone(), requires_grad=trained)

    def forward(self, vectors: Tensor | Sequence[Tensor]) -> Float[Tensor, " batch"]:
        """Return the inner product of the end tensor with the outer product of N vectors, for every row of a batch.

        If the vectors are one-hot, the result is an entry of the end tensor.

        Args:
            vectors: one tensor of shape (batch, d_n) for each of the N modes, or one tensor of shape (batch, N, d) if
                all modes have size d. They are converted to the dtype and device of the weights. Vectors that do not
                fit the modes are refused with a ValueError.

        Returns:
            One number per row, of shape (batch,).
        """
        x = self._inputs(vectors)
        for level in self.levels:
            x = level(x)
        channels = x.squeeze(1)
        return channels.sum(dim=1) if self.output is None else channels @ self.output

    def _inputs(self, vectors: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the vectors as activations of shape (batch, N, largest d_n)."""
        weight = next(self.parameters())
        block = (len(self._shape), max(self._shape))
        if isinstance(vectors, Tensor) and vectors.shape[1:] == block and len(set(self._shape)) == 1:
            return vectors.to(weight)
        parts = check_vectors(vectors, self._shape)
        return _join([part.to(weight).unsqueeze(1) for part in parts])

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """Return the weights as nodes of the tensor network, in their order there. They are views of the weights.

        A shared weight appears at every node of its level.
        """
        found = {self._output_node: self.output} if self.output is not None else {}
        for level in self.levels:
            found.update(level.nodes())  # type: ignore[operator]
        return tuple(found[k].T if k in self._flipped else found[k] for k in range(len(found)))

    def network(self) -> TensorNetwork:
        """Return the tensor network whose nodes are the weights of this circuit: the inverse of `circuit`.

        Returns:
            A network with the equation of the network that the circuit was made from. Shared weights are copied to
            every node of their level. Weights that do not require a gradient become frozen nodes.
        """
        frozen = [k for level in self.levels for k in level.frozen()]  # type: ignore[operator]
        output = [] if self.output is None or self.output.requires_grad else [self._output_node]
        return TensorNetwork(self._equation, [node.detach() for node in self.nodes]).freeze(*frozen, *output)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts concatenated along the positions, padded with zeros to the largest number of channels."""
    if len(parts) == 1:
        return parts[0]
    widest = max(part.shape[-1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=1)
