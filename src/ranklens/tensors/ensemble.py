"""Networks of one layout side by side, their parameters stacked along a leading axis."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranklens.tensors import arguments, contract
from ranklens.tensors.convert import as_tensor
from ranklens.tensors.layout import Layout
from ranklens.tensors.network import TensorNetwork

MEMBER = "member"  # how records name the leading axis


class Ensemble(nn.Module):
    """Networks of one layout side by side, such as one per seed, to be descended together.

    Every Parameter has a leading axis of one slice per member. An optimizer that treats entries separately (SGD, Adam)
    therefore does to each member what it would do to the member alone, in a single call for all members.

    Args:
        nets: the networks, of one equation, one set of sizes, frozen nodes, dtype and device. They are copied.
        step_sizes: one factor per member, by which the optimizer's step is multiplied; None stands for ones.

    Raises:
        ValueError: for no networks, networks of different layouts, or factors that are negative, not finite, or not one
            per member.
        TypeError: for something that is no network.

    >>> import ranklens as rl
    >>> ensemble = rl.stack([rl.deep_matrix((3, 4), depth=2, seed=seed) for seed in range(5)])
    >>> len(ensemble), [tuple(stack.shape) for stack in ensemble.stacks], ensemble.members[2].shape
    (5, [(5, 3, 3), (5, 3, 4)], (3, 4))
    """

    def __init__(self, nets: Sequence[TensorNetwork], step_sizes: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        nets = arguments.sequence("nets", nets)
        _check_alike(nets)
        self.layout: Layout = nets[0].layout
        self._members = [net.with_nodes(net.nodes) for net in nets]
        for k, stack in enumerate(nets[0].stacks):
            values = torch.stack([net.stacks[k].detach() for net in nets])
            self.register_parameter(f"stack_{k}", nn.Parameter(values, requires_grad=stack.requires_grad))
        factors = torch.ones(len(nets)) if step_sizes is None else as_tensor("step_sizes", step_sizes)
        if factors.shape != (len(nets),) or not bool(torch.isfinite(factors).all()) or bool((factors < 0).any()):
            raise ValueError(f"step_sizes are {step_sizes!r}; give {len(nets)} finite factors, zero or more")
        self.step_sizes: Tensor
        self.register_buffer("step_sizes", factors.to(nets[0].stacks[0].detach()), persistent=False)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members)

    @property
    def stacks(self) -> tuple[nn.Parameter, ...]:
        """Return one Parameter per Parameter of a member, of shape (members, *shape of the member's Parameter)."""
        return tuple(self._parameters.values())  # type: ignore[arg-type]

    @property
    def members(self) -> tuple[TensorNetwork, ...]:
        """Return the networks one by one. They share memory with the ensemble, so training changes them."""
        for k, stack in enumerate(self.stacks):
            if self._members[0].stacks[k].device != stack.device or self._members[0].dtype != stack.dtype:
                self._members = [member.to(stack) for member in self._members]
            for member, value in zip(self._members, stack.detach().unbind(0), strict=True):
                if member.stacks[k].data_ptr() != value.data_ptr():
                    member.stacks[k].data = value
        return tuple(self._members)

    def nodes(self) -> tuple[Tensor, ...]:
        """Return the nodes in the order of the equation, as views of shape (members, *shape of the node)."""
        return self.split([stack.detach() for stack in self.stacks])

    def split(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the nodes of tensors that are stored like `stacks`, such as the gradients of the Parameters.

        Args:
            values: one tensor per Parameter in `stacks`, of its shape.

        Returns:
            One view per node, in the order of the equation, of shape (members, *shape of the node).
        """
        found: dict[int, Tensor] = {}
        for positions, value in zip(contract.stacks_of(self.layout), values, strict=True):
            found.update(zip(positions, (value,) if len(positions) == 1 else value.unbind(1), strict=True))
        return tuple(found[k] for k in range(len(self.layout.nodes)))

    def extra_repr(self) -> str:
        """Return the number of members and the text of the first one, for print(ensemble)."""
        return f"{len(self)} x {self._members[0]!r}"


def stack(nets: Sequence[TensorNetwork], *, step_sizes: Sequence[float] | Tensor | None = None) -> Ensemble:
    """Return networks of one layout as an ensemble that `rl.gradient_descent` descends in one go.

    Args:
        nets: the networks, such as one per seed or per initialization. They are copied.
        step_sizes: one factor per member, by which the optimizer's step is multiplied; None stands for ones.

    Raises:
        ValueError: for no networks, networks of different layouts, or factors that are negative, not finite, or not one
            per member.
        TypeError: for something that is no network.

    >>> import ranklens as rl
    >>> rl.stack([rl.cp((2, 3, 4), rank=2, seed=seed) for seed in range(3)]).members[1].equation
    'ar,br,cr->abc'
    """
    return Ensemble(nets, step_sizes)


def _check_alike(nets: Sequence[TensorNetwork]) -> None:
    if not nets:
        raise ValueError("nets is empty; an ensemble needs at least one network")
    for k, net in enumerate(nets):
        if not isinstance(net, TensorNetwork):
            raise TypeError(f"nets[{k}] is a {type(net).__name__}; an ensemble is made of rl.TensorNetwork")
        first = nets[0]
        one, other = first.layout, net.layout
        if (one.nodes, one.out, one.shapes, one.frozen) != (other.nodes, other.out, other.shapes, other.frozen):
            raise ValueError(f"nets[{k}] is {net!r}, nets[0] {first!r}; members need one equation, sizes, frozen nodes")
        if (first.dtype, first.device) != (net.dtype, net.device):
            raise ValueError(
                f"nets[{k}] is {net.dtype} on {net.device}, nets[0] {first.dtype} on {first.device}; make them alike"
            )
