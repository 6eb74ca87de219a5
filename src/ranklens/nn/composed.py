"""Layers whose weight is computed from factors: the end tensor of a network, computed once per training step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ranklens.nn.factored_state import EXTRA, description
from ranklens.nn.kernel_chain import KernelChain
from ranklens.tensors.init import is_chain
from ranklens.tensors.network import TensorNetwork

# Number of steps that optimizers have taken in this process. Fused optimizers change a Parameter without increasing its
# version counter, so a weight computed before a step counts as outdated after it.
_steps = [0]


def _count_step(*_: object) -> None:
    """Count a step of any optimizer."""
    _steps[0] += 1


register_optimizer_step_post_hook(_count_step)


@dataclass(frozen=True)
class _KeptWeight:
    """A computed weight that later forward passes may use again.

    Attributes:
        factors: the Parameters from which the weight was computed.
        state: everything else that the weight depends on, as `Composition._state` returns it.
        weight: the weight.
        version: the version counter of the weight when it was computed.
    """

    factors: tuple[Tensor, ...]
    state: tuple[object, ...]
    weight: Tensor
    version: int


class Composition(nn.Module):
    r"""A weight that is the end tensor of a network of factors, computed at most once per training step.

    The weight is computed in the forward pass and kept for further uses. It is computed anew

    - after a factor has changed, as its version counter shows, or has been replaced,
    - after a step of any optimizer, because fused optimizers do not increase version counters,
    - after gradients have been switched on or off, and
    - after a backward pass, which frees the graph of the weight.

    So a layer costs as much as a plain layer plus one composition per step, whatever the batch size. Under autocast the
    factors are multiplied in their own dtype, and the layer then casts the weight.

    Changes made through `.data` of a factor are not noticed; change factors under `torch.no_grad()`. If two losses of
    one step are differentiated separately, the first backward pass needs `retain_graph=True`, as for any tensor on
    which both losses depend.

    Args:
        network: the factors: a tensor network or a chain of kernels.
        shape: shape of the weight; the end tensor is reshaped to it.

    Attributes:
        network: the factors.
        shape: shape of the weight.
    """

    def __init__(self, network: TensorNetwork | KernelChain, shape: torch.Size) -> None:
        super().__init__()
        self.network, self.shape = network, shape
        self._is_chain = len(shape) == 2 and (isinstance(network, KernelChain) or is_chain(network))
        self._kept: _KeptWeight | None = None

    def forward(self) -> Tensor:
        """Return the weight, computed from the factors or kept from an earlier call.

        Returns:
            A tensor of shape `shape`, differentiable in the factors. Do not change it in place.

        Raises:
            RuntimeError: if the kept weight was changed in place, which does not change the factors.
        """
        if torch.compiler.is_compiling() or _saving_is_hooked() or _is_transformed():
            return self._compose()
        factors = tuple(self.network.stacks)
        state = self._state()
        if self._kept is not None:
            if self._kept.weight._version != self._kept.version:
                raise RuntimeError(
                    "the weight of a composed layer was changed in place, which changes none of its factors; change "
                    "the factors under torch.no_grad(), or call rl.nn.collapse first"
                )
            if self._kept.state == state and all(a is b for a, b in zip(self._kept.factors, factors, strict=True)):
                return self._kept.weight
        weight = self._compose()
        if (
            torch.is_inference_mode_enabled()
        ):  # inference tensors have no version counter and cannot be used in training
            return weight
        if weight.requires_grad:
            weight.register_hook(self._forget)
        self._kept = _KeptWeight(factors, state, weight, weight._version)
        return weight

    def replace(self, network: TensorNetwork) -> None:
        """Compute the weight from another network from now on.

        Args:
            network: a network whose end tensor has as many entries as the weight.
        """
        self.network, self._kept = network, None

    def chain(self) -> list[Tensor] | None:
        """Return the matrices whose product is the weight.

        Returns:
            The matrices in the order in which they are applied to an input, or None if the weight is not a matrix or
            its network is not a product of matrices.
        """
        if not self._is_chain:
            return None
        return list(self.network.stacks if isinstance(self.network, KernelChain) else reversed(self.network.nodes))

    def _compose(self) -> Tensor:
        """Return the weight, computed from the factors in their own dtype."""
        with torch.autocast(self.network.device.type, enabled=False):
            return self.network.tensor().reshape(self.shape)

    def _state(self) -> tuple[object, ...]:
        """Return what a computed weight depends on besides the identity of the factors."""
        factors = ((s._version, s.data_ptr(), s.requires_grad) for s in self.network.stacks)
        return (*factors, _steps[0], torch.is_grad_enabled())

    def _forget(self, _: Tensor) -> None:
        """Drop the kept weight when its gradient is computed, because the backward pass frees its graph."""
        self._kept = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Composition":
        self._kept = None  # moving a factor to another device or dtype does not change its version counter
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}  # neither copies nor files hold the graph of the weight

    def get_extra_state(self) -> Tensor:
        """Return what a state dict holds beside the factors: how they are contracted, as a text in bytes."""
        return description(self.network, self.shape)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the factors of another factorization, which may have the same shapes.

        Args:
            state: what `get_extra_state` returned when the state dict was made.

        Raises:
            ValueError: if the factors of the state dict are contracted in another way.
        """
        own = self.get_extra_state()
        if not torch.equal(state.cpu(), own):
            raise ValueError(
                f"the state dict has factors of {bytes(state.tolist()).decode()}, and this layer has factors of "
                f"{bytes(own.tolist()).decode()}; factor the model as it was factored when the state dict was made"
            )

    def _load_from_state_dict(
        self, state: dict[str, object], prefix: str, metadata: dict[str, object], strict: bool, *messages: list[str]
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, *messages)
        missing = messages[0]
        if f"{prefix}{EXTRA}" in missing:  # a state dict that was made before it said how its factors are contracted
            missing.remove(f"{prefix}{EXTRA}")

    def extra_repr(self) -> str:
        """Return the shape of the weight, for `print(model)`."""
        return f"shape={tuple(self.shape)}"


def tensor_factored(model: nn.Module) -> Iterator[tuple[str, Composition, TensorNetwork]]:
    """Yield the compositions of a model whose weight is the end tensor of a tensor network.

    Args:
        model: a model; only layers made by `overparameterize` have compositions.

    Yields:
        The name of the layer ("" if the model itself is the layer), its composition, and the network. The three
        projections of a MultiheadAttention are named "compositions.0" to "compositions.2" within their layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Composition) and isinstance(module.network, TensorNetwork):
            yield name.removesuffix("composition").removesuffix("."), module, module.network


def _saving_is_hooked() -> bool:
    """Return whether hooks on saved tensors are active.

    Activation checkpointing uses such hooks: its second forward pass must save the same tensors as its first, which it
    would not if the weight were computed in the first pass only.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _is_transformed() -> bool:
    """Return whether a transform of torch.func is active; tensors made inside one must not be used after it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def check_values(name: str, weight: Tensor) -> None:
    """Refuse a weight that cannot be decomposed.

    Args:
        name: name of the layer, for the message.
        weight: the weight of the layer.

    Raises:
        ValueError: if the weight is on the meta device or has entries that are not finite.
    """
    if weight.is_meta or not bool(torch.isfinite(weight).all()):
        what = "on the meta device" if weight.is_meta else "not finite"
        raise ValueError(f"the weight of layer {name!r} is {what}; load a finite weight first, or leave the layer out")


class Composed:
    """Base of the layers whose weight is computed from factors.

    `rl.nn.overparameterize` makes such a layer from a plain one by changing the class of the layer. All attributes of
    the plain layer but its weight remain.

    Attributes:
        composition: the factors of the weight.
    """

    composition: Composition

    @property
    def weight(self) -> Tensor:
        """Return the weight of the layer, computed from the factors at most once per training step.

        It has the shape of the plain layer's weight and is differentiable in the factors.
        """
        return self.composition()


class ComposedLinear(Composed, nn.Linear):  # type: ignore[override]
    """A Linear layer whose weight is computed from factors.

    If the weight is a product of matrices, an input can also be multiplied by the matrices one after the other. The
    layer takes whichever way needs fewer multiply-adds for the number of rows in the input; see `by_chain`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the plain layer, by the product of the factors or by one factor after the other.

        Args:
            input: activations of shape (..., in_features).

        Returns:
            Activations of shape (..., out_features).
        """
        chain = self.composition.chain()
        if chain is None or not by_chain(input.numel() // max(input.shape[-1], 1), chain):
            return nn.functional.linear(input, self.weight, self.bias)
        for factor in chain[:-1]:
            input = nn.functional.linear(input, factor)
        return nn.functional.linear(input, chain[-1], self.bias)


def by_chain(rows: int, chain: list[Tensor]) -> bool:
    """Return whether multiplying an input by the factors one after the other is cheaper than by their product.

    For B rows, multiplying by the factors costs B times the number of their entries. Multiplying by the product costs
    the product itself and B times the number of its entries. All costs are multiply-adds of the forward pass.

    Args:
        rows: number B of rows of the input.
        chain: the factors, in the order in which they are applied.

    Returns:
        True if the factors one after the other are cheaper.
    """
    columns = chain[0].shape[1]
    apply_cost, compose_cost = sum(x.numel() for x in chain), sum(x.numel() * columns for x in chain[1:])
    return rows * apply_cost < compose_cost + rows * chain[-1].shape[0] * columns


class ComposedConv1d(Composed, nn.Conv1d):  # type: ignore[override]
    """A Conv1d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConv2d(Composed, nn.Conv2d):  # type: ignore[override]
    """A Conv2d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConv3d(Composed, nn.Conv3d):  # type: ignore[override]
    """A Conv3d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose1d(Composed, nn.ConvTranspose1d):  # type: ignore[override]
    """A ConvTranspose1d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose2d(Composed, nn.ConvTranspose2d):  # type: ignore[override]
    """A ConvTranspose2d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedConvTranspose3d(Composed, nn.ConvTranspose3d):  # type: ignore[override]
    """A ConvTranspose3d layer whose weight is computed from factors, made by `rl.nn.overparameterize`."""


class ComposedEmbedding(Composed, nn.Embedding):  # type: ignore[override]
    """An Embedding layer whose weight is computed from factors.

    The row of `padding_idx` changes in training, because it depends on factors that other rows use.
    """


class ComposedMultiheadAttention(nn.MultiheadAttention):
    """A MultiheadAttention layer whose projections of query, key and value are computed from factors.

    Attributes:
        compositions: the factors of the three projections, in this order.
    """

    compositions: nn.ModuleList

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """Return the weights for query, key and value, concatenated to shape (3 `embed_dim`, `embed_dim`)."""
        return torch.cat([composition() for composition in self.compositions])


# For every layer type that can be factored, the type with a composed weight.
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
# The inverse of COMPOSED: for every composed layer type, the plain type.
PLAIN: dict[type[nn.Module], type[nn.Module]] = {composed: plain for plain, composed in reversed(COMPOSED.items())}
