"""The polish: least squares for candidates of several sizes, with held-out entries to choose size and ridge.

A descent from a small initialization finds the right components, but is stopped while they are still a little too
small and not quite aligned. The polish fits them exactly.
"""

import math
from dataclasses import dataclass, field

from ranklens.completers.alternating import AlternatingLeastSquares
from ranklens.completers.biases import Biases
from ranklens.completers.candidates import EXACT, Candidates
from ranklens.completers.entries import predict
from ranklens.completers.factors import has_one_node_per_mode
from ranklens.completers.joint import fit_jointly_
from ranklens.completers.observed import Observed
from ranklens.tensors.network import TensorNetwork

# Ridges that are tried, in units of the noise level.
RIDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 0.75, 1.0, 1.5)
# Held-out error, in units of the least one so far, above which no larger ridge is tried for the first size, and no
# other ridge for any other size.
HOPELESS = 1.3
# Rise of the held-out error that a smaller size may cost, in units of 1 / sqrt(held-out entries): a quarter of about
# the relative standard error of the error itself.
SIMPLER = 0.25
# Relative change of the mean squared residual over a sweep below which least squares have converged: for the last fit,
# and for those among which the search chooses.
CONVERGED, CHOSEN = 1e-4, 1e-3
# Number of entries from which on a fit takes few sweeps and few ridges, so that it takes minutes and not hours.
LARGE = 2**21
# Sweeps of a fit, at most: for up to `LARGE` entries, and for more.
SWEEPS, FEW_SWEEPS = 100, 8
# Fits are forgotten once their error is above this multiple of what is about as good as the least.
FORGOTTEN = 1.05
# Held-out error, in units of the least one of the components that have grown, below which a component that has not
# grown was missed by the descent. Where noise is left, such a component would fit noise.
MISSED = 0.5
# Neighbouring sizes that may be worse, one after the other, before a search gives up: of smaller ones, whose fits cost
# less, and of larger ones. Fits of too many components to data without noise converge slowly and may all look bad.
WORSE_SMALLER, WORSE_LARGER = 3, 2


@dataclass(frozen=True)
class Choice:
    """A size and a ridge.

    Attributes:
        size: position of the network among the candidates; larger positions are smaller networks.
        ridge: weight of the sum of squared node entries, in units of the noise level.
    """

    size: int
    ridge: float


@dataclass(frozen=True)
class Fit:
    """The result of fitting a candidate network and biases by least squares.

    Attributes:
        net: the fitted network.
        biases: the biases fitted together with it.
    """

    net: TensorNetwork
    biases: Biases


@dataclass
class Polish:
    """A search for the size and the ridge of least held-out error.

    Attributes:
        candidates: networks of decreasing size.
        train: the entries to fit.
        held_out: entries by whose error the size and the ridge are chosen.
        biases: the biases with which every fit begins.
        noise_level: the unit of ridges: the ridge at which noise alone keeps no component.
        errors: {choice: held-out root mean square error} for every choice that was tried.
        fits: {choice: fit} for those tried choices that may still be the best; other fits are deleted to save memory.
    """

    candidates: Candidates
    train: Observed
    held_out: Observed
    biases: Biases
    noise_level: float
    errors: dict[Choice, float] = field(default_factory=dict)
    fits: dict[Choice, Fit] = field(default_factory=dict)

    def error(self, choice: Choice) -> float:
        """Return the held-out root mean square error of the fit with a size and a ridge.

        The fit is made at the first call for this choice, and its error is kept in `errors`.

        Args:
            choice: the size and the ridge.
        """
        if choice not in self.errors:
            net = self.candidates.networks[choice.size]
            made = fit(
                net.with_nodes(net.nodes),
                self.train,
                self.biases,
                ridge=choice.ridge * self.noise_level,
                converged=CHOSEN,
            )
            self.errors[choice], self.fits[choice] = error(made, self.held_out), made
            most = FORGOTTEN * self._enough()
            self.fits = {other: kept for other, kept in self.fits.items() if self.errors[other] <= most}
        return self.errors[choice]

    def _eligible(self) -> dict[Choice, float]:
        """Return the errors of choices that may be the best.

        They are those of components that have all grown, and those of others that are far better.
        """
        first = self.candidates.grown
        least = min((error for choice, error in self.errors.items() if choice.size >= first), default=math.inf)
        return {
            choice: error for choice, error in self.errors.items() if choice.size >= first or error < MISSED * least
        }

    def _least(self) -> float:
        """Return the least held-out error so far; exact fits are not told apart."""
        return max(min(self._eligible().values()), EXACT)

    def _enough(self) -> float:
        """Return the held-out error at which a smaller size is about as good as the best so far."""
        return tolerated(self.held_out) * self._least()

    def best(self) -> Choice:
        """Return the size and the ridge of the best fit that was tried.

        The size is the position of the smallest candidate network that has a fit whose held-out error is at most the
        ratio `tolerated` times the least held-out error so far; candidates are ordered from large to small. The ridge
        is the one of least held-out error that was tried for this network.
        """
        eligible = self._eligible()
        size = max(choice.size for choice, found in eligible.items() if found <= self._enough())
        return min((choice for choice in eligible if choice.size == size), key=lambda choice: eligible[choice])

    def search(self) -> Choice:
        """Return the best choice, searched for from the size at which the candidates begin.

        At the first size the ridges are tried in ascending order, until one of them is hopeless. Smaller sizes follow
        while they are about as good, then larger ones while they are better by more than what counts as equal. Sizes
        with components that have not grown come last.
        """
        begin = self.candidates.begin
        for ridge in RIDGES:
            if self.error(Choice(begin, ridge)) > HOPELESS * self._least():
                break
        ridge = min(self.errors, key=lambda choice: self.errors[choice]).ridge
        self._walk(begin, 1, ridge, tolerated(self.held_out))
        self._walk(begin, -1, ridge, 1 / tolerated(self.held_out))
        return self.best()

    def _walk(self, begin: int, step: int, ridge: float, factor: float) -> None:
        """Try sizes in one direction until a few of them in a row are worse than the best so far.

        Args:
            begin: the size to begin beside.
            step: 1 for smaller networks, -1 for larger ones.
            ridge: the ridge to begin with.
            factor: ratio to the least error so far above which an error is worse.
        """
        size, worse, most = begin + step, 0, WORSE_SMALLER if step > 0 else WORSE_LARGER
        largest = 0 if len(self.train) <= LARGE else self.candidates.grown
        while largest <= size < len(self.candidates.networks) and worse < most:
            before = self._least()
            if self.error(Choice(size, ridge)) <= HOPELESS * before:
                ridge = self._climb(size, ridge)
            worse = worse + 1 if self.error(Choice(size, ridge)) > factor * before else 0
            size += step

    def _climb(self, size: int, ridge: float) -> float:
        """Return the ridge that is reached by going to a neighbouring ridge as long as the error falls."""
        k = RIDGES.index(ridge)
        for step in (1, -1):
            while 0 <= k + step < len(RIDGES) and self.error(Choice(size, RIDGES[k + step])) < self.error(
                Choice(size, RIDGES[k])
            ):
                k += step
        return RIDGES[k]


def fit(net: TensorNetwork, observed: Observed, biases: Biases, *, ridge: float, converged: float = CONVERGED) -> Fit:
    """Fit the nodes of a network and the biases by least squares, until the residual no longer falls.

    A network with one node per mode is fitted together with the biases; other networks and the biases in turn.

    Args:
        net: the network; its nodes are overwritten.
        observed: the entries to fit.
        biases: the biases to begin with; with infinite damping they stay as they are.
        ridge: weight of the sum of squared node entries.
        converged: relative change of the mean squared residual over a sweep that ends the fit.

    Returns:
        The network and the adapted biases.
    """
    sweeps = FEW_SWEEPS if len(observed) > LARGE else SWEEPS
    if math.isfinite(biases.damping) and has_one_node_per_mode(net) and net.device.type == "cpu":
        return Fit(net, fit_jointly_(net, observed, biases, ridge=ridge, sweeps=sweeps, converged=converged))
    solver = AlternatingLeastSquares(net, observed.minus(biases.at(observed.indices)), ridge=ridge)
    before = math.inf
    for _ in range(sweeps):
        after = solver.sweep()
        if math.isfinite(biases.damping):
            biases = biases.adapted(observed.minus(predict(net, observed.indices)))
            solver.replace_values(observed.minus(biases.at(observed.indices)))
        if after >= before * (1 - converged):
            break
        before = after
    return Fit(net, biases)


def residual(made: Fit, observed: Observed) -> Observed:
    """Return the observations with the predictions of a fit, network plus biases, subtracted from their values."""
    return observed.minus(predict(made.net, observed.indices) + made.biases.at(observed.indices))


def error(made: Fit, observed: Observed) -> float:
    """Return the root mean square error of a fit, network plus biases, over observed entries."""
    return math.sqrt(residual(made, observed).mean_square())


def tolerated(held_out: Observed) -> float:
    """Return the ratio, above 1, of two held-out root mean square errors up to which they count as equal.

    The ratio is 1 + `SIMPLER` / sqrt(m) for m held-out entries.
    """
    return 1 + SIMPLER / math.sqrt(held_out.count)


def noise_level(train: Observed, sigma: float, nodes: int) -> float:
    r"""Return the ridge at which noise of standard deviation sigma alone keeps no component.

    For a matrix it is sigma sum_n sqrt(m / d_n), where m is the number of entries and d_n the size of mode n: about the
    spectral norm of a matrix that has independent noise at m positions. Since (ridge / 2) (|A|^2 + |B|^2) is at least
    ridge times the nuclear norm of A B, a component with a singular value below the ridge vanishes. With M nodes the
    pull of a ridge on a component of size s is proportional to s^(2/M), which rescales the level.

    Args:
        train: the entries to fit; only the sum of their weights and the shape are used.
        sigma: standard deviation of the noise.
        nodes: M, the number of nodes of the network; 2 for a product of two matrices.
    """
    level = sigma * sum(math.sqrt(train.count / d) for d in train.shape)
    return level * math.prod(train.shape) ** (0.5 - 1 / nodes)


def widths(net: TensorNetwork) -> dict[str, int]:
    """Return the size of every bond, as {label of the bond as text: size}."""
    return {str(bond): net.layout.sizes[bond] for bond in net.bonds}
