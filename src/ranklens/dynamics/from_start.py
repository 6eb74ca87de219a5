"""The component that escapes from a plateau first, and when, by the initial values of a network."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ranklens.dynamics.learned import Learned
from ranklens.dynamics.linear_growth import Growth, linear_growth
from ranklens.dynamics.next_component import end_slope
from ranklens.dynamics.plateau import follow, midway, settle
from ranklens.problems.problem import TensorProblem
from ranklens.tensors import init
from ranklens.tensors.layout import Label
from ranklens.tensors.network import TensorNetwork, slices

# Share of the loss of a plateau that a component takes away while its growth is still that of the linear loss.
LEAVE = 1e-2


@dataclass(frozen=True)
class Plateau:
    """A stationary point that gradient flow from small initial values passes slowly.

    Attributes:
        loss: the loss there.
        tensor: the end tensor there.
    """

    loss: float
    tensor: Tensor


class Curve(NamedTuple):
    """Losses along a flow; no rows if they were not computed.

    Attributes:
        times: (rows,) times since its beginning.
        losses: (rows,) losses at these times.
    """

    times: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A component that is learned, and the plateau after it.

    Attributes:
        bonds: the bonds at which it adds an index value.
        wait: time since the component before: each counts from where the loss is midway between two plateaus.
        rate: largest rate of a component on the plateau before it; NaN if it was not computed.
        second: second largest rate; NaN likewise.
        reached: the plateau after it.
        way: the loss from the component before to this one, along a flow that does not come to rest in between.
    """

    bonds: tuple[Label, ...]
    wait: float
    rate: float
    second: float
    reached: Plateau
    way: Curve


@dataclass(frozen=True)
class _Flow:
    """Gradient flow of the learned components.

    Attributes:
        start: the network when the last component joined the others.
        curve: the loss since then.
        rest: the network at rest.
    """

    start: TensorNetwork
    curve: Curve
    rest: TensorNetwork


class FromStart:
    """Learn on every plateau the component that escapes first, by the initial values of a network.

    The network is held at the plateau with the components learned so far, and all other entries grow by the constant
    gradient of the plateau. The component that grows most, alone with the learned ones, then flows to the next plateau.

    Args:
        net: the network at its initial values; it is not changed.
        task: the problem.
        floor: loss at which a flow to a plateau ends in any case.

    Raises:
        ValueError: for a bond of order 2 in a network that is no product of matrices: its components can be mixed
            without a change of the end tensor, so that initial values belong to no component.
    """

    def __init__(self, net: TensorNetwork, task: TensorProblem, floor: float) -> None:
        self.net, self.task, self.floor = net, task, floor
        self.chain = init.is_chain(net)
        for bond in net.bonds:
            if net.order(bond) == 2 and not self.chain:
                raise ValueError(
                    f"bond {bond!r} of {net.equation} has order 2, so that its components can be mixed without a "
                    "change of the end tensor, and initial values belong to none of them; pass by='rate'"
                )
        self.learned = Learned(net.layout, dict.fromkeys(net.bonds, ()))
        self.nodes = [node.detach().clone() for node in net.nodes]
        self.small: list[Tensor] | None = None
        self.flow: _Flow | None = None  # of the learned components, since the last of them escaped
        self.since = 0.0  # time between this escape and the moment from which the next component counts

    def learn(self, at: Plateau) -> Step | None:
        """Return the next component and the plateau after it; None if no component grows.

        Args:
            at: the plateau that the learned components are on.
        """
        if self.chain:
            self._rotate()
        slope = end_slope(at.tensor, self.task)
        held = self.net.with_nodes(self.nodes if self.small is None else self.learned.placed(self.nodes, self.small))
        free = self._free()
        grown = _beyond(at, slope, held, linear_growth(held, slope, free, until_fall=LEAVE * at.loss))
        if not grown.escaped:
            return None
        self.nodes = list(grown.nodes)
        if self.chain:
            self._rotate()
        new = self._leader(slope)
        learned = self.learned.adding(new)
        alone = self._settled(self.net.with_nodes(learned.part(self.nodes)))
        reached = Plateau(float(alone.curve.losses[-1]), alone.rest.tensor().detach())
        climb = midway(*alone.curve, at.loss, reached.loss)
        others = self._go_on(at, new, slope, free, climb)
        way = self._way(at, grown, learned, alone, others)
        self.learned, self.small = learned, [node.detach().clone() for node in alone.rest.nodes]
        return Step(tuple(new), grown.time + climb, torch.nan, torch.nan, reached, way)

    def end(self) -> Curve:
        """Return the loss from the last component to the plateau after it."""
        if self.flow is None:
            return Curve(np.zeros(0), np.zeros(0))
        times, losses = self.flow.curve
        return Curve(times[times > self.since] - self.since, losses[times > self.since])

    def _settled(self, net: TensorNetwork) -> _Flow:
        """Return the flow of a network, which is changed, to rest."""
        start = net.with_nodes([node.detach() for node in net.nodes])
        return _Flow(start, Curve(*settle(net, self.task, self.floor)), net)

    def _way(self, at: Plateau, grown: Growth, learned: Learned, alone: _Flow, others: Growth) -> Curve:
        """Return the loss from one component to the next, along a flow that does not come to rest in between.

        The learned components go on from where they were. Meanwhile all others grow, and then the next one joins them.
        The growth takes the loss as linear in the end tensor; the curvature takes back a part of the fall that is
        quadratic in the fall, and this part is chosen so that both pieces meet.

        Args:
            at: the plateau before.
            grown: the growth of all components out of this plateau.
            learned: the components that are learned now.
            alone: their flow from this plateau.
            others: the growth of all others since then, until this flow is midway between the plateaus.
        """
        waited, flow = Curve(np.zeros(1), np.array([at.loss])), alone
        if self.flow is not None:
            before, wait = self.flow.curve, self.since + grown.time
            if 0 < wait < before.times[-1]:
                late = self.flow.start
                before = Curve(*follow(late, self.task, self.floor, wait))
                nodes = self.learned.placed(self.nodes, [node.detach() for node in late.nodes])
                flow = self._settled(self.net.with_nodes(learned.part(nodes)))
            waited = Curve(before.times - self.since, before.losses)
        self.flow, self.since = flow, others.time
        climbs = flow.curve.times <= others.time
        climb, losses = flow.curve.times[climbs], flow.curve.losses[climbs]
        losses = losses - np.interp(climb, others.times, others.falls)
        times = np.union1d(grown.times, waited.times[(waited.times > 0) & (waited.times < grown.time)])
        falls, rest = np.interp(times, grown.times, grown.falls), np.interp(times, *waited)
        falls += (rest[-1] - losses[0] - falls[-1]) * (falls / falls[-1]) ** 2
        return Curve(np.append(times, grown.time + climb[1:]), np.append(rest - falls, losses[1:]))

    def _free(self) -> list[Tensor]:
        """Return where the nodes grow: all entries but those of learned components.

        Entries between learned and other index values grow too, but not in a product of matrices: there the gradient of
        a plateau is orthogonal to the learned rows and columns.
        """
        return self.learned.rest().mask() if self.chain else [~mask for mask in self.learned.mask()]

    def _rotate(self) -> None:
        """Replace the part of a product of matrices that is not learned by balanced factors in its singular basis."""
        rest = self.learned.rest()
        if min(len(at) for at in rest.at.values()) == 0:
            return
        part = self.net.with_nodes(rest.part(self.nodes))
        init.product_(part, part.tensor().detach())
        self.nodes = rest.placed(self.nodes, [node.detach() for node in part.nodes])

    def _leader(self, slope: Tensor) -> Mapping[Label, int]:
        """Return {bond: index value} of the component that lowers the linear loss most.

        Args:
            slope: gradient of the loss in the end tensor, on the plateau.
        """
        if self.chain:
            return {bond: at[0] for bond, at in self.learned.rest().at.items()}
        if self.learned.empty:
            net = self.net.with_nodes(self.nodes)
            return {bond: int(net.component_norms(bond).argmax()) for bond in net.bonds}
        falls: dict[tuple[Label, int], float] = {}
        for bond, rest in self.learned.rest().at.items():
            if rest:
                only = Learned(self.net.layout, {**self.learned.at, bond: rest})
                part = self.net.with_nodes(only.part(self.nodes))
                node, axis = self.net.layout.meets(bond)[0]
                slopes = part.gradients((slope * part.tensor()).sum())
                inner = (slices(part.nodes[node].detach(), axis) * slices(slopes[node], axis)).sum(dim=1)
                falls |= {(bond, r): float(fall) for r, fall in zip(rest, inner, strict=True)}
        bond, r = min(falls, key=lambda key: falls[key])
        return {bond: r}

    def _go_on(self, at: Plateau, new: Mapping[Label, int], slope: Tensor, free: list[Tensor], time: float) -> Growth:
        """Let all other components grow while the next one climbs.

        Args:
            at: the plateau before.
            new: {bond: index value} of the next component.
            slope: gradient of the loss in the end tensor, on the plateau before.
            free: where the nodes grow.
            time: for how long.

        Returns:
            Their growth, whose falls count from the plateau.
        """
        before = [node.clone() for node in self.nodes]
        others = [node.clone() for node in self.nodes]
        for bond, r in new.items():
            for k, axis in self.net.layout.meets(bond):
                others[k].select(axis, r).zero_()
        net = self.net.with_nodes(others)
        grown = _beyond(at, slope, net, linear_growth(net, slope, free, until_fall=float("inf"), until_time=time))
        self.nodes = list(grown.nodes)
        for bond, r in new.items():
            for k, axis in self.net.layout.meets(bond):
                self.nodes[k].select(axis, r).copy_(before[k].select(axis, r))
        return grown


def _beyond(at: Plateau, slope: Tensor, net: TensorNetwork, grown: Growth) -> Growth:
    """Return a growth whose falls count from a plateau, and not from the network that grew.

    Args:
        at: the plateau.
        slope: gradient of the loss in the end tensor, on the plateau.
        net: the network at the beginning of the growth.
        grown: how it grew.
    """
    fallen = float((slope * (at.tensor - net.tensor().detach())).sum())
    return dataclasses.replace(grown, falls=grown.falls + fallen)
