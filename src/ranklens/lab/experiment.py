"""One run of the laboratory: its network, problem and start, made from knobs, and what is measured while it runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ranklens import theory
from ranklens.dynamics import optim
from ranklens.dynamics.descent import gradient_descent
from ranklens.dynamics.end_matrix import end_matrix_flow
from ranklens.dynamics.flow import gradient_flow
from ranklens.dynamics.record import Quantity
from ranklens.lab.knobs import MOST_PARAMETERS, Knobs
from ranklens.problems import Completion, targets
from ranklens.progress import Report
from ranklens.seeds import normals
from ranklens.tensors import equation, families, init, measures
from ranklens.tensors.network import TensorNetwork

UNTIL_LOSS, RTOL = 1e-4, 1e-4  # of flows: curves that are looked at
MOST_EVALUATIONS = 20_000  # of the gradient, in a flow: some seconds for the largest networks
STEPS, EVERY = 3000, 10  # of a descent
RATES_EVERY = 8  # rows: the law is drawn as short pieces of line at some of them
LEARNT = 0.25  # a component counts as learned at this share of its size in the target


@dataclass
class Experiment:
    """What the knobs describe, before and while it runs.

    Args:
        knobs: the settings.

    Attributes:
        target: the whole tensor of which some entries are fitted.
        task: the problem.
        net: the network at its present state; None where the end matrix itself flows.
        matrix: the present end matrix where it flows itself.
        length: distance that the end tensor has moved so far, in the Frobenius norm.
    """

    knobs: Knobs
    length: float = field(default=0.0, init=False)
    matrix: Tensor | None = field(default=None, init=False)
    _before: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make the target, the problem and the network."""
        knobs = self.knobs
        self.flows_itself = knobs.is_fraction
        self.net = None if self.flows_itself else self._network()
        self.target = self._target()
        if knobs.family == "example":
            self.task = Completion.counterexample()
        else:
            count = max(1, round(knobs.observed * self.target.numel()))
            self.task = Completion.sample(self.target, observed=count, seed=knobs.seed, noise=knobs.noise)
        if self.flows_itself:
            self.matrix = self._end_start()

    @property
    def end(self) -> Tensor:
        """Return the end tensor at the present state."""
        if self.net is not None:
            with torch.no_grad():
                return self.net.tensor()
        assert self.matrix is not None
        return self.matrix

    @cached_property
    def is_matrix(self) -> bool:
        """Return whether the end tensor is a matrix, whose singular values are shown; else component norms are."""
        return self.target.ndim == 2

    @cached_property
    def bond(self) -> object:
        """Return the bond whose component norms are shown: the one that cuts the network in its middle."""
        assert self.net is not None
        bonds = self.net.bonds
        return bonds[len(bonds) // 2] if bonds else None

    @property
    def order(self) -> float:
        """Return K of the law: the number of factors of a matrix, or of the nodes that a bond joins."""
        if self.is_matrix and self.knobs.family in ("matrix", "example"):
            return self.knobs.depth
        return self.net.order(self.bond) if self.net is not None and self.bond is not None else 1

    def _network(self) -> TensorNetwork:
        """Return the network at its start."""
        knobs = self.knobs
        shape, width = (knobs.size,) * int(knobs.depth), knobs.width
        std, seed = knobs.start, knobs.seed
        if knobs.family == "example":
            net = families.deep_matrix((2, 2), int(knobs.depth))
            init.product_(net, knobs.start * torch.eye(2, dtype=torch.float64))
        elif knobs.family == "matrix":
            net = families.deep_matrix((knobs.size,) * 2, int(knobs.depth), width or None, std=std, seed=seed)
        elif knobs.family == "cp":
            net = families.cp(shape, width or None, std=std, seed=seed)
        elif knobs.family == "hierarchical":
            net = families.hierarchical(shape, width or None, std=std, seed=seed)
        elif knobs.family == "train":
            net = families.tensor_train(shape, width or knobs.size, std=std, seed=seed)
        else:
            net = self._own(knobs)
        parameters = sum(stack.numel() for stack in net.stacks)
        if parameters > MOST_PARAMETERS:
            raise ValueError(
                f"the network would have {parameters} parameters, more than {MOST_PARAMETERS}; take a smaller size, "
                f"width or depth"
            )
        if knobs.imbalance and len(net.nodes) > 1:
            with torch.no_grad():
                net.nodes[0].mul_(math.exp(knobs.imbalance))
                net.nodes[-1].mul_(math.exp(-knobs.imbalance))
        return net

    @staticmethod
    def _own(knobs: Knobs) -> TensorNetwork:
        """Return the network of an einsum, whose modes have one size and whose bonds have one width."""
        labels, out = equation.parse(knobs.einsum)
        width = knobs.width or knobs.size
        shapes = [tuple(knobs.size if x in out else width for x in node) for node in labels]
        if sum(math.prod(shape) for shape in shapes) > MOST_PARAMETERS or knobs.size ** len(out) > MOST_PARAMETERS:
            raise ValueError(f"einsum {knobs.einsum!r} makes too large a network; take a smaller size or width")
        nodes = [knobs.start * x for x in normals(shapes, knobs.seed, "initial values")]
        return TensorNetwork(knobs.einsum, nodes)

    def _target(self) -> Tensor:
        """Return the tensor to be found."""
        knobs = self.knobs
        if knobs.family == "example":
            return torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        if knobs.family == "hierarchical" and knobs.depth > 2:
            return targets.hierarchical((knobs.size,) * int(knobs.depth), knobs.rank, seed=knobs.seed)
        shape = (knobs.size,) * 2 if self.net is None else self.net.shape
        if len(shape) == 2:
            return targets.low_rank_matrix(shape, knobs.rank, seed=knobs.seed)
        return targets.cp(shape, knobs.rank, seed=knobs.seed)

    def _end_start(self) -> Tensor:
        """Return the start of a flow of the end matrix, of the size that a product of so many factors has."""
        knobs = self.knobs
        if knobs.family == "example":
            return knobs.start * torch.eye(2, dtype=torch.float64)
        [drawn] = normals([(knobs.size, knobs.size)], knobs.seed, "initial values")
        return knobs.start**knobs.depth * knobs.size ** ((knobs.depth - 1) / 2) * drawn

    def sizes(self) -> Float[Tensor, " values"]:
        """Return the present singular values, or the component norms of the bond that is shown."""
        if self.is_matrix:
            return measures.singular_values(self.end)
        assert self.net is not None
        with torch.no_grad():
            return self.net.component_norms(self.bond)

    def rates(self) -> Float[Tensor, " values"]:
        """Return the rates that the law gives to the present `sizes` under gradient flow.

        For a matrix they are those of balanced factors, -L s^(2 - 2/L) <G, u v^T> with the gradient G in the matrix.
        """
        if not self.is_matrix:
            assert self.net is not None
            return theory.component_rate(self.net, self.task, self.bond).detach()
        with torch.enable_grad():
            W = self.end.clone().requires_grad_()
            (G,) = torch.autograd.grad(self.task.loss(W), W)
        U, s, Vh = torch.linalg.svd(W.detach(), full_matrices=False)
        L = float(self.order)
        return -L * s ** (2 - 2 / L) * torch.einsum("ir,ij,rj->r", U, G, Vh)

    def tracked(self) -> dict[str, Callable[[object], Quantity]]:
        """Return the functions that a run evaluates at every recorded time, the first of them first."""
        rows = 0
        spectrum = torch.empty(0)

        def moved(state: object) -> float:
            nonlocal rows, spectrum
            if isinstance(state, Tensor):
                self.matrix = state
            end = self.end
            if self._before is not None:
                self.length += float((end - self._before).norm())
            self._before = end.clone()
            spectrum = measures.singular_values(unfolded(end))
            rows += 1
            return self.length

        def rate(_: object) -> Tensor:
            return self.rates() if rows % RATES_EVERY == 1 else torch.full_like(self.sizes_of(spectrum), torch.nan)

        return {
            "length": moved,
            "sigma": lambda _: self.sizes_of(spectrum),
            "rate": rate,
            "effective_rank": lambda _: measures.effective_rank_of(spectrum),
            "nuclear": lambda _: spectrum.sum(),
            "frobenius": lambda _: spectrum.norm(),
        }

    def sizes_of(self, spectrum: Float[Tensor, " singular"]) -> Float[Tensor, " values"]:
        """Return the present sizes, from the singular values of the end tensor as a matrix."""
        return spectrum if self.is_matrix else self.sizes()

    def run(self, progress: Report) -> xr.Dataset:
        """Run to the end, and return the record.

        Args:
            progress: called with a line of text after every step; what it raises ends the run.

        Returns:
            The record of the flow or the descent, with the quantities of `tracked`.
        """
        knobs, track = self.knobs, self.tracked()
        if self.net is None:
            return end_matrix_flow(
                self.end,
                self.task,
                depth=knobs.depth,
                until_loss=UNTIL_LOSS,
                until_evaluations=MOST_EVALUATIONS,
                rtol=RTOL,
                track=track,
                progress=progress,
            )
        if knobs.optimizer == "flow":
            return gradient_flow(
                self.net,
                self.task,
                until_loss=UNTIL_LOSS,
                until_evaluations=MOST_EVALUATIONS,
                rtol=RTOL,
                track=track,
                progress=progress,
            )
        kinds = {"descent": torch.optim.SGD, "adam": torch.optim.Adam, "spectral": optim.Spectral}
        optimizer = kinds[knobs.optimizer](self.net.parameters(), lr=knobs.rate)
        return gradient_descent(
            self.net,
            self.task,
            optimizer,
            steps=STEPS,
            every=EVERY,
            until_loss=UNTIL_LOSS,
            track=track,
            progress=progress,
        )

    @cached_property
    def goals(self) -> list[float]:
        """Return the sizes from which on components count as learned, one for each of the target, largest first."""
        if self.knobs.family == "example":
            return [1.0]
        if self.knobs.family == "cp" and not self.is_matrix:
            return [LEARNT * float(self.target.norm()) / math.sqrt(self.knobs.rank)] * self.knobs.rank
        s = measures.singular_values(unfolded(self.target))
        return [LEARNT * float(x) for x in s[: self.knobs.rank]]


def unfolded(end: Tensor) -> Tensor:
    """Return a tensor as a matrix whose rows are the first half of the modes; a matrix as it is."""
    return end if end.ndim == 2 else measures.matricize(end, range(end.ndim // 2))
