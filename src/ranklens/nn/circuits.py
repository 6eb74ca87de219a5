"""Three factorizations are neural networks: linear, shallow and deep convolutional ones. Both ways, exactly."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens.tensors import contract
from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.network import TensorNetwork, check_vectors

OUTPUT = -1  # stands above the leaves of a CP network, which has no node of output weights


def circuit(net: TensorNetwork, shared: bool = False) -> "LinearCircuit | ArithmeticCircuit":
    """The neural network that a factorization is, with the same weights: `circuit(net)(x) == net.evaluate(x)`.

    A deep matrix is a linear network. CP is a shallow convolutional arithmetic circuit: a locally connected 1 x 1
    convolution, a product over all positions, a sum over channels. A hierarchical factorization is a deep one:
    convolutions and products over the windows of its mode tree take turns, and a linear output ends it. The weights of
    the layers are the nodes of the network, so this is a change of names; they are copied.

    Args:
        net: a deep matrix, CP or hierarchical network over any tree, or any einsum that reads as one of them.
        shared: whether all positions of a level use one set of weights, as a convolution does. A level then starts
            from the node of its first position, so the circuit equals `net.evaluate` where the nodes of every level
            are equal, and in general nowhere else.

    Returns:
        A `LinearCircuit` or an `ArithmeticCircuit`. Frozen nodes are weights that do not require a gradient.

    Raises:
        ValueError: for networks that are no circuit, or a level that cannot share its weights.
        TypeError: for what is no network.

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
        raise TypeError(f"net is a {type(net).__name__}; pass a TensorNetwork, as rl.cp and its neighbours make")
    chain = _read_chain(net.layout)
    if chain is not None:
        if shared:
            raise ValueError(
                "a deep matrix has one node per level, so there is nothing to share; leave shared=False for it"
            )
        return LinearCircuit(net, chain)
    tree = _read_tree(net.layout)
    if tree is None:
        raise ValueError(
            f"{net} is no circuit: only deep_matrix, cp and hierarchical are, whose nodes are matrices joined in a "
            f"chain or a tree; net.evaluate(x) works for every network"
        )
    return ArithmeticCircuit(net, tree, shared=shared)


def product_pool(
    x: Float[Tensor, "*batch positions channels"], windows: Sequence[Sequence[int]] | None = None
) -> Float[Tensor, "*batch windows channels"]:
    """Products over windows of positions, channel by channel.

    The factors are multiplied in pairs, the products again, and so on: nothing but multiplications, whose derivatives
    are multiplications. So derivatives of every order are exact at any number of zeros, where division by a factor
    would fail; and the number of kernel calls grows with the logarithm of the number of factors.

    Args:
        x: activations.
        windows: positions per window, in any order and of any lengths; None is one window of all positions.

    Returns:
        One product per window and channel. Products of many factors leave the range of floating-point numbers unless
        the factors are about 1.

    Raises:
        ValueError: for a window that is empty or reaches a position that does not exist.

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
            raise ValueError(f"window {k} is empty; a product needs at least one position")
        for position in window:
            if not 0 <= position < count:
                raise ValueError(f"window {k} has position {position}; positions run from 0 to {count - 1}")
    if len(windows) == 0:
        raise ValueError("windows is empty; pass at least one, or None for one of all positions")
    index = _index(windows, count)
    return _pool(x, None if index is None else index.to(x.device), len(windows))


def _index(windows: Sequence[Sequence[int]], count: int) -> Tensor | None:
    """Positions per window, short ones filled up with `count`; None where windows cut the positions into equal runs."""
    longest = max(len(window) for window in windows)
    rows = [[*window, *[count] * (longest - len(window))] for window in windows]
    if [position for row in rows for position in row] == list(range(count)):
        return None
    return torch.tensor(rows)


def _pool(x: Tensor, index: Tensor | None, windows: int) -> Tensor:
    if index is None:
        return _product(x.unflatten(-2, (windows, x.shape[-2] // windows)))
    one = x.new_ones(*x.shape[:-2], 1, x.shape[-1])
    return _product(torch.cat([x, one], dim=-2)[..., index, :])


def _product(x: Tensor) -> Tensor:
    """Product over the axis before the last, by pairs of neighbours; an odd one out is passed on."""
    while (count := x.shape[-2]) > 1:
        x, *odd = x.split([count - 1, 1], dim=-2) if count % 2 else (x,)
        first, second = x.unflatten(-2, (count // 2, 2)).unbind(-2)
        x = torch.cat([first * second, *odd], dim=-2) if odd else first * second
    return x.squeeze(-2)


# ---------------------------------------------------------------------------------------------------------------------
# linear networks


@dataclass(frozen=True)
class _Chain:
    nodes: tuple[int, ...]  # W_L first
    flipped: frozenset[int]  # nodes whose axes are (in, out)


def _read_chain(layout: Layout) -> _Chain | None:
    """The network as a product of matrices; two nodes whose bond is on the same axis are CP of order 2."""
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
        onwards = [meet for meet in layout.incidence[label] if meet[0] != k]
        if len(onwards) != 1:
            break
        k, axis = onwards[0]
    ended = label == layout.out[1] and len(nodes) == len(layout.nodes)
    return _Chain(tuple(nodes), frozenset(flipped)) if ended else None


class LinearCircuit(nn.Module):
    """A deep matrix W = W_L ... W_1 as a linear neural network: y^T W_L ... W_1 x, the inner product of W and y x^T.

    Made by `circuit(net)`.

    Attributes:
        linear: the layers x -> W_l x without bias, W_1 first; output i on the unit vector e_j is entry (i, j) of W.

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
        self._equation, self._chain, self._shape = (net.layout.nodes, net.layout.out), chain, net.shape
        self.linear = nn.Sequential(*[_layer(net, k, k in chain.flipped) for k in reversed(chain.nodes)])

    def forward(self, vectors: Tensor | Sequence[Tensor]) -> Float[Tensor, " batch"]:
        """y^T W x for every row of a batch of pairs (y, x).

        Args:
            vectors: what `net.evaluate` takes: y (batch, rows) and x (batch, columns), or both stacked.

        Returns:
            One number per row.

        Raises:
            ValueError: for vectors that do not fit the matrix.
        """
        weight = next(self.parameters())
        y, x = [part.to(weight) for part in check_vectors(vectors, self._shape)]
        return (y * self.linear(x)).sum(dim=1)

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """The weights as the nodes of the network, in its order: views."""
        weights = dict(zip(reversed(self._chain.nodes), self.parameters(), strict=True))
        return tuple(weights[k].T if k in self._chain.flipped else weights[k] for k in range(len(weights)))

    def network(self) -> TensorNetwork:
        """The tensor network that this circuit is: the exact inverse of `circuit`."""
        weights = zip(reversed(self._chain.nodes), self.parameters(), strict=True)
        return _network(self._equation, self.nodes, [k for k, weight in weights if not weight.requires_grad])


def _layer(net: TensorNetwork, k: int, flip: bool) -> nn.Linear:
    weight = _stack(net, [k], frozenset([k] if flip else []))
    rows, columns = weight.shape[1:]
    layer = nn.Linear(columns, rows, bias=False, device="meta")  # drawing initial values would use the global generator
    layer.weight = nn.Parameter(weight.detach()[0], requires_grad=weight.requires_grad)
    return layer


# ---------------------------------------------------------------------------------------------------------------------
# arithmetic circuits


@dataclass(frozen=True)
class _Level:
    """One level of a circuit, over the tree nodes that are complete by now (positions, by their first mode)."""

    nodes: tuple[int, ...]  # the network node of every position
    windows: tuple[tuple[int, ...], ...]  # positions that are pooled
    passed: tuple[int, ...]  # positions that wait for a later level
    order: tuple[int, ...]  # the positions above, as places in (windows, passed)


@dataclass(frozen=True)
class _Tree:
    levels: tuple[_Level, ...]
    output: int  # the node of output weights, or OUTPUT
    flipped: frozenset[int]  # nodes whose axes are (out, in)


def _read_tree(layout: Layout) -> _Tree | None:
    """The network as a tree of matrices that end in modes, under a vector of output weights (a CP network has none)."""
    outputs = [k for k, labels in enumerate(layout.nodes) if len(labels) == 1]
    bonds = {layout.nodes[k][0] for k in outputs} or set(layout.bonds)
    if contract.sweep(layout) is None or len(outputs) > 1 or len(bonds) != 1 or any(len(x) > 2 for x in layout.nodes):
        return None
    output, top = (outputs[0] if outputs else OUTPUT), bonds.pop()
    if top in layout.out:
        return None
    above: dict[int, int] = {}
    flipped: set[int] = set()
    queue: list[tuple[Label, int]] = [(top, output)]
    for bond, parent in queue:
        for k, axis in layout.incidence[bond]:
            if k != parent:
                above[k] = parent
                flipped.update([k] if axis == 0 else [])
                other = layout.nodes[k][1 - axis]
                queue.extend([] if other in layout.out else [(other, k)])
    return _Tree(_levels(layout, above), output, frozenset(flipped))


def _levels(layout: Layout, above: dict[int, int]) -> tuple[_Level, ...]:
    """A node is pooled at the level that is the height of the node above it; until then it is passed up."""
    first: dict[int, int] = {}
    height: dict[int, int] = defaultdict(int)
    for k, parent in reversed(above.items()):  # children come after their parents
        if k not in height:
            first[k] = next(layout.out.index(x) for x in layout.nodes[k] if x in layout.out)
        first[parent] = min(first[k], first.get(parent, len(layout.out)))
        height[parent] = max(height[parent], height[k] + 1)
    positions = sorted((k for k in above if height[k] == 0), key=first.__getitem__)
    levels = []
    for level in range(1, max(height.values()) + 1):
        windows: dict[int, list[int]] = defaultdict(list)
        for position, k in enumerate(positions):
            if height[above[k]] == level:
                windows[above[k]].append(position)
        passed = [position for position, k in enumerate(positions) if height[above[k]] != level]
        next_nodes = [*windows, *[positions[position] for position in passed]]
        order = sorted(range(len(next_nodes)), key=lambda place, nodes=next_nodes: first[nodes[place]])  # type: ignore[misc]
        groups = tuple(tuple(window) for window in windows.values())
        levels.append(_Level(tuple(positions), groups, tuple(passed), tuple(order)))
        positions = [next_nodes[place] for place in order]
    return tuple(levels)


class ProductLevel(nn.Module):
    """One level of an arithmetic circuit: a locally connected 1 x 1 convolution, then products over windows.

    Attributes:
        weights: one (n, in, out) Parameter per shape of nodes (and one more where some are frozen), for n positions;
            or a single (in, out) one that all positions share.
        windows: positions that are multiplied. Those in none are passed up unchanged, where a tree skips a level.
        shared: whether there is one set of weights.
    """

    _index: Tensor | None
    _passed: Tensor | None
    _order: Tensor | None

    def __init__(self, net: TensorNetwork, level: _Level, flipped: frozenset[int], *, shared: bool) -> None:
        super().__init__()
        self.windows, self.shared = level.windows, shared
        self._groups = _groups(net, level, flipped)  # positions of the nodes of equal shape, frozen or not
        self._members = tuple(tuple(level.nodes[p] for p in group) for group in self._groups)
        self.weights = nn.ParameterList(_weights(net, self._members, flipped, shared=shared))
        pooled = [p for group in self._groups for p in group]
        place = {p: at for at, p in enumerate(pooled)}
        self._buffer("_index", _index([[place[p] for p in window] for window in level.windows], len(pooled)))
        for g, group in enumerate(self._groups):
            self._buffer(f"_group_{g}", _index([group], len(level.nodes)))
        self._buffer("_passed", torch.tensor(level.passed) if level.passed else None)
        self._buffer("_order", torch.tensor(level.order) if level.passed else None)

    def _buffer(self, name: str, value: Tensor | None) -> None:
        self.register_buffer(name, value, persistent=False)

    def forward(self, x: Float[Tensor, "batch positions channels"]) -> Float[Tensor, "batch places width"]:
        """Convolve and pool; channels that a position lacks are zeros."""
        parts = [self._convolve(x, g, weight) for g, weight in enumerate(self.weights)]
        pooled = _pool(_join(parts), self._index, len(self.windows))
        return pooled if self._passed is None else _join([pooled, x[:, self._passed]])[:, self._order]

    def _convolve(self, x: Tensor, g: int, weight: Tensor) -> Tensor:
        index = getattr(self, f"_group_{g}")
        x = (x if index is None else x[:, index[0]])[..., : weight.shape[-2]]
        return x @ weight if self.shared else torch.einsum("bnd,ndr->bnr", x, weight)

    def extra_repr(self) -> str:
        """How many windows, for print(circuit)."""
        return f"{len(self.windows)} windows, shared={self.shared}"

    def nodes(self) -> dict[int, Tensor]:
        """The (in, out) weights by the network's nodes."""
        found: dict[int, Tensor] = {}
        for members, weight in zip(self._members, self.weights, strict=True):
            found.update(zip(members, [weight] * len(members) if self.shared else weight.unbind(0), strict=True))
        return found

    def frozen(self) -> list[int]:
        """The network's nodes whose weights are not trained."""
        pairs = zip(self._members, self.weights, strict=True)
        return [k for members, weight in pairs if not weight.requires_grad for k in members]


def _groups(net: TensorNetwork, level: _Level, flipped: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    kinds: dict[Any, list[int]] = defaultdict(list)
    shapes, frozen = net.layout.shapes, net.layout.frozen
    for p in sorted(p for window in level.windows for p in window):
        k = level.nodes[p]
        kinds[shapes[k][::-1] if k in flipped else shapes[k], k in frozen].append(p)
    return tuple(tuple(group) for group in kinds.values())


def _weights(
    net: TensorNetwork, groups: Sequence[Sequence[int]], flipped: frozenset[int], *, shared: bool
) -> list[nn.Parameter]:
    if not shared:
        return [_stack(net, nodes, flipped) for nodes in groups]
    if len(groups) > 1:
        kinds = [f"{net.layout.shapes[g[0]]}{' frozen' if g[0] in net.layout.frozen else ''}" for g in groups]
        raise ValueError(
            f"nodes {[g[0] for g in groups]} of one level are unlike ({', '.join(kinds)}), so they cannot share their "
            f"weights; give all modes one size and all tree nodes of a level one width, or use shared=False"
        )
    first = _stack(net, groups[0][:1], flipped)
    return [nn.Parameter(first.detach()[0], requires_grad=first.requires_grad)]


def _stack(net: TensorNetwork, nodes: Sequence[int], flipped: frozenset[int]) -> nn.Parameter:
    own = net.nodes
    values = [own[k].detach().T if k in flipped else own[k].detach() for k in nodes]
    return nn.Parameter(torch.stack(values), requires_grad=nodes[0] not in net.layout.frozen)


class ArithmeticCircuit(nn.Module):
    """A CP or hierarchical network as a convolutional arithmetic circuit: shallow, or as deep as the mode tree is high.

    Made by `circuit(net)`.

    Attributes:
        levels: `ProductLevel`s from the leaves up; one per level of the tree.
        output: (R,) weights of the linear output; None for CP, whose channels are summed.

    Source: Cohen, Sharir, Shashua (COLT 2016); Razin, Maman, Cohen (ICML 2022), section 3.

    >>> import torch, ranklens as rl
    >>> model = rl.nn.circuit(rl.hierarchical((2, 2, 2, 2), width=3))
    >>> [tuple(level.weights[0].shape) for level in model.levels], tuple(model.output.shape)
    ([(4, 2, 3), (2, 3, 3)], (3,))
    """

    def __init__(self, net: TensorNetwork, tree: _Tree, *, shared: bool = False) -> None:
        super().__init__()
        self._equation, self._shape, self._flipped = (net.layout.nodes, net.layout.out), net.shape, tree.flipped
        self._output_node = tree.output
        levels = [ProductLevel(net, level, tree.flipped, shared=shared) for level in tree.levels]
        self.levels = nn.ModuleList(levels)
        self.output: nn.Parameter | None = None
        if tree.output != OUTPUT:
            trained = tree.output not in net.layout.frozen
            self.output = nn.Parameter(net.nodes[tree.output].detach().clone(), requires_grad=trained)

    def forward(self, vectors: Tensor | Sequence[Tensor]) -> Float[Tensor, " batch"]:
        """The circuit's output for every row of a batch; one-hot vectors give entries of the end tensor.

        Args:
            vectors: what `net.evaluate` takes: (batch, N, d) when all modes have size d, or N tensors (batch, d_n).

        Returns:
            One number per row.

        Raises:
            ValueError: for vectors that do not fit the modes.
        """
        x = self._inputs(vectors)
        for level in self.levels:
            x = level(x)
        channels = x.squeeze(1)
        return channels.sum(dim=1) if self.output is None else channels @ self.output

    def _inputs(self, vectors: Tensor | Sequence[Tensor]) -> Tensor:
        weight = next(self.parameters())
        block = (len(self._shape), max(self._shape))
        if isinstance(vectors, Tensor) and vectors.shape[1:] == block and len(set(self._shape)) == 1:
            return vectors.to(weight)
        parts = check_vectors(vectors, self._shape)
        return _join([part.to(weight).unsqueeze(1) for part in parts])

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """The weights as the nodes of the network, in its order: views. Shared weights appear at all their nodes."""
        found = {self._output_node: self.output} if self.output is not None else {}
        for level in self.levels:
            found.update(level.nodes())  # type: ignore[operator]
        return tuple(found[k].T if k in self._flipped else found[k] for k in range(len(found)))

    def network(self) -> TensorNetwork:
        """The tensor network that this circuit is: the exact inverse of `circuit`.

        Shared weights are copied to every node of their level; weights that need no gradient are frozen nodes.
        """
        frozen = [k for level in self.levels for k in level.frozen()]  # type: ignore[operator]
        output = [] if self.output is None or self.output.requires_grad else [self._output_node]
        return _network(self._equation, self.nodes, [*frozen, *output])


def _network(equation: tuple[Any, Any], nodes: Sequence[Tensor], frozen: Sequence[int]) -> TensorNetwork:
    net = TensorNetwork(equation, nodes)
    return net.freeze(*frozen) if frozen else net


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Side by side along the positions, with zeros for the channels that some lack."""
    if len(parts) == 1:
        return parts[0]
    widest = max(part.shape[-1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=1)
