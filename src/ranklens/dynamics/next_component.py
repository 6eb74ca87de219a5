"""The component that gradient flow is predicted to learn next, from a plateau: the best direction of the gradient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens import seeds
from ranklens.problems.problem import TensorProblem, check_problem
from ranklens.tensors import arguments, contract, init
from ranklens.tensors.annotations import checked
from ranklens.tensors.layout import Label, Layout
from ranklens.tensors.network import TensorNetwork, check_network

# Sweeps after which the search of a direction ends, and relative gain of a sweep below which it ends earlier.
SWEEPS, GAIN = 200, 1e-10
# Relative difference from which two rates count as those of different directions.
DIFFERENT = 1e-6


@dataclass(frozen=True)
class NextComponent:
    r"""A component that a network does not have yet, in the direction in which the loss falls fastest.

    Attributes:
        bonds: the bonds at which it adds an index value: one bond, or all of them.
        rate: gamma = <-gradient of the loss in the end tensor, C>, the fall of the loss per component norm.
        second: the largest rate of another direction or another bond, at most `rate`. If both are equal, the gradient
            does not say which of them is learned.
        slices: for every node of the network, the entries at the added index values, with one index value per added
            bond; None for a node that meets none of these bonds. All slices have norm 1.
        tensor: C, the change of the end tensor per component norm.
    """

    bonds: tuple[Label, ...]
    rate: float
    second: float
    slices: tuple[Tensor | None, ...]
    tensor: Tensor


@checked
def next_component(net: TensorNetwork, task: TensorProblem, *, starts: int = 10, seed: int = 0) -> NextComponent:
    r"""Return the component along which the loss falls fastest, of all that the network could gain.

    A component that is added at a bond of order K, with slices s_1, ..., s_K of equal norm, has the norm
    sigma = |s_1| ... |s_K|, changes the end tensor by sigma C, and grows under gradient flow as

        d sigma / dt = K sigma^(2 - 2/K) gamma,    gamma = <-grad L(W), C>.

    gamma is linear in each slice. On a plateau the slices turn to directions that make gamma as large as possible, and
    of components of equal size the one of the largest gamma escapes first. This function maximizes gamma over unit
    slices, at every bond. If at most two slices have more than one entry, the maximum is a singular value. Otherwise
    each slice in turn is set to its best direction, from several initial values, which finds a local maximum: the
    largest one that was found is returned.

    - A product of matrices: the component passes through all bonds; rate and direction are the largest singular value
      and the singular vectors of -grad L(W).
    - CP: the best rank-one approximation of -grad L(W).
    - A hierarchical factorization: the best local component of one node of its tree.
    - A network that is zero, of any kind: the best rank-one approximation of -grad L(0), through all bonds.

    Args:
        net: a network on a plateau, with no other components than those learned. Small components that it has besides
            are taken as parts of it.
        task: a problem whose `loss` takes a network or, in its place, a tensor of the network's shape.
        starts: number of initial directions of each search.
        seed: seed of the initial directions.

    Raises:
        TypeError: for a network that is not in float64.
        ValueError: for a network with frozen nodes or without bonds, or a number of starts below one.

    Source: Li, Luo, Lyu (ICLR 2021), greedy low-rank learning of matrices; here for any tensor network.

    >>> import torch, ranklens as rl
    >>> target = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    >>> indices = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    >>> task = rl.Completion(indices, target.reshape(-1), (3, 3), loss="half_sse")
    >>> found = rl.next_component(rl.deep_matrix((3, 3), depth=3, std=0.0), task)
    >>> round(found.rate, 6), round(found.second, 6), found.tensor.abs().round(decimals=6)[0].tolist()
    (3.0, 2.0, [1.0, 0.0, 0.0])
    """
    check_plain(net)
    check_problem(task)
    starts = arguments.count("starts", starts)
    slope = end_slope(net.tensor().detach(), task)
    everywhere = init.is_chain(net) or not bool(net.tensor().abs().max() > 0)
    choices = [tuple(net.bonds)] if everywhere else [(bond,) for bond in net.bonds]
    found = [_best(net, -slope, bonds, starts, seed) for bonds in choices]
    found.sort(key=lambda component: -component.rate)
    best = found[0]
    second = max([best.second, *(other.rate for other in found[1:])])
    return NextComponent(best.bonds, best.rate, second, best.slices, best.tensor)


def check_plain(net: TensorNetwork) -> None:
    """Refuse a network whose components cannot all grow, or that is not in float64.

    Raises:
        TypeError: for a network that is not in float64.
        ValueError: for a network with frozen nodes or without bonds.
    """
    check_network("net", net)
    if net.dtype != torch.float64:
        raise TypeError(f"the network is in {net.dtype}; components are predicted in float64: use net.double()")
    if net.frozen:
        raise ValueError(f"nodes {net.frozen} are frozen; the prediction is for networks whose nodes all move")
    if not net.bonds:
        raise ValueError(f"{net.equation} has no bonds, hence no components")


def end_slope(end: Tensor, task: TensorProblem) -> Tensor:
    """Return the gradient of the loss in the entries of an end tensor.

    Args:
        end: the end tensor, without a graph.
        task: a problem whose `loss` takes it.
    """
    with torch.enable_grad():
        free = end.clone().requires_grad_()
        (slope,) = torch.autograd.grad(task.loss(free), free)
    return slope


def with_component(net: TensorNetwork, component: NextComponent, norm: float) -> TensorNetwork:
    """Return a network that has one more component, with slices of equal norms.

    Args:
        net: the network for which the component was found; a network that is zero is replaced by the component.
        component: the component.
        norm: its norm, the product of the norms of its slices.

    >>> import ranklens as rl
    >>> task, net = rl.Completion.sample(rl.targets.cp((3, 3, 3), rank=2), observed=20), rl.cp((3, 3, 3), 1, std=0.1)
    >>> found = rl.next_component(net, task)
    >>> larger = with_component(net, found, 1e-2)
    >>> larger.nodes[0].shape, larger.component_norms("r").tolist()[1].__round__(6)
    (torch.Size([3, 2]), 0.01)
    """
    added = [piece for piece in component.slices if piece is not None]
    factor = norm ** (1 / len(added))
    if len(added) == len(net.nodes) and not bool(net.tensor().abs().max() > 0):
        return net.with_nodes([factor * piece for piece in added])
    nodes = []
    for labels, node, piece in zip(net.layout.nodes, net.nodes, component.slices, strict=True):
        if piece is None:
            nodes.append(node.detach())
            continue
        corner = [int(label in component.bonds) for label in labels]
        grown = node.new_zeros([size + more for size, more in zip(node.shape, corner, strict=True)])
        grown[tuple(slice(0, size) for size in node.shape)] = node.detach()
        where = tuple(
            slice(size, size + 1) if more else slice(0, size) for size, more in zip(node.shape, corner, strict=True)
        )
        grown[where] = factor * piece
        nodes.append(grown)
    return net.with_nodes(nodes)


def _best(net: TensorNetwork, ascent: Tensor, bonds: tuple[Label, ...], starts: int, seed: int) -> NextComponent:
    """Return the component of the largest rate that adds an index value at some bonds.

    Args:
        net: the network.
        ascent: minus the gradient of the loss in the end tensor.
        bonds: one bond, or all bonds.
        starts: number of initial directions.
        seed: seed of the initial directions.
    """
    labels, layout = net.layout.nodes, net.layout
    shapes = [
        tuple(1 if label in bonds else size for label, size in zip(axes, shape, strict=True))
        for axes, shape in zip(labels, layout.shapes, strict=True)
    ]
    meets = [k for k, axes in enumerate(labels) if set(axes) & set(bonds)]
    small = Layout(labels, tuple(shapes), layout.out)
    fixed = [node.detach() for node in net.nodes]

    def end(pieces: Sequence[Tensor]) -> Tensor:
        nodes = list(fixed)
        for k, piece in zip(meets, pieces, strict=True):
            nodes[k] = piece
        return contract.tensor(small, nodes)

    pieces, rate, second = _maximum(
        lambda pieces: (ascent * end(pieces)).sum(), [shapes[k] for k in meets], starts, seed
    )
    slices: list[Tensor | None] = [None] * len(labels)
    for k, piece in zip(meets, pieces, strict=True):
        slices[k] = piece
    return NextComponent(bonds, rate, second, tuple(slices), end(pieces).detach())


Form = Callable[[Sequence[Tensor]], Tensor]


def _maximum(
    form: Form, shapes: Sequence[tuple[int, ...]], starts: int, seed: int
) -> tuple[list[Tensor], float, float]:
    """Return unit tensors at which a multilinear form is largest, its value there, and the next smaller local maximum.

    Args:
        form: a function that is linear in each of its tensors.
        shapes: shapes of the tensors.
        starts: number of initial values.
        seed: seed of the initial values.
    """
    many = [k for k, shape in enumerate(shapes) if torch.Size(shape).numel() > 1]
    if len(many) <= 2:
        return _singular(form, shapes, many)
    found = []
    for start in range(starts):
        pieces = seeds.normals(shapes, seed, f"start {start} of a search for the next component")
        found.append(_climb(form, [piece / piece.norm() for piece in pieces]))
    found.sort(key=lambda pair: -pair[1])
    pieces, rate = found[0]
    return pieces, rate, next((other for _, other in found if other < (1 - DIFFERENT) * rate), 0.0)


def _climb(form: Form, pieces: list[Tensor]) -> tuple[list[Tensor], float]:
    """Return a local maximum of a multilinear form over unit tensors: each in turn is set to its best direction."""
    value = 0.0
    for _ in range(SWEEPS):
        before = value
        for k in range(len(pieces)):
            slope = _partial(form, pieces, k)
            value = float(slope.norm())
            if value == 0:
                return pieces, 0.0
            pieces[k] = slope / value
        if value - before <= GAIN * value:
            break
    return pieces, value


def _singular(form: Form, shapes: Sequence[tuple[int, ...]], many: Sequence[int]) -> tuple[list[Tensor], float, float]:
    """Return the maximum of a form with at most two tensors of more than one entry, by a singular value decomposition.

    Args:
        form: a function that is linear in each of its tensors.
        shapes: shapes of the tensors.
        many: positions of the tensors with more than one entry.
    """
    pieces = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
    first, second = [*many, *(k for k in range(len(shapes)) if k not in many)][:2]
    size = pieces[second].numel()
    rows = []
    for basis in torch.eye(size, dtype=torch.float64):
        pieces[second] = basis.reshape(shapes[second])
        rows.append(_partial(form, pieces, first).reshape(-1))
    U, S, Vh = torch.linalg.svd(torch.stack(rows), full_matrices=False)
    pieces[first], pieces[second] = Vh[0].reshape(shapes[first]), U[:, 0].reshape(shapes[second])
    return pieces, float(S[0]), float(S[1]) if len(S) > 1 else 0.0


def _partial(form: Form, pieces: Sequence[Tensor], k: int) -> Tensor:
    """Return the derivative of a multilinear form in its k-th tensor."""
    with torch.enable_grad():
        free = [piece.detach() for piece in pieces]
        free[k] = free[k].clone().requires_grad_()
        (slope,) = torch.autograd.grad(form(free), free[k], allow_unused=True, materialize_grads=True)
    return slope
