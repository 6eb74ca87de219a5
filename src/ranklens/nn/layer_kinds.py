"""Kinds of layers that can be cut: how each acts as a matrix on vectors, and which layers are not cut and why."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TypeGuard, get_args

from jaxtyping import Float
from torch import Tensor, nn

from ranklens.tensors.annotations import checked

ConvTranspose = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
# The plain layers of torch whose outputs are a matrix times vectors of inputs.
Truncatable = nn.Linear | Conv | ConvTranspose
# Entries of the rows of a part of a batch: 128 MiB in float64.
MOST_ENTRIES = 2**24
# Why a layer without any weights is not cut.
EMPTY = "its weight has no entries"
# A function from a layer of some class to the plain layer of torch that computes the same.
PlainForm = Callable[[nn.Module], nn.Module]
# Classes that `register_layer` was given, with the function that makes a layer of each plain.
_registered: dict[type[nn.Module], PlainForm] = {}


@checked
def register_layer(kind: type[nn.Module], plain: PlainForm | None = None) -> type[nn.Module]:
    """Make `compress` and `restore` treat a class of layers like the plain layer of torch that computes the same.

    Args:
        kind: the class. Only layers of exactly this class are meant, not those of its subclasses.
        plain: a function from a layer of this class to a Linear, Conv or ConvTranspose layer of torch that computes the
            same. The Parameters of the result may be those of the layer or tensors computed from them. If it is None,
            `kind` must be a subclass of such a layer that computes what its base class computes.

    Returns:
        The class, so that the function can decorate it.

    Raises:
        TypeError: if `plain` is None and the class is no subclass of a layer of torch that can be cut.

    >>> import torch, ranklens as rl
    >>> class Named(torch.nn.Linear):
    ...     "A Linear layer with a name."
    >>> _ = rl.nn.register_layer(Named)
    >>> str(rl.nn.compress(Named(20, 20), rank=2).table.reason[0].item())
    ''
    """
    if plain is None:
        bases = [base for base in get_args(Truncatable) if issubclass(kind, base)]
        if not bases:
            raise TypeError(
                f"kind is {kind.__name__}, which is no subclass of a layer of torch that can be cut; give `plain`, a "
                f"function from such a layer to the Linear or Conv layer of torch that computes the same"
            )
        plain = _base_form(bases[0])
    _registered[kind] = plain
    return kind


def _base_form(base: type[nn.Module]) -> PlainForm:
    """Return a function that gives a view of a layer as its base class, with the same Parameters."""

    def form(layer: nn.Module) -> nn.Module:
        seen = copy.copy(layer)
        seen.__class__ = base
        return seen

    return form


def plain_form(layer: nn.Module) -> Truncatable | None:
    """Return the plain layer of torch that computes what a layer computes.

    Args:
        layer: any module.

    Returns:
        The layer itself if it is a Linear, Conv or ConvTranspose layer of torch; for a layer of a registered class,
        what the registered function returns; for a `Conv1D` of transformers, whose weight is transposed, a Linear
        layer; None for everything else.

    Raises:
        TypeError: if a registered function returns something else than such a layer.
    """
    if type(layer) in get_args(Truncatable):
        return layer  # type: ignore[return-value]
    if type(layer) in _registered:
        found = _registered[type(layer)](layer)
        if type(found) not in get_args(Truncatable):
            raise TypeError(
                f"the function registered for {type(layer).__name__} returned a {type(found).__name__}; it must return "
                f"a Linear, Conv or ConvTranspose layer of torch"
            )
        return found  # type: ignore[return-value]
    return _of_transposed(layer) if is_transposed(layer) else None


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer is a `Conv1D` of transformers: a Linear layer whose weight has shape (in, out).

    The class is recognized by its name and attributes, so that transformers is not imported.
    """
    weight = layer._parameters.get("weight")
    named = type(layer).__name__ == "Conv1D" and isinstance(getattr(layer, "nf", None), int)
    return named and weight is not None and weight.ndim == 2 and weight.shape[1] == layer.nf


def _of_transposed(layer: nn.Module) -> nn.Linear:
    """Return a Linear layer that computes what a `Conv1D` of transformers computes."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    into, out = weight.shape
    seen = nn.Linear(into, out, bias=bias is not None, device="meta")
    seen.weight = nn.Parameter(weight.detach().T, weight.requires_grad)
    if bias is not None:
        seen.bias = bias
    return seen.train(layer.training)


def why_not(layer: nn.Module, shared_with: dict[int, list[str]], name: str) -> str:
    """Return why a layer with Parameters of its own cannot be cut, as a phrase; empty if it can be.

    Args:
        layer: the layer.
        shared_with: names of the modules that own a Parameter, by the id of the Parameter.
        name: name of the layer.

    Returns:
        The reason, which names the class of the layer or the layer with which it shares its weight.
    """
    weight = layer._parameters.get("weight")
    others = [other for other in shared_with.get(id(weight), []) if other != name]
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    form = plain_form(layer)
    if form is None:
        return _of_numbers(weight) or _unknown(layer)
    if weight is None and type(layer) in get_args(Truncatable):
        return "a hook computes its weight, as weight_norm and pruning do; remove the hook first"
    if others:
        return f"it shares its weight with {others[0]!r}"
    return _of_numbers(form.weight)


def _of_numbers(weight: Tensor | None) -> str:
    """Return why a layer is not cut whose weight has no entries, or no floating-point ones; empty for other layers."""
    if weight is None or (weight.numel() and weight.dtype.is_floating_point):
        return ""
    return f"its weight is of dtype {str(weight.dtype).removeprefix('torch.')}" if weight.numel() else EMPTY


def _unknown(layer: nn.Module) -> str:
    """Return why a layer of a class without a plain form is not cut."""
    kind = type(layer).__name__
    base = [b.__name__ for b in get_args(Truncatable) if isinstance(layer, b)]
    if base:
        return f"{kind} is a subclass of {base[0]}; rl.nn.register_layer({kind}) declares that it computes the same"
    return f"layers of class {kind} are not cut; rl.nn.register_layer adds a class"


def layers_with_weights(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...], nn.Module]]:
    """Yield the modules that have Parameters of two axes or more, or a weight computed by a hook.

    Args:
        model: any model.

    Yields:
        The first name of each module, all its names, and the module; every module comes once.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    inside = [n for n, m in model.named_modules() if nn.utils.parametrize.is_parametrized(m)]
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.parametrizations".lstrip(".")) for outer in inside):
            continue
        wide = any(p is not None and p.ndim >= 2 for p in module._parameters.values())
        if wide or nn.utils.parametrize.is_parametrized(module):
            yield name, tuple(names[id(module)]), module


def owners(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of the modules that own each Parameter, by the id of the Parameter; a module counts once."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(name)
    return found


def is_conv(layer: nn.Module) -> TypeGuard[Conv]:
    """Return whether a layer is a convolution that is not transposed."""
    return isinstance(layer, get_args(Conv))


def is_conv_transpose(layer: nn.Module) -> TypeGuard[ConvTranspose]:
    """Return whether a layer is a transposed convolution."""
    return isinstance(layer, get_args(ConvTranspose))


def groups(layer: Truncatable) -> int:
    """Return the number of groups of a layer; a Linear layer has one."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def matrices(layer: Truncatable) -> Float[Tensor, "groups outputs inputs"]:
    """Return the weight of a layer as one matrix for each group, in its own dtype.

    The matrix of a group multiplies the vector of the inputs that one output position depends on, in the order of
    `input_rows`. In a transposed convolution this vector has zeros wherever the stride leaves gaps.

    Args:
        layer: a Linear, Conv or ConvTranspose layer.

    Returns:
        A tensor of shape (groups, outputs of a group, inputs of a group times entries of the kernel).
    """
    weight, count = layer.weight, groups(layer)
    if is_conv_transpose(layer):
        into, out, *_ = weight.shape
        parts = weight.reshape(count, into // count, out, -1)
        return parts.transpose(1, 2).flatten(2)
    return weight.flatten(1).reshape(count, len(weight) // count, -1)


def as_weight(layer: Truncatable, matrix: Float[Tensor, "groups outputs inputs"]) -> Tensor:
    """Return matrices as a weight of the layer's kind: the inverse of `matrices`, for any number of outputs.

    Args:
        layer: a Linear, Conv or ConvTranspose layer.
        matrix: one matrix for each group.

    Returns:
        A tensor of the shape that the weight of such a layer has with as many outputs as the matrices have rows.
    """
    if isinstance(layer, nn.Linear):
        return matrix[0]
    count, out, _ = matrix.shape
    kernel = tuple(layer.kernel_size)
    if is_conv_transpose(layer):
        return matrix.reshape(count, out, layer.in_channels // count, -1).transpose(1, 2).reshape(-1, out, *kernel)
    return matrix.reshape(count * out, layer.in_channels // count, *kernel)


def output_rows(layer: Truncatable, output: Tensor) -> Float[Tensor, "groups rows outputs"]:
    """Return the vectors that a layer put out, one row for each sample and position.

    Args:
        layer: the layer.
        output: what it returned for an input.

    Returns:
        A tensor of shape (groups, rows, outputs of a group).
    """
    if isinstance(layer, nn.Linear):
        return output.reshape(1, -1, output.shape[-1])
    batch = output if output.ndim == len(layer.kernel_size) + 2 else output[None]
    channels = batch.transpose(0, 1).reshape(groups(layer), layer.out_channels // groups(layer), -1)
    return channels.transpose(1, 2)


def input_rows(layer: Truncatable, value: Tensor, output: Tensor) -> Float[Tensor, "groups rows inputs"]:
    """Return the vectors that the matrices of a layer multiply, one row for each sample and output position.

    Args:
        layer: the layer.
        value: an input of the layer.
        output: the output of the layer for this input, of which only the shape is used.

    Returns:
        A tensor of shape (groups, rows, inputs of a group times entries of the kernel), in the order of `output_rows`:
        the output is `input_rows(layer, value, output) @ matrices(layer).mT` plus the bias.
    """
    if isinstance(layer, nn.Linear):
        return value.reshape(1, -1, value.shape[-1])
    axes = len(layer.kernel_size)
    batch = value if value.ndim == axes + 2 else value[None]
    batch = _padded(layer, batch) if is_conv(layer) else _spread(layer, batch, output.shape[-axes:])
    for axis in range(axes):
        stride = 1 if is_conv_transpose(layer) else layer.stride[axis]
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        batch = batch.unfold(2 + axis, reach, stride)[..., :: layer.dilation[axis]]
    if is_conv_transpose(layer):
        batch = batch.flip(tuple(range(-axes, 0)))  # the kernel runs against the positions
    count = groups(layer)
    # (batch, channels, *positions, *kernel) -> (groups, batch and positions, channels of a group and kernel)
    parts = batch.reshape(len(batch), count, -1, *batch.shape[2:])
    order = (1, 0, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
    return parts.permute(order).flatten(1, 1 + axes).flatten(2)


def _padded(layer: Conv, batch: Tensor) -> Tensor:
    """Return the input of a convolution with the padding that the layer adds."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    widths = layer._reversed_padding_repeated_twice
    return nn.functional.pad(batch, list(widths), mode=mode) if any(widths) else batch


def _spread(layer: Conv | ConvTranspose, batch: Tensor, places: Sequence[int]) -> Tensor:
    """Return the input of a transposed convolution with zeros between and around its values.

    A plain convolution of stride 1 with the flipped kernel then gives the output of the layer, of the sizes `places`.
    """
    axes = len(layer.kernel_size)
    sizes = [(n - 1) * s + 1 for n, s in zip(batch.shape[2:], layer.stride, strict=True)]
    wide = batch.new_zeros(*batch.shape[:2], *sizes)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in layer.stride))] = batch
    widths: list[int] = []
    for axis in reversed(range(axes)):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        before = reach - int(layer.padding[axis])
        widths += [before, places[axis] + reach - before - sizes[axis]]
    return nn.functional.pad(wide, widths)


def in_parts(layer: Truncatable, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield an input and outputs of a layer in parts of the batch, so that `input_rows` of a part takes little memory.

    A convolution's rows repeat each input once for every entry of the kernel.

    Args:
        layer: the layer.
        *tensors: an input of the layer and outputs for it, with one batch axis each; the last is an output.

    Yields:
        The parts of all tensors for some samples. Inputs of a Linear layer, and those without a batch, come whole.
    """
    output = tensors[-1]
    if isinstance(layer, nn.Linear) or output.ndim != len(layer.kernel_size) + 2:
        yield tensors
        return
    entries = matrices(layer).shape[2] * groups(layer) * output[:1, 0].numel()
    yield from zip(*(x.split(max(MOST_ENTRIES // max(entries, 1), 1)) for x in tensors), strict=True)


def positions(layer: Truncatable, output: Tensor) -> int:
    """Return the number of output vectors of a layer in an output, over samples and places."""
    width = output.shape[-1] if isinstance(layer, nn.Linear) else layer.out_channels
    return output.numel() // max(width, 1)
