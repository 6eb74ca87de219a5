"""Candidates: networks of decreasing size, made from a trained network by leaving out components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from ranklens.completers.alternating import AlternatingLeastSquares
from ranklens.completers.entries import CHUNK, outer_factors, predict
from ranklens.completers.factors import is_factored
from ranklens.completers.observed import Observed
from ranklens.tensors.environment import component_entries
from ranklens.tensors.init import is_chain
from ranklens.tensors.layout import Label
from ranklens.tensors.network import TensorNetwork, slices
from ranklens.tensors.products import product_svd, set_balanced_

# Singular values below this share of the largest are taken for components that have not grown from the initialization.
GROWN = 0.01
# Singular values that have not grown, of which candidates are made too: a small component may still be on its way when
# a larger one, around which steps of constant length go to and fro, lets the held-out loss rise.
NOT_GROWN = 2
# Components of a bond that candidates of tensors have at most, unless more have grown in a CP factorization. Least
# squares for a node with three bonds of this size have 4,096 unknowns.
MOST = 16
# Components are left out, before any least squares, as long as the sum of squared residuals stays below this multiple.
SLACK = 2.0
# Sweeps of least squares between two eliminations.
ELIMINATION_SWEEPS = 3
# Share of a bond's components that one elimination leaves out, as a divisor: a sixth, but at least one. Near the best
# size, components are left out one by one.
SHARE = 6
# Ridge of the least squares between eliminations, in units of the noise level.
ELIMINATION_RIDGE = 0.01
# Added to the diagonal of a Gram matrix of components, in units of its mean, so that it can be inverted.
LIFT = 1e-9
# Root mean square errors below this, in units of the data, count as an exact fit and are not told apart.
EXACT = 1e-6


@dataclass(frozen=True)
class Candidates:
    """Networks of decreasing size.

    Attributes:
        networks: the networks, the largest first. Those of a matrix are made when they are asked for.
        begin: position, in `networks`, of the network at which a search for the best size should begin.
        grown: position of the largest network whose components have all grown. Larger ones must be far better.
    """

    networks: Sequence[TensorNetwork]
    begin: int
    grown: int = 0


def number_grown(sizes: Float[Tensor, " R"]) -> int:
    """Return how many components have grown out of the initialization.

    Args:
        sizes: singular values or component norms, in any order.

    >>> number_grown(torch.tensor([5.0, 2.0, 1e-4]))
    2
    """
    return int((sizes > GROWN * sizes.max()).sum())


def make_candidates(
    net: TensorNetwork, train: Observed, held_out: Observed, *, noise_level: float, factor: float
) -> Candidates:
    """Return candidates made from a trained network: by truncation for a deep matrix, else by elimination.

    Args:
        net: the trained network.
        train: the entries to fit.
        held_out: entries whose error chooses where a search should begin; not used for a deep matrix.
        noise_level: the ridge at which a fit to noise alone has no component; a share of it is the ridge of the
            elimination.
        factor: number of at least 1. A held-out root mean square error counts as equal to the least one if it is at
            most this many times as large.
    """
    if is_chain(net):
        return matrix_candidates(net)
    return tensor_candidates(net, train, held_out, ridge=ELIMINATION_RIDGE * noise_level, factor=factor)


@torch.no_grad()
def matrix_candidates(net: TensorNetwork) -> Candidates:
    """Return balanced pairs of factors of the end matrix of a deep matrix, truncated to every rank from large to 1.

    The largest rank counts the singular values that have grown out of the initialization, and two more: least squares
    find a small component from a singular vector that has hardly grown. The search begins at the rank r, among the
    grown ones, for which the singular values r and r + 1 have the largest ratio.

    Args:
        net: the deep matrix.
    """
    left, right = outer_factors(net)
    U, s, V = product_svd(left.double(), right.T.double())
    grown = max(number_grown(s), 1)
    more = min(NOT_GROWN, int((s[grown:] > 0).sum()))
    gaps = [float(s[r - 1] / s[r]) if r < len(s) and s[r] > 0 else 1.0 for r in range(grown, 0, -1)]
    return Candidates(_Truncations(U, s, V, grown + more), more + gaps.index(max(gaps)), more)


@dataclass(frozen=True)
class _Truncations(Sequence[TensorNetwork]):
    """Balanced pairs of factors of a matrix U diag(s) V^T, truncated to the ranks `largest`, ..., 1."""

    U: Tensor
    s: Tensor
    V: Tensor
    largest: int

    def __len__(self) -> int:
        return self.largest

    @overload
    def __getitem__(self, at: int) -> TensorNetwork: ...
    @overload
    def __getitem__(self, at: slice) -> list[TensorNetwork]: ...
    @torch.no_grad()
    def __getitem__(self, at: int | slice) -> TensorNetwork | list[TensorNetwork]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        r = range(self.largest, 0, -1)[at]
        factors = [self.U.new_zeros(len(self.U), r), self.U.new_zeros(r, len(self.V))]
        set_balanced_(factors, self.U[:, :r], self.s[:r], self.V[:, :r])
        return TensorNetwork("ar,rb->ab", factors)


@torch.no_grad()
def tensor_candidates(
    net: TensorNetwork, train: Observed, held_out: Observed, *, ridge: float, factor: float
) -> Candidates:
    """Return networks made by backward elimination of components, with sweeps of least squares in between.

    First, every bond loses the components that hardly change the fit. Then, again and again, the bond that has the
    component of least cost loses its cheapest components. The cost of a component is the rise of the sum of squared
    residuals when it is left out and the others of its bond are reweighted. Between the best size and the next smaller
    one, components are left out one by one.

    Args:
        net: the trained network.
        train: the entries to fit.
        held_out: entries whose error is measured at every size.
        ridge: ridge of the least squares.
        factor: number of at least 1. The search begins at the smallest network whose held-out root mean square error
            is at most this many times the least one.
    """
    net = net.with_nodes([node.double() for node in net.nodes])
    for bond in net.bonds:
        net = thinned(net, bond, train)
    made = _eliminated(net, train, held_out, ridge, SHARE)
    k = _smallest_of_the_best(made, factor)
    if k + 1 < len(made):
        least = sum(made[k + 1][0].layout.sizes[bond] for bond in net.bonds) + 1
        made[k : k + 1] = _eliminated(made[k][0], train, held_out, ridge, None, least=least)
    return Candidates([net for net, _ in made], _smallest_of_the_best(made, factor))


def _smallest_of_the_best(made: Sequence[tuple[TensorNetwork, float]], factor: float) -> int:
    """Return the position of the last network whose mean squared error is about the least one."""
    enough = factor**2 * max(min(error for _, error in made), EXACT**2)
    return max(k for k, (_, error) in enumerate(made) if error <= enough)


def _eliminated(
    net: TensorNetwork, train: Observed, held_out: Observed, ridge: float, share: int | None, *, least: int = 1
) -> list[tuple[TensorNetwork, float]]:
    """Return networks of decreasing size, with their held-out mean squared errors, from a network by elimination.

    Args:
        net: the network to begin with. It is fitted too.
        train: the entries to fit.
        held_out: entries whose error is measured at every size.
        ridge: ridge of the least squares.
        share: what one elimination leaves out of a bond, as a divisor of the number of its components; None for one.
        least: sum of the sizes of all bonds, at least.
    """
    made: list[tuple[TensorNetwork, float]] = []
    while True:
        solver = AlternatingLeastSquares(net, train, ridge=ridge)
        for _ in range(ELIMINATION_SWEEPS):
            solver.sweep()
        made.append((net.with_nodes(net.nodes), held_out.minus(predict(net, held_out.indices)).mean_square()))
        sizes = net.layout.sizes
        components = {bond: Components.of(net, bond, train) for bond in net.bonds if sizes[bond] > 1}
        best = min(error for _, error in made)
        hopeless = len(made) > 3 and min(error for _, error in made[-3:]) > 4 * best
        if not components or hopeless or sum(sizes[bond] for bond in net.bonds) <= least:
            return made
        bond = min(components, key=lambda bond: float(components[bond].costs().min()))
        kept = components[bond].cheapest(sizes[bond] - max(sizes[bond] // share if share else 1, 1))
        net = with_components(net, bond, kept, components[bond].weights(kept))


@dataclass(frozen=True)
class Components:
    """Least squares for the weights c_r of a bond's components: entries are modelled by sum_r c_r C_r.

    Here C_r is component r: the end tensor of the network with only index r of the bond. The network itself has all
    c_r = 1. Leaving out component r and reweighting the others raises the sum of squared
    residuals by c_r^2 / (G^-1)_rr, where G is the Gram matrix of the components' entries. For one of two equal
    components that is next to nothing.

    Attributes:
        gram: G, the inner products of the components' entries at the observed positions. `of` adds `LIFT` times the
            mean of its diagonal to the diagonal.
        moment: inner products of the components' entries with the observed values, of shape (R,).
        energy: sum of the squared observed values.
    """

    gram: Float[Tensor, "R R"]
    moment: Float[Tensor, " R"]
    energy: float

    @classmethod
    @torch.no_grad()
    def of(cls, net: TensorNetwork, bond: Label, train: Observed) -> "Components":
        """Return the normal equations for the weights of a bond's components, fitted to observed entries.

        Args:
            net: the network. If the bond has order 2, `diagonalize_` first changes the network's two nodes in place.
            bond: label of the bond.
            train: the entries to fit.
        """
        diagonalize_(net, bond)
        size, device = net.layout.sizes[bond], train.values.device
        gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        moment = torch.zeros(size, dtype=torch.float64, device=device)
        parts = (part.split(CHUNK) for part in (train.indices, train.values, train.counts()))
        for indices, values, weights in zip(*parts, strict=True):
            entries = component_entries(net, bond, indices)
            weighted = entries.T * weights
            gram += weighted @ entries
            moment += weighted @ values
        mean = gram.diagonal().mean()
        lift = LIFT * mean if mean > 0 else 1.0  # components of zero, as of tensors with many modes and few entries
        gram += lift * torch.eye(size, dtype=torch.float64, device=device)
        return cls(gram, moment, train.mean_square() * train.count)

    def keep(self, kept: Sequence[int]) -> "Components":
        """Return the normal equations for the weights of some of the components; the others have weight zero.

        Args:
            kept: positions of these components, the values of the bond's index.
        """
        rows = torch.tensor(kept, device=self.moment.device)
        return Components(self.gram[rows][:, rows], self.moment[rows], self.energy)

    def costs(self) -> Float[Tensor, " R"]:
        """Return by how much leaving out each component would raise the least sum of squared residuals.

        Returns:
            One number per component, of shape (R,). The sums are minimized over the weights of the components present.
        """
        inverse = torch.linalg.inv(self.gram)
        return (inverse @ self.moment).square() / inverse.diagonal()

    def cheapest(self, count: int) -> list[int]:
        """Return the positions of the `count` components that remain after eliminating the cheapest one by one.

        Costs are computed anew after every elimination. The positions are in ascending order.

        Args:
            count: number of components to keep, at least 1.
        """
        kept = list(range(len(self.moment)))
        while len(kept) > count:
            del kept[int(self.keep(kept).costs().argmin())]
        return kept

    def residual(self, kept: Sequence[int]) -> float:
        """Return the least sum of squared residuals, over observed entries, of a weighted sum of components.

        The minimum is taken over the weights. It is exact up to the small term that `gram` has on its diagonal.

        Args:
            kept: positions of these components.
        """
        some = self.keep(kept)
        return self.energy - float(some.moment @ torch.linalg.solve(some.gram, some.moment))

    def weights(self, kept: Sequence[int]) -> Float[Tensor, " kept"]:
        """Return the weights for which the sum of squared residuals of some of the components is least.

        Args:
            kept: positions of these components; all others have weight zero.

        Returns:
            One weight per position in `kept`, in its order.
        """
        some = self.keep(kept)
        return torch.linalg.solve(some.gram, some.moment)


@torch.no_grad()
def thinned(net: TensorNetwork, bond: Label, train: Observed) -> TensorNetwork:
    """Return the network without the components of a bond that the fit hardly needs, the others reweighted.

    At most `MOST` components are kept, or as many as have grown in a CP factorization. Of these, the cheapest leave as
    long as the sum of squared residuals stays below `SLACK` times that of all of them.

    Args:
        net: the network. A bond of order 2 is diagonalized in place.
        bond: the bond.
        train: the entries to fit.
    """
    components = Components.of(net, bond, train)
    most = max(MOST, number_grown(net.component_norms(bond))) if is_factored(net) else MOST
    kept = components.cheapest(min(net.layout.sizes[bond], most))
    allowed = SLACK * max(components.residual(kept), EXACT**2 * components.energy)
    while len(kept) > 1:
        fewer = list(kept)
        del fewer[int(components.keep(kept).costs().argmin())]
        if components.residual(fewer) > allowed:
            break
        kept = fewer
    return with_components(net, bond, kept, components.weights(kept))


@torch.no_grad()
def diagonalize_(net: TensorNetwork, bond: Label) -> None:
    """Change the basis of a bond of order 2 in place, so that its components are orthogonal tensors.

    The components become the singular triples of the product of the two nodes, and the end tensor is unchanged. A bond
    of higher order has no such freedom and is left as it is.
    """
    meets = net.layout.meets(bond)
    if len(meets) != 2:
        return
    first, second = (net.nodes[k].movedim(axis, 0) for k, axis in meets)
    A, B = slices(first, 0), slices(second, 0)
    balanced = [torch.zeros_like(A.T), torch.zeros_like(B)]
    set_balanced_(balanced, *product_svd(A.T, B.T))
    first.copy_(balanced[0].T.reshape(first.shape))
    second.copy_(balanced[1].reshape(second.shape))


def with_components(
    net: TensorNetwork, bond: Label, kept: Sequence[int], weights: Float[Tensor, " kept"]
) -> TensorNetwork:
    """Return the network with some of the components of a bond, each multiplied by a weight.

    Args:
        net: the network.
        bond: the bond.
        kept: positions of the components.
        weights: one weight per kept component.
    """
    rows = torch.tensor(kept, device=net.device)
    nodes = [node.detach() for node in net.nodes]
    for k, axis in net.layout.meets(bond):
        nodes[k] = nodes[k].index_select(axis, rows)
    k, axis = net.layout.meets(bond)[0]
    nodes[k] = (nodes[k].movedim(axis, -1) * weights).movedim(-1, axis)
    return net.with_nodes(nodes)
