"""Bounds on the end tensor and its ranks from the network alone: by small component norms, and by minimal cuts."""

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal, localcontext

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.tensors import arguments
from ranklens.tensors.layout import Layout
from ranklens.tensors.measures import matricize, numerical_rank
from ranklens.tensors.network import TensorNetwork, check_network
from ranklens.tensors.truncation import check_finite, kept, log_norms

Vertex = Hashable
Residual = dict[Vertex, dict[Vertex, int]]
# The source and the sink of the flow whose minimal cut bounds a rank.
ROWS, COLUMNS = "rows", "columns"


@torch.no_grad()
def pruning_bound(net: TensorNetwork, widths: Mapping[Hashable, int]) -> Float[Tensor, ""]:
    r"""Return an upper bound on the change of the end tensor W by `rl.truncate(net, widths)`, in Frobenius norm.

        |W - W'| <= sum over bonds of (sum of the dropped component norms) x (product of the norms of the other nodes)

    Here W' is the truncated end tensor, M is the number of nodes, and the other nodes are the M - K nodes that a bond
    of order K does not meet. With B the largest norm of a node, each product is at most B^(M - K). This is the form of
    the paper for a hierarchical factorization, where K is one more than the number of children of the bond's tree node.

    The bound holds because the bonds may be truncated one after the other. Each truncation removes components C_r,
    which are contractions of K slices with the other nodes. A contraction is no larger than the product of the norms
    of its factors, because |sum_r a_1(r) ... a_K(r)| <= |a_1| ... |a_K| for K >= 2 (Cauchy-Schwarz, one bond at a
    time). Nodes that were truncated before are no larger than they were.

    Args:
        net: the network.
        widths: {bond: number of components to keep, those of largest norm}. Other bonds keep all components.

    Returns:
        A float64 scalar; 0 if only components of norm zero are dropped.

    Raises:
        ValueError: for a label that is no bond, a width below one or above the bond's size, or entries that are not
            finite.
        TypeError: for a width that is no integer.

    Source: Razin, Maman, Cohen (ICML 2022), theorem on low local component norms and hierarchical tensor rank; here
    for the bonds of any network.

    >>> import ranklens as rl
    >>> from ranklens.theory.rank_bounds import pruning_bound
    >>> net = rl.cp((3, 4, 5), rank=3, std=1.0)
    >>> moved = (net.tensor() - rl.truncate(net, {"r": 2}).tensor()).norm().item()
    >>> abs(moved / pruning_bound(net, {"r": 2}).item() - 1) < 1e-12  # one component of CP: the bound is attained
    True
    """
    check_finite(check_network("net", net))
    widths = arguments.mapping("widths", widths)
    logs = torch.stack([node.double().norm().log() for node in net.nodes])
    parts = [logs.new_tensor([-math.inf])]
    for bond, width in widths.items():
        met = {k for k, _ in net.layout.meets(bond)}
        dropped = torch.ones(net.layout.sizes[bond], dtype=torch.bool, device=logs.device)
        dropped[kept(net, bond, width)] = False
        others = logs[[k for k in range(len(logs)) if k not in met]].sum()
        parts.append(log_norms(net, bond)[dropped] + others)
    return torch.cat(parts).logsumexp(dim=0).exp()


def min_cut_bound(net: TensorNetwork, modes: Sequence[int]) -> int:
    r"""Return an upper bound on the rank of the end tensor's matricization [[W; I]]: the network's minimal cut.

    The set I holds the modes of the rows. Every assignment of the nodes to two sides, rows and columns, gives a bound,

        rank [[W; I]] <= product of the sizes of all cut bonds and cut modes,

    and the function returns the smallest. A bond is cut if its nodes are not all on one side; its size counts once,
    however many nodes it meets. A mode is cut if its node is on the other side than the mode. The bound holds because
    for fixed values of the cut labels the end tensor is an outer product of a tensor of the rows and a tensor of the
    columns, and W is the sum of these products over all values.

    The minimum is exact: a minimal cut weighted by logarithms, with enough digits to tell any two products apart.

    Args:
        net: the network; only its labels and sizes matter.
        modes: mode numbers of the rows, I; none or all modes give 1.

    Returns:
        The smallest product, an integer of any size.

    Raises:
        ValueError: for a mode that does not exist or appears twice.

    Source: in the spirit of Levine, Yakira, Cohen, Shashua (ICLR 2018), with bonds that meet any number of nodes.

    >>> import ranklens as rl
    >>> from ranklens.theory.rank_bounds import min_cut_bound
    >>> near = rl.hierarchical((4,) * 4, width=3, tree=rl.ModeTree.adjacent(4))
    >>> far = rl.hierarchical((4,) * 4, width=3, tree=rl.ModeTree.distant(4))
    >>> [min_cut_bound(net, modes) for net in (near, far) for modes in ((0, 1), (0, 2))]
    [3, 9, 9, 3]
    """
    rows = _check_modes(net, modes)
    layout = net.layout
    side = _cut_side(_graph(layout, rows, _weights(layout)))
    cut = [b for b in layout.bonds if len({("node", k) in side for k, _ in layout.meets(b)}) > 1]
    moved = [
        layout.shape[n]
        for k, own in enumerate(layout.modes)
        for n in own
        if (n in rows) != (("node", k) in side)
    ]  # fmt: skip
    return math.prod(layout.sizes[b] for b in cut) * math.prod(moved)


@torch.no_grad()
def separation_rank(net: TensorNetwork, modes: Sequence[int], *, rtol: float | None = None) -> int:
    r"""Return the separation rank of a network's function: the rank of the matricization [[W; I]] of its end tensor W.

    The function is f(x) = <W, x_1 outer ... outer x_N> for one vector x_n per mode. Its separation rank is the smallest
    number R of products in a sum f(x) = sum_r g_r(x_I) h_r(x_rest), and such a sum is a factorization of the
    matricization through R columns. The `rl.entanglement_entropy` of W is at most the logarithm of R.

    Args:
        net: the network.
        modes: mode numbers I of the rows.
        rtol: singular values of at most this times the largest count as zero; None takes the level of rounding.

    Returns:
        The rank, at most `min_cut_bound(net, modes)`; 0 for the zero tensor.

    Raises:
        ValueError: for a mode that does not exist or appears twice, an rtol outside [0, 1), a network of no modes, or
            entries that are not finite.

    Source: Cohen and Shashua (ICLR 2017); Levine, Yakira, Cohen, Shashua (ICLR 2018).

    >>> import math, ranklens as rl
    >>> from ranklens.theory.rank_bounds import min_cut_bound, separation_rank
    >>> net = rl.hierarchical((4,) * 4, width=3, std=1.0)
    >>> separation_rank(net, (0, 1)), separation_rank(net, (0, 2)), min_cut_bound(net, (0, 2))
    (3, 9, 9)
    >>> bool(rl.entanglement_entropy(net.tensor(), (0, 2)) <= math.log(9))
    True
    """
    rows = sorted(_check_modes(net, modes))
    if not net.shape:
        raise ValueError("the network has no modes, and its end tensor no matricization")
    return int(numerical_rank(matricize(net.tensor(), rows), rtol))


def _check_modes(net: TensorNetwork, modes: Sequence[int]) -> set[int]:
    """Return mode numbers as a set.

    Raises:
        TypeError: if one of them is no integer.
        ValueError: if one of them does not exist or appears twice.
    """
    order = len(check_network("net", net).shape)
    modes = [arguments.count(f"modes[{k}]", mode, least=0) for k, mode in enumerate(arguments.sequence("modes", modes))]
    for mode in modes:
        if mode >= order:
            raise ValueError(f"mode {mode} does not exist; a tensor of order {order} has modes 0 to {order - 1}")
    if len(set(modes)) < len(modes):
        raise ValueError(f"modes {tuple(modes)} repeat one; name every mode once")
    return set(modes)


def _weights(layout: Layout) -> dict[int, int]:
    """Return {size: integer in proportion to its logarithm}, with enough digits that the order of cuts is exact.

    Two products of sizes, P < Q, differ by at least 1 / (2 P) in their logarithms; the smallest cut is at most the
    product of all modes, and adds one rounding for every label.
    """
    largest = 4 * math.prod(layout.shape) * (len(layout.sizes) + 1)
    with localcontext() as context:
        digits = largest.bit_length() * 3 // 10 + 2  # more than log10
        context.prec = digits + 8
        return {size: int(Decimal(size).ln().scaleb(digits)) for size in set(layout.sizes.values())}


def _graph(layout: Layout, rows: set[int], weights: Mapping[int, int]) -> Residual:
    """Return the capacities of the flow: {vertex: {next vertex: capacity}}.

    A mode is an edge between its node and the source or the sink. A bond is one edge that all of its nodes enter and
    leave by edges of unlimited capacity, so that the bond is cut at most once.
    """
    graph: Residual = {ROWS: {}, COLUMNS: {}}

    def join(tail: Vertex, head: Vertex, capacity: int) -> None:
        graph.setdefault(tail, {})[head] = graph.get(tail, {}).get(head, 0) + capacity
        graph.setdefault(head, {}).setdefault(tail, 0)

    endless = sum(weights[size] for size in layout.sizes.values()) + 1
    for k, own in enumerate(layout.modes):
        for n in own:
            tail, head = (ROWS, ("node", k)) if n in rows else (("node", k), COLUMNS)
            join(tail, head, weights[layout.shape[n]])
    for bond in layout.bonds:
        join(("in", bond), ("out", bond), weights[layout.sizes[bond]])
        for k, _ in layout.meets(bond):
            join(("node", k), ("in", bond), endless)
            join(("out", bond), ("node", k), endless)
    return graph


def _cut_side(graph: Residual) -> set[Vertex]:
    """Return the vertices on the side of the rows in a minimal cut, by augmenting shortest paths (Edmonds and Karp)."""
    while COLUMNS in (came := _reached(graph)):
        way: list[Vertex] = [COLUMNS]
        while way[-1] != ROWS:
            way.append(came[way[-1]])
        edges = list(zip(way[1:], way, strict=False))
        flow = min(graph[tail][head] for tail, head in edges)
        for tail, head in edges:
            graph[tail][head] -= flow
            graph[head][tail] += flow
    return set(came)


def _reached(graph: Residual) -> dict[Vertex, Vertex]:
    """Return {vertex: previous vertex on a shortest path} for all vertices that more flow from the rows can reach."""
    came: dict[Vertex, Vertex] = {ROWS: ROWS}
    queue: deque[Vertex] = deque([ROWS])
    while queue and COLUMNS not in came:
        tail = queue.popleft()
        for head, capacity in graph[tail].items():
            if capacity > 0 and head not in came:
                came[head] = tail
                queue.append(head)
    return came
