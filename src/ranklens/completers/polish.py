"""After the descent: how many of the components that stand are worth keeping, and least squares at that size.

A small start lowers the rank but stops early, so that what it found is a little too small or not quite aligned. Here
the sizes that it suggests (a ladder) are fitted by ridge least squares, and held-out entries choose size and ridge.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ranklens.completers.alternating import AlternatingLeastSquares
from ranklens.completers.entries import CHUNK, as_network, copied, outer_factors, predict
from ranklens.completers.seen import Biases, Seen
from ranklens.tensors.environment import component_entries
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork, slices
from ranklens.tensors.products import product_svd

STANDS = 0.01  # of the largest component: what is smaller has not left the start
MOST = 16  # components of a bond, but for singular values
SLACK = 2.0  # times the residual: what components may cost that leave before any least squares
ELIMINATION_SWEEPS = 3  # of least squares after every component that leaves
RIDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 0.75, 1.0, 1.5)  # in units of `noise_level`
SIMPLER = 0.25  # of 1 / sqrt(held-out entries): the share of the error that a smaller size may cost
EXACT = 1e-6  # of the values: errors below it are alike
CONVERGED = 1e-4  # relative change of the residual over a sweep
LARGE = 2**21  # entries from which on sweeps are few


@dataclass(frozen=True)
class Ladder:
    """Networks of decreasing size, and where on it to begin."""

    rungs: tuple[TensorNetwork, ...]
    begin: int


@dataclass
class Polish:
    """Held-out errors of the sizes and ridges that were tried, and the best of them.

    Attributes:
        errors: {(rung, ridge): held-out root mean square error}.
    """

    ladder: Ladder
    train: Seen
    held_out: Seen
    biases: Biases
    unit: float
    errors: dict[tuple[int, float], float] = field(default_factory=dict)
    fits: dict[tuple[int, float], tuple[TensorNetwork, Biases]] = field(default_factory=dict)

    @property
    def simpler(self) -> float:
        """The factor in held-out error at which a smaller size is about as good."""
        return tolerated(self.held_out)

    def error(self, rung: int, ridge: float) -> float:
        """Fit one size with one ridge, once."""
        key = (rung, ridge)
        if key not in self.errors:
            net = copied(self.ladder.rungs[rung])
            biases = fit(net, self.train, self.biases, ridge=ridge * self.unit)
            self.errors[key] = error(net, biases, self.held_out)
            self.fits[key] = (net, biases)
            for other in [
                other
                for other in self.fits
                if self.errors[other] > 1.05 * self.simpler * max(min(self.errors.values()), EXACT)
            ]:
                del self.fits[other]
        return self.errors[key]

    def best(self) -> tuple[int, float]:
        """The smallest size about as good as the least error, and its best ridge."""
        enough = self.simpler * max(min(self.errors.values()), EXACT)
        rung = max(k for (k, _), found in self.errors.items() if found <= enough)
        return min((key for key in self.errors if key[0] == rung), key=lambda key: self.errors[key])

    def search(self) -> tuple[int, float]:
        """All ridges at the first size (up from zero for very many entries), then other sizes while they are better."""
        here = self.ladder.begin
        many = len(self.train) > LARGE
        first = self.climb(here, RIDGES[0]) if many else min(RIDGES, key=lambda ridge: self.error(here, ridge))
        for way, enough in ((1, self.simpler), (-1, 1.0)):  # smaller if about as good, larger if better
            rung, ridge, worse = here + way, first, 0
            while 0 <= rung < len(self.ladder.rungs) and worse < 2:
                before = max(min(self.errors.values()), EXACT)
                ridge = self.climb(rung, ridge)
                worse = worse + 1 if self.error(rung, ridge) > enough * before else 0
                rung += way
        return self.best()

    def climb(self, rung: int, ridge: float) -> float:
        """The ridge reached by going up or down while that is better."""
        k = RIDGES.index(ridge)
        for way in (1, -1):
            while 0 <= k + way < len(RIDGES) and self.error(rung, RIDGES[k + way]) < self.error(rung, RIDGES[k]):
                k += way
        return RIDGES[k]


def fit(net: TensorNetwork, seen: Seen, biases: Biases, *, ridge: float) -> Biases:
    """Alternate least squares of the nodes and of the biases until the residual rests; returns the biases."""
    solver = AlternatingLeastSquares(net, seen.minus(biases.at(seen.indices)), ridge=ridge)
    before = math.inf
    for _ in range(8 if len(seen) > LARGE else 100):
        after = solver.sweep()
        if math.isfinite(biases.damping):
            biases = biases.adapted(seen.minus(predict(net, seen.indices)))
            solver.seen = seen.minus(biases.at(seen.indices))
        if after >= before * (1 - CONVERGED):
            break
        before = after
    return biases


def error(net: TensorNetwork, biases: Biases, seen: Seen) -> float:
    """Root mean square error of network plus biases."""
    return float((predict(net, seen.indices) + biases.at(seen.indices) - seen.values).square().mean().sqrt())


def tolerated(held_out: Seen) -> float:
    """A factor in root mean square error that held-out entries can hardly tell from one."""
    return 1 + SIMPLER / math.sqrt(len(held_out))


def noise_level(train: Seen, sigma: float, nodes: int) -> float:
    r"""The ridge at which noise of size sigma alone keeps no component, sigma sum_n sqrt(m / d_n), for a matrix.

    It is the spectral norm of a matrix of independent noise at m entries, and ridge / 2 (|A|^2 + |B|^2) is ridge times
    the nuclear norm of A B. With more nodes the pull of a ridge on a component of size s goes with s^(2/M).
    """
    level = sigma * sum(math.sqrt(len(train) / d) for d in train.shape)
    return level * math.prod(train.shape) ** (0.5 - 1 / nodes)


def matrix_ladder(net: TensorNetwork) -> Ladder:
    """Balanced pairs of factors of the truncated product; begin at the widest gap between singular values."""
    left, right = outer_factors(net)
    U, s, V = product_svd(left.detach().double(), right.detach().T.double())
    standing = max(int((s > STANDS * s[0]).sum()), 1)
    ranks = range(min(standing, 2 * MOST), 0, -1)
    root = s.sqrt()
    rungs = [as_network("ar,rb->ab", [U[:, :r] * root[:r], root[:r, None] * V[:, :r].T]) for r in ranks]
    ratios = [float(s[r - 1] / s[r]) if r < len(s) and s[r] > 0 else 1.0 for r in ranks]
    return Ladder(tuple(rungs), max(range(len(rungs)), key=lambda k: ratios[k]))


@torch.no_grad()
def tensor_ladder(net: TensorNetwork, train: Seen, held_out: Seen, *, ridge: float) -> Ladder:
    """Backward elimination of components: first at every bond those that cost next to nothing, then a few at a time.

    Of all components of all bonds those go whose absence costs least once the others of their bond are reweighed,
    and sweeps of least squares follow. The ladder begins at the size of the least held-out error on the way.
    """
    net = copied(net.double())
    for bond in net.bonds:
        net = thinned(net, bond, train)
    rungs, errors = [], []
    while True:
        solver = AlternatingLeastSquares(net, train, ridge=ridge)
        for _ in range(ELIMINATION_SWEEPS):
            solver.sweep()
        rungs.append(copied(net))
        errors.append(float((predict(net, held_out.indices) - held_out.values).square().mean()))
        features = {bond: _Features(net, bond, train) for bond in net.bonds if net.layout.sizes[bond] > 1}
        if not features or (len(errors) > 3 and min(errors[-3:]) > 4 * min(errors)):
            break
        bond = min(features, key=lambda bond: float(features[bond].costs().min()))
        stay = features[bond].least(net.layout.sizes[bond] - max(net.layout.sizes[bond] // 6, 1))
        net = with_components(net, bond, stay, features[bond].weights(stay))
    enough = tolerated(held_out) ** 2 * max(min(errors), EXACT**2)
    return Ladder(tuple(rungs), max(k for k in range(len(rungs)) if errors[k] <= enough))


class _Features:
    """The components of a bond as features of the entries: W = sum_r c_r C_r with all c_r = 1 is the network.

    Dropping component r and reweighing the others raises the sum of squared residuals by c_r^2 / (G^-1)_rr, G being
    the Gram matrix of the features: next to nothing for one of two that are alike.
    """

    def __init__(self, net: TensorNetwork, bond: Hashable, train: Seen) -> None:
        diagonalise_(net, bond)
        size, device = net.layout.sizes[bond], train.values.device
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.moment = torch.zeros(size, dtype=torch.float64, device=device)
        self.energy = float(train.values.square().sum())
        for indices, values in zip(train.indices.split(CHUNK), train.values.split(CHUNK), strict=True):
            features = component_entries(net, bond, indices)
            self.gram += features.T @ features
            self.moment += features.T @ values
        self.gram += 1e-9 * self.gram.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=device)

    def costs(self, stay: Sequence[int] | None = None) -> Tensor:
        """What leaving adds to the sum of squared residuals, for each of the components that stay."""
        gram, moment = self._of(stay)
        inverse = torch.linalg.inv(gram)
        return (inverse @ moment).square() / inverse.diagonal()

    def least(self, count: int) -> list[int]:
        """So many that stay when those leave, one after the other, that cost least."""
        stay = list(range(len(self.moment)))
        while len(stay) > count:
            del stay[int(self.costs(stay).argmin())]
        return stay

    def residual(self, stay: Sequence[int]) -> float:
        """Sum of squared residuals of those that stay, reweighed."""
        gram, moment = self._of(stay)
        return self.energy - float(moment @ torch.linalg.solve(gram, moment))

    def weights(self, stay: Sequence[int]) -> Tensor:
        """The weights at which that is reached."""
        return torch.linalg.solve(*self._of(stay))

    def _of(self, stay: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(self.moment)) if stay is None else torch.tensor(stay)
        rows = rows.to(self.moment.device)
        return self.gram[rows][:, rows], self.moment[rows]


@torch.no_grad()
def thinned(net: TensorNetwork, bond: Hashable, train: Seen) -> TensorNetwork:
    """Without the components of a bond whose loss leaves the residual within `SLACK`, but for `MOST`; reweighed."""
    features = _Features(net, bond, train)
    stay = features.least(min(net.layout.sizes[bond], MOST))
    allowed = SLACK * max(features.residual(stay), 1e-12 * features.energy)
    while len(stay) > 1:
        fewer = list(stay)
        del fewer[int(features.costs(stay).argmin())]
        if features.residual(fewer) > allowed:
            break
        stay = fewer
    return with_components(net, bond, stay, features.weights(stay))


def diagonalise_(net: TensorNetwork, bond: Hashable) -> None:
    """Turn a bond of order 2 so that its components are the singular ones; those of higher order are what they are."""
    meets = net.layout.meets(bond)
    if len(meets) != 2:
        return
    first, second = (net.nodes[k].movedim(axis, 0) for k, axis in meets)
    A, B = slices(first, 0), slices(second, 0)
    U, s, V = product_svd(A.T, B.T)
    new = torch.zeros_like(A), torch.zeros_like(B)
    new[0][: len(s)], new[1][: len(s)] = (U * s.sqrt()).T, (V * s.sqrt()).T
    first.copy_(new[0].reshape(first.shape))
    second.copy_(new[1].reshape(second.shape))


def with_components(
    net: TensorNetwork, bond: Hashable, stay: Sequence[int], weights: Tensor | None = None
) -> TensorNetwork:
    """The network with some components of a bond, each times a weight."""
    rows = torch.tensor(stay, device=net.device)
    nodes = [node.detach() for node in net.nodes]
    for k, axis in net.layout.meets(bond):
        nodes[k] = nodes[k].index_select(axis, rows)
    if weights is not None:
        k, axis = net.layout.meets(bond)[0]
        nodes[k] = (nodes[k].movedim(axis, -1) * weights).movedim(-1, axis)
    return TensorNetwork((net.layout.nodes, net.layout.out), nodes)


def make_ladder(net: TensorNetwork, train: Seen, held_out: Seen, *, unit: float) -> Ladder:
    """Of singular values for a chain, else of components."""
    if is_chain(net):
        return matrix_ladder(net)
    return tensor_ladder(net, train, held_out, ridge=0.01 * unit)


def widths(net: TensorNetwork) -> dict[str, int]:
    """{bond: size}, for people."""
    return {str(bond): net.layout.sizes[bond] for bond in net.bonds}
