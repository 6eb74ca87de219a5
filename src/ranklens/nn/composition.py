"""A weight that is computed from factors: the end tensor of a network, computed once per training step."""

from collections.abc import Callable, Mapping
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
        self._loaded_with: list[str] | None = None  # the list of missing keys of the state dict that was loaded last

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
        return {**self.__dict__, "_kept": None, "_loaded_with": None}  # copies do not hold the graph of the weight

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

    def state_dict(self, *arguments: object, **options: object) -> Mapping[str, object]:  # type: ignore[override]
        """Return the state dict as `torch.nn.Module.state_dict` does; factors that several layers share come once.

        They come under the name of the first layer. Formats such as safetensors hold no tensor under two names.
        """
        found: Mapping[str, object] | None = options.get("destination")  # type: ignore[assignment]
        first = self.network.nodes[0] if isinstance(self.network, TensorNetwork) else self.network.stacks[0]
        if found is not None and any(_is_same(value, first) for value in found.values()):
            return found
        return super().state_dict(*arguments, **options)  # type: ignore[call-overload]

    def _load_from_state_dict(
        self, state: dict[str, object], prefix: str, metadata: dict[str, object], strict: bool, *messages: list[str]
    ) -> None:
        missing = messages[0]
        if self._loaded_with is missing and not any(name.startswith(prefix) for name in state):
            # Another layer with these factors comes before this one, and has loaded them.
            state.update({f"{prefix}network.{name}": value for name, value in self.network.state_dict().items()})
            state[f"{prefix}{EXTRA}"] = self.get_extra_state()
        self._loaded_with = missing
        super()._load_from_state_dict(state, prefix, metadata, strict, *messages)
        if f"{prefix}{EXTRA}" in missing:  # a state dict that was made before it said how its factors are contracted
            missing.remove(f"{prefix}{EXTRA}")

    def extra_repr(self) -> str:
        """Return the shape of the weight, for `print(model)`."""
        return f"shape={tuple(self.shape)}"


def _is_same(value: object, factor: Tensor) -> bool:
    """Return whether a value is a tensor of the shape and the memory of a factor."""
    if not isinstance(value, Tensor) or value.is_meta or factor.is_meta or value.shape != factor.shape:
        return False
    return value.data_ptr() == factor.data_ptr() and factor.numel() > 0


def _saving_is_hooked() -> bool:
    """Return whether hooks on saved tensors are active.

    Activation checkpointing uses such hooks: its second forward pass must save the same tensors as its first, which it
    would not if the weight were computed in the first pass only.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _is_transformed() -> bool:
    """Return whether a transform of torch.func is active; tensors made inside one must not be used after it."""
    return torch._C._functorch.peek_interpreter_stack() is not None
