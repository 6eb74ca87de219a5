"""Layers whose weight is the end tensor of a network, composed once per step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ranklens.nn.kernel_chain import KernelChain
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork

_steps = [0]  # of any optimizer; fused ones change factors and leave their version counters as they were


def _count_step(*_: Any) -> None:
    _steps[0] += 1


register_optimizer_step_post_hook(_count_step)


class Composition(nn.Module):
    r"""A weight as the end tensor of a network, kept until it can no longer be used.

    It is composed anew when a factor has changed (by its version counter), after a step of any optimizer (fused ones
    count no versions), when gradients are switched on or off, and after a backward pass, which frees what the weight
    was computed with. So one composition serves all uses in a step, and a module costs a plain one plus its
    composition, whatever the batch. Where autocast is on, factors are multiplied in their own precision, and the layer
    rounds the weight.

    Attributes:
        network: a tensor network or a chain of kernels; the weight is its end tensor, reshaped.
        shape: of the weight.

    Writing into a factor's `.data` is not seen; change it under `torch.no_grad()`. Where two losses of one step have a
    backward each, the first needs `retain_graph=True`, as for any tensor that both share; or add them.
    """

    def __init__(self, network: TensorNetwork | KernelChain, shape: torch.Size) -> None:
        super().__init__()
        self.network, self.shape = network, shape
        self._is_chain = len(shape) == 2 and (isinstance(network, KernelChain) or is_chain(network))
        self._kept: tuple[tuple[Tensor, ...], Any, Tensor, int] | None = None

    def forward(self) -> Tensor:
        """The weight."""
        if torch.compiler.is_compiling() or _saving_is_hooked() or _is_transformed():
            return self._compose()
        stacks = tuple(self.network.stacks)
        state = (*((s._version, s.data_ptr(), s.requires_grad) for s in stacks), _steps[0], torch.is_grad_enabled())
        if self._kept is not None:
            held, kept, weight, version = self._kept
            if weight._version != version:
                raise RuntimeError(
                    "the weight of a composed layer was changed in place, which changes none of its factors; change "
                    "these, under torch.no_grad(), or call rl.nn.collapse first"
                )
            if kept == state and all(a is b for a, b in zip(held, stacks, strict=True)):
                return weight
        weight = self._compose()
        if torch.is_inference_mode_enabled():  # such tensors count no versions, and are of no use afterwards
            return weight
        if weight.requires_grad:
            weight.register_hook(self._forget)
        self._kept = (stacks, state, weight, weight._version)
        return weight

    def _compose(self) -> Tensor:
        with torch.autocast(self.network.device.type, enabled=False):
            return self.network.tensor().reshape(self.shape)

    def _forget(self, _: Tensor) -> None:
        self._kept = None

    def chain(self) -> list[Tensor] | None:
        """The factors in the order in which an input meets them, where the network is a product of matrices."""
        if not self._is_chain:
            return None
        return list(self.network.stacks if isinstance(self.network, KernelChain) else reversed(self.network.nodes))

    def _apply(self, *args: Any, **settings: Any) -> "Composition":
        self._kept = None  # moving a factor does not change its version
        return super()._apply(*args, **settings)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # no graph is copied or written

    def extra_repr(self) -> str:
        """The shape, for people."""
        return f"shape={tuple(self.shape)}"


def _saving_is_hooked() -> bool:
    """Whether saved tensors go through hooks, as in a checkpoint, whose second pass must save what the first did."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def check_values(name: str, weight: Tensor) -> None:
    """Refuse a layer's weight that cannot be decomposed."""
    if weight.is_meta or not bool(torch.isfinite(weight).all()):
        what = "on the meta device" if weight.is_meta else "not finite"
        raise ValueError(f"the weight of layer {name!r} is {what}; load it first, or leave the layer out")


def _is_transformed() -> bool:
    """Whether torch.func is at work, whose tensors mean nothing outside of it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class Composed:
    """What composed layers share: their weight is a property."""

    composition: Composition

    @property
    def weight(self) -> Any:
        """The weight, composed."""
        return self.composition()


class ComposedLinear(Composed, nn.Linear):  # type: ignore[override]
    """A Linear whose weight is composed; for few rows a product of matrices goes over the activations instead.

    With B rows, applying factors one by one costs B times their entries, composing costs the product and then B
    times the entries of the weight: the cheaper is taken, by count of multiply-adds.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The plain layer's output."""
        chain = self.composition.chain()
        if chain is None or not by_chain(input.numel() // max(input.shape[-1], 1), chain):
            return nn.functional.linear(input, self.weight, self.bias)
        for factor in chain[:-1]:
            input = nn.functional.linear(input, factor)
        return nn.functional.linear(input, chain[-1], self.bias)


def by_chain(rows: int, chain: list[Tensor]) -> bool:
    """Whether so many rows are sooner multiplied by the factors than by their product."""
    columns = chain[0].shape[1]
    apply, compose = sum(x.numel() for x in chain), sum(x.numel() * columns for x in chain[1:])
    return rows * apply < compose + rows * chain[-1].shape[0] * columns


class ComposedConv1d(Composed, nn.Conv1d):  # type: ignore[override]
    """A Conv1d whose weight is composed."""


class ComposedConv2d(Composed, nn.Conv2d):  # type: ignore[override]
    """A Conv2d whose weight is composed."""


class ComposedConv3d(Composed, nn.Conv3d):  # type: ignore[override]
    """A Conv3d whose weight is composed."""


class ComposedConvTranspose1d(Composed, nn.ConvTranspose1d):  # type: ignore[override]
    """A ConvTranspose1d whose weight is composed."""


class ComposedConvTranspose2d(Composed, nn.ConvTranspose2d):  # type: ignore[override]
    """A ConvTranspose2d whose weight is composed."""


class ComposedConvTranspose3d(Composed, nn.ConvTranspose3d):  # type: ignore[override]
    """A ConvTranspose3d whose weight is composed."""


class ComposedEmbedding(Composed, nn.Embedding):  # type: ignore[override]
    """An Embedding whose weight is composed; the row of `padding_idx` is no longer kept fixed."""


class ComposedMultiheadAttention(nn.MultiheadAttention):
    """A MultiheadAttention whose projections of query, key and value are composed, each by a network of its own."""

    compositions: nn.ModuleList

    @property
    def in_proj_weight(self) -> Any:  # type: ignore[override]
        """The three projections, one below the other."""
        return torch.cat([composition() for composition in self.compositions])


COMPOSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ComposedLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: ComposedLinear,
    nn.Conv1d: ComposedConv1d,
    nn.Conv2d: ComposedConv2d,
    nn.Conv3d: ComposedConv3d,
    nn.ConvTranspose1d: ComposedConvTranspose1d,
    nn.ConvTranspose2d: ComposedConvTranspose2d,
    nn.ConvTranspose3d: ComposedConvTranspose3d,
    nn.Embedding: ComposedEmbedding,
}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {composed: plain for plain, composed in reversed(COMPOSED.items())}
