"""The component that escapes from a plateau first, and when, by the initial values of a network."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ranklens.dynamics.learned import Learned
from ranklens.dynamics.linear_growth import linear_growth
from ranklens.dynamics.next_component import end_slope
from ranklens.dynamics.plateau import midway, settle
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


@dataclass(frozen=True)
class Step:
    """A component that is learned, and the plateau after it.

    Attributes:
        bonds: the bonds at which it adds an index value.
        wait: time since the component before: each counts from where the loss is midway between two plateaus.
        rate: largest rate of a component on the plateau before it; NaN if it was not computed.
        second: second largest rate; NaN likewise.
        reached: the plateau after it.
    """

    bonds: tuple[Label, ...]
    wait: float
    rate: float
    second: float
    reached: Plateau


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
        grown = linear_growth(held, slope, free, until_fall=LEAVE * at.loss)
        if not grown.escaped:
            return None
        self.nodes = list(grown.nodes)
        if self.chain:
            self._rotate()
        new = self._leader(slope)
        learned = self.learned.adding(new)
        flowing = self.net.with_nodes(learned.part(self.nodes))
        times, losses = settle(flowing, self.task, self.floor)
        reached = Plateau(float(losses[-1]), flowing.tensor().detach())
        climb = midway(times, losses, at.loss, reached.loss)
        self._go_on(new, slope, free, climb)
        self.learned, self.small = learned, [node.detach().clone() for node in flowing.nodes]
        return Step(tuple(new), grown.time + climb, torch.nan, torch.nan, reached)

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

    def _go_on(self, new: Mapping[Label, int], slope: Tensor, free: list[Tensor], time: float) -> None:
        """Let all other components grow while the next one climbs.

        Args:
            new: {bond: index value} of the next component.
            slope: gradient of the loss in the end tensor, on the plateau before.
            free: where the nodes grow.
            time: for how long.
        """
        before = [node.clone() for node in self.nodes]
        others = [node.clone() for node in self.nodes]
        for bond, r in new.items():
            for k, axis in self.net.layout.meets(bond):
                others[k].select(axis, r).zero_()
        grown = linear_growth(self.net.with_nodes(others), slope, free, until_fall=float("inf"), until_time=time)
        self.nodes = list(grown.nodes)
        for bond, r in new.items():
            for k, axis in self.net.layout.meets(bond):
                self.nodes[k].select(axis, r).copy_(before[k].select(axis, r))
